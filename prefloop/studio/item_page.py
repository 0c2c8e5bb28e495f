"""One item of a project, wholly: its texts and who wrote them, every answer with its history and notes, and what it went into."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.studio import access, audit, judgement_words, notes, projects, question_answers
from prefloop.studio.assign import is_open
from prefloop.studio.at_work import is_too_fast
from prefloop.studio.items import authors_of
from prefloop.studio.notes import SaidNote
from prefloop.studio.service import Studio
from prefloop.studio.values import GOLD_OVERLAP, STAGES, NotFound, Stage

_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow
LONGEST_NOTE = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class ShownReply:
    """A completion of the item."""

    text: str
    model: str
    sampling: str
    """Temperature, top-p, seed and so on, in words."""
    provenance: str
    """What the model was made from, as a tree of lines."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One judgement of a person's on the item."""

    said: str
    """In words, by slots."""
    at: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class GivenAnswer:
    """What one annotator said of the item."""

    name: str
    """Login; the pseudonym of who has none."""
    pseudonym: str
    kind: str
    token: str
    """Of the assignment, by which it can be sent back; empty for judgements from elsewhere."""
    state: str
    said: str
    rationale: str
    flags: tuple[str, ...]
    edited: str
    more: tuple[str, ...]
    """Answers to further questions, and marked parts, a line each, by slots."""
    seconds: float
    too_fast: bool
    guideline_version: str
    at: datetime
    decision: bool
    """Whether it is an adjudicator's."""
    earlier: tuple[Step, ...]
    """What they had said before, oldest first."""
    notes: tuple[SaidNote, ...]
    can_send_back: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemPage:
    """What the page shows."""

    task: int
    item: int
    kind: str
    strategy: str
    round: int
    prompt: Prompt
    origin: str
    replies: tuple[ShownReply, ...]
    answers: tuple[GivenAnswer, ...]
    datasets: tuple[str, ...]
    """Versions that have an answer to it, as `NAME@2`; exports without a name are counted in `exports`."""
    exports: int
    guidelines: tuple[tuple[str, str], ...]
    """Version and text, of those that the answers were given under."""
    gold: str
    stage: str
    gold_note: str
    golds: tuple[str, ...]
    """Choices that can be a known answer here."""
    archived: bool
    taken: int
    overlap: int
    score: float


_GOLDS = {"pair": ("a", "b", "tie"), "clip": ("a", "b", "tie"), "binary": ("good", "bad")}


def item_page(studio: Studio, project: int, task: int) -> ItemPage:
    """Everything about an item. Raises `NotFound` for one that is not the project's."""
    with studio.read() as session:
        asked = projects.project_of(session, project)
        row = _task(session, project, task)
        item = session.get_one(models.ItemRow, row.item_id)
        prompt = session.get_one(models.PromptRow, item.prompt_id)
        completions = session.scalars(
            select(models.CompletionRow)
            .join(models.ItemCompletionRow, models.ItemCompletionRow.completion_id == models.CompletionRow.id)
            .where(models.ItemCompletionRow.item_id == item.id)
            .order_by(models.ItemCompletionRow.slot)
        ).all()
        authors = authors_of(session, [item.id])[item.id]
        written = [completion.text for completion in completions]
        answers = _answers(session, row, written, asked.settings.least_seconds)
        versions = {answer.guideline_version for answer in answers} - {""}
        kept = studio_models.GuidelineVersionRow
        texts = session.execute(
            select(kept.version, kept.text).where(kept.project_id == project, kept.version.in_(versions))
        )
        exports = set(
            session.scalars(
                select(models.ExportJudgementRow.export_id)
                .join(_Judgement, _Judgement.id == models.ExportJudgementRow.judgement_id)
                .where(_Judgement.item_id == item.id)
            )
        )
        version = models.DatasetVersionRow
        named = session.execute(
            select(version.name, version.version, version.export_id)
            .where(version.export_id.in_(exports))
            .order_by(version.name, version.version)
        ).all()
        content = prompt.content
        about = [
            (text.text, name, checkpoint, _sampling(text))
            for text, (checkpoint, name) in zip(completions, authors, strict=True)
        ]
        page = {
            "task": task,
            "item": item.id,
            "kind": asked.settings.kind,
            "strategy": item.strategy,
            "round": item.round,
            "origin": prompt.origin,
            "answers": answers,
            "datasets": tuple(f"{name}@{number}" for name, number, _ in named),
            "exports": len(exports - {export for _, _, export in named}),
            "guidelines": tuple(texts.all()),
            "gold": row.gold,
            "stage": row.stage,
            "gold_note": row.gold_note,
            "golds": _GOLDS.get(asked.settings.kind, ()),
            "archived": row.archived,
            "taken": row.taken,
            "overlap": row.overlap,
            "score": -row.queue or 0.0,
        }
    trees = {checkpoint: lineage(studio.store, checkpoint).render() for _, _, checkpoint, _ in about}
    replies = tuple(
        ShownReply(text=text, model=name, sampling=sampling, provenance=trees[checkpoint])
        for text, name, checkpoint, sampling in about
    )
    from prefloop.data.store.judging import prompt_of

    return ItemPage(prompt=prompt_of(content), replies=replies, **page)


