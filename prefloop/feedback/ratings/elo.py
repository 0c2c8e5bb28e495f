"""Elo ratings, updated vote by vote. They depend on the order of the votes: a live display, never the verdict."""

import numpy as np

from prefloop.feedback.ratings.votes import Floats, Votes


def elo(votes: Votes, *, k: float = 4.0, start: float = 1000.0) -> Floats:
    """`[models]` ratings after all votes, in their order: R_a += k (S_a - E_a), E_a = 1 / (1 + 10^((R_b - R_a)/400)), S 1, 0 or ½.

    Elo 1978; k and start as FastChat's. A vote's weight multiplies k.
    """
    ratings = [start] * len(votes.names)
    score = np.array([1.0, 0.0, 0.5, 0.5])[votes.outcome]
    rows = zip(
        votes.first.tolist(), votes.second.tolist(), (k * votes.weight).tolist(), score.tolist(), strict=True
    )
    for a, b, step, won in rows:
        expected = 1 / (1 + 10 ** ((ratings[b] - ratings[a]) / 400))
        change = step * (won - expected)
        ratings[a] += change
        ratings[b] -= change
    return np.array(ratings)
