"""The benchmark beside TRL reports every case that ran, names those that failed, and waits for no worker for ever."""

import sys
from pathlib import Path
from typing import Any

import pytest

import bench.versus.__main__ as versus
from bench.versus.cases import SIZES, Work, flops
from bench.versus.contender import ROOT, Contender, ContenderError

WORKER = """
import json, sys
print(json.dumps({"loaded": True}), flush=True)
for line in sys.stdin:
    print(json.dumps({"seconds": 1.0} if line == "go\\n" else {"peak_mb": 7.0}), flush=True)
    if line == "stop\\n":
        break
"""
NOISY_END = "import sys; sys.exit('no such model')"
SILENT = "import time; time.sleep(60)"
DIES_LATER = "print('{}', flush=True); input(); import sys; sys.exit('out of memory')"


def contender(tmp_path: Path, program: str, patience: float = 20.0) -> Contender:
    return Contender("TRL", [sys.executable, "-c", program], {}, tmp_path / "log", patience=patience)


def test_a_worker_does_a_step_when_told_and_says_its_memory_at_the_end(tmp_path: Path):
    with contender(tmp_path, WORKER) as worker:
        assert worker.facts == {"loaded": True}
        worker.step()
        assert worker.steps == [{"seconds": 1.0}]
        assert worker.close() == 7.0


def test_a_worker_that_ends_or_hangs_is_named_with_the_end_of_its_log(tmp_path: Path):
    with pytest.raises(ContenderError, match=r"(?s)TRL ended.*no such model"):
        contender(tmp_path, NOISY_END)
    with pytest.raises(ContenderError, match="TRL gave no answer for 0 s"):
        contender(tmp_path, SILENT, patience=0.3)
    with contender(tmp_path, DIES_LATER) as worker, pytest.raises(ContenderError, match="out of memory"):
        worker.step()


def test_no_worker_is_left_behind(tmp_path: Path):
    with pytest.raises(KeyboardInterrupt), contender(tmp_path, WORKER) as worker:
        raise KeyboardInterrupt
    assert worker._process.poll() is not None


class Held:
    """Stands for what a size's folder holds."""

    comparisons = ((4, 4, 4),) * 32

    def work(self, stage: str, step: int) -> Work:
        return Work.of(2, 25, [25])


def rows(trl_loss: float) -> dict[str, dict[str, Any]]:
    """What was measured of a case."""
    losses = {"prefloop": 0.5, versus.COARSE: 0.6, "TRL": trl_loss, "TRL tuned": 0.5}
    return {
        name: {
            "seconds": 1.0 if name == versus.COARSE else 2.0,
            "first_loss": loss,
            "packed_tokens": 0.0,
            "peak_mb": 100.0,
        }
        for name, loss in losses.items()
    }


def test_a_case_that_fails_is_named_and_the_others_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def run_case(case: str, *_: object) -> dict[str, dict[str, Any]]:
        if case == "orpo-tiny":
            raise ContenderError("TRL ended; the end of the log:\nTraceback")
        measured = rows(0.7 if case == "dpo-tiny" else 0.5)
        if case == "kto-tiny":
            del measured[versus.COARSE]  # the processor cannot
        return measured

    monkeypatch.setattr(versus, "run_case", run_case)
    monkeypatch.setattr(versus, "make_environment", lambda folder: folder / "bin/python")
    monkeypatch.setattr(versus, "make_material", lambda *_: {"tiny": Held()})
    monkeypatch.setattr(versus, "limit_gflops", lambda: 100.0)
    cases = ["sft-tiny", "orpo-tiny", "dpo-tiny", "kto-tiny"]
    asked = ["--warm", "1", "--steps", "1", "--out", str(tmp_path)]
    assert versus.main(["--only", *cases, *asked]) == 1
    table = (tmp_path / "table.md").read_text()
    assert [line.split()[1] for line in table.splitlines() if line.startswith("| ")][2:] == [
        "sft-tiny",
        "kto-tiny",
    ]
    last = [line.split("|")[-2].strip() for line in table.splitlines() if line.startswith(("| sft", "| kto"))]
    assert last == ["1.00 s", "—"]
    assert "- orpo-tiny failed: TRL ended; the end of the log:\n" in table
    assert "- dpo-tiny failed: the first loss of TRL is 0.7, of prefloop 0.5" in table
    assert {file.name for file in tmp_path.iterdir()} == {"table.md", "sft-tiny.json", "kto-tiny.json"}
    said = capsys.readouterr()
    assert table in said.out
    assert "Traceback" in said.err
    assert versus.main(["--only", "sft-tiny", *asked]) == 0


def test_workers_run_from_the_root_of_the_repository():
    assert (ROOT / "pyproject.toml").exists()


def test_the_least_work_counts_a_prompt_once_and_the_last_layers_end_where_it_is_read():
    size = SIZES["tiny"]
    work = Work.of(3, 20, [5, 7])
    assert work.beside() == Work.of(3, 20, [5, 7, 5, 7])
    end = 2 * size.hidden**2 + 3 * size.hidden * size.ffn
    whole = 2 * (size.trunk_weights * 3 * 32 + size.layers * 2 * size.hidden * work.squares)
    assert work.flops(size, scored=1, read="values") == whole - 2 * end * 3 * 20
    assert work.flops(size, scored=1, read="scores") == whole - 2 * end * (3 * 32 - 3 * 2)
    head = 2 * size.head_weights * 3 * 12
    assert work.flops(size, scored=1) == work.flops(size, scored=1, read="values") + head
    assert work.flops(size, trained=2) == 6 * work.flops(size, scored=1)
    shared = work.flops(size, trained=1, scored=1) + work.beside().flops(size, scored=1)
    assert flops("kto", work, size) == shared < work.flops(size, trained=1, scored=3)
