"""The pages that follow training runs from their folders: a list, and for each run its state, curves, settings, report and what it was made from."""

from typing import Annotated

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse

from prefloop.data.store.lineage import lineage_of_run
from prefloop.studio.pages import Admin, page
from prefloop.studio.pages_admin import REPORT_POLICY
from prefloop.studio.run_curves import HEIGHT, WIDTH
from prefloop.studio.run_folders import RunFolders, shown_number
from prefloop.studio.security import studio_of
from prefloop.studio.values import NotFound

router = APIRouter(include_in_schema=False)
Named = Annotated[str, Query(min_length=1, max_length=1000)]
FIRST = ("loss", "reward", "score", "kl", "accuracy")
"""Metrics whose names begin so are drawn first."""


def follow_runs(app: FastAPI, runs: RunFolders | None) -> None:
    """Show these runs to the admins of an application; none by default."""
    app.state.runs = runs


def runs_folder(request: Request) -> str:
    """Where a command that is shown puts its run."""
    runs: RunFolders | None = request.app.state.runs
    return "RUNS" if runs is None else str(runs.root)


def _runs_of(request: Request) -> RunFolders:
    runs: RunFolders | None = request.app.state.runs
    if runs is None:
        raise HTTPException(404, "this server follows no runs; start it with --runs FOLDER")
    return runs


@router.get("/admin/runs")
def runs_page(request: Request, who: Admin, part: bool = False) -> Response:
    """The runs, last written first. `part`: the table alone, to put in place of the one on the screen."""
    runs: RunFolders | None = request.app.state.runs
    states, more = ([], False) if runs is None else runs.states()
    return page(
        request,
        "runs_table" if part else "runs",
        who,
        folder="" if runs is None else str(runs.root),
        runs=states,
        more=more,
        shown=shown_number,
        first=_in_front,
    )


@router.get("/admin/runs/one")
def run_page(request: Request, who: Admin, run: Named, part: bool = False) -> Response:
    """One run. `part`: its state and curves alone."""
    runs = _runs_of(request)
    state, curves = runs.state(run), runs.curves(run)
    made_from = None if part else lineage_of_run(studio_of(request).store, runs.folder(run))
    datasets = [] if made_from is None else [node.facts.get("dataset", "") for node in made_from.walk()]
    return page(
        request,
        "run_live" if part else "run",
        who,
        run=state,
        curves={name: curves.of[name] for name in _in_front(list(curves.of))},
        read=curves,
        settings="" if part else runs.settings(run),
        log=runs.log(run),
        report=runs.report(run) is not None,
        tree="" if made_from is None else made_from.render(),
        datasets=[label for names in datasets for label in names.split()],
        shown=shown_number,
        width=WIDTH,
        height=HEIGHT,
    )


@router.get("/admin/runs/report")
def report_page(request: Request, who: Admin, run: Named) -> Response:
    """The report of a run's project, a page by itself in a sandbox."""
    path = _runs_of(request).report(run)
    if path is None:
        raise NotFound("this run has no report yet; `prefloop report` makes one")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


def _in_front(names: list[str]) -> list[str]:
    """Metrics in the order to show them."""
    return sorted(
        names, key=lambda name: next((at for at, word in enumerate(FIRST) if name.startswith(word)), 9)
    )
