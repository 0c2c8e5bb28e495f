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
from typing import Any, Literal

from sqlalchemy import Select, func, insert, select
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.values import Choice, Conflict, Judgement
from prefloop.data.store.writing import add_checkpoint, add_completions, add_items
from prefloop.errors import InputError
from prefloop.feedback.studio import audit
from prefloop.feedback.studio.projects import project_of
from prefloop.feedback.studio.values import Answer, Assignment, NotFound, Project, Receipt
from prefloop.records import Completion

MOST_HELD = 3
"""Leases an annotator holds in one project: the item on the screen, the next one, and one left over from another window."""
HUMAN = "human"
_Task, _Assignment, _Judgement = studio_models.Task, studio_models.Assignment, models.Judgement
_PLACES: Mapping[str, int] = {"first": 0, "second": 1}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "pair": ("first", "second", "tie", "both_bad"),
    "clip": ("first", "second", "tie", "both_bad", "cant_tell"),
    "rank": ("ranking", "both_bad"),
    "rate": ("rated",),
    "binary": ("good", "bad"),
    "edit": ("edited", "good"),
}
"""Kind of project -> what can be said. Of a reply to edit, `good` means that nothing needs to be better."""
_OTHERS: Mapping[str, Choice] = {
    "tie": "tie",
    "both_bad": "both_bad",
    "cant_tell": "cant_tell",
    "ranking": "ranking",
    "good": "good",
    "bad": "bad",
    "rated": "rated",
    "edited": "edited",
}
"""Choices that mean the same in places and in slots."""


