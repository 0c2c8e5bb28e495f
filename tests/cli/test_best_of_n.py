"""`prefloop best_of_n`: what is chosen, what is written, and what it is expected to gain."""

import json
import math
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from prefloop.cli.best_of_n import best
from prefloop.configs.best_of_n import BestOfNConfig
from prefloop.configs.common import Data, Sampling
from prefloop.configs.scorers import Combining
from prefloop.data import load_comparisons, load_demonstrations
from prefloop.errors import InputError
from prefloop.evaluation.best_of_n import choose, draw_and_score
from prefloop.evaluation.reward_model_quality import best_of_n
from prefloop.records import Prompt
from prefloop.rollout import Rollout
from prefloop.runtime import start_world
from prefloop.text.groups import Group
from tests.algorithms.small import make_project
from tests.algorithms.tiny import CPU


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_project(tmp_path_factory.mktemp("best") / "project")


def vowels(prompt: Prompt, completion: str) -> float:
    """A gold judge."""
    return float(sum(c in "aeiou" for c in completion))


def settings(project: Path, out: Path, more: Mapping[str, object] = {}, **changes: object) -> BestOfNConfig:
    basic: dict[str, object] = {
        "model": str(project / "start"),
        "data": Data(source=str(project / "prompts.jsonl"), heldout=0.0),
        "reward_model": "tests.algorithms.small:short_is_good",
        "out": str(out),
        "completions_per_prompt": 6,
        "sampling": Sampling(max_new_tokens=8),
        "compute": CPU,
    }
    return BestOfNConfig(**{**basic, **more, **changes})  # pyright: ignore[reportArgumentType]


def rollout(texts: list[list[str]]) -> Rollout:
    group = Group(prompt=[1], completions=([2],), masks=([True],))
    return Rollout(
        prompts=tuple(Prompt(content=str(i)) for i in range(len(texts))),
        groups=[group] * len(texts),
        texts=texts,
        ended=[[True] * len(row) for row in texts],
        sampler_logprobs=[[[0.0]] * len(row) for row in texts],
        versions=[[[0]] * len(row) for row in texts],
    )


def test_best_and_worst_by_hand() -> None:
    texts = [["a", "b", "c"], ["d", "e", "d"], ["", "f", "g"], ["h", "", "i"]]
    scores = np.array([[0.0, 2.0, -1.0], [1.0, 1.0, 1.0], [5.0, 1.0, 2.0], [1.0, -3.0, 0.0]])
    chosen = choose(rollout(texts), scores)
    assert [(d.prompt.content, d.completion) for d in chosen.demonstrations] == [
        ("0", "b"),
        ("1", "d"),
        ("3", "h"),
    ]
    assert [(c.chosen, c.rejected, c.margin) for c in chosen.comparisons] == [("b", "c", 3.0)]
    assert (chosen.empty, chosen.equal) == (1, 3)


def test_the_command_writes_what_it_says(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The curve at n = N is the mean of what is chosen; at any n the mean over all subsets; gold never above the best there is."""
    file = best(settings(project, tmp_path / "out", gold="tests.cli.test_best_of_n:vowels"))
    curve = json.loads((tmp_path / "out/best_of_n.json").read_text())
    points = {point["n"]: point for point in curve["points"]}
    assert list(points) == [1, 2, 4, 6]
    assert points[4]["kl"] == pytest.approx(math.log(4) - 3 / 4)
    proxies = [points[n]["proxy"]["value"] for n in points]
    assert proxies == sorted(proxies)
    assert proxies[-1] > proxies[0]
    demonstrations = load_demonstrations(file).records
    pairs = load_comparisons(tmp_path / "out/comparisons.jsonl").records
    assert 0 < len(pairs) <= len(demonstrations) <= 7
    assert all(pair.margin > 0 for pair in pairs)
    said = capsys.readouterr().out
    assert "KL at most" in said
    assert "left out" in said


def test_the_curve_is_the_mean_over_all_subsets(project: Path, tmp_path: Path) -> None:
    """Drawn again by hand: the same seed gives the same completions, whose subsets are enumerated."""
    config = settings(project, tmp_path / "out")
    asked = tuple(Prompt(content=text) for text in ("sun", "a", "rain or"))
    drawn, proxy, disagreement = draw_and_score(config, asked, start_world("cpu"))
    assert disagreement == 0
    table = proxy.reshape(3, 6)
    for point in best_of_n(table, None, ns=[1, 2, 3, 6]):
        brute = np.mean([[max(part) for part in combinations(row, point.n)] for row in table])
        assert point.proxy.value == pytest.approx(brute)
        assert point.gold is None
    assert len(drawn) == 18


def test_scorers_are_combined_as_everywhere(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = f"{project / 'reward/final'},{project / 'reward_lora/final'}"
    best(settings(project, tmp_path / "out", reward_model=two, reward=Combining(combine="worst")))
    assert "the scorers disagree by" in capsys.readouterr().out
    assert json.loads((tmp_path / "out/best_of_n.json").read_text())["disagreement"] > 0


def test_settings_that_choose_nothing_are_refused(project: Path, tmp_path: Path) -> None:
    for changes, said in (
        ({"completions_per_prompt": 1}, "no choice"),
        ({"sampling": Sampling(temperature=0.0)}, "greedy"),
        ({"out": ""}, "out is empty"),
    ):
        with pytest.raises(InputError, match=said):
            settings(project, tmp_path / "out", changes)
