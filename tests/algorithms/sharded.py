"""Stages with models dealt over processes: `python -m tests.algorithms.sharded PROJECT JOBS...`, looked at by `test_sharded.py`.

A job is `STAGE:SIZES:SHARD` or `STAGE:SIZES:SHARD:HOW`, for example `sft:2,1,3:full`: two processes do the first step and are interrupted, one goes on for a step, three
do the rest. Processes are forked from one that has PyTorch loaded, with the environment that torchrun would give them. `python -m
tests.algorithms.sharded table FOLDER [STAGES...]` prints a table: every stage for ten steps or more beside one process, and whether a run
that is resumed with as many processes is equal to the bit; it ends with an error if a weight differs by more than 1e-5.
"""

import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import peft  # noqa: F401  once, before the processes are forked
import torch
import torch.distributed.checkpoint

from prefloop.models import blocks, sharding
from prefloop.runtime import Run, Updater, start_world
from prefloop.runtime.dealt import here
from prefloop.runtime.interrupt import Interrupted
from tests.algorithms.small import (
    CPU,
    interrupt,
    make_project,
    metrics_of,
    resumed,
    settings,
    train,
    weights_of,
)
from tests.runtime.namespaces import hide
from tests.runtime.processes import environment, free_port
from tests.runtime.trials import ended, fork

