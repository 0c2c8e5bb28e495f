"""The part of the HTTP API that finds items, does something with many, sends answers back and takes disputes."""

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from pydantic import Field

from prefloop.studio import disputes, item_page, items, people_tags
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import Number, Strict, Text, Token
from prefloop.studio.items import Action, Known, State, Wanted
from prefloop.studio.notes import LONGEST
from prefloop.studio.security import admin, limit, manager, studio_of, worker

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["items"])
Manager = Annotated[Who, Depends(manager)]
Worker = Annotated[Who, Depends(worker)]
Admin = Annotated[Who, Depends(admin)]
Some = Annotated[int, Field(ge=0, lt=2**31)]


class WantedIn(Strict):
    text: Text = Field(
        default="", max_length=500, description="words that all must be in the item or a reason"
    )
    state: State = ""
    known: Known = ""
    model: Some | None = Field(default=None, description="number of a checkpoint")
    annotator: Text = Field(default="", max_length=100, description="pseudonym of somebody who answered")
    divided: bool = False
    flag: Text = Field(default="", max_length=40)
    too_fast: bool = False
    strategy: Text = Field(default="", max_length=100)
    round: Some | None = None
    least_score: float | None = Field(default=None, ge=-1e9, le=1e9)
    most_score: float | None = Field(default=None, ge=-1e9, le=1e9)
    audience: Text = Field(default="", max_length=100)


class ActionIn(Strict):
    action: Action
    tasks: list[Some] = Field(default=[], max_length=10_000, description="numbers of items; or give `wanted`")
    wanted: WantedIn | None = Field(default=None, description="all items that fit")
    value: Text = Field(default="", max_length=100, description="of priority, overlap and assign")


class NoteIn(Strict):
    text: Text = Field(min_length=1, max_length=LONGEST)


class SentBackIn(NoteIn):
    token: Text = Field(min_length=1, max_length=64, description="of the answer, as in the item's `answers`")


class KnownIn(Strict):
    gold: Text = Field(max_length=8, description="the right choice in slots; empty: it is not known")
    stage: Literal["", "practice", "qualification"] = ""
    note: Text = Field(default="", max_length=item_page.LONGEST_NOTE)


class TagsIn(Strict):
    tags: list[Annotated[Text, Field(max_length=60)]] = Field(max_length=100)


@router.post("/projects/{id}/items/find")
def find_items(
    request: Request,
    id: Number,
    body: WantedIn,
    who: Manager,
    before: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    limit: Annotated[int, Query(ge=1, le=200)] = items.PAGE,
) -> list[dict[str, Any]]:
    """Items of a project, the newest first; `before` the last one's `task` is the next page."""
    found = items.find(studio_of(request), id, Wanted(**body.model_dump()), before=before, limit=limit)
    return [asdict(item) | {"prompt": item.prompt.to_json()} for item in found]


@router.post("/projects/{id}/items/actions")
def act(request: Request, id: Number, body: ActionIn, who: Manager) -> dict[str, int]:
    """Archive, restore, requeue, assign or reprioritise items, or have more people asked: all of them or none."""
    if bool(body.tasks) == (body.wanted is not None):
        raise HTTPException(422, "give either tasks or wanted")
    which = body.tasks if body.wanted is None else Wanted(**body.wanted.model_dump())
    done = items.act(studio_of(request), id, body.action, which, value=body.value, by=who.annotator)
    return {"items": done}


@router.get("/projects/{id}/items/{task}")
def get_item(request: Request, id: Number, task: Number, who: Manager) -> dict[str, Any]:
    """One item: its replies and their provenance, every answer with its history and notes, and the datasets it is in."""
    found = item_page.item_page(studio_of(request), id, task)
    return asdict(found) | {"prompt": found.prompt.to_json()}


@router.put("/projects/{id}/items/{task}/known", status_code=204)
def set_known(request: Request, id: Number, task: Number, body: KnownIn, who: Manager) -> Response:
    """Say what is right of an item, when it is asked, and why it is right."""
    item_page.set_known(
        studio_of(request), id, task, body.gold, stage=body.stage, note=body.note, by=who.annotator
    )
    return Response(status_code=204)


@router.post("/projects/{id}/send_back", status_code=204)
def send_back(request: Request, id: Number, body: SentBackIn, who: Manager) -> Response:
    """Put an answer in front of its annotator again, with a note. It stays as it is until they answer anew."""
    disputes.send_back(studio_of(request), id, body.token, body.text, by=who.annotator)
    return Response(status_code=204)


@router.post("/projects/{id}/settle", status_code=204)
def settle(request: Request, id: Number, body: SentBackIn, who: Manager) -> Response:
    """Close a dispute with an answer that its annotator reads."""
    disputes.settle(studio_of(request), id, body.token, body.text, by=who.annotator)
    return Response(status_code=204)


@router.get("/projects/{id}/disputes")
def list_disputes(request: Request, id: Number, who: Manager) -> list[dict[str, Any]]:
    """Disputes that wait in a project, the longest waiting first."""
    found = disputes.open_disputes(studio_of(request), [id])
    return [asdict(dispute) | {"prompt": dispute.prompt.to_json()} for dispute in found]


@router.post("/assignments/{token}/dispute", status_code=204)
def dispute(request: Request, token: Token, body: NoteIn, who: Worker) -> Response:
    """Say why your answer is right, or what is wrong with an item; whoever runs the project reads it."""
    limit(request, "answers", str(who.annotator))
    disputes.dispute(studio_of(request), token, who.annotator, body.text)
    return Response(status_code=204)


@router.put("/people/{id}/tags", status_code=204)
def set_tags(request: Request, id: Number, body: TagsIn, who: Admin) -> Response:
    """Give somebody groups, skills and languages (`group:NAME`, `skill:NAME`, `language:CODE`), and no others."""
    studio = studio_of(request)
    studio.write_twice(
        lambda session: people_tags.set_tags(session, id, body.tags, now=studio.clock(), by=who.annotator)
    )
    return Response(status_code=204)
