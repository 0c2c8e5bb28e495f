"""Deciding where people disagree. Who decides sees what was said and why, not by whom, and the texts in an order of their own.

A decision is a judgement like any other, only ever added, but it is no vote: it is made in sight of the votes. So it stands under a name of its own
(an annotator `adjudicator-...` for each person who decides), agreement and ratings leave it out, and exports take it instead of the answers
it decides between where that is asked for (`Filters.adjudicated`). Decided again, by whomever, the last decision holds.
"""

import hashlib
import secrets
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from random import Random

from sqlalchemy import ColumnElement, insert, select
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.values import Choice, Conflict, Judgement
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.studio import access, audit
from prefloop.studio.answers import in_place
from prefloop.studio.assign import lock_annotator
from prefloop.studio.edits import current_judgement
from prefloop.studio.projects import project_of
from prefloop.studio.service import Studio
from prefloop.studio.values import LONGEST_TEXT, NotFound, Project

KINDS: Mapping[str, tuple[str, ...]] = {
    "pair": ("first", "second", "tie", "both_bad"),
    "clip": ("first", "second", "tie", "both_bad"),
    "binary": ("good", "bad"),
}
"""Kind of project whose items are adjudicated -> what can be decided."""
_NO_ANSWER = ("skip", "withdrawn", "cant_tell", "ranking", "rated", "edited")
_Task, _Judgement, _Adjudication = studio_models.TaskRow, models.JudgementRow, studio_models.AdjudicationRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """One person's answer, for who decides."""

    judgement: int
    annotator: int
    choice: str
    """In slots."""
    strength: int
    rationale: str
    flags: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """An item that people judged differently, as who decides may see it: no names, no models."""

    project: int
    project_name: str
    kind: str
    item: int
    prompt: Prompt
    completions: tuple[str, ...]
    """In the order shown to this person."""
    said: tuple[tuple[str, str, tuple[str, ...]], ...]
    """What was said, in the places shown (`first`, `tie`, ...), why, and the flags; in no order that tells who."""
    decided: str
    """The decision that holds, in the places shown; empty while there is none."""
    last: int
    """Number of that decision, so that two who decide at once notice; 0 for none."""
    choices: tuple[str, ...]


def said_of(session: Session, project: int, *tasks: ColumnElement[bool]) -> dict[int, list[Said]]:
    """Item -> the current answers of people to it, decisions left out, for items of a project (those of which these conditions are true) whose answer
    is not known."""
    later, detail = aliased(_Judgement), studio_models.JudgementDetailRow
    rows = session.execute(
        select(
            _Task.item_id,
            _Judgement.id,
            _Judgement.annotator_id,
            _Judgement.choice,
            _Judgement.strength,
            detail.rationale,
            detail.flags,
        )
        .join(_Judgement, _Judgement.item_id == _Task.item_id)
        .join(models.AnnotatorRow, models.AnnotatorRow.id == _Judgement.annotator_id)
        .outerjoin(detail, detail.judgement_id == _Judgement.id)
        .outerjoin(later, later.supersedes_id == _Judgement.id)
        .outerjoin(_Adjudication, _Adjudication.judgement_id == _Judgement.id)
        .where(
            _Task.project_id == project,
            _Task.gold == "",
            ~_Task.archived,
            later.id.is_(None),
            _Adjudication.judgement_id.is_(None),
            models.AnnotatorRow.kind == "human",
            _Judgement.choice.not_in(_NO_ANSWER),
            *tasks,
        )
        .order_by(_Judgement.id)
    )
    found: dict[int, list[Said]] = {}
    for item, id, annotator, choice, strength, rationale, flags in rows:
        found.setdefault(item, []).append(
            Said(
                judgement=id,
                annotator=annotator,
                choice=choice,
                strength=strength,
                rationale=rationale or "",
                flags=tuple(flags or ()),
            )
        )
    return found


def queue(studio: Studio, project: Project, person: int) -> list[int]:
    """Items that wait for a decision of this person, the most divided first: not those that they answered themselves."""
    if project.settings.kind not in KINDS:
        return []
    with studio.read() as session:
        access.check(session, project.id, person, "adjudicator")
        answers = said_of(session, project.id)
        done = _decisions(session, project.id)
    waiting = {
        item: Counter(answer.choice for answer in given)
        for item, given in answers.items()
        if item not in done and person not in {answer.annotator for answer in given}
    }
    return sorted(
        (item for item, counts in waiting.items() if len(counts) > 1),
        key=lambda item: (max(waiting[item].values()) / waiting[item].total(), item),
    )


def decided(studio: Studio, project: int) -> int:
    """How many items of a project have a decision."""
    with studio.read() as session:
        return len(_decisions(session, project))


def case(studio: Studio, project: int, item: int, person: int) -> Case:
    """An item to decide. Raises `NotFound` if people do not disagree on it, or this person is one of them."""
    with studio.read() as session:
        return _case(session, project_of(session, project), item, person)


