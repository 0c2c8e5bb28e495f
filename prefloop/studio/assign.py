"""Who is asked what: leases, answers, skips, expiry and undo. Each function is one transaction's work, within the session it is given.

What holds at every moment, and is checked by the database itself: `task.taken`, the running leases and submitted answers of an item, is at most
the overlap; an annotator has one assignment of an item. An answer that was acknowledged is a judgement, and judgements are never changed
or deleted: undo adds one that withdraws, an answer after the lease has run out is kept (as `surplus` if others have filled the overlap).

Locks, in this order, on PostgreSQL: the annotator, the assignment, the task. A lease passes over tasks that somebody else is taking at this
moment, so annotators do not wait for each other. On SQLite the whole transaction is exclusive.
"""

import secrets
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from random import Random
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.values import Conflict, Item, Judgement
from prefloop.studio import (
    access,
    answers,
    audit,
    notes,
    onboarding,
    question_answers,
    quotas,
    statements,
    suggestions,
)
from prefloop.studio.edits import write_edit
from prefloop.studio.onboarding import Gate
from prefloop.studio.projects import project_from
from prefloop.studio.reveal import told_after
from prefloop.studio.standing import Stands
from prefloop.studio.values import ITEM_KIND, Answer, Assignment, Feedback, NotFound, Project, Receipt

MOST_HELD = 3
"""Leases an annotator holds in one project: the item on the screen, the next one, and one left over from another window."""
_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow


def lease(
    session: Session,
    stands: Stands,
    *,
    have: Collection[str] = (),
    now: datetime,
    random: Random | secrets.SystemRandom,
    sweep: bool = True,
) -> Assignment | None:
    """The next item for an annotator who is locked, or None if there is none for them right now. `have`: tokens that the page holds already.
    `sweep`: whether to take back first what others have let run out; it is done in any case before there is nothing to offer.

    There is none beyond their quota, or while something else comes first; see `onboarding.gate`. Items that they were given before and have not
    answered come first, so a reloaded page continues where it was.
    """
    project, annotator = stands.project, stands.annotator
    if sweep:
        expire(session, now)
    if project.state != "open" or project.settings.kind == "chat":
        return None  # a chat's items are made as one talks, for whoever talks; see `chats`
    gate = onboarding.settle(session, project, annotator, onboarding.gate_of(session, stands), now=now)
    if gate.closed:
        return None
    mine = {"project": project.id, "annotator": annotator}
    for row, note in session.execute(notes.sent_back(), mine).all() if stands.sent_back else ():
        if row.token not in have:
            return shown(session, project, row, note=note)
    held = session.scalars(statements.held(), mine).all()
    for row in held:
        if row.token not in have:
            row.expires_at = now + timedelta(seconds=project.settings.lease_seconds)
            return shown(session, project, row)
    allowed = quotas.allowance(session, project, annotator, now)
    if len(held) >= MOST_HELD or (allowed.left is not None and len(held) >= allowed.left):
        return None
    if gate.stage and len(held) >= gate.left:
        return None  # what comes next depends on the answers to these
    found = _choose(session, project, annotator, gate, random)
    if found is None and not sweep and expire(session, now):
        found = _choose(session, project, annotator, gate, random)
    if found is None:
        return None
    task, row = found
    (item,) = judging.items(session, [task.item_id])
    task.taken += 1
    task.open = is_open(task)
    order = list(range(len(item.completions)))
    random.shuffle(order)
    expires = now + timedelta(seconds=project.settings.lease_seconds)
    if row is None:
        row = _Assignment(
            token=secrets.token_urlsafe(16),
            task_id=task.id,
            project_id=project.id,
            annotator_id=annotator,
            state="leased",
            order_shown=order,
            leased_at=now,
            expires_at=expires,
            finished_at=None,
            judgement_id=None,
            draft={},
        )
        session.add(row)
        session.flush()
        suggestions.draw(session, project, row, task, random)
    else:
        # Left unanswered before. The order stays as it was: the annotator may remember it, and a draft speaks of it.
        row.state, row.leased_at, row.expires_at = "leased", now, expires
        session.flush()
    return shown(session, project, row, item=item)


