"""Comparisons made of several judgements of each pair, written for training, with how sure they are."""

import gzip
import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prefloop.errors import InputError
from prefloop.feedback.agreement import aggregate, preference
from prefloop.feedback.judged import JudgedItem, PairLabels
from prefloop.records import Comparison

How = Literal["each", "majority", "dawid_skene", "one_coin"]
ENOUGH = 80
"""Labels that an annotator model needs: from fewer its posterior is up to 5 points off (the table of docs/agreement.md)."""
DIGITS = 6
"""Of `p_soft` and of the share of votes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AggregatedPair:
    """One comparison and the judgements that it was made of."""

    comparison: Comparison
    """Its `p_soft` is how likely `chosen` is the better one."""
    agreement: float
    """Share of labels that are the likeliest one."""
    judged: tuple[JudgedItem, ...]

    def row(self, *, soft: bool) -> dict[str, Any]:
        """`{prompt, chosen, rejected, p_soft, votes, agreement, annotators}`; without `soft`, no `p_soft`, so that the label is certain."""
        one = self.comparison
        return {
            "prompt": one.prompt.to_json(),
            "chosen": one.chosen,
            "rejected": one.rejected,
            **({"p_soft": one.p_soft} if soft else {}),
            "votes": len(self.judged),
            "agreement": round(self.agreement, DIGITS),
            "annotators": [judgement.annotator for judgement in self.judged],
        }


def aggregated_pairs(table: PairLabels, how: How) -> tuple[list[AggregatedPair], dict[str, int]]:
    """Comparisons with soft labels, and the pairs that give none, by reason.

    `p_soft` is the majority's share or the model's posterior, in which a label that names no side counts a half. A pair whose likeliest answer
    is a tie or both-bad, or which two answers share, names no better one, nor does one with an empty completion, which loaders refuse. `each`
    gives one for every judgement that names a side, with `p_soft` 1. Raises `InputError` for an annotator model with fewer than `ENOUGH` labels.
    """
    left_out: Counter[str] = Counter()
    whole = [all(text.strip() for text in item.completions) for item in table.items]
    left_out.update({"empty completion": whole.count(False)} if not all(whole) else {})
    pairs: list[AggregatedPair] = []
    if how == "each":
        for cells in (cells for cells, kept in zip(table.judged, whole, strict=True) if kept):
            for cell in (cell for cell in cells if cell is not None):
                if cell.choice in ("a", "b"):
                    pairs.append(_pair((cell,), cell.choice == "a", 1.0, 1.0))
                else:
                    left_out[cell.choice] += 1
        return pairs, dict(left_out)
    labels = int(table.labels.counts.sum())
    if how != "majority" and labels < ENOUGH:
        raise InputError(
            f"aggregate is {how}, but there are {labels} labels; fewer than {ENOUGH} do not show who errs, so set it to majority"
        )
    found = aggregate(table.labels, how)
    soft = preference(found.probability)
    for at in (at for at, kept in enumerate(whole) if kept):
        label = int(found.label[at])
        if label not in (0, 1):
            left_out["undecided" if label < 0 else str(table.labels.categories[label])] += 1
            continue
        judged = tuple(judgement for judgement in table.judged[at] if judgement is not None)
        p_soft = float(soft[at] if label == 0 else 1 - soft[at])
        pairs.append(_pair(judged, label == 0, p_soft, float(found.agreement[at])))
    return pairs, dict(left_out)


def write_aggregated(
    table: PairLabels, how: How, path: str, *, soft: bool = True
) -> tuple[int, dict[str, int]]:
    """Write the rows of `aggregated_pairs` as JSON lines, whole or not at all; how many, and what was left out.

    Raises `InputError` if there is nothing to write, the name does not end in .jsonl or .jsonl.gz, or the file cannot be written.
    """
    target = Path(path).expanduser()
    if not target.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"labels is {path!r}; comparisons are written as .jsonl or .jsonl.gz")
    pairs, left_out = aggregated_pairs(table, how)
    if not pairs:
        raise InputError(
            f"no pair has a judgement for one side ({left_out or 'nothing was judged'}); label more"
        )
    text = "".join(json.dumps(pair.row(soft=soft), ensure_ascii=False) + "\n" for pair in pairs).encode()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(gzip.compress(text, mtime=0) if target.name.lower().endswith(".gz") else text)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(f"labels is {path!r}, which cannot be written ({error}); name a file") from error
    return len(pairs), left_out


def _pair(judged: tuple[JudgedItem, ...], first: bool, p_soft: float, agreement: float) -> AggregatedPair:
    item = judged[0]
    a, b = item.completions
    comparison = Comparison(
        prompt=item.prompt,
        chosen=a if first else b,
        rejected=b if first else a,
        annotator=item.annotator if len(judged) == 1 else "",
        p_soft=round(p_soft, DIGITS),
        origin=f"item {item.item}",
    )
    return AggregatedPair(comparison=comparison, agreement=agreement, judged=judged)
