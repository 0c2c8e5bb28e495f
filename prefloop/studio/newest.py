"""The newest answers of a project: what its figures are made of where there are more, so that a page takes seconds and not all memory."""

from sqlalchemy import Select, select

from prefloop.data.store import studio_models

NEWEST = 20_000
"""Answers that figures and lists of disagreements are made from, at most; commands and the Python interface take all."""
_Assignment = studio_models.AssignmentRow


def answered(project: int) -> Select[int, int]:
    """Numbers and tasks of the newest assignments of a project that were answered or skipped; `ix_assignment_newest` has their order."""
    return (
        select(_Assignment.id, _Assignment.task_id)
        .where(_Assignment.project_id == project, _Assignment.judgement_id.is_not(None))
        .order_by(_Assignment.finished_at.desc(), _Assignment.id.desc())
        .limit(NEWEST)
    )