def _case(session: Session, project: Project, item: int, person: int) -> Case:
    access.check(session, project.id, person, "adjudicator")
    answers = said_of(session, project.id, _Task.item_id == item).get(item, [])
    if (
        project.settings.kind not in KINDS
        or len({answer.choice for answer in answers}) < 2
        or person in {answer.annotator for answer in answers}
    ):
        raise NotFound("there is no such disagreement for you to decide")
    (found,) = judging.items(session, [item])
    order = order_for(item, person, len(found.completions))
    last = _decisions(session, project.id).get(item)
    settings = project.settings
    shuffled = sorted(answers, key=lambda answer: _digest(f"{answer.judgement} {person}"))
    return Case(
        project=project.id,
        project_name=settings.name,
        kind=settings.kind,
        item=item,
        prompt=found.prompt,
        completions=tuple(found.completions[slot] for slot in order),
        said=tuple((in_place(answer.choice, order), answer.rationale, answer.flags) for answer in shuffled),
        decided=in_place(last.choice, order) if last else "",
        last=last.id if last else 0,
        choices=tuple(
            choice
            for choice in KINDS[settings.kind]
            if (settings.allow_tie or choice != "tie") and (settings.allow_both_bad or choice != "both_bad")
        ),
    )


def decide(
    studio: Studio,
    project: int,
    item: int,
    person: int,
    choice: str,
    *,
    reason: str,
    last: int,
    key: str,
) -> int:
    """Write down a decision; id of the judgement. Sent again with the same key it changes nothing.

    `last`: number of the decision that the page showed. Raises `Conflict` if there is another one by now.
    """
    if len(reason) > LONGEST_TEXT:
        raise InputError(f"reason is longer than {LONGEST_TEXT} characters")
    if not 8 <= len(key) <= 100:
        raise InputError("the idempotency key must have 8 to 100 characters, for example a UUID")
    decision = _Decision(choice=choice, reason=reason, last=last, key=f"adjudicate {person} {item} {key}")
    return studio.write_twice(
        lambda session: _decide(session, project, item, person, decision, now=studio.clock())
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Decision:
    """What an adjudicator decided."""

    choice: str
    reason: str
    last: int
    """Number of the decision that the page showed."""
    key: str


def _decide(
    session: Session, project: int, item: int, person: int, decision: _Decision, *, now: datetime
) -> int:
    choice = decision.choice
    lock_annotator(session, person)
    known = session.scalar(select(_Judgement.id).where(_Judgement.idempotency_key == decision.key))
    if known is not None:
        return known
    # One decision of an item after the other.
    session.execute(
        select(_Task.id).where(_Task.project_id == project, _Task.item_id == item).with_for_update()
    )
    asked = project_of(session, project)
    found = _case(session, asked, item, person)
    if choice not in found.choices:
        raise InputError(f"choice is {choice!r}; here it must be one of {', '.join(found.choices)}")
    if decision.last != found.last:
        raise Conflict("somebody else has decided this in the meantime; reload the page")
    order = order_for(item, person, len(found.completions))
    identity = _identity(session, person, now)
    before = current_judgement(session, item, identity)
    (id,) = judging.add_judgements(
        session,
        [
            Judgement(
                item=item,
                annotator=identity,
                choice=_in_slots(choice, order),
                order_shown=order,
                guideline_version=asked.guideline_version,
                supersedes=None if before is None else before.id,
                idempotency_key=decision.key,
            )
        ],
    )
    session.execute(
        insert(studio_models.JudgementDetailRow).values(
            judgement_id=id,
            assignment_id=None,
            rationale=decision.reason,
            flags=[],
            ratings={},
            edited="",
            edit_judgement_id=None,
        )
    )
    session.execute(insert(_Adjudication).values(judgement_id=id, annotator_id=person))
    audit.write(
        session,
        now=now,
        annotator=person,
        action="adjudicate",
        entity="item",
        id=item,
        detail={"judgement": id},
    )
    return id


def order_for(item: int, person: int, count: int) -> tuple[int, ...]:
    """The slots in the order in which a person is shown them: as if drawn, and the same each time."""
    order = list(range(count))
    Random(_digest(f"order {item} {person}")).shuffle(order)
    return tuple(order)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _decisions(session: Session, project: int) -> dict[int, models.JudgementRow]:
    """Item -> the decision that holds: the last one."""
    later = aliased(_Judgement)
    rows: Sequence[models.JudgementRow] = session.scalars(
        select(_Judgement)
        .join(_Adjudication, _Adjudication.judgement_id == _Judgement.id)
        .join(_Task, _Task.item_id == _Judgement.item_id)
        .outerjoin(later, later.supersedes_id == _Judgement.id)
        .where(_Task.project_id == project, later.id.is_(None))
        .order_by(_Judgement.id)
    ).all()
    return {row.item_id: row for row in rows}


def _identity(session: Session, person: int, now: datetime) -> int:
    """The annotator under whose name a person's decisions stand."""
    known = session.scalar(
        select(_Judgement.annotator_id)
        .join(_Adjudication, _Adjudication.judgement_id == _Judgement.id)
        .where(_Adjudication.annotator_id == person)
        .limit(1)
    )
    if known is not None:
        return known
    row = models.AnnotatorRow(
        name=f"adjudicator-{secrets.token_hex(4)}",
        kind="human",
        settings={"by": "studio", "adjudicates": True},
        created_at=now,
    )
    session.add(row)
    session.flush()
    return row.id


def _in_slots(choice: str, order: Sequence[int]) -> Choice:
    if choice == "first":
        return "a" if order[0] == 0 else "b"
    if choice == "second":
        return "a" if order[1] == 0 else "b"
    plain: dict[str, Choice] = {"tie": "tie", "both_bad": "both_bad", "good": "good", "bad": "bad"}
    return plain[choice]
