"""The HTTP API, under /api/v1. Programs send a bearer token; the studio's own pages send their session's cookie and CSRF token.

Handlers are plain functions: each calls one method of a service, which is one transaction, in a thread of the server's pool.
"""

import base64
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask

from prefloop.data.store.values import ExportKind
from prefloop.records import Prompt
from prefloop.studio import accounts, exchange, members
from prefloop.studio.accounts import Who
from prefloop.studio.asking import next_item
from prefloop.studio.bodies import (
    AnswerIn,
    AssignmentOut,
    ChangeIn,
    DraftIn,
    FeedbackOut,
    GuidelinesOut,
    Key,
    NextIn,
    NextOut,
    Number,
    PastOut,
    ProjectIn,
    ProjectOut,
    ReadIn,
    ReceiptOut,
    SettingsIn,
    SkipIn,
    Token,
    Turn,
)
from prefloop.studio.exchange import ImportOptions
from prefloop.studio.languages import words_of
from prefloop.studio.questions import QuestionAnswer, Span
from prefloop.studio.render import markdown, to_html
from prefloop.studio.security import admin, limit, manager, reader, root_of, signed_in, studio_of, worker
from prefloop.studio.values import (
    Answer,
    Assignment,
    Past,
    Project,
    ProjectProgress,
    Receipt,
)

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "cannot be read"},
    401: {"description": "not signed in"},
    403: {"description": "not allowed, or the CSRF token is missing"},
    404: {"description": "does not exist, or is not yours"},
    409: {"description": "contradicts what is stored"},
    413: {"description": "too large"},
    422: {"description": "is invalid"},
    429: {"description": "too many requests"},
    503: {"description": "the store cannot be reached; send it again"},
}
router = APIRouter(prefix="/api/v1", responses=ERRORS)


def turns(prompt: Prompt, render: str, images: str = "") -> list[Turn]:
    """A prompt as its turns. `images`: as in `to_html`."""
    if isinstance(prompt.content, str):
        lines = [("prompt", prompt.content)]
    else:
        lines = [(message.role, message.shown) for message in prompt.content]
    return [Turn(role=role, html=to_html(text, render, images), source=text) for role, text in lines]


def assignment_clips(base: str, completions: Sequence[str]) -> list[str]:
    """Addresses of clips, by their places."""
    return [f"{base}/{place}" for place in range(len(completions))]


def own_images(root: str, token: str) -> str:
    """Where the images of an item are for whom it was given to."""
    return f"{root}/images/{token}"


def assignment_out(assignment: Assignment, root: str) -> AssignmentOut:
    """What an annotator's page is told. `root`: the path that the studio is served under."""
    render = assignment.render
    clip, images = assignment.kind == "clip", own_images(root, assignment.token)
    return AssignmentOut(
        token=assignment.token,
        project=assignment.project,
        kind=assignment.kind,
        prompt=turns(assignment.prompt, render, images),
        # A clip's text is its address, which tells where it is from; the page asks for it by token and place.
        responses=[] if clip else [to_html(text, render, images) for text in assignment.completions],
        sources=(
            assignment_clips(f"{root}/clips/{assignment.token}", assignment.completions)
            if clip
            else list(assignment.completions)
        ),
        images=images,
        state=assignment.state,
        expires_at=assignment.expires_at,
        draft=dict(assignment.draft),
        stage=assignment.stage,
        note=assignment.note,
        suggestion=assignment.suggestion,
    )


def _receipt_out(receipt: Receipt) -> ReceiptOut:
    feedback = receipt.feedback
    return ReceiptOut(
        token=receipt.token,
        state=receipt.state,
        models=list(receipt.models),
        feedback=None if feedback is None else FeedbackOut(**asdict(feedback)),
    )


def _past_out(past: Past, render: str, root: str) -> PastOut:
    images = own_images(root, past.token)
    return PastOut(
        **{name: getattr(past, name) for name in PastOut.model_fields if name not in ("prompt", "responses")},
        prompt=turns(past.prompt, render, images),
        responses=[to_html(text, render, images) for text in past.completions],
    )


_HIDDEN = (
    *("gold_share", "gold_floor", "gold_window", "qualify_share", "least_seconds"),
    *("suggest_from", "suggest_share"),
)
"""Settings that say how people are checked, and which judge they are shown; those who are asked do not see them."""


def _project_out(project: Project, progress: ProjectProgress, *, everything: bool) -> ProjectOut:
    settings = asdict(project.settings)
    if not everything:
        for name in _HIDDEN:
            settings.pop(name)
    shown = asdict(progress)
    if not everything:
        shown.pop("gold")
    return ProjectOut(id=project.id, state=project.state, settings=settings, progress=shown)


# Work


