"""The GPU's benchmark runs from end to end on a processor, and says in one line that there is no GPU."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bench.gpu.__main__ import main
from bench.gpu.material import SIZES, comparisons, language_model, round_prompts, write_material
from bench.gpu.timing import forward_flops
from prefloop.models.packing import pack


def test_every_part_runs_on_a_processor_and_a_contender_that_fails_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    broken = tmp_path / "bin/python"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho no such package >&2\nexit 3\n")
    broken.chmod(0o755)
    asked = ["--device", "cpu", "--size", "tiny", "--repeats", "1", "--family", "llama"]
    assert main([*asked, "--trl", str(broken)]) == 1
    said = capsys.readouterr()
    head, equality, *cases = said.out.splitlines()
    assert head.startswith("cpu, torch")
    assert "equality on cpu (fused): log-probabilities differ by 0.0e+00" in equality
    assert [line.split(":")[0] for line in cases] == [
        "dpo",
        "ppo update",
        "ppo round",
        "grpo round",
        "generation",
    ]
    in_process = (cases[0], cases[1], cases[4])
    assert all(re.search(r"ours [\d,]+ .*plain [\d,]+ .*\d\.\d\dx plain", line) for line in in_process)
    assert all(re.search(r"ours [\d,]+ .*MFU \d", line) for line in cases)
    for stage in ("dpo", "ppo", "grpo"):
        assert f"{stage} of TRL was not measured: TRL ended" in said.err
    assert "no such package" in said.err


def test_the_other_family_ends_well(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Without the rounds, which are stages in processes of their own."""
    monkeypatch.setattr("bench.gpu.__main__.time_rounds", lambda _: None)
    assert main(["--device", "cpu", "--size", "tiny", "--repeats", "1", "--family", "qwen2"]) == 0
    cases = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(":")[0] for line in cases] == ["dpo", "ppo update", "generation"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line(capsys: pytest.CaptureFixture[str]):
    assert main([]) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_the_arithmetic_of_a_pass_counts_each_product_once():
    size = SIZES["tiny"]
    batch = pack(comparisons(size))
    model = language_model(size, "llama", torch.float32)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n)
    head = model.get_output_embeddings().weight.numel()  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    unread = sum(
        p.numel()
        for n, p in model.named_parameters()
        if f"layers.{size.model.layers - 1}." in n and p.ndim == 2 and "k_proj" not in n and "v_proj" not in n
    )
    attended = sum(int(position) + 1 for position in batch.position_ids)
    predicted = len(batch.targets)
    wanted = (
        2 * (matrices * batch.tokens - unread * (batch.tokens - predicted) + head * predicted)
        + 4 * 2 * 64 * attended
    )
    assert forward_flops(size, batch) == wanted


def test_the_other_side_reads_the_same_tokens(tmp_path: Path):
    size = SIZES["tiny"]
    groups = comparisons(size)
    write_material(tmp_path, size, "llama", groups)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    rows = [json.loads(line) for line in (tmp_path / "comparisons.jsonl").read_text().splitlines()]
    assert len(rows) == len(groups)
    for row, group in zip(rows, groups, strict=True):
        assert tokenizer(row["prompt"])["input_ids"] == group.prompt
        for side, completion in zip(("chosen", "rejected"), group.completions, strict=True):
            assert tokenizer(row["prompt"] + row[side])["input_ids"] == [*group.prompt, *completion[:-1]]
    prompts = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [tokenizer(row["prompt"])["input_ids"] for row in prompts] == round_prompts(size)
