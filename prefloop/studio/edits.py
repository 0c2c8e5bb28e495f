"""A better reply that an annotator has written: a completion by people, and a judgement that prefers it to what it was made from."""

from collections.abc import Sequence
from typing import Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import judging, models, studio_models
from prefloop.data.store.values import Judgement
from prefloop.data.store.writing import add_checkpoint, add_completions, add_items
from prefloop.errors import InputError
from prefloop.marks import images_in
from prefloop.records import Completion
from prefloop.studio.answers import PLACES, same_text
from prefloop.studio.values import Answer, Project

HUMAN = "human"
_Judgement = models.JudgementRow


def current_judgement(session: Session, item: int, annotator: int) -> models.JudgementRow | None:
    return session.scalars(
        select(_Judgement)
        .where(_Judgement.item_id == item, _Judgement.annotator_id == annotator)
        .order_by(_Judgement.id.desc())
        .limit(1)
    ).one_or_none()


def write_edit(
    session: Session,
    project: Project,
    row: studio_models.AssignmentRow,
    answer: Answer,
    judgement_id: int,
    judgement: Judgement,
) -> int | None:
    """The better reply as a completion by people, and a judgement that prefers it to what it was made from.

    Id of that judgement, or None if it was said before. Raises `InputError` if the text is that of a reply that was shown.
    """
    (item,) = judging.items(session, [judgement.item])
    place = PLACES.get(answer.choice, 0)
    source_slot = row.order_shown[place]
    if any(same_text(answer.edited, shown) for shown in item.completions):
        raise InputError("edited equals a reply that was shown; change something, or leave edited out")
    if not set(images_in(answer.edited)) <= set(images_in((item.prompt, item.completions))):
        raise InputError("edited holds the mark of an image that this item does not show; leave it out")
    source = session.scalars(
        select(models.ItemCompletionRow.completion_id).where(
            models.ItemCompletionRow.item_id == judgement.item, models.ItemCompletionRow.slot == source_slot
        )
    ).one()
    author = add_checkpoint(
        session, HUMAN, kind=HUMAN, weights_sha256="", stage="", step=0, parent=None, training_run=None
    )
    written = Completion(
        prompt=item.prompt,
        text=answer.edited,
        policy=HUMAN,
        logprob=0.0,
        tokens=0,
        ended=True,
        temperature=0.0,
        top_p=1.0,
        top_k=0,
        seed=0,
        index=0,
    )
    (made,) = add_completions(session, [written], author)
    (pair,), _ = add_items(session, [sorted((source, made))], kind="pair", strategy="edit", round=item.round)
    slots: Sequence[int] = session.scalars(
        select(models.ItemCompletionRow.completion_id)
        .where(models.ItemCompletionRow.item_id == pair)
        .order_by(models.ItemCompletionRow.slot)
    ).all()
    choice: Literal["a", "b"] = "a" if slots[0] == made else "b"
    current = current_judgement(session, pair, row.annotator_id)
    if current is not None and current.choice == choice:
        return None  # said so already, of the same two texts
    (id,) = judging.add_judgements(
        session,
        [
            Judgement(
                item=pair,
                annotator=row.annotator_id,
                choice=choice,
                order_shown=(0, 1) if slots[0] == source else (1, 0),
                guideline_version=judgement.guideline_version,
                supersedes=None if current is None else current.id,
                idempotency_key=f"edit {judgement_id}",
            )
        ],
    )
    return id
