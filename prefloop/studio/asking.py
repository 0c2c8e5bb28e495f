"""What a page that asks for the next item is told: the item, how many are done and left, and why there is none. One transaction, as people wait for it."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy.orm import Session

from prefloop.studio import assign, onboarding, people_log, standing
from prefloop.studio.service import Studio
from prefloop.studio.values import Assignment, Project


@dataclass(frozen=True, kw_only=True, slots=True)
class Next:
    """The next item, or why there is none."""

    project: Project
    assignment: Assignment | None
    done: int
    left: int
    unanswered: list[str]
    """Of the tokens that the page holds, those that are still to be answered."""
    why: str
    unread: str
    """Version of the guidelines to be read first; empty for none."""
    changed: bool
    """Whether an earlier version was read."""


def next_item(studio: Studio, project: int, annotator: int, *, have: Collection[str] = ()) -> Next:
    """Give an annotator their next item; see `assign.lease`."""

    def work(session: Session) -> Next:
        now = studio.clock()
        assign.lock_annotator(session, annotator)
        stands = standing.of(session, project, annotator)
        assignment = assign.lease(
            session, stands, have=have, now=now, random=studio.random, sweep=studio.sweep_is_due(now)
        )
        found = stands.project
        done, left = people_log.counts(
            session, found, annotator, now, working=assignment is not None, sent_back=stands.sent_back
        )
        why_not = people_log.why_nothing if assignment is None else people_log.quota_reached
        unread = onboarding.gate(session, found, annotator).guidelines if assignment is None else ""
        return Next(
            project=found,
            assignment=assignment,
            done=done,
            left=left,
            unanswered=people_log.unanswered(session, annotator, have),
            why=why_not(session, found, annotator, now),
            unread=unread,
            changed=bool(unread) and bool(stands.read),
        )

    return studio.write_twice(work, durable=False)  # nothing is lost with a lease: its item is asked again
