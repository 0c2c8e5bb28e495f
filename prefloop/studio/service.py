"""The one way into the studio, for the server, the command line and recipes alike: every method is one transaction."""

import secrets
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any, TypeVar

from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from prefloop.data.store import Store
from prefloop.data.store.values import Conflict
from prefloop.errors import InputError
from prefloop.studio import access, assign, history, onboarding, projects, standing, tallies
from prefloop.studio.values import (
    Answer,
    Assignment,
    NotFound,
    Past,
    Project,
    ProjectProgress,
    ProjectSettings,
    Receipt,
    Stage,
    State,
)

T = TypeVar("T")
SWEEP_EVERY = timedelta(seconds=1)
"""Leases that have run out are looked for this often, and whenever somebody would go without an item; each server process counts for itself."""


class Studio:
    """A store with people at work on it.

    with Store.open("prefloop.db") as store:
        studio = Studio(store)
        project = studio.create_project(ProjectSettings(name="comparisons"))
        studio.add_tasks(project.id, store.add_pairs(strategy="random").ids)

    `clock` and `random` are the system's unless a test gives its own. Threads may share one.
    """

    def __init__(
        self,
        store: Store,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Random | secrets.SystemRandom | None = None,
    ) -> None:
        self.store = store
        self.clock = clock
        self.random = random or secrets.SystemRandom()
        self._swept: datetime | None = None

    @contextmanager
    def read(self) -> Iterator[Session]:
        """A reading transaction, for queries of the studio's own modules."""
        with self.store.database.read() as session:
            yield session

    @contextmanager
    def write(self, *, durable: bool = True, bulk: bool = False) -> Iterator[Session]:
        """A writing transaction, for the studio's own modules; see `Database.write`."""
        with self.store.database.write(durable=durable, bulk=bulk) as session:
            yield session

    def write_twice(self, work: Callable[[Session], T], *, durable: bool = True, bulk: bool = False) -> T:
        """Do a writing transaction; once more where another connection wrote the same row between our look and our insert."""
        try:
            with self.write(durable=durable, bulk=bulk) as session:
                return work(session)
        except IntegrityError as error:
            collision = error
        try:
            with self.write(durable=durable, bulk=bulk) as session:
                return work(session)
        except IntegrityError:
            raise Conflict("this keeps colliding with another request; send it again") from collision

    # Projects

    def create_project(self, settings: ProjectSettings, *, by: int | None = None) -> Project:
        """A new project; `Conflict` if there is one of that name."""
        return self.write_twice(lambda session: projects.create(session, settings, now=self.clock(), by=by))

    def change_project(
        self, id: int, settings: ProjectSettings, *, state: State | None = None, by: int | None = None
    ) -> Project:
        """New settings, or another state, for a project."""
        return self.write_twice(
            lambda session: projects.change(session, id, settings, state=state, now=self.clock(), by=by)
        )

    def project(self, id: int) -> Project:
        """The project with this id, or `NotFound`."""
        with self.read() as session:
            return projects.project_of(session, id)

    def find_project(self, given: str) -> Project:
        """The project that a user names by number or name."""
        with self.read() as session:
            return projects.find(session, given)

    def projects(self) -> list[Project]:
        """Every project, oldest first."""
        with self.read() as session:
            return projects.all_of(session)

    def add_tasks(
        self,
        project: int,
        items: Sequence[int],
        *,
        priorities: Mapping[int, float] | None = None,
        gold: Mapping[int, str] | None = None,
        stage: Stage = "",
    ) -> int:
        """Put items into a project; how many are new. `priorities`: item -> number, higher first. `gold`: item -> the right choice, `stage`: of these."""
        with self.store.database.write(bulk=True) as session:
            return projects.add_tasks(
                session,
                projects.project_of(session, project),
                items,
                priorities=priorities,
                gold=gold,
                stage=stage,
                random=self.random,
            )

    def ask(self, items: Sequence[int], *, project: str, overlap: int = 1) -> int:
        """Put items into the project of this name or number, or into a new one with this overlap; how many are new in it.

        Raises `InputError` if the project is there with another overlap than the one asked for; 1 asks for none.
        """
        try:
            found = self.find_project(project)
        except NotFound:
            found = self.create_project(ProjectSettings(name=project, overlap=overlap))
        if overlap not in (1, found.settings.overlap):
            raise InputError(
                f"overlap is {overlap}, but project {found.settings.name!r} exists already, with overlap {found.settings.overlap}; "
                "leave overlap out, or change the project under Admin, Settings"
            )
        return self.add_tasks(found.id, items)

    def progress(self, ids: Sequence[int] | None = None) -> dict[int, ProjectProgress]:
        """How far projects are, by id; all of them if none are named."""
        with self.read() as session:
            if ids is None:
                ids = [project.id for project in projects.all_of(session)]
            found, loose = projects.progress(session, ids)
        self.fold_tallies(loose)
        return found

    def fold_tallies(self, loose: int) -> None:
        """Fold the rows behind sums where so many are loose that reading them costs more; see `tallies`."""
        if loose > tallies.LOOSE:
            with self.write(durable=False) as session:
                tallies.fold(session)

    # Work

    def lease(self, project: int, annotator: int, *, have: Collection[str] = ()) -> Assignment | None:
        """The next item for an annotator, or None; see `assign.lease`."""

        def work(session: Session) -> Assignment | None:
            assign.lock_annotator(session, annotator)
            now = self.clock()
            return assign.lease(
                session,
                standing.of(session, project, annotator),
                have=have,
                now=now,
                random=self.random,
                sweep=self.sweep_is_due(now),
            )

        return self.write_twice(work, durable=False)  # nothing is lost with a lease: its item is asked again

    def sweep_is_due(self, now: datetime) -> bool:
        """Whether it is time to take back the leases that have run out; whoever is told so does it."""
        swept, self._swept = self._swept, now
        if swept is None or abs(now - swept) >= SWEEP_EVERY:
            return True
        self._swept = swept
        return False

    def acknowledge(self, project: int, annotator: int, version: str) -> None:
        """Write down that an annotator has read this version of a project's guidelines; see `onboarding.acknowledge`."""

        def work(session: Session) -> None:
            access.check(session, project, annotator)
            onboarding.acknowledge(
                session, projects.project_of(session, project), annotator, version, now=self.clock()
            )

        self.write_twice(work)

    def expire(self) -> int:
        """Take back the leases that have run out; how many."""
        with self.write() as session:
            return assign.expire(session, self.clock())

    def submit(self, token: str, annotator: int, answer: Answer, *, key: str) -> Receipt:
        """Write down an answer, once for each key; see `assign.submit`."""
        return self.write_twice(
            lambda session: assign.submit(session, token, annotator, answer, key=key, now=self.clock())
        )

    def skip(self, token: str, annotator: int, *, key: str, reason: str = "") -> Receipt:
        """Pass over an item."""
        return self.write_twice(
            lambda session: assign.skip(session, token, annotator, key=key, reason=reason, now=self.clock())
        )

    def undo(self, token: str, annotator: int) -> Assignment:
        """Take back one's answer and have the item again."""
        return self.write_twice(lambda session: assign.undo(session, token, annotator, now=self.clock()))

    def give_back(self, token: str, annotator: int) -> None:
        """Return an item unanswered."""
        with self.write() as session:
            assign.give_back(session, token, annotator)

    def save_draft(self, token: str, annotator: int, draft: Mapping[str, Any]) -> None:
        """Keep an unfinished answer."""
        with self.write(durable=False) as session:
            assign.save_draft(session, token, annotator, draft, now=self.clock())

    def history(
        self, annotator: int, *, project: int | None = None, before: int = 0, limit: int = 50
    ) -> list[Past]:
        """One's own answers, newest first."""
        with self.read() as session:
            return history.of(session, annotator, project=project, offset=before, limit=limit)