def lease(
    session: Session,
    project: Project,
    annotator: int,
    *,
    have: Collection[str] = (),
    now: datetime,
    random: Random | secrets.SystemRandom,
) -> Assignment | None:
    """The next item for an annotator, or None if there is none for them at present. `have`: tokens that the page holds already.

    What the annotator was given before and has not answered comes first, so a page that is loaded again goes on where it was.
    """
    lock_annotator(session, annotator)
    expire(session, now)
    if project.state != "open":
        return None
    held = session.scalars(
        select(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(
            _Task.project_id == project.id,
            _Assignment.annotator_id == annotator,
            _Assignment.state == "leased",
        )
        .order_by(_Assignment.leased_at, _Assignment.id)
    ).all()
    for row in held:
        if row.token not in have:
            row.expires_at = now + timedelta(seconds=project.settings.lease_seconds)
            return shown(session, project, row)
    if len(held) >= MOST_HELD:
        return None
    task = _take(session, project, annotator, random)
    if task is None:
        return None
    slots = session.scalar(select(func.count()).where(models.ItemCompletion.item_id == task.item_id))
    order = list(range(slots or 0))
    random.shuffle(order)
    row = session.scalars(
        select(_Assignment).where(_Assignment.task_id == task.id, _Assignment.annotator_id == annotator)
    ).one_or_none()
    expires = now + timedelta(seconds=project.settings.lease_seconds)
    if row is None:
        row = _Assignment(
            token=secrets.token_urlsafe(16),
            task_id=task.id,
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
    else:
        # Left unanswered before. The order stays as it was: the annotator may remember it, and a draft speaks of it.
        row.state, row.leased_at, row.expires_at = "leased", now, expires
    session.flush()
    return shown(session, project, row)


def _take(
    session: Session, project: Project, annotator: int, random: Random | secrets.SystemRandom
) -> studio_models.Task | None:
    """Choose a task and take one of its places."""
    # Questions whose answer is known are asked among others, not alone: without another one there is none of them.
    task = session.scalars(_candidates(project, annotator, gold=False)).first()
    if task is not None and random.random() < project.settings.gold_share:
        task = session.scalars(_candidates(project, annotator, gold=True)).first() or task
    if task is None:
        return None
    task.taken += 1
    task.open = task.taken < task.overlap
    session.flush()
    return task


def _candidates(project: Project, annotator: int, *, gold: bool) -> Select[studio_models.Task]:
    """Open tasks that the annotator has not been asked, best first; one row, locked."""
    answered = select(_Assignment.id).where(
        _Assignment.task_id == _Task.id,
        _Assignment.annotator_id == annotator,
        _Assignment.state.not_in(("expired", "returned")),
    )
    later = aliased(_Judgement)
    superseded = select(later.id).where(later.supersedes_id == _Judgement.id)
    judged = select(_Judgement.id).where(
        _Judgement.item_id == _Task.item_id,
        _Judgement.annotator_id == annotator,
        _Judgement.choice != "withdrawn",
        ~superseded.exists(),
    )
    return (
        select(_Task)
        .where(
            _Task.project_id == project.id,
            _Task.gold != "" if gold else _Task.gold == "",
            _Task.open,
            _Task.taken < _Task.overlap,
            ~answered.exists(),
            ~judged.exists(),
        )
        .order_by(_Task.queue, _Task.taken, _Task.position, _Task.id)
        .limit(1)
        .with_for_update(skip_locked=True, of=_Task)
    )


def expire(session: Session, now: datetime) -> int:
    """Take back the leases that have run out; how many."""
    rows = session.scalars(
        select(_Assignment)
        .where(_Assignment.state == "leased", _Assignment.expires_at <= now)
        .order_by(_Assignment.task_id)
        .with_for_update(skip_locked=True)
    ).all()
    for row in rows:
        row.state = "expired"
    session.flush()
    for task in sorted({row.task_id for row in rows}):
        _release(session, task, sum(row.task_id == task for row in rows))
    return len(rows)


def _release(session: Session, task: int, places: int = 1) -> None:
    row = _locked_task(session, task)
    row.taken -= places
    row.open = row.taken < row.overlap
    session.flush()


def submit(
    session: Session, token: str, annotator: int, answer: Answer, *, key: str, now: datetime
) -> Receipt:
    """Write down an answer. Sent again with the same key it changes nothing and gives the same receipt.

    Raises `NotFound` for a token that is not this annotator's, `InputError` for an answer that makes no sense, `Conflict` where the key was used
    for another answer or the item was answered already.
    """
    lock_annotator(session, annotator)
    row, project = owned(session, token, annotator)
    said = _judgement(project, row, answer, key=key, item=_item_of(session, row))
    known = _known(session, said.idempotency_key)
    if known is not None:
        _same(session, known, said, answer)
        return Receipt(token=token, state=_state(row), judgement=known.id)
    if row.state in ("submitted", "skipped", "surplus"):
        raise Conflict(
            "this item was answered already, perhaps in another window; undo that answer to change it"
        )
    said = _superseding(session, said)
    (id,) = judging.judge(session, [said])
    edit = _write_edit(session, project, row, answer, id, said, now) if answer.edited.strip() else None
    _write_detail(session, id, row.id, answer, edit)
    _occupy(session, row)
    row.judgement_id, row.finished_at, row.draft = id, now, {}
    audit.write(
        session,
        now=now,
        annotator=annotator,
        action="submit",
        entity="assignment",
        id=row.id,
        detail={"judgement": id, "state": row.state},
    )
    session.flush()
    return Receipt(token=token, state=_state(row), judgement=id)


def _occupy(session: Session, row: studio_models.Assignment) -> None:
    """The answer takes its place in the overlap: the lease's own, or one that is still free."""
    if row.state == "leased":
        row.state = "submitted"
        return
    task = _locked_task(session, row.task_id)
    if task.taken < task.overlap:
        task.taken += 1
        task.open = task.taken < task.overlap
        row.state = "submitted"
    else:
        row.state = "surplus"


def skip(session: Session, token: str, annotator: int, *, key: str, reason: str, now: datetime) -> Receipt:
    """Pass over an item: it is not offered to this annotator again, and somebody else is asked."""
    lock_annotator(session, annotator)
    row, project = owned(session, token, annotator)
    said = _plain_judgement(
        project, row, choice="skip", key=key, item=_item_of(session, row), strength=0, duration_ms=0
    )
    answer = Answer(choice="tie", rationale=reason)
    known = _known(session, said.idempotency_key)
    if known is not None:
        _same(session, known, said, answer)
        return Receipt(token=token, state=_state(row), judgement=known.id)
    if row.state in ("submitted", "skipped", "surplus"):
        raise Conflict(
            "this item was answered already, perhaps in another window; undo that answer to change it"
        )
    said = _superseding(session, said)
    (id,) = judging.judge(session, [said])
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
        detail={"judgement": id},
    )
    session.flush()
    return Receipt(token=token, state="skipped", judgement=id)


def undo(session: Session, token: str, annotator: int, *, now: datetime) -> Assignment:
    """Take back one's answer and have the item again. The old answer stays in the history of the store; a new row withdraws it.

    Done again, it changes nothing. Where others have filled the overlap meanwhile (after a skip or a late answer), the item can still be
    answered, and the answer is kept as surplus.
    """
    lock_annotator(session, annotator)
    row, project = owned(session, token, annotator)
    if row.state not in ("submitted", "skipped", "surplus"):
        return shown(session, project, row)
    assert row.judgement_id is not None
    before = session.get_one(_Judgement, row.judgement_id)
    _withdraw(session, before)
    detail = session.get(studio_models.JudgementDetail, before.id)
    if detail is not None and detail.edit_judgement_id is not None:
        _withdraw(session, session.get_one(_Judgement, detail.edit_judgement_id))
    row.draft = _as_draft(before, detail, row.order_shown)
    row.judgement_id, row.finished_at = None, None
    expires = now + timedelta(seconds=project.settings.lease_seconds)
    if row.state == "submitted":
        row.state, row.leased_at, row.expires_at = "leased", now, expires
    else:
        task = _locked_task(session, row.task_id)
        if task.taken < task.overlap:
            task.taken += 1
            task.open = task.taken < task.overlap
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
        detail={"judgement": before.id},
    )
    session.flush()
    return shown(session, project, row)


