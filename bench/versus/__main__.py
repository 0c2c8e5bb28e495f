"""prefloop beside TRL, in one run: `make bench`, or

    python -m bench.versus --data COMPARISONS [--only dpo-small ...] [--steps 5]
    python -m bench.versus --data COMPARISONS --model FOLDER --only dpo-smol dpo-smol-lora ... [--alone]

Cases of the size smol take a published model's folder, and train all its weights or adapters of rank 16.

Every contender of a case is a process of its own that has loaded the same model and data. After warm steps they take turns, a step each (a round,
where the method samples), so that whatever else the machine does falls on all alike; the others are stopped meanwhile. With `--alone` they run one
after the other instead, each while no other is loaded. Contenders: prefloop; TRL as installed; TRL in an environment tuned by hand (no page faults
for large tensors, `set_float32_matmul_precision("medium")`), and for SFT also with its packing; prefloop and the tuned TRL in bfloat16, where the
processor multiplies it.

The first step's loss must agree to 1e-4 where both sides define the same one. Printed, and written to `--out`: median seconds a step, the ratio to
prefloop, real tokens a second (padding does not count), peak memory of the process, and the least work the step needs over its time, also as a
share of what a large product of its type reaches here.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from bench.versus.cases import CASES, GIVEN_CASES, Size, conditions_of, flops
from bench.versus.contender import ROOT, Contender, ContenderError, ours, theirs
from bench.versus.environment import make_environment
from bench.versus.material import Material, make_material
from prefloop.cli.program import SPIN

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "TUNED": "1",
}
OURS, INSTALLED, BEST, PACKING = "prefloop", "TRL", "TRL tuned", "TRL tuned, packing"
COARSE, THEIR_COARSE = "prefloop, bfloat16", "TRL tuned, bfloat16"
"""Weights in products, and activations, have eight bits: beside the others for their speed, and outside the check of the first loss. Left out where
the processor would have to emulate it."""
CONTENDERS = (OURS, INSTALLED, BEST, PACKING, COARSE, THEIR_COARSE)
LOSS_TOLERANCE = 1e-4
ROUNDED_TOLERANCE = 1e-2
"""Of a contender whose float32 products are rounded to bfloat16: "medium" does that where the processor multiplies bfloat16."""
ANOTHER_LOSS = {
    "orpo": "TRL's likelihood term counts the prompt's tokens too",
    "ppo": "the samples differ",
    "grpo": "the samples differ",
    "rloo": "the samples differ",
    "generation": "nothing is trained",
    "reward-lora": "prefloop gives an adapter a head of its own",
}


class LossError(Exception):
    """The two sides computed different losses from the same batch."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How contenders are run."""

    names: tuple[str, ...] = CONTENDERS
    warm: int = 2
    steps: int = 5
    alone: bool = False
    """One after the other, each by itself, rather than in turns."""
    stopped: bool = True
    """Those that wait for their turn are stopped."""


def run_case(case: str, folder: Path, peer: Path, way: Way, logs: Path) -> dict[str, dict[str, Any]]:
    """Contender -> what was measured."""

    def start(name: str) -> Contender:
        command, environment = found[name]
        log = logs / f"{case}-{name}.log".replace(" ", "_")
        return Contender(name, command, environment, log, stopped=way.stopped)

    found = entrants(case, folder, peer, way.names)
    groups = [[name] for name in found] if way.alone else [list(found)]
    result: dict[str, dict[str, Any]] = {}
    for names in groups:
        with ExitStack() as stack:
            contenders = [stack.enter_context(start(name)) for name in names]
            for _ in range(way.warm + way.steps):
                for contender in contenders:
                    contender.step()
            result |= {contender.name: _measured(contender, way.warm) for contender in contenders}
    return result


def entrants(
    case: str, folder: Path, peer: Path, names: Sequence[str]
) -> dict[str, tuple[list[str], dict[str, str]]]:
    """Contender of a case -> its command and what to put into its environment."""
    stage, size, *_ = case.split("-")
    conditions = conditions_of(case)
    own, (command, release) = ours(stage, folder / size), theirs(stage, folder / size, peer)
    as_the_program_sets_it = dict([SPIN]) | conditions.environment()
    release = release | conditions.environment()
    coarse = replace(conditions, bf16=True).environment()
    every = {
        OURS: (own, as_the_program_sets_it),
        INSTALLED: (command, release),
        BEST: (command, TUNED | release),
        COARSE: (own, as_the_program_sets_it | coarse),
        THEIR_COARSE: (command, TUNED | release | coarse),
        PACKING: (command, TUNED | release | {"PACKING": "1"}),
    }
    left_out = set() if multiplies_bfloat16() else {COARSE, THEIR_COARSE}
    if stage != "sft":
        left_out.add(PACKING)
    return {name: entrant for name, entrant in every.items() if name in names and name not in left_out}


