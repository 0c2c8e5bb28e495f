"""Deleting a project: what goes with it is said first; what was said in it is withdrawn, as undo does, and never rewritten."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, exists, func, select, update
from sqlalchemy.orm import Session, aliased

from prefloop.data.store import models, studio_models
from prefloop.errors import InputError
from prefloop.studio import assign, audit, projects
from prefloop.studio.edits import current_judgement
from prefloop.studio.service import Studio

_Task, _Assignment, _Chat = studio_models.TaskRow, studio_models.AssignmentRow, studio_models.ChatRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Removal:
    """What goes with a project."""

    name: str
    items: int
    answers: int
    people: int
    decisions: int
    """Of adjudicators, on items that no other project asks."""
    chats: int

    def __str__(self) -> str:
        chats = f" and {self.chats} conversations" if self.chats else ""
        decisions = f", and {self.decisions} decisions of adjudicators," if self.decisions else ""
        return (
            f"project {self.name!r} with {self.items} items{chats}; {self.answers} answers by {self.people} people{decisions} are withdrawn, so no new export "
            "and no training uses them. Earlier exports keep them, and prompts and completions stay in the store"
        )


def removal(studio: Studio, id: int) -> Removal:
    """What deleting a project would take."""
    with studio.read() as session:
        return _removal(session, id)


def delete_project(studio: Studio, id: int, *, confirm: str, by: int | None = None) -> Removal:
    """Delete a project. `confirm`: its name, typed by who means it; `InputError` for another."""
    with studio.write(bulk=True) as session:
        name = projects.project_of(session, id).settings.name
        if confirm != name:
            raise InputError(f"{confirm!r} is not the project's name; type {name!r} to delete it")
        row = session.get_one(studio_models.ProjectRow, id, with_for_update=True)
        gone = _removal(session, id)
        said_in = models.JudgementRow.id.in_(_answered(id)) | models.JudgementRow.id.in_(_decided(id))
        judgements = session.scalars(select(models.JudgementRow).where(said_in)).all()
        for judgement in judgements:
            if current_judgement(session, judgement.item_id, judgement.annotator_id) is judgement:
                assign.withdraw(session, judgement)
        tasks = select(_Task.id).where(_Task.project_id == id)
        chats = select(_Chat.id).where(_Chat.project_id == id)
        session.execute(delete(studio_models.ChatTurnRow).where(studio_models.ChatTurnRow.chat_id.in_(chats)))
        session.execute(delete(_Chat).where(_Chat.project_id == id))
        _end_links(session, id, studio.clock())
        for table in (
            studio_models.MembershipRow,
            studio_models.StandingRow,
            studio_models.GuidelineReadingRow,
            studio_models.GuidelineVersionRow,
        ):
            session.execute(delete(table).where(table.project_id == id))
        of_notes = studio_models.NoteRow.assignment_id.in_(
            select(_Assignment.id).where(_Assignment.task_id.in_(tasks))
        )
        session.execute(delete(studio_models.NoteRow).where(of_notes))
        suggested = studio_models.SuggestionRow.assignment_id.in_(
            select(_Assignment.id).where(_Assignment.task_id.in_(tasks))
        )
        session.execute(delete(studio_models.SuggestionRow).where(suggested))
        # What was said in it refers to the assignments of its answers, which is never changed: those stay, and lead nowhere.
        kept = select(studio_models.JudgementDetailRow.assignment_id).where(
            studio_models.JudgementDetailRow.assignment_id.is_not(None)
        )
        session.execute(
            delete(_Assignment).where(_Assignment.task_id.in_(tasks), _Assignment.id.not_in(kept))
        )
        session.execute(
            update(_Assignment)
            .where(_Assignment.task_id.in_(tasks))
            .values(state="expired", judgement_id=None, finished_at=None, draft={})
        )
        session.execute(
            delete(_Task).where(_Task.project_id == id, _Task.id.not_in(select(_Assignment.task_id)))
        )
        if session.scalar(select(func.count()).where(_Task.project_id == id)):
            session.execute(update(_Task).where(_Task.project_id == id).values(taken=0, open=False))
            row.name, row.guidelines, row.state = f"{projects.DELETED} {id}", "", "deleted"
        else:
            session.delete(row)
        session.flush()
        session.execute(delete(studio_models.TallyRow).where(studio_models.TallyRow.project_id == id))
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="delete",
            entity="project",
            id=id,
            detail={
                "items": gone.items,
                "answers": gone.answers,
                "people": gone.people,
                "decisions": gone.decisions,
            },
        )
    return gone


def _end_links(session: Session, project: int, now: datetime) -> None:
    """Take the project off invitation links; those that led to nothing else no longer work."""
    link, invitation, other = (
        studio_models.InvitationProjectRow,
        studio_models.InvitationRow,
        aliased(studio_models.InvitationProjectRow),
    )
    elsewhere = exists().where(other.invitation_id == link.invitation_id, other.project_id != project)
    alone = select(link.invitation_id).where(link.project_id == project, ~elsewhere)
    pending = invitation.revoked_at.is_(None)
    session.execute(
        update(invitation).where(pending, invitation.id.in_(alone)).values(revoked_at=now),
        execution_options={"synchronize_session": False},
    )
    session.execute(delete(link).where(link.project_id == project))


def _answered(project: int):
    """The judgements that stand for a project's answers, and those that prefer what was rewritten in them."""
    own = (
        select(_Assignment.judgement_id)
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(_Task.project_id == project, _Assignment.judgement_id.is_not(None))
    )
    detail = studio_models.JudgementDetailRow
    edits = select(detail.edit_judgement_id).where(
        detail.judgement_id.in_(own), detail.edit_judgement_id.is_not(None)
    )
    return own.union(edits)


def _decided(project: int):
    """The decisions of adjudicators that hold on a project's items; not on those that another project asks too, where they hold on."""
    mine, other, later = _Task, aliased(_Task), aliased(models.JudgementRow)
    elsewhere = exists().where(
        other.item_id == mine.item_id,
        other.project_id != project,
        other.project_id == studio_models.ProjectRow.id,
        studio_models.ProjectRow.state != "deleted",
    )
    return (
        select(models.JudgementRow.id)
        .join(
            studio_models.AdjudicationRow,
            studio_models.AdjudicationRow.judgement_id == models.JudgementRow.id,
        )
        .join(mine, mine.item_id == models.JudgementRow.item_id)
        .outerjoin(later, later.supersedes_id == models.JudgementRow.id)
        .where(mine.project_id == project, later.id.is_(None), ~elsewhere)
    )


def _removal(session: Session, id: int) -> Removal:
    name = projects.project_of(session, id).settings.name
    answers, people = session.execute(
        select(func.count(), func.count(_Assignment.annotator_id.distinct()))
        .join(_Task, _Task.id == _Assignment.task_id)
        .where(_Task.project_id == id, _Assignment.judgement_id.is_not(None))
    ).one()
    return Removal(
        name=name,
        items=session.scalar(select(func.count()).where(_Task.project_id == id)) or 0,
        answers=answers,
        people=people,
        decisions=session.scalar(select(func.count()).select_from(_decided(id).subquery())) or 0,
        chats=session.scalar(select(func.count()).where(_Chat.project_id == id)) or 0,
    )