def _choose(
    session: Session, project: Project, annotator: int, gate: Gate, random: Random | secrets.SystemRandom
) -> tuple[studio_models.TaskRow, studio_models.AssignmentRow | None] | None:
    """A task with a free place, locked, and the annotator's earlier assignment of it."""
    mine = {"project": project.id, "annotator": annotator}
    # Questions whose answer is known are asked among others, not alone: without another one there is none of them.
    found = session.execute(statements.candidates(gate.stage or "work"), mine).first()
    if found is not None and not gate.stage and random.random() < project.settings.gold_share:
        found = session.execute(statements.candidates("known"), mine).first() or found
    return None if found is None else (found[0], found[1])


def expire(session: Session, now: datetime) -> int:
    """Take back the leases that have run out; how many."""
    rows = session.scalars(statements.expired(), {"now": now}).all()
    if not rows:
        return 0
    for row in rows:
        row.state = "expired"
    session.flush()
    for task in sorted({row.task_id for row in rows}):
        _release(session, task, sum(row.task_id == task for row in rows))
    return len(rows)


def _release(session: Session, task: int, places: int = 1) -> None:
    row = _locked_task(session, task)
    row.taken -= places
    row.open = is_open(row)
    session.flush()


def submit(
    session: Session, token: str, annotator: int, answer: Answer, *, key: str, now: datetime
) -> Receipt:
    """Write down an answer. Sent again with the same key it changes nothing and gives the same receipt.

    Raises `NotFound` for a token that is not this annotator's, `InputError` for an answer that makes no sense, `Conflict` where the key was used
    for another answer or the item was answered already.
    """
    lock_annotator(session, annotator)
    row, project, task = owned(session, token, annotator)
    version = onboarding.version_read(session, project, annotator)
    said = _said(session, task.item_id, annotator)
    judgement = answers.judgement(project, row, answer, key=key, item=task.item_id, version=version)
    question_answers.check(session, project, task.item_id, row.order_shown, answer)
    feedback = _feedback(task, judgement, row)
    told = told_after(session, project, task.item_id, row.order_shown)
    known = _known(said, judgement.idempotency_key)
    if known is not None:
        answers.same(session, known, judgement, answer)
        return Receipt(token=token, state=_state(row), judgement=known.id, feedback=feedback, models=told)
    again = row.state in ("submitted", "surplus") and notes.last_kind(session, row.id) == "sent_back"
    if row.state in ("submitted", "skipped", "surplus") and not again:
        raise Conflict(
            "this item was answered already, perhaps in another window; undo that answer to change it"
        )
    judgement = _anew(session, judgement, row) if again else _superseding(said, judgement)
    id = _add(session, project, row, judgement, said)
    edit = write_edit(session, project, row, answer, id, judgement) if answer.edited.strip() else None
    _write_detail(session, id, row.id, answer, edit)
    question_answers.write(session, id, task.item_id, row.order_shown, answer)
    if again:
        notes.add(session, row, "revised", answer.rationale[: notes.LONGEST], now=now, by=annotator)
    else:
        _occupy(session, row)
    row.judgement_id, row.finished_at, row.draft = id, now, {}
    audit.write(
        session,
        now=now,
        annotator=annotator,
        action="submit",
        entity="assignment",
        id=row.id,
        detail={"project": project.id, "task": row.task_id, "judgement": id, "state": row.state},
    )
    session.flush()
    if task.gold and not task.stage and onboarding.check_gold(session, project, annotator, now=now):
        give_all_back(session, project.id, annotator)
    return Receipt(token=token, state=_state(row), judgement=id, feedback=feedback, models=told)


def _anew(session: Session, judgement: Judgement, row: studio_models.AssignmentRow) -> Judgement:
    """The judgement, in place of the one that was sent back. What was rewritten with that one is withdrawn."""
    assert row.judgement_id is not None
    detail = session.get(studio_models.JudgementDetailRow, row.judgement_id)
    if detail is not None and detail.edit_judgement_id is not None:
        withdraw(session, session.get_one(_Judgement, detail.edit_judgement_id))
    return replace(judgement, supersedes=row.judgement_id)


