"""What comes before a person's work in a project, and what ends it: guidelines to read, practice, qualification, and too many wrong known answers.

It concerns people with an account. Annotators without one are programs of whoever has the store, and go straight to the work. Each function is part
of a transaction that has locked the annotator, unless it says otherwise.
"""

from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import Select, and_, bindparam, case, func, or_, select
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import models, studio_models
from prefloop.data.store.values import Conflict
from prefloop.studio import audit
from prefloop.studio.standing import Stands
from prefloop.studio.values import Project, Stage

_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow
_Account, _Standing, _Reading = (
    studio_models.AccountRow,
    studio_models.StandingRow,
    studio_models.GuidelineReadingRow,
)
PAUSED = "Your work here is paused. The managers of the project have been told, and can let you continue."


@dataclass(frozen=True, kw_only=True, slots=True)
class Gate:
    """What stands between a person and the next item."""

    guidelines: str = ""
    """Version of the guidelines to be read first; empty for none."""
    why: str = ""
    """Why nothing is asked, in words; empty if something is."""
    stage: Stage = ""
    """Where they are: in practice, in qualification, or at work."""
    left: int = 0
    """Items of this stage that they have not answered."""
    due: bool = False
    """Whether the qualification has its last answer and is still to be decided; see `settle`."""
    answered: int = 0
    right: int = 0
    """Of the qualification."""

    @property
    def closed(self) -> bool:
        """Whether no item can be asked now."""
        return bool(self.guidelines or self.why)


OPEN = Gate()


def gate(session: Session, project: Project, annotator: int) -> Gate:
    """What stands between a person and the next item. Needs no lock."""
    row = session.execute(
        _where(), {"project": project.id, "annotator": annotator, "version": project.guideline_version}
    ).one_or_none()
    if row is None:
        return OPEN
    if row.state in ("paused", "failed"):
        return Gate(why=row.why)
    if project.guideline_version and row.version is None:
        return Gate(guidelines=project.guideline_version)
    return OPEN if row.qualified else _before_work(session, project, annotator)


def gate_of(session: Session, stands: Stands) -> Gate:
    """The same for who was just asked how they stand, without asking it again."""
    project, version = stands.project, stands.project.guideline_version
    if not stands.has_account:
        return OPEN
    if stands.state in ("paused", "failed"):
        return Gate(why=stands.why)
    if version and version not in stands.read:
        return Gate(guidelines=version)
    if stands.qualified or not (stands.stages or project.settings.qualify_items):
        return OPEN
    return _before_work(session, project, stands.annotator)


@cache
def _where() -> Select[str, str, bool, str]:
    """A person's last step in a project; no row for who has no account."""
    annotator, project = bindparam("annotator"), bindparam("project")
    return (
        select(_Reading.version, _Standing.state, _Standing.qualified, _Standing.why)
        .select_from(_Account)
        .outerjoin(
            _Reading,
            and_(
                _Reading.project_id == project,
                _Reading.annotator_id == annotator,
                _Reading.version == bindparam("version"),
            ),
        )
        .outerjoin(_Standing, and_(_Standing.project_id == project, _Standing.annotator_id == annotator))
        .where(_Account.annotator_id == annotator)
    )


def _before_work(session: Session, project: Project, annotator: int) -> Gate:
    rows = session.execute(_known(), {"project": project.id, "annotator": annotator})
    of = {stage: (total, answered, right) for stage, total, answered, right in rows}
    total, answered, _ = of.get("practice", (0, 0, 0))
    if answered < total:
        return Gate(stage="practice", left=total - answered)
    wanted = project.settings.qualify_items
    total, answered, right = of.get("qualification", (0, 0, 0))
    if not wanted:
        return OPEN
    if not total:
        return Gate(why="This project asks for a qualification but has no items for it yet.")
    wanted = min(wanted, total)
    if answered < wanted:
        return Gate(stage="qualification", left=wanted - answered)
    return Gate(due=True, answered=answered, right=right)


@cache
def _known() -> Select[str, int, int, int]:
    """Of practice and qualification: items, those that the annotator has answered or skipped, and those they got right."""
    earlier, later = aliased(_Judgement), aliased(_Judgement)
    superseded = select(later.id).where(later.supersedes_id == earlier.id).exists()
    return (
        select(
            _Task.stage,
            func.count(_Task.id),
            func.count(earlier.id),
            func.count(case((earlier.choice == _Task.gold, 1))),
        )
        .outerjoin(
            earlier,
            and_(
                earlier.item_id == _Task.item_id,
                earlier.annotator_id == bindparam("annotator"),
                earlier.choice != "withdrawn",
                ~superseded,
            ),
        )
        .where(
            _Task.project_id == bindparam("project"),
            _Task.stage.in_(("practice", "qualification")),
            _Task.gold != "",
            ~_Task.archived,
        )
        .group_by(_Task.stage)
    )


def settle(session: Session, project: Project, annotator: int, found: Gate, *, now: datetime) -> Gate:
    """Decide a qualification that has its last answer; what then stands between the person and the next item."""
    if not found.due:
        return found
    wanted = project.settings.qualify_share
    passed = found.right / found.answered >= wanted - 1e-9
    share = f"{found.right} of {found.answered} qualification items right"
    why = (
        ""
        if passed
        else f"You got {share}; {wanted:.0%} are needed. The managers of the project have been told."
    )
    change(
        session,
        project.id,
        annotator,
        NewStanding(state="working" if passed else "failed", qualified=passed, why=why),
        now=now,
        by=annotator,
        detail={"right": found.right, "answered": found.answered},
    )
    return Gate(why=why)


