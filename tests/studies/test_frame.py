"""The frame of a study: what it writes, what it keeps, what it refuses, and that processes change nothing."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from prefloop.cli.program import main
from prefloop.configs.study import StudyConfig
from prefloop.errors import InputError
from prefloop.evaluation.intervals import mean_interval
from prefloop.evaluation.plots import PlotRow, interval_chart, line_chart
from prefloop.studies import known, run
from prefloop.studies.known import Known
from prefloop.studies.study import (
    Numbers,
    Place,
    Study,
    StudyCell,
    StudyFigure,
    StudyFinding,
    StudyReport,
    StudyResults,
    StudySettings,
    StudyTable,
    over_seeds,
    sure,
)
from tests.studies.made_up import write_votes

ROOT = Path(__file__).parents[2]
done: list[str] = []


@dataclass(frozen=True, kw_only=True, slots=True)
class DoublingSettings(StudySettings):
    """Settings of the study that is made up here."""

    numbers: tuple[int, ...] = (1, 2)
    broken: int = 0


def _work(settings: DoublingSettings, cell: StudyCell, place: Place) -> Numbers:
    done.append(f"{cell.name} {place.seed}")
    print("a line for the log")
    assert place.folder.is_dir()
    if cell.given["number"] == settings.broken and not (Path(place.data or ".") / "mended").exists():
        raise ValueError("it is broken\nand more")
    shared = int((place.prepared / "ten").read_text())
    return {"value": 2 * cell.given["number"] + place.seed + shared, "odd": float("nan")}


def _prepare(settings: DoublingSettings, place: Place) -> None:
    done.append(f"shared {place.seed}")
    (place.prepared / "ten").write_text("10")


def _report(settings: DoublingSettings, results: StudyResults) -> StudyReport:
    found = results.mean("2", "value")
    return StudyReport(
        findings=(
            StudyFinding(expected="it doubles", source="arithmetic", found=f"{found.value}", holds=True),
        ),
        table=StudyTable(
            columns=("number", "value", "n"), rows=(("one", results.mean("1", "value"), 1), ("two", found, 2))
        ),
        figure=StudyFigure(
            drawing=interval_chart([PlotRow(label="2", estimate=found)], title="t", x_label="x"),
            caption="doubled",
        ),
        further_figures=(
            StudyFigure(drawing=line_chart([], title="f", x_label="x", y_label="y"), caption="more"),
        ),
    )


DOUBLING = Study(
    title="Doubling",
    question="Is it double?",
    settings=DoublingSettings,
    cells=lambda settings: [StudyCell(name=str(n), given={"number": n}) for n in settings.numbers],
    work=_work,
    report=_report,
    prepare=_prepare,
)
BROKEN = "broken: 2"


@pytest.fixture
def doubling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The made-up study among those that are known; its folder of settings."""
    settings = tmp_path / "settings"
    (settings / "doubling").mkdir(parents=True)
    for size in ("smallest", "small"):
        (settings / "doubling" / f"{size}.yaml").write_text("seeds: 2\n")
    monkeypatch.setattr(known, "SETTINGS", settings)
    line = Known(summary="it doubles", study="tests.studies.test_frame:DOUBLING", minutes=1.0)
    for module in (known, run):
        monkeypatch.setattr(module, "STUDIES", {"doubling": line})
    monkeypatch.setattr("prefloop.studies.page.STUDIES", {"doubling": line})
    done.clear()
    return settings / "doubling"


def go(out: Path, **given: Any) -> int | None:
    return run.study(StudyConfig(**{"name": "doubling", "out": str(out), "jobs": 1, **given}))


