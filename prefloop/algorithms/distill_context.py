"""Context distillation (arXiv:2112.00861, section 2.2; arXiv:2209.15189): a policy learns to answer without a context as it does with one.

One step: draw completions y of prompts x, from the teacher that reads context c before x (or from the policy itself, arXiv:2306.13649), and lower

    Σ_t KL(π_teacher(· | c, x, y_<t) ‖ π(· | x, y_<t))        (`divergence forward`; or KL(π ‖ π_teacher), `reverse`)

per completion token. The completions' tokens are the same for both; only what stands before them differs. The teacher is frozen: the policy's
starting weights unless another model is named. Unlike in the papers the whole vocabulary is matched, but never held at once (`models/head.py`).

Logged: divergence (per completion token, nats), divergence_completion (summed over each completion), nll (of completions under the policy, per token),
length, ended; heldout_divergence (of held-out prompts, freshly drawn); loss, lr, grad_norm, skipped.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.distill_context import DistillContextConfig
from prefloop.loop.contexts import BothSides, behind_context, context_in
from prefloop.loop.learn import replayable
from prefloop.loop.likelihood import trained_tokens
from prefloop.loop.provenance import models_read
from prefloop.loop.roles import check_prompt_room, open_policy, parameters_of, reference_of, shard_roles
from prefloop.loop.session import open_run
from prefloop.loop.shown import show_rollout, shows_rollouts
from prefloop.loop.sources import PromptSource, read_prompts
from prefloop.losses import mean_over, sequence_sum, sum_and_count
from prefloop.models.generation import what_is_not_taken
from prefloop.models.head import Want
from prefloop.models.packing import Batch, MicroBatch, micro_batches, pack
from prefloop.models.roles import Policy, scatter_tokens
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, Updater, World
from prefloop.runtime.pace import in_step
from prefloop.runtime.sending import bring
from prefloop.text.groups import Group

HELDOUT_KEYS = 1 << 61
"""Added to a held-out prompt's key, so that no two draws have one name."""
MOST_HELDOUT = 256
"""Held-out prompts that the divergence is measured on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherAndPolicy:
    """Who learns from whom, and in what sense."""

    policy: Policy
    teacher: Policy
    forward: bool
    """Whether the divergence is that of the teacher to the policy."""
    temperature: float
    tokens: int
    """Of a micro-batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """How completions are drawn."""

    source: PromptSource
    k: int
    """Completions of each prompt."""
    by_teacher: bool
    """Whether the teacher draws them."""


