"""From what was found to what will be done: what is trained, in which precision, how much of the data in the time there is, and every stage's cost."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from prefloop.configs.align import PlanConfig
from prefloop.configs.common import LoRA
from prefloop.errors import InputError
from prefloop.models.load import device_of
from prefloop.recipes.align.cost import Cost, Machine, Model, measure
from prefloop.recipes.align.estimate import StageEstimate, estimates
from prefloop.recipes.align.look import Seen
from prefloop.recipes.align.parts import prompts_of
from prefloop.recipes.align.stages import (
    SMALL,
    Choice,
    Sizes,
    Stage,
    online,
    online_steps,
    stages,
)
from prefloop.runtime.tune import tune

FASTER = 1.2
"""bfloat16 must multiply so many times as fast to be taken."""
MICRO_BATCHES = (8192, 4096, 2048, 1024, 512)
"""Tokens of a micro-batch that are tried, the largest that fits."""
ON_CPU = 2048
"""Tokens of a micro-batch beyond which a CPU gains nothing."""
FILLED = 0.8
"""Share of the free memory that a run may take by the estimate."""
LEAST = Sizes(policy=32, judge=32, measure=60, prompts=24, answers=1, steps=4, demonstrations=32, asked=0)
"""What is left of each size where time is short."""
MOST_ANSWERS = 4
"""Answers to a prompt, where there are few: more of them tell little that is new."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Decided:
    """What `align` will do."""

    config: PlanConfig
    seen: Seen
    machine: Machine
    choice: Choice
    why: str
    """Why this precision."""
    sizes: Sizes
    stages: tuple[Stage, ...]
    estimates: tuple[StageEstimate, ...]
    free_mib: float
    """Memory that is free now."""

    @property
    def total(self) -> Cost:
        """Of all stages, which run one after the other."""
        costs = [estimate.cost for estimate in self.estimates]
        return Cost(seconds=sum(cost.seconds for cost in costs), mib=max(cost.mib for cost in costs))


def decide(config: PlanConfig, seen: Seen, project: Path, *, resume: bool = False) -> Decided:
    """Measure the machine and choose. Raises `InputError` if the least there can be takes longer than `minutes`."""
    tune()  # as every stage does: the same threads and products are measured
    machine = measure(seen.shape, config.compute)
    lora = _lora(config, seen)
    narrow = _narrow(config, machine)
    choice = Choice(lora=lora, compute=replace(config.compute, dtype="bfloat16" if narrow else "float32"))
    model = model_of(seen, machine, choice)
    free = free_mib(config)
    choice = _that_fits(config, seen, choice, model, free, project)

    def at(sizes: Sizes) -> tuple[tuple[Stage, ...], tuple[StageEstimate, ...]]:
        made = stages(config, seen, sizes, choice, project, resume=resume)
        return made, estimates(made, sizes, seen.lengths, model, judge=seen.layout.own_judge)

    sizes = _in_time(
        config, whole(config, seen), lambda sizes: sum(estimate.cost.seconds for estimate in at(sizes)[1])
    )
    made, costs = at(sizes)
    return Decided(
        config=config,
        seen=seen,
        machine=machine,
        choice=choice,
        why=_why(config, machine, narrow=narrow),
        sizes=sizes,
        stages=made,
        estimates=costs,
        free_mib=free,
    )


def model_of(seen: Seen, machine: Machine, choice: Choice) -> Model:
    """The model as its cost is counted."""
    narrow = choice.compute.dtype == "bfloat16"
    return Model(
        shape=seen.shape,
        machine=replace(machine, layer=machine.layer * machine.bfloat16) if narrow else machine,
        rank=choice.lora.rank,
        item=2 if narrow else 4,
        base=held_mib(),
    )


