"""What a run logs is what its saved models give, computed again the plain way: one sequence at a time, in float64, by transformers alone."""

import math
from collections.abc import Callable
from pathlib import Path
from statistics import fmean

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from prefloop.loop.inputs import Inputs, comparisons, demonstrations
from prefloop.records import Comparison
from prefloop.runtime import World
from prefloop.text import load_tokenizer
from tests.algorithms.small import metrics_of, settings

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def logprobs(model: str, prompt: list[int], completion: list[int]) -> list[float]:
    """Log-probability of every completion token."""
    language_model = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    with torch.no_grad():
        logits = language_model(torch.tensor([prompt + completion])).logits[0]
    table = torch.log_softmax(logits[len(prompt) - 1 : -1], -1)
    return [table[t, token].item() for t, token in enumerate(completion)]


def score(model: str, tokens: list[int]) -> float:
    """The classifier's output at the last token."""
    classifier = AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float64)
    with torch.no_grad():
        return classifier(torch.tensor([tokens])).logits.item()


def pairs(name: str, project: Path) -> Inputs[Comparison]:
    """A stage's comparisons as tokens."""
    config = settings(name, project, out="unused")
    return comparisons(config.data, load_tokenizer(config.model), "", ALONE)


@pytest.mark.parametrize("name", ["sft", "sft_lora"])
def test_heldout_loss_is_that_of_the_saved_model(
    name: str, project: Path, unbroken: Callable[[str], Path]
) -> None:  # N9 R8 M1
    config = settings(name, project, out="unused")
    inputs = demonstrations(config.data, load_tokenizer(config.model), "", ALONE)
    final = str(unbroken(name) / "final")
    losses = [
        -logprob
        for group in inputs.heldout.groups
        for logprob in logprobs(final, list(group.prompt), list(group.completions[0]))
    ]
    logged = metrics_of(unbroken(name))[-1]
    assert logged["heldout_loss"] == pytest.approx(fmean(losses), rel=1e-5)
    assert logged["heldout_perplexity"] == pytest.approx(math.exp(fmean(losses)), rel=1e-5)


@pytest.mark.parametrize("name", ["reward", "reward_lora"])
def test_heldout_accuracy_is_that_of_the_saved_reward_model(
    name: str, project: Path, unbroken: Callable[[str], Path]
) -> None:  # N9 R8 M14
    final = str(unbroken(name) / "final")
    margins = []
    for group in pairs(name, project).heldout.groups:
        chosen, rejected = (score(final, [*group.prompt, *completion]) for completion in group.completions)
        margins.append(chosen - rejected)
    logged = metrics_of(unbroken(name))[-1]
    assert logged["heldout_accuracy"] == pytest.approx(fmean(margin > 0 for margin in margins))
    assert logged["heldout_loss"] == pytest.approx(fmean(math.log1p(math.exp(-m)) for m in margins), rel=1e-5)


@pytest.mark.parametrize("name", ["dpo", "dpo_lora"])
def test_heldout_margin_is_that_of_the_saved_policy(
    name: str, project: Path, unbroken: Callable[[str], Path]
) -> None:  # N9 R8 K9 M3 M4
    config = settings(name, project, out="unused")
    rewards = []
    for group in pairs(name, project).heldout.groups:
        sums = [
            [sum(logprobs(model, list(group.prompt), list(completion))) for completion in group.completions]
            for model in (str(unbroken(name) / "final"), config.model)
        ]
        rewards.append([config.beta * (ours - reference) for ours, reference in zip(*sums, strict=True)])
    logged = metrics_of(unbroken(name))[-1]
    chosen, rejected = zip(*rewards, strict=True)
    assert logged["heldout_reward_chosen"] == pytest.approx(fmean(chosen), rel=1e-3, abs=1e-5)
    assert logged["heldout_reward_rejected"] == pytest.approx(fmean(rejected), rel=1e-3, abs=1e-5)
    assert logged["heldout_margin"] == pytest.approx(fmean(chosen) - fmean(rejected), rel=1e-3, abs=1e-5)
    losses = [
        0.9 * math.log1p(math.exp(c_r)) + 0.1 * math.log1p(math.exp(-c_r))
        for c_r in (rejected - chosen for chosen, rejected in rewards)
    ]
    assert logged["heldout_loss"] == pytest.approx(fmean(losses), rel=1e-5)
