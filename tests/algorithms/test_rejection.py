"""Statistical rejection sampling accepts as its paper says, and makes comparisons of what it accepts."""

import math
import random
from collections import Counter
from pathlib import Path

import pytest

from prefloop.algorithms.rejection import accept, paired, sample_by_rejection
from prefloop.algorithms.sample import sample_completions
from prefloop.configs.common import Data, Sampling
from prefloop.configs.filter import RejectionConfig
from prefloop.configs.sample import SampleConfig
from prefloop.data import load_comparisons
from prefloop.errors import InputError
from prefloop.records import Prompt
from tests.algorithms.tiny import CPU


def test_the_first_accepted_follow_the_optimal_policy() -> None:
    """Of many samples with rewards 0, 1, 2 in equal shares, those accepted have shares in proportion to exp(r/β)."""
    beta, rewards = 0.8, [0.0, 1.0, 2.0] * 400
    counts: Counter[float] = Counter()
    for seed in range(30):
        draw = random.Random(seed)
        counts.update(rewards[i] for i in accept(rewards, beta=beta, keep=100, draw=draw))
    total = sum(math.exp(reward / beta) for reward in (0.0, 1.0, 2.0))
    for reward in (0.0, 1.0, 2.0):
        assert counts[reward] / 3000 == pytest.approx(math.exp(reward / beta) / total, abs=0.03)


def test_every_round_accepts_the_best_that_is_left() -> None:
    draw = random.Random(0)
    assert accept([0.0, 5.0, -50.0], beta=1e-3, keep=3, draw=draw) == [1, 0, 2]
    assert accept([1.0, 1.0, 1.0], beta=1.0, keep=2, draw=draw) == [0, 1]
    assert accept([], beta=1.0, keep=2, draw=draw) == []


def test_pairs_have_the_higher_reward_chosen() -> None:
    pairs = paired(Prompt(content="x"), ["a", "b", "c", "d", "e"], [1.0, 3.0, 2.0, 2.0, 0.0], [0, 1, 2, 3, 4])
    assert [(pair.chosen, pair.rejected, pair.margin) for pair in pairs] == [("b", "a", 2.0)]


def test_from_a_store_to_a_file(project: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "prefloop.db")
    sample_completions(
        SampleConfig(
            model=str(project / "start"),
            data=Data(source=str(project / "prompts.jsonl"), heldout=0.0),
            store=store,
            completions_per_prompt=6,
            sampling=Sampling(max_new_tokens=4),
            compute=CPU,
        )
    )
    asked = RejectionConfig(
        store=store,
        reward_models=(str(project / "reward/final"),),
        out=str(tmp_path / "pairs.jsonl"),
        keep=4,
        compute=CPU,
    )
    sample_by_rejection(asked)
    pairs = load_comparisons(tmp_path / "pairs.jsonl", skip_bad=True).records
    assert 7 <= len(pairs) <= 14
    assert all(pair.margin > 0 for pair in pairs)
    with pytest.raises(InputError, match="even number"):
        RejectionConfig(store=store, reward_models=("x",), out="y.jsonl", keep=3)
