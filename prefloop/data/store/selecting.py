"""Reading records back, and exports: data sets that are fixed by a content hash and know every judgement they are made of."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, Select, insert, or_, select
from sqlalchemy.orm import Session, aliased

from prefloop.data.hashing import content_hash
from prefloop.data.split import part_of
from prefloop.data.store import models, studio_models
from prefloop.data.store.judging import prompt_of
from prefloop.data.store.values import EXPORT_KINDS, Export, ExportKind, Filters, Part, Selection
from prefloop.data.store.writing import insert_new, now, sha256
from prefloop.data.write import split_by_prompts, write_jsonl
from prefloop.errors import InputError
from prefloop.records import Comparison, Completion, Demonstration, Label, Prompt, Ranking, Score

JudgedRecord = Comparison | Ranking | Label | Score | Demonstration


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
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
    """Why another judgement stands in its place: `adjudication`, which counts only where asked for, or `adjudicated`, decided by one."""


def prompts(session: Session, *, part: Part, heldout: float) -> list[tuple[int, Prompt]]:
    """Stored prompts with their ids, oldest first."""
    rows = session.execute(select(models.Prompt.id, models.Prompt.content).order_by(models.Prompt.id))
    found = ((id, prompt_of(content)) for id, content in rows)
    return [(id, prompt) for id, prompt in found if _in_part(prompt, part, heldout)]


def completions(
    session: Session, checkpoints: Sequence[int], *, part: Part, heldout: float
) -> list[Completion]:
    """Stored completions (of these checkpoints, if any are named), oldest first."""
    table = models.Completion
    statement = select(table, models.Checkpoint.name).join(models.Checkpoint).order_by(table.id)
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


def judged(session: Session, filters: Filters) -> list[Judged]:
    """Judgements that pass the filters, superseded ones included, in the order they were made."""
    table, item = models.Judgement, models.Item
    statement = select(table.id).join(item, item.id == table.item_id)
    if filters.annotators:
        _known_names(session, filters.annotators)
        of_names = select(models.Annotator.id).where(models.Annotator.name.in_(filters.annotators))
        statement = statement.where(table.annotator_id.in_(of_names))
    if filters.kinds:
        of_kinds = select(models.Annotator.id).where(models.Annotator.kind.in_(filters.kinds))
        statement = statement.where(table.annotator_id.in_(of_kinds))
    if filters.projects:
        statement = statement.where(_in_projects(session, filters.projects))
    if filters.rounds:
        statement = statement.where(item.round.in_(filters.rounds))
    if filters.strategies:
        statement = statement.where(item.strategy.in_(filters.strategies))
    if filters.since is not None:
        statement = statement.where(table.created_at >= filters.since)
    rows = _judged_of(session, statement)
    rows = [row for row in rows if _in_part(row.prompt, filters.part, filters.heldout)]
    return _set_aside(session, rows, adjudicated=filters.adjudicated)


def _set_aside(session: Session, rows: Sequence[Judged], *, adjudicated: bool) -> list[Judged]:
    """Adjudications are made in sight of the others' answers, so they are no further vote: they replace those, or are left out."""
    marked = set(session.scalars(select(studio_models.Adjudication.judgement_id)))
    decided = {
        row.item: row.id
        for row in rows
        if adjudicated and row.id in marked and not row.superseded and row.choice != "withdrawn"
    }

    def why(row: Judged) -> str:
        if row.item in decided:
            return "" if row.id == decided[row.item] else "adjudicated"
        return "adjudication" if row.id in marked else ""

    return [replace(row, set_aside=why(row)) for row in rows] if marked else list(rows)


def compare(rows: Sequence[Judged], label: str, *, skip_bad: bool = False) -> Selection[Comparison]:
    """What was preferred to what. Ties, both-bad and skips name no better one, so they never become `chosen` and `rejected`.

    `skip_bad` leaves out comparisons with an empty completion too.
    """
    left_out: Counter[str] = Counter()
    records: list[Comparison] = []
    for row in rows:
        reason = _why_not_compared(row, skip_bad)
        if reason:
            left_out[reason] += 1
            continue
        a, b = row.completions
        chosen, rejected = (a, b) if row.choice == "a" else (b, a)
        records.append(
            Comparison(
                prompt=row.prompt,
                chosen=chosen,
                rejected=rejected,
                margin=row.margin,
                annotator=row.annotator,
                origin=f"{label}:judgement {row.id}",
            )
        )
    return Selection(records=tuple(records), left_out=dict(left_out))


