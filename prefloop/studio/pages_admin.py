"""The pages of administration: projects, quality, people, reports and the audit log."""

from typing import Any

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse, RedirectResponse

from prefloop.data.formats import FORMATS
from prefloop.data.layouts import LAYOUTS
from prefloop.data.store.values import ExportKind
from prefloop.errors import InputError
from prefloop.studio import (
    accounts,
    adjudicate,
    admin_views,
    at_work,
    erasure,
    invitations,
    members,
    notes,
    onboarding,
    people_log,
    people_tags,
    removal,
)
from prefloop.studio.accounts import Who
from prefloop.studio.api import download
from prefloop.studio.next_steps import next_step
from prefloop.studio.one_annotator import one_annotator
from prefloop.studio.pages import Admin, Form, Id, Manager, Offset, Signed, page
from prefloop.studio.quality import logins, quality
from prefloop.studio.security import (
    check_csrf,
    root_of,
    studio_of,
)
from prefloop.studio.values import (
    EXPORTS,
    FLAGS,
    PROJECT_KINDS,
    STATES,
    VISITORS,
    NotFound,
    ProjectSettings,
    Scale,
)

router = APIRouter(include_in_schema=False)
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; sandbox"
"""A report has its style within it, and what models wrote, escaped; in a sandbox it can do nothing."""


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
    project, progress, people = studio.project(id), studio.progress([id])[id], at_work.people(studio, id)
    held = sum(bool(person.why) for person in people)
    return page(
        request,
        "project",
        who,
        project=project,
        progress=progress,
        people=people,
        next=next_step(project, progress, people=len(people), held=held, is_admin=who.is_admin),
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
        "reveal": "reveal" in form and form.get("kind") == "chat",
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
    values |= {name: int(number(name)) for name in VISITORS if name in form}
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
        erasures=erasure.proofs(studio),
        projects=[project for project in studio.projects() if project.state != "archived"],
    )


@router.get("/admin/audit")
def audit_page(request: Request, who: Admin, before: Offset | None = None) -> Response:
    """Who did what."""
    events = people_log.events(studio_of(request), before=before, limit=101)
    return page(request, "audit", who, events=events[:100], more=len(events) > 100)