def give_back(session: Session, token: str, annotator: int) -> None:
    """Return an item unanswered, for whoever comes next: a page that is closed need not wait for the lease to run out."""
    lock_annotator(session, annotator)
    row, _ = owned(session, token, annotator)
    if row.state == "leased":
        row.state = "returned"
        session.flush()
        _release(session, row.task_id)


def save_draft(
    session: Session, token: str, annotator: int, draft: Mapping[str, Any], *, now: datetime
) -> None:
    """Keep an unfinished answer. Working on an item keeps its lease alive; what is answered has no draft."""
    row, project = owned(session, token, annotator)
    if row.state in ("submitted", "skipped", "surplus"):
        return
    row.draft = dict(draft)
    if row.state == "leased":
        row.expires_at = now + timedelta(seconds=project.settings.lease_seconds)


def owned(session: Session, token: str, annotator: int) -> tuple[studio_models.Assignment, Project]:
    """The annotator's own assignment, locked, and its project."""
    row = session.scalars(
        select(_Assignment)
        .where(_Assignment.token == token, _Assignment.annotator_id == annotator)
        .with_for_update()
    ).one_or_none()
    if row is None:
        raise NotFound("there is no such assignment of yours")
    project = session.scalar(select(_Task.project_id).where(_Task.id == row.task_id))
    assert project is not None
    return row, project_of(session, project)


def shown(session: Session, project: Project, row: studio_models.Assignment) -> Assignment:
    """An assignment as its page may see it."""
    (item,) = judging.items(session, [_item_of(session, row)])
    return Assignment(
        token=row.token,
        project=project.id,
        kind=project.settings.kind,
        prompt=item.prompt,
        completions=tuple(item.completions[slot] for slot in row.order_shown),
        state=_state(row),
        expires_at=row.expires_at,
        draft=row.draft,
    )


def lock_annotator(session: Session, annotator: int) -> None:
    """One transaction of an annotator after the other. `key_share`: rows that refer to the annotator are not held up."""
    found = session.scalar(
        select(models.Annotator.id).where(models.Annotator.id == annotator).with_for_update(key_share=True)
    )
    if found is None:
        raise NotFound("there is no such annotator")


def _state(row: studio_models.Assignment) -> Any:
    return row.state


def _item_of(session: Session, row: studio_models.Assignment) -> int:
    item = session.scalar(select(_Task.item_id).where(_Task.id == row.task_id))
    assert item is not None
    return item


def _locked_task(session: Session, task: int) -> studio_models.Task:
    # `populate_existing`: what this session read before another transaction changed it is read again.
    return session.scalars(
        select(_Task).where(_Task.id == task).with_for_update().execution_options(populate_existing=True)
    ).one()


