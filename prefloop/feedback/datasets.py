"""What the store gives to train on: records that pass the settings of `Selecting`, fixed as an export, and saved as a version of a dataset."""

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefloop.configs.common import HELDOUT, Selecting, require_selects
from prefloop.data.store import Export, Filters, Store
from prefloop.data.store.selecting import DISAGREEMENT, ROUNDING
from prefloop.data.store.values import AggregatedLabel, DatasetVersion, ExportKind, Part
from prefloop.errors import InputError
from prefloop.feedback.aggregated import AggregatedPair, aggregated_pairs
from prefloop.feedback.judged import pair_labels, read_judged, summary_of

COMMANDS: Mapping[str, str] = {
    "comparisons": "dpo",
    "rankings": "reward --loss all_pairs",
    "labels": "prefer --loss kto",
    "scores": "reward --loss regression",
    "demonstrations": "sft",
    "prompts": "ppo --reward_model REWARD",
}
"""Kind of records -> a command that trains on them."""


def command_for(version: DatasetVersion, store: str, *, runs: str = "RUNS") -> str:
    """A command that trains on a version, with its run below `runs`; the model is for the reader to fill in."""
    command = COMMANDS[version.export.kind]
    return (
        f"prefloop {command} --model MODEL --data store:{version.label} --store {shlex.quote(store)} "
        f"--out {shlex.quote(f'{runs}/{version.name}-{version.version}')}"
    )


def take(
    store: Store,
    kind: ExportKind,
    chosen: Selecting,
    *,
    part: Part = "all",
    heldout: float = HELDOUT,
    skip_bad: bool = False,
    path: str | Path | None = None,
) -> Export:
    """Fix what passes as an export, and write it to `path` if given; the same twice is one export.

    An annotator model is fitted on all labels that pass the other settings; `min_agreement` then leaves out pairs on which fewer annotators gave the
    label that the model finds likeliest.

    Raises `InputError` if a kind has no use for a setting, a name is not in the store, or nothing passes.
    """
    require_selects(chosen, kind)
    filters = Filters.of(chosen, part=part, heldout=heldout)
    if chosen.aggregate == "each":
        return store.export(kind, filters, path, skip_bad=skip_bad)
    shown = {**filters.to_json(), "aggregate": chosen.aggregate}
    every_label = replace(filters, min_agreement=0.0)
    pairs, left_out = aggregated_pairs(pair_labels(read_judged(store, every_label)), chosen.aggregate)
    agreed = [pair for pair in pairs if pair.agreement >= chosen.min_agreement - ROUNDING]
    counts = Counter(left_out)
    if len(agreed) < len(pairs):
        counts[DISAGREEMENT] += len(pairs) - len(agreed)
    if not agreed:
        raise InputError(
            f"{store.label}: no pair has a judgement for one side with {shown} ({summary_of(counts)}); label more, or filter less"
        )
    return store.export_aggregated(shown, [_fixed(pair) for pair in agreed], counts, path)


def save(
    store: Store,
    name: str,
    kind: ExportKind,
    chosen: Selecting,
    *,
    skip_bad: bool = False,
    note: str = "",
    annotator: int | None = None,
) -> tuple[DatasetVersion, bool]:
    """Save what passes as the next version of a dataset; whether it is new. With the same settings and nothing new judged it is the one before."""
    asked: dict[str, Any] = {**_as_json(chosen), **({"skip_bad": True} if skip_bad else {})}
    export = take(store, kind, chosen, skip_bad=skip_bad)
    return store.save_dataset(name, export.id, chosen=asked, note=note, annotator=annotator)


def _as_json(chosen: Selecting) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in chosen.stated.items()}


def _fixed(pair: AggregatedPair) -> AggregatedLabel:
    item = pair.judged[0]
    return AggregatedLabel(
        item=item.item,
        choice="a" if pair.comparison.chosen == item.completions[0] else "b",
        p_soft=pair.comparison.p_soft,
        judgements=tuple(judgement.judgement for judgement in pair.judged),
    )