TOKENS = 24
"""Of a micro-batch: so few that processes have different numbers of them, and now and then none."""
MOST = {"trpo": 1e-4}
"""Difference of a weight, where it may be above 1e-5: see `NOISY`."""
TABLE = (
    *("sft", "sft_lora", "reward", "reward_lora", "dpo", "dpo_lora"),
    *("ppo", "ppo_shared", "ppo_policy_critic", "ppo_lora", "ppo_lora_shared", "a2c"),
    *("grpo", "dapo", "gspo", "reinforce", "reinforce++", "remax", "rloo_lora"),
    *("pretrain", "ilql", "ilql_lora", "nlpo", "trpo"),
    *("expert", "online_dpo", "xpo", "nash_md", "nash_md_lora", "sppo", "distill", "distill_lora"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """A stage, and how it is run."""

    text: str
    stage: str
    sizes: tuple[int, ...]
    shard: str
    how: str = ""
    """`apart` for machines of which only the first one has the project's folder, `recompute` for gradient checkpointing, `bfloat16` for that with bfloat16, `offload` for parts kept in the machine's memory."""
    steps: int = 0
    """Steps or more; 0 leaves the stage's own."""

    @classmethod
    def read(cls, text: str) -> "Job":
        """From a command line."""
        stage, sizes, shard, *how = text.split(":")
        return cls(
            text=text, stage=stage, sizes=tuple(map(int, sizes.split(","))), shard=shard, how="".join(how)
        )

    @property
    def out(self) -> str:
        """The run's folder, in the project's."""
        return out_of(self.text)

    def config(self, project: Path) -> Any:
        """Its settings."""
        compute = replace(
            CPU,
            shard=self.shard,
            micro_batch_tokens=TOKENS if self.shard != "none" else 8192,
            dtype="bfloat16" if self.how == "bfloat16" else "float32",
            gradient_checkpointing=self.how in ("recompute", "bfloat16"),
            offload=self.how == "offload",
        )
        found = settings(self.stage, project, out=self.out, compute=compute)
        if not self.steps:
            return found
        return replace(found, **({"steps": self.steps} if hasattr(found, "steps") else {"epochs": 4}))


def out_of(text: str) -> str:
    """The folder of a job's run."""
    return text.replace(":", "-").replace(",", "_")


def work(job: Job, part: int, rank: int, port: int, project: Path) -> None:
    """What one process does of one part of a job; the last part ends the run."""
    size = job.sizes[part]
    os.environ.update(environment(rank, size, port))
    if job.how == "apart":  # machines of one process; only the first one has the project's folder
        os.environ.update(LOCAL_WORLD_SIZE="1", LOCAL_RANK="0", GROUP_WORLD_SIZE="2")
        if rank:
            hide(project)
    if job.shard == "hybrid":  # machines of two processes
        os.environ.update(LOCAL_WORLD_SIZE="2", LOCAL_RANK=str(rank % 2))
    torch.set_num_threads(1)
    config, real_log, real_block = job.config(project), Run.log, blocks.run_block
    seen = {"fused": 0, "held": 0, "all": 0}

    def log(self: Run, step: int, *args: Any, **kwargs: Any) -> None:
        real_log(self, step, *args, **kwargs)
        if part < len(job.sizes) - 1:
            interrupt()

    def run_block(*args: Any, **kwargs: Any) -> Any:
        seen["fused"] += 1
        return real_block(*args, **kwargs)

    real_updater = Updater.__init__

    def made(self: Updater, *args: Any, **kwargs: Any) -> None:
        real_updater(self, *args, **kwargs)
        for tensor in self._masters:
            seen["held"] += here(tensor).numel()
            seen["all"] += tensor.numel()

    Run.log, blocks.run_block, Updater.__init__ = log, run_block, made
    sharding.run_block = run_block
    with start_world("cpu", wait_minutes=2):
        try:
            train(resumed(config) if part else config)
        except Interrupted:
            assert part < len(job.sizes) - 1
    (project / f"{job.out}.{part}.{rank}.json").write_text(json.dumps(seen))


def run(job: Job, project: Path) -> float:
    """Do a job; the seconds that it took."""
    began = time.monotonic()
    for part, size in enumerate(job.sizes):
        port = free_port()
        outputs = [project / f"{job.out}.{part}.{rank}.out" for rank in range(size)]
        children = [
            fork(partial(work, job, part, rank, port, project), output) for rank, output in enumerate(outputs)
        ]
        codes = [ended(child) for child in children]
        assert codes == [0] * size, "\n".join(output.read_text() for output in outputs)
    return time.monotonic() - began


def differences(ours: Path, theirs: Path) -> tuple[float, float]:
    """The largest difference of two finished runs' weights, and of their metrics, relative where these are above 1."""
    a, b = weights_of(ours / "final"), weights_of(theirs / "final")
    assert a.keys() == b.keys()
    weights = max((a[name] - b[name]).abs().max().item() for name in a)
    metrics = 0.0
    for row, other in zip(metrics_of(ours), metrics_of(theirs), strict=True):
        shared = {name for name in row if row[name] == row[name] and name != "ratio"}
        metrics = max(metrics, *(abs(row[n] - other[n]) / max(1.0, abs(other[n])) for n in shared))
    return weights, metrics


def table(folder: Path, stages: Sequence[str]) -> None:
    """Stages beside one process."""
    project = make_project(folder / "project")
    print(
        "| stage | steps | full, 2 processes: weights, metrics | hybrid, 2 x 2 | 2, then 1, then 3 | resumed |"
    )
    print("| --- | --- | --- | --- | --- | --- |")
    far: list[str] = []
    for stage in stages:
        alone = replace(Job.read(f"{stage}:1:none"), steps=10)
        run(alone, project)
        cells = []
        for text in (f"{stage}:2:full", f"{stage}:4:hybrid", f"{stage}:2,1,3:full"):
            job = replace(Job.read(text), steps=10)
            run(job, project)
            weights, metrics = differences(project / job.out, project / alone.out)
            cells.append(f"{weights:.0e}, {metrics:.0e}")
            far += [text] if not weights <= MOST.get(stage, 1e-5) else []
        again = replace(Job.read(f"{stage}:2,2:full"), steps=10)
        run(again, project)
        same = differences(project / again.out, project / out_of(f"{stage}:2:full")) == (0.0, 0.0)
        cells.append("to the bit" if same else "DIFFERS")
        far += [] if same else [again.text]
        steps = len(metrics_of(project / alone.out))
        print(f"| {stage} | {steps} | {' | '.join(cells)} |", flush=True)
    if far:
        sys.exit(f"not equal: {', '.join(far)}")


def main() -> None:
    if sys.argv[1] == "table":
        table(Path(sys.argv[2]), sys.argv[3:] or TABLE)
        return
    project = Path(sys.argv[1])
    for text in sys.argv[2:]:
        run(Job.read(text), project)


if __name__ == "__main__":
    main()