def whole(config: PlanConfig, seen: Seen) -> Sizes:
    """All of the data."""
    parts = seen.parts
    prompts = len(seen.prompts or prompts_of(parts["policy"]))
    measuring = min(config.eval_prompts, len(prompts_of(parts["measure"])))
    return Sizes(
        policy=len(parts["policy"]),
        judge=len(parts["judge"]),
        measure=len(parts["measure"]),
        prompts=measuring,
        answers=config.eval_answers or min(MOST_ANSWERS, -(-config.eval_prompts // measuring)),
        steps=online_steps(prompts) if online(config) else 0,
        demonstrations=len(seen.demonstrations),
        asked=prompts,
    )


def shrunk(sizes: Sizes, share: float) -> Sizes:
    """A share of what policies learn from, and its root of the judge and what measures: intervals shrink with the root of their number,
    and a judge that knows little makes every verdict worthless."""

    def of(name: str, share: float) -> int:
        all_of_it = getattr(sizes, name)
        return min(all_of_it, max(getattr(LEAST, name), round(all_of_it * share)))

    root = share**0.5
    return Sizes(
        policy=of("policy", share),
        judge=of("judge", root),
        measure=of("measure", root),
        prompts=of("prompts", root),
        answers=sizes.answers,
        steps=of("steps", share),
        demonstrations=of("demonstrations", share),
        asked=sizes.asked,
    )


def _in_time(config: PlanConfig, sizes: Sizes, seconds_of: Callable[[Sizes], float]) -> Sizes:
    """The largest share that fits `minutes`."""

    def seconds(share: float) -> float:
        return seconds_of(shrunk(sizes, share))

    limit = 60 * config.minutes
    if not limit or seconds(1.0) <= limit:
        return sizes
    if seconds(0.0) > limit:
        raise InputError(
            f"minutes is {config.minutes:g}, but the smallest useful run takes {seconds(0.0) / 60:.0f} by the estimate; raise it, give fewer "
            "methods, or lower data.max_completion_tokens"
        )
    low, high = 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (middle, high) if seconds(middle) <= limit else (low, middle)
    return shrunk(sizes, low)


def _lora(config: PlanConfig, seen: Seen) -> LoRA:
    adapters = config.weights == "lora" or (config.weights == "auto" and seen.shape.weights >= SMALL)
    return LoRA(rank=config.rank, alpha=2.0 * config.rank) if adapters else LoRA()


def _narrow(config: PlanConfig, machine: Machine) -> bool:
    return config.precision == "bfloat16" or (config.precision == "auto" and machine.bfloat16 >= FASTER)


def _why(config: PlanConfig, machine: Machine, *, narrow: bool) -> str:
    """The precision in words."""
    name = "bfloat16" if narrow else "float32"
    asked = " as asked" if config.precision != "auto" else ""
    return f"{name}{asked}: bfloat16 multiplies {machine.bfloat16:.2g} times as fast as float32 here"


def _that_fits(
    config: PlanConfig, seen: Seen, choice: Choice, model: Model, free: float, project: Path
) -> Choice:
    """The largest micro-batch whose run fits into the free memory; checkpointed activations where none does."""
    sizes = whole(config, seen)
    given = config.compute.micro_batch_tokens
    if device_of(config.compute).type == "cpu":
        given = min(given, ON_CPU)
    tried = choice
    for tokens in dict.fromkeys((given, *(size for size in MICRO_BATCHES if size < given))):
        tried = replace(choice, compute=replace(choice.compute, micro_batch_tokens=tokens))
        made = stages(config, seen, sizes, tried, project)
        costs = estimates(made, sizes, seen.lengths, model, judge=seen.layout.own_judge)
        if max(estimate.cost.mib for estimate in costs) <= FILLED * free:
            return tried
    return replace(
        tried,
        compute=replace(tried.compute, gradient_checkpointing=True),
    )


def held_mib() -> float:
    """Memory that this process holds now, with its libraries."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20 if file.exists() else 400.0


def free_mib(config: PlanConfig) -> float:
    """Memory that a run could take: the GPU's, or what the kernel says is available."""
    device = device_of(config.compute)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    file = Path("/proc/meminfo")
    for line in file.read_text().splitlines() if file.exists() else ():
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) / 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**20