def _feedback(
    task: studio_models.TaskRow, judgement: Judgement, row: studio_models.AssignmentRow
) -> Feedback | None:
    """What somebody is told of an answer to a practice item."""
    if task.stage != "practice":
        return None
    expected = answers.in_place(task.gold, row.order_shown)
    return Feedback(right=judgement.choice == task.gold, expected=expected, note=task.gold_note)


def _occupy(session: Session, row: studio_models.AssignmentRow) -> None:
    """The answer takes its place in the overlap: the lease's own, or one that is still free."""
    if row.state == "leased":
        row.state = "submitted"
        return
    task = _locked_task(session, row.task_id)
    if task.taken < task.overlap:
        task.taken += 1
        task.open = is_open(task)
        row.state = "submitted"
    else:
        row.state = "surplus"


def skip(session: Session, token: str, annotator: int, *, key: str, reason: str, now: datetime) -> Receipt:
    """Pass over an item: it is not offered to this annotator again, and somebody else is asked."""
    lock_annotator(session, annotator)
    row, project, task = owned(session, token, annotator)
    version = onboarding.version_read(session, project, annotator)
    said = _said(session, task.item_id, annotator)
    judgement = answers.plain_judgement(
        row, choice="skip", key=key, item=task.item_id, strength=0, duration_ms=0, version=version
    )
    answer = Answer(choice="tie", rationale=reason)
    known = _known(said, judgement.idempotency_key)
    if known is not None:
        answers.same(session, known, judgement, answer)
        return Receipt(token=token, state=_state(row), judgement=known.id)
    if row.state in ("submitted", "skipped", "surplus"):
        raise Conflict(
            "this item was answered already, perhaps in another window; undo that answer to change it"
        )
    id = _add(session, project, row, _superseding(said, judgement), said)
    _write_detail(session, id, row.id, answer, None)
    if row.state == "leased":
        _release(session, row.task_id)
    row.state, row.judgement_id, row.finished_at, row.draft = "skipped", id, now, {}
    audit.write(
        session,
        now=now,
        annotator=annotator,
        action="skip",
        entity="assignment",
        id=row.id,
        detail={"project": project.id, "task": row.task_id, "judgement": id},
    )
    session.flush()
    return Receipt(token=token, state="skipped", judgement=id)


def undo(session: Session, token: str, annotator: int, *, now: datetime) -> Assignment:
    """Take back one's answer and have the item again. The old answer stays in the history of the store; a new row withdraws it.

    Repeating it changes nothing. Where others have filled the overlap meanwhile (after a skip or a late answer), the item can still be
    answered, and the answer is kept as surplus.
    """
    lock_annotator(session, annotator)
    row, project, task = owned(session, token, annotator)
    if row.state not in ("submitted", "skipped", "surplus"):
        return shown(session, project, row)
    assert row.judgement_id is not None
    if task.stage:
        raise Conflict(
            "answers to practice and qualification items cannot be changed; continue with the next one"
        )
    if project.settings.reveal and row.state != "skipped":
        raise Conflict("you have been told which models answered, so this vote stands")
    if project.settings.kind == "chat":
        _check_last_turn(session, row)
    before = session.get_one(_Judgement, row.judgement_id)
    detail = withdraw_answer(session, before)
    if notes.last_kind(session, row.id) == "sent_back":
        notes.add(session, row, "revised", "", now=now, by=annotator)
    more = question_answers.as_draft(session, before.id, row.order_shown)
    row.draft = answers.as_draft(before, detail, row.order_shown) | more
    row.judgement_id, row.finished_at = None, None
    expires = now + timedelta(seconds=project.settings.lease_seconds)
    if row.state == "submitted":
        row.state, row.leased_at, row.expires_at = "leased", now, expires
    else:
        task = _locked_task(session, row.task_id)
        if task.taken < task.overlap:
            task.taken += 1
            task.open = is_open(task)
            row.state, row.leased_at, row.expires_at = "leased", now, expires
        else:
            row.state = "expired"
    audit.write(
        session,
        now=now,
        annotator=annotator,
        action="undo",
        entity="assignment",
        id=row.id,
        detail={"project": project.id, "task": row.task_id, "judgement": before.id},
    )
    session.flush()
    return shown(session, project, row)


