"""Judgements as records to train on: comparisons, rankings, labels, scores and demonstrations, and why a judgement is none."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from prefloop.data.store.selecting import ARCHIVED, GOLD, PRACTICE, JudgedRow, stands_not
from prefloop.data.store.values import Selection
from prefloop.records import Comparison, Demonstration, Label, Ranking, Score

JudgedRecord = Comparison | Ranking | Label | Score | Demonstration


def compare(rows: Iterable[JudgedRow], label: str) -> Selection[Comparison]:
    """What was preferred to what. Ties, both-bad and skips name no better one, so they never become `chosen` and `rejected`."""
    return _selected("comparisons", rows, label)


def rank(rows: Iterable[JudgedRow], label: str) -> Selection[Ranking]:
    """Completions in the order of preference, with their ties; of a best of K the best, and the others unordered."""
    return _selected("rankings", rows, label)


def _selected(kind: str, rows: Iterable[JudgedRow], label: str) -> Selection[Any]:
    left_out: Counter[str] = Counter()
    records: tuple[Any, ...] = tuple(record for _, record in each_record(kind, rows, label, left_out))
    return Selection(records=records, left_out=dict(left_out))


def each_record(
    kind: str, rows: Iterable[JudgedRow], label: str, left_out: Counter[str], *, skip_bad: bool = False
) -> Iterator[tuple[int, JudgedRecord]]:
    """The records of a kind of export that judgements give, one at a time, each with its judgement; `left_out` counts the others by reason.

    `label`: of the store, for origins. `skip_bad` leaves out what has an empty completion too.
    """
    why_not, make = _WHY_NOT[kind], _MADE[kind]
    for row in rows:
        reason = why_not(row, skip_bad)
        if reason:
            left_out[reason] += 1
        else:
            yield row.id, make(row, f"{label}:judgement {row.id}")


def _comparison(row: JudgedRow, origin: str) -> Comparison:
    a, b = row.completions
    return Comparison(
        prompt=row.prompt,
        chosen=a if row.choice == "a" else b,
        rejected=b if row.choice == "a" else a,
        margin=row.margin,
        annotator=row.annotator,
        origin=origin,
    )


def _ranking(row: JudgedRow, origin: str) -> Ranking:
    return Ranking(
        prompt=row.prompt,
        completions=tuple(row.completions[slot] for slot in _placed(row)),
        annotator=row.annotator,
        ranks=_ranks(row),
        top=int(row.choice == "best" and len(row.completions) > 2),
        origin=origin,
    )


def _placed(row: JudgedRow) -> list[int]:
    """Slots in order, best first; behind a best of K the others as they are."""
    placed = [slot for group in row.ranking for slot in group]
    if row.choice == "best":
        placed += [slot for slot in range(len(row.completions)) if slot not in placed]
    return placed


def _ranks(row: JudgedRow) -> tuple[int, ...]:
    """Ranks where some are tied."""
    if all(len(group) == 1 for group in row.ranking):
        return ()
    return tuple(rank for rank, group in enumerate(row.ranking, 1) for _ in group)


def _label(row: JudgedRow, origin: str) -> Label:
    """A completion that was found good or bad by itself."""
    return Label(
        prompt=row.prompt,
        completion=row.completions[0],
        good=row.choice == "good",
        annotator=row.annotator,
        origin=origin,
    )


def _score(row: JudgedRow, origin: str) -> Score:
    """A completion with the mean of the levels that it was given on the project's scales."""
    return Score(
        prompt=row.prompt,
        completion=row.completions[0],
        value=sum(row.ratings.values()) / len(row.ratings),
        annotator=row.annotator,
        origin=origin,
    )


def _demonstration(row: JudgedRow, origin: str) -> Demonstration:
    """A reply that an annotator wrote because they could do better."""
    return Demonstration(prompt=row.prompt, completion=row.edited, origin=origin)


def _why_not_compared(row: JudgedRow, skip_bad: bool) -> str:
    if stands_not(row) or row.kind != "pair":
        return stands_not(row) or row.kind
    if row.choice not in ("a", "b"):
        return row.choice
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_ranked(row: JudgedRow, skip_bad: bool) -> str:
    if stands_not(row) or row.kind != "rank":
        return stands_not(row) or row.kind
    if row.choice not in ("ranking", "best"):
        return row.choice
    if row.choice == "ranking" and len(row.ranking) == 1:
        return "tie"  # of all of them
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_labelled(row: JudgedRow, skip_bad: bool) -> str:
    if stands_not(row) or row.kind != "single":
        return stands_not(row) or row.kind
    if row.choice not in ("good", "bad"):
        return row.choice
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_scored(row: JudgedRow, skip_bad: bool) -> str:
    if stands_not(row) or row.kind != "single":
        return stands_not(row) or row.kind
    if row.choice != "rated":
        return row.choice
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_demonstrated(row: JudgedRow, skip_bad: bool) -> str:
    """Whatever was asked, somebody may have written a better reply."""
    if row.superseded or row.set_aside in (GOLD, PRACTICE, ARCHIVED):
        return stands_not(row)
    return "" if row.edited else row.choice


_WHY_NOT: Mapping[str, Callable[[JudgedRow, bool], str]] = {
    "comparisons": _why_not_compared,
    "rankings": _why_not_ranked,
    "labels": _why_not_labelled,
    "scores": _why_not_scored,
    "demonstrations": _why_not_demonstrated,
}
"""Kind of export -> why a judgement gives no record of it, or nothing."""
_MADE: Mapping[str, Callable[[JudgedRow, str], JudgedRecord]] = {
    "comparisons": _comparison,
    "rankings": _ranking,
    "labels": _label,
    "scores": _score,
    "demonstrations": _demonstration,
}


def _any_empty(row: JudgedRow) -> bool:
    return not all(completion.strip() for completion in row.completions)
