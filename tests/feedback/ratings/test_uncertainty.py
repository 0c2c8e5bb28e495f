"""Covariances against sums written out, intervals against simulation, ranks against what must hold."""

import numpy as np
import pytest
from scipy.special import expit

from prefloop.feedback.ratings import (
    FIRST,
    SECOND,
    Votes,
    bootstrap,
    fit,
    make_votes,
    pair_likelihood,
    rank_ranges,
    sandwich,
    win_probabilities,
)
from prefloop.feedback.ratings.uncertainty import Clustering
from tests.feedback.ratings.made_up import log_probability, slope, votes_of

TIES = ("bradley_terry", "davidson", "rao_kupper")


def written_out(votes: Votes, ties: str, parameters: np.ndarray, prior: float, clusters) -> np.ndarray:
    """The sandwich by numerical derivatives of each vote's log-likelihood; `clusters` label votes."""
    m = len(votes.names)

    def of_vote(at: int, x: np.ndarray) -> float:
        d = x[votes.first[at]] - x[votes.second[at]] + votes.features[at] @ x[m : m + votes.features.shape[1]]
        return votes.weight[at] * log_probability(ties, int(votes.outcome[at]), float(d), float(x[-1]))

    scores = np.array([slope(lambda x, at=at: of_vote(at, x), parameters) for at in range(len(votes))])
    curvature = prior * np.eye(len(parameters)) - slope(
        lambda x: np.sum([slope(lambda y, at=at: of_vote(at, y), x, 1e-4) for at in range(len(votes))], 0),
        parameters,
        1e-4,
    )
    middle = np.zeros_like(curvature)
    labels = set(clusters)
    for label in labels:
        total = scores[[at for at, each in enumerate(clusters) if each == label]].sum(0)
        middle += np.outer(total, total)
    bread = np.linalg.inv(curvature)
    return bread @ middle @ bread * len(labels) / (len(labels) - 1)


@pytest.mark.parametrize("ties", TIES)
def test_the_sandwich_written_out(ties):
    votes = votes_of(1, n=30, models=3, features=1)
    fitted = fit(pair_likelihood(votes, ties), prior=0.05)
    kept: dict[Clustering, list[int]] = {
        "vote": list(range(30)),
        "prompt": votes.prompt.tolist(),
        "annotator": votes.annotator.tolist(),
    }
    for clusters, labels in kept.items():
        expected = written_out(votes, ties, fitted.parameters, 0.05, labels)
        got = sandwich(fitted, clusters, prompt=votes.prompt, annotator=votes.annotator)
        assert got == pytest.approx(expected, abs=1e-4 * np.abs(expected).max()), clusters


def test_two_way_clusters_are_one_way_where_one_is_each_votes_own():
    votes = votes_of(2, n=40)
    fitted = fit(pair_likelihood(votes))
    alone = np.arange(40)
    both = sandwich(fitted, "both", prompt=votes.prompt, annotator=alone)
    assert both == pytest.approx(sandwich(fitted, "prompt", prompt=votes.prompt), rel=0.05, abs=1e-4)
    assert np.linalg.eigvalsh(both).min() > -1e-12


def test_two_models_have_the_textbook_error():
    # 30 wins of 40: the log-odds θ_a - θ_b has variance 1/30 + 1/10 (up to n/(n - 1))
    votes = make_votes(["a", "b"], [0] * 40, [1] * 40, [FIRST] * 30 + [SECOND] * 10)
    covariance = sandwich(fit(pair_likelihood(votes), prior=0.0))
    gap = covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]
    assert gap == pytest.approx((1 / 30 + 1 / 10) * 40 / 39, rel=1e-6)


def coverage(clusters, *, repeats: int = 150) -> float:
    """How often the interval of a difference holds the truth, with 5 votes a prompt that share the prompt's own taste."""
    random = np.random.default_rng(0)
    truth, held = np.array([0.5, 0.0, -0.5]), 0
    for _ in range(repeats):
        prompt = np.repeat(np.arange(60), 5)
        pair = random.integers(3, size=60)[prompt]
        first, second = np.array([0, 1, 0])[pair], np.array([1, 2, 2])[pair]
        taste = random.normal(0, 1.0, 60)[prompt]
        outcome = np.where(
            random.random(300) < expit(1.13 * (truth[first] - truth[second]) + taste), FIRST, SECOND
        )
        votes = make_votes(["a", "b", "c"], first, second, outcome, prompt=prompt)
        fitted = fit(pair_likelihood(votes))
        covariance = sandwich(fitted, clusters, prompt=prompt)
        error = np.sqrt(covariance[0, 0] + covariance[2, 2] - 2 * covariance[0, 2])
        held += abs(fitted.strengths[0] - fitted.strengths[2] - 1.0) < 1.96 * error
    return held / repeats


