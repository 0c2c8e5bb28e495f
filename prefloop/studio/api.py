"""The HTTP API, under /api/v1. Programs send a bearer token; the studio's own pages send their session's cookie and CSRF token.

Handlers are plain functions: each calls one method of a service, which is one transaction, in a thread of the server's pool.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Header, HTTPException, Path, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from prefloop.data.store.values import ExportKind
from prefloop.records import Prompt
from prefloop.studio import accounts, exchange, members, onboarding, passwords, people_log
from prefloop.studio.accounts import Who
from prefloop.studio.exchange import ImportOptions
from prefloop.studio.questions import LONGEST_COMMENT, MOST_SPANS, QuestionAnswer, Span
from prefloop.studio.render import markdown, to_html
from prefloop.studio.security import admin, limit, manager, reader, root_of, signed_in, studio_of, worker
from prefloop.studio.values import (
    LONGEST_TEXT,
    MOST_QUOTA,
    Access,
    Answer,
    Assignment,
    Past,
    Project,
    ProjectKind,
    ProjectProgress,
    ProjectSettings,
    Receipt,
    Scale,
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


def _whole(text: str) -> str:
    """Text that can be stored: half a character (a lone surrogate) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("has half a character (a lone surrogate)") from error
    return text


Text = Annotated[str, AfterValidator(_whole)]
Token = Annotated[str, Path(min_length=1, max_length=64), AfterValidator(_whole)]
Number = Annotated[int, Path(ge=0, lt=2**31)]
Key = Annotated[str, Header(alias="Idempotency-Key", min_length=8, max_length=100, pattern=r"^[\x21-\x7e]+$")]


class Strict(BaseModel):
    """A body that may hold what is known and nothing else."""

    model_config = ConfigDict(extra="forbid")


class NextIn(Strict):
    project: int = Field(ge=0, lt=2**31)
    have: list[Text] = Field(default=[], max_length=10, description="tokens that the page holds already")


class QuestionAnswerIn(Strict):
    question: Text = Field(max_length=40, description="its name")
    value: int | Annotated[Text, Field(max_length=LONGEST_TEXT)] = Field(
        description="a level, an option, or a text"
    )
    place: int | None = Field(
        default=None, ge=0, le=1000, description="the reply it is about, by its place from 0"
    )


class SpanIn(Strict):
    question: Text = Field(max_length=40, description="name of the question of kind spans")
    place: int = Field(ge=0, le=1000, description="the reply, by its place from 0")
    start: int = Field(
        ge=0, lt=2**31, description="first character of the part, in Unicode characters from 0"
    )
    end: int = Field(ge=0, lt=2**31, description="the character after its last")
    label: Text = Field(max_length=60)
    comment: Text = Field(default="", max_length=LONGEST_COMMENT)


Answers = Annotated[list[QuestionAnswerIn], Field(max_length=2000)]
Spans = Annotated[list[SpanIn], Field(max_length=MOST_SPANS)]


class AnswerIn(Strict):
    choice: Literal[
        "first", "second", "tie", "both_bad", "cant_tell", "ranking", "best", "good", "bad", "rated", "edited"
    ]
    strength: int = Field(default=0, ge=0, le=10)
    ranking: list[list[int]] = Field(
        default=[],
        max_length=1000,
        description="places from 0, best group first; for the choice `best`, the one best place",
    )
    ratings: dict[Text, int] = Field(default={}, max_length=20)
    flags: list[Text] = Field(default=[], max_length=20)
    rationale: Text = Field(default="", max_length=LONGEST_TEXT)
    edited: Text = Field(
        default="", max_length=LONGEST_TEXT, description="a better reply, written from the one chosen"
    )
    edited_from: Literal["", "first", "second"] = Field(
        default="",
        description="the reply that `edited` was written from; refused if it is not the one chosen",
    )
    answers: Answers = Field(default=[], description="to the project's further questions")
    spans: Spans = Field(default=[], description="parts of the replies that you marked")
    duration_ms: int = Field(default=0, ge=0, le=10**12)


class SkipIn(Strict):
    reason: Text = Field(default="", max_length=2000)


