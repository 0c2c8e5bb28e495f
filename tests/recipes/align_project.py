"""A tiny model and comparisons for the tests of `align`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefloop.configs.align import AlignConfig, PlanConfig, Preferences
from prefloop.configs.common import Compute
from prefloop.data import write_jsonl
from prefloop.records import Comparison
from tests.tiny_project import WORLD, make_model

CPU = Compute(device="cpu")


def make_project(folder: Path, *, count: int = 400) -> Path:
    """A model, and comparisons in which the longer reply is chosen."""
    make_model(folder / "model")
    replies = WORLD.demonstrations(count)
    pairs: list[Comparison] = []
    for this, other in zip(replies[::2], replies[1::2], strict=True):
        short, long = sorted((this.completion, other.completion), key=len)
        if short != long:
            pairs.append(Comparison(prompt=this.prompt, chosen=long, rejected=short, annotator="ann"))
    write_jsonl(pairs, folder / "pairs.jsonl")
    return folder


def planned(project: Path, **changes: Any) -> PlanConfig:
    """Settings of `plan` for it."""
    basic = PlanConfig(
        model=str(project / "model"), data=Preferences(source=str(project / "pairs.jsonl")), compute=CPU
    )
    return replace(basic, **changes)


def aligned(project: Path, out: Path, **changes: Any) -> AlignConfig:
    """Settings of `align` for it: short completions, few prompts."""
    basic = AlignConfig(
        model=str(project / "model"),
        data=Preferences(source=str(project / "pairs.jsonl"), max_completion_tokens=100),
        compute=CPU,
        out=str(out),
        eval_prompts=8,
        yes=True,
    )
    return replace(basic, **changes)
