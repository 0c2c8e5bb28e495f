"""Links for people whom a recruiting platform sends (Prolific, Mechanical Turk), and the codes by which they are paid there.

The platform's number of a person is all that is known of them. It opens an account in one project, without a password: whoever has a link and
somebody's number can continue as them. A study asks for as many answers as the project's quota for each person.
"""

import csv
import hashlib
import io
import re
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Literal

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import audit, people_log
from prefloop.studio.guests import admit
from prefloop.studio.projects import project_of
from prefloop.studio.service import Studio
from prefloop.studio.values import NotAllowed, NotFound

PlatformName = Literal["prolific", "mturk"]
MOST_PLACES = 100_000
_Study, _Participant, _Account = (
    studio_models.StudyRow,
    studio_models.ParticipantRow,
    studio_models.AccountRow,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Platform:
    """How a platform sends people, and takes them back."""

    title: str
    parameter: str
    """Of the link, with the person's number."""
    number: re.Pattern[str]
    query: str
    """What to put after the link, for the platform to fill in."""
    back: str
    """Where a person goes with the code; empty where they type it."""


PLATFORMS: Mapping[str, Platform] = {
    "prolific": Platform(
        title="Prolific",
        parameter="PROLIFIC_PID",
        number=re.compile(r"[0-9a-f]{24}"),
        query="PROLIFIC_PID={{%PROLIFIC_PID%}}",
        back="https://app.prolific.com/submissions/complete?cc=",
    ),
    "mturk": Platform(
        title="Mechanical Turk",
        parameter="workerId",
        number=re.compile(r"A[0-9A-Z]{8,30}"),
        query="workerId=${workerId}",
        back="",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyLink:
    """A link, and how many came by it."""

    id: int
    project: int
    project_name: str
    platform: PlatformName
    path: str
    """Of the link, with what the platform fills in."""
    code: str
    """Completion code; on Mechanical Turk the beginning of each person's."""
    answers: int
    places: int
    started: int
    completed: int
    open: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Participant:
    """Somebody whom a platform sent, for who pays them there."""

    number: str
    pseudonym: str
    started_at: datetime
    completed_at: datetime | None
    code: str
    """Empty until they are done."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How far a participant is."""

    project: int
    given: int
    wanted: int
    code: str
    """Empty until they are done."""
    back: str
    """Address at the platform that takes the code; empty where it is typed."""
    why: str
    """Why they are asked nothing more without being done; empty if they are."""


def create(
    studio: Studio, project: int, platform: PlatformName, *, places: int, code: str = "", by: int | None
) -> StudyLink:
    """A link to a project, for so many people. `code`: what Prolific calls the completion code; drawn if it is empty.

    Raises `InputError` for a project without a quota or of chats, or numbers out of range.
    """
    if not 1 <= places <= MOST_PLACES:
        raise InputError(f"places is {places}; it must be 1 to {MOST_PLACES}")
    if code and not re.fullmatch(r"[A-Za-z0-9_-]{4,40}", code):
        raise InputError(f"code is {code!r}; it must have 4 to 40 letters, digits, - or _")
    with studio.write() as session:
        settings = project_of(session, project).settings
        if not settings.quota:
            raise InputError(
                f"project {settings.name!r} has no quota; say how many answers each person gives"
            )
        if settings.access == "public":
            raise InputError(
                f"project {settings.name!r} is open to visitors; make a project for the study alone"
            )
        row = _Study(
            project_id=project,
            token=secrets.token_urlsafe(12),
            platform=platform,
            places=places,
            code=code or secrets.token_hex(4).upper(),
            open=True,
            created_at=studio.clock(),
        )
        session.add(row)
        session.flush()
        audit.write(
            session, now=studio.clock(), annotator=by, action="new study", entity="project", id=project,
            detail={"study": row.id, "platform": platform, "places": places},
        )  # fmt: skip
        id = row.id
    return next(study for study in studies(studio, project) if study.id == id)


def studies(studio: Studio, project: int) -> list[StudyLink]:
    """The studies of a project, oldest first."""
    counted = select(func.count()).where(_Participant.study_id == _Study.id)
    done = counted.where(_Participant.completed_at.is_not(None)).scalar_subquery()
    with studio.read() as session:
        settings = project_of(session, project).settings
        rows = session.execute(
            select(_Study, counted.scalar_subquery(), done)
            .where(_Study.project_id == project)
            .order_by(_Study.id)
        )
        return [
            StudyLink(
                id=row.id,
                project=project,
                project_name=settings.name,
                platform=row.platform,  # type: ignore[arg-type]  # as the database checks
                path=f"/study/{row.token}?{PLATFORMS[row.platform].query}",
                code=row.code,
                answers=settings.quota,
                places=row.places,
                started=started,
                completed=completed,
                open=row.open,
            )
            for row, started, completed in rows
        ]


def participants(studio: Studio, study: int, *, project: int) -> list[Participant]:
    """Who came by a link of a project, in that order."""
    with studio.read() as session:
        of = session.get(_Study, study)
        if of is None or of.project_id != project:
            raise NotFound(f"this project has no study {study}")
        rows = session.execute(
            select(_Participant, models.AnnotatorRow.name)
            .join(_Account, _Account.id == _Participant.account_id)
            .join(models.AnnotatorRow, models.AnnotatorRow.id == _Account.annotator_id)
            .where(_Participant.study_id == study)
            .order_by(_Participant.id)
        )
        return [
            Participant(
                number=row.name,
                pseudonym=pseudonym,
                started_at=row.started_at,
                completed_at=row.completed_at,
                code=_code(of, row) if row.completed_at else "",
            )
            for row, pseudonym in rows
        ]


def participants_csv(studio: Studio, project: int) -> str:
    """Everybody who came by a project's links, as CSV: platform, number, pseudonym, when they began and finished, code."""
    file = io.StringIO()
    writer = csv.DictWriter(file, ["platform", *(field.name for field in fields(Participant))])
    writer.writeheader()
    for study in studies(studio, project):
        writer.writerows(
            {"platform": study.platform} | asdict(each)
            for each in participants(studio, study.id, project=project)
        )
    return file.getvalue()


def change(
    studio: Studio,
    project: int,
    study: int,
    *,
    open: bool | None = None,
    places: int | None = None,
    by: int | None,
) -> None:
    """Close a link or open it again, or let it take more people. Who came by it continues in either case.

    Raises `NotFound` for a study that the project does not have, `InputError` for fewer places than people who came.
    """

    with studio.write() as session:
        row = session.scalars(
            select(_Study).where(_Study.id == study, _Study.project_id == project).with_for_update()
        ).one_or_none()
        if row is None:
            raise NotFound(f"this project has no study {study}")
        if places is not None:
            came = session.scalar(select(func.count()).where(_Participant.study_id == study)) or 0
            if not max(came, 1) <= places <= MOST_PLACES:
                raise InputError(
                    f"places is {places}; {came} people came already, so it must be {max(came, 1)} to {MOST_PLACES}"
                )
            row.places = places
        if open is not None:
            row.open = open
        audit.write(
            session, now=studio.clock(), annotator=by, action="change study", entity="project", id=project,
            detail={"study": study, "open": row.open, "places": row.places},
        )  # fmt: skip


def number_in(platform: str, query: Mapping[str, str]) -> str:
    """A person's number in what the platform added to a link; empty where somebody on Mechanical Turk only looks. Raises `InputError` for none."""
    wanted = PLATFORMS[platform]
    number = query.get(wanted.parameter, "")
    if platform == "mturk" and query.get("assignmentId") == "ASSIGNMENT_ID_NOT_AVAILABLE":
        return ""
    if not wanted.number.fullmatch(number):
        raise InputError(f"the link lacks your {wanted.title} number; open it from {wanted.title}")
    return number


def look(studio: Studio, token: str) -> tuple[str, int]:
    """Platform and project of a link that takes people; `NotFound` for any other."""
    with studio.read() as session:
        row = session.scalars(select(_Study).where(_Study.token == token, _Study.open)).one_or_none()
        if row is None:
            raise NotFound("this study is closed, or the link is wrong")
        return row.platform, row.project_id


def arrive(studio: Studio, token: str, number: str) -> int:
    """The account of somebody whom the platform sent: theirs from before, or a new one. `NotAllowed` where the study is full, or they were shut out."""

    def work(session: Session) -> int:
        row = session.scalars(
            select(_Study).where(_Study.token == token, _Study.open).with_for_update()
        ).one_or_none()
        if row is None:
            raise NotFound("this study is closed, or the link is wrong")
        known = session.execute(
            select(_Account.id, _Account.active)
            .join(_Participant, _Participant.account_id == _Account.id)
            .where(_Participant.study_id == row.id, _Participant.name == number)
        ).one_or_none()
        if known is not None:
            if not known[1]:
                raise NotAllowed("you were shut out of this study; please return it on the platform")
            return known[0]
        taken = session.scalar(select(func.count()).where(_Participant.study_id == row.id)) or 0
        if taken >= row.places:
            raise NotAllowed("this study has all the people it needs; please return it on the platform")
        account = admit(session, row.project_id, now=studio.clock())
        session.add(
            _Participant(
                study_id=row.id,
                account_id=account.id,
                name=number,
                started_at=studio.clock(),
                completed_at=None,
            )
        )
        return account.id

    return studio.write_twice(work)


def standing(studio: Studio, account: int) -> Standing:
    """How far a participant is, and the code once they are done: with as many answers as asked for, or with nothing left to ask."""
    with studio.write() as session:
        found = session.execute(
            select(_Participant, _Study, _Account.annotator_id)
            .join(_Study, _Study.id == _Participant.study_id)
            .join(_Account, _Account.id == _Participant.account_id)
            .where(_Participant.account_id == account)
        ).one_or_none()
        if found is None:
            raise NotFound("you take part in no study")
        row, study, annotator = found
        now, project = studio.clock(), project_of(session, study.project_id)
        settings = project.settings
        given, left = people_log.counts(session, project, annotator, now)
        why = "" if given >= settings.quota else people_log.why_nothing(session, project, annotator, now)
        if row.completed_at is None and (given >= settings.quota or (given and not left and not why)):
            row.completed_at = now
            audit.write(
                session,
                now=now,
                annotator=annotator,
                action="complete study",
                entity="project",
                id=study.project_id,
            )
        return Standing(
            project=study.project_id,
            given=given,
            wanted=settings.quota,
            code=_code(study, row) if row.completed_at else "",
            back=PLATFORMS[study.platform].back,
            why=why,
        )


def _code(study: studio_models.StudyRow, row: studio_models.ParticipantRow) -> str:
    """Prolific has one code for all, and knows who brings it; on Mechanical Turk each person has their own."""
    if study.platform == "prolific":
        return study.code
    return f"{study.code}-{hashlib.sha256(f'{study.token} {row.name}'.encode()).hexdigest()[:8]}"
