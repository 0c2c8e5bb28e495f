"""Answers to a project's further questions: checked against the questions, and written beside the judgement they were given with."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.orm import Session

from prefloop.configs.common import require
from prefloop.data.store import judging, models, studio_models
from prefloop.errors import InputError
from prefloop.studio.judgement_words import slot_name
from prefloop.studio.questions import LONGEST_COMMENT, MOST_SPANS, Question, QuestionAnswer, Span
from prefloop.studio.values import LONGEST_TEXT, Answer, Project

_Answer, _Span, _Slot = (
    studio_models.QuestionAnswerRow,
    studio_models.SpanRow,
    models.ItemCompletionRow,
)


def check(session: Session, project: Project, item: int, order: Sequence[int], answer: Answer) -> None:
    """Raise `InputError` for answers that the project's questions do not allow, and for one that is missing."""
    asked = {question.name: question for question in project.settings.questions}
    given = [(entry.question, entry.place) for entry in answer.answers]
    require(len(set(given)) == len(given), "a question is answered twice; answer each once")
    for entry in answer.answers:
        question = _asked(asked, entry.question)
        require(
            question.kind != "spans",
            f"answer to {entry.question!r}: it is a question of kind spans; put what is marked under spans",
        )
        places = range(len(order)) if question.of == "reply" else (None,)
        require(
            entry.place in places,
            f"answer to {entry.question!r}: place is {entry.place}; it must be "
            + (f"0 to {len(order) - 1}" if question.of == "reply" else "left out, as it is asked once"),
        )
        _check_value(question, entry.value)
    for question in project.settings.questions:
        wanted = {
            (question.name, place) for place in (range(len(order)) if question.of == "reply" else (None,))
        }
        if question.required and not wanted <= set(given):
            raise InputError(f"question {question.name!r} is not answered; it is required")
    if answer.spans:
        _check_spans(session, asked, item, order, answer.spans)


def _asked(asked: Mapping[str, Question], name: str) -> Question:
    if name not in asked:
        raise InputError(
            f"question {name!r} is not asked here; the questions are {', '.join(asked) or 'none'}"
        )
    return asked[name]


def _check_value(question: Question, value: int | str) -> None:
    where = f"answer to {question.name!r}"
    if question.kind == "rating":
        right = isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= question.levels
        require(right, f"{where} is {value!r}; it must be a level, 1 to {question.levels}")
    elif question.kind == "choice":
        require(
            value in question.options,
            f"{where} is {value!r}; it must be one of {', '.join(question.options)}",
        )
    else:
        right = isinstance(value, str) and len(value.strip()) > 0 and len(value) <= LONGEST_TEXT
        require(right, f"{where} must be a text of 1 to {LONGEST_TEXT} characters")


def _check_spans(
    session: Session, asked: Mapping[str, Question], item: int, order: Sequence[int], spans: Sequence[Span]
) -> None:
    require(len(spans) <= MOST_SPANS, f"there are {len(spans)} spans; {MOST_SPANS} are the most")
    (shown,) = judging.items(session, [item])
    for span in spans:
        question, where = _asked(asked, span.question), f"span of {span.question!r}"
        require(question.kind == "spans", f"{where}: it is a question of kind {question.kind}, not spans")
        require(
            0 <= span.place < len(order), f"{where}: place is {span.place}; it must be 0 to {len(order) - 1}"
        )
        length = len(shown.completions[order[span.place]])
        require(
            0 <= span.start < span.end <= length,
            f"{where}: it goes from {span.start} to {span.end}; the reply has {length} characters, and end is after start",
        )
        require(
            span.label in question.options,
            f"{where}: label is {span.label!r}; it must be one of {', '.join(question.options)}",
        )
        require(
            len(span.comment) <= LONGEST_COMMENT,
            f"{where}: the comment has {len(span.comment)} characters; {LONGEST_COMMENT} are the most",
        )
    marked = [(span.question, span.place, span.start, span.end, span.label) for span in spans]
    require(len(set(marked)) == len(marked), "a part is marked twice with the same label; mark it once")


def write(session: Session, judgement: int, item: int, order: Sequence[int], answer: Answer) -> None:
    """Write down what was answered and marked with a judgement."""
    if not answer.answers and not answer.spans:
        return
    ids = session.scalars(select(_Slot.completion_id).where(_Slot.item_id == item).order_by(_Slot.slot)).all()

    def of(place: int | None) -> int | None:
        return None if place is None else ids[order[place]]

    if answer.answers:
        session.execute(
            insert(_Answer),
            [
                {
                    "judgement_id": judgement,
                    "completion_id": of(entry.place),
                    "question": entry.question,
                    "value": entry.value,
                }
                for entry in answer.answers
            ],
        )
    if answer.spans:
        session.execute(
            insert(_Span),
            [
                {
                    "judgement_id": judgement,
                    "completion_id": of(entry.place),
                    "question": entry.question,
                    "start": entry.start,
                    "stop": entry.end,
                    "label": entry.label,
                    "comment": entry.comment,
                }
                for entry in answer.spans
            ],
        )


