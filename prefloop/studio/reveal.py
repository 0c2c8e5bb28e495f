"""Who wrote the replies of an item, told after a vote in projects that say so."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import models
from prefloop.feedback.judged import checkpoint_names
from prefloop.studio.values import Project


def told_after(session: Session, project: Project, item: int, order: Sequence[int]) -> tuple[str, ...]:
    """Names of the models by places on the page, where the project tells them; nothing elsewhere."""
    if not project.settings.reveal:
        return ()
    rows = session.execute(
        select(models.ItemCompletionRow.slot, models.CompletionRow.checkpoint_id)
        .join(models.CompletionRow, models.CompletionRow.id == models.ItemCompletionRow.completion_id)
        .where(models.ItemCompletionRow.item_id == item)
    ).all()
    by_slot, names = dict(rows), checkpoint_names(session)
    return tuple(names[by_slot[slot]] for slot in order)
