"""Reading back what is stored: prompts, completions, and the judgements that pass the filters."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ColumnElement, CompoundSelect, Select, or_, select, union
from sqlalchemy.orm import Session, aliased

from prefloop.data.split import part_of
from prefloop.data.store import models, studio_models
from prefloop.data.store.judging import prompt_of
from prefloop.data.store.values import Filters, Part
from prefloop.errors import InputError
from prefloop.records import Completion, Prompt


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgedRow:
    """A judgement with the texts it is about."""

    id: int
    item: int
    kind: str
    choice: str
    ranking: tuple[tuple[int, ...], ...]
    margin: float
    annotator: str
    superseded: bool
    prompt: Prompt
    completions: tuple[str, ...]
    ratings: Mapping[str, int]
    edited: str
    set_aside: str = ""
    """Why it does not count: `practice`, as it was given before the annotator's work began; `archived` with its item; `adjudication`, which counts only where asked for;
    `adjudicated`, another judgement stands in its place; `known answers`, its annotator did not pass them; `disagreement` about its item."""


PRACTICE, ARCHIVED = "practice", "archived"
"""Why judgements are set aside whatever is asked for."""
GOLD, DISAGREEMENT = "known answers", "disagreement"
"""Why judgements are set aside by `gold_passed` and `min_agreement`."""
ANSWERS = ("a", "b", "tie", "both_bad", "good", "bad")
"""Choices on which annotators can agree; the others are no answer, or an order or a number."""
ROUNDING = 1e-9
"""Two thirds are at least two thirds, however they are written."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldShare:
    """How often an annotator got the known answers of a project right."""

    project: int
    project_name: str
    annotator: int
    name: str
    right: int
    answered: int

    def passed(self, share: float, answered: int) -> bool:
        """Whether so many were answered and that share of them was right."""
        return self.answered >= answered and self.right / self.answered >= share - ROUNDING


def prompts(session: Session, *, part: Part, heldout: float) -> list[tuple[int, Prompt]]:
    """Stored prompts with their ids, oldest first."""
    rows = session.execute(
        select(models.PromptRow.id, models.PromptRow.content).order_by(models.PromptRow.id)
    )
    found = ((id, prompt_of(content)) for id, content in rows)
    return [(id, prompt) for id, prompt in found if _in_part(prompt, part, heldout)]


def completions(
    session: Session, checkpoints: Sequence[int], *, part: Part, heldout: float
) -> list[Completion]:
    """Stored completions (of these checkpoints, if any are named), oldest first."""
    table = models.CompletionRow
    statement = select(table, models.CheckpointRow.name).join(models.CheckpointRow).order_by(table.id)
    if checkpoints:
        statement = statement.where(table.checkpoint_id.in_(checkpoints))
    by_id = dict(prompts(session, part=part, heldout=heldout))
    return [
        Completion(
            prompt=by_id[row.prompt_id],
            text=row.text,
            policy=policy,
            logprob=row.logprob,
            tokens=row.tokens,
            ended=row.ended,
            temperature=row.temperature,
            top_p=row.top_p,
            top_k=row.top_k,
            seed=row.seed,
            index=row.sample_index,
        )
        for row, policy in session.execute(statement)
        if row.prompt_id in by_id
    ]


def judged(session: Session, filters: Filters) -> list[JudgedRow]:
    """Judgements that pass the filters, superseded ones included, in the order they were made."""
    table, item = models.JudgementRow, models.ItemRow
    statement = select(table.id).join(item, item.id == table.item_id)
    if filters.annotators:
        _known_names(session, filters.annotators)
        of_names = select(models.AnnotatorRow.id).where(models.AnnotatorRow.name.in_(filters.annotators))
        statement = statement.where(table.annotator_id.in_(of_names))
    if filters.kinds:
        of_kinds = select(models.AnnotatorRow.id).where(models.AnnotatorRow.kind.in_(filters.kinds))
        statement = statement.where(table.annotator_id.in_(of_kinds))
    if filters.projects:
        statement = statement.where(_in_projects(session, filters.projects))
    if filters.rounds:
        statement = statement.where(item.round.in_(filters.rounds))
    if filters.strategies:
        statement = statement.where(item.strategy.in_(filters.strategies))
    if filters.since is not None:
        statement = statement.where(table.created_at >= filters.since)
    rows = judged_of(session, statement)
    rows = [row for row in rows if _in_part(row.prompt, filters.part, filters.heldout)]
    rows = _set_aside(session, rows, adjudicated=filters.adjudicated)
    if filters.gold_passed:
        passed = _of_those_who_passed(session, filters)
        rows = [row if row.set_aside or row.id in passed else replace(row, set_aside=GOLD) for row in rows]
    if filters.min_agreement:
        shares = agreement_of(rows)
        least = filters.min_agreement - ROUNDING
        rows = [
            replace(row, set_aside=DISAGREEMENT)
            if not row.set_aside and shares.get(row.item, 1.0) < least
            else row
            for row in rows
        ]
    return rows


