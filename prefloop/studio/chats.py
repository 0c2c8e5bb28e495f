"""Live chat: the annotator writes, two answers come, the better one goes on the conversation. Each function is one transaction's work.

A turn's two answers are completions, an item and an assignment like any others, so an answer is given, sent again and kept by the same
rules (see `assign`); its prompt is the conversation so far. What the models answer is written by `chat_work`, outside any transaction.

What goes on the conversation: the better answer, or the one that the annotator has rewritten; of two equally good ones the one shown first, which
was drawn. Where both are bad, or the turn was skipped, neither does, and the message is taken out of what the models see.
"""

import secrets
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.data.store.writing import add_checkpoint, add_completions, add_items
from prefloop.errors import InputError
from prefloop.marks import images_in
from prefloop.records import Completion, Message, Prompt
from prefloop.studio import access, assign, audit, quotas, visitor_limits
from prefloop.studio.projects import project_of
from prefloop.studio.responders import Candidate
from prefloop.studio.values import LONGEST_TEXT, NotFound, Talk

STRATEGY = "chat"
"""How the items of chats came to be, in the store."""
_Chat, _Turn, _Assignment = studio_models.ChatRow, studio_models.ChatTurnRow, studio_models.AssignmentRow


def open_chat(session: Session, id: int, annotator: int, *, new: bool, now: datetime) -> str:
    """Token of the annotator's conversation in a project, a new one if there is none or `new` asks for it."""
    assign.lock_annotator(session, annotator)
    project = project_of(session, id)
    access.check(session, id, annotator)
    if project.settings.kind != "chat":
        raise InputError(f"project {project.settings.name!r} is of kind {project.settings.kind}, not chat")
    if project.state != "open":
        raise Conflict(f"project {project.settings.name!r} is {project.state}")
    row = session.scalars(
        select(_Chat)
        .where(_Chat.project_id == project.id, _Chat.annotator_id == annotator, _Chat.state == "open")
        .order_by(_Chat.id.desc())
        .limit(1)
    ).one_or_none()
    if row is not None:
        if not new:
            return row.token
        if not _turns(session, row.id):
            return row.token  # nothing was said in it: it is new
        row.state = "ended"
    made = _Chat(
        token=secrets.token_urlsafe(16),
        project_id=project.id,
        annotator_id=annotator,
        state="open",
        draft="",
        started_at=now,
    )
    session.add(made)
    session.flush()
    audit.write(session, now=now, annotator=annotator, action="begin", entity="chat", id=made.id)
    return made.token


def say(
    session: Session,
    token: str,
    annotator: int,
    message: str,
    *,
    key: str,
    now: datetime,
    patience: timedelta,
) -> int | None:
    """Write down a message; the turn to be answered, None if it was sent before.

    Raises `Conflict` while the last message has no judgement, and where the key was used for another message.
    """
    row = _owned(session, token, annotator, lock=True)
    if not message.strip():
        raise InputError("message is empty; write something")
    if next(images_in(message), None):
        raise InputError("message spells the mark of an image, and images cannot be typed; leave it out")
    if len(message) > LONGEST_TEXT:
        raise InputError(f"message is longer than {LONGEST_TEXT} characters")
    turns = _turns(session, row.id)
    known = next((turn for turn in turns if turn.idempotency_key == key), None)
    if known is not None:
        if known.message != message:
            raise Conflict("this idempotency key was used for another message; use a new one")
        return None
    if row.state != "open":
        raise Conflict("this conversation has ended; start a new one")
    if turns and not _is_over(session, turns[-1]):
        raise Conflict("the last message waits for its answers or for your judgement")
    visitor_limits.check(session, row.project_id, annotator, message, now=now)
    allowed = quotas.allowance(session, project_of(session, row.project_id), annotator, now)
    if allowed.left == 0:
        raise Conflict(allowed.why)
    turn = _Turn(
        chat_id=row.id,
        position=len(turns),
        message=message,
        idempotency_key=key,
        state="waiting",
        problem="",
        claimed_until=now + patience,
        assignment_id=None,
        partial=[],
        stopping=False,
        created_at=now,
    )
    session.add(turn)
    row.draft = ""
    session.flush()
    return turn.id