def multiplies_bfloat16() -> bool:
    """Whether the processor does, rather than oneDNN by emulation."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def _measured(contender: Contender, warm: int) -> dict[str, Any]:
    """Of its steps after the warm ones; ends it."""
    return {
        "seconds": statistics.median(step["seconds"] for step in contender.steps[warm:]),
        "all_seconds": [round(step["seconds"], 4) for step in contender.steps],
        "processor_seconds": [round(step["processor_seconds"], 4) for step in contender.steps],
        "first_loss": contender.steps[0].get("loss"),
        "packed_tokens": _tokens_a_step(contender.steps[warm - 1 :]),
        **contender.facts,
        "peak_mb": contender.close(),
    }


def _tokens_a_step(steps: list[dict[str, Any]]) -> float:
    """By the trainer's own count, where it keeps one."""
    first, last = (step.get("tokens_so_far") or 0.0 for step in (steps[0], steps[-1]))
    return (last - first) / (len(steps) - 1)


def check_losses(case: str, result: Mapping[str, Mapping[str, Any]]) -> None:
    """Where both sides took the same batch and define the same loss, the first one is the same."""
    stage, *_, last = case.split("-")
    if OURS not in result or stage in ANOTHER_LOSS or f"{stage}-{last}" in ANOTHER_LOSS:
        return
    ours = result[OURS]["first_loss"]
    for name, row in result.items():
        if name in (PACKING, COARSE, THEIR_COARSE):  # packing: other records are in its first batch
            continue
        allowed = ROUNDED_TOLERANCE if name == BEST and multiplies_bfloat16() else LOSS_TOLERANCE
        # What TRL logs is rounded to four places.
        if abs(row["first_loss"] - round(ours, 4)) > allowed + 1e-9:
            raise LossError(f"the first loss of {name} is {row['first_loss']}, of prefloop {ours}")


def add_rates(case: str, result: dict[str, dict[str, Any]], material: Material, size: Size, way: Way) -> None:
    """Tokens a second and the least work a second, from what the measured steps had to do."""
    stage, conditions = case.split("-")[0], conditions_of(case)
    works = [material.work(stage, step, conditions) for step in range(way.warm, way.warm + way.steps)]
    tokens = statistics.fmean(work.head_tokens if stage == "generation" else work.tokens for work in works)
    least = statistics.fmean(flops(stage, work, size, conditions) for work in works)
    # The reference's one pass over the data belongs to the steps that use it.
    passes = len(material.comparisons) * (2 if stage == "kto" else 1) / conditions.batch_size(stage)
    for name, row in result.items():
        row["seconds"] += row.get("reference_seconds", 0.0) / passes
        # Packed rows hold other records than ours, and more of them.
        own = row["packed_tokens"] if name == PACKING else tokens
        row |= {
            "tokens_a_second": own / row["seconds"],
            "gflops": least / tokens * own / row["seconds"] / 1e9,
        }


def limit_gflops(dtype: torch.dtype, seconds: float = 2.0) -> float:
    """Operations a second of a large matrix product, in billions: the best of many, as no other work should count against it."""
    a, b = torch.randn(2048, 2048, dtype=dtype), torch.randn(2048, 2048, dtype=dtype)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


