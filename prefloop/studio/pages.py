"""The pages: rendered here whole, made lively by the small scripts in `static`. Every form carries a token (see `security`)."""

import json
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qs, parse_qsl, quote

from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from prefloop import __version__
from prefloop.data.formats import FORMATS
from prefloop.data.layouts import LAYOUTS
from prefloop.data.store.values import ExportKind
from prefloop.errors import InputError
from prefloop.studio import (
    accounts,
    adjudicate,
    admin_views,
    at_work,
    invitations,
    members,
    notes,
    onboarding,
    passwords,
    people_log,
    people_tags,
    removal,
    sessions,
    two_factor,
)
from prefloop.studio.accounts import Who
from prefloop.studio.api import download
from prefloop.studio.keys import KEYS
from prefloop.studio.one_annotator import one_annotator
from prefloop.studio.quality import logins, quality
from prefloop.studio.questions import for_page
from prefloop.studio.render import ODD, markdown
from prefloop.studio.security import (
    COOKIE,
    FORM_COOKIE,
    SECOND_COOKIE,
    check_csrf,
    check_form,
    client_of,
    form_token,
    limit,
    manager,
    root_of,
    set_cookie,
    studio_of,
    who_asks,
)
from prefloop.studio.values import EXPORTS, FLAGS, PROJECT_KINDS, STATES, NotFound, ProjectSettings, Scale

router = APIRouter(include_in_schema=False)
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}

_OWN_PAGE = re.compile(r"/|/(?:label|history|settings|adjudicate|admin|join)(?:/[\w./-]*)?(?:\?[\w=&%.-]*)?")
"""Addresses that signing in leads on to. A name or an address elsewhere is none of them."""

REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; sandbox"
"""A report has its style within it, and what models wrote, escaped; in a sandbox it can do nothing."""


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. Of a field given twice, the last one counts."""
    body = (await request.body()).decode("utf-8", "replace")
    return dict(parse_qsl(body, keep_blank_values=True, max_num_fields=200))


async def _form_lists(request: Request) -> dict[str, list[str]]:
    """The fields of a form, each with all that was given for it."""
    body = (await request.body()).decode("utf-8", "replace")
    return parse_qs(body, keep_blank_values=True, max_num_fields=500)


Form = Annotated[dict[str, str], Depends(_form)]
FormLists = Annotated[dict[str, list[str]], Depends(_form_lists)]
Id = Annotated[int, PathParameter(ge=0, lt=2**31)]
Offset = Annotated[int, Query(ge=0, lt=2**31)]


def page(request: Request, name: str, who: Who | None, *, status: int = 200, **values: Any) -> HTMLResponse:
    """A template as an answer."""
    settings = who.settings if who else {}
    text = _templates.get_template(f"{name}.html").render(
        who=who,
        version=__version__,
        theme=settings.get("theme", "auto"),
        size=settings.get("size", "medium"),
        root=root_of(request),
        path=request.url.path.removeprefix(root_of(request)),
        **values,
    )
    return HTMLResponse(text, status)


def message_page(request: Request, status: int, text: str) -> HTMLResponse:
    """An error, told to a person."""
    return page(request, "message", None, status=status, code=status, text=text)


def _in(request: Request) -> Who:
    """Who is signed in with a cookie; others are sent to sign in."""
    who = who_asks(request)
    if who is None:
        raise HTTPException(401, "sign in first")
    return who


def _admin(request: Request) -> Who:
    who = _in(request)
    if not who.is_admin:
        raise HTTPException(403, "only an admin may see this page")
    return who


Signed = Annotated[Who, Depends(_in)]
Admin = Annotated[Who, Depends(_admin)]


def _manager(request: Request, id: Id, who: Signed) -> Who:
    """Who may run the project of the page."""
    return manager(request, id, who)


Manager = Annotated[Who, Depends(_manager)]


# Getting in


def door(request: Request, name: str, **values: Any) -> HTMLResponse:
    """A page with a form for somebody who is not signed in."""
    token, new = form_token(request)
    answer = page(request, name, None, form_token=token, **values)
    if new:
        set_cookie(request, answer, FORM_COOKIE, token, days=1)
    return answer


def let_in(request: Request, account: int, to: str) -> Response:
    """A session for this browser, and a page to continue to."""
    browser = sessions.browser_name(request.headers.get("user-agent", ""))
    cookie = accounts.open_session(studio_of(request), account, browser)
    answer = RedirectResponse(f"{root_of(request)}{to}", 303)
    set_cookie(request, answer, COOKIE, cookie, days=accounts.SESSION_DAYS)
    return answer


def password_given(request: Request, account: int, to: str) -> Response:
    """What follows the right password: the second factor, where there is one."""
    studio = studio_of(request)
    if not two_factor.is_on(studio, account):
        return let_in(request, account, to)
    answer = RedirectResponse(f"{root_of(request)}/login/code?next={quote(to)}", 303)
    minutes = two_factor.STEP_MINUTES
    set_cookie(request, answer, SECOND_COOKIE, two_factor.begin(studio, account), days=minutes / 1440)
    return answer


def way_on(given: str) -> str:
    """Where to go after signing in: a page of ours; anything else is the list of projects."""
    return given if _OWN_PAGE.fullmatch(given) else "/"


@router.get("/login")
def login_page(request: Request, to: Annotated[str, Query(alias="next", max_length=500)] = "/") -> Response:
    """Sign in, and say so where a session has ended; then go on where one was."""
    if who_asks(request) is not None:
        return RedirectResponse(f"{root_of(request)}{way_on(to)}", 303)
    ready = accounts.is_set_up(studio_of(request))
    ended = COOKIE in request.cookies
    return door(request, "login", error="", login="", ready=ready, next=way_on(to), ended=ended)


@router.post("/login")
def login(request: Request, form: Form) -> Response:
    """Check login and password."""
    check_form(request, form.get("form_token", ""))
    login = form.get("login", "")[:100]
    limit(request, "sign in", f"address {client_of(request)}")
    limit(request, "sign in", f"login {login.strip().lower()}")
    account = accounts.password_fits(studio_of(request), login, form.get("password", ""))
    if account is None:
        error, to = "Wrong login or password.", way_on(form.get("next", "/"))
        answer = door(request, "login", error=error, login=login, ready=True, next=to, ended=False)
        answer.status_code = 401
        return answer
    return password_given(request, account, way_on(form.get("next", "/")))


@router.post("/logout")
def logout(request: Request, who: Signed, form: Form) -> Response:
    """End the session."""
    check_csrf(who, form.get("csrf", ""))
    accounts.sign_out(studio_of(request), request.cookies.get(COOKIE, ""))
    answer = RedirectResponse(f"{root_of(request)}/login", 303)
    answer.delete_cookie(COOKIE, path=root_of(request) or "/")
    return answer


@router.get("/join/{secret}")
def join_page(request: Request, secret: str) -> Response:
    """The form behind an invitation, or behind the first link of all."""
    limit(request, "links", client_of(request))
    return _join(request, secret, error="", login="")


def _join(request: Request, secret: str, *, error: str, login: str) -> Response:
    """Two ways in: a new account, or the one that is signed in."""
    invited, who = invitations.look(studio_of(request), secret), who_asks(request)
    if who is not None:
        return page(request, "join_as", who, secret=secret, invited=invited, error=error)
    return door(request, "join", secret=secret, invited=invited, error=error, login=login)


@router.post("/join/{secret}")
def join(request: Request, secret: str, form: Form) -> Response:
    """Make the account and sign in; who is signed in joins the projects."""
    limit(request, "links", client_of(request))
    studio, who, login = studio_of(request), who_asks(request), form.get("login", "")
    if who is None:
        check_form(request, form.get("form_token", ""))
    else:
        check_csrf(who, form.get("csrf", ""))
    try:
        if who is not None:
            invitations.accept_as(studio, secret, who)
            return RedirectResponse(f"{root_of(request)}/", 303)
        joined = invitations.accept(studio, secret, login, form.get("password", ""))
    except NotFound:
        raise
    except InputError as error:
        answer = _join(request, secret, error=str(error), login=login)
        answer.status_code = 422
        return answer
    # Straight to the first question, where there is one.
    belongs = members.roles(studio, joined.annotator)
    open_projects = [
        project.id for project in studio.projects() if project.state == "open" and project.id in belongs
    ]
    to = f"/label/{open_projects[0]}" if open_projects else "/"
    return let_in(request, joined.account, to)


@router.get("/reset/{secret}")
def reset_page(request: Request, secret: str) -> Response:
    """The form behind a link that sets a new password."""
    limit(request, "links", client_of(request))
    login = passwords.reset_login(studio_of(request), secret)
    return door(request, "reset", secret=secret, login=login, error="")


@router.post("/reset/{secret}")
def reset(request: Request, secret: str, form: Form) -> Response:
    """Set the new password and sign in."""
    check_form(request, form.get("form_token", ""))
    limit(request, "links", client_of(request))
    studio = studio_of(request)
    try:
        account = passwords.reset(studio, secret, form.get("password", ""))
    except NotFound:
        raise
    except InputError as error:
        login = passwords.reset_login(studio, secret)
        answer = door(request, "reset", secret=secret, login=login, error=str(error))
        answer.status_code = 422
        return answer
    return password_given(request, account, "/")


# Work


@router.get("/")
def queue(request: Request) -> Response:
    """The projects, and how far they are."""
    who = who_asks(request)
    if who is None:
        return RedirectResponse(f"{root_of(request)}/login", 303)
    studio = studio_of(request)
    belongs = members.roles(studio, who.annotator)
    projects = [
        project for project in studio.projects() if project.state != "archived" and project.id in belongs
    ]
    progress = studio.progress([project.id for project in projects])
    with studio.read() as session:
        now = studio.clock()
        mine = {
            project.id: people_log.counts(session, project.id, who.annotator, now) for project in projects
        }
        why = {
            project.id: people_log.why_nothing(session, project.id, who.annotator, now)
            for project in projects
        }
    return page(request, "queue", who, projects=projects, progress=progress, mine=mine, why=why)


@router.get("/label/{id}")
def label_page(request: Request, id: Id, who: Signed) -> Response:
    """Where one judges."""
    studio = studio_of(request)
    members.require(studio, id, who.annotator)
    project = studio.project(id)
    settings = project.settings
    with studio.read() as session:
        unread = onboarding.gate(session, project, who.annotator).guidelines
        changed = bool(unread) and onboarding.has_read_some(session, id, who.annotator)
    guidelines = markdown(settings.guidelines)
    about = {
        "project": project.id,
        "kind": settings.kind,
        "strength": settings.strength_levels,
        "tie": settings.allow_tie,
        "bothBad": settings.allow_both_bad,
        "flags": list(settings.flags),
        "scales": [{"name": scale.name, "levels": scale.levels} for scale in settings.scales],
        "questions": for_page(settings.questions),
        "keys": {name: key.key for name, key in KEYS.items()} | dict(who.settings.get("keys", {})),
        "keyNames": {
            name: key.says
            for name, key in KEYS.items()
            if settings.kind in key.kinds
            and (name != "written" or settings.render == "markdown")
            and (name != "mark" or any(question.kind == "spans" for question in settings.questions))
        },
        "odd": ODD.pattern,
        "atOnce": bool(who.settings.get("at_once", False)),
        "csrf": who.csrf,
        "account": who.annotator,
        "unread": {"version": unread, "html": guidelines, "changed": changed} if unread else None,
    }
    return page(
        request,
        "label",
        who,
        project=project,
        about=Markup(json.dumps(about).replace("<", "\\u003c")),
        guidelines=Markup(guidelines),
        clips=settings.kind == "clip",
    )


@router.get("/clips/{token}/{place}")
def clip(request: Request, token: str, place: Id, who: Signed) -> Response:
    """A clip of one's own assignment, by its place on the page: where it is stored would tell whose it is."""
    return clip_file(request, admin_views.clip_of(studio_of(request), token, who.annotator, place))


