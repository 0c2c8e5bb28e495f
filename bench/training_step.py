"""Processor seconds of a training step, its share of the matrix-product limit, and where they go. One core, about a minute:

    OMP_NUM_THREADS=1 python -m bench.training_step dpo small --data COMPARISONS

Stages, models and batches are those of the comparison with TRL (`bench.versus`); without `--data` the comparisons are a toy world's, which are
short. Times are of whole steps less the sampling of completions, in processor time, which other processes do not lengthen as they do the clock's.
`--profile` prints where a step goes; `--set path.to.setting=value` changes the configuration, for example `--set compute.dtype=bfloat16`.
"""

import argparse
import dataclasses
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from bench.versus.cases import GIVEN, OFFLINE, ONLINE, PAIRS, SIZES, Conditions, Size, flops
from bench.versus.material import make_material, read_material
from bench.versus.ours import in_order, settings_of
from prefloop.loop import batches
from prefloop.loop.sources import PromptSource
from prefloop.runtime import Run
from prefloop.runtime.tune import peak_rss_mb

RECORDS = 10 * PAIRS
"""Kept of the data: the reference reads them all once."""


def changed(config: Any, path: str, value: str) -> Any:
    """The configuration with one setting changed, `compute.dtype` for example."""
    name, _, rest = path.partition(".")
    old = getattr(config, name)
    new = (
        changed(old, rest, value)
        if rest
        else (value == "true" if isinstance(old, bool) else type(old)(value))
    )
    return dataclasses.replace(config, **{name: new})


def shorten(material: Path) -> None:
    """Leave the first rows."""
    for name in ("comparisons", "demonstrations", "labels"):
        file = material / f"{name}.jsonl"
        rows = file.read_text(encoding="utf-8").splitlines(keepends=True)
        file.write_text("".join(rows[:RECORDS]), encoding="utf-8")


class Sampling:
    """Processor seconds spent in drawing completions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        setattr(PromptSource, "draw_of", self._timed(PromptSource.draw_of))  # noqa: B010

    def _timed(self, work: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return work(*arguments, **named)
            finally:
                self.seconds += time.process_time() - began

        return timed


def matmul_gflops(rows: int = 2048, width: int = 768) -> float:
    """What one large float32 product reaches, the best of several, per processor second."""
    a, b, out = torch.randn(rows, width), torch.randn(width, width), torch.empty(rows, width)
    best = 0.0
    for _ in range(6):
        began = time.process_time()
        torch.mm(a, b, out=out)
        best = max(best, 2e-9 * rows * width * width / (time.process_time() - began))
    return best


def run(stage: str, material: Path, steps: int, changes: list[str], *, profile: bool) -> dict[str, Any]:
    """Time steps of a stage; the first two warm up."""
    config, train = settings_of(stage, material, steps)
    for change in changes:
        config = changed(config, *change.split("=", 1))
    size, held, conditions = Size.of(material / "policy"), read_material(material), Conditions.told()
    sampling = Sampling()
    seconds: list[float] = []
    limits: list[float] = []
    losses: list[float] = []
    faults: list[int] = []
    real = Run.steps

    def timed(self: Run, **kwargs: Any) -> Iterator[int]:
        for step in real(self, **kwargs):
            limits.append(matmul_gflops())
            sampling.seconds = 0.0
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            began = time.process_time()
            with _profiled(on=profile and step == 3):
                yield step
            seconds.append(time.process_time() - began - sampling.seconds)
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
            losses.append(self.last_metrics.get("loss", 0.0))

    batches.Batches.at = in_order
    Run.steps = timed  # pyright: ignore[reportAttributeAccessIssue]
    train(config)
    works = [held.work(stage, step, conditions) for step in range(len(seconds))]
    # Of a round's passes forward, one is the sampling, whose time does not count here.
    sampled = [work.flops(size, scored=1) if stage in ONLINE else 0.0 for work in works]
    least = [
        1e-9 * (flops(stage, work, size, conditions) - less)
        for work, less in zip(works, sampled, strict=True)
    ]
    later = slice(2, None)
    reached = [each / took for each, took in zip(least[later], seconds[later], strict=True)]
    shares = [each / of for each, of in zip(reached, limits[later], strict=True)]
    return {
        "stage": stage,
        "cpu_s": round(statistics.median(seconds[later]), 4),
        "cpu_s_least": round(min(seconds[later]), 4),
        "gflop": round(statistics.median(least[later]), 2),
        "gflops": round(statistics.median(reached), 1),
        "matmul_gflops": round(statistics.median(limits), 1),
        "of_matmul": round(statistics.median(shares), 3),
        "faults": int(statistics.median(faults[later])),
        "peak_mb": round(peak_rss_mb()),
        "first_losses": losses[:3],
    }


@contextmanager
def _profiled(*, on: bool) -> Iterator[None]:
    if not on:
        yield
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        yield
    print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=28, max_name_column_width=60))


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=(*OFFLINE, *ONLINE))
    parser.add_argument("size", choices=(*SIZES, GIVEN))
    parser.add_argument("--model", default="", help="folder of the published model that is the size smol")
    parser.add_argument("--data", default="", help="comparisons; without it those of a toy world")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--keep", default="", help="folder for models and data, to use them again")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(given.keep or scratch)
        if not (folder / given.size / "prompts.jsonl").exists():
            make_material(folder, given.data, [given.size], given.model)
            shorten(folder / given.size)
        found = run(given.stage, folder / given.size, given.steps, given.set, profile=given.profile)
        print(json.dumps(found))


if __name__ == "__main__":
    main()