def _judgement(
    project: Project, row: studio_models.Assignment, answer: Answer, *, key: str, item: int
) -> Judgement:
    """An answer in places as a judgement in slots; `InputError` where the project does not ask for such an answer."""
    settings, order = project.settings, row.order_shown
    allowed = [
        choice
        for choice in _CHOICES[settings.kind]
        if (settings.allow_tie or choice != "tie") and (settings.allow_both_bad or choice != "both_bad")
    ]
    if answer.choice not in allowed:
        raise InputError(f"choice is {answer.choice!r}; here it must be one of {', '.join(allowed)}")
    sided = answer.choice in _PLACES
    most = settings.strength_levels if sided else 0
    if not 0 <= answer.strength <= most:
        raise InputError(f"strength is {answer.strength}; with {answer.choice} it must be 0 to {most}")
    if answer.ranking and answer.choice != "ranking":
        raise InputError("ranking goes with the choice `ranking` only")
    if any(not 0 <= place < len(order) for group in answer.ranking for place in group):
        raise InputError(f"ranking is {answer.ranking}; places go from 0 to {len(order) - 1}")
    _check_ratings(project, answer)
    unknown = [flag for flag in answer.flags if flag not in settings.flags]
    if unknown or len(set(answer.flags)) != len(answer.flags):
        raise InputError(f"flags must be of {', '.join(settings.flags) or 'none'}, each once")
    if (answer.choice == "edited") > bool(answer.edited.strip()):
        raise InputError("edited is empty; write the better reply, or say that this one is good")
    if answer.edited.strip() and answer.choice not in ("first", "second", "edited"):
        raise InputError(
            f"a better reply is written from the better one shown; with {answer.choice} there is none"
        )
    choice: Choice = _OTHERS.get(answer.choice, "a")
    if sided and order[_PLACES[answer.choice]] != 0:
        choice = "b"
    return _plain_judgement(
        project,
        row,
        choice=choice,
        key=key,
        item=item,
        strength=answer.strength,
        duration_ms=answer.duration_ms,
        ranking=tuple(tuple(sorted(order[place] for place in group)) for group in answer.ranking),
    )


def _check_ratings(project: Project, answer: Answer) -> None:
    scales = {scale.name: scale.levels for scale in project.settings.scales}
    if answer.choice != "rated":
        if answer.ratings:
            raise InputError("ratings go with the choice `rated` only")
        return
    if set(answer.ratings) != set(scales):
        raise InputError(f"ratings must be of {', '.join(scales)}, all of them")
    for name, level in answer.ratings.items():
        if not 1 <= level <= scales[name]:
            raise InputError(f"rating of {name} is {level}; it must be 1 to {scales[name]}")


def _plain_judgement(
    project: Project,
    row: studio_models.Assignment,
    *,
    choice: Choice,
    key: str,
    item: int,
    strength: int,
    duration_ms: int,
    ranking: tuple[tuple[int, ...], ...] = (),
) -> Judgement:
    if not 8 <= len(key) <= 100:
        raise InputError("the idempotency key must have 8 to 100 characters, for example a UUID")
    return Judgement(
        item=item,
        annotator=row.annotator_id,
        choice=choice,
        order_shown=tuple(row.order_shown),
        ranking=ranking,
        strength=strength,
        duration_ms=duration_ms,
        guideline_version=project.guideline_version,
        # Within the assignment, so that nobody can use up, or find out, somebody else's keys.
        idempotency_key=f"studio {row.token} {key}",
    )


def _known(session: Session, key: str) -> models.Judgement | None:
    return session.scalars(select(_Judgement).where(_Judgement.idempotency_key == key)).one_or_none()


def _same(session: Session, known: models.Judgement, said: Judgement, answer: Answer) -> None:
    """`Conflict` unless the stored judgement is what is sent again."""
    detail = session.get_one(studio_models.JudgementDetail, known.id)
    stored = (
        known.choice,
        known.ranking,
        known.strength,
        known.duration_ms,
        detail.rationale,
        detail.flags,
        detail.ratings,
        detail.edited,
    )
    sent = (
        said.choice,
        [list(group) for group in said.ranking],
        said.strength,
        said.duration_ms,
        answer.rationale,
        list(answer.flags),
        dict(answer.ratings),
        answer.edited if answer.edited.strip() else "",
    )
    if stored != sent:
        raise Conflict("this idempotency key was used for another answer; use a new one")


