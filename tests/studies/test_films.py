"""The studies on film reviews: what an annotator says, what policies learn of it and are measured by, and their smallest sizes on made-up reviews."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.data import write_jsonl
from prefloop.records import Prompt
from prefloop.studies import film_preferences
from prefloop.studies.film_frontier import FilmFrontierSettings, best_of_n
from prefloop.studies.film_objectives import win_rate
from prefloop.studies.film_preferences import (
    COMPARED,
    RANKED,
    SCORED,
    Judged,
    PreferenceFilms,
    PreferenceSettings,
    TrueReward,
    answer,
    comparisons_of,
    fit_reward_model,
    heldout_prompts,
    judge_drawn,
    learn_offline,
    learn_online,
    prepare_preferences,
    rankings_of,
    scores_of,
)
from prefloop.studies.film_rounds import agreement
from prefloop.studies.films import Completions, Films, draw, read_prompts
from prefloop.studies.run import study
from prefloop.studies.study import Place

pytest.importorskip("pyarrow", reason="the extra `data` is not installed")
pytest.importorskip("sklearn", reason="the extra `imdb` is not installed")

from tests.recipes.test_imdb import reviews  # it skips its own tests where pyarrow is missing

PROMPT = Prompt(content="This film")
SETTINGS = PreferenceSettings(
    reviews=300,
    width=8,
    layers=1,
    vocabulary=300,
    pretraining=20,
    opening=3,
    tokens=8,
    drawn=20,
    batch=8,
    online_batch=8,
    reward_epochs=1.0,
)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> PreferenceFilms:
    """A world whose annotator has judged four continuations of each of some openings."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("films")
    place = Place(seed=0, folder=folder, prepared=folder, data=str(reviews(folder, 300)))
    found = Films(settings=SETTINGS, place=place)
    prepare_preferences(found)
    judged = judge_drawn(found, found.pretrained, read_prompts(found, "openings")[:24], k=4, seed=0)
    for name, records in (
        (COMPARED, comparisons_of(judged)),
        (RANKED, rankings_of(judged)),
        (SCORED, scores_of(judged)),
    ):
        write_jsonl(records, found.file(name))
    return found


def test_comparisons_rankings_and_scores_say_the_same() -> None:
    one = Judged(prompt=PROMPT, texts=("a", "b", "c", "d"), seen=(0.1, 0.4, 0.3, -1.0))
    first, second = comparisons_of([one])
    assert (first.chosen, first.rejected) == ("b", "a")
    assert (second.chosen, second.rejected) == ("c", "d")
    assert rankings_of([one])[0].completions == ("b", "c", "a", "d")
    assert {score.completion: score.value for score in scores_of([one])} == {
        "a": 0.1,
        "b": 0.4,
        "c": 0.3,
        "d": -1.0,
    }


def test_the_annotator_errs_as_bradley_and_terry_say(
    films: PreferenceFilms, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [["good", "bad"]] * 4000 + [["same", "same"], [" ", "bad"]]

    def drawn(
        model: str, prompts: Sequence[Prompt], films: PreferenceFilms, *, k: int, seed: int
    ) -> Completions:
        return Completions(groups=[], texts=texts)

    class Reward(TrueReward):
        def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
            return [0.6 if text == "good" else 0.0 for text in completions]

    monkeypatch.setattr(film_preferences, "draw", drawn)
    monkeypatch.setattr(film_preferences, "TrueReward", Reward)
    judged = judge_drawn(films, "", [PROMPT] * len(texts), k=2, seed=1)
    assert len(judged) == 4000  # without the twins and the empty one
    share = np.mean([one.chosen == "good" for one in comparisons_of(judged)])
    expected = 1 / (1 + math.exp(-0.6 / SETTINGS.temperature))
    assert share == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / 4000))


def test_the_true_reward_is_in_the_reference_s_standard_deviations(films: PreferenceFilms) -> None:
    prompts = heldout_prompts(films)
    texts = draw(films.pretrained, prompts, films, k=4).texts
    gold = np.array(
        [TrueReward.of(films)([prompt] * 4, own) for prompt, own in zip(prompts, texts, strict=True)]
    )
    assert gold.mean() == pytest.approx(0, abs=1e-6)
    assert gold.std() == pytest.approx(1, abs=1e-6)
    reference = answer(films, films.pretrained)
    assert reference.kl.max() == 0
    assert reference.gold.shape == (len(prompts), SETTINGS.answers)


