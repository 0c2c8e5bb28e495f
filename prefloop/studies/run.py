"""`prefloop study`: settings written down, cells done in parallel, numbers made into tables, figures and a page."""

import os
import shlex
import sys
import time
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import yaml

from prefloop.configs.study import ALL, StudyConfig
from prefloop.errors import InputError
from prefloop.evaluation.json_files import encode, read_json, write_json, write_text
from prefloop.evaluation.plots import standalone
from prefloop.recipes.project import enter
from prefloop.runtime.checkpoint import compare_fingerprints
from prefloop.runtime.environment import flatten
from prefloop.runtime.files import writing
from prefloop.runtime.interrupt import Interrupted
from prefloop.studies.cells import PREPARE, SETTINGS, CellTask, do_all, finished, lost_commits
from prefloop.studies.known import STUDIES, find_study, listing, settings_of
from prefloop.studies.page import Made, as_csv, figures, section, write_docs
from prefloop.studies.study import Study, StudyReport, StudyResults, StudySettings, StudyTable

FIGURE = "figure.svg"
_MAY_DIFFER = ("out", "list", "seeds", "jobs", "data", "model", "docs", "minutes")


def study(config: StudyConfig) -> int | None:
    """Run one study or all, or list them; 1 where a cell failed.

    Raises:
        InputError: Something given is wrong.
    """
    if config.list:
        print(listing())
        return None
    return {ALL: run_all}.get(config.name, run_one)(config)


def run_all(config: StudyConfig) -> int:
    """Those that fit into the minutes and have their data, one after another; says what is left."""
    began, failed = time.monotonic(), 0
    left: list[str] = []
    jobs, limit = _jobs(config), config.limit
    for name, known in STUDIES.items():
        folder = Path(config.out) / name
        own = replace(
            config,
            name=name,
            out=str(folder),
            minutes=0.0,
            data=_data_of(name, config.data),
            model=config.model if known.starts else "",
        )
        command = shlex.join(_words(own))
        lacking = [(flag, what) for flag, value, what in _wanted(own) if what and not _is_folder(value)]
        if lacking:
            said = " and ".join(what for _, what in lacking)
            flags = " ".join(f"--{flag} FOLDER" for flag, _ in lacking)
            left.append(f"{name}: {said}; with a folder of it: {command} {flags}")
            continue
        if (folder / "study.json").exists():
            print(f"{name}: finished before, in {folder}")
            continue
        wanted = known.minutes / jobs
        if (time.monotonic() - began) / 60 + wanted > limit:
            left.append(f"{name}: about {wanted:.0f} minutes on {jobs} cores; {command}")
            continue
        print(f"\n{name}: {known.summary}", flush=True)
        failed += bool(run_one(replace(own, resume=folder.exists())))
    if left:
        print("\nnot run:\n" + "\n".join(f"  {line}" for line in left))
    return int(failed > 0)


def _data_of(name: str, data: str) -> str:
    """A study's data set in a folder of several; nothing for a study that reads none."""
    if not STUDIES[name].reads:
        return ""
    inner = Path(data) / FOLDERS.get(name, "")
    return str(inner) if data and inner.is_dir() else data


FOLDERS = {"votes": "alpaca-eval", "rl4lms": "imdb"}
"""Study -> what its data set is called in a folder of data sets."""


def _is_folder(data: str) -> bool:
    return bool(data) and Path(data).is_dir()


def run_one(config: StudyConfig) -> int:
    """Do the cells that are not done yet, then write everything that is made of their numbers."""
    found = find_study(config.name)
    _check_given(config)
    settings = settings_of(config.name, size=config.size, given=config.settings, seeds=config.seeds)
    out = Path(config.out)
    enter(out, config, may_differ=_MAY_DIFFER)
    with writing(out, way_out="make room, then resume with --resume"):
        _write_settings(out / SETTINGS, settings)
        (out / "cells").mkdir(exist_ok=True)
    tasks = _tasks(config, found, settings)
    try:
        failed = _do(tasks, config)
    except KeyboardInterrupt as stop:
        raise Interrupted(f"stopped; resume with: {shlex.join([*_words(config), '--resume'])}") from stop
    if failed:
        print("\n".join(f"failed: {line}" for line in failed), file=sys.stderr)
        print(f"{len(failed)} cells failed; retry them with --resume", file=sys.stderr)
        return 1
    own = [read_json(task.result) for task in tasks]
    cells = [cell for cell in own if cell["cell"] != PREPARE]
    numbers: dict[str, dict[int, Any]] = {}
    for cell in cells:
        numbers.setdefault(cell["cell"], {})[cell["seed"]] = cell["numbers"]
    made = Made(
        command=shlex.join(_words(config, shown=True)),
        commits=tuple(sorted({record["commit"] for record in own} - {""})),
        machine=f"{_cores()} cores, CPU",
        hours=sum(record["processor_seconds"] for record in own) / 3600,
        seeds=settings.seeds,
        cells=len(numbers),
    )
    report = found.report(settings, StudyResults(numbers=numbers))
    _write(config, found, report, made)
    return 0


