"""Win rates at equal length of all models together: against planted qualities, and where there is too little."""

import math
from typing import Any

import numpy as np
import pytest
from scipy.special import expit

from prefloop.feedback.ratings import WinRate, baseline_win_rate, length_controlled_win_rates

QUALITY = np.array([-1.0, 0.0, 0.5, 1.0])
TASTE = -2.0


def made_up(seed: int, *, prompts: int = 400, longer: float = 300.0) -> Any:
    """Rows of four models; better ones write longer, prompts differ in difficulty; and the rates at equal length."""
    random = np.random.default_rng(seed)
    model, prompt = np.repeat(np.arange(4), prompts), np.tile(np.arange(prompts), 4)
    hard = random.normal(0, 1, prompts)
    other = random.normal(500, 60, prompts)[prompt]
    own = other + longer * (QUALITY[model] + 1.2) + random.normal(0, 250, len(model))
    delta = other - own
    spread = np.array([delta[model == at].std(ddof=1) for at in range(4)])[model]
    chance = expit(QUALITY[model] + hard[prompt] + TASTE * np.tanh(delta / spread))
    preference = (random.random(len(model)) < chance).astype(np.float64)
    truth = np.array([expit(at + hard).mean() for at in QUALITY])
    return (model, prompt, preference, own, other), truth


def test_planted_rates_are_found_where_raw_ones_are_far_off() -> None:
    errors, raw_errors, held = [], [], []
    for seed in range(6):
        rows, truth = made_up(seed)
        for at, found in enumerate(length_controlled_win_rates(*rows)):
            errors.append(abs(found.controlled.value - truth[at]))
            raw_errors.append(abs(found.raw.value - truth[at]))
            held.append(found.low <= truth[at] <= found.high)
            assert found.length == pytest.approx(TASTE, abs=0.9)
    assert np.mean(raw_errors) > 0.12
    assert np.mean(errors) < 0.04
    assert np.mean(held) > 0.85


def test_intervals_hold_with_thirty_prompts() -> None:
    held = []
    for seed in range(40):
        rows, truth = made_up(seed, prompts=30, longer=100.0)
        held += [
            each.low <= truth[at] <= each.high for at, each in enumerate(length_controlled_win_rates(*rows))
        ]
    assert 0.9 < np.mean(held) <= 1


def test_too_little_is_said_and_no_number_given() -> None:
    (model, prompt, preference, own, other), _ = made_up(0)
    few = model < 2
    for found in length_controlled_win_rates(
        *(each[few] for each in (model, prompt, preference, own, other))
    ):
        assert math.isnan(found.controlled.value)
        assert math.isnan(found.low)
        assert found.reason == "2 models to learn from, 3 are needed"
        assert 0 < found.raw.value < 1
    short = (model != 3) | (prompt < 12)
    rates = length_controlled_win_rates(*(each[short] for each in (model, prompt, preference, own, other)))
    assert [each.reason for each in rates] == ["", "", "", "12 prompts, 30 are needed"]
    assert math.isnan(rates[3].controlled.value)
    blank = length_controlled_win_rates(model, prompt, preference, 0 * own, 0 * other)
    assert {each.reason for each in blank} == {"the votes come without the answers"}


def test_all_wins_leave_an_interval() -> None:  # V1
    rate = baseline_win_rate(np.ones(12))
    assert math.isnan(rate.standard_error)
    low, high = rate.interval
    assert 0.6 < low < 0.8  # Wilson's with z would be 0.757
    assert high == 1.0
    # 8 of 10 with Student's t of 9 degrees, by hand: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n), z = 2.262
    low, high = WinRate(value=0.8, standard_error=math.nan, n=10).interval
    assert (low, high) == pytest.approx((0.44456, 0.95237), abs=1e-4)
    (model, prompt, _, own, other), _ = made_up(1, prompts=40)
    for found in length_controlled_win_rates(model, prompt, np.ones(len(model)), own, other):
        assert found.low < 0.97
        assert found.high > 0.99
