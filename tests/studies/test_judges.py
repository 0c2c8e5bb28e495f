"""The study of AI judges: orders and labels are the right way round, bias is measured as planted, and its smallest size runs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.errors import InputError
from prefloop.feedback.judges.judge import JudgeSettings, PairJudge
from prefloop.records import Comparison, Message, Prompt
from prefloop.studies import judges
from prefloop.studies.judges import (
    LENGTH,
    PEOPLE,
    PROMPTED,
    Forced,
    JudgesSettings,
    Opinion,
    by_scores,
    cells,
    drawn,
    measured,
    name_of,
    opinion_of,
    prepare,
    work,
)
from prefloop.studies.run import study
from prefloop.studies.study import Place
from tests.studies.made_up import write_comparisons
from tests.tiny_project import make_model

LENGTHS = np.array([[5.0, 3.0], [5.0, 3.0], [2.0, 4.0], [3.0, 3.0]])
"""The longer one is chosen twice, the shorter one once; of equal length once."""


class Scripted:
    """A model whose probabilities of 1 and 2 depend on the two answers it is shown."""

    identity: Mapping[str, Any] = {"script": 1}

    def __init__(self, script: Any) -> None:
        self._script = script

    def probabilities(self, asked: Sequence[Sequence[Message]], answers: Sequence[str]) -> list[list[float]]:
        """Both answers are cut out of the question."""
        assert tuple(answers) == ("1", "2")
        found = []
        for messages in asked:
            text = messages[-1].content
            first, second = (text.split(f"<answer-{n} ")[1].split("</answer")[0] for n in (1, 2))
            found.append(list(self._script(first, second)))
        return found


def test_each_orders_opinion_is_found_again_in_the_averaged_verdict() -> None:
    """0.6 of 0.8 for the chosen one when it is first; 0.3 of 0.4 against it when it is second. The masses are of the same questions."""

    def script(first: str, second: str) -> tuple[float, float]:
        return (0.6, 0.2) if "good" in first else (0.3, 0.1)

    model = Forced(Scripted(script))
    verdict = PairJudge(model, JudgeSettings(mode="logprobs")).compare(Prompt(content="Q"), "good", "bad")
    found = opinion_of(verdict)
    assert (found.first, found.second) == pytest.approx((0.75, 0.25))
    assert found.both == pytest.approx(0.5)
    assert model.masses == pytest.approx([0.8, 0.4])


def test_a_model_that_gives_no_digit_any_probability_says_neither() -> None:
    judge = PairJudge(Forced(Scripted(lambda *_: (0.0, 0.0))), JudgeSettings(mode="logprobs", seed=1))
    verdict = judge.compare(Prompt(content="Q"), "good", "bad")
    assert (verdict.probability, verdict.first_shown) == (0.5, 0.5)


def test_a_judge_of_position_alone() -> None:
    """Whatever is first is better: with one order half is right, and everything changes with the order; averaged, weak opinions decide."""
    found = measured([Opinion(first=0.9, second=0.2), Opinion(first=0.9, second=0.05)] * 2, LENGTHS)
    assert found["agreement, one order"] == 50
    assert (found["changed"], found["first chosen"]) == (100, 100)
    assert found["longer, one order"] == 50
    assert found["agreement, both orders"] == 50
    # Averaged, the chosen one is better in the first and third comparison: longer, and shorter.
    assert found["longer, both orders"] == pytest.approx(100 / 3)
    assert found["kappa, one order"] == pytest.approx(0)


def test_a_judge_that_prefers_what_is_shown_last() -> None:
    assert measured([Opinion(first=0.1, second=0.8)] * 4, LENGTHS)["first chosen"] == 0


def test_length_alone_agrees_often_and_has_no_kappa() -> None:
    found = measured(by_scores(LENGTHS), LENGTHS)
    assert found["agreement, both orders"] == found["agreement, one order"] == pytest.approx(62.5)
    assert found["longer, both orders"] == 100
    assert found["longer, given"] == pytest.approx(200 / 3)
    assert (found["changed"], found["first chosen"]) == (0, 50)
    assert found["kappa, both orders"] == pytest.approx(0)


def test_kappa_by_hand() -> None:
    """Given: longer, longer, shorter. Said: longer, shorter, shorter. Observed 2/3; by chance 1/3 · 2/3 + 2/3 · 1/3 = 4/9; so (2/3 - 4/9) / (5/9) = 0.4."""
    said = [Opinion(first=x, second=x) for x in (1.0, 0.0, 1.0, 1.0)]
    found = measured(said, LENGTHS)
    assert found["kappa, both orders"] == found["kappa, one order"] == pytest.approx(0.4)
    assert found["agreement, both orders"] == 75


def test_seeds_share_no_prompt_and_the_reward_model_sees_none_of_theirs() -> None:
    records = [
        Comparison(prompt=Prompt(content=f"{n % 30}"), chosen=f"{n}", rejected="no") for n in range(90)
    ]
    by_seed = [drawn(records, 10, seed) for seed in range(3)]
    prompts = [{one.prompt for one in own} for own, _ in by_seed]
    assert [len(one) for one in prompts] == [10, 10, 10]
    assert len(set.union(*prompts)) == 30
    for own, (_, rest) in zip(prompts, by_seed, strict=True):
        assert len(rest) == 60
        assert not own & {one.prompt for one in rest}
    with pytest.raises(InputError, match="comparisons is 10, but there are 30 prompts"):
        drawn(records, 10, 3)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A seed with what it shares."""
    folder = tmp_path_factory.mktemp("judges")
    for name in ("prepared", "own"):
        (folder / name).mkdir()
    found = Place(
        seed=0,
        folder=folder / "own",
        prepared=folder / "prepared",
        data=str(write_comparisons(folder / "data")),
        model=str(make_model(folder / "model")),
    )
    prepare(SMALL, found)
    return found


