"""SFT learns a toy task, trains the stop token, and trains nothing else than completions."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from prefloop.algorithms.sft import likelihood_metrics
from prefloop.configs.common import Data, LoRA, Optim, RunSettings
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from prefloop.models.load import load_policy
from prefloop.runtime import start_world
from prefloop.text import demonstration_group, load_tokenizer
from tests.algorithms.small import assert_same, weights_of
from tests.algorithms.test_resume import train_with_a_stop_after_every_step
from tests.algorithms.tiny import CPU, FAST, echoes, logged


def config(project: Path, out: Path, **changes: Any) -> SFTConfig:
    basic = SFTConfig(
        run=RunSettings(out=str(out)),
        data=Data(source=str(echoes(out.with_suffix(".jsonl"))), heldout=0.25),
        model=str(project / "start"),
        batch_size=12,
        epochs=20,
        optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


def test_answers_are_learned_and_heldout_loss_falls(project: Path, tmp_path: Path) -> None:
    rows = logged(config(project, tmp_path / "sft", eval_every=20))
    assert rows[0]["loss"] > 4  # 300 tokens, nothing known
    assert rows[-1]["heldout_loss"] < 0.2
    assert rows[-1]["heldout_perplexity"] == pytest.approx(math.exp(rows[-1]["heldout_loss"]))
    assert rows[-1]["loss"] < 0.2


def test_the_trained_model_is_plain_and_stops_by_itself(project: Path, tmp_path: Path) -> None:  # M1
    settings = config(project, tmp_path / "sft")
    logged(settings)
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "sft/final", use_safetensors=True)
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path / "sft/final")
    asked = tokenizer("bake", return_tensors="pt")
    said = model.generate(**asked, max_new_tokens=20, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True) == " so be it"
    assert said[-1] == tokenizer.eos_token_id


def test_trained_tokens_are_the_completions_and_their_stop_token(project: Path, tmp_path: Path) -> None:  # M6
    settings = config(project, tmp_path / "sft", max_steps=1)
    (row,) = logged(settings)
    tokenizer = load_tokenizer(str(project / "start"))
    one = len(tokenizer(" so be it", add_special_tokens=False)["input_ids"]) + 1
    assert row["tokens"] == 12 * one


def test_logged_heldout_loss_is_that_of_the_saved_model(project: Path, tmp_path: Path) -> None:  # N9
    settings = config(project, tmp_path / "sft", max_steps=3)
    row = logged(settings)[-1]
    from prefloop.loop.inputs import demonstrations

    world, tokenizer = start_world("cpu"), load_tokenizer(str(tmp_path / "sft/final"))
    heldout = demonstrations(settings.data, tokenizer, "", world).heldout
    again = [demonstration_group(tokenizer, record) for record in heldout.records]
    policy = load_policy(str(tmp_path / "sft/final"), CPU)
    ours = likelihood_metrics(policy, again, tokens=50, world=world)
    assert ours["heldout_loss"] == pytest.approx(row["heldout_loss"], rel=1e-5)


def test_nothing_is_learned_from_heldout_prompts(project: Path, tmp_path: Path) -> None:
    """What is held out can say anything: the weights do not change."""
    settings = config(project, tmp_path / "sft", max_steps=3)
    logged(settings)
    from prefloop.data import load_demonstrations, split

    _, heldout = split(load_demonstrations(settings.data.source).records, heldout=settings.data.heldout)
    held = {record.origin for record in heldout}
    rows = [json.loads(line) for line in Path(settings.data.source).read_text().splitlines()]
    kept = load_demonstrations(settings.data.source).records
    other = [
        {**row, "completion": " never mind"} if record.origin in held else row
        for row, record in zip(rows, kept, strict=True)
    ]
    assert 0 < len(held) < len(rows)
    again = config(project, tmp_path / "again", max_steps=3)
    Path(again.data.source).write_text("".join(json.dumps(row) + "\n" for row in other))
    logged(again)
    ours, theirs = weights_of(tmp_path / "sft/final"), weights_of(tmp_path / "again/final")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_price_of_changes_leaves_weights_exactly_as_they_were(project: Path, tmp_path: Path) -> None:
    """PAFT's sparse SFT: the answer is still learned, with a fraction of the weights; more to pay, fewer of them."""
    changed = []
    for l1 in (0.0, 0.3, 0.7):
        rows = logged(config(project, tmp_path / f"sft-{l1}", l1=l1))
        before, after = weights_of(project / "start"), weights_of(tmp_path / f"sft-{l1}/final")
        counts = [(int((after[name] != before[name]).sum()), after[name].numel()) for name in after]
        changed.append(sum(moved for moved, _ in counts) / sum(all for _, all in counts))
        assert rows[-1].get("changed", changed[-1]) == pytest.approx(changed[-1], abs=1e-6)
        assert rows[-1]["heldout_loss"] < (0.2 if l1 < 0.5 else rows[0]["loss"])
    assert changed[0] == 1
    assert changed[2] < changed[1] < 0.9


def test_a_stopped_run_pulls_back_to_where_the_whole_one_began(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # R1
    whole = config(project, tmp_path / "whole", l1=0.3, epochs=1)
    logged(whole)
    stopped = replace(whole, run=RunSettings(out=str(tmp_path / "stopped")))
    assert train_with_a_stop_after_every_step(stopped, monkeypatch) == 3
    assert_same(tmp_path / "stopped", tmp_path / "whole")


def test_a_price_of_changes_is_of_weights_and_not_of_adapters(project: Path, tmp_path: Path) -> None:  # K7
    with pytest.raises(InputError, match="set one of them to 0"):
        config(project, tmp_path / "sft", l1=0.1, lora=LoRA(rank=2))


def test_an_adapter_learns_too_and_is_saved_merged(project: Path, tmp_path: Path) -> None:  # R8
    settings = config(
        project,
        tmp_path / "sft",
        model=str(project / "stopping/final"),
        lora=LoRA(rank=8, alpha=32.0),
        optim=Optim(lr=3e-2, schedule="constant"),
        epochs=10,
    )
    rows = logged(settings)
    assert rows[-1]["heldout_loss"] < 0.7 * rows[0]["loss"]
    policy = load_policy(str(tmp_path / "sft/final"), CPU)
    tokenizer = load_tokenizer(str(tmp_path / "sft/final"))
    from prefloop.loop.inputs import demonstrations

    heldout = demonstrations(settings.data, tokenizer, "", start_world("cpu")).heldout.groups
    ours = likelihood_metrics(policy, heldout, tokens=100, world=start_world("cpu"))
    assert ours["heldout_loss"] == pytest.approx(rows[-1]["heldout_loss"], rel=1e-4)
