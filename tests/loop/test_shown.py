"""Samples in the run folder are what the saved model says, beside what the data says."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import Sampling
from prefloop.loop import shown
from prefloop.models.load import load_policy, load_reward_model
from prefloop.models.packing import pack
from prefloop.rollout.sampler import sample
from prefloop.text import decode_completion, load_tokenizer, stop_token_ids
from prefloop.text.groups import Group
from tests.algorithms.small import BRIEF, CPU, SAMPLE, metrics_of, settings, train


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The last step's samples."""
    step = metrics_of(run)[-1]["step"]
    return [json.loads(line) for line in (run / f"samples/step-{step}.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("name", "beside"), [("sft", "demonstration"), ("dpo", "chosen"), ("dpo_lora", "chosen")]
)
def test_completions_are_the_saved_policys(name: str, beside: str, unbroken: Callable[[str], Path]) -> None:
    assert_said(unbroken(name), beside, most=BRIEF)


def test_completions_go_on_while_there_is_room(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the program's length, which other tests cut: this model does not end by itself."""
    monkeypatch.setattr(shown, "sample", SAMPLE)
    assert_said(train(settings("pretrain", project, out="shown-whole")).parent, "text", most=64)


def assert_said(run: Path, beside: str, *, most: int) -> None:
    """The rows of a run's last step hold what its model says, in at most so many tokens."""
    tokenizer = load_tokenizer(str(run / "final"))
    policy = load_policy(str(run / "final"), CPU)
    rows = rows_of(run)
    assert 0 < len(rows) <= 8
    prompts = [tokenizer(row["prompt"], add_special_tokens=False)["input_ids"] for row in rows]
    with policy.active() as model:
        drawn = sample(
            model,
            prompts,
            k=1,
            stop_ids=stop_token_ids(tokenizer),
            sampling=Sampling(max_new_tokens=min(most, 64 - max(map(len, prompts))), batch_size=8),
            seed=3,
            row_keys=range(len(prompts)),
        )
    for row, [said] in zip(rows, drawn, strict=True):
        assert row["completion"] == decode_completion(tokenizer, said.tokens)
        assert row["ended"] == said.ended
        assert row[beside]


def test_scores_are_the_saved_reward_models(unbroken: Callable[[str], Path]) -> None:
    run = unbroken("reward")
    tokenizer = load_tokenizer(str(run / "final"))
    reward_model = load_reward_model(str(run / "final"), CPU)
    rows = rows_of(run)
    assert rows
    for row in rows:
        prompt = tokenizer(row["prompt"], add_special_tokens=False)["input_ids"]
        sides = [tokenizer(one["text"], add_special_tokens=False)["input_ids"] for one in row["completions"]]
        assert len(sides) == 2
        ids = [[*side, *stop_token_ids(tokenizer)[:1]] for side in sides]
        group = Group(prompt=prompt, completions=tuple(ids), masks=tuple([True] * len(side) for side in ids))
        scores = reward_model(pack([group])).tolist()
        assert scores == pytest.approx([one["score"] for one in row["completions"]], abs=1e-3)