@router.post("/assignments/next", tags=["work"])
def next_assignment(request: Request, body: NextIn, who: Who = Depends(worker)) -> NextOut:  # noqa: B008
    """The next item to judge, or none. What you were given and have not answered comes first."""
    found = next_item(studio_of(request), body.project, who.annotator, have=body.have)
    assignment, guidelines = found.assignment, found.project.settings.guidelines
    return NextOut(
        assignment=None if assignment is None else assignment_out(assignment, root_of(request)),
        done=found.done,
        left=found.left,
        unanswered=found.unanswered,
        state=found.project.state,
        why=words_of(request, who).said(found.why),
        guidelines=GuidelinesOut(version=found.unread, html=markdown(guidelines), changed=found.changed)
        if found.unread
        else None,
    )


@router.post("/projects/{id}/guidelines/read", tags=["work"], status_code=204)
def read_guidelines(request: Request, id: Number, body: ReadIn, who: Who = Depends(worker)) -> Response:  # noqa: B008
    """Say that you have read the guidelines, in this version; status 409 where they have changed."""
    studio_of(request).acknowledge(id, who.annotator, body.version)
    return Response(status_code=204)


@router.put("/assignments/{token}/draft", tags=["work"], status_code=204)
def save_draft(request: Request, token: Token, body: DraftIn, who: Who = Depends(worker)) -> Response:  # noqa: B008
    """Keep an unfinished answer; it comes back with the assignment."""
    studio_of(request).save_draft(token, who.annotator, body.model_dump(exclude_defaults=True))
    return Response(status_code=204)


@router.post("/assignments/{token}/submit", tags=["work"])
def submit(
    request: Request,
    token: Token,
    body: AnswerIn,
    key: Key,
    who: Who = Depends(worker),  # noqa: B008
) -> ReceiptOut:
    """Give an answer. Sent again with the same Idempotency-Key it changes nothing; with another answer it is status 409."""
    limit(request, "answers", str(who.annotator))
    answer = Answer(
        choice=body.choice,
        strength=body.strength,
        ranking=tuple(map(tuple, body.ranking)),
        ratings=body.ratings,
        flags=tuple(body.flags),
        rationale=body.rationale,
        edited=body.edited,
        edited_from=body.edited_from,
        answers=tuple(QuestionAnswer(**answer.model_dump()) for answer in body.answers),
        spans=tuple(Span(**span.model_dump()) for span in body.spans),
        duration_ms=body.duration_ms,
    )
    receipt = studio_of(request).submit(token, who.annotator, answer, key=key)
    return _receipt_out(receipt)


@router.post("/assignments/{token}/skip", tags=["work"])
def skip(
    request: Request,
    token: Token,
    body: SkipIn,
    key: Key,
    who: Who = Depends(worker),  # noqa: B008
) -> ReceiptOut:
    """Pass over an item; somebody else is asked."""
    limit(request, "answers", str(who.annotator))
    receipt = studio_of(request).skip(token, who.annotator, key=key, reason=body.reason)
    return _receipt_out(receipt)


@router.post("/assignments/{token}/undo", tags=["work"])
def undo(request: Request, token: Token, who: Who = Depends(worker)) -> AssignmentOut:  # noqa: B008
    """Take an answer of yours back and have the item again, with what you said as a draft."""
    return assignment_out(studio_of(request).undo(token, who.annotator), root_of(request))


@router.post("/assignments/{token}/return", tags=["work"], status_code=204)
def give_back(request: Request, token: Token, who: Who = Depends(worker)) -> Response:  # noqa: B008
    """Give an item back unanswered, for whoever comes next."""
    studio_of(request).give_back(token, who.annotator)
    return Response(status_code=204)


@router.get("/me/history", tags=["work"])
def history(
    request: Request,
    who: Who = Depends(worker),  # noqa: B008
    project: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    offset: Annotated[int, Query(ge=0, lt=2**31)] = 0,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
) -> list[PastOut]:
    """Your answers, newest first."""
    studio = studio_of(request)
    renders = {known.id: known.settings.render for known in studio.projects()}
    past = studio.history(who.annotator, project=project, before=offset, limit=limit)
    return [_past_out(entry, renders[entry.project], root_of(request)) for entry in past]


@router.get("/me", tags=["work"])
def me(who: Who = Depends(signed_in)) -> dict[str, Any]:  # noqa: B008
    """Who you are, what you may do, and how you like your page."""
    return {"login": who.login, "role": who.role, "scopes": list(who.scopes), "settings": who.settings}


@router.put("/me/settings", tags=["work"], status_code=204)
def save_settings(request: Request, body: SettingsIn, who: Who = Depends(worker)) -> Response:  # noqa: B008
    """Keep how you like your page."""
    accounts.save_settings(studio_of(request), who, body.model_dump(exclude_defaults=True))
    return Response(status_code=204)


# Projects


