"""The pages that find items of a project, show one wholly, and do something with many; and the inbox of disputes."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.errors import InputError
from prefloop.marks import images_in
from prefloop.studio import accounts, admin_views, disputes, item_page, items, members, people_tags
from prefloop.studio.accounts import Who
from prefloop.studio.api import assignment_clips, turns
from prefloop.studio.items import PAGE, Wanted
from prefloop.studio.judgement_words import slot_name
from prefloop.studio.pages import Form as PlainForm
from prefloop.studio.pages import FormLists, Id, Manager, Offset, Signed, clip_file, page
from prefloop.studio.render import to_html
from prefloop.studio.security import check_csrf, root_of, studio_of
from prefloop.studio.service import Studio
from prefloop.studio.values import STAGES

router = APIRouter(include_in_schema=False)
_KINDS = ("text", "state", "known", "annotator", "flag", "strategy", "audience")


def wanted_of(fields: dict[str, str]) -> Wanted:
    """What a form or an address asks for; `InputError` for a number that is none."""

    def number(name: str, kind: Any) -> Any:
        given = fields.get(name, "").strip()
        if not given:
            return None
        try:
            return kind(given)
        except ValueError:
            raise InputError(f"{name.replace('_', ' ')} is {given!r}; it must be a number") from None

    texts: dict[str, Any] = {name: fields.get(name, "").strip() for name in _KINDS}
    return Wanted(
        **texts,
        model=number("model", int),
        divided=bool(fields.get("divided")),
        too_fast=bool(fields.get("too_fast")),
        round=number("round", int),
        least_score=number("least_score", float),
        most_score=number("most_score", float),
    )


@router.get("/admin/projects/{id}/items")
def items_page(
    request: Request,
    id: Id,
    who: Manager,
    before: Offset | None = None,
    done: Annotated[str, Query(max_length=200)] = "",
) -> Response:
    """A project's items: find them, and do something with many."""
    studio = studio_of(request)
    fields = {name: value for name, value in request.query_params.items() if name not in ("before", "done")}
    error = ""
    try:
        wanted = wanted_of(fields)
    except InputError as problem:
        wanted, error = Wanted(), str(problem)
    found = items.find(studio, id, wanted, before=before, limit=PAGE + 1)
    with studio.read() as session:
        tags = people_tags.all_tags(session)
    choices = items.choices(studio, id)
    query = urlencode(wanted.plain())
    return page(
        request,
        "items",
        who,
        status=422 if error else 200,
        project=studio.project(id),
        found=found[:PAGE],
        more=len(found) > PAGE,
        total=items.count(studio, id, wanted),
        most=items.MOST_COUNTED,
        before=before,
        wanted=wanted,
        fields=wanted.plain(),
        query=f"&{query}" if query else "",
        choices=choices,
        tags=tags,
        people=_people(studio, id, who),
        error=error,
        done=done,
        slot=slot_name,
        show=admin_views.excerpt,
        pictures=lambda item: list(dict.fromkeys(images_in((item.prompt, item.completions)))),
    )


def _people(studio: Studio, project: int, who: Who) -> list[tuple[str, str]]:
    """Whom items can be assigned to: pseudonym and login. A manager is shown the members only."""
    known = accounts.people(studio) if who.is_admin else members.members(studio, project)
    return sorted(
        ((person.pseudonym, person.login) for person in known if person.active), key=lambda person: person[1]
    )