def clip_file(request: Request, name: str) -> FileResponse:
    """A clip from the folder of clips, and from nowhere else."""
    media: Path | None = request.app.state.media
    if media is None:
        raise HTTPException(404, "this server has no clips; start it with --media FOLDER")
    path = (media / name).resolve()
    if (
        not path.is_relative_to(media.resolve())
        or path.suffix.lower() not in MEDIA_TYPES
        or not path.is_file()
    ):
        raise HTTPException(404, "this clip does not exist")
    return FileResponse(
        path, media_type=MEDIA_TYPES[path.suffix.lower()], headers={"Cache-Control": "private"}
    )


@router.get("/history")
def history_page(request: Request, who: Signed, offset: Offset = 0) -> Response:
    """One's own answers."""
    studio = studio_of(request)
    renders = {project.id: project.settings.render for project in studio.projects()}
    past = studio.history(who.annotator, before=offset, limit=51)
    return page(
        request,
        "history",
        who,
        past=past[:50],
        renders=renders,
        offset=offset,
        more=len(past) > 50,
        show=admin_views.excerpt,
    )


@router.get("/settings")
def settings_page(request: Request, who: Signed) -> Response:
    """Keys, appearance, password, and tokens for programs."""
    return _settings(request, who)


@router.get("/settings/password")
def back_to_settings(request: Request) -> Response:
    """Where somebody goes on who had to sign in again to send the form."""
    return RedirectResponse(f"{root_of(request)}/settings", 303)