def rank(rows: Sequence[Judged], label: str, *, skip_bad: bool = False) -> Selection[Ranking]:
    """Completions in the order of preference, with their ties; of a best of K the best, and the others unordered.

    `skip_bad` leaves out rankings with an empty completion too.
    """
    left_out: Counter[str] = Counter()
    records: list[Ranking] = []
    for row in rows:
        reason = _why_not_ranked(row, skip_bad)
        if reason:
            left_out[reason] += 1
            continue
        records.append(
            Ranking(
                prompt=row.prompt,
                completions=tuple(row.completions[slot] for slot in _placed(row)),
                annotator=row.annotator,
                ranks=_ranks(row),
                top=int(row.choice == "best" and len(row.completions) > 2),
                origin=f"{label}:judgement {row.id}",
            )
        )
    return Selection(records=tuple(records), left_out=dict(left_out))


def _placed(row: Judged) -> list[int]:
    """Slots in order, best first; behind a best of K the others as they are."""
    placed = [slot for group in row.ranking for slot in group]
    if row.choice == "best":
        placed += [slot for slot in range(len(row.completions)) if slot not in placed]
    return placed


def _ranks(row: Judged) -> tuple[int, ...]:
    """Ranks where some are tied."""
    if all(len(group) == 1 for group in row.ranking):
        return ()
    return tuple(rank for rank, group in enumerate(row.ranking, 1) for _ in group)


def label_records(rows: Sequence[Judged], label: str, *, skip_bad: bool = False) -> Selection[Label]:
    """Completions that were found good or bad by themselves."""
    left_out: Counter[str] = Counter()
    records = [
        Label(
            prompt=row.prompt,
            completion=row.completions[0],
            good=row.choice == "good",
            annotator=row.annotator,
            origin=f"{label}:judgement {row.id}",
        )
        for row in _usable(rows, _why_not_labelled, left_out, skip_bad)
    ]
    return Selection(records=tuple(records), left_out=dict(left_out))


def scores(rows: Sequence[Judged], label: str, *, skip_bad: bool = False) -> Selection[Score]:
    """Completions with the mean of the levels that they were given on the project's scales."""
    left_out: Counter[str] = Counter()
    records = [
        Score(
            prompt=row.prompt,
            completion=row.completions[0],
            value=sum(row.ratings.values()) / len(row.ratings),
            annotator=row.annotator,
            origin=f"{label}:judgement {row.id}",
        )
        for row in _usable(rows, _why_not_scored, left_out, skip_bad)
    ]
    return Selection(records=tuple(records), left_out=dict(left_out))


def demonstrations(rows: Sequence[Judged], label: str, *, skip_bad: bool = False) -> Selection[Demonstration]:
    """Replies that annotators wrote because they could do better."""
    left_out: Counter[str] = Counter()
    records = [
        Demonstration(prompt=row.prompt, completion=row.edited, origin=f"{label}:judgement {row.id}")
        for row in _usable(rows, _why_not_demonstrated, left_out, skip_bad)
    ]
    return Selection(records=tuple(records), left_out=dict(left_out))


def _usable(
    rows: Sequence[Judged],
    why_not: Callable[[Judged, bool], str],
    left_out: Counter[str],
    skip_bad: bool,
) -> Iterator[Judged]:
    """The rows that give a record; the others are counted by reason."""
    for row in rows:
        reason = why_not(row, skip_bad)
        if reason:
            left_out[reason] += 1
        else:
            yield row