def _task(session: Session, project: int, task: int) -> studio_models.TaskRow:
    row = session.get(_Task, task)
    if row is None or row.project_id != project:
        raise NotFound(f"item {task} is not in this project")
    return row


def _sampling(row: models.CompletionRow) -> str:
    if not row.tokens:
        return ""
    parts = [f"temperature {row.temperature:g}", f"top-p {row.top_p:g}"]
    parts += [f"top-k {row.top_k}"] if row.top_k else []
    parts += [f"seed {row.seed}", f"sample {row.sample_index}", f"{row.tokens} tokens"]
    parts += [] if row.ended else ["cut off"]
    return ", ".join(parts)


def _answers(
    session: Session, task: studio_models.TaskRow, completions: list[str], least_seconds: float
) -> tuple[GivenAnswer, ...]:
    account, detail = studio_models.AccountRow, studio_models.JudgementDetailRow
    rows = session.execute(
        select(_Judgement, detail, models.AnnotatorRow, account.login, account.active)
        .join(models.AnnotatorRow, models.AnnotatorRow.id == _Judgement.annotator_id)
        .outerjoin(account, account.annotator_id == _Judgement.annotator_id)
        .outerjoin(detail, detail.judgement_id == _Judgement.id)
        .where(_Judgement.item_id == task.item_id)
        .order_by(_Judgement.id)
    ).all()
    characters = sum(map(len, completions))
    more_said = question_answers.in_words(session, [judgement.id for judgement, *_ in rows], completions)
    assignments = {
        row.annotator_id: row
        for row in session.scalars(select(_Assignment).where(_Assignment.task_id == task.id))
    }
    told = notes.of(session, [row.id for row in assignments.values()])
    decisions = set(
        session.scalars(
            select(studio_models.AdjudicationRow.judgement_id)
            .join(_Judgement, _Judgement.id == studio_models.AdjudicationRow.judgement_id)
            .where(_Judgement.item_id == task.item_id)
        )
    )
    by_person: dict[int, list[tuple[models.JudgementRow, studio_models.JudgementDetailRow | None]]] = {}
    people = {}
    for judgement, more, annotator, login, active in rows:
        by_person.setdefault(judgement.annotator_id, []).append((judgement, more))
        people[judgement.annotator_id] = (annotator, login, active)
    found = []
    for person, given in by_person.items():
        (last, more), (annotator, login, active) = given[-1], people[person]
        row = assignments.get(person)
        mine = tuple(told.get(row.id, ())) if row is not None else ()
        answered = row is not None and row.state in ("submitted", "surplus")
        found.append(
            GivenAnswer(
                name=login or annotator.name,
                pseudonym=annotator.name,
                kind=annotator.kind,
                token="" if row is None else row.token,
                state="elsewhere" if row is None else row.state,
                said=judgement_words.in_slots(last, more),
                rationale=more.rationale if more else "",
                flags=tuple(more.flags) if more else (),
                edited=more.edited if more else "",
                more=more_said[last.id],
                seconds=last.duration_ms / 1000,
                too_fast=is_too_fast(last.duration_ms, characters, least_seconds),
                guideline_version=last.guideline_version,
                at=last.created_at,
                decision=last.id in decisions,
                earlier=tuple(
                    Step(said=judgement_words.in_slots(before, its), at=before.created_at)
                    for before, its in given[:-1]
                ),
                notes=mine,
                can_send_back=bool(answered and active and not task.stage)
                and (not mine or mine[-1].kind != "sent_back"),
            )
        )
    return tuple(found)


def set_known(
    studio: Studio, project: int, task: int, gold: str, *, stage: Stage = "", note: str = "", by: int
) -> None:
    """Say what is known to be right of an item, when it is asked, and why it is right; an empty `gold` makes it an item to judge again."""
    if stage not in STAGES:
        raise InputError(f"stage is {stage!r}; it must be practice, qualification, or empty")
    if len(note) > LONGEST_NOTE:
        raise InputError(f"the note has {len(note)} characters; {LONGEST_NOTE} are the most")

    def work(session: Session) -> None:
        access.check(session, project, by, "manager")
        asked = projects.project_of(session, project)
        row = session.scalars(
            select(_Task).where(_Task.id == _task(session, project, task).id).with_for_update()
        ).one()
        golds = _GOLDS.get(asked.settings.kind, ())
        if gold and gold not in golds:
            raise InputError(f"known answer is {gold!r}; here it must be one of {', '.join(golds) or 'none'}")
        row.gold, row.stage, row.gold_note = gold, stage if gold else "", note.strip() if gold else ""
        row.overlap = GOLD_OVERLAP if gold else max(asked.settings.overlap, row.taken)
        row.open = is_open(row)
        session.flush()
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="set known answer",
            entity="task",
            id=task,
            detail={"gold": gold, "stage": row.stage},
        )

    studio.write_twice(work)