def _superseding(session: Session, said: Judgement) -> Judgement:
    """The judgement, superseding the annotator's withdrawn one of the same item if there is one."""
    current = _current(session, said.item, said.annotator)
    if current is None:
        return said
    if current.choice != "withdrawn":
        raise Conflict("you have judged this item already, elsewhere; it needs no second answer")
    return replace(said, supersedes=current.id)


def _current(session: Session, item: int, annotator: int) -> models.Judgement | None:
    return session.scalars(
        select(_Judgement)
        .where(_Judgement.item_id == item, _Judgement.annotator_id == annotator)
        .order_by(_Judgement.id.desc())
        .limit(1)
    ).one_or_none()


def _withdraw(session: Session, before: models.Judgement) -> None:
    judging.judge(
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


def _write_detail(
    session: Session, judgement: int, assignment: int, answer: Answer, edit: int | None
) -> None:
    session.execute(
        insert(studio_models.JudgementDetail).values(
            judgement_id=judgement,
            assignment_id=assignment,
            rationale=answer.rationale,
            flags=list(answer.flags),
            ratings=dict(answer.ratings),
            edited=answer.edited if answer.edited.strip() else "",
            edit_judgement_id=edit,
        )
    )


def _write_edit(
    session: Session,
    project: Project,
    row: studio_models.Assignment,
    answer: Answer,
    judgement: int,
    said: Judgement,
    now: datetime,
) -> int | None:
    """The better reply as a completion by people, and a judgement that prefers it to what it was made from. None if it is the same text."""
    (item,) = judging.items(session, [said.item])
    place = _PLACES.get(answer.choice, 0)
    source_slot = row.order_shown[place]
    if item.completions[source_slot] == answer.edited:
        raise InputError("edited is the reply as it was; change something, or leave the edit out")
    source = session.scalars(
        select(models.ItemCompletion.completion_id).where(
            models.ItemCompletion.item_id == said.item, models.ItemCompletion.slot == source_slot
        )
    ).one()
    author = add_checkpoint(
        session, HUMAN, kind=HUMAN, weights_sha256="", stage="", step=0, parent=None, training_run=None
    )
    written = Completion(
        prompt=item.prompt,
        text=answer.edited,
        policy=HUMAN,
        logprob=0.0,
        tokens=0,
        ended=True,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=0,
    )
    (made,) = add_completions(session, [written], author)
    (pair,), _ = add_items(session, [sorted((source, made))], kind="pair", strategy="edit", round=item.round)
    slots: Sequence[int] = session.scalars(
        select(models.ItemCompletion.completion_id)
        .where(models.ItemCompletion.item_id == pair)
        .order_by(models.ItemCompletion.slot)
    ).all()
    choice: Literal["a", "b"] = "a" if slots[0] == made else "b"
    current = _current(session, pair, row.annotator_id)
    if current is not None and current.choice == choice:
        return None  # said so already, of the same two texts
    (id,) = judging.judge(
        session,
        [
            Judgement(
                item=pair,
                annotator=row.annotator_id,
                choice=choice,
                order_shown=(0, 1) if slots[0] == source else (1, 0),
                guideline_version=project.guideline_version,
                supersedes=None if current is None else current.id,
                idempotency_key=f"edit {judgement}",
            )
        ],
    )
    return id


def _as_draft(
    before: models.Judgement, detail: studio_models.JudgementDetail | None, order: Sequence[int]
) -> dict[str, Any]:
    """An answer as the page would have kept it unfinished, in places, so that undoing a slip does not lose what was typed."""
    place = {slot: index for index, slot in enumerate(order)}
    draft: dict[str, Any] = {}
    if before.choice in ("a", "b"):
        draft["choice"] = "first" if place["ab".index(before.choice)] == 0 else "second"
        draft["strength"] = before.strength
    elif before.choice != "skip":
        draft["choice"] = before.choice
    if before.ranking:
        draft["ranking"] = [sorted(place[slot] for slot in group) for group in before.ranking]
    if detail is not None:
        draft |= {
            name: value
            for name, value in (
                ("rationale", detail.rationale),
                ("flags", detail.flags),
                ("ratings", detail.ratings),
                ("edited", detail.edited),
            )
            if value
        }
    return draft
