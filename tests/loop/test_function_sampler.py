"""A sampler of a user's own draws the completions that a run learns from, and is told what is wrong with what it returns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.api.given import settings_from
from prefloop.configs.common import Sampling
from prefloop.configs.critic_free import GRPOConfig
from prefloop.configs.engine import Importance
from prefloop.configs.own_samples import ExpertConfig
from prefloop.configs.ppo import NLPOConfig
from prefloop.errors import InputError
from prefloop.loop.function_sampler import Checks
from prefloop.rollout import Sampled, sample
from tests.algorithms.tiny import logged, prompts
from tests.tiny_project import make_model

CHECKS = Checks(what="sampler mine:f", stop_ids=frozenset({2}), limit=3, vocabulary=10)
GOOD = ([4, 2], [-1.0, -0.5])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("sampler")
    make_model(folder / "start", chat=False)
    prompts(folder / "words.jsonl", count=4)
    return folder


BASIC: dict[str, Any] = {
    "sampling": {"max_new_tokens": 4},
    "steps": 2,
    "batch_prompts": 2,
    "completions_per_prompt": 2,
    "run.tune": False,
    "compute": {"device": "cpu"},
    "reward_model": "tests.algorithms.tiny:small_letters",
}


def given(project: Path, out: Path, **more: Any) -> dict[str, Any]:
    data = {"source": str(project / "words.jsonl"), "heldout": 0.0}
    return BASIC | {"model": project / "start", "data": data, "out": out} | more


def grpo(project: Path, out: Path, **more: Any) -> GRPOConfig:
    settings = given(project, out, **{"optim.lr": 1e-2, "old_logprobs": "policy"} | more)
    return settings_from(GRPOConfig, settings, stage="grpo")


def test_the_usual_sampler_given_by_value_is_the_usual_run(project: Path, tmp_path: Path) -> None:
    calls: list[int] = []

    def mine(model: Any, prompts: Any, **given: Any) -> Any:
        calls.append(len(prompts))
        drawn = sample(model, prompts, **given)
        return [tuple((torch.tensor(one.tokens), one.logprobs) for one in row) for row in drawn]

    usual = logged(grpo(project, tmp_path / "usual"))
    config = replace(grpo(project, tmp_path / "own", sampler=mine), importance=Importance(rule="off"))
    own = logged(config)
    assert calls == [2, 2]
    assert [(row["loss"], row["score"]) for row in own] == [(row["loss"], row["score"]) for row in usual]
    assert (tmp_path / "own/final/config.json").exists()
    drawn = [[Sampled(tokens=[5], logprobs=[-1.0], ended=False)] * 2]
    with pytest.raises(
        InputError,
        match="returned a list of 1; it must return a list with the completions of each of 2 prompts",
    ):
        logged(grpo(project, tmp_path / "short", sampler=lambda model, prompts, **given: drawn))
    with pytest.raises(InputError, match=r"KeyError.*correct the function"):
        logged(grpo(project, tmp_path / "raises", sampler=lambda model, prompts, **given: given["n"]))


def test_a_sampler_may_draw_from_something_else_than_the_policy(project: Path, tmp_path: Path) -> None:
    def sharper(model: Any, prompts: Any, *, sampling: Sampling, **rest: Any) -> Any:
        return sample(model, prompts, sampling=replace(sampling, temperature=0.3), **rest)

    config = settings_from(
        ExpertConfig, given(project, tmp_path / "run", sampler=sharper, steps=1), stage="expert"
    )
    (row,) = logged(config)
    assert row["nll"] > 0


@pytest.mark.parametrize("good", [GOOD, Sampled(tokens=[4, 2], logprobs=[-1.0, -0.5], ended=True)])
def test_pairs_and_completions_are_taken(good: Any) -> None:
    ((first, second),) = CHECKS.all_of([[good, ([4, 5, 6], [-1, 0, 0.0])]], 1, 2)
    assert first == Sampled(tokens=[4, 2], logprobs=[-1.0, -0.5], ended=True)
    assert second == Sampled(tokens=[4, 5, 6], logprobs=[-1.0, 0.0, 0.0], ended=False)


@pytest.mark.parametrize(
    ("drawn", "said"),
    [
        (None, "returned None; it must return a list with the completions of each of 2 prompts"),
        ([[GOOD], GOOD], "returned a list of 2 for prompt 1; it must return a list of 1 completions"),
        ([[GOOD], [[4, 2]]], r"returned \[4, 2\] as completion 0 of prompt 1; it must be a pair"),
        ([[GOOD], [([], [])]], r"returned \[\] as the tokens of completion 0 of prompt 1; it must be a list"),
        ([[GOOD], [([4.0], [-1.0])]], "returned 4.0 as token 0 of completion 0 of prompt 1"),
        ([[GOOD], [([10], [-1.0])]], "returned 10 as token 0 .*; the model's token ids are 0 to 9"),
        ([[GOOD], [([2, 4], [-1.0, -1.0])]], "returned more tokens after the stop token 2 at 0"),
        ([[GOOD], [([4] * 4, [-1.0] * 4)]], "returned 4 tokens as .*, but sampling.max_new_tokens is 3"),
        ([[GOOD], [([4, 2], [-1.0])]], "log-probabilities of .* returned 1 values for 2 tokens"),
        ([[GOOD], [([4], [float("nan")])]], "returned nan for token 0"),
        (
            [[GOOD], [([4], [0.5])]],
            "a log-probability of 0.5 in completion 0 of prompt 1; none can be above 0",
        ),
    ],
)
def test_wrong_completions_are_named(drawn: Any, said: str) -> None:
    with pytest.raises(InputError, match=f"sampler mine:f.* {said}"):
        CHECKS.all_of(drawn, 2, 1)


def test_where_a_sampler_cannot_draw_it_is_refused() -> None:
    rest: dict[str, Any] = {"model": "m", "data": "d", "reward_model": "r", "out": "o", "sampler": sample}
    with pytest.raises(
        InputError, match=r"sampling\.engine is prefloop.rollout.sampler:sample, which cannot mask tokens"
    ):
        settings_from(NLPOConfig, rest, stage="nlpo")
    with pytest.raises(
        InputError, match=r"old_logprobs is sampler, but sampling.engine is .*need not be the policy"
    ):
        settings_from(GRPOConfig, rest | {"old_logprobs": "sampler"}, stage="grpo")
    with pytest.raises(InputError, match="sample draws completions of one turn only"):
        settings_from(GRPOConfig, rest | {"environment": "game:Game"}, stage="grpo")
    with pytest.raises(
        InputError, match=r"sync is disk, but sampling\.engine is prefloop.rollout.sampler:sample"
    ):
        settings_from(GRPOConfig, rest | {"sampling": {"sync": "disk"}}, stage="grpo")
