"""A judge's verdict, shown to some of the people who are asked about an item. Who sees it is drawn, so that its influence can be measured.

The verdict is the judge's own judgement in the store. Known answers never come with one: a suggestion would tell them.
"""

import secrets
from dataclasses import dataclass
from random import Random

from sqlalchemy import select
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.feedback.agreement.drift import Drift, difference
from prefloop.feedback.agreement.people import Share
from prefloop.studio.answers import in_place
from prefloop.studio.values import Project

_Assignment, _Task, _Judgement, _Suggestion = (
    studio_models.AssignmentRow,
    studio_models.TaskRow,
    models.JudgementRow,
    studio_models.SuggestionRow,
)
SUGGESTED = ("a", "b", "tie", "both_bad", "good", "bad")
"""Choices that can be suggested."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Influence:
    """How often people agree with the judge: those who saw its verdict, and those who did not."""

    shown: Share
    hidden: Share
    change: Drift | None
    """`shown` minus `hidden`; None while one of them has no answer."""


def judges(session: Session) -> list[str]:
    """Annotators whose verdicts can be suggested: AI judges and simulated ones, by name."""
    table = models.AnnotatorRow
    return list(session.scalars(select(table.name).where(table.kind != "human").order_by(table.name)))


def check_judge(session: Session, name: str) -> None:
    """Raise `InputError` if no judge has this name."""
    known = judges(session)
    if name and name not in known:
        raise InputError(
            f"suggest_from is {name!r}, which is no judge in the store; it has {', '.join(known) or 'none yet'}. "
            "Run `prefloop judge` first"
        )


def draw(
    session: Session,
    project: Project,
    row: studio_models.AssignmentRow,
    task: studio_models.TaskRow,
    random: Random | secrets.SystemRandom,
) -> None:
    """Draw whether a new assignment shows the judge's verdict, if the project asks for it and there is one."""
    if not project.settings.suggest_from or task.gold:
        return
    later = aliased(_Judgement)
    verdict = session.scalar(
        select(_Judgement.id)
        .join(models.AnnotatorRow, models.AnnotatorRow.id == _Judgement.annotator_id)
        .outerjoin(later, later.supersedes_id == _Judgement.id)
        .where(
            _Judgement.item_id == task.item_id,
            models.AnnotatorRow.name == project.settings.suggest_from,
            _Judgement.choice.in_(SUGGESTED),
            later.id.is_(None),
        )
    )
    if verdict is not None:
        shown = random.random() < project.settings.suggest_share
        session.add(_Suggestion(assignment_id=row.id, judgement_id=verdict, shown=shown))
        session.flush()


def shown_with(session: Session, project: Project, row: studio_models.AssignmentRow) -> str:
    """The verdict that an assignment shows, by the places on the page; empty for none."""
    if not project.settings.suggest_from:
        return ""
    choice = session.scalar(
        select(_Judgement.choice)
        .join(_Suggestion, _Suggestion.judgement_id == _Judgement.id)
        .where(_Suggestion.assignment_id == row.id, _Suggestion.shown)
    )
    return "" if choice is None else in_place(choice, row.order_shown)


def influence(session: Session, project: int) -> Influence:
    """How often people's current answers are the judge's, with its verdict shown and without. Skips are no answers."""
    verdict = aliased(_Judgement)
    rows = session.execute(
        select(_Suggestion.shown, _Judgement.choice, verdict.choice)
        .join(_Assignment, _Assignment.id == _Suggestion.assignment_id)
        .join(_Task, _Task.id == _Assignment.task_id)
        .join(_Judgement, _Judgement.id == _Assignment.judgement_id)
        .join(verdict, verdict.id == _Suggestion.judgement_id)
        .where(_Task.project_id == project, _Judgement.choice.in_(SUGGESTED))
    )
    agreed = {True: [0, 0], False: [0, 0]}
    for shown, answered, suggested in rows:
        agreed[bool(shown)][0] += answered == suggested
        agreed[bool(shown)][1] += 1
    with_it, without = Share.of(*agreed[True]), Share.of(*agreed[False])
    change = difference(without, with_it) if with_it.n and without.n else None
    return Influence(shown=with_it, hidden=without, change=change)
