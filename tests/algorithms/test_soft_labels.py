"""Stages train on `p_soft` as they are told, or refuse it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from prefloop.algorithms import prefer, reward
from prefloop.configs.common import Data, RunSettings
from prefloop.configs.reward import RewardConfig
from prefloop.errors import InputError
from tests.algorithms.prefer_settings import SMOOTH, prefer_settings
from tests.algorithms.small import assert_close, metrics_of, write
from tests.algorithms.tiny import CPU, pairs


def rows_of(folder: Path) -> list[dict[str, Any]]:
    file = pairs(folder / "hard.jsonl", 24)
    return [json.loads(line) for line in file.read_text().splitlines()]


def turned(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same labels said the other way round."""
    return [
        row | {"chosen": row["rejected"], "rejected": row["chosen"], "p_soft": 1 - row["p_soft"]}
        for row in rows
    ]


def source(folder: Path, name: str, rows: Sequence[dict[str, Any]]) -> Data:
    write(folder / f"{name}.jsonl", rows)
    return Data(source=str(folder / f"{name}.jsonl"), heldout=0.25)


def run(project: Path, out: Path, data: Data, loss: str) -> Path:
    """Three steps of the reward model's loss, or of an objective."""
    if loss == "bradley_terry":
        settings = RewardConfig(
            run=RunSettings(out=str(out), seed=2), data=data, model=str(project / "start"), batch_size=9,
            epochs=0.0, max_steps=3, optim=SMOOTH, compute=CPU, label_smoothing=0.1,
        )  # fmt: skip
        reward.train(settings)
    else:
        prefer.train(prefer_settings(project, out, loss, data=data, epochs=0.0, max_steps=3, optim=SMOOTH))
    return out


@pytest.mark.parametrize("loss", ["bradley_terry", "dpo", "ipo_mean", "sppo_hard"])
def test_a_label_said_the_other_way_round_trains_the_same(loss: str, project: Path, tmp_path: Path) -> None:
    rows = [row | {"p_soft": (0.9, 0.5, 0.3)[at % 3]} for at, row in enumerate(rows_of(tmp_path))]
    hard = run(project, tmp_path / "a", source(tmp_path, "hard", rows_of(tmp_path)), loss)
    one = run(project, tmp_path / "b", source(tmp_path, "one", rows), loss)
    other = run(project, tmp_path / "c", source(tmp_path, "other", turned(rows)), loss)
    losses = [[row["loss"] for row in metrics_of(out)] for out in (hard, one, other)]
    assert losses[1] == pytest.approx(losses[2], rel=1e-5)
    assert losses[1][-1] != pytest.approx(losses[0][-1], rel=1e-6)


def test_certain_labels_train_as_plain_ones(project: Path, tmp_path: Path) -> None:
    plain = run(project, tmp_path / "a", source(tmp_path, "plain", rows_of(tmp_path)), "dpo")
    ones = [row | {"p_soft": 1.0} for row in rows_of(tmp_path)]
    same = run(project, tmp_path / "b", source(tmp_path, "ones", ones), "dpo")
    assert_close(plain, same, tolerance=0)


@pytest.mark.parametrize("loss", ["simpo", "hinge", "sft"])
def test_objectives_without_a_meaning_for_it_refuse(loss: str, project: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path)
    rows[3]["p_soft"] = 0.8
    with pytest.raises(InputError, match=rf"p_soft is 0.8 \(1 comparisons.*loss {loss}.*use one of dpo"):
        run(project, tmp_path / "out", source(tmp_path, "soft", rows), loss)


def test_other_reward_losses_and_labels_refuse(project: Path, tmp_path: Path) -> None:
    rows = [row | {"p_soft": 0.8} for row in rows_of(tmp_path)]
    data = source(tmp_path, "soft", rows)
    settings = RewardConfig(
        run=RunSettings(out=str(tmp_path / "out")), data=data, model=str(project / "start"),
        loss="token_level", max_steps=1, compute=CPU,
    )  # fmt: skip
    with pytest.raises(InputError, match="loss token_level cannot use one; use bradley_terry"):
        reward.train(settings)
    with pytest.raises(InputError, match="from_comparisons makes good and bad"):
        prefer.train(prefer_settings(project, tmp_path / "kto", "kto", data=data, from_comparisons=True))
