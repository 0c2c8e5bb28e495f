"""Under the real torchrun: what was wrong is the last line, however much torchrun says itself."""

import subprocess
import sys
from pathlib import Path

from tests.runtime.processes import ROOT, free_port


def torchrun(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    address = ["--master-port", str(free_port())]
    return subprocess.run(
        [*command, *address, "-m", "prefloop", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_an_input_error_is_the_last_line(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    done = torchrun("sft", "--model", str(tmp_path / "absent"), "--data", "rows.jsonl", "--out", out)
    assert done.returncode != 0
    lines = done.stderr.strip().splitlines()
    assert lines[-1].startswith("prefloop: error: ")
    assert "absent" in lines[-1]
    assert any("ChildFailedError" in line for line in lines[:-1])  # what torchrun itself had to say
    assert sum(line == lines[-1] for line in lines) == 2  # at once, and last