class DraftIn(Strict):
    choice: Text = Field(default="", max_length=16)
    strength: int = Field(default=0, ge=0, le=10)
    ranking: list[list[int]] = Field(default=[], max_length=1000)
    ratings: dict[Text, int] = Field(default={}, max_length=20)
    flags: list[Text] = Field(default=[], max_length=20)
    rationale: Text = Field(default="", max_length=LONGEST_TEXT)
    edited: Text = Field(default="", max_length=LONGEST_TEXT)
    edits: dict[Literal["first", "second"], Annotated[Text, Field(max_length=LONGEST_TEXT)]] = Field(
        default={}, description="rewrites by the reply they were written from; the page keeps both"
    )
    answers: Answers = Field(default=[])
    spans: Spans = Field(default=[])


class ScaleIn(Strict):
    name: Text = Field(min_length=1, max_length=40)
    levels: int = Field(default=5, ge=2, le=9)


class ProjectIn(Strict):
    name: Text = Field(min_length=1, max_length=100)
    kind: ProjectKind = "pair"
    guidelines: Text = Field(default="", max_length=100_000)
    overlap: int = Field(default=1, ge=1, le=1000)
    lease_seconds: int = Field(default=1800, ge=10, le=7 * 86400)
    strength_levels: int = Field(default=2, ge=0, le=3)
    allow_tie: bool = True
    allow_both_bad: bool = True
    flags: list[Text] | None = Field(default=None, max_length=20)
    scales: list[ScaleIn] | None = Field(default=None, max_length=10)
    render: Literal["plain", "markdown"] = "plain"
    gold_share: float = Field(default=0.0, ge=0, le=0.5)
    daily_quota: int = Field(
        default=0, ge=0, le=MOST_QUOTA, description="answers of each annotator in a day (UTC); 0: no limit"
    )
    quota: int = Field(
        default=0, ge=0, le=MOST_QUOTA, description="answers of each annotator in all; 0: no limit"
    )
    qualify_items: int = Field(
        default=0, ge=0, le=1000, description="qualification items before any other; 0: none"
    )
    qualify_share: float = Field(default=0.8, gt=0, le=1, description="share of them that must be right")
    gold_floor: float = Field(
        default=0.0, ge=0, le=1, description="share of the last known answers below which a person is paused"
    )
    gold_window: int = Field(default=10, ge=1, le=1000, description="how many of the last known answers")
    least_seconds: float = Field(default=0.0, ge=0, le=3600, description="faster answers are marked")
    access: Access | None = Field(
        default=None,
        description="who has access: its members (the default for a new one), or everybody with an account",
    )

    def settings(self, access: Access) -> ProjectSettings:
        """As the services take it. `access`: where nothing is said of it."""
        values: dict[str, Any] = self.model_dump(exclude={"flags", "scales", "state"})
        values["access"] = self.access or access
        if self.flags is not None:
            values["flags"] = tuple(self.flags)
        if self.scales is not None:
            values["scales"] = tuple(Scale(name=scale.name, levels=scale.levels) for scale in self.scales)
        return ProjectSettings(**values)


class ChangeIn(ProjectIn):
    state: Literal["open", "paused", "closed", "archived"] | None = None


class RoleIn(Strict):
    role: Literal["admin", "annotator", "adjudicator"]


class ActiveIn(Strict):
    active: bool


class TokenIn(Strict):
    name: Text = Field(min_length=1, max_length=60)
    scopes: list[Literal["read", "annotate", "admin"]] = Field(min_length=1, max_length=3)
    days: int = Field(default=90, ge=1, le=3650)


class SettingsIn(Strict):
    keys: dict[Annotated[Text, Field(max_length=40)], Annotated[Text, Field(max_length=20)]] = Field(
        default={}, max_length=60
    )
    theme: Literal["auto", "light", "dark"] = "auto"
    at_once: bool = Field(default=False, description="choosing submits, without a second key")
    size: Literal["small", "medium", "large"] = "medium"


class Turn(BaseModel):
    role: str
    html: str
    source: str = Field(description="the text itself")


