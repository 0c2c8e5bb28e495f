"""Models and data sets by name, from a hub: the libraries' own loading code, against a server on loopback that speaks the hub's protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.hub import hub
from tests.runtime.processes import ROOT
from tests.tiny_project import make_model


def run(address: str, home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefloop", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "HF_ENDPOINT": address,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_a_model_and_a_data_set_are_read_by_their_hub_names(tmp_path: Path) -> None:
    make_model(tmp_path / "model", chat=False)
    (tmp_path / "data/data").mkdir(parents=True)
    for split, rows in (("train", 12), ("test", 4)):
        (tmp_path / f"data/data/{split}.jsonl").write_text(
            "".join(
                json.dumps({"prompt": f"{split} {i}", "completion": " yes" * (i + 1)}) + "\n"
                for i in range(rows)
            )
        )
    repositories = {"models/team/tiny": tmp_path / "model", "datasets/team/words": tmp_path / "data"}
    out = tmp_path / "project/sft"
    with hub(repositories) as (address, fetched):
        common = ("sft", "--model", "team/tiny", "--optim.lr", "1e-3", "--compute.device", "cpu")
        done = run(address, tmp_path / "home", *common, "--data", "team/words", "--out", str(out))
        assert done.returncode == 0, done.stderr
        missing = run(
            address, tmp_path / "home", *common, "--data", "team/wrods", "--out", str(tmp_path / "no")
        )
    assert "models/team/tiny/model.safetensors" in fetched
    assert "datasets/team/words/data/train.jsonl" in fetched
    assert "team/words: 12 rows of format demonstration" in (out / "log.txt").read_text()
    assert (out / "final/model.safetensors").is_file()
    assert missing.returncode == 2
    assert "team/wrods" in missing.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "no").exists()
