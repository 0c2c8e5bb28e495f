"""Judgements as records to train on: comparisons, rankings, labels, scores and demonstrations, and why a judgement is none."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prefloop.data.store.selecting import ARCHIVED, GOLD, PRACTICE, JudgedRow, stands_not
from prefloop.data.store.values import Selection
from prefloop.records import Comparison, Demonstration, Label, Ranking, Score

JudgedRecord = Comparison | Ranking | Label | Score | Demonstration


def compare(rows: Sequence[JudgedRow], label: str, *, skip_bad: bool = False) -> Selection[Comparison]:
    """What was preferred to what. Ties, both-bad and skips name no better one, so they never become `chosen` and `rejected`.

    `skip_bad` leaves out comparisons with an empty completion too.
    """
    left_out: Counter[str] = Counter()
    records: list[Comparison] = []
    for row in rows:
        reason = _why_not_compared(row, skip_bad)
        if reason:
            left_out[reason] += 1
            continue
        a, b = row.completions
        chosen, rejected = (a, b) if row.choice == "a" else (b, a)
        records.append(
            Comparison(
                prompt=row.prompt,
                chosen=chosen,
                rejected=rejected,
                margin=row.margin,
                annotator=row.annotator,
                origin=f"{label}:judgement {row.id}",
            )
        )
    return Selection(records=tuple(records), left_out=dict(left_out))


def rank(rows: Sequence[JudgedRow], label: str, *, skip_bad: bool = False) -> Selection[Ranking]:
    """Completions in the order of preference, with their ties; of a best of K the best, and the others unordered.

    `skip_bad` leaves out rankings with an empty completion too.
    """
    left_out: Counter[str] = Counter()
    records: list[Ranking] = []
    for row in rows:
        reason = _why_not_ranked(row, skip_bad)
        if reason:
            left_out[reason] += 1
            continue
        records.append(
            Ranking(
                prompt=row.prompt,
                completions=tuple(row.completions[slot] for slot in _placed(row)),
                annotator=row.annotator,
                ranks=_ranks(row),
                top=int(row.choice == "best" and len(row.completions) > 2),
                origin=f"{label}:judgement {row.id}",
            )
        )
    return Selection(records=tuple(records), left_out=dict(left_out))


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


def label_records(rows: Sequence[JudgedRow], label: str, *, skip_bad: bool = False) -> Selection[Label]:
    """Completions that were found good or bad by themselves."""
    left_out: Counter[str] = Counter()
    records = [
        Label(
            prompt=row.prompt,
            completion=row.completions[0],
            good=row.choice == "good",
            annotator=row.annotator,
            origin=f"{label}:judgement {row.id}",
        )
        for row in _usable(rows, _why_not_labelled, left_out, skip_bad)
    ]
    return Selection(records=tuple(records), left_out=dict(left_out))


def scores(rows: Sequence[JudgedRow], label: str, *, skip_bad: bool = False) -> Selection[Score]:
    """Completions with the mean of the levels that they were given on the project's scales."""
    left_out: Counter[str] = Counter()
    records = [
        Score(
            prompt=row.prompt,
            completion=row.completions[0],
            value=sum(row.ratings.values()) / len(row.ratings),
            annotator=row.annotator,
            origin=f"{label}:judgement {row.id}",
        )
        for row in _usable(rows, _why_not_scored, left_out, skip_bad)
    ]
    return Selection(records=tuple(records), left_out=dict(left_out))


def demonstrations(
    rows: Sequence[JudgedRow], label: str, *, skip_bad: bool = False
) -> Selection[Demonstration]:
    """Replies that annotators wrote because they could do better."""
    left_out: Counter[str] = Counter()
    records = [
        Demonstration(prompt=row.prompt, completion=row.edited, origin=f"{label}:judgement {row.id}")
        for row in _usable(rows, _why_not_demonstrated, left_out, skip_bad)
    ]
    return Selection(records=tuple(records), left_out=dict(left_out))


def _usable(
    rows: Sequence[JudgedRow],
    why_not: Callable[[JudgedRow, bool], str],
    left_out: Counter[str],
    skip_bad: bool,
) -> Iterator[JudgedRow]:
    """The rows that give a record; the others are counted by reason."""
    for row in rows:
        reason = why_not(row, skip_bad)
        if reason:
            left_out[reason] += 1
        else:
            yield row


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


WHY_NOT: Mapping[str, Callable[[JudgedRow, bool], str]] = {
    "comparisons": _why_not_compared,
    "rankings": _why_not_ranked,
    "labels": _why_not_labelled,
    "scores": _why_not_scored,
    "demonstrations": _why_not_demonstrated,
}
"""Kind of export -> why a judgement gives no record of it, or nothing."""
SELECTORS: Mapping[str, Callable[..., Selection[Any]]] = {
    "comparisons": compare,
    "rankings": rank,
    "labels": label_records,
    "scores": scores,
    "demonstrations": demonstrations,
}


def _any_empty(row: JudgedRow) -> bool:
    return not all(completion.strip() for completion in row.completions)
