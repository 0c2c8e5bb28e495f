"""Context distillation (arXiv:2112.00861, section 2.2; arXiv:2209.15189): a policy learns to answer without a context as it does with one.

One step: draw completions y of prompts x, from the teacher that reads context c before x (or from the policy itself, arXiv:2306.13649), and lower

    Σ_t KL(π_teacher(· | c, x, y_<t) ‖ π(· | x, y_<t))        (`divergence forward`; or KL(π ‖ π_teacher), `reverse`)

per completion token, over the whole vocabulary. The completions' tokens are the same for both; only what stands before them differs. The teacher is
frozen: the policy's starting weights unless another model is named. Distributions are at the sampling temperature. What differs from the papers:
the whole vocabulary is matched, not its likeliest tokens, and it is never held for all tokens at once (`models/head.py`).

Logged: divergence (per completion token, nats), divergence_completion (summed over each completion), nll (of the completions under the policy, per
token), length, ended; heldout_divergence (the same on held-out prompts, freshly drawn); loss, lr, grad_norm, skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from prefloop.algorithms.sft import trained_tokens
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.errors import InputError
from prefloop.loop.inputs import Prompts
from prefloop.loop.online import (
    check_sampled,
    draw_rollout,
    reference_of,
    shown,
    shows_samples,
)
from prefloop.loop.provenance import models_read
from prefloop.loop.roles import check_prompt_room, open_policy, parameters_of, replayable
from prefloop.loop.session import open_run, read_prompts
from prefloop.losses import mean_over, sequence_sum, sum_and_count
from prefloop.models.generation import what_is_not_taken
from prefloop.models.head import Want
from prefloop.models.packing import Batch, MicroBatch, micro_batches, pack
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, Run, Updater, World
from prefloop.text import decode_completion, encode_prompt, stop_token_ids
from prefloop.text.groups import Group

HELDOUT_KEYS = 1 << 61
"""Added to a held-out prompt's key, so that no two draws have one name."""
MOST_HELDOUT = 256
"""Held-out prompts that the divergence is measured on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """Prompts as the policy reads them, and behind the context."""

    plain: Prompts
    behind: Prompts


@dataclass(frozen=True, kw_only=True, slots=True)
class Roles:
    """Who learns from whom, and how completions are drawn."""

    config: DistillContextConfig
    policy: Policy
    teacher: Policy
    tokenizer: PreTrainedTokenizerBase
    world: World


def train(config: DistillContextConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    # The run's settings hold the context itself: a file may change.
    config = replace(config, context=context_of(config), context_file="")
    part, heldout = (
        behind_context(each, config, source.tokenizer) for each in (source.prompts, source.heldout)
    )
    with open_run(
        config,
        stage=config.STAGE,
        world=source.world,
        tokenizer=source.tokenizer,
        reads={"data": source.read},
        models=models_read(source.world, model=config.model, teacher=config.teacher),
        steps=config.steps,
        headline=("divergence", "heldout_divergence"),
    ) as session:
        run = session.run
        opened = open_policy(config.model, source.tokenizer, config.lora, config.compute, run)
        roles = _roles(config, opened.role, source.tokenizer, run, (part, heldout))
        session.begin()
        updater = session.updater(
            parameters_of(roles.policy, config.optim, name="policy"), updates=config.steps
        )
        for step in session.steps(save=opened.save, updater=updater):
            chosen = source.batches.at(step)
            rollout, behind = draw(roles, part, chosen, (step - 1) * config.batch_prompts)
            if step == 1:
                _check(roles, rollout, behind)
            metrics = _learn(roles, updater, rollout, behind)
            if session.due(step, config.eval_every):
                metrics |= _heldout(roles, heldout)
            run.log(step, metrics)
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, divergences(roles, rollout.groups, behind)))
        return session.finish()


def context_of(config: DistillContextConfig) -> str:
    """The context. Raises `InputError` where there is none in the file."""
    if config.context:
        return config.context
    try:
        text = Path(config.context_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"context_file is {config.context_file!r}, which cannot be read ({error})"
        ) from error
    if not text:
        raise InputError(
            f"context_file is {config.context_file!r}, which is empty; write the context into it"
        )
    return text


def behind_context(plain: Prompts, config: DistillContextConfig, tokenizer: PreTrainedTokenizerBase) -> Part:
    """Prompts, and the same behind the context."""
    records = tuple(prompt.in_context(config.context) for prompt in plain.records)
    ids = [encode_prompt(tokenizer, prompt) for prompt in records]
    return Part(plain=plain, behind=Prompts(records=records, ids=ids, origins=plain.origins))


def _roles(
    config: DistillContextConfig,
    policy: Policy,
    tokenizer: PreTrainedTokenizerBase,
    run: Run,
    parts: Sequence[Part],
) -> Roles:
    """The roles, with room for every prompt."""
    teacher = reference_of(config, policy, tokenizer, run)
    for part in parts:
        for role, read in ((policy, part.plain), (teacher, part.behind)):
            check_prompt_room(role, read, new_tokens=config.sampling.max_new_tokens)
    if said := what_is_not_taken(policy.model, config.sampling):
        run.say(said)
    return Roles(config=config, policy=policy, teacher=teacher, tokenizer=tokenizer, world=run.world)


def draw(roles: Roles, part: Part, chosen: Sequence[int], first_key: int) -> tuple[Rollout, list[Group]]:
    """Completions of this process's share of the prompts `chosen`, behind the prompts alone; and the same completions behind the context."""
    config, world = roles.config, roles.world
    by_teacher = config.sampled_by == "teacher"
    drawn = draw_rollout(
        roles.teacher if by_teacher else roles.policy,
        part.behind if by_teacher else part.plain,
        chosen,
        k=config.completions_per_prompt,
        first_key=first_key,
        sampling=config.sampling,
        seed=config.run.seed,
        stop_ids=stop_token_ids(roles.tokenizer),
        decode=lambda ids: decode_completion(roles.tokenizer, ids),
        world=world,
    )
    own = [chosen[place] for place in world.share(range(len(chosen)))]
    plain, behind = (
        [
            Group(prompt=prompts.ids[i], completions=group.completions, masks=group.masks)
            for i, group in zip(own, drawn.groups, strict=True)
        ]
        for prompts in (part.plain, part.behind)
    )
    prompts_alone = tuple(part.plain.records[i] for i in own)
    return replace(drawn, prompts=prompts_alone, groups=plain), behind