@router.post("/settings/password")
def change_password(request: Request, who: Signed, form: Form) -> Response:
    """Set a new password. Every session ends; this browser gets a new one."""
    check_csrf(who, form.get("csrf", ""))
    limit(request, "sign in", f"login {who.login}")
    studio = studio_of(request)
    if form.get("new", "") != form.get("again", ""):
        return _settings(request, who, error="The two new passwords differ; type the same one twice.")
    try:
        passwords.change_password(studio, who, form.get("current", ""), form.get("new", ""))
    except InputError as error:
        return _settings(request, who, error=str(error))
    return let_in(request, who.account, "/settings?changed=1#password")


def _settings(request: Request, who: Who, *, error: str = "") -> Response:
    studio = studio_of(request)
    return page(
        request,
        "settings",
        who,
        status=422 if error else 200,
        error=error,
        changed=not error and "changed" in request.query_params,
        keys=KEYS,
        mine=dict(who.settings.get("keys", {})),
        at_once=bool(who.settings.get("at_once", False)),
        tokens=accounts.tokens_of(studio, who),
        sessions=sessions.sessions_of(studio, who, request.cookies.get(COOKIE, "")),
        second=two_factor.is_on(studio, who.account),
        recovery=two_factor.recovery_left(studio, who.account),
    )


# Administration


@router.get("/admin")
def admin_page(request: Request, who: Signed) -> Response:
    """Projects and rounds at a glance; of somebody who is no admin, the projects that they manage."""
    if not who.may_manage:
        raise HTTPException(403, "only an admin, or the manager of a project, may see this page")
    studio = studio_of(request)
    roles = members.roles(studio, who.annotator)
    projects = [project for project in studio.projects() if roles.get(project.id) == "manager"]
    with studio.read() as session:
        held_up, disputed = onboarding.held_up(session), notes.waiting(session)
    return page(
        request,
        "admin",
        who,
        projects=projects,
        progress=studio.progress([project.id for project in projects]),
        rounds=admin_views.rounds(studio) if who.is_admin else [],
        held_up=held_up,
        disputed=disputed,
    )