def check_change(session: Session, project: int, questions: Sequence[Question]) -> None:
    """Raise `InputError` if a question of the project would have answers of another kind under its name."""
    kinds = {question.name: question.kind == "spans" for question in questions}
    task, row = studio_models.TaskRow, studio_models.AssignmentRow
    for table, spans in ((_Answer, False), (_Span, True)):
        given = session.execute(
            select(table.question, func.min(table.id))
            .join(
                studio_models.JudgementDetailRow,
                studio_models.JudgementDetailRow.judgement_id == table.judgement_id,
            )
            .join(row, row.id == studio_models.JudgementDetailRow.assignment_id)
            .join(task, task.id == row.task_id)
            .where(task.project_id == project, table.question.in_(kinds))
            .group_by(table.question)
        ).all()
        for name, first in given:
            question = next(entry for entry in questions if entry.name == name)
            old = session.get_one(table, first)
            number = not spans and isinstance(old.value, int)  # type: ignore[union-attr]
            if spans != kinds[name] or (not spans and number != (question.kind == "rating")):
                raise InputError(
                    f"question {name!r} has answers of another kind; give the new question another name"
                )


def stored(session: Session, judgements: Iterable[int]) -> tuple[dict[int, list[Any]], dict[int, list[Any]]]:
    """What was answered and what was marked with each judgement: rows (`QuestionAnswerRow`, `SpanRow`) with the slot of the reply, or None."""
    ids = list(judgements)
    answers: dict[int, list[Any]] = {id: [] for id in ids}
    spans: dict[int, list[Any]] = {id: [] for id in ids}
    for table, found in ((_Answer, answers), (_Span, spans)):
        rows = session.execute(
            select(table, _Slot.slot)
            .join(models.JudgementRow, models.JudgementRow.id == table.judgement_id)
            .outerjoin(
                _Slot,
                (_Slot.item_id == models.JudgementRow.item_id) & (_Slot.completion_id == table.completion_id),
            )
            .where(table.judgement_id.in_(ids))
            .order_by(table.id)
        )
        for row, slot in rows:
            found[row.judgement_id].append((row, slot))
    return answers, spans


def given_with(
    session: Session, judgement: int, order: Sequence[int]
) -> tuple[tuple[QuestionAnswer, ...], tuple[Span, ...]]:
    """What was answered and marked with a judgement, by places on the page."""
    answers, spans = stored(session, [judgement])
    place = {slot: at for at, slot in enumerate(order)}
    return (
        tuple(
            QuestionAnswer(
                question=row.question, value=row.value, place=None if slot is None else place[slot]
            )
            for row, slot in answers[judgement]
        ),
        tuple(
            Span(
                question=row.question,
                place=place[slot],
                start=row.start,
                end=row.stop,
                label=row.label,
                comment=row.comment,
            )
            for row, slot in spans[judgement]
        ),
    )


def as_draft(session: Session, judgement: int, order: Sequence[int]) -> dict[str, Any]:
    """The same as a page keeps it unfinished; empty for nothing."""
    answers, spans = given_with(session, judgement, order)
    draft: dict[str, Any] = {}
    if answers:
        draft["answers"] = [
            {"question": entry.question, "value": entry.value, "place": entry.place} for entry in answers
        ]
    if spans:
        names = ("question", "place", "start", "end", "label", "comment")
        draft["spans"] = [{name: getattr(entry, name) for name in names} for entry in spans]
    return draft


def same(session: Session, judgement: int, order: Sequence[int], answer: Answer) -> bool:
    """Whether these are the answers and spans that were given with a judgement."""
    answers, spans = given_with(session, judgement, order)
    return answers == tuple(answer.answers) and spans == tuple(answer.spans)


def in_words(
    session: Session, judgements: Iterable[int], completions: Sequence[str]
) -> dict[int, tuple[str, ...]]:
    """Judgement -> what was answered and marked, a line each, by slots."""
    answers, spans = stored(session, judgements)

    def of(slot: int | None) -> str:
        return "" if slot is None else f" ({slot_name(slot)})"

    return {
        id: (
            *(f"{row.question}{of(slot)}: {row.value}" for row, slot in answers[id]),
            *(
                f"{row.question}{of(slot)}: {row.label} “{completions[slot][row.start : row.stop]}”"
                + (f" – {row.comment}" if row.comment else "")
                for row, slot in spans[id]
            ),
        )
        for id in answers
    }
