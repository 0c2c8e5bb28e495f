"""Erasing a person: their account, and every word they wrote. What they chose stays, under a pseudonym that leads to nobody.

The database refuses to change what was said. Here alone that is lifted, for some tables and within one transaction, in which the whole store is then
searched for the words again. What the search says is the proof; it is kept, and holds no word and no name.

Words that others have written too (a prompt of an imported file that somebody also typed) are the others' and stay; the proof counts them.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from hashlib import sha256
from typing import Any

from sqlalchemy import JSON, Select, String, delete, func, select, update
from sqlalchemy.orm import Session

from prefloop.data.store import event_models, models, studio_models
from prefloop.data.store.database import Unavailable
from prefloop.data.store.models import AnyText, Base
from prefloop.data.store.writing import chunks
from prefloop.records import Prompt
from prefloop.studio import accounts, assign, audit
from prefloop.studio.edits import HUMAN
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound

LOCKED = ("judgement_detail", "question_answer", "span", "completion")
"""Tables whose words may otherwise never change."""
_Detail, _Turn, _Chat = studio_models.JudgementDetailRow, studio_models.ChatTurnRow, studio_models.ChatRow
_Answer, _Span, _Note = studio_models.QuestionAnswerRow, studio_models.SpanRow, studio_models.NoteRow
_Assignment, _Task = studio_models.AssignmentRow, studio_models.TaskRow
_Judgement, _Item, _Completion = models.JudgementRow, models.ItemRow, models.CompletionRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """What was erased, and what a search of the whole store found afterwards."""

    id: int
    pseudonym: str
    at: str
    account: bool
    """Whether there was an account, which is deleted."""
    erased: Mapping[str, int]
    """Where there were words -> how many rows had some."""
    withdrawn: int
    """Judgements, by anybody, on texts that are erased; no new export has them."""
    kept: int
    """Judgements of the person that stay: a choice, without words."""
    exports: tuple[int, ...]
    """Exports that had such texts. They cannot be made again; files that were written of them still have the words."""
    datasets: tuple[str, ...]
    training_runs: tuple[int, ...]
    """Runs that read these exports."""
    searched_words: int
    searched_values: int
    found: Mapping[str, int]
    """Where the same words still stand, as somebody else's, and how often."""
    file_rewritten: bool
    """Whether the database's file was written anew, without what was deleted. On PostgreSQL VACUUM FULL does that."""


def find_person(studio: Studio, given: str) -> int:
    """The annotator of a login or a pseudonym."""
    with studio.read() as session:
        account, annotator = studio_models.AccountRow, models.AnnotatorRow
        by_login = select(account.annotator_id).where(account.login == given.strip().lower())
        by_name = select(annotator.id).where(annotator.name == given.strip(), annotator.kind == "human")
        found = session.scalar(by_login) or session.scalar(by_name)
    if found is None:
        raise NotFound(f"there is no login or pseudonym {given!r}")
    return found


def annotator_of(studio: Studio, account: int) -> int:
    """The annotator of an account."""
    with studio.read() as session:
        return accounts.account_of(session, account).annotator_id


def erase(studio: Studio, annotator: int, *, by: int | None) -> Proof:
    """Erase a person, and prove it.

    Raises `Conflict` for the last admin, `NotFound` for an annotator who is no person.
    """
    with studio.write(bulk=True) as session:
        row = session.get(models.AnnotatorRow, annotator)
        if row is None or row.kind != "human":
            raise NotFound("there is no such person")
        account = session.scalar(
            select(studio_models.AccountRow).where(studio_models.AccountRow.annotator_id == annotator)
        )
        words = _words(session, annotator) | ({account.login} if account else set())
        prompts, completions = _own_texts(session, annotator)
        with _unlocked(session):
            erased = _blank(session, annotator)
            erased |= _erase_texts(session, prompts, completions)
        touched = _items_with(session, prompts, completions)
        exports = _exports_with(session, touched, prompts)
        withdrawn = _withdraw(session, touched)
        if account is not None:
            accounts.delete_account(session, account)
        session.flush()
        values, found = _search(session, words)
        audit.write(
            session, now=studio.clock(), annotator=by, action="erase", entity="annotator", id=annotator
        )
        proof = Proof(
            id=0,
            pseudonym=row.name,
            at=studio.clock().isoformat(timespec="seconds"),
            account=account is not None,
            erased={name: count for name, count in erased.items() if count},
            withdrawn=withdrawn,
            kept=_kept(session, annotator),
            exports=tuple(exports),
            datasets=tuple(_datasets(session, exports)),
            training_runs=tuple(_runs(session, exports)),
            searched_words=len(words),
            searched_values=values,
            found=found,
            file_rewritten=False,
        )
        id = _keep(session, annotator, proof, studio.clock())
    proof = replace(proof, id=id, file_rewritten=_compacted(studio))
    with studio.write() as session:
        session.get_one(event_models.ErasureRow, id).proof = asdict(proof)
    return proof