@router.get("/admin/new")
def new_project_page(request: Request, who: Admin) -> Response:
    """The form for a new project."""
    return _project_form(request, who, None, ProjectSettings(name="new", access="members"), "")


@router.get("/admin/projects/{id}")
def project_page(request: Request, id: Id, who: Manager) -> Response:
    """One project: progress, annotators, items, import, export."""
    studio = studio_of(request)
    project = studio.project(id)
    return page(
        request,
        "project",
        who,
        project=project,
        progress=studio.progress([id])[id],
        people=at_work.people(studio, id),
        disagreements=admin_views.disagreements(studio, project),
        decided=adjudicate.decided(studio, id),
        show=admin_views.excerpt,
        formats=[*FORMATS, *LAYOUTS],
        exports=EXPORTS[project.settings.kind],
    )


@router.get("/admin/projects/{id}/export")
def export(
    request: Request, id: Id, who: Manager, kind: ExportKind = "comparisons", adjudicated: bool = False
) -> Response:
    """Download what was said. What cannot be exported is told on a page: a cancelled download would not say why."""
    return download(request, id, kind, adjudicated, who)


@router.get("/admin/projects/{id}/edit")
def edit_project_page(request: Request, id: Id, who: Manager) -> Response:
    """The form for a project's settings."""
    project = studio_of(request).project(id)
    return _project_form(request, who, id, project.settings, "", state=project.state)


@router.get("/admin/projects/{id}/delete")
def delete_project_page(request: Request, id: Id, who: Admin) -> Response:
    """What goes with a project, and the form that deletes it."""
    return page(request, "project_delete", who, id=id, gone=removal.removal(studio_of(request), id), error="")


@router.post("/admin/projects/{id}/delete")
def delete_project(request: Request, id: Id, who: Admin, form: Form) -> Response:
    """Delete a project, where its name was typed."""
    check_csrf(who, form.get("csrf", ""))
    studio = studio_of(request)
    gone = removal.removal(studio, id)
    try:
        removal.delete_project(studio, id, confirm=form.get("confirm", "").strip(), by=who.annotator)
    except NotFound:
        raise
    except InputError as error:
        return page(request, "project_delete", who, status=422, id=id, gone=gone, error=str(error))
    return RedirectResponse(f"{root_of(request)}/admin", 303)


@router.post("/admin/new")
def new_project(request: Request, who: Admin, form: Form) -> Response:
    """Make a project."""
    check_csrf(who, form.get("csrf", ""))
    settings = None
    try:
        settings = _settings_of(form)
        project = studio_of(request).create_project(settings, by=who.annotator)
    except InputError as error:
        return _project_form(
            request,
            who,
            None,
            settings or ProjectSettings(name="new", access="members"),
            str(error),
            status=422,
        )
    return RedirectResponse(f"{root_of(request)}/admin/projects/{project.id}", 303)


@router.post("/admin/projects/{id}/edit")
def edit_project(request: Request, id: Id, who: Manager, form: Form) -> Response:
    """Change a project."""
    check_csrf(who, form.get("csrf", ""))
    studio = studio_of(request)
    before = studio.project(id)
    state: Any = form.get("state", before.state)
    if state not in STATES:
        raise HTTPException(422, f"state must be one of {', '.join(STATES)}")
    try:
        settings = _settings_of(form).asking_as(before.settings)
        studio.change_project(id, settings, state=state, by=who.annotator)
    except InputError as error:
        return _project_form(request, who, id, before.settings, str(error), state=state, status=422)
    return RedirectResponse(f"{root_of(request)}/admin/projects/{id}", 303)


def _project_form(
    request: Request,
    who: Who,
    id: int | None,
    settings: ProjectSettings,
    error: str,
    *,
    state: str = "open",
    status: int = 200,
) -> Response:
    return page(
        request,
        "project_form",
        who,
        status=status,
        id=id,
        settings=settings,
        state=state,
        error=error,
        kinds=PROJECT_KINDS,
        default_flags=FLAGS,
    )


