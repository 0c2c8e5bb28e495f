"""The benchmark beside TRL reports every case that ran, names those that failed, and waits for no worker for ever."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import get_peft_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

import bench.versus.__main__ as versus
from bench.versus.cases import (
    CASES,
    GIVEN_CASES,
    OFFLINE,
    SIZES,
    Conditions,
    Size,
    Work,
    conditions_of,
    flops,
)
from bench.versus.contender import ROOT, Contender, ContenderError
from bench.versus.material import make_material
from prefloop.text import train_tokenizer

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


def state_of(worker: Contender) -> str:
    """The kernel's letter for it; T is stopped."""
    return Path(f"/proc/{worker._process.pid}/stat").read_text().rpartition(")")[2].split()[0]


def comes_true(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_is_stopped_while_it_waits(tmp_path: Path):
    with contender(tmp_path, WORKER) as worker:
        for _ in range(2):
            assert comes_true(lambda: state_of(worker) == "T")
            worker.step()
        assert comes_true(lambda: state_of(worker) == "T")
        assert worker.close() == 7.0
    command = [sys.executable, "-c", WORKER]
    with Contender("TRL", command, {}, tmp_path / "log", patience=20.0, stopped=False) as worker:
        assert not comes_true(lambda: state_of(worker) == "T", seconds=0.3)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a stopped worker stays")
def test_a_stopped_worker_ends_with_a_parent_that_is_killed(tmp_path: Path):
    parent = f"""
import os, signal, sys
from pathlib import Path
from bench.versus.contender import Contender
worker = Contender("TRL", [sys.executable, "-c", {WORKER!r}], {{}}, Path({str(tmp_path / "log")!r}))
print(worker._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", parent], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert done.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    assert comes_true(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


class Held:
    """Stands for what a size's folder holds."""

    comparisons = ((4, 4, 4),) * 32

    def work(self, stage: str, step: int, conditions: Conditions) -> Work:
        return Work.of(2, 25, [25])


def rows(trl_loss: float) -> dict[str, dict[str, Any]]:
    """What was measured of a case."""
    losses = {
        "prefloop": 0.5,
        versus.COARSE: 0.6,
        versus.THEIR_COARSE: 0.7,
        "TRL": trl_loss,
        "TRL tuned": 0.5,
    }
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
            del measured[versus.COARSE], measured[versus.THEIR_COARSE]  # the processor cannot
        return measured

    monkeypatch.setattr(versus, "run_case", run_case)
    monkeypatch.setattr(versus, "make_environment", lambda folder: folder / "bin/python")
    monkeypatch.setattr(versus, "make_material", lambda *_: {"tiny": Held()})
    monkeypatch.setattr(Size, "of", lambda _: SIZES["tiny"])
    monkeypatch.setattr(versus, "multiplies_bfloat16", lambda: True)
    monkeypatch.setattr(versus, "limit_gflops", lambda dtype: 2.0 if dtype == torch.float32 else 8.0)
    cases = ["sft-tiny", "orpo-tiny", "dpo-tiny", "kto-tiny"]
    asked = ["--warm", "1", "--steps", "1", "--out", str(tmp_path)]
    assert versus.main(["--only", *cases, *asked]) == 1
    table = (tmp_path / "table.md").read_text()
    assert [line.split()[1] for line in table.splitlines() if line.startswith("| ")][2:] == [
        "sft-tiny",
        "kto-tiny",
    ]
    assert table.startswith(
        "Limit of a large matrix product, the best seen: 2 GFLOP/s in float32, 8 in bfloat16"
    )
    of = {
        line.split()[1]: [cell.strip() for cell in line.split("|")[2:-1]]
        for line in table.splitlines()
        if line.startswith(("| sft", "| kto"))
    }
    assert of["kto-tiny"][8:] == ["—"] * 5
    assert of["sft-tiny"][8:12] == ["1.00 s", "2.0x", "100 MB", "100 MB"]
    measured = json.loads((tmp_path / "sft-tiny.json").read_text())
    least = flops("sft", Work.of(2, 25, [25]), SIZES["tiny"]) / 1e9
    assert measured[versus.COARSE]["gflops"] == pytest.approx(least)  # in a second; in float32 in two
    shares = [float(cell.split()[0]) for cell in (of["sft-tiny"][6], of["sft-tiny"][12])]
    assert shares == [pytest.approx(100 * least / 2 / 2, abs=0.5), pytest.approx(100 * least / 8, abs=0.5)]
    assert "- orpo-tiny failed: TRL ended; the end of the log:\n" in table
    assert "- dpo-tiny failed: the first loss of TRL is 0.7, of prefloop 0.5" in table
    assert {file.name for file in tmp_path.iterdir()} == {"table.md", "sft-tiny.json", "kto-tiny.json"}
    said = capsys.readouterr()
    assert table in said.out
    assert "Traceback" in said.err
    assert versus.main(["--only", "sft-tiny", *asked]) == 0


def test_each_by_itself_or_in_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    done: list[str] = []

    class Recorded(Contender):
        def step(self) -> None:
            done.append(self.name)
            self.steps.append({"seconds": 1.0, "processor_seconds": 1.0})

    def entrants(_case: str, _folder: Path, _peer: Path, names: tuple[str, ...]) -> dict[str, Any]:
        return {name: ([sys.executable, "-c", WORKER], {}) for name in names}

    monkeypatch.setattr(versus, "Contender", Recorded)
    monkeypatch.setattr(versus, "entrants", entrants)
    for alone, order in ((False, ["a", "b", "a", "b"]), (True, ["a", "a", "b", "b"])):
        done.clear()
        way = versus.Way(names=("a", "b"), warm=1, steps=1, alone=alone)
        assert list(versus.run_case("sft-tiny", tmp_path, tmp_path, way, tmp_path)) == ["a", "b"]
        assert done == order


@pytest.mark.parametrize(
    ("name", "native", "agrees"),
    [("TRL tuned", True, True), ("TRL tuned", False, False), ("TRL", True, False)],
)
def test_only_products_that_are_rounded_may_give_another_loss(
    name: str, native: bool, agrees: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(versus, "multiplies_bfloat16", lambda: native)
    result = {"prefloop": {"first_loss": 0.7188}, name: {"first_loss": 0.7233}}
    if agrees:
        versus.check_losses("reward-smol", result)
    else:
        with pytest.raises(versus.LossError, match=name):
            versus.check_losses("reward-smol", result)


def test_a_published_model_needs_its_folder(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        versus.main(["--only", "dpo-smol"])
    assert "cases of size smol need --model" in capsys.readouterr().err


@pytest.mark.parametrize("case", [case for case in (*CASES, *GIVEN_CASES) if case.split("-")[0] in OFFLINE])
def test_one_pass_over_the_records_has_more_steps_than_are_measured(case: str):
    conditions = conditions_of(case)
    records = conditions.steps * conditions.pairs * (2 if case.startswith("kto") else 1)
    warm, measured = 2, 5  # unless told otherwise
    assert records // conditions.batch_size(case.split("-")[0]) >= warm + measured


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


def test_the_weights_of_a_published_model_are_counted(tmp_path: Path):
    """Keys and values of fewer heads, heads of a size of their own, one matrix for input and output."""
    config = LlamaConfig(
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        intermediate_size=48,
        vocab_size=100,
        tie_word_embeddings=True,
    )
    config.save_pretrained(tmp_path)
    size, model = Size.of(tmp_path), LlamaForCausalLM(config)
    of_layer = {name: p.numel() for name, p in model.model.layers[2].named_parameters() if p.ndim == 2}
    of_keys = sum(count for name, count in of_layer.items() if "k_proj" in name or "v_proj" in name)
    assert size.trunk_weights == 3 * sum(of_layer.values())
    assert size.last_weights == sum(of_layer.values()) - of_keys
    assert size.head_weights == model.lm_head.weight.numel()
    adapted = get_peft_model(model, PeftConfig(r=4, target_modules="all-linear"))
    adapters = {name: p.numel() for name, p in adapted.named_parameters() if "lora_" in name}
    assert size.adapter_weights(4) == sum(adapters.values())
    last = [
        n
        for name, n in adapters.items()
        if "layers.2." in name and "k_proj" not in name and "v_proj" not in name
    ]
    assert size.last_adapter_weights(4) == sum(last)


def test_frozen_weights_need_no_gradient_of_their_own():
    """With adapters: twice the weights' work, forward and to what came before, and three times the adapters' and attention's."""
    size, work = SIZES["tiny"], Work.of(2, 20, [5, 7])
    attention = 2 * 2 * size.layers * size.hidden * work.squares
    weights = work.flops(size, scored=1) - attention
    adapters = 2 * (
        size.adapter_weights(8) * work.tokens
        - size.last_adapter_weights(8) * (work.tokens - work.head_tokens)
    )
    least = work.flops(size, trained=1, rank=8)
    assert least == pytest.approx(2 * weights + 3 * attention + 3 * adapters)
    assert work.flops(size, scored=1, rank=8) == work.flops(size, scored=1)
    conditions = conditions_of("dpo-smol-lora")
    assert conditions.lora == 16
    assert flops("dpo", work, size, conditions) == work.flops(size, trained=1, scored=1, rank=16)
    assert conditions_of("dpo-smol").lora == conditions_of("dpo-tiny").lora == 0


def test_rows_of_a_published_model_are_written_as_messages_and_rendered(tmp_path: Path):
    """And padding is not its end token."""
    source = tmp_path / "source"
    texts = ["What is this?", "A thing that is good.", "Another thing, bad."] * 20
    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.chat_template = "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    tokenizer.add_special_tokens({"unk_token": "<unk>"})
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(source)
    shape: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
    }
    LlamaForCausalLM(LlamaConfig(**shape)).save_pretrained(source)
    data = tmp_path / "comparisons.jsonl"
    row = {"prompt": "What is this?", "chosen": "A thing that is good.", "rejected": "Another thing, bad."}
    data.write_text(json.dumps(row) + "\n")
    made = make_material(tmp_path / "made", str(data), ["smol"], str(source))["smol"]
    written = json.loads((tmp_path / "made/smol/comparisons.jsonl").read_text())
    assert written == {**row, "prompt": "[user]What is this?[assistant]"}
    chat = json.loads((tmp_path / "made/smol/chat/comparisons.jsonl").read_text())
    assert chat == {**row, "prompt": [{"role": "user", "content": "What is this?"}]}
    assert len(made.comparisons) == 1
    for name in ("policy", "reward_model"):
        kept = AutoTokenizer.from_pretrained(tmp_path / "made/smol" / name)
        config = json.loads((tmp_path / "made/smol" / name / "config.json").read_text())
        assert kept.pad_token_id == config["pad_token_id"] != kept.eos_token_id