def is_left(session: Session, token: str, annotator: int, *, now: datetime) -> bool:
    """Whether the last message waits for answers which nobody is getting any more, because the process that did has died."""
    turns = _turns(session, _owned(session, token, annotator).id)
    return bool(turns) and turns[-1].state == "waiting" and turns[-1].claimed_until <= now


def claim(session: Session, token: str, annotator: int, *, now: datetime, patience: timedelta) -> int | None:
    """The turn that `is_left`, if it still is; it is then the caller's to get its answers."""
    row = _owned(session, token, annotator, lock=True)
    if not is_left(session, token, annotator, now=now):
        return None
    turns = _turns(session, row.id)
    turns[-1].claimed_until = now + patience
    return turns[-1].id


def to_answer(session: Session, turn: int) -> tuple[Message, ...]:
    """What the models are shown for a turn."""
    row = session.get_one(_Turn, turn)
    return (*_history(session, _turns(session, row.chat_id)[: row.position]), _by_user(row.message))


def is_public(session: Session, turn: int) -> bool:
    """Whether a turn is of a project that takes visitors."""
    chat = session.get_one(_Chat, session.get_one(_Turn, turn).chat_id)
    return project_of(session, chat.project_id).settings.access == "public"


def progress(session: Session, turn: int, texts: Sequence[str], *, until: datetime) -> bool:
    """Write down the answers so far, in the order they will be shown; whether they are still wanted. `until`: the claim of who writes them."""
    row = session.get_one(_Turn, turn)
    if row.state != "waiting":
        return False  # another process has answered it
    row.partial, row.claimed_until = list(texts), until
    return not row.stopping


def stop(session: Session, token: str, annotator: int) -> None:
    """Take the answers as they are. Nothing if none are being written."""
    turns = _turns(session, _owned(session, token, annotator, lock=True).id)
    if turns and turns[-1].state == "waiting":
        turns[-1].stopping = True


def answered(
    session: Session, turn: int, candidates: Sequence[Candidate], *, order: Sequence[int], now: datetime
) -> None:
    """Make an item of two answers and put it in front of the annotator, in this order. Nothing if the turn has its answers already, or has
    failed."""
    chat_id = session.get_one(_Turn, turn).chat_id
    chat = session.scalars(select(_Chat).where(_Chat.id == chat_id).with_for_update()).one()
    row = session.scalars(
        select(_Turn).where(_Turn.id == turn).execution_options(populate_existing=True)
    ).one()
    if row.state != "waiting":
        return
    project = project_of(session, chat.project_id)
    prompt = Prompt(content=to_answer(session, turn))
    ids = [_written(session, prompt, candidate) for candidate in candidates]
    (item,), _ = add_items(session, [ids], kind="pair", strategy=STRATEGY, round=0)
    task = studio_models.TaskRow(
        project_id=project.id,
        item_id=item,
        queue=0.0,
        position=0,
        overlap=1,
        taken=1,
        open=False,
        gold="",
        stage="",
        gold_note="",
        archived=False,
        audience="",
    )
    session.add(task)
    session.flush()
    shown = models.ItemCompletionRow
    slots = dict(session.execute(select(shown.completion_id, shown.slot).where(shown.item_id == item)).all())
    assignment = _Assignment(
        token=secrets.token_urlsafe(16),
        task_id=task.id,
        project_id=project.id,
        annotator_id=chat.annotator_id,
        state="leased",
        order_shown=[slots[ids[place]] for place in order],
        leased_at=now,
        expires_at=now + timedelta(seconds=project.settings.lease_seconds),
        finished_at=None,
        judgement_id=None,
        draft={},
    )
    session.add(assignment)
    session.flush()
    row.state, row.assignment_id, row.partial = "asked", assignment.id, []


def failed(session: Session, turn: int, problem: str) -> None:
    """Write down why a turn has no answers, for the annotator to read."""
    row = session.scalars(select(_Turn).where(_Turn.id == turn).with_for_update()).one()
    if row.state == "waiting":
        row.state, row.problem, row.partial = "failed", problem, []


