"""The part of the HTTP API that sets a project's further questions and its suggestions, and gives the answers as a file."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, Field

from prefloop.data.store.values import Filters
from prefloop.studio import suggestions
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import Number, Strict, Text
from prefloop.studio.question_exports import AnswersKind, answer_rows, as_jsonl
from prefloop.studio.questions import Question, for_page, questions_of, read_yaml, write_yaml
from prefloop.studio.security import manager, studio_of
from prefloop.studio.service import Studio
from prefloop.studio.suggestions import Influence
from prefloop.studio.values import Project

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["questions"])
Manager = Annotated[Who, Depends(manager)]


class QuestionIn(Strict):
    name: Text = Field(max_length=40)
    kind: Literal["rating", "choice", "text", "spans"]
    ask: Text = Field(default="", max_length=300, description="the wording on the page; the name if empty")
    of: Literal["item", "reply"] | None = Field(
        default=None, description="asked once (the default), or of each reply; spans are of each reply"
    )
    levels: int = Field(default=5, description="of a rating: 1 to this, 9 at most")
    options: list[Text] = Field(default=[], max_length=20, description="of a choice, or labels of spans")
    required: bool = False


class QuestionsIn(Strict):
    questions: list[QuestionIn] | None = Field(default=None, max_length=12)
    yaml: Text = Field(default="", max_length=50_000, description="the same as YAML, instead of `questions`")
    suggest_from: Text | None = Field(
        default=None, max_length=200, description="judge whose verdicts are shown; empty for none"
    )
    suggest_share: float = Field(default=0.5, gt=0, le=1, description="share of assignments that show one")


class InfluenceOut(BaseModel):
    shown: dict[str, Any] = Field(description="agreement with the judge of those who saw its verdict")
    hidden: dict[str, Any] = Field(description="and of those who did not")
    change: dict[str, float] | None = Field(description="the difference, with its 95 % interval")


class QuestionsOut(BaseModel):
    questions: list[dict[str, Any]]
    yaml: str
    suggest_from: str
    suggest_share: float
    influence: InfluenceOut


def read_questions(body: QuestionsIn, before: tuple[Question, ...]) -> tuple[Question, ...]:
    """The questions that a request gives; those before where it gives none."""
    if body.questions is not None:
        return questions_of([entry.model_dump(exclude_none=True) for entry in body.questions])
    return read_yaml(body.yaml) if body.yaml.strip() else before


def influence_out(found: Influence) -> InfluenceOut:
    """As JSON types."""
    change = found.change
    return InfluenceOut(
        shown=found.shown.to_json(),
        hidden=found.hidden.to_json(),
        change=None if change is None else {"value": change.value, "low": change.low, "high": change.high},
    )


def questions_out(studio: Studio, project: Project) -> QuestionsOut:
    """A project's questions and suggestions."""
    with studio.read() as session:
        found = suggestions.influence(session, project.id)
    settings = project.settings
    return QuestionsOut(
        questions=[entry.to_json() for entry in settings.questions],
        yaml=write_yaml(settings.questions),
        suggest_from=settings.suggest_from,
        suggest_share=settings.suggest_share,
        influence=influence_out(found),
    )


@router.get("/projects/{id}/questions")
def get_questions(request: Request, id: Number, who: Manager) -> QuestionsOut:
    """What a project asks beside its main question, the judge that it shows, and how far that sways people."""
    studio = studio_of(request)
    return questions_out(studio, studio.project(id))


@router.put("/projects/{id}/questions")
def set_questions(request: Request, id: Number, body: QuestionsIn, who: Manager) -> QuestionsOut:
    """Set the questions, the judge, or both. What is left out stays."""
    studio = studio_of(request)
    settings = studio.project(id).settings
    changed = replace(settings, questions=read_questions(body, settings.questions))
    if body.suggest_from is not None:
        share = body.suggest_share if body.suggest_from else 0.0
        changed = replace(changed, suggest_from=body.suggest_from, suggest_share=share)
    return questions_out(studio, studio.change_project(id, changed, by=who.annotator))


@router.post("/projects/{id}/questions/preview")
def preview_questions(request: Request, id: Number, body: QuestionsIn, who: Manager) -> dict[str, Any]:
    """Check questions without storing them: as the labelling page is told of them, and as YAML."""
    found = read_questions(body, ())
    replace(studio_of(request).project(id).settings, questions=found)  # which checks them together
    return {"questions": for_page(found), "yaml": write_yaml(found)}


@router.get("/projects/{id}/answers", response_class=Response)
def export_answers(
    request: Request,
    id: Number,
    who: Manager,
    kind: AnswersKind = "answers",
    label: Annotated[
        list[Annotated[str, Query(max_length=60)]],
        Query(max_length=20, description="of spans, the labels that count; all if none is given"),
    ] = [],  # noqa: B006
) -> Response:
    """Answers to further questions as JSON lines: by judgement, marked spans by reply, or steps by reply."""
    studio = studio_of(request)
    filters = Filters(projects=(studio.project(id).settings.name,))
    found = answer_rows(studio, kind, filters, labels=label)
    return Response(
        as_jsonl(found.rows),
        media_type="application/jsonl",
        headers={"Content-Disposition": f'attachment; filename="{kind}-{id}.jsonl"'},
    )
