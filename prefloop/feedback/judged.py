"""Judgements as agreement, ratings and pair selection read them: what was said of which models' answers, by whom, in which order shown."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from prefloop.data.store import Filters, Store, models, selecting, studio_models
from prefloop.errors import InputError
from prefloop.feedback.agreement import MISSING, Labels, make_labels
from prefloop.feedback.ratings import (
    BOTH_BAD,
    FIRST,
    SECOND,
    TIE,
    Rankings,
    Votes,
    make_votes,
    style_differences,
    with_style,
)
from prefloop.records import Prompt

OUTCOMES = {"a": FIRST, "b": SECOND, "tie": TIE, "both_bad": BOTH_BAD}
"""What a choice on a pair says of its slots 0 and 1. Other choices (skip, can't tell) say nothing of them."""
CHUNK = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedItem:
    """The current judgement of one annotator on one item."""

    judgement: int
    item: int
    kind: str
    """`pair`, `rank`, or another kind of item."""
    round: int
    prompt_id: int
    prompt: Prompt
    completions: tuple[str, ...]
    """Texts, by slot."""
    models: tuple[str, ...]
    """Checkpoints that wrote them, by slot; with the beginning of the weights' hash where two have one name."""
    annotator: str
    annotator_kind: str
    choice: str
    ranking: tuple[tuple[int, ...], ...]
    """Groups of slots, best first."""
    strength: int
    order_shown: tuple[int, ...]
    duration_ms: int
    weight: float = 1.0
    """How much it counts: below 1 for one side of a soft preference."""
    counted: bool = True
    """Whether it is counted among the votes; of a soft preference's two sides, the likelier is."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadVotes:
    """Votes and rankings between models, and what was not one."""

    votes: Votes
    rankings: Rankings
    left_out: Mapping[str, int]
    """Reason -> judgements: a choice that names no side, `same model`, or the kind of item."""


def read_judged(
    store: Store,
    filters: Filters | None = None,
    *more: ColumnElement[bool],
    kinds: Sequence[str] = (),
    newest: int = 0,
) -> list[JudgedItem]:
    """Current judgements of items with two completions or more, oldest first, of these kinds of annotators if any are named. `more`: further
    conditions of a judgement. `newest`: only so many of those that pass the filters, unless it is 0."""
    with store.database.read() as session:
        rows = [
            row
            for row in selecting.each_judged(session, filters or Filters(), *more, newest=newest)
            if not row.superseded and not row.set_aside
        ]
        by_id = {row.id: row for row in rows}
        found = []
        table, item, annotator = models.JudgementRow, models.ItemRow, models.AnnotatorRow
        ids, called = list(by_id), checkpoint_names(session)
        for start in range(0, len(ids), CHUNK):
            statement = (
                select(table, item.round, item.prompt_id, annotator.kind)
                .join(item, item.id == table.item_id)
                .join(annotator, annotator.id == table.annotator_id)
                .where(table.id.in_(ids[start : start + CHUNK]))
                .order_by(table.id)
            )
            slots = _slots(session, {by_id[id].item for id in ids[start : start + CHUNK]}, called)
            for judgement, round, prompt_id, kind in session.execute(statement):
                row = by_id[judgement.id]
                if len(row.completions) < 2 or (kinds and kind not in kinds):
                    continue
                found.append(
                    JudgedItem(
                        judgement=judgement.id,
                        item=judgement.item_id,
                        kind=row.kind,
                        round=round,
                        prompt_id=prompt_id,
                        prompt=row.prompt,
                        completions=row.completions,
                        models=slots[judgement.item_id],
                        annotator=row.annotator,
                        annotator_kind=kind,
                        choice=row.choice,
                        ranking=row.ranking,
                        strength=judgement.strength,
                        order_shown=tuple(judgement.order_shown),
                        duration_ms=judgement.duration_ms,
                    )
                )
        return found


def _slots(session: Session, items: Collection[int], called: Mapping[int, str]) -> dict[int, tuple[str, ...]]:
    """Item -> the models behind its slots. `called`: their names."""
    slot, completion = models.ItemCompletionRow, models.CompletionRow
    found: dict[int, list[str]] = {}
    statement = (
        select(slot.item_id, completion.checkpoint_id)
        .join(completion, completion.id == slot.completion_id)
        .where(slot.item_id.in_(items))
        .order_by(slot.item_id, slot.slot)
    )
    for item, model in session.execute(statement):
        found.setdefault(item, []).append(called[model])
    return {item: tuple(names) for item, names in found.items()}


def gold_choices(store: Store, *, annotator: str = "", rounds: tuple[int, ...] = ()) -> dict[int, str]:
    """Item -> the choice that is known to be right, of pairs: what the studio's gold items say, and over that what `annotator` judged in these rounds."""
    task, item = studio_models.TaskRow, models.ItemRow
    with store.database.read() as session:
        rows = session.execute(
            select(task.item_id, task.gold)
            .join(item, item.id == task.item_id)
            .where(item.kind == "pair", task.gold != "")
            .order_by(task.id)
        ).all()
    known = {row.item_id: row.gold for row in rows}
    if annotator:
        judged = read_judged(store, Filters(annotators=(annotator,), rounds=rounds))
        known |= {judgement.item: judgement.choice for judgement in judged if judgement.kind == "pair"}
    return known


def checkpoint_names(session: Session) -> dict[int, str]:
    """Id -> what a checkpoint is called here: its name, with the beginning of its weights' hash where two have one name."""
    checkpoint = models.CheckpointRow
    rows = session.execute(select(checkpoint.id, checkpoint.name, checkpoint.weights_sha256)).all()
    same = Counter(name for _, name, _ in rows)
    return {id: name if same[name] == 1 else f"{name}@{sha[:8] or id}" for id, name, sha in rows}


def votes_of(judged: Sequence[JudgedItem], *, style: bool = False) -> ReadVotes:
    """Votes of pairs and rankings of lists between different models. `style` adds the features of `ratings.style` to the votes.

    A ranking is left out where two of its answers are one model's: it would be ranked against itself. Raises `InputError` if nothing is
    left.
    """
    left_out: Counter[str] = Counter()
    pairs: list[JudgedItem] = []
    lists: list[JudgedItem] = []
    for judgement in _with_best_as_pairs(judged):
        kept = pairs if judgement.kind == "pair" else lists
        reason = _why_no_vote(judgement)
        if reason:
            left_out[reason] += 1
        else:
            kept.append(judgement)
    if not pairs and not lists:
        reasons = ", ".join(f"{reason} {count}" for reason, count in left_out.items()) or "nothing was judged"
        raise InputError(
            f"no judgement compares the answers of two models ({reasons}); pair completions of different checkpoints and label them"
        )
    names = sorted({name for item in (*pairs, *lists) for name in item.models})
    number = {name: at for at, name in enumerate(names)}
    annotators = {name: at for at, name in enumerate(sorted({judgement.annotator for judgement in judged}))}
    votes = make_votes(
        names,
        [number[pair.models[0]] for pair in pairs],
        [number[pair.models[1]] for pair in pairs],
        [OUTCOMES[pair.choice] for pair in pairs],
        prompt=[pair.prompt_id for pair in pairs],
        annotator=[annotators[pair.annotator] for pair in pairs],
        weight=[pair.weight for pair in pairs],
        counted=[pair.counted for pair in pairs],
    )
    if style:
        votes = with_style(
            votes,
            style_differences(
                [pair.completions[0] for pair in pairs], [pair.completions[1] for pair in pairs]
            ),
        )
    rankings = Rankings(
        names=tuple(names),
        groups=tuple(
            tuple(tuple(number[ranking.models[slot]] for slot in group) for group in ranking.ranking)
            for ranking in lists
        ),
        prompt=np.array([ranking.prompt_id for ranking in lists], np.intp),
        annotator=np.array([annotators[ranking.annotator] for ranking in lists], np.intp),
        weight=np.ones(len(lists)),
    )
    return ReadVotes(votes=votes, rankings=rankings, left_out=dict(left_out))


def _why_no_vote(judgement: JudgedItem) -> str:
    """Why a judgement compares no two models; empty if it does."""
    if judgement.kind == "pair":
        compared = judgement.models if judgement.choice in OUTCOMES else ()
    elif judgement.kind == "rank":
        ranked = judgement.ranking if judgement.choice == "ranking" else ()
        compared = tuple(judgement.models[slot] for group in ranked for slot in group)
    else:
        return judgement.kind
    if not compared:
        return judgement.choice
    return "same model" if len(set(compared)) < len(compared) else ""


def _with_best_as_pairs(judged: Sequence[JudgedItem]) -> Iterator[JudgedItem]:
    """The same judgements, a best of K as its K-1 pairs: the best against each other one, which says nothing of those."""
    for judgement in judged:
        if judgement.kind != "rank" or judgement.choice != "best":
            yield judgement
            continue
        ((best,),) = judgement.ranking
        for slot in (slot for slot in range(len(judgement.models)) if slot != best):
            yield replace(
                judgement,
                kind="pair",
                choice="a",
                ranking=(),
                models=(judgement.models[best], judgement.models[slot]),
                completions=(judgement.completions[best], judgement.completions[slot]),
            )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class PairLabels:
    """Judgements of pairs as a table of items and annotators."""

    labels: Labels
    """Categories `a`, `b`, `tie`, `both_bad`."""
    strengths: Labels
    """How strongly, as ordered levels from -s (a much better) over 0 (neither) to s; both-bad is missing here."""
    items: tuple[JudgedItem, ...]
    """For each row, one of its judgements, for its texts and ids."""
    judged: tuple[tuple[JudgedItem | None, ...], ...]
    """For each row and annotator the judgement, or None."""

    @property
    def prompts(self) -> NDArray[np.intp]:
        """`[items]` which prompt each is of."""
        return np.array([item.prompt_id for item in self.items], np.intp)


def pair_labels(judged: Sequence[JudgedItem]) -> PairLabels:
    """Judgements of pairs that name a side, a tie or both-bad; items in the order in which they were first judged.

    Raises `InputError` if there is none.
    """
    kept = [judgement for judgement in judged if judgement.kind == "pair" and judgement.choice in OUTCOMES]
    if not kept:
        raise InputError("nobody has judged a pair yet; label some first")
    rows = {judgement.item: judgement for judgement in reversed(kept)}
    order = {item: at for at, item in enumerate(dict.fromkeys(judgement.item for judgement in kept))}
    names = sorted({judgement.annotator for judgement in kept})
    column = {name: at for at, name in enumerate(names)}
    table = np.full((len(order), len(names)), MISSING, np.intp)
    cells: list[list[JudgedItem | None]] = [[None] * len(names) for _ in order]
    most = max(1, *(judgement.strength for judgement in kept))
    strengths = np.full((len(order), len(names)), MISSING, np.intp)
    for judgement in kept:
        at = order[judgement.item], column[judgement.annotator]
        table[at] = OUTCOMES[judgement.choice]
        cells[at[0]][at[1]] = judgement
        if judgement.choice != "both_bad":
            signed = {"a": -1, "b": 1, "tie": 0}[judgement.choice] * max(1, judgement.strength)
            strengths[at] = signed + most
    return PairLabels(
        labels=make_labels(table, tuple(OUTCOMES), names),
        strengths=make_labels(strengths, tuple(range(-most, most + 1)), names),
        items=tuple(rows[item] for item in order),
        judged=tuple(map(tuple, cells)),
    )


def summary_of(left_out: Mapping[str, Any]) -> str:
    """What was left out, in words; empty if nothing was."""
    return ", ".join(f"{reason.replace('_', ' ')} {count}" for reason, count in sorted(left_out.items()))