@pytest.mark.parametrize(
    ("objective", "file"),
    [("dpo", COMPARED), ("kto", COMPARED), ("pl_dpo", RANKED), ("dro", SCORED), ("sft", COMPARED)],
)
def test_policies_learn_from_every_kind_of_data(
    films: PreferenceFilms, tmp_path: Path, objective: str, file: str
) -> None:
    own = Films(
        settings=SETTINGS, place=Place(seed=0, folder=tmp_path, prepared=films.place.prepared, data="")
    )
    model = learn_offline(own, objective, str(films.file(file)), {}, epochs=1, ranked=4)
    assert answer(own, model).kl.mean() > 1e-6
    judged = 4 * len(films.file(RANKED).read_text().splitlines())
    assert _steps(tmp_path / "prefer") == math.ceil(judged / SETTINGS.batch)


def _steps(run: Path) -> int:
    """That a run took."""
    return max(int(folder.name.removeprefix("step-")) for folder in (run / "checkpoints").iterdir())


@pytest.mark.parametrize("method", ["ppo", "grpo", "rloo"])
def test_policies_learn_from_a_true_or_a_learned_reward(
    films: PreferenceFilms, tmp_path: Path, method: str
) -> None:
    own = Films(
        settings=SETTINGS, place=Place(seed=0, folder=tmp_path, prepared=films.place.prepared, data="")
    )
    reward_model = fit_reward_model(own, str(films.file(COMPARED))) if method == "ppo" else ""
    model = learn_online(own, method, steps=2, kl=0.1, reward_model=reward_model)
    assert answer(own, model).kl.mean() > 1e-6


def test_the_best_of_more_is_better_by_what_chooses(films: PreferenceFilms, tmp_path: Path) -> None:
    settings = FilmFrontierSettings(**{**asdict(SETTINGS), "ns": (1, 2, 4)})
    place = Place(seed=0, folder=tmp_path, prepared=films.place.prepared, data="")
    own = Films(settings=settings, place=place)
    reward_model = fit_reward_model(own, str(films.file(COMPARED)))
    for gold, by in ((True, "gold"), (False, "proxy")):
        points = best_of_n(own, reward_model, gold=gold)
        values = [point[by] for point in points]
        assert values == sorted(values)
        assert values[2] > values[0] + 0.3
        assert [point["kl"] for point in points] == pytest.approx([0, math.log(2) - 0.5, math.log(4) - 0.75])
    every = best_of_n(own, reward_model, gold=True)[0]
    assert every["gold"] == pytest.approx(best_of_n(own, reward_model, gold=False)[0]["gold"])


def test_win_rates_are_of_all_pairs_and_ties_a_half() -> None:
    one, other = np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([[2.0, 1.0], [0.0, -1.0]])
    assert win_rate(one, other) == pytest.approx((0 + 0.5 + 1 + 1 + 0.5 + 1 + 0.5 + 1) / 8)
    assert win_rate(one, one) == 0.5


def test_a_reward_model_agrees_where_it_orders_as_the_true_reward_does() -> None:
    gold = np.array([[0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [3.0, 0.0]])
    scores = np.array([[0.0, 5.0], [0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    assert agreement(scores, gold) == pytest.approx((1 + 0 + 0.5) / 3)  # the third has no order


def _smallest(name: str, tmp_path: Path) -> Any:
    torch.set_num_threads(1)
    data = reviews(tmp_path, 300).parent  # a folder, as a study wants it
    out = tmp_path / "out"
    given = StudyConfig(name=name, size="smallest", jobs=1, seeds=1, out=str(out), data=str(data))
    assert study(given) == 0
    assert (out / "figure.svg").read_text().startswith("<svg")
    return json.loads((out / "study.json").read_text())


def test_the_smallest_frontier_runs(tmp_path: Path) -> None:
    found = _smallest("film_frontier", tmp_path)
    rows = {row["method"]: row for row in found["tables"][0]}
    methods = ["dpo", "ipo", "kto", "simpo", "ppo", "grpo", "rloo", "ppo, true reward"]
    assert list(rows) == ["best of n", "best of n, true reward", *methods]
    by_gold, by_model = (rows[name]["true reward at KL 0.5"] for name in list(rows)[1::-1])
    assert by_gold["value"] > by_model["value"]
    for method in methods:
        assert rows[method]["at KL"]["value"] > 0, method


def test_the_smallest_rounds_run(tmp_path: Path) -> None:
    found = _smallest("film_rounds", tmp_path)
    assert [row["policy"] for row in found["tables"][1]] == ["reference", "round 1", "round 2", "one shot"]
    assert all(row["KL"]["value"] > 0 for row in found["tables"][0])


def test_the_smallest_objectives_run(tmp_path: Path) -> None:
    found = _smallest("film_objectives", tmp_path)
    rows = {row["objective"]: row for row in found["tables"][0]}
    assert rows.keys() == {"dpo", "sppo_soft"}
    assert rows["sppo_soft"]["KL, tuned"]["value"] > 0
    assert 0 < rows["sppo_soft"]["win rate against DPO, both tuned, %"]["value"] < 100
