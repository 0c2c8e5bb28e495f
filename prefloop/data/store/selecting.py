"""Reading back what is stored: prompts, completions, and the judgements that pass the filters."""

import difflib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, exists, or_, select
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
PART = 1000
"""Judgements that are read at a time."""
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


def prompts(session: Session, *, part: Part, heldout: float) -> Iterator[tuple[int, Prompt]]:
    """Stored prompts with their ids, oldest first; memory holds `PART` of them."""
    rows = session.execute(
        select(models.PromptRow.id, models.PromptRow.content)
        .order_by(models.PromptRow.id)
        .execution_options(yield_per=PART)
    )
    found = ((id, prompt_of(content)) for id, content in rows)
    return ((id, prompt) for id, prompt in found if _in_part(prompt, part, heldout))


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
    return list(each_judged(session, filters))


def each_judged(
    session: Session, filters: Filters, *more: ColumnElement[bool], newest: int = 0
) -> Iterator[JudgedRow]:
    """The same one at a time: memory holds `PART` of them, however many there are. `more`: further conditions. `newest`: only so many, unless it is 0."""
    wanted = [*_passing(session, filters), *more]
    if newest:
        table = models.JudgementRow
        passing = select(table.id).join(models.ItemRow, models.ItemRow.id == table.item_id).where(*wanted)
        before = session.scalar(passing.order_by(table.id.desc()).offset(newest).limit(1))
        wanted += [] if before is None else [table.id > before]
    passed = _who_passed(session, filters) if filters.gold_passed else None
    for rows in _parts(session, wanted):
        looked_at = _looked_at(session, rows, filters, wanted, passed)
        if not filters.min_agreement:
            yield from looked_at
            continue
        # Of items that were judged again and again while others were, the other answers are in other parts.
        items = {row.item for row in looked_at}
        of_items = _parts(session, [*wanted, models.JudgementRow.item_id.in_(items)])
        shares = agreement_of(
            [row for part in of_items for row in _looked_at(session, part, filters, wanted, passed)]
        )
        least = filters.min_agreement - ROUNDING
        for row in looked_at:
            divided = not row.set_aside and shares.get(row.item, 1.0) < least
            yield replace(row, set_aside=DISAGREEMENT) if divided else row


def _passing(session: Session, filters: Filters) -> list[ColumnElement[bool]]:
    """The filters as conditions of a judgement and its item; those that look into texts or at other judgements come later."""
    table, item = models.JudgementRow, models.ItemRow
    found: list[ColumnElement[bool]] = []
    if filters.annotators:
        _known_names(session, filters.annotators)
        of_names = select(models.AnnotatorRow.id).where(models.AnnotatorRow.name.in_(filters.annotators))
        found.append(table.annotator_id.in_(of_names))
    if filters.kinds:
        of_kinds = select(models.AnnotatorRow.id).where(models.AnnotatorRow.kind.in_(filters.kinds))
        found.append(table.annotator_id.in_(of_kinds))
    if filters.projects:
        found.append(_in_projects(session, filters.projects))
    if filters.rounds:
        found.append(item.round.in_(filters.rounds))
    if filters.strategies:
        found.append(item.strategy.in_(filters.strategies))
    if filters.since is not None:
        found.append(table.created_at >= filters.since)
    return found


def _looked_at(
    session: Session,
    rows: Sequence[JudgedRow],
    filters: Filters,
    wanted: Sequence[ColumnElement[bool]],
    passed: Mapping[int, Sequence[int]] | None,
) -> list[JudgedRow]:
    """Some judgements as the filters see them one by one. `passed`: project -> who passed its known answers, where that is asked."""
    rows = [row for row in rows if _in_part(row.prompt, filters.part, filters.heldout)]
    rows = _set_aside(session, rows, wanted, adjudicated=filters.adjudicated)
    if passed is None:
        return rows
    counted = _of_those_who_passed(session, [row.id for row in rows], passed)
    return [row if row.set_aside or row.id in counted else replace(row, set_aside=GOLD) for row in rows]


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


def _who_passed(session: Session, filters: Filters) -> dict[int, list[int]]:
    """Project -> the annotators who passed its known answers."""
    passed: dict[int, list[int]] = {}
    for share in gold_shares(session, filters.projects):
        if share.passed(filters.gold_passed, filters.gold_answered):
            passed.setdefault(share.project, []).append(share.annotator)
    return passed


def _of_those_who_passed(
    session: Session, ids: Sequence[int], passed: Mapping[int, Sequence[int]]
) -> set[int]:
    """Of these judgements those made in a project by annotators who passed its known answers, and the decisions of adjudicators, who are asked none."""
    table = models.JudgementRow
    found = _decisions_among(session, ids)
    for project, annotators in passed.items():
        theirs = select(table.id).where(
            table.id.in_(ids), _made_in([project]), table.annotator_id.in_(annotators)
        )
        found.update(session.scalars(theirs))
    return found


def _decisions_among(session: Session, ids: Sequence[int]) -> set[int]:
    """Which of these judgements are decisions of adjudicators."""
    decision = studio_models.AdjudicationRow.judgement_id
    return set(session.scalars(select(decision).where(decision.in_(ids))))


