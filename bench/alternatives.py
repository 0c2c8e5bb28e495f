"""Other ways to do a training step of DPO, each beside the one that is there, in turns, in processor time:

    OMP_NUM_THREADS=1 python -m bench.alternatives compile --size tiny
    OMP_NUM_THREADS=1 python -m bench.alternatives checkpointing --size small --length 1024 --pairs 4
    OMP_NUM_THREADS=1 python -m bench.alternatives chunks --size small

`compile`: the model's own layers in place of the fused ones, as they are and by `torch.compile` (all but attention itself), with changing lengths as
symbols (dynamic) or each length compiled by itself (static), or only their norms and feed-forward parts. `checkpointing`:
`--compute.gradient_checkpointing`. `chunks`: logits that the head computes at a time, and probabilities that it keeps for the backward pass.

A step is the policy's forward and backward pass over `--pairs` comparisons of random tokens, with `--length` tokens at most in a sequence and half as
many at least; a Llama with random weights, float32. The first pass over the batches shows compilation; the figures are from those after it: the sum
over batches of each one's median, over their number.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bench.gpu.material import Size, comparisons
from bench.scaling import make_policy
from bench.versus.cases import SIZES
from bench.versus.contender import Contender, ContenderError
from bench.versus.pace import Pace
from prefloop.configs.common import Compute, RunSettings
from prefloop.losses import dpo_loss, example_mean, sequence_sum
from prefloop.models import attention, head
from prefloop.models.load import load_policy
from prefloop.models.packing import Batch, pack
from prefloop.models.roles import Policy
from prefloop.runtime.tune import peak_rss_mb, tune

MEBI = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How a worker does the step, and which."""

    size: str
    length: int
    pairs: int
    batches: int
    fused: bool = True
    """The program's own operations where it has them; otherwise the modules', which is what can be compiled."""
    compile: Literal["", "layers", "parts"] = ""
    dynamic: bool = True
    checkpointing: bool = False
    chunk: int = head.CHUNK_ELEMENTS
    kept: int = head.KEPT_ELEMENTS


def compile_ways(plain: Way) -> dict[str, Way]:
    """What is there first, then the modules' own operations: as they are, and compiled."""
    modules = replace(plain, fused=False)
    return {
        "fused": plain,
        "the model's own layers": modules,
        "compiled layers, dynamic": replace(modules, compile="layers"),
        "compiled layers, static": replace(modules, compile="layers", dynamic=False),
        "compiled norms and feed-forward, dynamic": replace(modules, compile="parts"),
    }


def checkpointing_ways(plain: Way) -> dict[str, Way]:
    """Without and with."""
    return {"all kept": plain, "checkpointing": replace(plain, checkpointing=True)}


def chunk_ways(plain: Way) -> dict[str, Way]:
    """Chunks from half a mebi-element to sixteen, then other room for what is kept; those of the program first."""
    ways = {f"chunk {head.CHUNK_ELEMENTS / MEBI:g}M, kept {head.KEPT_ELEMENTS / MEBI:g}M": plain}
    for chunk in (0.5, 1, 2, 4, 8, 16):
        ways.setdefault(
            f"chunk {chunk:g}M, kept {plain.kept / MEBI:g}M", replace(plain, chunk=int(chunk * MEBI))
        )
    for kept in (0, 64):
        ways[f"chunk {plain.chunk / MEBI:g}M, kept {kept}M"] = replace(plain, kept=kept * MEBI)
    return ways


WAYS: Mapping[str, Callable[[Way], dict[str, Way]]] = {
    "compile": compile_ways,
    "checkpointing": checkpointing_ways,
    "chunks": chunk_ways,
}


def batches_of(way: Way) -> list[Batch]:
    """Rows of changing length."""
    half = way.length // 2
    model, pairs = SIZES[way.size], way.pairs * way.batches
    groups = comparisons(Size(model=model, prompt=half, completion=half, pairs=pairs, sampled=0))
    return [pack(groups[start : start + way.pairs]) for start in range(0, pairs, way.pairs)]


def policy_of(way: Way) -> Policy:
    """Random weights, the way set up."""
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(Path(folder), way.size)
        if way.checkpointing:
            policy = load_policy(folder, Compute(device="cpu", gradient_checkpointing=True))
    if not way.fused:
        policy.way = "packed"
    if way.compile:
        # Attention over stretches of changing length stays as it is: its many small loops would be compiled anew for each row.
        attention.attend = torch.compiler.disable(attention.attend)
        torch._dynamo.config.recompile_limit = 64  # pyright: ignore[reportAttributeAccessIssue]
        for layer in policy.model.get_decoder().layers:  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue, reportOptionalIterable, reportCallIssue]
            parts: tuple[nn.Module, ...] = (
                (layer,)
                if way.compile == "layers"
                else (layer.mlp, layer.input_layernorm, layer.post_attention_layernorm)
            )
            for part in parts:
                part.compile(dynamic=way.dynamic)
    return policy


def step(way: Way, policy: Policy, batch: Batch) -> Tensor:
    """DPO's loss against a reference that is uniform over the vocabulary; gradients take the place of the last ones."""
    head.CHUNK_ELEMENTS, head.KEPT_ELEMENTS = way.chunk, way.kept
    policy.zero_grad(set_to_none=False)
    with policy.active():
        ours = sequence_sum(policy(batch), batch.completion_mask)
    theirs = -math.log(policy.head().weight.shape[0]) * batch.completion_mask.sum(1)
    losses = dpo_loss(ours[0::2], ours[1::2], theirs[0::2], theirs[1::2], beta=0.1)
    loss = example_mean(losses, examples=len(losses))
    loss.backward()
    return loss.detach()


