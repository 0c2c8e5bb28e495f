"""Comparisons made of several judgements of each pair, written for training, with how sure they are."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal

from prefloop.errors import InputError
from prefloop.feedback.agreement import aggregate, preference
from prefloop.feedback.judged import PairLabels

How = Literal["each", "majority", "dawid_skene", "one_coin"]


def aggregated_rows(table: PairLabels, how: How) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Rows `{prompt, chosen, rejected, p_soft, votes, agreement, annotators}`, and the pairs that give none, by reason.

    `p_soft` is how likely `chosen` is the better one: the majority's share or the model's posterior, in which a label that names no side
    counts a half. A pair whose likeliest answer is a tie or both-bad, or which two answers share, names no better one, nor does one with an empty completion, which loaders refuse. `each` gives a
    row for every judgement that names one, with `p_soft` 1.
    """
    left_out: Counter[str] = Counter()
    rows: list[dict[str, Any]] = []
    whole = [all(text.strip() for text in item.completions) for item in table.items]
    left_out.update({"empty completion": whole.count(False)} if not all(whole) else {})
    if how == "each":
        for cells in (cells for cells, kept in zip(table.judged, whole, strict=True) if kept):
            for each in cells:
                if each is None:
                    continue
                if each.choice not in ("a", "b"):
                    left_out[each.choice] += 1
                    continue
                rows.append(
                    _row(
                        each.prompt.to_json(),
                        each.completions,
                        each.choice == "a",
                        1.0,
                        1,
                        1.0,
                        [each.annotator],
                    )
                )
        return rows, dict(left_out)
    found = aggregate(table.labels, how)
    soft = preference(found.probability)
    for at, item in enumerate(table.items):
        if not whole[at]:
            continue
        label = int(found.label[at])
        if label not in (0, 1):
            left_out["undecided" if label < 0 else str(table.labels.categories[label])] += 1
            continue
        first = label == 0
        rows.append(
            _row(
                item.prompt.to_json(),
                item.completions,
                first,
                float(soft[at] if first else 1 - soft[at]),
                int(found.votes[at]),
                float(found.agreement[at]),
                [each.annotator for each in table.judged[at] if each is not None],
            )
        )
    return rows, dict(left_out)


def write_aggregated(table: PairLabels, how: How, path: str) -> tuple[int, dict[str, int]]:
    """Write `aggregated_rows` as JSON lines, whole or not at all; how many, and what was left out.

    Raises `InputError` where there is nothing to write, the name does not end in .jsonl or .jsonl.gz, or the file cannot be written.
    """
    target = Path(path).expanduser()
    if not target.name.lower().endswith((".jsonl", ".jsonl.gz")):
        raise InputError(f"labels is {path!r}; comparisons are written as .jsonl or .jsonl.gz")
    rows, left_out = aggregated_rows(table, how)
    if not rows:
        raise InputError(
            f"no pair has an answer that names a side ({left_out or 'nothing was judged'}); label more"
        )
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    draft = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        draft.write_bytes(gzip.compress(text, mtime=0) if target.name.lower().endswith(".gz") else text)
        draft.replace(target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise InputError(f"labels is {path!r}, which cannot be written ({error}); name a file") from error
    return len(rows), left_out


def _row(
    prompt: Any,
    completions: tuple[str, ...],
    first: bool,
    p_soft: float,
    votes: int,
    agreement: float,
    annotators: list[str],
) -> dict[str, Any]:
    a, b = completions
    return {
        "prompt": prompt,
        "chosen": a if first else b,
        "rejected": b if first else a,
        "p_soft": round(p_soft, 6),
        "votes": votes,
        "agreement": round(agreement, 6),
        "annotators": annotators,
    }
