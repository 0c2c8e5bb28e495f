"""Comparisons as reward models see them: the ambiguous and the wrong ones left out, or the wrong ones flipped.

A reward model trained on noisy labels still agrees with most of them; what it finds ambiguous, or orders the other way, is where noise is
densest (arXiv:2401.06080, with the mean of several models; arXiv:2408.12799). Training again on the rest is the use of it. Labels that say
themselves how sure they are (`p_soft`, `margin`) can be filtered without a model.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefloop.configs.filter import FilterConfig
from prefloop.configs.scorers import scorers_named
from prefloop.data import write_jsonl
from prefloop.errors import InputError
from prefloop.loop.inputs import comparisons, plain_comparisons
from prefloop.loop.scoring import bring_scorers
from prefloop.records import Comparison
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import World, start_world
from prefloop.text import load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Filtered:
    """What became of comparisons."""

    kept: tuple[Comparison, ...]
    agreed: int
    ambiguous: int
    """Left out."""
    disagreed: int
    """Left out, flipped or kept, as asked."""


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


def unambiguous(
    records: Sequence[Comparison], *, least_certainty: float, least_margin: float
) -> tuple[Comparison, ...]:
    """Comparisons whose own label is sure enough: |p_soft - 1/2| and the margin, where one is given, are no smaller than these."""
    return tuple(
        record
        for record in records
        if abs(record.p_soft - 0.5) >= least_certainty
        and (record.margin == 0 or abs(record.margin) >= least_margin)
    )


def filter_comparisons(config: FilterConfig) -> str:
    """Leave out what is ambiguous by its label, score the rest, write those that are kept, and say what became of the others; the file."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    bring_scorers(world, *config.reward_models)
    given, summary = _read(config, world)
    records = unambiguous(
        given, least_certainty=config.least_certainty, least_margin=config.least_said_margin
    )
    unsure = len(given) - len(records)
    kept, of_models = _by_models(config, records, world)
    found = f"{len(kept)} of {len(given)} comparisons; ambiguous by their own label {unsure} (left out){of_models}"
    if not kept:
        raise InputError(
            f"nothing is left: {found}; lower least_margin, least_certainty or least_said_margin"
        )

    def write() -> None:
        write_jsonl(kept, Path(config.out))
        print(summary)
        print(f"{config.out}: {found}")

    world.on_main(write)
    return config.out


def _read(config: FilterConfig, world: World) -> tuple[tuple[Comparison, ...], str]:
    """The comparisons; those that a model is to read are checked for length."""
    names = (named for given in config.reward_models for named in scorers_named(given))
    readers = [named.name for named in names if named.kind != "function"]
    if not readers:
        return world.on_main(lambda: plain_comparisons(config.data, config.store))
    tokenizer = load_tokenizer(readers[0], trust_remote_code=config.compute.trust_remote_code)
    read = comparisons(config.data, tokenizer, config.store, world)
    return (*read.train.records, *read.heldout.records), read.read.summary


def _by_models(
    config: FilterConfig, records: Sequence[Comparison], world: World
) -> tuple[Sequence[Comparison], str]:
    """Those that the models keep, and what they said in words; all and nothing where there is no model."""
    if not (config.reward_models and records):
        return records, ""
    scorer = EnsembleScorer.load(config.reward_models, config.compute, world, rules=config.reward)
    prompts = [record.prompt.in_context(record.context) for record in records]
    data = config.data
    cut = (data.max_prompt_tokens, data.max_completion_tokens) if data.overlong == "truncate" else None
    texts = [(record.chosen, record.rejected) for record in records]
    scores = scorer.of_texts(prompts, texts, budgets=cut)
    better, worse = scores.view(-1, 2).unbind(1)
    result = filter_by_margin(
        records, (better - worse).tolist(), least=config.least_margin, disagreed=config.disagreed
    )
    done = {"drop": "left out", "flip": "flipped", "keep": "kept"}[config.disagreed]
    return result.kept, (
        f"; the models agree with {result.agreed}, find {result.ambiguous} ambiguous (left out) "
        f"and disagree with {result.disagreed} ({done})"
    )