def test_everything_is_written_and_finished_cells_are_kept(doubling: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert go(out) == 0
    assert done == ["shared 0", "shared 1", "1 0", "2 0", "1 1", "2 1"]
    assert yaml.safe_load((out / "settings.yaml").read_text()) == {"seeds": 2, "numbers": [1, 2], "broken": 0}
    rows = list(csv.DictReader((out / "table.csv").read_text().splitlines()))
    assert [row["number"] for row in rows] == ["one", "two"]
    assert float(rows[1]["value"]) == 14.5
    assert float(rows[1]["value low"]) < 14 < 15 < float(rows[1]["value high"])
    found = json.loads((out / "study.json").read_text())
    assert found["tables"][0][1]["value"]["n"] == 2
    assert found["made"]["seeds"] == 2
    assert "| it doubles (arithmetic) | 14.5 | yes |" in (out / "study.md").read_text()
    drawing = (out / "figure.svg").read_text()
    assert "prefers-color-scheme: dark" in drawing
    assert "<title>f</title>" in (out / "figure-2.svg").read_text()
    assert "![more](figure-2.svg)" in (out / "study.md").read_text()
    assert "a line for the log" in (out / "cells" / "1-seed-0.log").read_text()
    assert sorted(each.name for each in (out / "cells").iterdir() if each.is_dir()) == []

    done.clear()
    assert go(out, resume=True, seeds=3) == 0
    assert done == ["shared 2", "1 2", "2 2"]
    assert json.loads((out / "study.json").read_text())["tables"][0][1]["value"]["n"] == 3


def test_settings_of_the_command_line_are_over_those_of_the_size(doubling: Path, tmp_path: Path) -> None:
    assert go(tmp_path / "out", settings=("numbers=[1, 2, 5]", "seeds=1"), size="smallest") == 0
    assert done == ["shared 0", "1 0", "2 0", "5 0"]
    shown = (
        "prefloop study doubling --out runs/doubling --size smallest --settings 'numbers=[1, 2, 5]' seeds=1"
    )
    assert shown in (tmp_path / "out" / "study.md").read_text()


def test_a_cell_that_fails_is_named_and_done_again(
    doubling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    (doubling / "small.yaml").write_text(f"seeds: 2\n{BROKEN}\n")
    monkeypatch.chdir(tmp_path)
    assert go(out) == 1
    said = capsys.readouterr().err
    assert f"failed: 2, seed 1: it is broken; see {out}/cells/2-seed-1.log" in said
    assert "and more" in (out / "cells" / "2-seed-1.log").read_text()
    assert not (out / "study.json").exists()
    (tmp_path / "mended").touch()
    done.clear()
    assert go(out, resume=True) == 0
    assert done == ["2 0", "2 1"]


def test_what_was_not_written_whole_is_done_again(doubling: Path, tmp_path: Path) -> None:
    """A cell that was killed has a folder and no numbers."""
    out = tmp_path / "out"
    go(out)
    (out / "cells" / "1-seed-1.json").unlink()
    (out / "cells" / "1-seed-1").mkdir()
    (out / "cells" / "1-seed-1" / "left").touch()
    done.clear()
    assert go(out, resume=True) == 0
    assert done == ["1 1"]


def test_a_study_under_other_settings_is_refused(doubling: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    go(out)
    with pytest.raises(InputError, match="not empty; add --resume true"):
        go(out)
    (doubling / "small.yaml").write_text("seeds: 2\nnumbers: [1, 2, 3]\n")
    with pytest.raises(InputError, match=r"numbers: \[1, 2\] -> \[1, 2, 3\]"):
        go(out, resume=True)
    (doubling / "small.yaml").write_text("seeds: 2\nnumber: [1, 2, 3]\n")
    with pytest.raises(InputError, match=r"small.yaml:2: number is not a setting; did you mean numbers"):
        go(tmp_path / "other")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"name": "doublin"}, "did you mean doubling"),
        ({"name": ""}, "name is empty"),
        ({"data": "here"}, "reads none; leave it out"),
        ({"minutes": 5.0}, "applies to `all`"),
        ({"name": "all", "seeds": 2}, "those of one study"),
        (
            {"settings": ("number=[3]",)},
            r"settings has 'number=\[3\]': number is not a setting; did you mean numbers",
        ),
        ({"settings": ("numbers=[a]",)}, "numbers must be a whole number"),
        ({"settings": ("numbers",)}, "write NAME=VALUE"),
    ],
)
def test_settings_that_do_not_fit_are_refused(
    doubling: Path, tmp_path: Path, given: Mapping[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        go(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_a_page_holds_every_study_once(
    doubling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs = tmp_path / "docs"
    (docs / "figures").mkdir(parents=True)
    other = "<!-- study other -->\n## Other\n\nkept\n"
    (docs / "studies.md").write_text(f"# old head\n\n{other}\n<!-- study gone -->\n## Gone\n")
    line = Known(summary="", study="", minutes=0.0)
    monkeypatch.setattr("prefloop.studies.page.STUDIES", {"doubling": line, "other": line})
    for seeds in (2, 3):
        go(tmp_path / f"out-{seeds}", docs=str(docs), seeds=seeds)
    page = (docs / "studies.md").read_text()
    assert page.count("## Doubling") == 1
    assert page.endswith(other)
    assert "old head" not in page
    assert "Gone" not in page
    assert "2 cells, 3 seeds" in page
    assert "![doubled](figures/studies/doubling.svg)" in page
    assert "![more](figures/studies/doubling-2.svg)" in page
    assert "<title>t</title>" in (docs / "figures/studies/doubling.svg").read_text()
    assert "<title>f</title>" in (docs / "figures/studies/doubling-2.svg").read_text()
    assert str(tmp_path) not in page


def test_a_page_names_no_commit_that_a_rebase_has_removed(
    doubling: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("prefloop.studies.cells.commit", lambda: "0000000+")
    with pytest.raises(InputError, match=r"cells were done at 0000000, which this branch no longer has"):
        go(tmp_path / "out", docs=str(tmp_path / "docs"))
    assert not (tmp_path / "docs").exists()
    monkeypatch.setattr("prefloop.studies.cells.commit", lambda: "")
    assert go(tmp_path / "outside a checkout", docs=str(tmp_path / "docs")) == 0


def test_all_runs_what_fits_and_says_what_is_left(
    doubling: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = {
        "doubling": Known(summary="it doubles", study="tests.studies.test_frame:DOUBLING", minutes=1.0),
        "long": Known(summary="", study="", minutes=90.0),
        "data": Known(summary="", study="", minutes=1.0, reads="a data set"),
    }
    monkeypatch.setattr(run, "STUDIES", lines)
    out = str(tmp_path / "out")
    said = ""
    for _ in range(2):
        assert run.study(StudyConfig(name="all", out=out, jobs=1, minutes=60.0)) == 0
        said = capsys.readouterr().out
        assert "long: about 90 minutes on 1 cores; prefloop study long" in said
        assert "data: reads a data set" in said
    assert len(done) == 6
    assert f"doubling: finished before, in {out}/doubling" in said


def test_numbers_over_seeds() -> None:
    results = StudyResults(
        numbers={
            "a": {0: {"x": 1.0}, 1: {"x": 3.0}, 2: {"x": None}},
            "b": {0: {"x": 0.0}, 1: {"x": 1.0}, 2: {"x": 5}},
        }
    )
    assert results.mean("a", "x") == mean_interval([1.0, 3.0])
    assert results.difference("a", "b", lambda one: one["x"] or float("nan")).n == 1
    assert over_seeds([float("nan")]).n == 0
    assert sure(mean_interval([1.0, 1.1]), above=0.0) is True
    assert sure(mean_interval([1.0, 1.1]), above=9.0) is False
    assert sure(mean_interval([0.0, 1.0]), above=0.5) is None
    assert sure(over_seeds([]), above=0.5) is None


def test_processes_make_what_one_makes_and_a_killed_study_goes_on(tmp_path: Path) -> None:
    data = write_votes(tmp_path / "data")
    common = ["votes", "--size", "smallest", "--data", str(data)]
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    assert main(["study", *common, "--jobs", "1", "--out", str(alone)]) == 0
    parallel = [*common, "--jobs", "2", "--out", str(killed)]
    begun = subprocess.Popen(
        [sys.executable, "-m", "prefloop", "study", *parallel], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert begun.stdout
    assert "[1/" in begun.stdout.readline()
    begun.send_signal(signal.SIGKILL)
    begun.communicate()
    for _ in range(100):  # workers end when nobody gives them cells any more
        if not _workers():
            break
        time.sleep(0.1)
    assert _workers() == []
    before = {file: file.stat().st_mtime_ns for file in (killed / "cells").glob("*.json")}
    assert before
    assert main(["study", *parallel, "--resume"]) == 0
    assert all(file.stat().st_mtime_ns == then for file, then in before.items())
    for file in (alone / "cells").glob("*.json"):
        own, other = (json.loads((folder / "cells" / file.name).read_text()) for folder in (alone, killed))
        assert own["numbers"] == other["numbers"], file.name
    assert (alone / "table.csv").read_text() == (killed / "table.csv").read_text()


def _workers() -> list[str]:
    """Workers of studies among the processes that this one's user runs in this folder."""
    found = []
    for each in Path("/proc").iterdir():
        try:
            words = (each / "cmdline").read_bytes().decode().split("\0")
            mine = each.name.isdigit() and os.readlink(each / "cwd") == str(ROOT)
        except OSError:
            continue
        if mine and "prefloop.studies.cells" in words:
            found.append(each.name)
    return found
