"""The part of the HTTP API that live chats use. Answers to a turn are given as to any assignment: `/assignments/{token}/submit`."""

from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, Request, Response
from pydantic import BaseModel, Field

from prefloop.records import Prompt
from prefloop.studio.access import GUEST
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS, assignment_out, turns
from prefloop.studio.bodies import AssignmentOut, Key, Strict, Text, Token, Turn
from prefloop.studio.chat_work import ChatWork
from prefloop.studio.render import to_html
from prefloop.studio.security import client_of, limit, root_of, studio_of, worker
from prefloop.studio.values import LONGEST_TEXT, Talk

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["chat"])


class ChatIn(Strict):
    project: int = Field(ge=0, lt=2**31)
    new: bool = Field(default=False, description="end the current conversation, and start another one")


class MessageIn(Strict):
    message: Text = Field(min_length=1, max_length=LONGEST_TEXT)


class ChatDraftIn(Strict):
    message: Text = Field(default="", max_length=LONGEST_TEXT)


class ChatOut(BaseModel):
    token: str
    project: int
    state: str
    messages: list[Turn] = Field(description="the conversation, without messages that got no answers")
    waiting: bool = Field(description="two answers are being written; ask again in a moment")
    partial: list[Turn] = Field(description="these answers so far, in the order to show")
    problem: str = Field(description="why the last message got no answers")
    again: str = Field(description="a message that got no answers")
    assignment: AssignmentOut | None = Field(description="the two answers to the last message")
    draft: str


def _chat(request: Request) -> ChatWork:
    work: ChatWork | None = request.app.state.chat
    if work is None:
        raise HTTPException(409, "this server has no model to talk to; start it with --chat MODEL")
    return work


Work = Annotated[ChatWork, Depends(_chat)]
Worker = Annotated[Who, Depends(worker)]


def _out(request: Request, talk: Talk) -> ChatOut:
    render = studio_of(request).project(talk.project).settings.render
    return ChatOut(
        token=talk.token,
        project=talk.project,
        state=talk.state,
        messages=turns(Prompt(content=talk.messages), render) if talk.messages else [],
        waiting=talk.waiting,
        partial=[Turn(role="assistant", html=to_html(text, render), source=text) for text in talk.partial],
        problem=talk.problem,
        again=talk.again,
        assignment=None if talk.assignment is None else assignment_out(talk.assignment, root_of(request)),
        draft=talk.draft,
    )


@router.post("/chats")
def open_chat(request: Request, body: ChatIn, who: Worker, work: Work) -> ChatOut:
    """Your conversation in a project, or a new one."""
    limit(request, "answers", str(who.annotator))
    return _out(request, work.open(body.project, who.annotator, new=body.new))


@router.get("/chats/{token}")
def get_chat(request: Request, token: Token, who: Worker, work: Work) -> ChatOut:
    """A conversation of yours as it is now."""
    return _out(request, work.look(token, who.annotator))


@router.post("/chats/{token}/messages")
def say(
    request: Request,
    token: Token,
    body: MessageIn,
    key: Key,
    who: Worker,
    work: Work,
) -> ChatOut:
    """Say something. The two answers come later: ask for the conversation again, and see them grow in `partial`. Sent again with the same Idempotency-Key it changes nothing."""
    limit(request, "answers", str(who.annotator))
    if who.role == GUEST:
        limit(request, "visitor", str(who.annotator))
        limit(request, "visitors of an address", client_of(request))
    return _out(request, work.say(token, who.annotator, body.message, key=key))


@router.post("/chats/{token}/stop")
def stop(request: Request, token: Token, who: Worker, work: Work) -> ChatOut:
    """Take the two answers as they are now. Nothing happens if none are being written."""
    return _out(request, work.stop(token, who.annotator))


@router.put("/chats/{token}/draft", status_code=204)
def save_chat_draft(token: Token, body: ChatDraftIn, who: Worker, work: Work) -> Response:
    """Keep a message that you have begun."""
    work.save_draft(token, who.annotator, body.message)
    return Response(status_code=204)