def agreement_of(rows: Sequence[JudgedRow]) -> dict[int, float]:
    """Item -> the share of its annotators who give the commonest answer, of items that somebody answered. Skips are no answers."""
    choices: dict[int, Counter[str]] = {}
    for row in rows:
        if not stands_not(row) and row.choice in ANSWERS:
            choices.setdefault(row.item, Counter())[row.choice] += 1
    return {item: max(counts.values()) / counts.total() for item, counts in choices.items()}


def gold_shares(session: Session, projects: Sequence[str] = ()) -> list[GoldShare]:
    """How often each annotator got the known answers of each project (of these, if any are named) right; by project and name."""
    task, project, table, later = (
        studio_models.TaskRow,
        studio_models.ProjectRow,
        models.JudgementRow,
        aliased(models.JudgementRow),
    )
    statement = (
        select(
            project.id,
            project.name,
            models.AnnotatorRow.id,
            models.AnnotatorRow.name,
            table.choice,
            task.gold,
        )
        .join(task, task.project_id == project.id)
        .join(table, table.item_id == task.item_id)
        .join(models.AnnotatorRow, models.AnnotatorRow.id == table.annotator_id)
        .outerjoin(later, later.supersedes_id == table.id)
        .where(
            task.gold != "",
            task.stage != "practice",
            later.id.is_(None),
            table.choice.not_in(("skip", "withdrawn")),
        )
        .order_by(project.id, models.AnnotatorRow.name)
    )
    if projects:
        statement = statement.where(project.name.in_(projects))
    counts: dict[tuple[int, str, int, str], list[bool]] = {}
    for project_id, called, annotator, name, choice, gold in session.execute(statement):
        counts.setdefault((project_id, called, annotator, name), []).append(choice == gold)
    return [
        GoldShare(
            project=project,
            project_name=called,
            annotator=annotator,
            name=name,
            right=sum(right),
            answered=len(right),
        )
        for (project, called, annotator, name), right in counts.items()
    ]


def _of_those_who_passed(session: Session, filters: Filters) -> set[int]:
    """Judgements made in a project by annotators who passed its known answers, and the decisions of adjudicators, who are asked none."""
    passed: dict[int, list[int]] = {}
    for share in gold_shares(session, filters.projects):
        if share.passed(filters.gold_passed, filters.gold_answered):
            passed.setdefault(share.project, []).append(share.annotator)
    table = models.JudgementRow
    found = set(session.scalars(select(studio_models.AdjudicationRow.judgement_id)))
    for project, annotators in passed.items():
        theirs = select(table.id).where(_made_in([project]), table.annotator_id.in_(annotators))
        found.update(session.scalars(theirs))
    return found


def _set_aside(session: Session, rows: Sequence[JudgedRow], *, adjudicated: bool) -> list[JudgedRow]:
    """Adjudications are made in sight of the others' answers, so they are no further vote: they replace those, or are left out.

    Practice and qualification come before an annotator's work, so they are none of it. Archived items are out of use with their answers.
    """
    marked = set(session.scalars(select(studio_models.AdjudicationRow.judgement_id)))
    task = studio_models.TaskRow
    left_out = dict.fromkeys(session.scalars(_given_to(task.archived.is_(True))), ARCHIVED)
    left_out |= dict.fromkeys(session.scalars(_given_to(task.stage != "")), PRACTICE)
    decided = {
        row.item: row.id
        for row in rows
        if adjudicated and row.id in marked and not row.superseded and row.choice != "withdrawn"
    }

    def why(row: JudgedRow) -> str:
        if row.id in left_out:
            return left_out[row.id]
        if row.item in decided:
            return "" if row.id == decided[row.item] else "adjudicated"
        return "adjudication" if row.id in marked else ""

    return [replace(row, set_aside=why(row)) for row in rows] if marked or left_out else list(rows)