@dataclass(kw_only=True, slots=True)
class Limits:
    """What a large product reaches, the best that was seen: the machine may be busy at one time and not at another."""

    wide: float = 0.0
    """In float32."""
    coarse: float = 0.0
    """In bfloat16; 0 where the processor does not multiply it."""

    def measure(self) -> None:
        """Once more."""
        self.wide = max(self.wide, limit_gflops(torch.float32))
        if multiplies_bfloat16():
            self.coarse = max(self.coarse, limit_gflops(torch.bfloat16))

    def share(self, name: str, row: Mapping[str, Any]) -> float:
        """What a contender reaches, in percent of its type's."""
        return 100 * row["gflops"] / (self.coarse if name in (COARSE, THEIR_COARSE) else self.wide)

    def __str__(self) -> str:
        coarse = f", {self.coarse:.0f} in bfloat16" if self.coarse else ""
        return f"{self.wide:.0f} GFLOP/s in float32{coarse}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a case failed, which does not keep the others from being measured."""
    given = _arguments(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    way = Way(
        names=tuple(given.contenders),
        warm=given.warm,
        steps=given.steps,
        alone=given.alone,
        stopped=given.stop_waiting,
    )
    cases = given.only or (CASES + (GIVEN_CASES if given.model else ()))
    peer = make_environment(given.environment.absolute())
    limits = Limits()
    results: dict[str, dict[str, dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {case.split("-")[1] for case in cases}
        made = make_material(Path(folder), given.data, sizes, given.model)
        for case in cases:
            limits.measure()
            began = time.perf_counter()
            try:
                result = run_case(case, Path(folder), peer, way, given.out)
                check_losses(case, result)
            except (ContenderError, LossError) as error:
                failures[case] = str(error)
                print(f"{case} failed: {error}", file=sys.stderr, flush=True)
            else:
                size = case.split("-")[1]
                add_rates(case, result, made[size], Size.of(Path(folder) / size / "policy"), way)
                results[case] = result
                print(_lines(case, result, limits), flush=True)
                (given.out / f"{case}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
            print(f"{case:16s} took {time.perf_counter() - began:.0f} s in all", flush=True)
            (given.out / "table.md").write_text(_table(results, failures, limits), encoding="utf-8")
    print(f"\n{_table(results, failures, limits)}")
    return 1 if failures else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--environment", type=Path, default=ROOT / ".venv-trl", help="where TRL is, or is put"
    )
    parser.add_argument(
        "--data", default="", help="comparisons; without it those of a toy world, which are short"
    )
    parser.add_argument(
        "--only",
        nargs="*",
        default=[],
        choices=(*CASES, *GIVEN_CASES),
        metavar="CASE",
        help="all, unless named",
    )
    parser.add_argument("--model", default="", help="folder of a published model, for the cases of size smol")
    parser.add_argument(
        "--contenders", nargs="+", default=list(CONTENDERS), choices=CONTENDERS, help="all, unless named"
    )
    parser.add_argument("--alone", action="store_true", help="each contender by itself, not in turns")
    parser.add_argument(
        "--stop-waiting",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="stop the processes of contenders that wait for their turn",
    )
    parser.add_argument("--steps", type=_positive, default=5, help="measured steps of each contender")
    parser.add_argument("--warm", type=_positive, default=2, help="steps before them, at least one")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    given = parser.parse_args(argv)
    if not given.model and any(case in GIVEN_CASES for case in given.only):
        parser.error(
            f"--only {' '.join(given.only)}: cases of size smol need --model, the folder of a published model"
        )
    return given


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _table(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]], failures: Mapping[str, str], limits: Limits
) -> str:
    """The page's table of the cases so far, and below it those that failed, each with the first line of why."""
    said = f"{limits}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    rows = [*HEADINGS, *(_row(case, result, limits) for case, result in results.items())]
    failed = [f"- {case} failed: {why.splitlines()[0]}" for case, why in failures.items()]
    lines = [f"Limit of a large matrix product, the best seen: {said}", "", *rows]
    return "\n".join([*lines, *(["", *failed] if failed else []), ""])


HEADINGS = (
    "| case | prefloop | TRL | TRL tuned | real tokens/s | memory | TRL's | of the limit | most possible against TRL"
    " | in bfloat16 | TRL tuned | memory | TRL's | of the limit |",
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
)


def _row(case: str, result: Mapping[str, Mapping[str, Any]], limits: Limits) -> str:
    """A line of the page's table: seconds of ours; times as many of theirs, by tokens where they pack; the limit over what TRL reaches."""
    tuned = [result[name] for name in (BEST, PACKING) if name in result]
    best = max(tuned, key=lambda row: row["tokens_a_second"], default=None)
    ours, installed, coarse, theirs = (result.get(name) for name in (OURS, INSTALLED, COARSE, THEIR_COARSE))
    cells = (
        _seconds(ours),
        _times(ours, installed),
        _times(ours, best),
        f"{ours['tokens_a_second']:.0f}" if ours else NONE,
        _memory(ours),
        _memory(installed or best),
        f"{limits.share(OURS, ours):.0f} %" if ours else NONE,
        f"{limits.wide / installed['gflops']:.1f}x" if installed else NONE,
        _seconds(coarse),
        _times(coarse, theirs),
        _memory(coarse),
        _memory(theirs),
        f"{limits.share(COARSE, coarse):.0f} %" if coarse else NONE,
    )
    return f"| {case} | {' | '.join(cells)} |"


_Measured = Mapping[str, Any] | None
NONE = "—"


def _seconds(row: _Measured) -> str:
    return f"{row['seconds']:.2f} s" if row else NONE


def _times(ours: _Measured, theirs: _Measured) -> str:
    return f"{ours['tokens_a_second'] / theirs['tokens_a_second']:.1f}x" if ours and theirs else NONE


def _memory(row: _Measured) -> str:
    return f"{row['peak_mb']:.0f} MB" if row else NONE


def _lines(case: str, result: Mapping[str, Mapping[str, Any]], limits: Limits) -> str:
    ours = result.get(OURS) or next(iter(result.values()))
    lines = [
        f"{case:16s} {name:19s} {row['seconds']:8.3f} s {row['seconds'] / ours['seconds']:6.2f}x"
        f" {row['tokens_a_second']:8.0f} tokens/s {ours['tokens_a_second'] / row['tokens_a_second']:6.2f}x"
        f" {row['peak_mb']:6.0f} MB {row['peak_mb'] / ours['peak_mb']:5.2f}x"
        f" {row['gflops']:6.1f} GFLOP/s {limits.share(name, row):4.0f} %"
        for name, row in result.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