def work(way: Way) -> None:
    """A worker: a step of the next batch whenever the parent says so."""
    pace = Pace()
    tune(RunSettings(out="unused"))
    policy, batches, turn = policy_of(way), batches_of(way), 0
    pace.ready()
    while True:
        with pace.step() as answer:
            answer["loss"] = float(step(way, policy, batches[turn % way.batches]))
            if way.compile:
                counters = torch._dynamo.utils.counters  # pyright: ignore[reportAttributeAccessIssue]
                answer["graphs"] = counters["stats"]["unique_graphs"]
                answer["breaks"] = sum(counters["graph_break"].values())
        turn += 1


class Here:
    """A way that needs no process of its own: only the head's constants differ."""

    def __init__(self, way: Way, policy: Policy, batches: Sequence[Batch]) -> None:
        self.steps: list[dict[str, Any]] = []
        self._way, self._policy, self._batches = way, policy, batches

    def step(self) -> None:
        """One step of the next batch."""
        batch = self._batches[len(self.steps) % len(self._batches)]
        began = time.process_time()
        loss = float(step(self._way, self._policy, batch))
        self.steps.append({"loss": loss, "processor_seconds": time.process_time() - began})

    def close(self) -> float:
        """Peak memory of this process, which is that of all ways."""
        return peak_rss_mb()


def start(ways: Mapping[str, Way], logs: Path, stack: ExitStack) -> dict[str, "Contender | Here"]:
    """A process for each way, or this one where they differ only in the head's constants."""
    first = next(iter(ways.values()))
    if all(replace(way, chunk=first.chunk, kept=first.kept) == first for way in ways.values()):
        tune(RunSettings(out="unused"))
        policy, batches = policy_of(first), batches_of(first)
        return {name: Here(way, policy, batches) for name, way in ways.items()}
    environment = {"TORCHINDUCTOR_COMPILE_THREADS": "1", "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"}
    workers: dict[str, Contender | Here] = {}
    for place, (name, way) in enumerate(ways.items()):
        command = [sys.executable, "-m", "bench.alternatives", "worker", "--way", json.dumps(asdict(way))]
        workers[name] = stack.enter_context(Contender(name, command, environment, logs / f"{place}.log"))
    return workers


def measure(ways: Mapping[str, Way], passes: int, logs: Path) -> dict[str, dict[str, Any]]:
    """Way -> seconds of the first pass and of a step after it, peak memory, what was compiled. A way that fails is named and left out."""
    count = next(iter(ways.values())).batches
    results: dict[str, dict[str, Any]] = {}
    with ExitStack() as stack:
        workers = start(ways, logs, stack)
        for turn in range((1 + passes) * count):
            for name, worker in tuple(workers.items()):
                try:
                    worker.step()
                except ContenderError as error:
                    print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                    del workers[name]
            took = ", ".join(
                f"{name} {worker.steps[-1]['processor_seconds']:.3f} s" for name, worker in workers.items()
            )
            print(f"step {turn + 1} of {(1 + passes) * count}: {took}", file=sys.stderr, flush=True)
        for name, worker in workers.items():
            results[name] = {**summary(worker.steps, count), "peak_mb": worker.close()}
    return results


def summary(steps: Sequence[Mapping[str, Any]], count: int) -> dict[str, Any]:
    """Of one way's steps, `count` a pass."""
    seconds = [each["processor_seconds"] for each in steps]
    later = [statistics.median(seconds[batch + count :: count]) for batch in range(count)]
    return {
        "first_pass": sum(seconds[:count]),
        "step": sum(later) / count,
        "losses": [each["loss"] for each in steps[:count]],
        "graphs": [each.get("graphs", 0) for each in steps[:count]],
        "breaks": steps[-1].get("breaks", 0),
    }


def show(results: Mapping[str, Mapping[str, Any]], count: int) -> None:
    """A Markdown table; differences of the loss from the first way's are told below it."""
    first = next(iter(results.values()))
    print(
        "| | first pass | a step | against the first | peak memory | graphs after each step | graph breaks |"
    )
    print("| --- | --: | --: | --: | --: | --- | --: |")
    for name, row in results.items():
        graphs = " ".join(map(str, row["graphs"])) if row["graphs"][-1] else ""
        print(
            f"| {name} | {row['first_pass']:.1f} s | {row['step']:.3f} s | {row['step'] / first['step']:.3f}"
            f" | {row['peak_mb']:.0f} MB | {graphs} | {row['breaks'] or ''} |"
        )
    apart = max(
        abs(ours - other)
        for row in results.values()
        for ours, other in zip(first["losses"], row["losses"], strict=True)
    )
    print(f"\n{count} batches a pass; the losses are at most {apart:.1e} apart")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and print; 1 where a way failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=(*WAYS, "worker"), metavar=" | ".join(WAYS))
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--batches", type=int, default=8, help="of changing length")
    parser.add_argument("--passes", type=int, default=3, help="over the batches, after the first")
    parser.add_argument("--way", help=argparse.SUPPRESS)
    given = parser.parse_args(argv)
    if given.what == "worker":
        work(Way(**json.loads(given.way)))
    plain = Way(size=given.size, length=given.length, pairs=given.pairs, batches=given.batches)
    ways = WAYS[given.what](plain)
    with tempfile.TemporaryDirectory() as folder:
        results = measure(ways, given.passes, Path(folder))
    show(results, given.batches)
    return 0 if len(results) == len(ways) else 1


if __name__ == "__main__":
    raise SystemExit(main())