def divergence(
    roles: Roles, plain: Batch, behind: Batch
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Of the next-token distributions before every completion token, in nats; and the policy's log-probabilities of the tokens.

    Both batches hold the same completions in the same order.
    """
    forward = roles.config.divergence == "forward"
    found = roles.policy.statistics_against(
        roles.teacher,
        plain,
        reference_batch=behind,
        temperature=roles.config.sampling.temperature,
        want=Want(kl=not forward, forward_kl=forward),
    )
    values = found.forward_kl if forward else found.kl
    return scatter_tokens(values, plain), scatter_tokens(found.logprobs, plain)


def _parts(roles: Roles, plain: Sequence[Group], behind: Sequence[Group]) -> list[tuple[MicroBatch, Batch]]:
    """Micro-batches by the longer side, the one with the context, and the other side of each."""
    device, tokens = roles.world.device, roles.config.compute.micro_batch_tokens
    return [
        (part, pack([plain[g] for g in part.groups], device))
        for part in micro_batches(behind, tokens=tokens, device=device)
    ]


def divergences(roles: Roles, plain: Sequence[Group], behind: Sequence[Group]) -> Float[Tensor, " B"]:
    """Summed over each completion, under no_grad."""
    out = torch.zeros(sum(len(group.completions) for group in plain), device=roles.world.device)
    with torch.no_grad():
        for part, batch in _parts(roles, plain, behind):
            values, _ = divergence(roles, batch, part.batch)
            out[part.rows] = sequence_sum(values, batch.completion_mask)
    return out


def _learn(roles: Roles, updater: Updater, rollout: Rollout, behind: Sequence[Group]) -> dict[str, float]:
    """One update; its metrics and the completions'."""
    world, metrics = roles.world, Metrics()
    count = world.sum_float(trained_tokens(rollout.groups))
    parts = _parts(roles, rollout.groups, behind)

    def loss(both: tuple[MicroBatch, Batch]) -> Tensor:
        part, batch = both
        values, logprobs = divergence(roles, batch, part.batch)
        with torch.no_grad():
            metrics.add("divergence", *sum_and_count(values, batch.completion_mask))
            metrics.add("nll", *sum_and_count(-logprobs, batch.completion_mask))
            of_completions = sequence_sum(values, batch.completion_mask)
            metrics.add("divergence_completion", of_completions.sum(dim=0), len(of_completions))
        return mean_over(values, batch.completion_mask, count=count)

    result = updater.step(parts, loss, replay=lambda: replayable(rollout.groups))
    metrics.add("length", trained_tokens(rollout.groups), len(rollout))
    metrics.add("ended", sum(map(sum, rollout.ended)), len(rollout))
    return {**result.metrics(), **metrics.reduce(world)}


def _heldout(roles: Roles, heldout: Part) -> dict[str, float]:
    """The divergence per token on held-out prompts; nothing where nothing is held out."""
    count = min(len(heldout.plain), MOST_HELDOUT)
    if not count:
        return {}
    rollout, behind = draw(roles, heldout, range(count), HELDOUT_KEYS)
    metrics = Metrics()
    found = divergences(roles, rollout.groups, behind)
    metrics.add("heldout_divergence", found.sum(dim=0), trained_tokens(rollout.groups))
    return metrics.reduce(roles.world)


def _check(roles: Roles, rollout: Rollout, behind: Sequence[Group]) -> None:
    """Before the first update whoever drew the completions gives them the likelihood that it drew them with. Raises `InputError`."""
    config, world = roles.config, roles.world
    by_teacher = config.sampled_by == "teacher"
    role, groups = (roles.teacher, behind) if by_teacher else (roles.policy, rollout.groups)
    metrics = Metrics()
    with torch.no_grad():
        for part in micro_batches(groups, tokens=config.compute.micro_batch_tokens, device=world.device):
            logprobs = role(part.batch, temperature=config.sampling.temperature)
            metrics.add("observed", *sum_and_count(-logprobs, part.batch.completion_mask))
    drawn = [value for rows in rollout.sampler_logprobs for row in rows for value in row]
    metrics.add("expected", -sum(drawn), len(drawn))
    found = metrics.reduce(world)
    check_sampled(config, "nll", found["observed"], found["expected"], scale=1 + found["expected"])
