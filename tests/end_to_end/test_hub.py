"""Models and data sets by name, from a hub: the libraries' own loading code, against a server on loopback that speaks the hub's protocol."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prefloop.algorithms import sft
from prefloop.cli import main
from prefloop.configs.common import Compute, Data, LoRA, RunSettings
from prefloop.configs.sft import SFTConfig
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.summary import PolicySummary, Summary, write_summary
from tests.hub import COMMIT, MAIN, TOKEN, hub
from tests.runtime.processes import ROOT
from tests.tiny_project import make_demonstrations, make_model


def run(address: str, home: Path, *commands: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
    """Commands one after the other in a process of their own, which ends with the codes of all."""
    program = f"from prefloop.cli import main; print([main(list(each)) for each in {commands!r}])"
    return subprocess.run(
        [sys.executable, "-c", program],
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
    make_model(tmp_path / "v2", chat=False, seed=2)
    (tmp_path / "data/data").mkdir(parents=True)
    for split, rows in (("train", 12), ("test", 4)):
        (tmp_path / f"data/data/{split}.jsonl").write_text(
            "".join(
                json.dumps({"prompt": f"{split} {i}", "completion": " yes" * (i + 1)}) + "\n"
                for i in range(rows)
            )
        )
    repositories = {
        "models/team/tiny": tmp_path / "model",
        "models/team/tiny@v2": tmp_path / "v2",
        "datasets/team/words": tmp_path / "data",
    }
    out = tmp_path / "project/sft"
    with hub(repositories) as (address, fetched):
        common = ("sft", "--model", "team/tiny@v2", "--lora.rank", "2", "--compute.device", "cpu")
        there = (*common, "--data", "team/words", "--out", str(out))
        missing = (*common, "--data", "team/wrods", "--out", str(tmp_path / "no"))
        done = run(address, tmp_path / "home", there, missing)
    assert done.stdout.splitlines()[-1] == "[0, 2]", done.stderr
    assert "models/team/tiny/model.safetensors" in fetched
    assert "datasets/team/words/data/train.jsonl" in fetched
    assert "team/words: 12 rows of format demonstration" in (out / "log.txt").read_text()
    assert (out / "final/model.safetensors").is_file()
    adapter = json.loads((tmp_path / "project/sft/final/adapter/adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("team/tiny", "v2")
    trained, base = (load_file(tmp_path / each / "model.safetensors") for each in ("project/sft/final", "v2"))
    assert torch.equal(trained["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert "team/wrods" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "no").exists()


pytestmark = pytest.mark.filterwarnings(
    "ignore:Use 'content=<...>':DeprecationWarning"  # of huggingface_hub's own upload
)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A run with an adapter, and an evaluation of it."""
    make_model(tmp_path / "model")
    config = SFTConfig(
        model=str(tmp_path / "model"),
        data=Data(source=str(make_demonstrations(tmp_path / "demos.jsonl")), heldout=0.2),
        lora=LoRA(rank=2),
        batch_size=8,
        compute=Compute(device="cpu"),
        run=RunSettings(out=str(tmp_path / "project/sft"), tune=False),
    )
    sft.train(config)
    number = Estimate(value=0.61, low=0.57, high=0.65, n=300)
    policy = PolicySummary(
        name="sft",
        checkpoint="sft/final",
        kl=number,
        length=number,
        repetition=number,
        win_rate_vs_sft=number,
    )
    summary = Summary(
        recipe="eval",
        seconds=1.0,
        peak_rss_mb=1.0,
        reward_model=None,
        policies=(policy,),
        alarms=(f"answers in {tmp_path}/answers.jsonl are long",),
    )
    write_summary(tmp_path / "project/summary.json", summary)
    return tmp_path / "project"


def on_hub(address: str, monkeypatch: pytest.MonkeyPatch, token: str = TOKEN) -> None:
    for name, value in (("ENDPOINT", address), ("HF_HUB_OFFLINE", False), ("HF_HUB_DISABLE_XET", True)):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", token)


