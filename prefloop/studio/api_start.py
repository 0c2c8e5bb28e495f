"""The part of the HTTP API that fills an empty studio: the demo, what the store holds already, or a file."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Query, Request
from pydantic import BaseModel, Field

from prefloop.data.detect import column_words
from prefloop.errors import InputError
from prefloop.studio import demo, importing
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.security import admin, limit, studio_of
from prefloop.studio.values import ProjectKind, ProjectSettings

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["start"])
Admin = Annotated[Who, Depends(admin)]
FileBody = Annotated[bytes, Body(media_type="application/jsonl", max_length=64 * 2**20)]
FileName = Annotated[str, Query(max_length=100, pattern=r"^[\w. -]+$")]
Mapped = Annotated[
    str, Query(max_length=1000, description="prompt=instruction,chosen=better: what the file calls them")
]
Format = Annotated[str, Query(max_length=50, description="a format of docs/data.md; empty detects it")]


class PreviewOut(BaseModel):
    columns: list[str]
    rows: list[dict[str, str]] = Field(description="the first rows, values cut short")
    guesses: dict[str, str] = Field(description="column of the file -> what its name says it is")
    format: str = Field(description="how it is read; empty if it cannot be")
    problem: str
    read: int
    bad: int = Field(description="rows that are left out")
    items: int
    first: list[dict[str, Any]]


class MadeOut(BaseModel):
    project: int
    items: int


def _words(columns: str) -> list[str]:
    return column_words([columns]) if columns.strip() else []


@router.post("/start/demo", status_code=201)
def start_demo(request: Request, who: Admin) -> MadeOut:
    """Fill an empty store with questions of the toy world, and make a project of them."""
    studio = studio_of(request)
    if studio.store.counts()["completion"]:
        raise InputError("the store holds completions already; the demo is for an empty one")
    demo.fill(studio.store)
    return _first_project(request, who)


@router.post("/start/stored", status_code=201)
def start_stored(request: Request, who: Admin) -> MadeOut:
    """Make a first project of the completions in the store: one pair of each prompt."""
    return _first_project(request, who)


def _first_project(request: Request, who: Who) -> MadeOut:
    limit(request, "links", str(who.annotator))
    studio = studio_of(request)
    if studio.projects():
        raise InputError("there are projects already; make another under Admin, New project")
    project = demo.first_project(studio)
    if project is None:
        raise InputError(
            "no prompt in the store has two different completions; sample more, or import a file"
        )
    return MadeOut(project=project.id, items=studio.progress([project.id])[project.id].items)


@router.post("/import/preview")
def preview_file(
    request: Request,
    body: FileBody,
    who: Admin,
    name: FileName = "upload.jsonl",
    kind: ProjectKind = "pair",
    columns: Mapped = "",
    format: Format = "",
) -> PreviewOut:
    """What a file holds and how it is read. Nothing is stored. The body is the file."""
    found = importing.preview(body, name, _importable(kind), columns=_words(columns), format=format)
    return PreviewOut(**asdict(found))


@router.post("/import", status_code=201)
def import_project(
    request: Request,
    body: FileBody,
    who: Admin,
    project: Annotated[str, Query(min_length=1, max_length=100, description="name of the new project")],
    name: FileName = "upload.jsonl",
    kind: ProjectKind = "pair",
    columns: Mapped = "",
    format: Format = "",
) -> MadeOut:
    """Make a project of a file, all of it or nothing. The body is the file; its name's ending says how it is read."""
    settings = ProjectSettings(name=project.strip(), kind=_importable(kind), access="members")
    made = importing.import_as_project(
        studio_of(request),
        body,
        name,
        settings,
        columns=_words(columns),
        format=format,
        by=who.annotator,
    )
    return MadeOut(project=made.project, items=made.items)


def _importable(kind: ProjectKind) -> ProjectKind:
    if kind == "chat":
        raise InputError("kind is chat, whose items are made as people talk; choose another")
    return kind
