"""Answers to further questions as files: what was answered with each judgement, marked parts with their offsets, and steps to train on.

- `answers`: a row a judgement, with what was chosen, answered and marked;
- `spans`: a row a reply whose annotator could mark it, with the marked parts (none is an answer too);
- `steps`: the same as lines found good or bad, which `reward --loss process` reads: a line is bad if a mark touches it.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models
from prefloop.data.store.selecting import JudgedRow, judged
from prefloop.data.store.values import Filters
from prefloop.errors import InputError
from prefloop.marks import images_in
from prefloop.records import Steps
from prefloop.studio.question_answers import stored
from prefloop.studio.questions import questions_of
from prefloop.studio.service import Studio

AnswersKind = Literal["answers", "spans", "steps"]
ANSWERS_KINDS: tuple[AnswersKind, ...] = ("answers", "spans", "steps")
SEPARATOR = "\n"
"""Between the steps of a reply."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerRows:
    """Rows of an export."""

    rows: tuple[Mapping[str, Any], ...]
    left_out: Mapping[str, int]
    """Reason -> judgements."""


def answer_rows(
    studio: Studio, kind: AnswersKind, filters: Filters, *, labels: Sequence[str] = ()
) -> AnswerRows:
    """What was answered to further questions. `labels`: of spans, the only ones that count; all do if none is named.

    Raises `InputError` if there is nothing to export, or no question has a label that is named.
    """
    with studio.read() as session:
        rows = judged(session, filters)
        left_out: Counter[str] = Counter()
        kept = []
        for row in rows:
            reason = _why_not(row)
            left_out.update([reason] if reason else [])
            kept += [] if reason else [row]
        answers, spans = stored(session, [row.id for row in kept])
        asked = _spans_asked(session, [row.id for row in kept])
        _check_labels(labels, asked.values())
        made: list[Mapping[str, Any]] = []
        for row in kept:
            if kind == "answers" and (answers[row.id] or spans[row.id]):
                made.append(_answers_row(row, answers[row.id], spans[row.id]))
            elif kind == "answers":
                left_out["no answer to a further question"] += 1
            elif row.id not in asked:
                left_out["no parts to mark asked for"] += 1
            else:
                made += _reply_rows(kind, row, spans[row.id], labels or asked[row.id])
                left_out["empty reply"] += sum(not text.strip() for text in row.completions)
                left_out["image"] += sum(kind == "steps" and _shows(row, text) for text in row.completions)
    if not made:
        told = ", ".join(f"{reason} {count}" for reason, count in left_out.items()) or "nothing was judged"
        raise InputError(
            f"{studio.store.label}: no {kind} to export (left out: {told}); a project asks for them under Admin, Questions"
        )
    return AnswerRows(rows=tuple(made), left_out=dict(+left_out))


def _why_not(row: JudgedRow) -> str:
    if row.superseded:
        return "superseded"
    if row.set_aside:
        return row.set_aside
    return row.choice if row.choice in ("skip", "withdrawn") else ""


def _spans_asked(session: Session, judgements: Iterable[int]) -> dict[int, tuple[str, ...]]:
    """Judgement -> the labels that its annotator could mark parts with, of those who could."""
    detail, row, task, project = (
        studio_models.JudgementDetailRow,
        studio_models.AssignmentRow,
        studio_models.TaskRow,
        studio_models.ProjectRow,
    )
    found = session.execute(
        select(detail.judgement_id, project.questions)
        .join(row, row.id == detail.assignment_id)
        .join(task, task.id == row.task_id)
        .join(project, project.id == task.project_id)
    ).all()
    wanted = set(judgements)
    asked = {}
    for judgement, questions in found:
        labels = [
            option for entry in questions_of(questions) if entry.kind == "spans" for option in entry.options
        ]
        if judgement in wanted and labels:
            asked[judgement] = tuple(dict.fromkeys(labels))
    return asked


def _check_labels(labels: Sequence[str], asked: Iterable[Sequence[str]]) -> None:
    known = sorted({label for entry in asked for label in entry})
    if unknown := [label for label in labels if label not in known]:
        raise InputError(f"labels: {unknown[0]!r} is no label here; they are {', '.join(known) or 'none'}")


def _span(row: studio_models.SpanRow, text: str) -> dict[str, Any]:
    return {
        "question": row.question,
        "start": row.start,
        "end": row.stop,
        "label": row.label,
        "comment": row.comment,
        "text": text[row.start : row.stop],
    }


def _answers_row(row: JudgedRow, answers: Sequence[Any], spans: Sequence[Any]) -> dict[str, Any]:
    replies = [
        {
            "completion": text,
            "answers": {entry.question: entry.value for entry, at in answers if at == slot},
            "spans": [_span(entry, text) for entry, at in spans if at == slot],
        }
        for slot, text in enumerate(row.completions)
    ]
    return {
        "prompt": row.prompt.to_json(),
        "replies": replies,
        "answers": {entry.question: entry.value for entry, at in answers if at is None},
        "choice": row.choice,
        "ranking": [list(group) for group in row.ranking],
        "annotator": row.annotator,
        "judgement": row.id,
    }


def _shows(row: JudgedRow, text: str) -> bool:
    """Whether a reply or its prompt shows an image: steps are trained on as text."""
    return next(images_in((row.prompt, text)), None) is not None


def _reply_rows(
    kind: AnswersKind, row: JudgedRow, spans: Sequence[Any], labels: Sequence[str]
) -> list[dict[str, Any]]:
    """A row for each reply."""
    rows = []
    for slot, text in enumerate(row.completions):
        if not text.strip() or (kind == "steps" and _shows(row, text)):
            continue
        marked = [_span(entry, text) for entry, at in spans if at == slot and entry.label in labels]
        if kind == "spans":
            rows.append(
                {
                    "prompt": row.prompt.to_json(),
                    "completion": text,
                    "spans": marked,
                    "labels": list(labels),
                    "annotator": row.annotator,
                    "judgement": row.id,
                }
            )
        else:
            steps = as_steps(row, text, marked)
            rows.append(
                {
                    "prompt": steps.prompt.to_json(),
                    "completions": list(steps.steps),
                    "labels": list(steps.good),
                    "annotator": steps.annotator,
                }
            )
    return rows


def as_steps(row: JudgedRow, text: str, marked: Sequence[Mapping[str, Any]]) -> Steps:
    """A reply by lines, each bad if a mark touches it. Lines of white space alone are no steps."""
    steps, good, start = [], [], 0
    for line in text.split(SEPARATOR):
        end = start + len(line)
        if line.strip():
            steps.append(line)
            good.append(not any(entry["start"] < end and start < entry["end"] for entry in marked))
        start = end + len(SEPARATOR)
    return Steps(prompt=row.prompt, steps=tuple(steps), good=tuple(good), annotator=row.annotator)


def as_jsonl(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """A JSON object a line."""
    return "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows).encode()
