"""The GPU's benchmark runs from end to end on a processor, and says in one line that there is no GPU."""

import json
import re
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from bench import gpu


@pytest.mark.parametrize("family", gpu.CONFIGS)
def test_every_part_runs_on_a_processor(family: str, capsys: pytest.CaptureFixture[str]):
    assert gpu.main(["--device", "cpu", "--size", "tiny", "--repeats", "1", "--family", family]) == 0
    head, equality, *cases = capsys.readouterr().out.splitlines()
    assert head.startswith("cpu, torch")
    assert "equality on cpu (packed): log-probabilities differ by 0.0e+00" in equality
    assert [line.split(":")[0] for line in cases] == ["dpo", "ppo update", "generation"]
    assert all(re.search(r"ours [\d,]+ .*plain [\d,]+ .*\d\.\d\dx plain", line) for line in cases)
    assert all("MFU" in line for line in cases[:2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_ends_with_one_line(capsys: pytest.CaptureFixture[str]):
    assert gpu.main([]) == 1
    assert capsys.readouterr().out.count("\n") == 1


def test_the_arithmetic_of_a_pass_counts_each_product_once():
    size = gpu.SIZES["tiny"]
    batch = gpu.pack(gpu.comparisons(size))
    model = gpu.language_model(size, "llama", torch.float32)
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and "layers" in n)
    head = model.get_output_embeddings().weight.numel()  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
    attended = sum(int(position) + 1 for position in batch.position_ids)
    wanted = 2 * (matrices * batch.tokens + head * len(batch.targets)) + 4 * 2 * 64 * attended
    assert gpu.forward_flops(size, batch) == wanted


def test_the_other_side_reads_the_same_tokens(tmp_path: Path):
    size = gpu.SIZES["tiny"]
    groups = gpu.comparisons(size)
    gpu.write_material(tmp_path, gpu.language_model(size, "llama", torch.float32), groups)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    rows = [json.loads(line) for line in (tmp_path / "comparisons.jsonl").read_text().splitlines()]
    assert len(rows) == len(groups)
    for row, group in zip(rows, groups, strict=True):
        assert tokenizer(row["prompt"])["input_ids"] == group.prompt
        for side, completion in zip(("chosen", "rejected"), group.completions, strict=True):
            assert tokenizer(row["prompt"] + row[side])["input_ids"] == [*group.prompt, *completion[:-1]]