def train(config: DistillContextConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    bring(source.world, config.context_file)
    # The run's settings hold the context itself: a file may change.
    config = replace(config, context=config.context or context_in(config.context_file), context_file="")
    part, heldout = (
        behind_context(prompts, config.context, source.reader.tokenizer)
        for prompts in (source.prompts, source.heldout)
    )
    with open_run(
        config,
        source.reader,
        stage=config.STAGE,
        reads={"data": source.read},
        models=models_read(source.world, model=config.model, teacher=config.teacher),
        steps=config.steps,
        headline=("divergence", "heldout_divergence"),
    ) as session:
        run, every = session.run, config.eval_every
        opened = open_policy(session, config.model, config.lora)
        shard_roles(session, opened.role)
        roles = TeacherAndPolicy(
            policy=opened.role,
            teacher=reference_of(session, opened.role, config.model, config.teacher),
            forward=config.divergence == "forward",
            temperature=config.sampling.temperature,
            tokens=session.tokens,
        )
        drawing = Drawing(
            source=source, k=config.completions_per_prompt, by_teacher=config.sampled_by == "teacher"
        )
        for prompts in (part, heldout):
            _check_room(roles, prompts, new_tokens=config.sampling.max_new_tokens)
        if not_taken := what_is_not_taken(roles.policy.model, source.sampling):
            run.say(not_taken)
        session.begin()
        updater = session.updater(
            parameters_of(roles.policy, config.optim, name="policy"), updates=config.steps
        )
        for step in session.steps(save=opened.save, updater=updater):
            chosen = source.batches.at(step)
            rollout, behind = draw(roles, drawing, part, chosen, step - 1, (step - 1) * config.batch_prompts)
            if step == 1:
                _check(roles, drawing, rollout, behind)
            metrics = _learn(roles, updater, rollout, behind, source.world)
            if session.due(step, every):
                metrics |= _heldout(roles, drawing, heldout, step)
            run.log(step, metrics)
            if shows_rollouts(run, step):
                show_rollout(run, step, rollout, divergences(roles, rollout.groups, behind))
        return session.finish()


def _check_room(roles: TeacherAndPolicy, part: BothSides, *, new_tokens: int) -> None:
    for role, read in ((roles.policy, part.plain), (roles.teacher, part.behind)):
        check_prompt_room(role, read, new_tokens=new_tokens)


def draw(
    roles: TeacherAndPolicy,
    drawing: Drawing,
    part: BothSides,
    chosen: Sequence[int],
    version: int,
    first_key: int,
) -> tuple[Rollout, list[Group]]:
    """Completions of this process's share of the prompts `chosen`, behind the prompts alone; and the same completions behind the context."""
    role, prompts = (roles.teacher, part.behind) if drawing.by_teacher else (roles.policy, part.plain)
    source = replace(drawing.source, prompts=prompts)
    drawn = source.draw_of(
        role,
        chosen,
        k=drawing.k,
        version=version,
        first_key=first_key,
        sampling=source.sampling,
    )
    own = [chosen[place] for place in source.world.share(range(len(chosen)))]
    plain, behind = (
        [
            Group(prompt=side.ids[i], completions=group.completions, masks=group.masks)
            for i, group in zip(own, drawn.groups, strict=True)
        ]
        for side in (part.plain, part.behind)
    )
    prompts_alone = tuple(part.plain.records[i] for i in own)
    return replace(drawn, prompts=prompts_alone, groups=plain), behind


def divergence(
    roles: TeacherAndPolicy, plain: Batch, behind: Batch
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Of the next-token distributions before every completion token, in nats; and the policy's log-probabilities of the tokens.

    Both batches hold the same completions in the same order.
    """
    forward = roles.forward
    found = roles.policy.statistics_against(
        roles.teacher,
        plain,
        reference_batch=behind,
        temperature=roles.temperature,
        want=Want(kl=not forward, forward_kl=forward),
    )
    values = found.forward_kl if forward else found.kl
    return scatter_tokens(values, plain), scatter_tokens(found.logprobs, plain)


def _parts(
    roles: TeacherAndPolicy, plain: Sequence[Group], behind: Sequence[Group]
) -> list[tuple[MicroBatch, Batch]]:
    """Micro-batches by the longer side, the one with the context, and the other side of each."""
    device = roles.policy.device
    return [
        (part, pack([plain[g] for g in part.groups], device))
        for part in micro_batches(behind, tokens=roles.tokens, device=device)
    ]


def divergences(
    roles: TeacherAndPolicy, plain: Sequence[Group], behind: Sequence[Group]
) -> Float[Tensor, " B"]:
    """Summed over each completion, under no_grad."""
    out = torch.zeros(sum(len(group.completions) for group in plain), device=roles.policy.device)
    with torch.no_grad():
        for part, batch in in_step(_parts(roles, plain, behind)):
            values, _ = divergence(roles, batch, part.batch)
            out[part.rows] = sequence_sum(values, batch.completion_mask)
    return out


def _learn(
    roles: TeacherAndPolicy, updater: Updater, rollout: Rollout, behind: Sequence[Group], world: World
) -> dict[str, float]:
    """One update; its metrics and the completions'."""
    metrics = Metrics()
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

    result = updater.step(in_step(parts), loss, replay=lambda: replayable(rollout.groups))
    metrics.add("length", trained_tokens(rollout.groups), len(rollout))
    metrics.add("ended", sum(map(sum, rollout.ended)), len(rollout))
    return {**result.metrics(), **metrics.reduce(world)}


def _heldout(roles: TeacherAndPolicy, drawing: Drawing, heldout: BothSides, version: int) -> dict[str, float]:
    """The divergence per token on held-out prompts; nothing if nothing is held out."""
    count = min(len(heldout.plain), MOST_HELDOUT)
    if not count:
        return {}
    rollout, behind = draw(roles, drawing, heldout, range(count), version, HELDOUT_KEYS)
    metrics = Metrics()
    found = divergences(roles, rollout.groups, behind)
    metrics.add("heldout_divergence", found.sum(dim=0), trained_tokens(rollout.groups))
    return metrics.reduce(drawing.source.world)


def _check(roles: TeacherAndPolicy, drawing: Drawing, rollout: Rollout, behind: Sequence[Group]) -> None:
    """Before the first update whoever drew the completions gives them the likelihood that it drew them with. Raises `InputError`."""
    role, groups = (roles.teacher, behind) if drawing.by_teacher else (roles.policy, rollout.groups)
    metrics = Metrics()
    with torch.no_grad():
        for part in in_step(micro_batches(groups, tokens=roles.tokens, device=role.device)):
            logprobs = role(part.batch, temperature=roles.temperature)
            metrics.add("observed", *sum_and_count(-logprobs, part.batch.completion_mask))
    drawn = [value for rows in rollout.sampler_logprobs for row in rows for value in row]
    metrics.add("expected", -sum(drawn), len(drawn))
    found = metrics.reduce(drawing.source.world)
    drawing.source.check("nll", found["observed"], found["expected"], scale=1 + found["expected"])
