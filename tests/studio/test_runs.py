"""Following trainings in the studio: from run folders alone, by admins alone, and never outside the folder."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import Selecting
from prefloop.data.store import Judgement
from prefloop.errors import InputError
from prefloop.feedback.datasets import save
from prefloop.studio import run_curves
from prefloop.studio.run_curves import CurveReader, MetricCurve
from prefloop.studio.run_folders import QUIET, RunFolders
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound
from tests.studio.live import new_page, served, sign_in, why_no_browser
from tests.studio.web import Person, client_of


def run(folder: Path, rows: list[dict[str, Any]], *, log: str = "", summary: Any = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("model: tiny\ndata: store:helpful@1\n")
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "log.txt").write_text(f"2026-01-01 00:00:00 dpo: 1 threads\n{log}")
    if summary is not None:
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def falling(count: int) -> list[dict[str, Any]]:
    return [{"step": step, "time": 1.0, "loss": 1 / step} for step in range(1, count + 1)]


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Four runs, one in each state, and a secret beside the folder."""
    root = tmp_path / "runs"
    run(root / "project/dpo", [*falling(3), {"step": 4, "time": 1.0, "loss": None, "<b>odd</b>": 2.0}])
    run(root / "done", falling(5), summary={"stage": "dpo", "finished": True, "steps": 5})
    run(root / "broken", falling(2), log="2026-01-01 00:00:09 stopped: InputError: the <disk> is full\n")
    quiet = run(root / "quiet", falling(1))
    long_ago = time.time() - QUIET.total_seconds() - 60
    for path in quiet.iterdir():
        os.utime(path, (long_ago, long_ago))
    (root / "project/report.html").write_text("<h1>the report</h1>")
    (tmp_path / "report.html").write_text("secret")
    run(tmp_path / "secret", falling(1))
    return root


def test_each_state_is_told(runs: Path) -> None:
    states, more = RunFolders(runs).states()
    assert not more
    told = {state.name: (state.state, state.step, state.steps, state.stage) for state in states}
    assert told == {
        "project/dpo": ("running", 4, None, "dpo"),
        "done": ("finished", 5, 5, "dpo"),
        "broken": ("stopped", 2, None, "dpo"),
        "quiet": ("quiet", 1, None, "dpo"),
    }
    assert [state.name for state in states][-1] == "quiet"
    assert next(state for state in states if state.name == "broken").why == "InputError: the <disk> is full"


def test_pages_show_runs_to_admins_only(studio: Studio, runs: Path) -> None:
    boss = Person(studio, "boss", "admin", client=client_of(studio, runs=RunFolders(runs)))
    listed = boss.client.get("/admin/runs").text
    assert listed.count("/admin/runs/one?run=") == 4
    shown = boss.client.get("/admin/runs/one?run=project/dpo").text
    assert "&lt;b&gt;odd&lt;/b&gt;" in shown
    assert "<b>odd" not in shown
    assert 'aria-label="loss: step 1 to 4, lowest 0.3333, highest 1, last not finite"' in shown
    assert "model: tiny" in shown
    assert "the &lt;disk&gt; is full" in boss.client.get("/admin/runs/one?run=broken").text
    part = boss.client.get("/admin/runs/one?run=done&part=true").text
    assert "<html" not in part
    assert "step 5 of 5" in part
    report = boss.client.get("/admin/runs/report?run=project/dpo")
    assert "the report" in report.text
    assert "sandbox" in report.headers["content-security-policy"]
    assert boss.client.get("/admin/runs/report?run=done").status_code == 404
    ann = Person(studio, "ann", "adjudicator", client=client_of(studio, runs=RunFolders(runs)))
    for path in ("/admin/runs", "/admin/runs/one?run=done", "/admin/runs/report?run=project/dpo"):
        assert ann.client.get(path).status_code == 403


def test_no_request_reaches_a_file_outside_the_folder(studio: Studio, runs: Path) -> None:
    """By dots, by an absolute path, by a link to a folder, and by links in place of a run's files."""
    (runs / "linked").symlink_to(runs.parent / "secret")
    sly = run(runs / "sly", [])
    for name in ("metrics.jsonl", "log.txt"):
        (sly / name).unlink()
        (sly / name).symlink_to(runs.parent / "secret" / name)
    (sly / "report.html").symlink_to(runs.parent / "report.html")
    boss = Person(studio, "boss", "admin", client=client_of(studio, runs=RunFolders(runs)))
    secret = runs.parent / "secret"
    for name in ("../secret", "done/../../secret", str(secret), "linked", ".", "..", "/etc", "%2e%2e/secret"):
        for page in ("one", "report"):
            answer = boss.client.get(f"/admin/runs/{page}", params={"run": name})
            assert answer.status_code == 404, (name, answer.status_code)
    seen = boss.client.get("/admin/runs/one?run=sly").text
    assert "loss" not in seen
    assert "1 threads" not in seen
    assert boss.client.get("/admin/runs/report?run=sly").status_code == 404