def proofs(studio: Studio) -> list[Mapping[str, Any]]:
    """Every proof, newest first."""
    with studio.read() as session:
        rows = session.scalars(select(event_models.ErasureRow).order_by(event_models.ErasureRow.id.desc()))
        return [row.proof for row in rows]


def _keep(session: Session, annotator: int, proof: Proof, now: datetime) -> int:
    row = event_models.ErasureRow(annotator_id=annotator, proof=asdict(proof), at=now)
    session.add(row)
    session.flush()
    return row.id


def _compacted(studio: Studio) -> bool:
    try:
        return studio.store.database.compact()
    except Unavailable:
        return False  # somebody is reading; the proof says so


# What they wrote


def _mine(annotator: int) -> Select[int]:
    return select(_Judgement.id).where(_Judgement.annotator_id == annotator)


def _assigned(annotator: int) -> Select[int]:
    return select(_Assignment.id).where(_Assignment.annotator_id == annotator)


def _chats(annotator: int) -> Select[int]:
    return select(_Chat.id).where(_Chat.annotator_id == annotator)


def _words(session: Session, annotator: int) -> set[str]:
    """Every text of theirs, wherever it stands."""
    mine, chats = _mine(annotator), _chats(annotator)
    sources: list[Select[Any]] = [
        select(_Detail.rationale).where(_Detail.judgement_id.in_(mine)),
        select(_Detail.edited).where(_Detail.judgement_id.in_(mine)),
        select(_Span.comment).where(_Span.judgement_id.in_(mine)),
        select(_Note.text).where(_of_notes(annotator)),
        select(_Chat.draft).where(_Chat.annotator_id == annotator),
        select(_Turn.message).where(_Turn.chat_id.in_(chats)),
    ]
    found = {text for source in sources for value in session.scalars(source) for text in _texts(value)}
    found |= {row.value for row in _text_answers(session, annotator)}
    for draft in session.scalars(select(_Assignment.draft).where(_Assignment.annotator_id == annotator)):
        found |= set(_texts([draft.get(name) for name in ("rationale", "edited", "edits")]))
        found |= set(_texts([answer.get("value") for answer in draft.get("answers", ())]))
        found |= set(_texts([span.get("comment") for span in draft.get("spans", ())]))
    return {text for text in found if text.strip()}


