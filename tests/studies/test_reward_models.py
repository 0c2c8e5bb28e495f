"""The study of reward models: what it reads, how labels are made, and its smallest size on a model of one layer."""

import json
from pathlib import Path

import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.errors import InputError
from prefloop.records import Comparison, Prompt
from prefloop.studies.reward_training import LONGER, SHORTER, about_length, flipped, read_set
from prefloop.studies.run import study
from tests.studies.made_up import write_comparisons
from tests.tiny_project import make_model

PAIRS = [
    Comparison(prompt=Prompt(content=f"{n}"), chosen="a" * (n % 5 + 1), rejected="bb" * (n % 3 + 1))
    for n in range(200)
]


def test_so_many_labels_are_flipped_and_no_pair_is_lost() -> None:
    noisy = flipped(PAIRS, 0.25, seed=0)
    turned = [one == pair.swap() for one, pair in zip(noisy, PAIRS, strict=True)]
    assert 30 < sum(turned) < 70
    assert all(one == pair or one == pair.swap() for one, pair in zip(noisy, PAIRS, strict=True))


def test_the_context_decides_which_length_is_chosen() -> None:
    said = about_length(PAIRS, seed=0, said=True)
    assert {one.context for one in said} == {SHORTER, LONGER}
    for one in said:
        assert (len(one.chosen) < len(one.rejected)) == (one.context == SHORTER)
        assert one.opposite_context != one.context
    unsaid = about_length(PAIRS, seed=0, said=False)
    assert [one.chosen for one in unsaid] == [one.chosen for one in said]
    assert not any(one.context for one in unsaid)


def test_long_completions_are_left_out_and_prompts_are_parted(tmp_path: Path) -> None:
    data, model = write_comparisons(tmp_path / "data"), str(make_model(tmp_path / "model"))
    everything = read_set(str(data), "alpaca-eval", model, tokens=100, heldout=0.3)
    short = read_set(str(data), "alpaca-eval", model, tokens=15, heldout=0.3)
    assert sum(map(len, everything)) == 40
    assert 0 < sum(map(len, short)) < 40
    assert not {one.prompt for one in everything[0]} & {one.prompt for one in everything[1]}
    with pytest.raises(InputError, match=r"comparisons\.jsonl\.gz: there is no such file"):
        read_set(str(tmp_path), "alpaca-eval", model, tokens=100, heldout=0.3)


def test_the_smallest_size_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    data, model = write_comparisons(tmp_path / "data"), make_model(tmp_path / "model")
    given = StudyConfig(
        name="reward_models",
        size="smallest",
        jobs=1,
        seeds=1,
        out=str(tmp_path / "out"),
        data=str(data),
        model=str(model),
    )
    assert study(given) == 0
    found = json.loads((tmp_path / "out/study.json").read_text())
    assert len(found["findings"]) == 9
    for row in found["tables"][2]:
        assert 0 <= row["accuracy, %"]["value"] <= 100, row
    assert "--data DATA --model MODEL" in (tmp_path / "out/study.md").read_text()


def test_a_study_that_starts_from_a_model_asks_for_one(tmp_path: Path) -> None:
    told = "model is '', which is not a folder; the study reward_models starts from a chat"
    with pytest.raises(InputError, match=told):
        study(StudyConfig(name="reward_models", out=str(tmp_path / "out"), data=str(tmp_path)))
    with pytest.raises(InputError, match="the study rounds starts from none; leave it out"):
        study(StudyConfig(name="rounds", out=str(tmp_path / "out"), model=str(tmp_path)))