def check_gold(session: Session, project: Project, annotator: int, *, now: datetime) -> bool:
    """Pause a person who got too few of the last known answers right; whether they are paused now. After an answer to one."""
    floor, window = project.settings.gold_floor, project.settings.gold_window
    if not floor:
        return False
    standing = _standing(session, project.id, annotator)
    mine = {"project": project.id, "annotator": annotator, "window": window}
    last = session.execute(_last_gold(), mine).all()
    since = None if standing is None else standing.gold_since
    counted = [right for right, at in last if since is None or (at is not None and at > since)]
    if len(counted) < window or sum(counted) / window >= floor - 1e-9:
        return False
    known = select(_Account.id).where(_Account.annotator_id == annotator)
    if session.scalar(known) is None or (standing is not None and standing.state != "working"):
        return False
    change(
        session,
        project.id,
        annotator,
        NewStanding(
            state="paused",
            qualified=True,
            why=f"Too few of your answers to items with a known answer were right. {PAUSED}",
        ),
        now=now,
        by=annotator,
        detail={"right": sum(counted), "answered": window},
    )
    return True


@cache
def _last_gold() -> Select[Any, datetime | None]:
    """The annotator's last answers to known items among the work, newest first: whether each was right, and when it was given."""
    return (
        select(case((_Judgement.choice == _Task.gold, 1), else_=0), _Assignment.finished_at)
        .select_from(_Assignment)
        .join(_Task, _Task.id == _Assignment.task_id)
        .join(_Judgement, _Judgement.id == _Assignment.judgement_id)
        .where(
            _Assignment.project_id == bindparam("project"),
            _Task.gold != "",
            _Task.stage == "",
            _Assignment.annotator_id == bindparam("annotator"),
            _Assignment.state.in_(("submitted", "surplus")),
        )
        .order_by(_Assignment.finished_at.desc(), _Assignment.id.desc())
        .limit(bindparam("window"))
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class NewStanding:
    """Where a person stands in a project from now on."""

    state: str
    """`working`, `paused` or `failed`."""
    why: str = ""
    """What the person is told."""
    qualified: bool | None = None
    """None leaves it as it is."""


def change(
    session: Session,
    project: int,
    annotator: int,
    standing: NewStanding,
    *,
    now: datetime,
    by: int | None,
    detail: dict[str, int] | None = None,
) -> None:
    """Write down where a person stands. Back at work, what they got wrong before no longer counts against them."""
    state = standing.state
    row = _standing(session, project, annotator)
    if row is None:
        row = _Standing(project_id=project, annotator_id=annotator, qualified=False, gold_since=None)
        session.add(row)
    row.state, row.why, row.changed_at = state, standing.why, now
    if standing.qualified is not None:
        row.qualified = standing.qualified
    if state == "working":
        row.gold_since = now
    session.flush()
    audit.write(
        session,
        now=now,
        annotator=by,
        action={"working": "let work", "paused": "pause", "failed": "not qualified"}[state],
        entity="project",
        id=project,
        detail={"annotator": annotator} | (detail or {}),
    )


def _standing(session: Session, project: int, annotator: int) -> studio_models.StandingRow | None:
    return session.scalars(
        select(_Standing).where(_Standing.project_id == project, _Standing.annotator_id == annotator)
    ).one_or_none()


# Guidelines


def version_read(session: Session, project: Project, annotator: int) -> str:
    """The version that an answer is given under: what the annotator read last, or the present one of who was asked to read none."""
    if not project.guideline_version:
        return ""
    last = select(_Reading.version).where(
        _Reading.project_id == project.id, _Reading.annotator_id == annotator
    )
    found = session.scalar(last.order_by(_Reading.at.desc(), _Reading.id.desc()).limit(1))
    return project.guideline_version if found is None else found


def acknowledge(session: Session, project: Project, annotator: int, version: str, *, now: datetime) -> None:
    """Write down that a person has read the guidelines. `Conflict` where that is not how they stand now; done again, it changes nothing."""
    if version != project.guideline_version:
        raise Conflict("the guidelines have changed in the meantime; read them again")
    known = select(_Reading.id).where(
        _Reading.project_id == project.id, _Reading.annotator_id == annotator, _Reading.version == version
    )
    if not version or session.scalar(known) is not None:
        return
    session.add(_Reading(project_id=project.id, annotator_id=annotator, version=version, at=now))
    session.flush()
    audit.write(
        session,
        now=now,
        annotator=annotator,
        action="read guidelines",
        entity="project",
        id=project.id,
        detail={"version": version},
    )


def has_read_some(session: Session, project: int, annotator: int) -> bool:
    """Whether a person has read an earlier version, so that what is shown now is a change. Needs no lock."""
    found = select(_Reading.id).where(_Reading.project_id == project, _Reading.annotator_id == annotator)
    return session.scalar(found.limit(1)) is not None


def held_up(session: Session) -> dict[int, int]:
    """Project -> people who are paused or did not qualify, for whoever runs it. Needs no lock."""
    rows = session.execute(
        select(_Standing.project_id, func.count())
        .where(or_(_Standing.state == "paused", _Standing.state == "failed"))
        .group_by(_Standing.project_id)
    )
    return dict(rows.all())
