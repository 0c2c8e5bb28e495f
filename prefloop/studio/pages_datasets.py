"""The pages of dataset versions: what was saved, how a version differs from the one before, and the command that trains on it."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from prefloop.configs.common import GOLD_ANSWERED, Selecting
from prefloop.data.store.datasets import difference
from prefloop.errors import InputError
from prefloop.feedback.datasets import command_for
from prefloop.studio.accounts import Who
from prefloop.studio.admin_views import excerpt
from prefloop.studio.api_datasets import save_dataset
from prefloop.studio.pages import Admin, Form, Offset, page
from prefloop.studio.pages_runs import runs_folder
from prefloop.studio.security import check_csrf, root_of, studio_of
from prefloop.studio.values import EXPORTS

router = APIRouter(include_in_schema=False)
Label = Annotated[str, Query(max_length=120)]
SHOWN = 20
"""Records of each sort on the page of a difference."""
FIELDS = ("name", "kind", "aggregate", "min_agreement", "gold_passed", "gold_answered", "since", "note")
"""Of the form, beside the box for adjudication."""


@router.get("/admin/datasets")
def datasets_page(request: Request, who: Admin, project: Offset | None = None, saved: Label = "") -> Response:
    """Versions of everything, or of one project's data with the form that saves another."""
    return _datasets(request, who, project, saved=saved)


@router.post("/admin/datasets")
def save_page(request: Request, who: Admin, form: Form, project: Offset) -> Response:
    """Save a version of a project's data."""
    check_csrf(who, form.get("csrf", ""))
    studio = studio_of(request)
    name = studio.project(project).settings.name
    try:
        chosen = Selecting(
            projects=(name,),
            since=form.get("since", "").strip(),
            adjudicated="adjudicated" in form,
            aggregate=form.get("aggregate", "each"),  # type: ignore[arg-type]
            min_agreement=_number(form, "min_agreement", 0.0),
            gold_passed=_number(form, "gold_passed", 0.0),
            gold_answered=int(_number(form, "gold_answered", GOLD_ANSWERED)),
        )
        kind: Any = form.get("kind", "")
        version, new = save_dataset(
            studio, who, form.get("name", "").strip(), kind, chosen, form.get("note", "").strip()
        )
    except InputError as error:
        return _datasets(request, who, project, error=str(error), form=form)
    saved = version.label if new else f"={version.label}"
    return RedirectResponse(f"{root_of(request)}/admin/datasets?project={project}&saved={saved}", 303)


def _number(form: dict[str, str], name: str, nothing: float) -> float:
    given = form.get(name, "").strip()
    try:
        return float(given) if given else nothing
    except ValueError:
        raise InputError(f"{name} is {given!r}; it must be a number") from None


def _datasets(
    request: Request,
    who: Who,
    project: int | None,
    *,
    saved: str = "",
    error: str = "",
    form: dict[str, str] | None = None,
) -> Response:
    studio = studio_of(request)
    of = None if project is None else studio.project(project)
    found = studio.store.datasets()
    if of is not None:
        found = [dataset for dataset in found if of.settings.name in dataset.chosen.get("projects", ())]
    address = f"{root_of(request)}/admin/datasets"
    given = {name: (form or {}).get(name, "") for name in FIELDS}
    if of is not None and form is None:
        given["name"] = (
            found[-1].name if found else re.sub(r"[^A-Za-z0-9]+", "-", of.settings.name).strip("-").lower()
        )
    return page(
        request,
        "datasets",
        who,
        status=422 if error else 200,
        project=of,
        versions=sorted(found, key=lambda dataset: dataset.created_at, reverse=True),
        commands={
            dataset.label: command_for(dataset, studio.store.label, runs=runs_folder(request))
            for dataset in found
        },
        follow=request.app.state.runs is not None,
        kinds=() if of is None else EXPORTS[of.settings.kind],
        given=given,
        adjudicated="adjudicated" in (form or {}),
        error=error,
        saved=saved.removeprefix("="),
        nothing_new=saved.startswith("="),
        choices=[(None, "Everything", address)]
        + [(own.id, own.settings.name, f"{address}?project={own.id}") for own in studio.projects()],
        shown=shown,
    )


@router.get("/admin/datasets/difference")
def difference_page(request: Request, who: Admin, before: Label, after: Label) -> Response:
    """What was added, removed and relabelled between two versions."""
    store = studio_of(request).store
    old, new = store.dataset(before), store.dataset(after)
    found = difference(store.exported(old.export.id, erased=True), store.exported(new.export.id, erased=True))
    settings = [
        (name, shown(old.chosen.get(name)), shown(new.chosen.get(name)))
        for name in dict.fromkeys((*old.chosen, *new.chosen))
        if old.chosen.get(name) != new.chosen.get(name)
    ]
    return page(
        request,
        "dataset_difference",
        who,
        before=old,
        after=new,
        found=found,
        settings=settings,
        most=SHOWN,
        lines=lines,
    )


def shown(value: Any) -> str:
    """A setting's value, as one reads it."""
    if value is None:
        return "not set"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def lines(record: Any) -> list[tuple[str, str]]:
    """A record as names and texts, in the order to read them."""
    prompt = getattr(record, "prompt", record)
    lines = [("prompt", excerpt(prompt))]
    for name in ("chosen", "rejected", "completion"):
        if hasattr(record, name):
            lines.append((name, getattr(record, name)))
    lines += [(f"rank {at}", text) for at, text in enumerate(getattr(record, "completions", ()), 1)]
    if hasattr(record, "good"):
        lines.append(("label", "good" if record.good else "bad"))
    if hasattr(record, "value"):
        lines.append(("score", f"{record.value:g}"))
    if getattr(record, "p_soft", 1.0) != 1.0:
        lines.append(("how sure", f"{record.p_soft:.0%}"))
    if getattr(record, "annotator", ""):
        lines.append(("annotator", record.annotator))
    return lines
