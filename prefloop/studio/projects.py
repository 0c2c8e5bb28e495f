"""Projects and their tasks: what is asked, of which items, and how far it is."""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from random import Random
from typing import Any

from sqlalchemy import case, func, insert, select, update
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.data.store.writing import chunks
from prefloop.errors import InputError
from prefloop.studio import audit, question_answers, suggestions, tallies
from prefloop.studio.questions import questions_of
from prefloop.studio.values import (
    GOLD_OVERLAP,
    ITEM_KIND,
    VISITORS,
    NotFound,
    Project,
    ProjectProgress,
    ProjectSettings,
    Scale,
    Stage,
    State,
    version_of,
)

DELETED = "deleted project"
"""Beginning of the name of a row that stays for the withdrawn answers that lead to it."""
_Task, _Assignment = studio_models.TaskRow, studio_models.AssignmentRow


def create(session: Session, settings: ProjectSettings, *, now: datetime, by: int | None = None) -> Project:
    """A new project; `Conflict` if there is one of that name."""
    _check_free(session, settings.name)
    suggestions.check_judge(session, settings.suggest_from)
    row = studio_models.ProjectRow(**_columns(settings), state="open", created_at=now)
    session.add(row)
    session.flush()
    _keep_guidelines(session, row.id, settings.guidelines, now)
    audit.write(session, now=now, annotator=by, action="create", entity="project", id=row.id)
    return project_from(row)


def _check_free(session: Session, name: str, *, but: int | None = None) -> None:
    """Raise `Conflict` where a project has this name, but for one of that id."""
    found = session.scalar(select(studio_models.ProjectRow.id).where(studio_models.ProjectRow.name == name))
    if found not in (None, but):
        raise Conflict(f"there is a project {name!r} already; choose another name")


def change(
    session: Session,
    id: int,
    settings: ProjectSettings,
    *,
    state: State | None = None,
    now: datetime,
    by: int | None = None,
) -> Project:
    """New settings for a project; what was asked already keeps the guideline version it was asked under. The kind stays."""
    row = _row(session, id, lock=True)
    columns, before = _columns(settings), _columns(project_from(row).settings)
    changed = {name: value for name, value in columns.items() if value != before[name]}
    if not changed and state in (None, row.state):
        return project_from(row)
    if "kind" in changed:
        raise InputError(f"project {row.name!r} is of kind {row.kind}; make another project for another kind")
    _check_free(session, settings.name, but=id)
    if "suggest_from" in changed:
        suggestions.check_judge(session, settings.suggest_from)
    if "questions" in changed:
        question_answers.check_change(session, id, settings.questions)
    for name, value in changed.items():
        setattr(row, name, value)
    if state is not None:
        row.state = state
    session.flush()
    if "overlap" in changed:
        _set_overlap(session, id, settings.overlap)
    if changed.pop("guidelines", None) is not None:  # they are kept by version
        _keep_guidelines(session, id, settings.guidelines, now)
        changed["guidelines_before"] = before["guidelines"]
    audit.write(
        session,
        now=now,
        annotator=by,
        action="change",
        entity="project",
        id=id,
        detail=changed | ({} if state is None else {"state": state}),
    )
    return project_from(row)


def _keep_guidelines(session: Session, project: int, text: str, now: datetime) -> None:
    """Keep guidelines under their version, which the judgements made under them have."""
    table, version = studio_models.GuidelineVersionRow, version_of(text)
    if version and session.get(table, (project, version)) is None:
        session.add(table(project_id=project, version=version, text=text, created_at=now))
        session.flush()


def _set_overlap(session: Session, project: int, overlap: int) -> None:
    """For every question but those whose answer is known; never below what is taken already."""
    of_project = (_Task.project_id == project, _Task.gold == "")
    wanted = case((_Task.taken > overlap, _Task.taken), else_=overlap)
    session.execute(update(_Task).where(*of_project).values(overlap=wanted))
    session.execute(
        update(_Task).where(*of_project).values(open=(_Task.taken < _Task.overlap) & ~_Task.archived)
    )


def project_of(session: Session, id: int) -> Project:
    """The project with this id, or `NotFound`."""
    return project_from(_row(session, id))


def find(session: Session, given: str) -> Project:
    """The project that a user names by number or name."""
    table = studio_models.ProjectRow
    row = session.scalars(select(table).where(table.name == given)).one_or_none()
    if row is None and given.isdecimal() and int(given) < 2**31:
        row = session.get(table, int(given))
    if row is None or row.state == "deleted":
        names = session.scalars(select(table.name).where(table.state != "deleted").order_by(table.id)).all()
        raise NotFound(f"project {given!r} is not in the store; it has {', '.join(names) or 'none yet'}")
    return project_from(row)


def all_of(session: Session) -> list[Project]:
    """Every project, oldest first."""
    table = studio_models.ProjectRow
    there = select(table).where(table.state != "deleted").order_by(table.id)
    return [project_from(row) for row in session.scalars(there)]


