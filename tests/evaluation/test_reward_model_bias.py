"""Length bias and the interval of the calibration error, against NumPy's own numbers and known truths."""

import numpy as np
import pytest
from scipy.special import expit

from prefloop.evaluation.reward_model_quality import (
    best_of_n,
    calibration,
    length_quality,
    reward_model_quality,
)
from prefloop.evaluation.tables import best_of_table, reward_model_lines


def made(n: int, *, slope: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Scores that follow length by `slope`, and labels drawn from them by Bradley-Terry."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, 40, size=(n, 2)).astype(float)
    scores = slope * lengths + random.normal(size=(n, 2))
    first = random.random(n) < expit(scores[:, 0] - scores[:, 1])
    order = np.where(first[:, None], [0, 1], [1, 0])
    scores, lengths = np.take_along_axis(scores, order, 1), np.take_along_axis(lengths, order, 1)
    return scores[:, 0], scores[:, 1], lengths[:, 0], lengths[:, 1]


def test_correlation_is_pearsons_with_an_interval_that_holds_it():
    chosen, rejected, longer, shorter = made(300, slope=0.05)
    found = length_quality(chosen, rejected, longer, shorter)
    scores, lengths = np.concatenate([chosen, rejected]), np.concatenate([longer, shorter])
    assert found.correlation is not None
    assert found.correlation.value == pytest.approx(np.corrcoef(scores, lengths)[0, 1])
    assert found.correlation.low < found.correlation.value < found.correlation.high
    assert found.correlation.low > 0.2
    none = length_quality(*made(300, slope=0.0)).correlation
    assert none is not None
    assert none.low < 0 < none.high
    assert length_quality([1.0, 2], [0, 1], [3, 3], [3, 3]).correlation is None


def test_a_model_of_length_is_right_where_the_chosen_one_is_longer():
    lengths = np.array([[5.0, 2], [7, 3], [2, 6], [4, 4], [9, 1]])
    found = length_quality(lengths[:, 0], lengths[:, 1], lengths[:, 0], lengths[:, 1])
    assert found.chosen_longer is not None
    assert found.chosen_shorter is not None
    assert (found.chosen_longer.value, found.chosen_longer.n) == (1.0, 3)
    assert (found.chosen_shorter.value, found.chosen_shorter.n) == (0.0, 1)
    assert length_quality([1.0, 2], [0, 1], [3, 4], [1, 1]).chosen_shorter is None


def test_the_calibration_errors_interval_covers_the_truth():
    """Twice too sure: its true error is known by drawing many; the interval of a small sample holds it in most draws."""

    def overconfident(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        chosen, rejected, *_ = made(n, slope=0.0, seed=seed)
        return 3 * chosen, 3 * rejected

    truth = calibration(*overconfident(20_000, 99)).expected_error
    assert truth > 0.1
    inside = 0
    for seed in range(20):
        found = calibration(*overconfident(400, seed))
        interval = found.error_interval
        assert interval is not None
        assert interval.value == pytest.approx(found.expected_error)
        assert interval.low <= interval.value <= interval.high
        inside += interval.low <= truth <= interval.high
    assert inside >= 16


def test_clusters_widen_the_interval():
    """The same comparison four times is one."""
    chosen, rejected, *_ = made(60, slope=0.0)
    four = [np.repeat(each, 4) for each in (chosen, rejected)]
    apart = calibration(*four).error_interval
    together = calibration(*four, clusters=np.repeat(np.arange(60), 4)).error_interval
    assert apart is not None
    assert together is not None
    assert together.high - together.low > 1.5 * (apart.high - apart.low)


def test_tables_say_it():
    quality = reward_model_quality(*made(100, slope=0.1))
    said = reward_model_lines(quality)
    for words in (
        "resampled by prompt",
        "correlation of score and length",
        "chosen one is longer",
        "is shorter",
    ):
        assert words in said
    random = np.random.default_rng(0)
    proxy, gold = random.normal(size=(5, 4)), random.normal(size=(5, 4))
    assert "gold" in best_of_table(best_of_n(proxy, gold))
    table = best_of_table(best_of_n(proxy, None))
    assert "gold" not in table
    assert table.splitlines()[-1].startswith("4")