def export(
    session: Session, kind: ExportKind, filters: Filters, path: Path | None, label: str, *, skip_bad: bool
) -> Export:
    """Take a data set from the store and remember what it is made of; also write it to `path` as JSON lines.

    A file that cannot be written takes the export back with it. Files do not hold empty completions; `skip_bad` leaves them out.
    """
    if kind not in EXPORT_KINDS:
        raise InputError(f"kind of export is {kind!r}; it must be one of {', '.join(EXPORT_KINDS)}")
    members, selection = _members(session, kind, filters, label, skip_bad=skip_bad)
    if not selection.records:
        left_out = ", ".join(f"{reason} {count}" for reason, count in selection.left_out.items()) or "nothing"
        raise InputError(
            f"{label}: no {kind} to export with filters {filters.to_json()} (left out: {left_out}); "
            "label first, or filter less"
        )
    digest = content_hash(selection.records)
    row = {
        "key": sha256([kind, filters.to_json(), digest]),
        "kind": kind,
        "filters": filters.to_json(),
        "sha256": digest,
        "rows": len(selection.records),
        "left_out": dict(selection.left_out),
        "created_at": now(),
    }
    table = models.Export
    same = select(table.id, table.left_out).where(table.key == row["key"])
    known = session.execute(same).one_or_none()
    if known is None:
        insert_new(session, table, [row], ["key"])
        known = session.execute(same).one()
        member_table, column = MEMBER_TABLES[kind]
        session.execute(
            insert(member_table),
            [
                {"export_id": known.id, "position": position, column: id}
                for position, id in enumerate(members)
            ],
        )
    files = [] if path is None else split_by_prompts(selection.records, path)
    for file, records in files:
        write_jsonl(records, file)
    return Export(
        id=known.id,
        kind=kind,
        sha256=digest,
        rows=len(selection.records),
        left_out=dict(known.left_out),
        files=tuple((str(file), len(records)) for file, records in files),
    )


MEMBER_TABLES: dict[str, tuple[type[models.Base], str]] = {
    "prompts": (models.ExportPrompt, "prompt_id"),
    **dict.fromkeys(
        ("comparisons", "rankings", "labels", "scores", "demonstrations"),
        (models.ExportJudgement, "judgement_id"),
    ),
}


def exported(session: Session, id: int, label: str) -> tuple[JudgedRecord | Prompt, ...]:
    """The records of an export, made again from the rows it is made of and checked against its hash."""
    row = session.get(models.Export, id)
    if row is None:
        raise InputError(f"{label}: has no export {id}")
    records: Sequence[JudgedRecord | Prompt]
    if row.kind == "prompts":
        member = models.ExportPrompt
        found = session.execute(
            select(models.Prompt.content)
            .join(member, member.prompt_id == models.Prompt.id)
            .where(member.export_id == id)
            .order_by(member.position)
        )
        records = [prompt_of(content) for (content,) in found]
    else:
        member = models.ExportJudgement
        members = select(member.judgement_id).where(member.export_id == id)
        # What was superseded later was current then.
        rows = [replace(row, superseded=False) for row in _judged_of(session, members)]
        records = SELECTORS[row.kind](rows, label).records
    digest = content_hash(records)
    if digest != row.sha256:
        raise InputError(
            f"{label}: export {id} hashes to {digest[:12]}, not {row.sha256[:12]} as when it was made; "
            "the store was changed from outside: restore a backup"
        )
    return tuple(records)


