"""A study as text: a Markdown section, its table as CSV, and the page of documentation that holds all sections."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.json_files import write_text
from prefloop.evaluation.plots import standalone
from prefloop.evaluation.wording import number, with_interval
from prefloop.studies.known import STUDIES
from prefloop.studies.study import Entry, Study, StudyFigure, StudyFinding, StudyReport, StudyTable

HEAD = """# Studies: published curves made again

This page is written by `prefloop study NAME --out DIR --docs docs`. Each section states what was published, what came out here, and whether the
claim holds. Intervals are 95 % intervals over seeds, unless a section says otherwise. A claim is open if its interval does not decide it.
`prefloop study --list` says what each study costs. A plus after a commit means that the study's code had uncommitted changes.
"""
_SECTION = re.compile(r"^<!-- study (\S+) -->\n", re.MULTILINE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """How a study's numbers were made."""

    command: str
    commits: tuple[str, ...]
    machine: str
    hours: float
    """Of one processor."""
    seeds: int
    cells: int


def section(name: str, study: Study, report: StudyReport, made: Made, *, figure: str) -> str:
    """The study's section; `figure` is the address of its first drawing."""
    how = (
        f"{made.cells} cells, {made.seeds} seed{'s' if made.seeds != 1 else ''}; {made.machine}; {made.hours:.2f} processor hours; "
        f"commit {', '.join(made.commits) or 'not known'}."
    )
    first, *further = (f"![{one.caption}]({address})" for address, one in figures(report, figure))
    parts = [
        f"## {study.title}",
        study.question,
        f"```sh\n{made.command}\n```",
        how,
        first,
        markdown(report.table),
        *further,
        *map(markdown, report.further),
        markdown(_findings(report.findings)),
        *report.remarks,
    ]
    return f"<!-- study {name} -->\n" + "\n\n".join(parts) + "\n"


def figures(report: StudyReport, address: str) -> list[tuple[str, StudyFigure]]:
    """All figures, each with its address: that of the first is given, of the second it is NAME-2.svg, and so on."""
    stem = address.removesuffix(".svg")
    others = enumerate(report.further_figures, start=2)
    return [(address, report.figure), *((f"{stem}-{place}.svg", one) for place, one in others)]


def _findings(findings: tuple[StudyFinding, ...]) -> StudyTable:
    words = {True: "yes", False: "no", None: "open"}
    rows = tuple(
        (f"{finding.expected} ({finding.source})", finding.found, words[finding.holds])
        for finding in findings
    )
    return StudyTable(columns=("published", "here", "holds"), rows=rows)


def markdown(table: StudyTable) -> str:
    """With intervals in brackets."""
    lines = [table.columns, ("--",) * len(table.columns), *(map(_cell, row) for row in table.rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(entry: Entry) -> str:
    if entry is None:
        return ""
    if isinstance(entry, Estimate):
        return with_interval(entry) if entry.n else "–"
    return number(entry) if isinstance(entry, float) else str(entry).replace("|", "\\|")


def as_csv(table: StudyTable) -> str:
    """An estimate is three columns: its value, `low` and `high`."""
    wide = [any(isinstance(row[at], Estimate) for row in table.rows) for at in range(len(table.columns))]
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n")
    names = zip(table.columns, wide, strict=True)
    write.writerow(
        [column for name, w in names for column in ([name, f"{name} low", f"{name} high"] if w else [name])]
    )
    for row in table.rows:
        cells: list[Entry] = []
        for entry, w in zip(row, wide, strict=True):
            if isinstance(entry, Estimate):
                cells += [entry.value, entry.low, entry.high]
            else:
                cells += [entry, None, None] if w else [entry]
        write.writerow(cells)
    return text.getvalue()


def write_docs(docs: Path, name: str, study: Study, report: StudyReport, made: Made) -> Path:
    """Put the study's section into `studies.md`, in the place of an older one, and its figures beside it; the page."""
    page, figure = docs / "studies.md", f"figures/studies/{name}.svg"
    for address, one in figures(report, figure):
        write_text(docs / address, standalone(one.drawing))
    known = _sections(page.read_text(encoding="utf-8")) if page.exists() else {}
    known = {**known, name: section(name, study, report, made, figure=figure)}
    write_text(page, "\n".join([HEAD, *(known[study] for study in STUDIES if study in known)]))
    return page


def _sections(text: str) -> Mapping[str, str]:
    """Study -> its section, of a page."""
    starts = [(found.start(), found[1]) for found in _SECTION.finditer(text)]
    ends = [at for at, _ in starts[1:]] + [len(text)]
    return {name: text[at:end].rstrip("\n") + "\n" for (at, name), end in zip(starts, ends, strict=True)}