def test_votes_on_one_prompt_must_be_kept_together():
    assert coverage("prompt") > 0.9
    assert coverage("vote") < 0.85  # what treating them as independent would give


@pytest.mark.parametrize("clusters", ["vote", "prompt", "annotator", "both"])
def test_bootstrap_and_sandwich_agree(clusters):
    random = np.random.default_rng(5)
    base = votes_of(5, n=3000, models=5)
    votes = make_votes(
        base.names,
        base.first,
        base.second,
        base.outcome,
        prompt=random.integers(300, size=3000),
        annotator=random.integers(60, size=3000),
    )
    fitted = fit(pair_likelihood(votes))
    where = {"prompt": votes.prompt, "annotator": votes.annotator}
    drawn = bootstrap(fitted, clusters, resamples=300, seed=1, **where)
    assert drawn.left_out == 0
    expected = np.sqrt(np.diag(sandwich(fitted, clusters, **where)))
    # The product of weights counts what belongs to single votes three times, so it is too wide by up to √3.
    width = drawn.draws.std(0) / expected
    assert width.min() > 0.85
    assert width.max() < (2.1 if clusters == "both" else 1.2)


def test_bootstrap_is_the_same_for_a_seed():
    fitted = fit(pair_likelihood(votes_of(6)))
    assert np.array_equal(bootstrap(fitted, seed=3).draws, bootstrap(fitted, seed=3).draws)
    assert not np.array_equal(bootstrap(fitted, seed=3).draws, bootstrap(fitted, seed=4).draws)


def test_resamples_that_fall_apart_are_left_out_and_counted():
    # One vote alone holds c to the others: about a third of resamples (1 - 1/n)^n miss it.
    votes = make_votes(["a", "b", "c"], [0] * 20 + [1], [1] * 20 + [2], [FIRST, SECOND] * 10 + [FIRST])
    drawn = bootstrap(fit(pair_likelihood(votes)), resamples=300)
    assert 70 < drawn.left_out < 150
    assert len(drawn.draws) == 300 - drawn.left_out


def test_clusters_need_their_labels():
    fitted = fit(pair_likelihood(votes_of(6)))
    with pytest.raises(ValueError, match="clusters need prompt"):
        sandwich(fitted, "prompt")
    with pytest.raises(ValueError, match="clusters need annotator"):
        bootstrap(fitted, "annotator")


def test_win_probabilities_mirror():
    votes = votes_of(8, n=300)
    fitted = fit(pair_likelihood(votes))
    value, low, high = win_probabilities(fitted.strengths, sandwich(fitted))
    assert value + value.T == pytest.approx(np.ones_like(value))
    assert low + high.T == pytest.approx(np.ones_like(value))
    assert ((low <= value) & (value <= high)).all()


def test_rank_ranges():
    strengths = np.array([3.0, 0.1, 0.0, -3.0])
    covariance = 0.01 * (np.eye(4) - 0.25)
    best, worst = rank_ranges(strengths, covariance)
    assert best.tolist() == [1, 2, 2, 4]
    assert worst.tolist() == [1, 3, 3, 4]
    best, worst = rank_ranges(strengths, 1e4 * covariance)
    assert best.tolist() == [1] * 4
    assert worst.tolist() == [4] * 4


def test_rank_ranges_cover_the_true_ranks():
    random = np.random.default_rng(0)
    truth = np.array([0.4, 0.3, 0.0, -0.1, -0.6])
    covariance = 0.03 * (np.eye(5) - 0.2)
    held = np.zeros(5)
    for _ in range(300):
        drawn = truth + random.multivariate_normal(np.zeros(5), covariance, method="eigh")
        best, worst = rank_ranges(drawn, covariance, draws=1000)
        held += (best <= np.arange(1, 6)) & (np.arange(1, 6) <= worst)
    assert (held / 300 > 0.93).all()
