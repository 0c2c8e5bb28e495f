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
from prefloop.errors import InputError
from prefloop.studio import (
    accounts,
    admin_views,
    invitations,
    members,
    onboarding,
    passwords,
    people_log,
    sessions,
    two_factor,
)
from prefloop.studio.access import GUEST
from prefloop.studio.accounts import Who
from prefloop.studio.keys import KEYS, usual
from prefloop.studio.languages import LANGUAGES, TEMPLATES, words, words_of
from prefloop.studio.newest import LIMITS
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
from prefloop.studio.values import NotFound

router = APIRouter(include_in_schema=False)
_templates = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_templates.globals["limits"] = LIMITS
MEDIA_TYPES = {
    ".mp4": "video/mp4",
    ".webm": "video/webm",
    ".gif": "image/gif",
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
}

_OWN_PAGE = re.compile(
    r"/|/(?:label|arena|history|settings|adjudicate|admin|join)(?:/[\w./-]*)?(?:\?[\w=&%.-]*)?"
)
"""Addresses that signing in leads on to. A name or an address elsewhere is none of them."""


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
    language = words_of(request, who) if name in TEMPLATES else words("en")
    text = _templates.get_template(f"{name}.html").render(
        _=language,
        lang=language.language,
        dir=language.direction,
        script_words=None if language.language == "en" else _in_script(language.for_scripts()),
        who=who,
        version=__version__,
        theme=settings.get("theme", "auto"),
        size=settings.get("size", "medium"),
        root=root_of(request),
        path=request.url.path.removeprefix(root_of(request)),
        **values,
    )
    return HTMLResponse(text, status)


def _in_script(text: str) -> Markup:
    """JSON that can stand in a script element."""
    return Markup(text.replace("<", "\\u003c"))


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


def _with_account(request: Request) -> Who:
    who = _in(request)
    if who.role == GUEST:
        raise HTTPException(403, "this page is for people with an account")
    return who


Signed = Annotated[Who, Depends(_with_account)]
SignedOrGuest = Annotated[Who, Depends(_in)]
"""The pages of the work itself."""
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


def sign_in_page(
    request: Request, *, to: str, error: str = "", login: str = "", status: int = 200
) -> Response:
    """The form to sign in. `to`: where it leads on to, `error`: why somebody is not signed in, `login`: what they typed."""
    provider = request.app.state.oidc
    answer = door(
        request,
        "login",
        error=error,
        login=login,
        ready=accounts.is_set_up(studio_of(request)),
        next=to,
        ended=COOKIE in request.cookies and not error,
        oidc=provider.settings.name if provider else "",
        out=provider is not None and "out" in request.query_params,
    )
    answer.status_code = status
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
    return sign_in_page(request, to=way_on(to))


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
        return sign_in_page(request, to=to, error=error, login=login, status=401)
    return password_given(request, account, way_on(form.get("next", "/")))


@router.post("/logout")
def logout(request: Request, who: SignedOrGuest, form: Form) -> Response:
    """End the session."""
    check_csrf(who, form.get("csrf", ""))
    accounts.sign_out(studio_of(request), request.cookies.get(COOKIE, ""))
    out = "?out=1" if request.app.state.oidc else ""
    answer = RedirectResponse(f"{root_of(request)}/login{out}", 303)
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
        mine = {project.id: people_log.counts(session, project, who.annotator, now) for project in projects}
        why = {
            project.id: people_log.why_nothing(session, project, who.annotator, now) for project in projects
        }
    begins = who.is_admin and not projects
    stored = studio.store.counts()["completion"] if begins else 0
    return page(
        request, "queue", who, projects=projects, progress=progress, mine=mine, why=why, stored=stored
    )


@router.get("/label/{id}")
def label_page(request: Request, id: Id, who: SignedOrGuest) -> Response:
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
        "reveal": settings.reveal,
        "keys": usual(words_of(request, who).direction) | dict(who.settings.get("keys", {})),
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
        about=_in_script(json.dumps(about)),
        guidelines=Markup(guidelines),
        clips=settings.kind == "clip",
    )


@router.get("/clips/{token}/{place}")
def clip(request: Request, token: str, place: Id, who: SignedOrGuest) -> Response:
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
        usual=usual(words_of(request, who).direction),
        languages=LANGUAGES,
        language=who.settings.get("language", "auto"),
        mine=dict(who.settings.get("keys", {})),
        at_once=bool(who.settings.get("at_once", False)),
        tokens=accounts.tokens_of(studio, who),
        sessions=sessions.sessions_of(studio, who, request.cookies.get(COOKIE, "")),
        second=two_factor.is_on(studio, who.account),
        recovery=two_factor.recovery_left(studio, who.account),
    )