def save_draft(session: Session, token: str, annotator: int, message: str) -> None:
    """Keep a message that was begun."""
    _owned(session, token, annotator, lock=True).draft = message


def shown(session: Session, token: str, annotator: int) -> Talk:
    """A conversation as its page may see it."""
    chat = _owned(session, token, annotator)
    project = project_of(session, chat.project_id)
    turns = _turns(session, chat.id)
    last = turns[-1] if turns else None
    pending = last is not None and not _is_over(session, last)
    messages = list(_history(session, turns[:-1] if pending else turns))
    assignment, again = None, ""
    if pending:
        assert last is not None
        messages.append(_by_user(last.message))
        if last.assignment_id is not None:
            assignment = assign.shown(session, project, session.get_one(_Assignment, last.assignment_id))
    elif last is not None and (last.state == "failed" or _went_on(session, last) is None):
        again = last.message
    return Talk(
        token=chat.token,
        project=chat.project_id,
        state=cast(Any, chat.state),
        messages=tuple(messages),
        waiting=last is not None and last.state == "waiting",
        partial=tuple(last.partial) if last is not None else (),
        problem=last.problem if last is not None else "",
        again=again,
        assignment=assignment,
        draft=chat.draft,
    )


def _owned(session: Session, token: str, annotator: int, *, lock: bool = False) -> studio_models.ChatRow:
    """The annotator's own conversation."""
    statement = select(_Chat).where(_Chat.token == token, _Chat.annotator_id == annotator)
    row = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if row is None:
        raise NotFound("you have no such conversation")
    access.check(session, row.project_id, annotator)
    return row


def _turns(session: Session, chat: int) -> Sequence[studio_models.ChatTurnRow]:
    return session.scalars(select(_Turn).where(_Turn.chat_id == chat).order_by(_Turn.position)).all()


def _by_user(text: str) -> Message:
    return Message(role="user", content=text)


def _is_over(session: Session, turn: studio_models.ChatTurnRow) -> bool:
    """Whether a turn has its judgement, or will never have one."""
    if turn.assignment_id is None:
        return turn.state == "failed"
    return session.get_one(_Assignment, turn.assignment_id).judgement_id is not None


def _history(session: Session, turns: Sequence[studio_models.ChatTurnRow]) -> tuple[Message, ...]:
    """What was said in these turns, without those that led nowhere."""
    messages: list[Message] = []
    for turn in turns:
        answer = _went_on(session, turn)
        if answer is not None:
            messages += [_by_user(turn.message), Message(role="assistant", content=answer)]
    return tuple(messages)


def _went_on(session: Session, turn: studio_models.ChatTurnRow) -> str | None:
    """The answer that goes on the conversation; None if neither does."""
    if turn.assignment_id is None:
        return None
    row = session.get_one(_Assignment, turn.assignment_id)
    if row.judgement_id is None:
        return None
    judgement = session.get_one(models.JudgementRow, row.judgement_id)
    detail = session.get(studio_models.JudgementDetailRow, judgement.id)
    if detail is not None and detail.edited:
        return detail.edited
    slots = {"a": 0, "b": 1, "tie": row.order_shown[0]}
    if judgement.choice not in slots:
        return None
    (item,) = judging.items(session, [judgement.item_id])
    return item.completions[slots[judgement.choice]]


def _written(session: Session, prompt: Prompt, candidate: Candidate) -> int:
    """Id of an answer in the store, with the model and the seed that it was drawn with."""
    checkpoint = add_checkpoint(
        session,
        candidate.policy,
        kind="policy",
        weights_sha256=candidate.weights_sha256,
        stage="",
        step=0,
        parent=None,
        training_run=None,
    )
    completion = Completion(
        prompt=prompt,
        text=candidate.text,
        policy=candidate.policy,
        logprob=candidate.logprob,
        tokens=candidate.tokens,
        ended=candidate.ended,
        temperature=candidate.temperature,
        top_p=1.0,
        top_k=0,
        seed=candidate.seed,
        index=0,
    )
    (id,) = add_completions(session, [completion], checkpoint)
    return id
