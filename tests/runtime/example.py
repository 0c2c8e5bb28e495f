"""A whole training loop on the runtime, as an algorithm's file would have it: linear regression with dropout.

It is what the tests of runs, restarts and processes train.
"""

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from prefloop.configs.common import Optim, RunSettings
from prefloop.runtime.metrics import Metrics
from prefloop.runtime.optim import ParameterGroup
from prefloop.runtime.order import batch_of, steps_in
from prefloop.runtime.run import Run
from prefloop.runtime.update import Updater
from prefloop.runtime.world import World

SIZE = 11


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """Settings of the example."""

    run: RunSettings
    epochs: float = 2.0
    batch_size: int = 4
    micro_batch_size: int = 3
    dropout: float = 0.5
    optim: Optim = field(
        default_factory=lambda: Optim(
            lr=0.05, schedule="cosine", warmup=0.2, weight_decay=0.01, max_grad_norm=0.5
        )
    )


def train(config: Config, world: World, *, slow: float = 0.0) -> Path:
    """Fit the regression, `slow` seconds more a step; return the folder of the finished model."""
    total_steps = steps_in(config.epochs, SIZE, config.batch_size)
    with Run.open(
        config.run,
        stage="example",
        config=config,
        total_steps=total_steps,
        world=world,
        headline=("error", "lr"),
    ) as run:
        model = nn.Sequential(nn.Linear(3, 5), nn.Dropout(config.dropout), nn.Linear(5, 1))
        if run.resumed:
            model.load_state_dict(load_file(run.source("") + "/model.safetensors"))
        world.broadcast_module(model)
        updater = Updater(
            [ParameterGroup.of(model, config.optim)],
            total_steps=total_steps,
            world=world,
            dump_folder=run.nonfinite,
            max_nonfinite=config.run.max_nonfinite,
        )
        if run.resumed:
            updater.load_state(run.resumed["updater"])

        for step in run.steps(
            save=lambda folder: save_file(model.state_dict(), folder / "model.safetensors"),
            state=lambda: {"updater": updater.state()},
        ):
            batch = batch_of(step, size=SIZE, batch_size=config.batch_size, seed=config.run.seed)
            micro_batches = cut(world.share(batch), config.micro_batch_size)
            metrics = Metrics()
            loss = partial(squared_error, model, metrics, count=len(batch))
            result = updater.step(micro_batches, loss, replay=partial(list, micro_batches))
            run.log(step, metrics.reduce(world) | result.metrics())
            time.sleep(slow)
    return run.final


def squared_error(model: nn.Module, metrics: Metrics, rows: list[int], *, count: int) -> Tensor:
    """A micro-batch's part of the mean over all `count` examples of the step."""
    inputs, targets = examples()
    total = (model(inputs[rows]).squeeze(-1) - targets[rows]).square().sum()
    metrics.add("error", total, len(rows))
    return total / count


def examples() -> tuple[Tensor, Tensor]:
    """Inputs [11, 3] and targets [11], the same every time."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(SIZE, 3, generator=generator), torch.randn(SIZE, generator=generator)


def cut(rows: list[int], size: int) -> list[list[int]]:
    """`rows` in pieces of at most `size`."""
    return [rows[i : i + size] for i in range(0, len(rows), size)]
