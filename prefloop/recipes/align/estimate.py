"""Each stage's cost: which passes it makes over how many rows."""

import math
from dataclasses import dataclass

from prefloop.configs.critic_free import CriticFreeConfig
from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.loop.shown import SHOWN, SHOWN_TOKENS
from prefloop.recipes.align.cost import ROOM_MIB, Cost, Model, RowCounts
from prefloop.recipes.align.look import Lengths
from prefloop.recipes.align.parts import CURVES
from prefloop.recipes.align.stages import Settings, Sizes, Stage

Online = PPOConfig | CriticFreeConfig | OnlineDPOConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class StageEstimate:
    """A stage and what it takes."""

    stage: str
    cost: Cost


def estimates(
    stages: tuple[Stage, ...], sizes: Sizes, lengths: Lengths, model: Model, *, judge: bool
) -> tuple[StageEstimate, ...]:
    """All stages, the evaluation last. What policies write is taken to be as long as they may write: an upper bound."""
    found = [
        StageEstimate(
            stage=stage.name, cost=stage_cost(stage.settings, lengths, model, _records(stage, sizes))
        )
        for stage in stages
    ]
    policies = [stage for stage in stages if stage.name not in ("sft", "judge", "reward")]
    scorers = int(judge) + any(stage.name == "reward" for stage in stages)
    measured = _measuring(sizes, lengths, model, policies=len(policies), scorers=scorers)
    return (*found, StageEstimate(stage="evaluate", cost=measured))


def _records(stage: Stage, sizes: Sizes) -> int:
    """Of the file that it reads."""
    if isinstance(stage.settings, Online):
        return sizes.asked
    return {"sft": sizes.demonstrations, "judge": sizes.judge}.get(stage.name, sizes.policy)


def stage_cost(settings: Settings, lengths: Lengths, model: Model, records: int) -> Cost:
    """What training with these settings takes, on so many records (those held out for its curves included)."""
    micro = settings.compute.micro_batch_tokens
    if isinstance(settings, Online):
        drawn = _drawn(lengths, _a_step(settings.batch_prompts, records), _group(settings))
        seconds = settings.steps * _online_step(settings, drawn, model)
        mib = _online_memory(settings, drawn, model, micro)
        critic = isinstance(settings, PPOConfig)
        seconds += model.opened(2.0, adapters=1 + critic)
        updates = settings.steps * settings.epochs * settings.minibatches
        seconds += (1 + critic) * model.updated(updates, checkpoints=_checkpoints(settings, settings.steps))
        return Cost(seconds=seconds, mib=mib)
    k = 1 if isinstance(settings, SFTConfig) else 2
    scoring = isinstance(settings, RewardConfig)

    def rows(share: float) -> RowCounts:
        return RowCounts(
            prompts=records * share,
            completions=k,
            prompt_tokens=lengths.prompt,
            completion_tokens=lengths.completion,
        )

    seconds = model.learn(rows(1 - CURVES), head=not scoring) + model.forward(rows(CURVES), heads=not scoring)
    referenced = not isinstance(settings, SFTConfig | RewardConfig) and _has_reference(settings)
    if referenced:
        seconds += model.forward(rows(1.0))  # of the policy itself, before it learns: no second model is held
    if scoring:
        seconds += model.forward(rows(CURVES), heads=0)  # moments of its scores
    # Memory is that of the largest step, about two deviations above the mean one.
    step = settings.batch_size * rows(1.0).tokens / max(1, records)
    most = min(micro, step + 2 * lengths.deviation * math.sqrt(settings.batch_size))
    working = max(model.activations(most), model.merging())
    if not scoring:
        seconds += model.draw(_shown(records * CURVES, lengths), batch=SHOWN)
    updates = math.ceil(records * (1 - CURVES) / settings.batch_size)
    seconds += model.opened() + model.updated(updates, checkpoints=_checkpoints(settings, updates))
    return Cost(seconds=seconds, mib=model.held() + working)


def _shown(heldout: float, lengths: Lengths) -> RowCounts:
    """Completions of held-out prompts that a stage shows at its end."""
    return RowCounts(
        prompts=max(1.0, min(SHOWN, heldout)),
        completions=1,
        prompt_tokens=lengths.prompt,
        completion_tokens=SHOWN_TOKENS,
    )


def _checkpoints(settings: Settings, steps: int) -> int:
    return math.ceil(steps / (settings.run.save_every or steps))


def _has_reference(settings: Settings) -> bool:
    return not isinstance(settings, PreferConfig) or settings.loss not in ("simpo", "orpo")


def _drawn(lengths: Lengths, prompts: float, completions: float) -> RowCounts:
    return RowCounts(
        prompts=prompts,
        completions=completions,
        prompt_tokens=lengths.prompt,
        completion_tokens=lengths.max_completion,
    )


def _group(settings: Settings) -> int:
    """Completions that are drawn of each prompt."""
    return 2 if isinstance(settings, OnlineDPOConfig) else settings.completions_per_prompt  # pyright: ignore[reportAttributeAccessIssue]


def _a_step(batch: int, prompts: int) -> float:
    """Prompts of a step on average: the last one of a pass over them holds what is left."""
    return prompts / math.ceil(prompts / batch) if prompts else batch


def _online_step(settings: Online, rows: RowCounts, model: Model) -> float:
    seconds = model.draw(rows, batch=settings.sampling.batch_size) + model.forward(rows, heads=0)
    referenced = isinstance(settings, OnlineDPOConfig) or settings.kl.coef > 0
    seconds += model.forward(rows) if referenced else 0.0
    seconds += settings.epochs * model.learn(rows)
    if isinstance(settings, PPOConfig):
        seconds += model.forward(rows, heads=0) + settings.epochs * model.learn(rows, head=False)
    return seconds


def _online_memory(settings: Online, rows: RowCounts, model: Model, micro: int) -> float:
    per_minibatch = rows.tokens / settings.minibatches
    critic = isinstance(settings, PPOConfig)
    # With adapters policy, reference, critic and PPO's reward model share the trunk; the others load their reward model beside it.
    frozen = (0.0 if critic else 1.0) if model.rank else 2.0
    held = model.held(frozen=frozen, trained=2 if critic else 1)
    drawing = model.cache(rows, batch=settings.sampling.batch_size)
    return held + max(model.activations(min(micro, per_minibatch)) + drawing, model.merging())


def _measuring(sizes: Sizes, lengths: Lengths, model: Model, *, policies: int, scorers: int) -> Cost:
    """Every policy answers and is compared with the start; every scorer reads the answers and the comparisons that measure it."""
    answers = _drawn(lengths, sizes.prompts, sizes.answers)
    per_policy = (
        model.draw(answers, batch=64) + model.forward(answers) + scorers * model.forward(answers, heads=0)
    )
    against = model.forward(answers, heads=2) + model.forward(answers, heads=0)
    compared = RowCounts(
        prompts=sizes.measure,
        completions=2,
        prompt_tokens=lengths.prompt,
        completion_tokens=lengths.completion,
    )
    seconds = (1 + policies) * per_policy + policies * against + scorers * model.forward(compared, heads=0)
    seconds += model.opened(1 + policies + 2 * scorers, adapters=0)
    frozen = 2.0 if model.rank else 1.0
    return Cost(
        seconds=seconds,
        mib=model.held(frozen=frozen + min(scorers, 1), trained=0)
        + model.cache(answers, batch=64)
        + ROOM_MIB,
    )