@router.get("/projects", tags=["projects"])
def list_projects(request: Request, who: Who = Depends(reader)) -> list[ProjectOut]:  # noqa: B008
    """The projects that you belong to, and how far they are."""
    studio = studio_of(request)
    roles = members.roles(studio, who.annotator)
    projects = [project for project in studio.projects() if project.id in roles]
    progress = studio.progress([project.id for project in projects])
    return [
        _project_out(
            project, progress[project.id], everything=who.may_manage and roles[project.id] == "manager"
        )
        for project in projects
    ]


@router.post("/projects", tags=["projects"], status_code=201)
def create_project(request: Request, body: ProjectIn, who: Who = Depends(admin)) -> ProjectOut:  # noqa: B008
    """A new project, without items."""
    studio = studio_of(request)
    project = studio.create_project(body.settings("members"), by=who.annotator)
    return _project_out(project, studio.progress([project.id])[project.id], everything=True)


@router.get("/projects/{id}", tags=["projects"])
def get_project(request: Request, id: Number, who: Who = Depends(reader)) -> ProjectOut:  # noqa: B008
    """One project and how far it is."""
    studio = studio_of(request)
    members.require(studio, id, who.annotator)
    runs = who.may_manage and members.roles(studio, who.annotator).get(id) == "manager"
    return _project_out(studio.project(id), studio.progress([id])[id], everything=runs)


@router.put("/projects/{id}", tags=["projects"])
def change_project(
    request: Request,
    id: Number,
    body: ChangeIn,
    who: Who = Depends(manager),  # noqa: B008
) -> ProjectOut:
    """New settings; answers keep the version of the guidelines they were given under."""
    studio = studio_of(request)
    before = studio.project(id).settings
    settings = body.settings(before.access).asking_as(before)
    project = studio.change_project(id, settings, state=body.state, by=who.annotator)
    return _project_out(project, studio.progress([id])[id], everything=True)


@router.post("/projects/{id}/import", tags=["projects"])
def import_items(
    request: Request,
    id: Number,
    body: Annotated[bytes, Body(media_type="application/jsonl", max_length=64 * 2**20)],
    who: Who = Depends(manager),  # noqa: B008
    name: Annotated[str, Query(max_length=100, pattern=r"^[\w. -]+$")] = "upload.jsonl",
    format: Annotated[
        str, Query(max_length=50, description="a format of docs/data.md; empty detects it from the columns")
    ] = "",
    columns: Annotated[
        str, Query(max_length=1000, description="prompt=instruction,chosen=better: what the file calls them")
    ] = "",
    what: Annotated[
        Literal["work", "known", "practice", "qualification"],
        Query(
            alias="as",
            description="whether the file's answers are known to be right, and when such items are asked",
        ),
    ] = "work",
) -> dict[str, int]:
    """Put a file's completions into a project, to be judged. The body is the file; its name's ending says how it is read."""
    named = [pair.strip() for pair in columns.split(",") if pair.strip()]
    made = exchange.import_bytes(
        studio_of(request),
        id,
        body,
        name,
        ImportOptions(
            gold=what != "work",
            stage=what if what in ("practice", "qualification") else "",
            by=who.annotator,
        ),
        format=format,
        columns=named,
    )
    return asdict(made)


@router.get("/projects/{id}/export", tags=["projects"], response_class=Response)
def export_judgements(
    request: Request,
    id: Number,
    who: Who = Depends(manager),  # noqa: B008
    kind: Literal["comparisons", "rankings", "labels", "scores", "demonstrations"] = "comparisons",
    adjudicated: Annotated[
        bool, Query(description="use an adjudicator's decision instead of the answers it decides between")
    ] = False,
) -> Response:
    """What was said in a project, as JSON lines in the field's format; the manifest is in the header `X-Prefloop-Manifest` (base64 of JSON).

    Where chats and plain texts were judged, it is a zip of two files, and the header has both manifests."""
    return download(request, id, kind, adjudicated, who)


def download(request: Request, id: int, kind: ExportKind, adjudicated: bool, who: Who) -> Response:
    """An export as a file to keep, for programs and for the project's page."""
    folder = tempfile.TemporaryDirectory(prefix="prefloop-")  # goes when the file has been sent
    try:
        path, manifests = exchange.export_download(
            studio_of(request), id, kind, folder.name, adjudicated=adjudicated, by=who.annotator
        )
    except BaseException:
        folder.cleanup()
        raise
    manifest = json.dumps(manifests[0] if len(manifests) == 1 else manifests).encode()
    return FileResponse(
        path,
        media_type="application/zip" if path.suffix == ".zip" else "application/jsonl",
        headers={"X-Prefloop-Manifest": base64.b64encode(manifest).decode()},
        filename=path.name,
        background=BackgroundTask(folder.cleanup),
    )
