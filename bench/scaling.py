"""What a training step costs against the length of a sequence, the completions of a prompt, and the batch. Two minutes on two cores:

    python -m bench.scaling [--size small] [--out docs/performance]

A Llama with random weights, float32, forward and backward of a mean log-likelihood over packed rows of one kind. Printed, and drawn to
`scaling-*.svg`: seconds over real tokens (a prompt counts once, padding is not there). A step is linear in its tokens as far as matrices go;
attention adds what grows with the length of a sequence, drawn beside as the least that it takes. With OMP_NUM_THREADS=1 the seconds are the
processor's, which other work on the machine hardly lengthens.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from bench.versus.cases import SIZES, Work
from prefloop.configs.common import Compute, RunSettings
from prefloop.evaluation.curves import Series
from prefloop.evaluation.plots import Frame, line_chart, standalone
from prefloop.models.load import load_policy
from prefloop.models.packing import pack
from prefloop.models.roles import Policy
from prefloop.runtime.tune import tune
from prefloop.text import train_tokenizer
from prefloop.text.groups import Group

PROMPT = 64
LENGTHS = (128, 256, 512, 1024, 2048)
GROUPS = (1, 2, 4, 8, 16)
BATCHES = (4, 8, 16, 32, 64)
TOKENS = 4096
"""Of a step where the length varies: fewer sequences as they get longer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One measurement."""

    at: int
    """Length, completions of a prompt, or prompts."""
    groups: list[Group]
    work: Work


def make_policy(folder: Path, size: str) -> Policy:
    """Random weights of a size of the comparison with TRL."""
    shape = SIZES[size]
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        intermediate_size=shape.ffn,
        vocab_size=shape.vocabulary,
        max_position_embeddings=max(LENGTHS),
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    train_tokenizer(["a b c"], vocab_size=300).save_pretrained(folder)
    return load_policy(str(folder), Compute(device="cpu"))


def groups_of(count: int, *, prompt: int, completion: int, k: int, vocabulary: int) -> list[Group]:
    """So many prompts with `k` completions each, of random tokens."""
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(vocabulary, (length,), generator=generator).tolist()

    masks = tuple((True,) * completion for _ in range(k))
    return [
        Group(prompt=draw(prompt), completions=tuple(draw(completion) for _ in range(k)), masks=masks)
        for _ in range(count)
    ]


def point(at: int, count: int, *, prompt: int, completion: int, k: int, vocabulary: int) -> Point:
    """A batch and the least work it takes."""
    groups = groups_of(count, prompt=prompt, completion=completion, k=k, vocabulary=vocabulary)
    return Point(at=at, groups=groups, work=Work.of(count, prompt, [completion] * k))


def curves(vocabulary: int) -> Iterator[tuple[str, str, list[Point]]]:
    """Name, label of the axis, points."""
    yield (
        "length",
        "tokens of a sequence",
        [
            point(n, TOKENS // n, prompt=PROMPT, completion=n - PROMPT, k=1, vocabulary=vocabulary)
            for n in LENGTHS
        ],
    )
    yield (
        "group",
        "completions of a prompt",
        [point(k, 8, prompt=PROMPT, completion=64, k=k, vocabulary=vocabulary) for k in GROUPS],
    )
    yield (
        "batch",
        "sequences of 192 tokens",
        [point(n, n, prompt=PROMPT, completion=128, k=1, vocabulary=vocabulary) for n in BATCHES],
    )


def seconds(policy: Policy, points: list[Point], repeats: int) -> list[float]:
    """Median time of a forward and backward pass for each point; the points take turns."""
    times: list[list[float]] = [[] for _ in points]
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for repeat in range(repeats + 1):
        for place, each in enumerate(points):
            began = clock()
            with policy.active():
                logprobs = policy(pack(each.groups))
                (-logprobs.mean()).backward()
            if repeat:
                times[place].append(clock() - began)
            policy.zero_grad(set_to_none=False)
    return [statistics.median(each) for each in times]


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="tiny")
    parser.add_argument("--repeats", type=int, default=5, help="after one that is not counted")
    parser.add_argument("--out", type=Path, default=Path("docs/performance"))
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    print(tune(RunSettings(out="unused")))
    size = SIZES[given.size]
    with tempfile.TemporaryDirectory() as folder:
        policy = make_policy(Path(folder), given.size)
    for name, label, points in curves(size.vocabulary):
        measured = seconds(policy, points, given.repeats)
        per_token = [1e6 * s / each.work.tokens for s, each in zip(measured, points, strict=True)]
        # The least work a token, on the scale of the first point's time.
        least = [each.work.flops(size, trained=1) / each.work.tokens for each in points]
        expected = [per_token[0] * work / least[0] for work in least]
        for each, s, micro, work in zip(points, measured, per_token, least, strict=True):
            print(
                f"{given.size} {label} {each.at:5d}: {each.work.tokens:6d} tokens {s:8.3f} s"
                f" {micro:8.1f} us a token, {work * each.work.tokens / s / 1e9:6.1f} GFLOP/s"
            )
        at = [float(each.at) for each in points]
        drawing = line_chart(
            [
                Series(label="measured", x=at, y=per_token, slot=1),
                Series(label="if only the least work counted", x=at, y=expected, slot=2),
            ],
            title=f"Training step, {given.size}: cost of a token",
            x_label=label,
            y_label="microseconds a token",
            frame=Frame(include=(0.0,)),
        )
        (given.out / f"scaling-{name}-{given.size}.svg").write_text(standalone(drawing), encoding="utf-8")


if __name__ == "__main__":
    main()
