"""How long ratings take: a fit, and 200 bootstraps, of 9,000 votes over 60 models. One core:

    OMP_NUM_THREADS=1 python -m bench.ratings

Times are processor time, which other processes do not lengthen as they do the clock's; the best and the median of several runs.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np

from prefloop.feedback.ratings import (
    Votes,
    as_rankings,
    bootstrap,
    fit,
    leaderboard,
    make_votes,
    pair_likelihood,
    ranking_likelihood,
    sandwich,
)


def made_up_votes(n: int, models: int, *, seed: int = 0, features: int = 0) -> Votes:
    """Votes of Rao and Kupper's model (η 0.3) on models of strength N(0, 1), three votes a prompt, 100 annotators."""
    random = np.random.default_rng(seed)
    strength = random.normal(0, 1, models)
    first = random.integers(models, size=n)
    second = (first + random.integers(1, models, size=n)) % models
    style = random.normal(0, 1, (n, features))
    gap = strength[first] - strength[second] + style.sum(1) * 0.3
    draw = random.random(n)
    wins, losses = 1 / (1 + np.exp(-(gap - 0.3))), 1 / (1 + np.exp(gap + 0.3))
    outcome = np.where(draw < wins, 0, np.where(draw < wins + losses, 1, 2))
    return make_votes(
        [f"model {at}" for at in range(models)],
        first,
        second,
        outcome,
        prompt=np.arange(n) // 3,
        annotator=random.integers(100, size=n),
        features=style,
        feature_names=[f"feature {at}" for at in range(features)],
    )


def seconds(work: Callable[[], object], repeats: int) -> list[float]:
    """Processor time of each run, the first one not counted."""
    work()
    took = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        took.append(time.process_time() - began)
    return took


def main() -> None:
    """Print the table of docs/ratings.md."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--votes", type=int, default=9000)
    parser.add_argument("--models", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    votes = made_up_votes(given.votes, given.models)
    styled = made_up_votes(given.votes, given.models, features=4)
    fitted = fit(pair_likelihood(votes))
    prompt, annotator = votes.prompt, votes.annotator
    print(f"{given.votes} votes over {given.models} models, {len(fitted.likelihood.count)} rows that differ")
    jobs: list[tuple[str, Callable[[], object], int]] = [
        ("fit, Bradley-Terry", lambda: fit(pair_likelihood(votes)), 4),
        ("fit, Davidson", lambda: fit(pair_likelihood(votes, "davidson")), 4),
        ("fit, Rao-Kupper", lambda: fit(pair_likelihood(votes, "rao_kupper")), 4),
        ("fit, Bradley-Terry with 4 features", lambda: fit(pair_likelihood(styled)), 4),
        ("fit, Plackett-Luce", lambda: fit(ranking_likelihood(as_rankings(votes))), 1),
        ("sandwich by prompt", lambda: sandwich(fitted, "prompt", prompt=prompt), 4),
        ("200 bootstraps of votes", lambda: bootstrap(fitted), 1),
        ("200 bootstraps of prompts", lambda: bootstrap(fitted, "prompt", prompt=prompt), 1),
        (
            "200 bootstraps of prompts and annotators",
            lambda: bootstrap(fitted, "both", prompt=prompt, annotator=annotator),
            1,
        ),
        ("whole leaderboard", lambda: leaderboard(votes), 1),
        ("whole leaderboard, sandwich", lambda: leaderboard(votes, intervals="sandwich"), 1),
    ]
    print(f"{'':42}{'best, ms':>10}{'median, ms':>12}")
    for name, work, times in jobs:
        took = seconds(work, given.repeats * times)
        print(f"{name:42}{1000 * min(took):10.1f}{1000 * statistics.median(took):12.1f}")


if __name__ == "__main__":
    main()