def _settings_of(form: dict[str, str]) -> ProjectSettings:
    """Settings from a form's fields; `InputError` for a number that is none."""

    def number(name: str) -> float:
        try:
            return float(form.get(name, ""))
        except ValueError:
            raise InputError(
                f"{name.replace('_', ' ')} is {form.get(name, '')!r}; it must be a number"
            ) from None

    scales = []
    for line in form.get("scales", "").splitlines():
        if line.strip():
            name, _, levels = line.rpartition(":")
            if not levels.strip().isdecimal():
                raise InputError(f"scale {line.strip()!r}: write it as NAME: LEVELS, for example helpful: 5")
            scales.append(Scale(name=name.strip(), levels=int(levels)))
    values: dict[str, Any] = {
        "name": form.get("name", "").strip(),
        "kind": form.get("kind", "pair"),
        "guidelines": form.get("guidelines", "").replace("\r\n", "\n"),
        "overlap": int(number("overlap")),
        "lease_seconds": int(60 * number("lease_minutes")),
        "strength_levels": int(number("strength_levels")),
        "allow_tie": "allow_tie" in form,
        "allow_both_bad": "allow_both_bad" in form,
        "flags": tuple(flag.strip() for flag in form.get("flags", "").splitlines() if flag.strip()),
        "render": form.get("render", "plain"),
        "gold_share": number("gold_percent") / 100,
        "access": form.get("access", "members"),
        "daily_quota": int(number("daily_quota")),
        "quota": int(number("quota")),
        "qualify_items": int(number("qualify_items")),
        "qualify_share": number("qualify_percent") / 100,
        "gold_floor": number("floor_percent") / 100,
        "gold_window": int(number("gold_window")),
        "least_seconds": number("least_seconds"),
    }
    if scales:
        values["scales"] = tuple(scales)
    return ProjectSettings(**values)


@router.get("/admin/quality")
def quality_page(request: Request, who: Admin, project: Offset | None = None) -> Response:
    """Agreement between people, and ratings of the models, of one project or of all."""
    studio = studio_of(request)
    chosen = "Everything" if project is None else studio.project(project).settings.name
    pairs = [own for own in studio.projects() if own.settings.kind in ("pair", "clip", "chat")]
    return page(
        request,
        "quality",
        who,
        found=quality(studio, () if project is None else (chosen,)),
        chosen=chosen,
        choices=[("Everything", f"{root_of(request)}/admin/quality")]
        + [(pair.settings.name, f"{root_of(request)}/admin/quality?project={pair.id}") for pair in pairs],
    )


@router.get("/admin/reports/{run}")
def report_page(request: Request, run: Id, who: Admin) -> Response:
    """The report of a run's project: a page by itself, with its own style, whose scripts rest here."""
    path = admin_views.report_of(studio_of(request), run)
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


@router.get("/admin/annotators/{name:path}")
def annotator_page(request: Request, name: str, who: Admin) -> Response:
    """One annotator, by pseudonym: how far their answers can be trusted."""
    studio = studio_of(request)
    return page(
        request,
        "annotator",
        who,
        found=one_annotator(studio, name),
        logins=logins(studio),
        show=admin_views.excerpt,
    )


@router.get("/admin/people")
def people_page(request: Request, who: Admin) -> Response:
    """Accounts and invitations."""
    studio = studio_of(request)
    with studio.read() as session:
        tags = people_tags.tags_of(session)
    people = accounts.people(studio)
    return page(
        request,
        "people",
        who,
        people=people,
        tags={person.account: tags.get(person.account, []) for person in people},
        links=invitations.links(studio, by=who.annotator),
        projects=[project for project in studio.projects() if project.state != "archived"],
    )


@router.get("/admin/audit")
def audit_page(request: Request, who: Admin, before: Offset | None = None) -> Response:
    """Who did what."""
    events = people_log.events(studio_of(request), before=before, limit=101)
    return page(request, "audit", who, events=events[:100], more=len(events) > 100)
