"""An annotator's own answers, newest first, in the words of the page they were given on."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import judging, models, studio_models
from prefloop.studio import notes
from prefloop.studio.values import Past

_Task, _Assignment = studio_models.TaskRow, studio_models.AssignmentRow
_WORDS = {
    "tie": "equally good",
    "both_bad": "all of them are bad",
    "cant_tell": "cannot tell",
    "good": "good",
    "bad": "bad",
    "edited": "rewritten",
    "skip": "skipped",
}
_STRENGTH = {
    2: {1: "better", 2: "much better"},
    3: {1: "slightly better", 2: "better", 3: "much better"},
}


def of(session: Session, annotator: int, *, project: int | None, offset: int, limit: int) -> list[Past]:
    """At most `limit` answers after the first `offset`."""
    judgement, detail, project_table = (
        models.JudgementRow,
        studio_models.JudgementDetailRow,
        studio_models.ProjectRow,
    )
    statement = (
        select(_Assignment, judgement, detail, project_table, _Task.item_id)
        .join(_Task, _Task.id == _Assignment.task_id)
        .join(project_table, project_table.id == _Task.project_id)
        .join(judgement, judgement.id == _Assignment.judgement_id)
        .join(detail, detail.judgement_id == judgement.id)
        .where(
            _Assignment.annotator_id == annotator,
            _Assignment.judgement_id.is_not(None),  # as `ix_assignment_history` has them
            _Assignment.state.in_(("submitted", "skipped", "surplus")),
        )
        .order_by(_Assignment.finished_at.desc(), _Assignment.id.desc())
        .offset(offset)
        .limit(limit)
    )
    if project is not None:
        statement = statement.where(_Assignment.project_id == project)
    rows = session.execute(statement).all()
    items = judging.items(session, [item for *_, item in rows])
    told = notes.of(session, [row.id for row, *_ in rows], reader=annotator)
    past = []
    for (row, answer, more, asked, _), item in zip(rows, items, strict=True):
        state: object = row.state
        assert state in ("submitted", "skipped", "surplus")
        assert row.finished_at is not None
        past.append(
            Past(
                token=row.token,
                project=asked.id,
                project_name=asked.name,
                prompt=item.prompt,
                completions=tuple(item.completions[slot] for slot in row.order_shown),
                state=state,
                said=in_words(answer, more, row.order_shown, asked.strength_levels),
                rationale=more.rationale,
                at=row.finished_at,
                can_undo=asked.state == "open" and asked.kind != "chat",
                notes=tuple((feedback.kind, feedback.by, feedback.text) for feedback in told.get(row.id, ())),
            )
        )
    return past


def in_words(
    judgement: models.JudgementRow, detail: studio_models.JudgementDetailRow, order: list[int], levels: int
) -> str:
    """What was said, by the places that the annotator saw."""
    if judgement.choice in ("a", "b"):
        place = order.index("ab".index(judgement.choice)) + 1
        return f"{place} is {_STRENGTH.get(levels, {}).get(judgement.strength, 'better')}"
    if judgement.choice == "best":
        return f"{order.index(judgement.ranking[0][0]) + 1} is the best"
    if judgement.choice == "ranking":
        place_of = {slot: place + 1 for place, slot in enumerate(order)}
        groups = [
            " = ".join(str(place) for place in sorted(place_of[slot] for slot in group))
            for group in judgement.ranking
        ]
        return " > ".join(groups)
    if judgement.choice == "rated":
        return ", ".join(f"{name} {level}" for name, level in detail.ratings.items())
    return _WORDS[judgement.choice]