def test_a_model_is_pushed_with_its_card(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    final, there = str(project / "sft/final"), tmp_path / "there/team/words"
    with hub({}, uploads=tmp_path / "there") as (address, done):
        on_hub(address, monkeypatch)
        assert main(["push", str(project / "sft"), "team/words", "--private"]) == 0
        assert done == ["created private team/words"]
        (there / MAIN / "model-00001-of-00002.safetensors").write_bytes(b"of another model")
        assert main(["push", final, "team/words"]) == 0
        assert main(["push", final, "team/words", "--revision", "v2"]) == 0
    assert f"pushed to {address}/team/words/commit/{COMMIT}" in capsys.readouterr().out
    card = (there / MAIN / "README.md").read_text()
    for name in (MAIN, "v2"):
        pushed = {path.name for path in (there / name).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= pushed
        assert not pushed & {"manifest.json", "adapter", "model-00001-of-00002.safetensors"}
        assert (there / name / "model.safetensors").read_bytes() == Path(
            final, "model.safetensors"
        ).read_bytes()
    assert card.startswith(
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags:\n- prefloop\n- sft\n---\n"
    )
    assert "1. **sft** (" in card
    assert "from `model`; data: `demos.jsonl` (12 rows, sha256 " in card
    assert "| win rate against the policy it is compared with | 0.61 | 0.57 to 0.65 | 300 |" in card
    assert "lora:\n  rank: 2" in card
    assert "**Alarm:** answers in answers.jsonl are long" in card
    assert str(tmp_path) not in card
    assert not Path(final, "README.md").exists()


def test_an_adapter_is_pushed_with_a_base_that_others_have(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter, there = project / "sft/final/adapter", tmp_path / "there/team/lora" / MAIN
    assert main(["push", str(adapter), "team/lora", "--dry_run"]) == 2
    assert (
        "a folder that nobody else has; push that first, and name it with --base OWNER/NAME"
        in capsys.readouterr().err
    )
    to_base = ["push", str(adapter), "team/lora", "--base", "team/model"]
    assert main([*to_base, "--dry_run"]) == 0
    assert "would push " in capsys.readouterr().out
    assert main(["verify", str(project / "sft/final")]) == 0  # with the card beside the adapter
    written = (adapter / "README.md").read_text()
    assert "base_model: team/model\nbase_model_relation: adapter\nlibrary_name: peft" in written
    assert 'PeftModel.from_pretrained(base, "team/lora")' in written
    (adapter / "README.md").write_text("My own words.")
    with hub({}, uploads=tmp_path / "there") as (address, done):
        on_hub(address, monkeypatch)
        assert main(to_base) == 0
        assert done == ["created public team/lora"]
    assert (there / "README.md").read_text() == "My own words."
    assert json.loads((there / "adapter_config.json").read_text())["base_model_name_or_path"] == "team/model"
    assert (there / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("token", ["hf_" + "x" * 34, "hf_" + "x" * 34 + "\n", "hf_" + "x" * 34 + "\x00"])
def test_a_login_that_is_refused_is_said_without_the_token(
    project: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    token: str,
) -> None:
    with hub({}, uploads=tmp_path / "there") as (address, done):
        if "\x00" in token:  # no environment can hold it, a file can
            monkeypatch.setattr("huggingface_hub.utils._headers.get_token", lambda: token)
        on_hub(address, monkeypatch, token.strip("\x00"))
        assert main(["push", str(project / "sft"), "team/words"]) == 2
        assert done == []
    told = capfd.readouterr()
    assert "team/words could not be pushed: " in told.err
    assert "x" * 34 not in told.out + told.err


def test_a_damaged_model_is_not_pushed(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = project / "sft/final/model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.unlink()
    file.write_bytes(content)
    assert main(["push", str(project / "sft/final"), "team/words", "--dry_run"]) == 2
    assert "model.safetensors was changed after it was written" in capsys.readouterr().err
    assert not (project / "sft/final/README.md").exists()