def test_a_server_without_runs_says_how_to_follow_them(studio: Studio, tmp_path: Path) -> None:
    boss = Person(studio, "boss", "admin")
    assert "prefloop label serve --runs FOLDER" in boss.client.get("/admin/runs").text
    assert boss.client.get("/admin/runs/one?run=x").status_code == 404
    with pytest.raises(InputError, match="is not a folder"):
        RunFolders(tmp_path / "nothing")


def test_a_long_file_takes_no_more_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Points are thinned evenly, the file is read in pieces, and a line without end is left out and counted."""
    monkeypatch.setattr(run_curves, "PIECE", 10_000)
    monkeypatch.setattr(run_curves, "LONGEST_LINE", 2_000)
    path = tmp_path / "metrics.jsonl"
    endless = json.dumps({"step": 0, "name": "x" * 30_000})
    lines = [json.dumps(row) for row in falling(3000)]
    path.write_text("\n".join([endless, *lines, "not json", '{"step": 3001, "half']))
    reader, rounds = CurveReader(path), 1
    while not (curves := reader.read_on()).complete:
        rounds += 1
    assert rounds > 10
    loss = curves.of["loss"]
    assert (loss.seen, loss.every, loss.last) == (3000, 8, (3000, 1 / 3000))
    assert len(loss.points) == 375
    assert [step for step, _ in loss.points] == list(range(1, 3001, 8))
    assert curves.unreadable == 2
    with path.open("a") as file:  # what was half written is read when it is whole
        file.write('": 1, "loss": 7}\n')
    assert reader.read_on().of["loss"].last == (3001, 7.0)
    path.unlink()
    path.write_text(json.dumps({"step": 1, "loss": 5.0}) + "\n")  # as a resumed run does
    assert reader.read_on().of["loss"].points == [(1, 5.0)]


def test_a_line_is_drawn_by_hand() -> None:
    """Two values at the ends of the box; one that is not finite breaks the line."""
    curve = MetricCurve()
    for step, value in ((0, 1.0), (5, float("nan")), (10, 3.0)):
        curve.add(step, value)
    assert curve.path() == "M6.0 114.0M314.0 6.0"
    assert (curve.low, curve.high) == (1.0, 3.0)


def test_many_metrics_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_curves, "MOST_METRICS", 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, **{f"m{at}": 1.0 for at in range(5)}}) + "\n")
    curves = CurveReader(path).read_on()
    assert (list(curves.of), curves.left_out) == (["m0", "m1", "m2"], 2)


def test_a_run_that_is_no_more_is_not_found(runs: Path) -> None:
    with pytest.raises(NotFound):
        RunFolders(runs).state("gone")


def test_a_run_leads_to_the_dataset_version_it_was_trained_on(studio: Studio, runs: Path) -> None:
    items = studio.store.add_pairs().ids
    annotator = studio.store.add_annotator("ann")
    studio.store.add_judgement(Judgement(item=items[0], annotator=annotator, choice="a", order_shown=(0, 1)))
    version, _ = save(studio.store, "helpful", "comparisons", Selecting())
    where = str(runs / "project/dpo")
    studio.store.begin_training_run("dpo", config={}, exports=[version.export.id], folder=where)
    boss = Person(studio, "boss", "admin", client=client_of(studio, runs=RunFolders(runs)))
    shown = boss.client.get("/admin/runs/one?run=project/dpo").text
    assert 'Trained on <a href="/admin/datasets#helpful@1">helpful@1</a>' in shown
    assert "Trained on" not in boss.client.get("/admin/runs/one?run=done").text
    command = re.findall(r"<code>(prefloop dpo [^<]+)</code>", boss.client.get("/admin/datasets").text)
    assert command[0].startswith("prefloop dpo --model MODEL --data store:helpful@1 --store ")
    assert command[0].endswith(f" --out {runs}/helpful-1")


@pytest.mark.skipif(bool(why_no_browser()), reason=why_no_browser())
def test_a_run_is_followed_without_loading_the_page_again(studio: Studio, runs: Path, browser: Any) -> None:
    with served(studio, runs=RunFolders(runs)) as base:
        page, watch = new_page(browser, base)
        sign_in(page, studio, base, "boss", "admin")
        page.goto(f"{base}/admin/runs")
        page.click("text=project/dpo")
        page.wait_for_selector("text=step 4")
        page.click("summary:has-text('Log')")
        with (runs / "project/dpo/metrics.jsonl").open("a") as file:
            file.write(json.dumps({"step": 77, "time": 1.0, "loss": 0.5}) + "\n")
        page.wait_for_selector("text=step 77")
        assert page.evaluate("document.querySelector('[data-keep=log]').open")
        assert watch.wrong == []