def _wanted(config: StudyConfig) -> list[tuple[str, str, str]]:
    """Flags that name what a study needs, each with what was given and what the study does with it; nothing if it has no use for it."""
    known = STUDIES[config.name]
    return [
        ("data", config.data, known.reads and f"reads {known.reads}"),
        ("model", config.model, known.starts and f"starts from {known.starts}"),
    ]


def _check_given(config: StudyConfig) -> None:
    """Raise `InputError` if a study lacks data or a model, or has one that it does not use."""
    for flag, value, what in _wanted(config):
        if what and not _is_folder(value):
            raise InputError(
                f"{flag} is {value!r}, which is not a folder; the study {config.name} {what}: name their folder with --{flag}"
            )
        if value and not what:
            verb = "reads" if flag == "data" else "starts from"
            raise InputError(f"{flag} is {value!r}, but the study {config.name} {verb} none; leave it out")


def _write_settings(file: Path, settings: StudySettings) -> None:
    """The resolved settings. Raises `InputError` where the cells there were made with others; more seeds are fine."""
    text = yaml.safe_dump(_plain(asdict(settings)), sort_keys=False)
    if file.exists():
        saved = yaml.safe_load(file.read_text(encoding="utf-8"))
        compare_fingerprints(flatten(saved), flatten(yaml.safe_load(text)), may_differ=("seeds",))
    write_text(file, text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple | list) else value


def _tasks(config: StudyConfig, study: Study, settings: StudySettings) -> list[CellTask]:
    """What the cells share first; then seed after seed, so that a study that is stopped has whole seeds."""
    names = ([PREPARE] if study.prepare else []) + [cell.name for cell in study.cells(settings)]
    tasks = [
        CellTask(
            study=config.name, out=config.out, cell=name, seed=seed, data=config.data, model=config.model
        )
        for seed in range(settings.seeds)
        for name in names
    ]
    return sorted(tasks, key=lambda task: task.cell != PREPARE)


def _do(tasks: list[CellTask], config: StudyConfig) -> list[str]:
    """Do the tasks that are not finished, those that others need first; what failed."""
    jobs = _jobs(config)
    count = sum(finished(task) for task in tasks)
    if count:
        print(f"{count} of {len(tasks)} cells were finished before")

    def done(task: CellTask, took: float) -> None:
        nonlocal count
        count += 1
        print(f"[{count}/{len(tasks)}] {task.label}: {took:.1f} s", flush=True)

    failed: list[str] = []
    for shared in (True, False):
        part = [task for task in tasks if (task.cell == PREPARE) == shared and not finished(task)]
        if part and not failed:
            failed = do_all(part, jobs=min(jobs, len(part)), cores=_cores(), done=done)
    return failed


def _jobs(config: StudyConfig) -> int:
    return config.jobs or _cores()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _write(config: StudyConfig, study: Study, report: StudyReport, made: Made) -> None:
    """table.csv, figure.svg and its like, study.md and study.json; the section of the documentation where that is asked for."""
    out = Path(config.out)
    text = section(config.name, study, report, made, figure=FIGURE)
    with writing(out, way_out="make room, then resume with --resume"):
        for address, one in figures(report, FIGURE):
            write_text(out / address, standalone(one.drawing))
        write_text(out / "table.csv", as_csv(report.table))
        write_text(out / "study.md", text)
        write_json(
            out / "study.json",
            {
                "study": config.name,
                "made": made,
                "findings": report.findings,
                "tables": [_rows(table) for table in (report.table, *report.further)],
                "remarks": report.remarks,
            },
        )
    print(f"\n{text}\nwrote {out / 'study.md'}, {FIGURE}, table.csv and study.json")
    if config.docs:
        lost = lost_commits(made.commits)
        if lost:
            raise InputError(
                f"docs is {config.docs!r}, but cells were done at {', '.join(lost)}, which this branch no longer has (a rebase?), so that nobody could look the code "
                f"up; remove them from {out / 'cells'} and run again with --resume"
            )
        print(f"wrote {write_docs(Path(config.docs), config.name, study, report, made)}")


def _rows(table: StudyTable) -> list[dict[str, Any]]:
    return [dict(zip(table.columns, encode(row), strict=True)) for row in table.rows]


def _words(config: StudyConfig, *, shown: bool = False) -> list[str]:
    """The command that makes the same numbers; `shown`, as a page shows it, with folders of no machine."""
    if shown:
        config = replace(
            config,
            out=f"runs/{config.name}",
            data=config.data and "DATA",
            model=config.model and "MODEL",
        )
    words = ["prefloop", "study", config.name, "--out", config.out]
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in ("size", "settings", "seeds", "data", "model") and value != field.default:
            words += [f"--{field.name}", *(value if isinstance(value, tuple) else [str(value)])]
    return words
