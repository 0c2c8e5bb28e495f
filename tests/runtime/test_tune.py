import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from prefloop.configs.common import RunSettings
from prefloop.runtime.tune import available_cores, cpu_quota, peak_rss_mb, physical_cores, tune


@pytest.fixture(autouse=True)
def _same_threads_after():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def describe(root: Path, siblings: dict[int, str]) -> None:
    for cpu, text in siblings.items():
        folder = root / f"devices/system/cpu/cpu{cpu}/topology"
        folder.mkdir(parents=True)
        (folder / "thread_siblings_list").write_text(f"{text}\n")


def test_two_threads_of_a_core_are_one_core(tmp_path: Path) -> None:
    describe(tmp_path, {0: "0,2", 1: "1,3", 2: "0,2", 3: "1,3"})
    assert physical_cores([0, 1, 2, 3], tmp_path) == 2
    assert physical_cores([0, 2], tmp_path) == 1
    assert physical_cores([1], tmp_path) == 1
    assert physical_cores([0, 8, 9], tmp_path) == 3  # 8 and 9 are not described


def test_quota_of_the_control_group(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path) == math.inf
    v1 = tmp_path / "fs/cgroup/cpu"
    v1.mkdir(parents=True)
    (v1 / "cpu.cfs_period_us").write_text("100000")
    for quota, expected in (("-1", math.inf), ("250000", 2.5)):
        (v1 / "cpu.cfs_quota_us").write_text(quota)
        assert cpu_quota(tmp_path) == expected
    for text, expected in (("max 100000\n", math.inf), ("150000 100000\n", 1.5)):
        (tmp_path / "fs/cgroup/cpu.max").write_text(text)
        assert cpu_quota(tmp_path) == expected
    assert available_cores(tmp_path) <= 1.5


def settings(*, tuned: bool) -> RunSettings:
    return RunSettings(out="x", tune=tuned)


def test_threads_are_shared_among_the_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("prefloop.runtime.tune.available_cores", lambda: 6.0)
    for processes, threads in (("1", 6), ("2", 3), ("4", 1), ("9", 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert tune().threads == torch.get_num_threads() == threads
    assert "physical cores shared by 9 processes" in str(tune())


def test_omp_num_threads_wins_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    monkeypatch.setenv("OMP_NUM_THREADS", str(before))
    monkeypatch.setattr("prefloop.runtime.tune.available_cores", lambda: 64.0)
    chosen = tune()
    assert chosen.threads == before
    assert str(chosen).startswith(
        f"{before} threads (OMP_NUM_THREADS={before}; 64 cores available); allocator: "
    )


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is known on Linux only")
def test_threads_bound_by_openmp_stay_as_many_as_they_are() -> None:
    """Loading OpenMP binds the first thread to one core: counted by affinity, that would be all there is."""
    code = "import torch; from prefloop.runtime.tune import tune; print(tune())"
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    for bind, origin in (("true", "OMP_PROC_BIND=true"), ("false", "physical cores")):
        said = subprocess.run(
            [sys.executable, "-c", code],
            env={**environment, "OMP_PROC_BIND": bind},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        cores = len(os.sched_getaffinity(0))
        threads = cores if bind == "true" else max(1, int(available_cores()))
        assert said.startswith(f"{threads} threads ({origin};")


def test_off_leaves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda n: pytest.fail("threads were set"))
    monkeypatch.setattr("ctypes.CDLL", lambda name: pytest.fail("the allocator was set"))
    assert tune(False).allocator == "as it was"


def test_peak_memory_grows_with_what_was_used() -> None:
    before = peak_rss_mb()
    block = torch.ones(60 * 2**20, dtype=torch.uint8)
    assert block.sum() > 0
    assert peak_rss_mb() >= before
    assert 50 < peak_rss_mb() < 100_000
