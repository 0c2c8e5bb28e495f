"""The page on which a project's further questions are composed, with what annotators will see beside them."""

import json

from fastapi import APIRouter, Request, Response
from markupsafe import Markup

from prefloop.studio import suggestions
from prefloop.studio.api_questions import questions_out
from prefloop.studio.pages import Id, Manager, page
from prefloop.studio.questions import QUESTION_KINDS
from prefloop.studio.security import studio_of

router = APIRouter(include_in_schema=False)


@router.get("/admin/projects/{id}/questions")
def questions_page(request: Request, id: Id, who: Manager) -> Response:
    """The composer, suggestions and their influence, and the answers as files."""
    studio = studio_of(request)
    project = studio.project(id)
    found = questions_out(studio, project)
    with studio.read() as session:
        judges = suggestions.judges(session)
        influence = suggestions.influence(session, id)
    return page(
        request,
        "questions",
        who,
        project=project,
        about=Markup(json.dumps(found.model_dump(include={"questions", "yaml"})).replace("<", "\\u003c")),
        kinds=QUESTION_KINDS,
        judges=judges,
        influence=influence,
    )