class AssignmentOut(BaseModel):
    token: str
    project: int
    kind: str
    prompt: list[Turn]
    responses: list[str] = Field(description="HTML, in the order to show")
    sources: list[str] = Field(description="the texts themselves, for editing and comparing")
    state: str
    expires_at: datetime
    draft: dict[str, Any]
    stage: str = Field(description="practice or qualification; empty at work")
    note: str = Field(description="with which your answer was sent back, to be given again")
    suggestion: str = Field(
        description="a judge's verdict in places (first, tie, ...); empty where none is shown"
    )


class GuidelinesOut(BaseModel):
    version: str
    html: str
    changed: bool = Field(description="whether you have read an earlier version")


class NextOut(BaseModel):
    assignment: AssignmentOut | None
    done: int = Field(description="answers you have given in this project")
    left: int = Field(description="items you can still be asked, those you hold among them")
    unanswered: list[str] = Field(description="those of `have` that have no answer yet")
    state: str = Field(description="of the project; only an open project asks anything")
    why: str = Field(description="that your quota is reached, or you are paused; empty if neither is so")
    guidelines: GuidelinesOut | None = Field(
        description="to be read first; say so at /projects/{id}/guidelines/read"
    )


class FeedbackOut(BaseModel):
    right: bool
    expected: str = Field(description="the known answer, in the places shown")
    note: str


class ReceiptOut(BaseModel):
    token: str
    state: str
    feedback: FeedbackOut | None = Field(description="of practice items")


class ReadIn(Strict):
    version: Text = Field(min_length=1, max_length=12)


class PastOut(BaseModel):
    token: str
    project: int
    project_name: str
    prompt: list[Turn]
    responses: list[str]
    state: str
    said: str
    rationale: str
    at: datetime
    can_undo: bool
    notes: list[tuple[str, str, str]] = Field(description="kind, by whom, text: what was written about it")


class ProjectOut(BaseModel):
    id: int
    state: str
    settings: dict[str, Any]
    progress: dict[str, int]


def turns(prompt: Prompt, render: str) -> list[Turn]:
    """A prompt as its turns."""
    if isinstance(prompt.content, str):
        lines = [("prompt", prompt.content)]
    else:
        lines = [(message.role, message.shown) for message in prompt.content]
    return [Turn(role=role, html=to_html(text, render), source=text) for role, text in lines]


def assignment_clips(base: str, completions: Sequence[str]) -> list[str]:
    """Addresses of clips, by their places."""
    return [f"{base}/{place}" for place in range(len(completions))]


def assignment_out(assignment: Assignment, root: str) -> AssignmentOut:
    """What an annotator's page is told. `root`: the path that the studio is served under."""
    render = assignment.render
    clip = assignment.kind == "clip"
    return AssignmentOut(
        token=assignment.token,
        project=assignment.project,
        kind=assignment.kind,
        prompt=turns(assignment.prompt, render),
        # A clip's text is its address, which tells where it is from; the page asks for it by token and place.
        responses=[] if clip else [to_html(text, render) for text in assignment.completions],
        sources=(
            assignment_clips(f"{root}/clips/{assignment.token}", assignment.completions)
            if clip
            else list(assignment.completions)
        ),
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
        feedback=None if feedback is None else FeedbackOut(**asdict(feedback)),
    )


