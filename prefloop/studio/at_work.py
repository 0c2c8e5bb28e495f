"""The people at work in a project: how far each one's answers can be trusted, how that changes in time, and who may go on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from statistics import median
from typing import Any, Literal

import numpy as np
from sqlalchemy import Row, Select, case, func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.feedback.agreement import MISSING, Drift, Labels, Share, blocks, drift, fit_annotators
from prefloop.studio import assign, newest, onboarding, projects
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

READABLE = 100
"""Characters a second that nobody reads: 1,000 words a minute. People read about 238 (Brysbaert, J. Mem. Lang. 109, 2019)."""
_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow
_AGREE = ("a", "b", "tie", "both_bad", "good", "bad")
"""Choices that two people can both make; rankings and levels are none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AtWork:
    """One annotator's work in a project."""

    annotator: int
    pseudonym: str
    login: str
    """Empty for who has no account (any more)."""
    kind: str
    answers: int
    skipped: int
    first_shown: Share
    """Of the answers with a better one, how many chose what stood first; one half is right."""
    ties: Share
    seconds: float | None
    """Median."""
    too_fast: Share
    """Answers given in less time than the project's `least_seconds`, or than the replies can be read in."""
    gold: Share
    """Right answers to items whose answer is known, practice and qualification left out."""
    with_others: Share
    """Their answers that the majority of the others gives too, of items where the others have one."""
    accuracy: Share
    """Right answers by a model of all answers (Dawid and Skene's with one number a person), which needs no known ones."""
    blocks: tuple[Share, ...]
    """`with_others` in time."""
    drift: Drift | None
    last: datetime | None
    state: str
    """`working`, `paused` or `failed`; `new` while practice or qualification is not behind them."""
    why: str
    """What they are told who may not go on."""
    qualification: Share
    """Right answers to qualification items."""


def people(studio: Studio, project: int) -> list[AtWork]:
    """Who worked in a project, or stands in it, most answers first; by its `newest` answers."""
    with studio.read() as session:
        settings = projects.project_of(session, project).settings
        rows = session.execute(_answers(project)).all()
        lengths = dict(session.execute(_lengths(project)).all())
        table = studio_models.StandingRow
        standing = {
            annotator: (state, why)
            for annotator, state, why in session.execute(
                select(table.annotator_id, table.state, table.why).where(table.project_id == project)
            )
        }
        qualified = {
            annotator: Share.of(right, count)
            for annotator, right, count in session.execute(_qualification(project))
        }
        ids = {row.annotator_id for row in rows} | set(standing) | set(qualified)
        names = _names(session, ids)
    by_item: dict[int, Counter[str]] = {}
    for row in rows:
        if row.choice in _AGREE:
            by_item.setdefault(row.item_id, Counter())[row.choice] += 1
    accuracy = _accuracy(rows)
    found = [
        _one(
            [row for row in rows if row.annotator_id == id],
            by_item,
            lengths,
            settings.least_seconds,
            annotator=id,
            pseudonym=name,
            login=login or "",
            kind=kind,
            accuracy=accuracy.get(id, Share.of(0, 0)),
            state=stands[0],
            why=stands[1],
            qualification=qualified.get(id, Share.of(0, 0)),
        )
        for id, (name, kind, login) in names.items()
        for stands in (standing.get(id, ("new" if id in qualified else "working", "")),)
    ]
    return sorted(found, key=lambda person: (-person.answers, person.pseudonym))


def _answers(project: int) -> Select[*tuple[Any, ...]]:
    """The newest answers and skips that stand, in the order they were given; practice and qualification left out."""
    return (
        select(
            _Assignment.order_shown,
            _Assignment.finished_at,
            _Task.gold,
            _Task.item_id,
            _Judgement.choice,
            _Judgement.duration_ms,
            _Judgement.annotator_id,
        )
        .join(_Task, _Task.id == _Assignment.task_id)
        .join(_Judgement, _Judgement.id == _Assignment.judgement_id)
        .where(
            _Assignment.id.in_(select(newest.answered(project).subquery().c.id)),
            _Task.stage == "",
            _Assignment.state.in_(("submitted", "surplus", "skipped")),
        )
        .order_by(_Assignment.finished_at, _Assignment.id)
    )


def _lengths(project: int) -> Select[int, int]:
    """Item -> characters of its replies, of items that were answered lately."""
    slot, completion = models.ItemCompletionRow, models.CompletionRow
    asked = select(_Task.item_id).where(_Task.id.in_(select(newest.answered(project).subquery().c.task_id)))
    return (
        select(slot.item_id, func.sum(func.length(completion.text)))
        .join(completion, completion.id == slot.completion_id)
        .where(slot.item_id.in_(asked))
        .group_by(slot.item_id)
    )