@router.post("/admin/projects/{id}/items")
def act(request: Request, id: Id, who: Manager, form: FormLists) -> Response:
    """Do something with the items that are marked, or with all that were found."""
    plain = {name: values[-1] for name, values in form.items()}
    check_csrf(who, plain.get("csrf", ""))
    action: Any = plain.get("action", "")
    marked = form.get("task", [])
    if not all(item.isdecimal() and int(item) < 2**31 for item in marked):
        raise HTTPException(422, "task must be the numbers that the page holds")
    wanted = wanted_of(plain)
    every = plain.get("which") == "all"
    if not every and not marked:
        raise InputError("no item is marked; mark some, or choose all that were found")
    count = items.act(
        studio_of(request),
        id,
        action,
        wanted if every else [int(item) for item in marked],
        value=plain.get(f"value_{action}", ""),
        by=who.annotator,
    )
    address = urlencode(wanted.plain() | {"done": f"{action}: {count} {'item' if count == 1 else 'items'}"})
    return RedirectResponse(f"{root_of(request)}/admin/projects/{id}/items?{address}", 303)


@router.get("/admin/projects/{id}/items/{task}")
def one_item_page(request: Request, id: Id, task: Id, who: Manager) -> Response:
    """One item, with every answer and where it comes from."""
    studio = studio_of(request)
    found = item_page.item_page(studio, id, task)
    project = studio.project(id)
    render = project.settings.render
    clip = found.kind == "clip"
    texts = [reply.text for reply in found.replies]
    images = f"{root_of(request)}/admin/projects/{id}/items/{task}/images"
    return page(
        request,
        "item",
        who,
        project=project,
        found=found,
        turns=turns(found.prompt, render, images),
        responses=[to_html(text, render, images) for text in texts],
        rewritten=lambda text: to_html(text, "plain", images),
        clips=assignment_clips(f"{root_of(request)}/admin/projects/{id}/items/{task}/clip", texts)
        if clip
        else [],
        render=render,
        slot=slot_name,
        stages=STAGES,
    )


@router.get("/admin/projects/{id}/items/{task}/clip/{place}")
def item_clip(request: Request, id: Id, task: Id, place: Id, who: Manager) -> Response:
    """A clip of an item, by its slot."""
    found = item_page.item_page(studio_of(request), id, task)
    if found.kind != "clip" or place >= len(found.replies):
        raise HTTPException(404, "there is no such clip")
    return clip_file(request, found.replies[place].text.strip())


@router.post("/admin/projects/{id}/items/{task}")
def change_item(request: Request, id: Id, task: Id, who: Manager, form: PlainForm) -> Response:
    """Do something with one item: what can be done with many, send an answer back, or say what is right."""
    check_csrf(who, form.get("csrf", ""))
    studio, action = studio_of(request), form.get("action", "")
    if action == "send_back":
        disputes.send_back(studio, id, form.get("token", ""), form.get("note", ""), by=who.annotator)
    elif action == "known":
        stage: Any = form.get("stage", "")
        item_page.set_known(
            studio, id, task, form.get("gold", ""), stage=stage, note=form.get("note", ""), by=who.annotator
        )
    else:
        items.act(studio, id, action, [task], value=form.get("value", ""), by=who.annotator)  # type: ignore[arg-type]
    return RedirectResponse(f"{root_of(request)}/admin/projects/{id}/items/{task}", 303)


@router.get("/admin/inbox")
def inbox_page(request: Request, who: Signed) -> Response:
    """Disputes that wait for whoever runs a project."""
    if not who.may_manage:
        raise HTTPException(403, "only an admin, or the manager of a project, may see this page")
    studio = studio_of(request)
    mine = [id for id, role in members.roles(studio, who.annotator).items() if role == "manager"]
    return page(request, "inbox", who, waiting=disputes.open_disputes(studio, mine), show=admin_views.excerpt)


@router.post("/admin/inbox/{id}")
def settle(request: Request, id: Id, who: Manager, form: PlainForm) -> Response:
    """Answer a dispute, and close it or send the item back."""
    check_csrf(who, form.get("csrf", ""))
    studio, token, note = studio_of(request), form.get("token", ""), form.get("note", "")
    if form.get("action") == "send_back":
        disputes.send_back(studio, id, token, note, by=who.annotator)
    else:
        disputes.settle(studio, id, token, note, by=who.annotator)
    return RedirectResponse(f"{root_of(request)}/admin/inbox", 303)
