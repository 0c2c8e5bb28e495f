"""prefloop beside TRL, in one run: `make bench`, or

    python -m bench.versus --data COMPARISONS [--only dpo-small ...] [--steps 5]

Every contender of a case is a process of its own that has loaded the same model and data. After warm steps they take turns, a step each (a round,
where the method samples), so that whatever else the machine does falls on all alike. Contenders: prefloop, also with `--compute.dtype bfloat16`;
TRL as installed; TRL in an environment tuned by hand (no page faults for large tensors, `set_float32_matmul_precision("medium")`), and for SFT
also with its packing.

The first step's loss must agree to 1e-4 where both sides define the same one. Printed, and written to `--out`: median seconds a step, the ratio to
prefloop, real tokens a second (padding does not count), peak memory of the process, and the least work the step needs over its time, also as a
share of what a large float32 product reaches here.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from bench.versus.cases import CASES, SIZES, Conditions, batch_size, flops
from bench.versus.contender import ROOT, Contender, ContenderError, ours, theirs
from bench.versus.environment import make_environment
from bench.versus.material import Material, make_material
from prefloop.cli.program import SPIN

TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "TUNED": "1",
}
COARSE = "prefloop, bfloat16"
"""Its weights in products, and activations, have eight bits: beside the others for its speed, and outside the check of the first loss. Left out where
the processor would have to emulate it."""
LOSS_TOLERANCE = 1e-4
ANOTHER_LOSS = {
    "orpo": "TRL's likelihood term counts the prompt's tokens too",
    "ppo": "the samples differ",
    "grpo": "the samples differ",
    "rloo": "the samples differ",
    "generation": "nothing is trained",
}


class LossError(Exception):
    """The two sides computed different losses from the same batch."""


def run_case(
    case: str, folder: Path, peer: Path, warm: int, steps: int, logs: Path
) -> dict[str, dict[str, Any]]:
    """Contender -> what was measured."""
    stage, size = case.split("-")
    command, release = theirs(stage, folder / size, peer)
    own = ours(stage, folder / size)
    as_the_program_sets_it: dict[str, str] = dict([SPIN])
    entrants: dict[str, tuple[list[str], dict[str, str]]] = {
        "prefloop": (own, as_the_program_sets_it),
        "TRL": (command, release),
        "TRL tuned": (command, TUNED | release),
    }
    if torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        entrants[COARSE] = (own, as_the_program_sets_it | Conditions(bf16=True).environment())
    if stage == "sft":
        entrants["TRL tuned, packing"] = (command, {**TUNED, "PACKING": "1"})
    with ExitStack() as stack:
        contenders = [
            stack.enter_context(
                Contender(name, command, environment, logs / f"{case}-{name}.log".replace(" ", "_"))
            )
            for name, (command, environment) in entrants.items()
        ]
        for _ in range(warm + steps):
            for contender in contenders:
                contender.step()
        return {
            contender.name: {
                "seconds": statistics.median(step["seconds"] for step in contender.steps[warm:]),
                "all_seconds": [round(step["seconds"], 4) for step in contender.steps],
                "first_loss": contender.steps[0].get("loss"),
                "packed_tokens": _tokens_a_step(contender.steps[warm - 1 :]),
                **contender.facts,
                "peak_mb": contender.close(),
            }
            for contender in contenders
        }


def _tokens_a_step(steps: list[dict[str, Any]]) -> float:
    """By the trainer's own count, where it keeps one."""
    first, last = (step.get("tokens_so_far") or 0.0 for step in (steps[0], steps[-1]))
    return (last - first) / (len(steps) - 1)


def check_losses(case: str, result: Mapping[str, Mapping[str, Any]]) -> None:
    """Where both sides took the same batch and define the same loss, the first one is the same."""
    if case.split("-")[0] in ANOTHER_LOSS:
        return
    ours = result["prefloop"]["first_loss"]
    for name, row in result.items():
        if "packing" in name or name == COARSE:  # packing: other records are in its first batch
            continue
        # What TRL logs is rounded to four places.
        if abs(row["first_loss"] - round(ours, 4)) > LOSS_TOLERANCE + 1e-9:
            raise LossError(f"the first loss of {name} is {row['first_loss']}, of prefloop {ours}")


def add_rates(case: str, result: dict[str, dict[str, Any]], material: Material, measured: range) -> None:
    """Tokens a second and the least work a second, from what the measured steps had to do."""
    stage, size = case.split("-")
    works = [material.work(stage, step) for step in measured]
    tokens = statistics.fmean(work.head_tokens if stage == "generation" else work.tokens for work in works)
    least = statistics.fmean(flops(stage, work, SIZES[size]) for work in works)
    # The reference's one pass over the data belongs to the steps that use it.
    passes = len(material.comparisons) * (2 if stage == "kto" else 1) / batch_size(stage)
    for name, row in result.items():
        row["seconds"] += row.get("reference_seconds", 0.0) / passes
        # Packed rows hold other records than ours, and more of them.
        own = row["packed_tokens"] if "packing" in name else tokens
        row |= {
            "tokens_a_second": own / row["seconds"],
            "gflops": least / tokens * own / row["seconds"] / 1e9,
        }


