"""Ratings of models from votes and rankings, with what they cannot tell. NumPy and SciPy only."""

from prefloop.feedback.ratings.baseline import (
    Gamed,
    LengthControlled,
    WinRate,
    baseline_win_rate,
    length_controlled_win_rate,
)
from prefloop.feedback.ratings.elo import elo
from prefloop.feedback.ratings.estimates import Resampling
from prefloop.feedback.ratings.fit import POINTS, PRIOR, Connection, Fit, connections, fit
from prefloop.feedback.ratings.leaderboard import (
    BASE,
    Coefficient,
    Interval,
    Leaderboard,
    Rating,
    WinProbability,
    leaderboard,
)
from prefloop.feedback.ratings.length_control import length_controlled_win_rates
from prefloop.feedback.ratings.pairs import PairLikelihood, pair_likelihood
from prefloop.feedback.ratings.plackett_luce import RankingLikelihood, ranking_likelihood
from prefloop.feedback.ratings.style import FEATURES, style_differences, style_of, with_style
from prefloop.feedback.ratings.uncertainty import (
    Bootstrap,
    bootstrap,
    rank_ranges,
    sandwich,
    win_probabilities,
)
from prefloop.feedback.ratings.votes import (
    BOTH_BAD,
    FIRST,
    SECOND,
    TIE,
    Rankings,
    Votes,
    as_rankings,
    make_votes,
    pair_weights,
)

__all__ = [
    "BASE",
    "BOTH_BAD",
    "FEATURES",
    "FIRST",
    "POINTS",
    "PRIOR",
    "SECOND",
    "TIE",
    "Bootstrap",
    "Coefficient",
    "Connection",
    "Fit",
    "Gamed",
    "Interval",
    "Leaderboard",
    "LengthControlled",
    "PairLikelihood",
    "RankingLikelihood",
    "Rankings",
    "Rating",
    "Resampling",
    "Votes",
    "WinProbability",
    "WinRate",
    "as_rankings",
    "baseline_win_rate",
    "bootstrap",
    "connections",
    "elo",
    "fit",
    "leaderboard",
    "length_controlled_win_rate",
    "length_controlled_win_rates",
    "make_votes",
    "pair_likelihood",
    "pair_weights",
    "rank_ranges",
    "ranking_likelihood",
    "sandwich",
    "style_differences",
    "style_of",
    "win_probabilities",
    "with_style",
]
