"""What the algorithms share that learn from their own samples: drawing a step's completions, scoring them, shaping the scores, the reference."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.configs.common import Compute, Sampling
from prefloop.configs.scorers import Combining, scorers_named
from prefloop.errors import InputError
from prefloop.loop.inputs import Prompts
from prefloop.loop.judge_scorer import JudgeScorer, is_judge, judge_content, read_scorer
from prefloop.loop.provenance import Models, models_read
from prefloop.loop.roles import open_reference
from prefloop.losses import (
    check_start,
)
from prefloop.models.load import load_reward_model
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import BASE, Policy, RewardModel
from prefloop.rollout import Rollout, make_rollout, sample
from prefloop.rollout.reward_scorers import EnsembleScorer, OnlineScorer, user_function
from prefloop.rollout.scorers import Scorer, checked
from prefloop.rollout.steered import Drawer
from prefloop.runtime import Run, World
from prefloop.text.groups import Group

Score = OnlineScorer
"""A score for every completion, prompt after prompt."""

SAMPLES_EVERY = 10
"""Steps between files of samples."""
SAMPLES_SHOWN = 8


class ScorerSettings(Protocol):
    """The settings that opening a scorer reads."""

    @property
    def reward_model(self) -> str: ...
    @property
    def reward(self) -> Combining: ...
    @property
    def compute(self) -> Compute: ...


class ReferenceSettings(Protocol):
    """The settings that opening a reference reads."""

    @property
    def model(self) -> str: ...
    @property
    def reference(self) -> str: ...
    @property
    def compute(self) -> Compute: ...


class SampledSettings(Protocol):
    """The settings that checking a step reads."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def compute(self) -> Compute: ...


class ModelSettings(Protocol):
    """The settings that name a run's models."""

    @property
    def model(self) -> str: ...
    @property
    def reward_model(self) -> str: ...


def models_of(config: ModelSettings, world: World, *, reference: str = "") -> Models:
    """The models that a run reads, hashed once; a Python function that scores is none, a judge on this machine is one."""
    names, judges = scorer_roles(config.reward_model)
    read = models_read(world, model=config.model, reference=reference, **names)
    return (
        replace(read, others={role: judge_content(judge) for role, judge in judges.items()})
        if judges
        else read
    )


def scorer_roles(reward_model: str) -> tuple[dict[str, str], dict[str, str]]:
    """Role -> folder or hub name of every model that scores, and role -> `judge:FILE`.

    The first scorer is `reward_model`, `judge`, or `scorer_policy` with `scorer_reference` (a log-ratio); later ones have their number behind it.
    """
    roles: dict[str, str] = {}
    judges: dict[str, str] = {}
    for place, named in enumerate(scorers_named(reward_model) if reward_model else ()):
        number = f"_{place + 1}" if place else ""
        if named.kind == "model":
            roles[f"reward_model{number}"] = named.name
        elif named.kind == "implicit":
            roles[f"scorer_policy{number}"] = named.name
            roles[f"scorer_reference{number}"] = named.reference
        elif is_judge(named.name):
            roles[f"judge{number}"] = read_scorer(named.name).checkpoint
            judges[f"judge{number}"] = named.name
    return roles, judges


def open_scorer(
    config: ScorerSettings,
    tokenizer: PreTrainedTokenizerBase,
    world: World,
    *,
    loaded: Sequence[RewardModel] = (),
) -> tuple[Score, tuple[float, float]]:
    """What scores this process's samples, and the mean and standard deviation that are stored with it (0 and 1 where there are none).

    `loaded` are reward models that are in memory already, in the order in which the settings name them.
    """

    def function(name: str) -> Scorer:
        # A judge is asked by all processes together, also by one that has nothing to score.
        return checked(JudgeScorer(name, world), name=name) if is_judge(name) else user_function(name)

    scorer = EnsembleScorer.load(
        config.reward_model,
        config.compute,
        world,
        rules=config.reward,
        normalise=False,
        loaded=loaded,
        function=function,
    )
    return OnlineScorer(scorer, tokenizer, world), scorer.moments


def frozen_reward_model(config: ScorerSettings, name: str) -> RewardModel:
    """The reward model of this name, in a model of its own."""
    reward_model = load_reward_model(name, config.compute)
    reward_model.requires_grad_(False)
    return reward_model


