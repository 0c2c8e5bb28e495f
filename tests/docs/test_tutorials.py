"""Tutorials that say so are run: their blocks in order, on tiny models that stand where a reader has trained ones."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.cli import main
from tests.docs.test_docs import ROOT, blocks
from tests.tiny_project import make_comparisons, make_model, make_prompts

FOLDER = ROOT / "docs" / "tutorials"
MARK = "<!-- run by tests/docs/test_tutorials.py -->"
SMALL = "--compute.device cpu --sampling.max_new_tokens 8 --batch_prompts 2 --steps 1"


def shell(command: str) -> None:
    """A command of the program, in this process."""
    words = shlex.split(command)
    assert words[0] == "prefloop"
    assert main(words[1:]) == 0, command


def run(page: str, shorter: Mapping[str, str]) -> dict[str, Any]:
    """Run a page's commands and its lines of Python, with some words put in place of others. Returns the names of its Python."""
    text = (FOLDER / page).read_text(encoding="utf-8")
    assert MARK in text
    for long, short in shorter.items():
        assert long in text
        text = text.replace(long, short)
    names: dict[str, Any] = {"__name__": Path(page).stem}
    for language, block in blocks(text):
        if language == "python":
            exec(compile(block, page, "exec"), names)
        elif language == "sh":
            for line in block.splitlines():
                shell(line)
    return names


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)


def test_every_marked_page_has_a_test() -> None:
    marked = {page.name for page in FOLDER.glob("*.md") if MARK in page.read_text(encoding="utf-8")}
    assert marked == {"compare.md", "own_loss.md"}


def test_compare() -> None:
    toy = Path("runs/toy")
    sft, prompts = make_model(toy / "sft" / "final"), make_prompts(toy / "data" / "prompts.jsonl", 12)
    comparisons = make_comparisons(toy / "data" / "comparisons.jsonl", 12)
    train = f"--model {sft}"
    shell(
        f"prefloop reward {train} --data {comparisons} --compute.device cpu --max_steps 1 --out {toy}/reward"
    )
    shell(f"prefloop dpo {train} --data {comparisons} --compute.device cpu --max_steps 1 --out {toy}/dpo")
    shell(
        f"prefloop ppo {train} --reward_model {toy}/reward/final --data {prompts} {SMALL} --epochs 1 --out {toy}/ppo"
    )
    run(
        "compare.md",
        {
            "--sampling.max_new_tokens 48 --optim.lr 3e-4 --steps 60": SMALL,
            "--sampling.max_new_tokens 48 --reward": "--sampling.max_new_tokens 8 --reward",
        },
    )
    assert Path("runs/compared/report.html").exists()
    assert all((toy / f"{name}-a" / "final").is_dir() for name in ("ppo", "grpo", "dpo"))


def test_own_loss(tmp_path: Path) -> None:
    names = run("own_loss.md", {'"MODEL"': repr(str(make_model(tmp_path / "start")))})
    assert names["run"].metrics.column("loss")[0] == pytest.approx(0.6931, abs=1e-3)


def test_the_pieces_of_the_own_algorithm_are_the_examples() -> None:
    example = (ROOT / "examples" / "online_kto.py").read_text(encoding="utf-8")
    pieces = [
        block
        for language, block in blocks((FOLDER / "own_algorithm.md").read_text("utf-8"))
        if language == "python"
    ]
    assert len(pieces) > 4
    bare = "".join(example.split())
    assert [piece for piece in pieces if "".join(piece.split()) not in bare] == []
