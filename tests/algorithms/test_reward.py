"""The reward model learns a rule that shows in the text, and is saved with the scores it trained."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from prefloop.algorithms.reward import train
from prefloop.configs.common import Data, LoRA, Optim, RunSettings
from prefloop.configs.reward import RewardConfig
from prefloop.errors import InputError
from prefloop.loop.inputs import comparisons
from prefloop.models.load import load_reward_model, reward_moments
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer
from tests.algorithms.small import write
from tests.algorithms.tiny import CPU, FAST, logged, pairs


def config(project: Path, out: Path, **changes: Any) -> RewardConfig:
    basic = RewardConfig(
        run=RunSettings(out=str(out)),
        data=Data(source=str(pairs(out.with_suffix(".jsonl"))), heldout=0.25),
        model=str(project / "start"),
        batch_size=12,
        epochs=5,
        optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


def heldout_scores(settings: RewardConfig) -> torch.Tensor:
    """Scores `[pairs, 2]` of the held-out comparisons by the saved model."""
    folder = str(Path(settings.run.out) / "final")
    world, tokenizer = start_world("cpu"), load_tokenizer(folder)
    groups = comparisons(settings.data, tokenizer, "", world).heldout.groups
    return score_groups(load_reward_model(folder, CPU), groups, tokens=64, world=world).view(-1, 2)


def test_a_visible_rule_is_learned_beyond_90_percent(project: Path, tmp_path: Path) -> None:
    settings = config(project, tmp_path / "reward")
    row = logged(settings)[-1]
    assert row["heldout_accuracy"] > 0.9
    scores = heldout_scores(settings)
    assert len(scores) >= 10
    assert (scores[:, 0] > scores[:, 1]).float().mean() == pytest.approx(row["heldout_accuracy"])  # N9


def test_transformers_gives_the_same_scores(project: Path, tmp_path: Path) -> None:  # M14 C3
    settings = config(project, tmp_path / "reward", max_steps=4)
    logged(settings)
    folder = str(tmp_path / "reward/final")
    groups = comparisons(settings.data, load_tokenizer(folder), "", start_world("cpu")).heldout.groups
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, use_safetensors=True).eval()
    with torch.no_grad():
        theirs = [
            model(input_ids=torch.tensor([[*group.prompt, *completion]])).logits.item()
            for group in groups
            for completion in group.completions
        ]
    torch.testing.assert_close(heldout_scores(settings).flatten(), torch.tensor(theirs), rtol=1e-4, atol=1e-5)


def test_a_trained_head_that_is_not_kept_is_said(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # C3
    trained = str(project / "reward/final")
    with caplog.at_level(logging.WARNING):
        logged(config(project, tmp_path / "kept", model=trained, keep_head=True, max_steps=1))
        logged(config(project, tmp_path / "fresh", max_steps=1))
        assert "trained head" not in caplog.text
        logged(config(project, tmp_path / "again", model=trained, max_steps=1))
    assert f"{trained} has a trained head, which is replaced" in caplog.text


def test_stored_moments_are_those_of_heldout_scores(project: Path, tmp_path: Path) -> None:
    settings = config(project, tmp_path / "reward", max_steps=6)
    logged(settings)
    scores = heldout_scores(settings).double().flatten()
    mean, std = reward_moments(load_reward_model(str(tmp_path / "reward/final"), CPU))
    assert mean == pytest.approx(scores.mean().item(), abs=1e-5)
    assert std == pytest.approx(scores.std().item(), rel=1e-4)
    plain = config(project, tmp_path / "plain", max_steps=6, normalise=False)
    logged(plain)
    assert reward_moments(load_reward_model(str(tmp_path / "plain/final"), CPU)) == (0.0, 1.0)
    torch.testing.assert_close(heldout_scores(plain), heldout_scores(settings), rtol=0, atol=0)


def test_centring_keeps_scores_near_zero(project: Path, tmp_path: Path) -> None:  # K7
    """The pull is on chosen + rejected, so the difference is learned all the same."""
    means = {}
    for coefficient in (0.0, 1.0):
        settings = config(project, tmp_path / f"reward{coefficient:g}", centring=coefficient)
        assert logged(settings)[-1]["heldout_accuracy"] > 0.9
        means[coefficient] = heldout_scores(settings).sum(1).abs().mean().item()
    assert means[1.0] < 0.5 * means[0.0]


def test_margin_and_smoothing_change_the_first_loss_as_the_formula_says(
    project: Path, tmp_path: Path
) -> None:  # K7
    rows = [
        {"prompt": f"{i}", "chosen": "a yes", "rejected": "b no", "margin": 0.5 * (1 + i % 3)}
        for i in range(6)
    ]
    settings, losses = config(project, tmp_path / "settings"), {}
    for name, changes in {
        "plain": {},
        "margin": {"margin": True},
        "smooth": {"label_smoothing": 0.2},
    }.items():
        settings = config(
            project, tmp_path / name, batch_size=6, max_steps=1, centring=0.0, optim=Optim(lr=0.0), **changes
        )
        write(Path(settings.data.source), rows)
        settings = replace(settings, data=replace(settings.data, heldout=0.0))
        losses[name] = logged(settings)[0]["loss"]
    # The rate was 0, so the saved model is the one that all three first losses are of.
    folder = str(tmp_path / "plain/final")
    groups = comparisons(settings.data, load_tokenizer(folder), "", start_world("cpu")).train.groups
    model = load_reward_model(folder, CPU)
    d = (
        score_groups(model, groups, tokens=99, world=start_world("cpu"))
        .double()
        .view(-1, 2)
        .diff(dim=1)[:, 0]
    )
    margins = torch.tensor([row["margin"] for row in rows], dtype=torch.float64)
    plain = torch.log1p(d.exp())
    assert losses["plain"] == pytest.approx(plain.mean().item(), rel=1e-5)
    assert losses["margin"] == pytest.approx(torch.log1p((d + margins).exp()).mean().item(), rel=1e-5)
    smooth = 0.8 * plain + 0.2 * torch.log1p((-d).exp())
    assert losses["smooth"] == pytest.approx(smooth.mean().item(), rel=1e-5)


def test_an_adapter_learns_the_rule_too(project: Path, tmp_path: Path) -> None:  # R8
    settings = config(
        project,
        tmp_path / "reward",
        model=str(project / "stopping/final"),
        lora=LoRA(rank=4, alpha=16.0),
        epochs=10,
    )
    row = logged(settings)[-1]
    assert row["heldout_accuracy"] > 0.9
    scores = heldout_scores(settings)  # by the merged model
    assert (scores[:, 0] > scores[:, 1]).float().mean() == pytest.approx(row["heldout_accuracy"])


def test_margins_that_no_comparison_has_are_refused(project: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no comparison has a margin above 0"):
        train(config(project, tmp_path / "reward", margin=True))
