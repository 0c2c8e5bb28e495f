"""prefloop beside TRL, in one run: `make bench`, or

    python -m bench.versus --data COMPARISONS [--only dpo-small ...] [--steps 5]

Every contender of a case is a process of its own that has loaded the same model and data. After warm steps they take turns, a step each (a round,
where the method samples), so that whatever else the machine does falls on all alike. Contenders: prefloop; TRL as installed; TRL in an environment
tuned by hand (no page faults for large tensors, `set_float32_matmul_precision("medium")`), and for SFT also with its packing.

The first step's loss must agree to 1e-4 where both sides define the same one. Printed, and written to `--out`: median seconds a step, the ratio to
prefloop, real tokens a second (padding does not count), peak memory of the process, and the least work the step needs over its time, also as a
share of what a large float32 product reaches here.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bench.versus.cases import CASES, SIZES, batch_size, flops
from bench.versus.environment import make_environment, with_ppo
from bench.versus.material import Material, make_material

ROOT = Path(__file__).resolve().parents[2]
TUNED = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
    "TUNED": "1",
}
LOSS_TOLERANCE = 1e-4
ANOTHER_LOSS = {
    "orpo": "TRL's likelihood term counts the prompt's tokens too",
    "ppo": "the samples differ",
    "grpo": "the samples differ",
    "rloo": "the samples differ",
    "generation": "nothing is trained",
}


class Contender:
    """A worker process."""

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, **environment, "HF_HUB_OFFLINE": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log.open("w"),
            text=True,
        )
        self.facts = self._answer()
        self.steps: list[dict[str, Any]] = []

    def step(self) -> None:
        """One step, waited for."""
        self._write("go\n")
        self.steps.append(self._answer())

    def close(self) -> float:
        """End the process; its peak memory in MB."""
        self._write("stop\n")
        peak = self._answer()["peak_mb"]
        self._process.wait()
        return peak

    def _write(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text)
        self._process.stdin.flush()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} ended; the end of its log:\n{self.log.read_text()[-3000:]}")
        return json.loads(line)


def run_case(
    case: str, folder: Path, peer: Path, warm: int, steps: int, logs: Path
) -> dict[str, dict[str, Any]]:
    """Contender -> what was measured."""
    stage, size = case.split("-")
    worker = [stage, str(folder / size)]
    ours = [sys.executable, "-m", "bench.versus.ours", *worker]
    theirs = [str(peer), str(ROOT / "bench/versus/theirs.py"), *worker]
    release = {"PYTHONPATH": str(with_ppo(peer.parents[1]))} if stage == "ppo" else {}
    entrants: dict[str, tuple[list[str], dict[str, str]]] = {
        "prefloop": (ours, {}),
        "TRL": (theirs, release),
        "TRL tuned": (theirs, TUNED | release),
    }
    if stage == "sft":
        entrants["TRL tuned, packing"] = (theirs, {**TUNED, "PACKING": "1"})
    contenders = [
        Contender(name, command, environment, logs / f"{case}-{name}.log".replace(" ", "_"))
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
        if "packing" in name:  # other records are in its first batch
            continue
        # What TRL logs is rounded to four places.
        if abs(row["first_loss"] - round(ours, 4)) > LOSS_TOLERANCE + 1e-9:
            raise SystemExit(f"{case}: the first loss of {name} is {row['first_loss']}, of prefloop {ours}")


def add_rates(case: str, result: dict[str, dict[str, Any]], material: Material, measured: range) -> None:
    """Tokens a second and the least work a second, from what the measured steps had to do."""
    stage, size = case.split("-")
    works = [material.work(stage, step) for step in measured]
    tokens = statistics.fmean(work.head_tokens if stage == "generation" else work.tokens for work in works)
    least = statistics.fmean(flops(stage, work, SIZES[size]) for work in works)
    if "reference_seconds" in result["prefloop"]:
        # The reference's one pass over the data belongs to the steps that use it.
        records = len(material.comparisons) * (2 if stage == "kto" else 1)
        passes = records / batch_size(stage)
        result["prefloop"]["seconds"] += result["prefloop"]["reference_seconds"] / passes
    for name, row in result.items():
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


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--environment", type=Path, default=ROOT / ".venv-trl", help="where TRL is, or is put"
    )
    parser.add_argument(
        "--data", default="", help="comparisons; without it those of a toy world, which are short"
    )
    parser.add_argument("--only", nargs="*", default=list(CASES), choices=CASES, metavar="CASE")
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each contender")
    parser.add_argument("--warm", type=int, default=2, help="steps before them, at least one")
    parser.add_argument("--out", type=Path, default=Path("bench-results"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    peer = make_environment(given.environment.absolute())
    limit = 0.0
    results: dict[str, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        made = make_material(Path(folder), given.data)
        for case in given.only or CASES:
            limit = max(limit, limit_gflops())  # the machine may be busy at one time and not at another
            result = run_case(case, Path(folder), peer, given.warm, given.steps, given.out)
            check_losses(case, result)
            measured = range(given.warm, given.warm + given.steps)
            add_rates(case, result, made[case.split("-")[1]], measured)
            results[case] = result
            print(_lines(case, result, limit), flush=True)
            (given.out / f"{case}.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    said = f"{limit:.0f} GFLOP/s in float32, {torch.get_num_threads()} threads, torch {torch.__version__}"
    table = [*HEADINGS, *(_row(case, result, limit) for case, result in results.items())]
    text = "\n".join([f"Limit of a large matrix product, the best seen: {said}", "", *table, ""])
    (given.out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


HEADINGS = (
    "| case | prefloop | TRL | TRL tuned | real tokens/s | memory | TRL's | of the limit | most possible against TRL |",
    "| --- | --: | --: | --: | --: | --: | --: | --: | --: |",
)


def _row(case: str, result: Mapping[str, Mapping[str, Any]], limit: float) -> str:
    """A line of the page's table: seconds of ours; times as many of theirs, by tokens where they pack; the limit over what TRL reaches."""
    ours, installed, *tuned = (result[name] for name in result)
    best = max(tuned, key=lambda row: row["tokens_a_second"])
    times = [ours["tokens_a_second"] / row["tokens_a_second"] for row in (installed, best)]
    return (
        f"| {case} | {ours['seconds']:.2f} s | {times[0]:.1f}x | {times[1]:.1f}x | {ours['tokens_a_second']:.0f}"
        f" | {ours['peak_mb']:.0f} MB | {installed['peak_mb']:.0f} MB | {100 * ours['gflops'] / limit:.0f} % | {limit / installed['gflops']:.1f}x |"
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
    main()