def _judged_of(session: Session, ids: Select[Any]) -> list[Judged]:
    """The judgements whose ids a query gives, in the order they were made."""
    table, item, slot = models.Judgement, models.Item, models.ItemCompletion
    detail = studio_models.JudgementDetail
    later = aliased(table)
    rows = session.execute(
        select(
            table, models.Annotator.name, item.kind, item.prompt_id, later.id, detail.ratings, detail.edited
        )
        .join(models.Annotator, models.Annotator.id == table.annotator_id)
        .join(item, item.id == table.item_id)
        .outerjoin(later, later.supersedes_id == table.id)
        .outerjoin(detail, detail.judgement_id == table.id)
        .where(table.id.in_(ids))
        .order_by(table.id)
    ).all()
    of_items = select(table.item_id).where(table.id.in_(ids))
    texts: dict[int, list[str]] = {}
    for id, completion in session.execute(
        select(slot.item_id, models.Completion.text)
        .join(models.Completion)
        .where(slot.item_id.in_(of_items))
        .order_by(slot.item_id, slot.slot)
    ):
        texts.setdefault(id, []).append(completion)
    of_prompts = select(item.prompt_id).where(item.id.in_(of_items))
    contents = session.execute(
        select(models.Prompt.id, models.Prompt.content).where(models.Prompt.id.in_(of_prompts))
    )
    by_id = {id: prompt_of(content) for id, content in contents}
    return [
        Judged(
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


def _members(
    session: Session, kind: ExportKind, filters: Filters, label: str, *, skip_bad: bool
) -> tuple[list[int], Selection[Any]]:
    """Ids of the rows that an export is made of, and its records."""
    if kind == "prompts":
        if (
            filters.annotators
            or filters.kinds
            or filters.projects
            or filters.rounds
            or filters.strategies
            or filters.since is not None
        ):
            raise InputError(
                f"an export of prompts cannot be filtered by {filters.to_json()}; only part applies to prompts"
            )
        found = prompts(session, part=filters.part, heldout=filters.heldout)
        return [id for id, _ in found], Selection(records=tuple(prompt for _, prompt in found), left_out={})
    rows = judged(session, filters)
    members = [row.id for row in rows if not WHY_NOT[kind](row, skip_bad)]
    return members, SELECTORS[kind](rows, label, skip_bad=skip_bad)


def _stands_not(row: Judged) -> str:
    """Why another judgement stands in place of this one; empty if none does."""
    return "superseded" if row.superseded else row.set_aside


def _why_not_compared(row: Judged, skip_bad: bool) -> str:
    if _stands_not(row) or row.kind != "pair":
        return _stands_not(row) or row.kind
    if row.choice not in ("a", "b"):
        return row.choice
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_ranked(row: Judged, skip_bad: bool) -> str:
    if _stands_not(row) or row.kind != "rank":
        return _stands_not(row) or row.kind
    if row.choice not in ("ranking", "best"):
        return row.choice
    if row.choice == "ranking" and len(row.ranking) == 1:
        return "tie"  # of all of them
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_labelled(row: Judged, skip_bad: bool) -> str:
    if _stands_not(row) or row.kind != "single":
        return _stands_not(row) or row.kind
    if row.choice not in ("good", "bad"):
        return row.choice
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_scored(row: Judged, skip_bad: bool) -> str:
    if _stands_not(row) or row.kind != "single":
        return _stands_not(row) or row.kind
    if row.choice != "rated":
        return row.choice
    return "empty" if skip_bad and _any_empty(row) else ""


def _why_not_demonstrated(row: Judged, skip_bad: bool) -> str:
    """Whatever was asked, somebody may have written a better reply."""
    if row.superseded:
        return "superseded"
    return "" if row.edited else row.choice


WHY_NOT: Mapping[str, Callable[[Judged, bool], str]] = {
    "comparisons": _why_not_compared,
    "rankings": _why_not_ranked,
    "labels": _why_not_labelled,
    "scores": _why_not_scored,
    "demonstrations": _why_not_demonstrated,
}
"""Kind of export -> why a judgement gives no record of it, or nothing."""
SELECTORS: Mapping[str, Callable[..., Selection[Any]]] = {
    "comparisons": compare,
    "rankings": rank,
    "labels": label_records,
    "scores": scores,
    "demonstrations": demonstrations,
}


def _any_empty(row: Judged) -> bool:
    return not all(completion.strip() for completion in row.completions)


def _in_part(prompt: Prompt, part: Part, heldout: float) -> bool:
    return part == "all" or part_of(prompt, heldout=heldout) == part


def _in_projects(session: Session, names: Sequence[str]) -> ColumnElement[bool]:
    """A judgement of an item that these projects ask about, or one that was made of a better reply written there."""
    project, task, detail = studio_models.Project, studio_models.Task, studio_models.JudgementDetail
    known = sorted(session.scalars(select(project.name).where(project.state != "deleted")))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0) or ["none yet"]
            raise InputError(f"project {name!r} is not in the store; there is {', '.join(near)}")
    ids = select(project.id).where(project.name.in_(names))
    items = select(task.item_id).where(task.project_id.in_(ids))
    edits = (
        select(detail.edit_judgement_id)
        .join(studio_models.Assignment, studio_models.Assignment.id == detail.assignment_id)
        .join(task, task.id == studio_models.Assignment.task_id)
        .where(task.project_id.in_(ids), detail.edit_judgement_id.is_not(None))
    )
    return or_(models.Judgement.item_id.in_(items), models.Judgement.id.in_(edits))


def _known_names(session: Session, names: Sequence[str]) -> None:
    known = sorted(session.scalars(select(models.Annotator.name)))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0) or ["none yet"]
            raise InputError(f"annotator {name!r} is not in the store; there is {', '.join(near)}")
