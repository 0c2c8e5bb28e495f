"""The pages of those who decide where others disagree."""

from typing import Annotated
from uuid import uuid4

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.studio import adjudicate, admin_views, members
from prefloop.studio.accounts import Who
from prefloop.studio.api import assignment_clips, turns
from prefloop.studio.keys import KEYS as LABEL_KEYS
from prefloop.studio.pages import Form, Id, Signed, clip_file, page
from prefloop.studio.render import to_html
from prefloop.studio.security import check_csrf, limit, root_of, studio_of

router = APIRouter(include_in_schema=False)
WORDS = {
    "first": "1 is better",
    "second": "2 is better",
    "tie": "equally good",
    "both_bad": "both bad",
    "good": "good",
    "bad": "bad",
}
KEYS = {"first": "1", "second": "2", "tie": "3", "both_bad": "0", "good": "1", "bad": "2"}


def _adjudicator(who: Signed) -> Who:
    if not who.may_adjudicate:
        raise HTTPException(403, "only adjudicators, managers and admins decide where others disagree")
    return who


Adjudicator = Annotated[Who, Depends(_adjudicator)]


@router.get("/adjudicate")
def queue_page(
    request: Request, who: Adjudicator, project: Annotated[int | None, Query(ge=0, lt=2**31)] = None
) -> Response:
    """Items that wait for a decision, by project; straight to the first one where a project is named."""
    studio = studio_of(request)
    roles = members.roles(studio, who.annotator)
    waiting = [
        (own, adjudicate.queue(studio, own, who.annotator))
        for own in studio.projects()
        if own.settings.kind in adjudicate.KINDS
        and project in (None, own.id)
        and roles.get(own.id) in ("adjudicator", "manager")
    ]
    if project is not None and waiting and waiting[0][1]:
        return RedirectResponse(f"{root_of(request)}/adjudicate/{project}/{waiting[0][1][0]}", 303)
    return page(request, "adjudicate", who, waiting=waiting)


@router.get("/adjudicate/{project}/{item}")
def case_page(request: Request, project: Id, item: Id, who: Adjudicator) -> Response:
    """One item, what was said of it, and the form for the decision."""
    return _case(request, who, project, item)


@router.get("/adjudicate/{project}/{item}/clip/{place}")
def case_clip(request: Request, project: Id, item: Id, place: Id, who: Adjudicator) -> Response:
    """A clip of an item to decide, by its place on the page."""
    found = adjudicate.case(studio_of(request), project, item, who.annotator)
    if found.kind != "clip" or place >= len(found.completions):
        raise HTTPException(404, "there is no such clip")
    return clip_file(request, found.completions[place].strip())


@router.post("/adjudicate/{project}/{item}")
def decide(request: Request, project: Id, item: Id, who: Adjudicator, form: Form) -> Response:
    """Write down the decision, and show the next item."""
    check_csrf(who, form.get("csrf", ""))
    limit(request, "answers", str(who.annotator))
    last = form.get("last", "")
    if not last.isdecimal() or int(last) >= 2**31:
        raise HTTPException(422, "last must be the number that the page holds")
    adjudicate.decide(
        studio_of(request),
        project,
        item,
        who.annotator,
        form.get("choice", ""),
        reason=form.get("reason", "").replace("\r\n", "\n").strip(),
        last=int(last),
        key=form.get("key", ""),
    )
    return RedirectResponse(f"{root_of(request)}/adjudicate?project={project}", 303)


def _case(request: Request, who: Who, project: int, item: int) -> Response:
    studio = studio_of(request)
    found = adjudicate.case(studio, project, item, who.annotator)
    render = studio.project(project).settings.render
    waiting = adjudicate.queue(studio, studio.project(project), who.annotator)
    images = f"{root_of(request)}/adjudicate/{project}/{item}/images"
    return page(
        request,
        "case",
        who,
        case=found,
        turns=turns(found.prompt, render, images),
        responses=[to_html(text, render, images) for text in found.completions],
        clips=assignment_clips(f"{root_of(request)}/adjudicate/{project}/{item}/clip", found.completions)
        if found.kind == "clip"
        else [],
        render=render,
        words=WORDS,
        keys=KEYS,
        key=uuid4().hex,
        written_as=lambda text: to_html(text, "plain", images),
        written=who.settings.get("keys", {}).get("written", LABEL_KEYS["written"].key),
        left=len(waiting),
        show=admin_views.excerpt,
    )
