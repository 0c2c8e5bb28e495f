"""Stages with T5 and BART: they learn, go on to the bit, and end with models that transformers loads. One stage of each family for one of the two."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from prefloop.configs.common import Compute
from prefloop.models.encoder_decoder import opening_of
from prefloop.runtime import Run
from prefloop.runtime.interrupt import Interrupted
from tests.algorithms.small import assert_same, interrupt, resumed, settings, train, write
from tests.tiny_encoder_decoders import KINDS, WORDS, save

CPU = Compute(device="cpu")
SCORER = {"t5": "reward_lora", "bart": "reward"}
RESUMED = {"t5": "ppo_lora", "bart": "nlpo"}
SHORT = {"dpo": "t5", "grpo": "bart"}
"""Stages of two steps."""


def make_project(kind: str, folder: Path) -> Path:
    """What `small.make_project` makes, for an encoder-decoder with random weights."""
    folder.mkdir()
    words = WORDS[:7]
    write(
        folder / "prompts.jsonl",
        [{"prompt": f"{word} cat" if i % 2 else word} for i, word in enumerate(words)],
    )
    write(
        folder / "demonstrations.jsonl",
        [{"prompt": word, "completion": " ".join(words[: 1 + i % 3])} for i, word in enumerate(words)],
    )
    write(
        folder / "comparisons.jsonl",
        [
            {"prompt": word, "chosen": f"{word} {words[i - 2]}", "rejected": words[i - 1], "margin": i / 10}
            for i, word in enumerate(words)
        ],
    )
    save(kind, folder / "stopping" / "final", seed=1, layers=1)
    train(replace(of(folder, SCORER[kind], out=SCORER[kind]), max_steps=2))
    return folder


def of(project: Path, name: str, *, out: str) -> Any:
    return settings(name, project, out=out, compute=CPU)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    torch.set_num_threads(1)
    made: dict[str, Path] = {}

    def project_of(kind: str) -> Path:
        if kind not in made:
            made[kind] = make_project(kind, tmp_path_factory.mktemp(kind) / "project")
        return made[kind]

    return project_of


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_stopped_goes_on_to_the_bit(
    kind: str, project: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, part = (of(project(kind), RESUMED[kind], out=out) for out in ("whole", "part"))
    train(whole)
    log = Run.log

    def log_and_stop(self: Run, step: int, *args: Any, **kwargs: Any) -> None:
        log(self, step, *args, **kwargs)
        if step == 2:
            interrupt()

    with monkeypatch.context() as patch:
        patch.setattr(Run, "log", log_and_stop)
        with pytest.raises(Interrupted):
            train(part)
    train(resumed(part))
    assert_same(Path(part.run.out), Path(whole.run.out))
    final = AutoModelForSeq2SeqLM.from_pretrained(Path(part.run.out) / "final")
    assert opening_of(final) == ((1, 2) if kind == "bart" else (0,))


@pytest.mark.parametrize("name", SHORT)
def test_a_stage_moves_the_encoder_and_the_decoder(name: str, project: Callable[[str], Path]) -> None:
    config = of(project(SHORT[name]), name, out=name)
    train(replace(config, **{"steps" if hasattr(config, "steps") else "max_steps": 2}))
    before, after = (
        AutoModelForSeq2SeqLM.from_pretrained(folder).state_dict()
        for folder in (config.model, Path(config.run.out) / "final")
    )
    moved = {key for key in after if not torch.equal(before[key], after[key])}
    assert any("encoder.block" in key or "encoder.layers" in key for key in moved)
    assert any("decoder.block" in key or "decoder.layers" in key for key in moved)