def _set_aside(
    session: Session, rows: Sequence[JudgedRow], wanted: Sequence[ColumnElement[bool]], *, adjudicated: bool
) -> list[JudgedRow]:
    """Adjudications are made in sight of the others' answers, so they are no further vote: they replace those, or are left out.

    Practice and qualification come before an annotator's work, so they are none of it. Archived items are out of use with their answers.
    """
    ids = [row.id for row in rows]
    marked = _decisions_among(session, ids)
    left_out = _out_of_use(session, ids)
    decided = _decided(session, {row.item for row in rows}, wanted) if adjudicated else {}

    def why(row: JudgedRow) -> str:
        if row.id in left_out:
            return left_out[row.id]
        if row.item in decided:
            return "" if row.id == decided[row.item] else "adjudicated"
        return "adjudication" if row.id in marked else ""

    return [replace(row, set_aside=why(row)) for row in rows] if marked or left_out or decided else list(rows)


def _decided(
    session: Session, items: Collection[int], wanted: Sequence[ColumnElement[bool]]
) -> dict[int, int]:
    """Item -> the decision that holds, of these items, among the judgements that are wanted."""
    table, later = models.JudgementRow, aliased(models.JudgementRow)
    statement = (
        select(table.item_id, table.id)
        .join(studio_models.AdjudicationRow, studio_models.AdjudicationRow.judgement_id == table.id)
        .join(models.ItemRow, models.ItemRow.id == table.item_id)
        .outerjoin(later, later.supersedes_id == table.id)
        .where(table.item_id.in_(items), table.choice != "withdrawn", later.id.is_(None), *wanted)
        .order_by(table.id)
    )
    return dict(session.execute(statement).all())


def _out_of_use(session: Session, ids: Sequence[int]) -> dict[int, str]:
    """Which of these judgements were given to practice, qualification or archived items, or prefer what was rewritten there; and why they are left out."""
    task, row, detail = studio_models.TaskRow, studio_models.AssignmentRow, studio_models.JudgementDetailRow
    found: dict[int, str] = {}
    for column in (detail.judgement_id, detail.edit_judgement_id):
        statement = (
            select(column, task.stage)
            .join(row, row.id == detail.assignment_id)
            .join(task, task.id == row.task_id)
            .where(column.in_(ids), or_(task.archived.is_(True), task.stage != ""))
        )
        for id, stage in session.execute(statement):
            assert id is not None
            found[id] = PRACTICE if stage or found.get(id) == PRACTICE else ARCHIVED
    return found


def judged_of(session: Session, *wanted: ColumnElement[bool]) -> list[JudgedRow]:
    """The judgements of which these conditions are true, in the order they were made."""
    return [row for part in _parts(session, wanted) for row in part]


def each_judged_of(session: Session, *wanted: ColumnElement[bool]) -> Iterator[JudgedRow]:
    """The same one at a time: memory holds `PART` of them."""
    return (row for part in _parts(session, wanted) for row in part)


def _parts(session: Session, wanted: Sequence[ColumnElement[bool]]) -> Iterator[list[JudgedRow]]:
    """The judgements that are wanted, `PART` at a time, in the order they were made.

    One statement gives them all, through a cursor of the server's on PostgreSQL, so they are of one moment. Their texts, which never change, are
    looked up for each part.
    """
    table, item = models.JudgementRow, models.ItemRow
    detail = studio_models.JudgementDetailRow
    later = aliased(table)
    statement = (
        select(
            table.id,
            table.item_id,
            table.choice,
            table.ranking,
            table.margin,
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
        .where(*wanted)
        .order_by(table.id)
        .execution_options(yield_per=PART)
    )
    for rows in session.execute(statement).partitions():
        texts = _texts_of(session, {row.item_id for row in rows})
        prompts = _prompts_of(session, {row.prompt_id for row in rows})
        yield [
            JudgedRow(
                id=id,
                item=of_item,
                kind=kind,
                choice=choice,
                ranking=tuple(map(tuple, ranking)),
                margin=margin,
                annotator=annotator,
                superseded=later_id is not None,
                prompt=prompts[prompt],
                completions=tuple(texts[of_item]),
                ratings=ratings or {},
                edited=edited or "",
            )
            for id, of_item, choice, ranking, margin, annotator, kind, prompt, later_id, ratings, edited in rows
        ]


def _texts_of(session: Session, items: Collection[int]) -> dict[int, list[str]]:
    """Item -> its completions, by slot."""
    slot = models.ItemCompletionRow
    found: dict[int, list[str]] = {}
    for item, completion in session.execute(
        select(slot.item_id, models.CompletionRow.text)
        .join(models.CompletionRow)
        .where(slot.item_id.in_(items))
        .order_by(slot.item_id, slot.slot)
    ):
        found.setdefault(item, []).append(completion)
    return found


def _prompts_of(session: Session, ids: Collection[int]) -> dict[int, Prompt]:
    table = models.PromptRow
    rows = session.execute(select(table.id, table.content).where(table.id.in_(ids)))
    return {id: prompt_of(content) for id, content in rows}


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
    """A judgement of an item that these projects ask about, or one that was made of a better reply written there.

    Each is a look into an index for each judgement: as sets of numbers they are too large for memory where projects are.
    """
    task, detail, table = studio_models.TaskRow, studio_models.JudgementDetailRow, models.JudgementRow
    asked = exists().where(task.item_id == table.item_id, task.project_id.in_(projects))
    written = (
        select(detail.judgement_id)
        .join(studio_models.AssignmentRow, studio_models.AssignmentRow.id == detail.assignment_id)
        .join(task, task.id == studio_models.AssignmentRow.task_id)
        .where(detail.edit_judgement_id == table.id, task.project_id.in_(projects))
        .correlate(table)
        .exists()
    )
    return or_(asked, written)


def _known_names(session: Session, names: Sequence[str]) -> None:
    known = sorted(session.scalars(select(models.AnnotatorRow.name)))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0) or ["none yet"]
            raise InputError(f"annotator {name!r} is not in the store; the nearest are {', '.join(near)}")