def _texts(value: Any) -> Iterator[str]:
    """The strings in a value, which may be JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _of_notes(annotator: int) -> Any:
    """Notes by a person, and those to them."""
    return (_Note.annotator_id == annotator) | _Note.assignment_id.in_(_assigned(annotator))


def _text_answers(session: Session, annotator: int) -> list[studio_models.QuestionAnswerRow]:
    """Answers in their own words: texts that are no option of a question."""
    options = {
        (question["name"], option)
        for questions in session.scalars(select(studio_models.ProjectRow.questions))
        for question in questions
        for option in question.get("options", ())
    }
    rows = session.scalars(select(_Answer).where(_Answer.judgement_id.in_(_mine(annotator))))
    return [row for row in rows if isinstance(row.value, str) and (row.question, row.value) not in options]


def _own_texts(session: Session, annotator: int) -> tuple[list[int], list[int]]:
    """Prompts that are conversations of theirs alone; the answers in these, and replies that they rewrote."""
    items = (
        select(_Task.item_id)
        .join(_Assignment, _Assignment.task_id == _Task.id)
        .join(_Turn, _Turn.assignment_id == _Assignment.id)
        .where(_Turn.chat_id.in_(_chats(annotator)))
    )
    asked = select(_Item.prompt_id).where(_Item.id.in_(items))
    answers = select(models.ItemCompletionRow.completion_id).where(
        models.ItemCompletionRow.item_id.in_(items)
    )
    # Somebody else said the same, or a file holds it: then it was answered there too.
    elsewhere = (
        select(_Completion.prompt_id)
        .join(models.CheckpointRow, models.CheckpointRow.id == _Completion.checkpoint_id)
        .where(_Completion.id.not_in(answers), models.CheckpointRow.kind != HUMAN)
    )
    prompts = session.scalars(
        select(models.PromptRow.id).where(
            models.PromptRow.id.in_(asked), models.PromptRow.id.not_in(elsewhere)
        )
    ).all()
    completions = set[int]()
    for some in chunks(prompts):
        completions |= set(session.scalars(select(_Completion.id).where(_Completion.prompt_id.in_(some))))
    rewritten = (
        select(_Completion.id)
        .join(models.CheckpointRow, models.CheckpointRow.id == _Completion.checkpoint_id)
        .join(_Item, _Item.prompt_id == _Completion.prompt_id)
        .join(_Judgement, _Judgement.item_id == _Item.id)
        .join(_Detail, _Detail.judgement_id == _Judgement.id)
        .where(
            _Judgement.annotator_id == annotator,
            models.CheckpointRow.kind == HUMAN,
            _Detail.edited != "",
            _Detail.edited == _Completion.text,
        )
    )
    return list(prompts), sorted(completions | set(session.scalars(rewritten)))


# Erasing


@contextmanager
def _unlocked(session: Session) -> Iterator[None]:
    """Let this transaction change what the database refuses to change. If it fails, this is rolled back with the rest."""
    connection = session.connection()
    if connection.dialect.name == "postgresql":
        for table in LOCKED:
            connection.exec_driver_sql(f"ALTER TABLE {table} DISABLE TRIGGER USER")
        yield
        session.flush()
        for table in LOCKED:
            connection.exec_driver_sql(f"ALTER TABLE {table} ENABLE TRIGGER USER")
        return
    names = ", ".join(repr(table) for table in LOCKED)
    triggers = connection.exec_driver_sql(
        f"SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name IN ({names})"
    ).all()
    for name, _ in triggers:
        connection.exec_driver_sql(f"DROP TRIGGER {name}")
    yield
    session.flush()
    for _, made_by in triggers:
        connection.exec_driver_sql(made_by)


def _blank(session: Session, annotator: int) -> dict[str, int]:
    """Take the words out of what they said; where, and of how many rows."""
    mine, chats = _mine(annotator), _chats(annotator)
    answers = [row.id for row in _text_answers(session, annotator)]
    for some in chunks(answers):
        session.execute(delete(_Answer).where(_Answer.id.in_(some)))
    blanked = {
        "reasons": update(_Detail)
        .where(_Detail.judgement_id.in_(mine), _Detail.rationale != "")
        .values(rationale=""),
        "rewritten replies": update(_Detail)
        .where(_Detail.judgement_id.in_(mine), _Detail.edited != "")
        .values(edited=""),
        "comments on marked parts": update(_Span)
        .where(_Span.judgement_id.in_(mine), _Span.comment != "")
        .values(comment=""),
        "notes": update(_Note).where(_of_notes(annotator), _Note.text != "").values(text=""),
        "messages of chats": update(_Turn)
        .where(_Turn.chat_id.in_(chats), _Turn.message != "")
        .values(message="", partial=[]),
        "drafts of messages": update(_Chat)
        .where(_Chat.annotator_id == annotator, _Chat.draft != "")
        .values(draft=""),
    }
    options = {"synchronize_session": False}
    counts = {
        name: session.execute(statement, execution_options=options).rowcount  # type: ignore[attr-defined]
        for name, statement in blanked.items()
    }
    drafts = [
        row
        for row in session.scalars(select(_Assignment).where(_Assignment.annotator_id == annotator))
        if row.draft
    ]
    for row in drafts:
        row.draft = {}
    return counts | {"text answers": len(answers), "drafts": len(drafts)}


def _erase_texts(session: Session, prompts: Sequence[int], completions: Sequence[int]) -> dict[str, int]:
    """Put a number in place of conversations and replies. Rows that refer to them stay whole."""
    for id in prompts:
        prompt = Prompt(content=f"(erased {id})")
        row = session.get_one(models.PromptRow, id)
        row.content, row.sha256 = prompt.to_json(), prompt.sha256
    for id in completions:
        row = session.get_one(_Completion, id)
        row.text = f"(erased {id})"
        row.text_sha256 = sha256(row.text.encode()).hexdigest()
    return {"conversations": len(prompts), "replies in them or rewritten": len(completions)}


def _items_with(session: Session, prompts: Sequence[int], completions: Sequence[int]) -> list[int]:
    """Items that show what is erased."""
    shown = models.ItemCompletionRow
    found = set[int]()
    for some in chunks(prompts):
        found |= set(session.scalars(select(_Item.id).where(_Item.prompt_id.in_(some))))
    for some in chunks(completions):
        found |= set(session.scalars(select(shown.item_id).where(shown.completion_id.in_(some))))
    return sorted(found)


def _withdraw(session: Session, items: Sequence[int]) -> int:
    """Withdraw what anybody says of items whose texts are gone, and ask them no more; how many judgements."""
    later = select(_Judgement.supersedes_id).where(_Judgement.supersedes_id.is_not(None))
    count = 0
    for some in chunks(items):
        current = select(_Judgement).where(
            _Judgement.item_id.in_(some), _Judgement.choice != "withdrawn", _Judgement.id.not_in(later)
        )
        for row in session.scalars(current).all():
            assign.withdraw(session, row)
            count += 1
        session.execute(update(_Task).where(_Task.item_id.in_(some)).values(open=False, archived=True))
    return count


# The proof


def _exports_with(session: Session, items: Sequence[int], prompts: Sequence[int]) -> list[int]:
    judged, listed = models.ExportJudgementRow, models.ExportPromptRow
    found = set[int]()
    for some in chunks(items):
        of_items = select(_Judgement.id).where(_Judgement.item_id.in_(some))
        found |= set(session.scalars(select(judged.export_id).where(judged.judgement_id.in_(of_items))))
    for some in chunks(prompts):
        found |= set(session.scalars(select(listed.export_id).where(listed.prompt_id.in_(some))))
    return sorted(found)


def _datasets(session: Session, exports: Sequence[int]) -> list[str]:
    table = models.DatasetVersionRow
    rows = session.execute(
        select(table.name, table.version, table.export_id).order_by(table.name, table.version)
    )
    return [f"{name}@{version}" for name, version, export in rows if export in exports]


def _runs(session: Session, exports: Sequence[int]) -> list[int]:
    link = models.TrainingRunExportRow
    rows = session.execute(select(link.training_run_id, link.export_id).order_by(link.training_run_id))
    return list(dict.fromkeys(run for run, export in rows if export in exports))


def _kept(session: Session, annotator: int) -> int:
    later = select(_Judgement.supersedes_id).where(_Judgement.supersedes_id.is_not(None))
    return (
        session.scalar(
            select(func.count()).where(
                _Judgement.annotator_id == annotator,
                _Judgement.choice != "withdrawn",
                _Judgement.id.not_in(later),
            )
        )
        or 0
    )


def _search(session: Session, words: set[str]) -> tuple[int, dict[str, int]]:
    """Look at every text in every table of the store; how many there are, and where one of the words stands. It knows nothing of where they stood."""
    values, found = 0, dict[str, int]()
    for table in Base.metadata.sorted_tables:
        columns = [column for column in table.columns if isinstance(column.type, AnyText | String | JSON)]
        if not columns:
            continue
        for row in session.execute(select(*columns).execution_options(yield_per=1000)):
            for column, value in zip(columns, row, strict=True):
                for text in _texts(value):
                    values += 1
                    if text in words:
                        place = f"{table.name}.{column.name}"
                        found[place] = found.get(place, 0) + 1
    return values, found