def _past_out(past: Past, render: str) -> PastOut:
    return PastOut(
        **{name: getattr(past, name) for name in PastOut.model_fields if name not in ("prompt", "responses")},
        prompt=turns(past.prompt, render),
        responses=[to_html(text, render) for text in past.completions],
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
    studio = studio_of(request)
    project = studio.project(body.project)
    assignment = studio.lease(project.id, who.annotator, have=body.have)
    with studio.read() as session:
        done, left = people_log.counts(session, project.id, who.annotator, studio.clock())
        unanswered = people_log.unanswered(session, who.annotator, body.have)
        why = people_log.why_nothing(session, project.id, who.annotator, studio.clock())
        unread = onboarding.gate(session, project, who.annotator).guidelines if assignment is None else ""
        changed = bool(unread) and onboarding.has_read_some(session, project.id, who.annotator)
    return NextOut(
        assignment=None if assignment is None else assignment_out(assignment, root_of(request)),
        done=done,
        left=left,
        unanswered=unanswered,
        state=project.state,
        why=why,
        guidelines=GuidelinesOut(version=unread, html=markdown(project.settings.guidelines), changed=changed)
        if unread
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
    return [_past_out(entry, renders[entry.project]) for entry in past]


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
    name, content, manifests = exchange.export_bytes(
        studio_of(request), id, kind, adjudicated=adjudicated, by=who.annotator
    )
    manifest = json.dumps(manifests[0] if len(manifests) == 1 else manifests).encode()
    return Response(
        content,
        media_type="application/zip" if name.endswith(".zip") else "application/jsonl",
        headers={
            "X-Prefloop-Manifest": base64.b64encode(manifest).decode(),
            "Content-Disposition": f'attachment; filename="{name}"',
        },
    )


# People


@router.get("/people", tags=["people"])
def list_people(request: Request, who: Who = Depends(admin)) -> list[dict[str, Any]]:  # noqa: B008
    """Every account."""
    return [asdict(person) for person in accounts.people(studio_of(request))]


@router.put("/people/{id}/active", tags=["people"], status_code=204)
def set_active(request: Request, id: Number, body: ActiveIn, who: Who = Depends(admin)) -> Response:  # noqa: B008
    """Let somebody in, or shut them out at once."""
    accounts.set_active(studio_of(request), id, body.active, by=who.annotator)
    return Response(status_code=204)


@router.put("/people/{id}/role", tags=["people"], status_code=204)
def set_role(request: Request, id: Number, body: RoleIn, who: Who = Depends(admin)) -> Response:  # noqa: B008
    """Give somebody another role, from their next request on."""
    accounts.set_role(studio_of(request), id, body.role, by=who.annotator)
    return Response(status_code=204)


@router.post("/people/{id}/reset", tags=["people"], status_code=201)
def reset_password(request: Request, id: Number, who: Who = Depends(admin)) -> dict[str, str]:  # noqa: B008
    """A path that sets a new password for somebody, once, within a day. They are signed out everywhere now."""
    secret = passwords.new_reset(studio_of(request), id, by=who.annotator)
    return {"path": f"{root_of(request)}/reset/{secret}"}


@router.post("/people/{id}/anonymise", tags=["people"])
def anonymise(request: Request, id: Number, who: Who = Depends(admin)) -> dict[str, str]:  # noqa: B008
    """Delete the account; judgements stay under the pseudonym."""
    return {"pseudonym": accounts.anonymise(studio_of(request), id, by=who.annotator)}


@router.get("/tokens", tags=["people"])
def list_tokens(request: Request, who: Who = Depends(signed_in)) -> list[dict[str, Any]]:  # noqa: B008
    """Your tokens for programs, without their secret part."""
    return [asdict(token) for token in accounts.tokens_of(studio_of(request), who)]


@router.post("/tokens", tags=["people"], status_code=201)
def new_token(request: Request, body: TokenIn, who: Who = Depends(signed_in)) -> dict[str, str]:  # noqa: B008
    """A new token, shown this once. A token cannot give what it does not have."""
    if not set(body.scopes) <= set(who.scopes):
        raise HTTPException(403, f"this token has only the scopes {', '.join(who.scopes)}")
    return {"token": accounts.new_token(studio_of(request), who, body.name, body.scopes, days=body.days)}


@router.delete("/tokens/{id}", tags=["people"], status_code=204)
def revoke_token(request: Request, id: Number, who: Who = Depends(signed_in)) -> Response:  # noqa: B008
    """Take a token of yours back."""
    accounts.revoke_token(studio_of(request), who, id)
    return Response(status_code=204)


@router.get("/audit", tags=["people"])
def audit_log(
    request: Request,
    who: Who = Depends(admin),  # noqa: B008
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    limit: Annotated[int, Query(ge=1, le=500)] = 100,
) -> list[dict[str, Any]]:
    """Who did what, newest first."""
    return [asdict(event) for event in people_log.events(studio_of(request), before=before, limit=limit)]