def _qualification(project: int) -> Select[int, int, int]:
    """Annotator -> right and all answers to qualification items."""
    return (
        select(
            _Judgement.annotator_id,
            func.count(case((_Judgement.choice == _Task.gold, 1))),
            func.count(),
        )
        .select_from(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .join(_Judgement, _Judgement.id == _Assignment.judgement_id)
        .where(_Task.project_id == project, _Task.stage == "qualification")
        .group_by(_Judgement.annotator_id)
    )


def _names(session: Session, ids: set[int]) -> dict[int, tuple[str, str, str | None]]:
    account, annotator = studio_models.AccountRow, models.AnnotatorRow
    rows = session.execute(
        select(annotator.id, annotator.name, annotator.kind, account.login)
        .outerjoin(account, account.annotator_id == annotator.id)
        .where(annotator.id.in_(ids))
    )
    return {id: (name, kind, login) for id, name, kind, login in rows}


def _one(
    own: Sequence[Row[Any]],
    by_item: Mapping[int, Counter[str]],
    lengths: Mapping[int, int],
    least_seconds: float,
    **known: Any,
) -> AtWork:
    answers = [row for row in own if row.choice != "skip"]
    sided = [row.order_shown[0] == "ab".index(row.choice) for row in answers if row.choice in ("a", "b")]
    known_right = [row.choice == row.gold for row in answers if row.gold]
    timed = [row for row in answers if row.duration_ms]
    fast = [is_too_fast(row.duration_ms, lengths.get(row.item_id, 0), least_seconds) for row in timed]
    agreeing = [
        agrees
        for row in answers
        if row.choice in _AGREE and (agrees := _agrees(row.choice, by_item[row.item_id])) is not None
    ]
    return AtWork(
        answers=len(answers),
        skipped=len(own) - len(answers),
        first_shown=Share.of(sum(sided), len(sided)),
        ties=Share.of(sum(row.choice == "tie" for row in answers), len(answers)),
        seconds=median(row.duration_ms / 1000 for row in timed) if timed else None,
        too_fast=Share.of(sum(fast), len(fast)),
        gold=Share.of(sum(known_right), len(known_right)),
        with_others=Share.of(sum(agreeing), len(agreeing)),
        blocks=blocks(agreeing),
        drift=drift(agreeing),
        last=max((row.finished_at for row in own), default=None),
        **known,
    )


def is_too_fast(duration_ms: int, characters: int, least_seconds: float) -> bool:
    """Whether an answer came before the replies, of so many characters together, can have been read. 0 ms is not timed."""
    return 0 < duration_ms < 1000 * max(least_seconds, characters / READABLE)


def _agrees(choice: str, votes: Counter[str]) -> bool | None:
    """Whether a choice is what most of the others said; None where they are none, or split."""
    others = votes.copy()
    others[choice] -= 1
    most = max(others.values())
    best = [other for other, count in others.items() if count == most]
    return choice == best[0] if most > 0 and len(best) == 1 else None


def _accuracy(rows: Sequence[Row[Any]]) -> dict[int, Share]:
    """Annotator -> right answers by the `one_coin` model; empty where no item has two answers."""
    decided = [row for row in rows if row.choice in _AGREE]
    items = {item: at for at, item in enumerate(dict.fromkeys(row.item_id for row in decided))}
    annotators = {id: at for at, id in enumerate(dict.fromkeys(row.annotator_id for row in decided))}
    categories = tuple(choice for choice in _AGREE if any(row.choice == choice for row in decided))
    table = np.full((len(items), len(annotators)), MISSING, np.intp)
    for row in decided:
        table[items[row.item_id], annotators[row.annotator_id]] = categories.index(row.choice)
    if not decided or not ((table != MISSING).sum(1) > 1).any():
        return {}
    fitted = fit_annotators(Labels(table=table, categories=categories), "one_coin")
    return {
        id: Share(value=float(value), low=float(low), high=float(high), n=int(n))
        for id, value, low, high, n in zip(annotators, *fitted.reliability, fitted.labels, strict=True)
    }


def set_standing(
    studio: Studio,
    project: int,
    pseudonym: str,
    state: Literal["working", "paused"],
    *,
    why: str = "",
    by: int | None,
) -> None:
    """Pause somebody in a project, with words for them, or let them go on, whatever they got wrong before. Raises `NotFound`."""
    if len(why) > 1000:
        raise InputError("why is longer than 1000 characters")

    def work(session: Session) -> None:
        projects.project_of(session, project)
        found = session.scalar(select(models.AnnotatorRow.id).where(models.AnnotatorRow.name == pseudonym))
        if found is None:
            raise NotFound("there is no such annotator")
        assign.lock_annotator(session, found)
        paused = state == "paused"
        onboarding.change(
            session,
            project,
            found,
            onboarding.NewStanding(
                state=state,
                qualified=None if paused else True,
                why=" ".join(part for part in (why.strip(), onboarding.PAUSED) if part) if paused else "",
            ),
            now=studio.clock(),
            by=by,
        )
        if paused:
            assign.give_all_back(session, project, found)

    studio.write_twice(work)