def _given_to(tasks: ColumnElement[bool]) -> CompoundSelect[int]:
    """Judgements given to some tasks, and those that prefer what was rewritten in them."""
    task, row, detail = studio_models.TaskRow, studio_models.AssignmentRow, studio_models.JudgementDetailRow
    own = (
        select(detail.judgement_id, detail.edit_judgement_id)
        .join(row, row.id == detail.assignment_id)
        .join(task, task.id == row.task_id)
        .where(tasks)
        .subquery()
    )
    edits = select(own.c.edit_judgement_id).where(own.c.edit_judgement_id.is_not(None))
    return union(select(own.c.judgement_id), edits)


def judged_of(session: Session, ids: Select[Any]) -> list[JudgedRow]:
    """The judgements whose ids a query gives, in the order they were made."""
    table, item, slot = models.JudgementRow, models.ItemRow, models.ItemCompletionRow
    detail = studio_models.JudgementDetailRow
    later = aliased(table)
    rows = session.execute(
        select(
            table,
            models.AnnotatorRow.name,
            item.kind,
            item.prompt_id,
            later.id,
            detail.ratings,
            detail.edited,
        )
        .join(models.AnnotatorRow, models.AnnotatorRow.id == table.annotator_id)
        .join(item, item.id == table.item_id)
        .outerjoin(later, later.supersedes_id == table.id)
        .outerjoin(detail, detail.judgement_id == table.id)
        .where(table.id.in_(ids))
        .order_by(table.id)
    ).all()
    of_items = select(table.item_id).where(table.id.in_(ids))
    texts: dict[int, list[str]] = {}
    for id, completion in session.execute(
        select(slot.item_id, models.CompletionRow.text)
        .join(models.CompletionRow)
        .where(slot.item_id.in_(of_items))
        .order_by(slot.item_id, slot.slot)
    ):
        texts.setdefault(id, []).append(completion)
    of_prompts = select(item.prompt_id).where(item.id.in_(of_items))
    contents = session.execute(
        select(models.PromptRow.id, models.PromptRow.content).where(models.PromptRow.id.in_(of_prompts))
    )
    by_id = {id: prompt_of(content) for id, content in contents}
    return [
        JudgedRow(
            id=row.id,
            item=row.item_id,
            kind=kind,
            choice=row.choice,
            ranking=tuple(map(tuple, row.ranking)),
            margin=row.margin,
            annotator=annotator,
            superseded=later_id is not None,
            prompt=by_id[prompt],
            completions=tuple(texts[row.item_id]),
            ratings=ratings or {},
            edited=edited or "",
        )
        for row, annotator, kind, prompt, later_id, ratings, edited in rows
    ]


def stands_not(row: JudgedRow) -> str:
    """Why another judgement stands instead of this one; empty if none does."""
    return "superseded" if row.superseded else row.set_aside


def _in_part(prompt: Prompt, part: Part, heldout: float) -> bool:
    return part == "all" or part_of(prompt, heldout=heldout) == part


def _in_projects(session: Session, names: Sequence[str]) -> ColumnElement[bool]:
    """The judgements made in these projects. Raises `InputError`, with near names, for one that is not there."""
    project = studio_models.ProjectRow
    known = sorted(session.scalars(select(project.name).where(project.state != "deleted")))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0) or ["none yet"]
            raise InputError(f"project {name!r} is not in the store; the nearest are {', '.join(near)}")
    return _made_in(session.scalars(select(project.id).where(project.name.in_(names))).all())


def _made_in(projects: Sequence[int]) -> ColumnElement[bool]:
    """A judgement of an item that these projects ask about, or one that was made of a better reply written there."""
    task, detail = studio_models.TaskRow, studio_models.JudgementDetailRow
    items = select(task.item_id).where(task.project_id.in_(projects))
    edits = (
        select(detail.edit_judgement_id)
        .join(studio_models.AssignmentRow, studio_models.AssignmentRow.id == detail.assignment_id)
        .join(task, task.id == studio_models.AssignmentRow.task_id)
        .where(task.project_id.in_(projects), detail.edit_judgement_id.is_not(None))
    )
    return or_(models.JudgementRow.item_id.in_(items), models.JudgementRow.id.in_(edits))


def _known_names(session: Session, names: Sequence[str]) -> None:
    known = sorted(session.scalars(select(models.AnnotatorRow.name)))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0) or ["none yet"]
            raise InputError(f"annotator {name!r} is not in the store; the nearest are {', '.join(near)}")