def reference_of(
    config: ReferenceSettings, policy: Policy, tokenizer: PreTrainedTokenizerBase, run: Run
) -> Policy:
    """The policy's starting weights, frozen, unless another model is named. With an adapter: the trunk with it off."""
    if config.reference and config.reference != config.model:
        return open_reference(config.reference, tokenizer, config.compute)
    if policy.adapter_name != BASE or not run.start:
        return policy.frozen_copy()
    return open_reference(config.model, tokenizer, config.compute)


def draw_rollout(
    policy: Drawer,
    train_prompts: Prompts,
    chosen: Sequence[int],
    *,
    k: int,
    first_key: int,
    sampling: Sampling,
    seed: int,
    stop_ids: Sequence[int],
    decode: Callable[[Sequence[int]], str],
    world: World,
) -> Rollout:
    """Completions of this process's share of the prompts `chosen`. What is drawn depends on seed, key and place, not on the share.

    The prompt at place i of `chosen` has the key `first_key` + i, and belongs to the process i modulo the number of processes.
    """
    places = world.share(range(len(chosen)))
    ids = [train_prompts.ids[chosen[place]] for place in places]
    with policy.active() as model:
        samples = sample(
            model,
            ids,
            k=k,
            stop_ids=stop_ids,
            sampling=sampling,
            seed=seed,
            row_keys=[first_key + place for place in places],
        )
    return make_rollout([train_prompts.records[chosen[place]] for place in places], ids, samples, decode)


def mask_of(groups: Sequence[Group], device: torch.device) -> Bool[Tensor, "B T"]:
    """True on completion tokens, groups after one another."""
    lengths = torch.tensor(
        [len(completion) for group in groups for completion in group.completions], dtype=torch.long
    )
    longest = int(lengths.max()) if len(lengths) else 1
    return (torch.arange(longest)[None, :] < lengths[:, None]).to(device)


def ended_of(rollout: Rollout, device: torch.device) -> Bool[Tensor, " B"]:
    """Whether each completion stopped by itself."""
    return torch.tensor([end for ends in rollout.ended for end in ends], dtype=torch.bool, device=device)


def put(out: Float[Tensor, "B T"], part: MicroBatch, values: Float[Tensor, "b t"]) -> None:
    """Write a micro-batch's numbers where its completions stand in the whole."""
    out[part.rows, : values.shape[1]] = values


def rows_of(groups: Sequence[int], k: int) -> Tensor:
    """Rows of the completions of these groups of k."""
    return torch.tensor([group * k + j for group in groups for j in range(k)], dtype=torch.long)


def check_sampled(
    config: SampledSettings, name: str, observed: float, expected: float, *, scale: float = 1.0
) -> None:
    """What must hold before a step's first update; float noise between two forward passes of other micro-batches is let pass.

    `scale` is the size of what is compared, where noise grows with it. Raises `InputError` with the way out.
    """
    noise = 2e-3 if config.compute.dtype == "float32" else 0.1
    check_start(
        name,
        observed,
        expected,
        noise * scale,
        way_out=f"raise sampling.temperature (it is {config.sampling.temperature}, and logits are divided by it), or set "
        "compute.dtype float32 and compute.attention padded; if it stays, the model's own code is not deterministic (dropout, "
        "state kept between calls), or this is a fault of prefloop: please report it",
    )


def shown(rollout: Rollout, scores: Float[Tensor, " B"]) -> list[Mapping[str, object]]:
    """Some of this step's samples, for people."""
    asked, texts = rollout.pairs()
    return [
        {"prompt": prompt.to_json(), "completion": text, "score": round(score, 4)}
        for prompt, text, score in list(zip(asked, texts, scores.tolist(), strict=True))[:SAMPLES_SHOWN]
    ]


def shows_samples(step: int, last: int) -> bool:
    """Whether this is a step whose samples are written."""
    return step == 1 or step % SAMPLES_EVERY == 0 or step == last


def require_prompts(found: Prompts, source: str) -> None:
    """Raise `InputError` where there is nothing to train on."""
    if not len(found):
        raise InputError(f"{source}: no prompt to train on; lower data.heldout, or give more")