def _check_last_turn(session: Session, row: studio_models.AssignmentRow) -> None:
    """Raise `Conflict` if a conversation has gone on from an answer: what was said later rests on it."""
    turn = studio_models.ChatTurnRow
    mine = select(turn.chat_id, turn.position).where(turn.assignment_id == row.id)
    chat, position = session.execute(mine).one()
    # The chat, so that nothing is said meanwhile.
    session.execute(
        select(studio_models.ChatRow.id).where(studio_models.ChatRow.id == chat).with_for_update()
    )
    if session.scalar(select(turn.id).where(turn.chat_id == chat, turn.position > position).limit(1)):
        raise Conflict("the conversation has continued from this answer; start a new one instead")


def give_back(session: Session, token: str, annotator: int) -> None:
    """Return an item unanswered, for whoever comes next: a page that is closed need not wait for the lease to run out."""
    lock_annotator(session, annotator)
    row, _, _ = owned(session, token, annotator)
    if row.state == "leased":
        row.state = "returned"
        session.flush()
        _release(session, row.task_id)


def give_all_back(session: Session, project: int, annotator: int) -> None:
    """Return everything that somebody has in front of them in a project."""
    lock_annotator(session, annotator)
    for row in session.scalars(statements.held(), {"project": project, "annotator": annotator}).all():
        row.state = "returned"
        session.flush()
        _release(session, row.task_id)


def give_back_task(session: Session, task: studio_models.TaskRow) -> None:
    """Return an item from everybody who has it in front of them, within a transaction that has locked it."""
    for row in session.scalars(
        select(_Assignment).where(_Assignment.task_id == task.id, _Assignment.state == "leased")
    ).all():
        row.state = "returned"
        task.taken -= 1
    task.open = is_open(task)
    session.flush()


def is_open(task: studio_models.TaskRow) -> bool:
    """Whether an item can be offered."""
    return task.taken < task.overlap and not task.archived


def save_draft(
    session: Session, token: str, annotator: int, draft: Mapping[str, Any], *, now: datetime
) -> None:
    """Keep an unfinished answer. Working on an item keeps its lease alive; what is answered has no draft."""
    row, project, _ = owned(session, token, annotator)
    if row.state in ("submitted", "skipped", "surplus") and notes.last_kind(session, row.id) != "sent_back":
        return
    row.draft = dict(draft)
    if row.state == "leased":
        row.expires_at = now + timedelta(seconds=project.settings.lease_seconds)


def owned(
    session: Session, token: str, annotator: int
) -> tuple[studio_models.AssignmentRow, Project, studio_models.TaskRow]:
    """The annotator's own assignment, locked, its project and its task, which is not locked; `NotFound` for who does not belong there any more."""
    found = session.execute(statements.own(), {"token": token, "annotator": annotator}).one_or_none()
    if found is None:
        raise NotFound("you have no such assignment")
    row, task, project, account, own, member = found
    role = None if project.state == "deleted" else access.role(project.access, account, own, member)
    access.require(project.id, role)
    return row, project_from(project), task


