"""`prefloop lineage` and `prefloop report`."""

import json
from pathlib import Path

import pytest

from prefloop.cli import main
from prefloop.data.store import Source, Store


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store that knows of one run, and that run's folder."""
    folder = tmp_path / "toy"
    (folder / "sft" / "final").mkdir(parents=True)
    with Store.open(folder / "prefloop.db") as store:
        base = store.add_checkpoint("base", weights_sha256="b" * 64)
        source = Source(name="demos.jsonl", sha256="d" * 64, rows=7)
        run = store.begin_training_run("sft", config={}, start=base, sources=[source], folder="sft")
        store.finish_training_run(run, "sft/final", weights_sha256="c" * 64, step=3)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.mark.parametrize(
    "words", ["toy/sft/final", "sft/final --store toy/prefloop.db", "cccccccc --store toy/prefloop.db"]
)
def test_lineage(project: Path, capsys: pytest.CaptureFixture[str], words: str) -> None:
    assert main(["lineage", *words.split()]) == 0
    out = capsys.readouterr().out
    assert out.startswith("checkpoint sft/final (kind policy; stage sft; step 3")
    assert "start: checkpoint base" in out
    assert "source demos.jsonl (rows 7" in out


def test_lineage_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "toy/sft/final", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "sft/final"


def test_a_misspelt_checkpoint_gets_near_names(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lineage", "sft/fnal", "--store", "toy/prefloop.db"]) == 2
    assert "'sft/fnal' is not in the store; the nearest are sft/final" in capsys.readouterr().err
    assert main(["lineage", "sft/final"]) == 2
    assert "there is no prefloop.db above 'sft/final' or here" in capsys.readouterr().err
    assert not Path("prefloop.db").exists()


def test_report(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "sft" / "metrics.jsonl").write_text(
        '{"step": 1, "time": 0.5, "loss": 2.0}\n{"step": 2, "time": 1.0, "loss": 1.0}\n'
    )
    assert main(["report", "toy"]) == 0
    assert capsys.readouterr().out == "wrote toy/report.html; open it in a browser\n"
    assert (project / "report.html").read_text().startswith("<!doctype html>")
    assert main(["report", "none"]) == 2
    assert "none does not exist" in capsys.readouterr().err
