"""Comparisons as reward models see them: the ambiguous and the wrong ones left out, or the wrong ones turned round.

A reward model trained on noisy labels still agrees with most of them; what it finds ambiguous, or orders the other way, is where noise is
densest (arXiv:2401.06080, with the mean of several models). Training again on the rest is the use of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefloop.algorithms.inputs import comparisons
from prefloop.configs.filter import FilterConfig
from prefloop.data import write_jsonl
from prefloop.errors import InputError
from prefloop.records import Comparison
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Filtered:
    """What became of comparisons."""

    kept: tuple[Comparison, ...]
    agreed: int
    ambiguous: int
    """Left out."""
    disagreed: int
    """Left out, turned round or kept, as asked."""


def filter_by_margin(
    records: Sequence[Comparison],
    margins: Sequence[float],
    *,
    least: float,
    disagreed: Literal["drop", "flip", "keep"],
) -> Filtered:
    """Sort comparisons by the margin of chosen over rejected: |margin| below `least`, or exactly zero, is ambiguous."""
    kept: list[Comparison] = []
    counts = {"agreed": 0, "ambiguous": 0, "disagreed": 0}
    for record, margin in zip(records, margins, strict=True):
        if abs(margin) < least or margin == 0:
            counts["ambiguous"] += 1
        elif margin > 0:
            counts["agreed"] += 1
            kept.append(record)
        else:
            counts["disagreed"] += 1
            if disagreed != "drop":
                kept.append(record.swap() if disagreed == "flip" else record)
    return Filtered(kept=tuple(kept), **counts)


def filter_comparisons(config: FilterConfig) -> str:
    """Score all comparisons of a source, write those that are kept, and say what became of the others; the file."""
    world = start_world(config.compute.device)
    tokenizer = load_tokenizer(config.reward_models[0], trust_remote_code=config.compute.trust_remote_code)
    read = comparisons(config.data, tokenizer, config.store, world)
    records = (*read.train.records, *read.heldout.records)
    scorer = EnsembleScorer.load(config.reward_models, config.compute, world)
    prompts = [record.prompt for record in records]
    chosen = scorer(prompts, [record.chosen for record in records])
    rejected = scorer(prompts, [record.rejected for record in records])
    margins = [better - worse for better, worse in zip(chosen, rejected, strict=True)]
    result = filter_by_margin(records, margins, least=config.least_margin, disagreed=config.disagreed)
    if not result.kept:
        raise InputError(
            f"none of {len(records)} comparisons is kept ({result.ambiguous} ambiguous, {result.disagreed} disagreed with); lower least_margin"
        )

    def write() -> None:
        write_jsonl(result.kept, Path(config.out))
        done = {"drop": "left out", "flip": "turned round", "keep": "kept"}[config.disagreed]
        print(read.read.summary)
        print(
            f"{config.out}: {len(result.kept)} of {len(records)} comparisons; the models agree with {result.agreed}, "
            f"find {result.ambiguous} ambiguous (left out) and disagree with {result.disagreed} ({done})"
        )

    world.on_main(write)
    return config.out