def shown(
    session: Session,
    project: Project,
    row: studio_models.AssignmentRow,
    *,
    note: str = "",
    item: Item | None = None,
) -> Assignment:
    """An assignment as its page may see it. `note`: with which it was sent back. `item`: what it asks about, where that was just read."""
    draft = row.draft
    if note and row.judgement_id is not None and not draft:
        before = session.get_one(_Judgement, row.judgement_id)
        draft = answers.as_draft(
            before, session.get(studio_models.JudgementDetailRow, before.id), row.order_shown
        ) | question_answers.as_draft(session, before.id, row.order_shown)
    task = session.get_one(_Task, row.task_id)  # without a query where the session has just taken it
    if item is None:
        (item,) = judging.items(session, [task.item_id])
    return Assignment(
        token=row.token,
        project=project.id,
        kind=project.settings.kind,
        prompt=item.prompt,
        completions=tuple(item.completions[slot] for slot in row.order_shown),
        state=_state(row),
        expires_at=row.expires_at,
        draft=answers.sound_draft(draft, [item.completions[slot] for slot in row.order_shown]),
        render=project.settings.render,
        note=note,
        stage=task.stage,  # type: ignore[arg-type]  # as the database checks
        suggestion=suggestions.shown_with(session, project, row),
    )


def lock_annotator(session: Session, annotator: int) -> None:
    """One transaction of an annotator after the other. `key_share`: rows that refer to the annotator are not held up."""
    if session.scalar(statements.annotator_locked(), {"annotator": annotator}) is None:
        raise NotFound("there is no such annotator")


def _state(row: studio_models.AssignmentRow) -> Any:
    return row.state


def _locked_task(session: Session, task: int) -> studio_models.TaskRow:
    # `populate_existing`: what this session read before another transaction changed it is read again.
    return session.scalars(
        select(_Task).where(_Task.id == task).with_for_update().execution_options(populate_existing=True)
    ).one()


def _said(session: Session, item: int, annotator: int) -> Sequence[models.JudgementRow]:
    """What the annotator, who is locked, has said of an item; the last one is current."""
    return session.scalars(statements.said(), {"item": item, "annotator": annotator}).all()


def _known(said: Sequence[models.JudgementRow], key: str) -> models.JudgementRow | None:
    """The judgement that was sent with this key. Keys hold the assignment, so they are of no other item and no other annotator."""
    return next((judgement for judgement in said if judgement.idempotency_key == key), None)


def _add(
    session: Session,
    project: Project,
    row: studio_models.AssignmentRow,
    judgement: Judgement,
    said: Sequence[models.JudgementRow],
) -> int:
    """Write a judgement down; its id."""
    return judging.add_checked(
        session,
        judgement,
        kind=ITEM_KIND[project.settings.kind],
        size=len(row.order_shown),
        current=said[-1].id if said else None,
    )


def _superseding(said: Sequence[models.JudgementRow], judgement: Judgement) -> Judgement:
    """The judgement, superseding the annotator's withdrawn one of the same item if there is one."""
    if not said:
        return judgement
    current = said[-1]
    if current.choice != "withdrawn":
        raise Conflict("you have judged this item already, elsewhere; it needs no second answer")
    return replace(judgement, supersedes=current.id)


def withdraw(session: Session, before: models.JudgementRow) -> None:
    """Take a judgement back, by one that supersedes it."""
    judging.add_judgements(
        session,
        [
            Judgement(
                item=before.item_id,
                annotator=before.annotator_id,
                choice="withdrawn",
                order_shown=tuple(before.order_shown),
                guideline_version=before.guideline_version,
                supersedes=before.id,
                idempotency_key=f"withdraw {before.id}",
            )
        ],
    )


def withdraw_answer(session: Session, before: models.JudgementRow) -> studio_models.JudgementDetailRow | None:
    """Take an answer back, and the preference for what was rewritten with it; what was said besides the choice."""
    withdraw(session, before)
    detail = session.get(studio_models.JudgementDetailRow, before.id)
    if detail is not None and detail.edit_judgement_id is not None:
        withdraw(session, session.get_one(_Judgement, detail.edit_judgement_id))
    return detail


def _write_detail(
    session: Session, judgement: int, assignment: int, answer: Answer, edit: int | None
) -> None:
    session.execute(
        insert(studio_models.JudgementDetailRow).values(
            judgement_id=judgement,
            assignment_id=assignment,
            rationale=answer.rationale,
            flags=list(answer.flags),
            ratings=dict(answer.ratings),
            edited=answer.edited if answer.edited.strip() else "",
            edit_judgement_id=edit,
        )
    )
