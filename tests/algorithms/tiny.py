"""Toy tasks that a model of one layer learns in a second: short words, and rules that show in the text."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from prefloop.configs.common import Compute, Data, Optim, RunSettings
from prefloop.configs.engine import OnlineSampling
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig
from tests.algorithms.small import metrics_of, train, write

CPU = Compute(device="cpu")
FAST = Optim(lr=2e-2, schedule="constant")
SYLLABLES = ("ba", "ke", "lo", "mi", "nu", "ra", "se", "to")
WORDS = tuple(first + second for first in SYLLABLES for second in SYLLABLES)


def seeds(*every: int) -> pytest.MarkDecorator:
    """A test of learning sees a fault with any seed, so the first is enough; all of them show that what it asks for is not luck.

    `PREFLOOP_SEEDS=all` runs them: do so where a method, or what its test asks for, changes.
    """
    return pytest.mark.parametrize("seed", every if os.environ.get("PREFLOOP_SEEDS") == "all" else every[:1])


def pairs(file: Path, count: int = 64) -> Path:
    """Comparisons with a rule to see: who ends in `yes` is chosen, who ends in `no` rejected; lengths tell nothing."""
    write(
        file,
        [
            {
                "prompt": word,
                "chosen": WORDS[(7 * i) % 64][: 1 + i % 3] + " yes",
                "rejected": WORDS[(5 * i) % 64][: 1 + (i + 1) % 3] + " no",
            }
            for i, word in enumerate(WORDS[:count])
        ],
    )
    return file


def echoes(file: Path, count: int = 48) -> Path:
    """Demonstrations: whatever is asked, the answer is the same."""
    write(file, [{"prompt": word, "completion": " so be it"} for word in WORDS[:count]])
    return file


def prompts(file: Path, count: int = 16) -> Path:
    """Words to go on from."""
    write(file, [{"prompt": word} for word in WORDS[:count]])
    return file


def small_letters(prompts: Sequence[Any], completions: Sequence[str]) -> list[float]:
    """A reward function: how many of the first letters of the alphabet a completion has."""
    return [float(sum(c in "abcdefghijklm" for c in text)) for text in completions]


def ppo(project: Path, out: Path, **changes: Any) -> PPOConfig:
    """PPO from a model that has learned nothing, towards small letters. `changes` are fields of the configuration."""
    file = project / "words.jsonl"
    if not file.exists():
        prompts(file)
    basic = PPOConfig(
        run=RunSettings(out=str(out), seed=1),
        data=Data(source=str(file), heldout=0.0),
        model=str(project / "start"),
        reward_model="tests.algorithms.tiny:small_letters",
        sampling=OnlineSampling(max_new_tokens=5),
        steps=1,
        batch_prompts=16,
        epochs=1,
        kl=KL(coef=0.02),
        critic=CriticSettings(start="policy", optim=FAST),
        optim=FAST,
        compute=CPU,
    )
    return replace(basic, **changes)


def logged(config: Any) -> list[dict[str, Any]]:
    """Train, and the metrics of every step."""
    train(config)
    return metrics_of(Path(config.run.out))