def add_tasks(
    session: Session,
    project: Project,
    items: Sequence[int],
    *,
    priorities: Mapping[int, float] | None = None,
    gold: Mapping[int, str] | None = None,
    stage: Stage = "",
    random: Random | secrets.SystemRandom,
) -> int:
    """Put items into a project; how many are new. What is there already stays as it is.

    `priorities`: item -> number, higher is asked first (0 if none is given). `gold`: item -> the choice known to be right, in slots
    (`a`, `b`, `good`, `bad`, `tie`); such items are asked of everybody, now and then. `stage`: of those, whether they are practice or
    qualification; practice comes in the order given.

    Raises `InputError` for an item that is not there, of another kind than the project asks about, or a gold choice it does not know.
    """
    if project.settings.kind == "chat":
        raise InputError(
            f"project {project.settings.name!r} is a chat: its items are made as people talk; put these into another project"
        )
    _check_items(session, project, items)
    known = set[int]()
    for chunk in chunks(items):
        known |= set(
            session.scalars(
                select(_Task.item_id).where(_Task.project_id == project.id, _Task.item_id.in_(chunk))
            )
        )
    rows = []
    first = (
        session.scalar(select(func.count()).where(_Task.project_id == project.id, _Task.stage == stage)) or 0
    )
    for place, item in enumerate(dict.fromkeys(items), first):
        if item in known:
            continue
        right = (gold or {}).get(item, "")
        if right not in ("", "a", "b", "tie", "good", "bad"):
            raise InputError(f"gold choice of item {item} is {right!r}; it must be a, b, tie, good or bad")
        rows.append(
            {
                "project_id": project.id,
                "item_id": item,
                "queue": -float((priorities or {}).get(item, 0.0)),
                "position": place if stage == "practice" else random.randrange(2**31),
                "overlap": GOLD_OVERLAP if right else project.settings.overlap,
                "taken": 0,
                "open": True,
                "gold": right,
                "stage": stage if right else "",
                "gold_note": "",
                "archived": False,
                "audience": "",
            }
        )
    if rows:
        session.execute(insert(_Task), rows)
    return len(rows)


def _check_items(session: Session, project: Project, items: Sequence[int]) -> None:
    wanted = ITEM_KIND[project.settings.kind]
    kinds: dict[int, str] = {}
    for chunk in chunks(items):
        found = session.execute(
            select(models.ItemRow.id, models.ItemRow.kind).where(models.ItemRow.id.in_(chunk))
        )
        kinds |= dict(found.all())
    for item in items:
        if item not in kinds:
            raise InputError(f"item {item} is not in the store; add it first")
        if kinds[item] != wanted:
            raise InputError(
                f"item {item} is a {kinds[item]}; project {project.settings.name!r} asks about a {wanted}"
            )


def progress(session: Session, projects: Iterable[int]) -> tuple[dict[int, ProjectProgress], int]:
    """How far each project is, from sums that the database keeps; and how many rows of those are loose, see `tallies`."""
    ids = list(projects)
    sums, loose = tallies.of_projects(session, ids)
    running = {
        project: (leased, full)
        for project, leased, full in session.execute(
            select(
                _Task.project_id,
                func.count(),
                func.count(case((_Task.taken >= _Task.overlap, _Task.id)).distinct()),
            )
            .join(_Assignment, _Assignment.task_id == _Task.id)
            .where(
                _Assignment.state == "leased", _Task.project_id.in_(ids), _Task.gold == "", ~_Task.archived
            )
            .group_by(_Task.project_id)
        )
    }
    found: dict[int, ProjectProgress] = {}
    for project in ids:
        of = sums[project]
        leased, full = running.get(project, (0, 0))
        found[project] = ProjectProgress(
            items=of.get("items", 0),
            wanted=of.get("wanted", 0),
            submitted=of.get("submitted", 0),
            leased=leased,
            surplus=of.get("surplus", 0),
            skipped=of.get("skipped", 0),
            # Items with no free place, but for those where somebody is still answering.
            done=of.get("full", 0) - full,
            gold=of.get("gold", 0),
        )
    return found, loose


def _row(session: Session, id: int, *, lock: bool = False) -> studio_models.ProjectRow:
    statement = select(studio_models.ProjectRow).where(studio_models.ProjectRow.id == id)
    row = session.scalars(statement.with_for_update() if lock else statement).one_or_none()
    if row is None or row.state == "deleted":
        raise NotFound(f"project {id} does not exist")
    return row


def _columns(settings: ProjectSettings) -> dict[str, Any]:
    columns = asdict(settings)
    columns["flags"] = list(settings.flags)
    columns["scales"] = [{"name": scale.name, "levels": scale.levels} for scale in settings.scales]
    columns["questions"] = [question.to_json() for question in settings.questions]
    return columns


def project_from(row: studio_models.ProjectRow) -> Project:
    """A project from its row."""
    kind: Any = row.kind
    render: Any = row.render
    access: Any = row.access
    state: Any = row.state
    return Project(
        id=row.id,
        settings=ProjectSettings(
            name=row.name,
            kind=kind,
            guidelines=row.guidelines,
            overlap=row.overlap,
            lease_seconds=row.lease_seconds,
            strength_levels=row.strength_levels,
            allow_tie=row.allow_tie,
            allow_both_bad=row.allow_both_bad,
            flags=tuple(row.flags),
            scales=tuple(Scale(name=scale["name"], levels=scale["levels"]) for scale in row.scales),
            render=render,
            gold_share=row.gold_share,
            access=access,
            daily_quota=row.daily_quota,
            quota=row.quota,
            qualify_items=row.qualify_items,
            qualify_share=row.qualify_share,
            gold_floor=row.gold_floor,
            gold_window=row.gold_window,
            least_seconds=row.least_seconds,
            questions=questions_of(row.questions),
            suggest_from=row.suggest_from,
            suggest_share=row.suggest_share,
            reveal=row.reveal,
            **{name: getattr(row, name) for name in VISITORS},
        ),
        state=state,
    )