SMALL = JudgesSettings(comparisons=10, tokens=40, prompt_tokens=100, dtype="float32")


def judged(place: Place, script: Any, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """What the prompted judge of people's comparisons comes to with a scripted model. The polite answers are chosen there."""
    monkeypatch.setattr(judges, "LocalChat", lambda *_: Scripted(script))
    cell = next(cell for cell in cells(SMALL) if cell.name == name_of(PEOPLE, PROMPTED))
    return work(SMALL, cell, place)


def test_a_judge_of_manners_agrees_with_people(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def polite(first: str, second: str) -> tuple[float, float]:
        return (0.5, 0.1) if "yes" in first else (0.1, 0.5)

    found = judged(place, polite, monkeypatch)
    for what in ("agreement, one order", "agreement, both orders"):
        assert found[what] == 100
    assert (found["changed"], found["first chosen"]) == (0, 50)
    assert found["digit"] == pytest.approx(60)
    assert found["unreadable"] == 0
    assert found["count"] == 40
    rude = judged(place, lambda a, b: polite(b, a), monkeypatch)
    assert rude["agreement, both orders"] == 0


def test_a_judge_of_position_is_seen_as_one(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    found = judged(place, lambda *_: (0.03, 0.01), monkeypatch)
    assert (found["agreement, one order"], found["agreement, both orders"]) == (50, 50)
    assert (found["changed"], found["first chosen"], found["unreadable"]) == (100, 100, 100)


def test_the_longer_one_is_judged_by_tokens(place: Place) -> None:
    cell = next(cell for cell in cells(SMALL) if cell.name == name_of(PEOPLE, LENGTH))
    found = work(SMALL, cell, place)
    assert found["longer, both orders"] == 100
    assert found["longer, given"] > 50  # `yes please` is longer than `no`


def test_the_smallest_size_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    given = StudyConfig(
        name="judges",
        size="smallest",
        jobs=1,
        out=str(tmp_path / "out"),
        data=str(write_comparisons(tmp_path / "data")),
        model=str(make_model(tmp_path / "model", positions=1024)),
    )
    assert study(given) == 0
    found = json.loads((tmp_path / "out/study.json").read_text())
    assert len(found["findings"]) == 7
    agreement, bias, read = found["tables"]
    assert len(agreement) == len(bias) == 10
    for row in agreement:
        assert 0 <= row["both orders, %"]["value"] <= 100, row
    for row in bias:
        if row["judge"] != PROMPTED:
            assert row["changes with the order, %"]["value"] == 0
            assert row["chooses the first shown, %"]["value"] == 50
    assert [row["in the file"] for row in read] == [40, 40]
    assert [row["judged, all seeds"] for row in read] == [12, 12]