def limit_gflops(seconds: float = 2.0) -> float:
    """Float32 operations a second of a large matrix product, in billions: the best of many, as no other work should count against it."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    best, began = float("inf"), time.perf_counter()
    while time.perf_counter() - began < seconds:
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 2048**3 / best / 1e9


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a case failed, which does not keep the others from being measured."""
    given = _arguments(argv)
    given.out.mkdir(parents=True, exist_ok=True)
    cases = given.only or CASES
    peer = make_environment(given.environment.absolute())
    limit = 0.0
    results: dict[str, dict[str, dict[str, Any]]] = {}
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = make_material(Path(folder), given.data, {case.split("-")[1] for case in cases})
        for case in cases:
            limit = max(limit, limit_gflops())  # the machine may be busy at one time and not at another
            began = time.perf_counter()
            try:
                result = run_case(case, Path(folder), peer, given.warm, given.steps, given.out)
                check_losses(case, result)
            except (ContenderError, LossError) as error:
                failures[case] = str(error)
                print(f"{case} failed: {error}", file=sys.stderr, flush=True)
            else:
                measured = range(given.warm, given.warm + given.steps)
                add_rates(case, result, made[case.split("-")[1]], measured)
                results[case] = result
                print(_lines(case, result, limit), flush=True)
                (given.out / f"{case}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
            print(f"{case:16s} took {time.perf_counter() - began:.0f} s in all", flush=True)
            (given.out / "table.md").write_text(_table(results, failures, limit), encoding="utf-8")
    print(f"\n{_table(results, failures, limit)}")
    return 1 if failures else 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--environment", type=Path, default=ROOT / ".venv-trl", help="where TRL is, or is put"
    )
    parser.add_argument(
        "--data", default="", help="comparisons; without it those of a toy world, which are short"
    )
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--steps", type=_positive, default=5, help="measured steps of each contender")
    parser.add_argument("--warm", type=_positive, default=2, help="steps before them, at least one")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _table(
    results: Mapping[str, Mapping[str, Mapping[str, Any]]], failures: Mapping[str, str], limit: float
) -> str:
    """The page's table of the cases so far, and below it those that failed, each with the first line of why."""
    said = f"{limit:.0f} GFLOP/s in float32, {torch.get_num_threads()} threads, torch {torch.__version__}"
    rows = [*HEADINGS, *(_row(case, result, limit) for case, result in results.items())]
    failed = [f"- {case} failed: {why.splitlines()[0]}" for case, why in failures.items()]
    lines = [f"Limit of a large matrix product, the best seen: {said}", "", *rows]
    return "\n".join([*lines, *(["", *failed] if failed else []), ""])


HEADINGS = (
    "| case | prefloop | TRL | TRL tuned | real tokens/s | memory | TRL's | of the limit | most possible against TRL | in bfloat16 |",
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: | --: |",
)


def _row(case: str, result: Mapping[str, Mapping[str, Any]], limit: float) -> str:
    """A line of the page's table: seconds of ours; times as many of theirs, by tokens where they pack; the limit over what TRL reaches."""
    ours, installed = result["prefloop"], result["TRL"]
    coarse = f"{result[COARSE]['seconds']:.2f} s" if COARSE in result else "—"
    tuned = [row for name, row in result.items() if name.startswith("TRL tuned")]
    best = max(tuned, key=lambda row: row["tokens_a_second"])
    times = [ours["tokens_a_second"] / row["tokens_a_second"] for row in (installed, best)]
    return (
        f"| {case} | {ours['seconds']:.2f} s | {times[0]:.1f}x | {times[1]:.1f}x | {ours['tokens_a_second']:.0f}"
        f" | {ours['peak_mb']:.0f} MB | {installed['peak_mb']:.0f} MB | {100 * ours['gflops'] / limit:.0f} % | {limit / installed['gflops']:.1f}x"
        f" | {coarse} |"
    )


def _lines(case: str, result: Mapping[str, Mapping[str, Any]], limit: float) -> str:
    ours = result["prefloop"]
    lines = [
        f"{case:16s} {name:19s} {row['seconds']:8.3f} s {row['seconds'] / ours['seconds']:6.2f}x"
        f" {row['tokens_a_second']:8.0f} tokens/s {ours['tokens_a_second'] / row['tokens_a_second']:6.2f}x"
        f" {row['peak_mb']:6.0f} MB {row['peak_mb'] / ours['peak_mb']:5.2f}x"
        f" {row['gflops']:6.1f} GFLOP/s {100 * row['gflops'] / limit:4.0f} %"
        for name, row in result.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
