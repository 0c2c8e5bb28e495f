"""What pages are made of in large stores: the newest answers, so that a page takes seconds and not all memory."""

from sqlalchemy import Select, select

from prefloop.data.store import studio_models

NEWEST = 20_000
"""Answers that figures and lists of disagreements are made from, at most; commands and the Python interface take all."""
OF_ONE = 5_000
"""Judgements of an annotator that their page is made from, at most: the newest, with what others said of the same items."""
PEOPLE = 50
"""People in the heat map of agreement, those with the most labels: its cells grow with their square."""
LIMITS = {name: f"{value:,}" for name, value in (("newest", NEWEST), ("of_one", OF_ONE), ("people", PEOPLE))}
"""As pages say them."""
_Assignment = studio_models.AssignmentRow


def answered(project: int) -> Select[int, int]:
    """Numbers and tasks of the newest assignments of a project that were answered or skipped; `ix_assignment_newest` has their order."""
    return (
        select(_Assignment.id, _Assignment.task_id)
        .where(_Assignment.project_id == project, _Assignment.judgement_id.is_not(None))
        .order_by(_Assignment.finished_at.desc(), _Assignment.id.desc())
        .limit(NEWEST)
    )
