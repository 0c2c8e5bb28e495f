"""What a text looks like, apart from what it says: length, headings, lists, bold; for ratings that are controlled for it.

A judge who likes long or decorated answers makes models that write them look better than they are. With the differences of these
features in the model of votes, logit P(first wins) = θ_first - θ_second + features · γ, a rating is what is left at equal style
(Chiang et al. 2024, style control; Dubois et al. 2024 for length).
"""

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from prefloop.feedback.ratings.votes import Floats, Votes

FEATURES = ("length", "headings", "list items", "bold")
_FENCED = re.compile(r"^(```|~~~).*?(?:^\1[^\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^ {0,3}#{1,6}\s", re.MULTILINE)
_ITEM = re.compile(r"^\s*(?:[-*+]|\d{1,9}[.)])\s", re.MULTILINE)
_BOLD = re.compile(r"(\*\*|__)(?=\S)(?:(?!\1).)+?\1")


def style_of(text: str) -> tuple[int, int, int, int]:
    """Characters, headings, list items and bold spans of a text; what stands in fenced code is only counted as characters."""
    prose = _FENCED.sub("", text)
    return (
        len(text),
        len(_HEADING.findall(prose)),
        len(_ITEM.findall(prose)),
        sum(1 for _ in _BOLD.finditer(prose)),
    )


def style_differences(first: Sequence[str], second: Sequence[str]) -> Floats:
    """`[votes, 4]` (a - b) / (a + b + 1) of each feature, so that texts of every size count alike."""
    a = np.array([style_of(text) for text in first], np.float64).reshape(-1, len(FEATURES))
    b = np.array([style_of(text) for text in second], np.float64).reshape(-1, len(FEATURES))
    return (a - b) / (a + b + 1)


def with_style(votes: Votes, differences: Floats, names: Sequence[str] = FEATURES) -> Votes:
    """The votes with these features, each divided by its standard deviation about 0; features that never differ are left out.

    About 0 and not about the mean: turning a vote round must only turn its features round.
    """
    spread = np.sqrt((differences**2).mean(0)) if len(differences) else np.zeros(differences.shape[1])
    kept = np.flatnonzero(spread > 0)
    return replace(
        votes,
        features=differences[:, kept] / spread[kept],
        feature_names=tuple(names[int(at)] for at in kept),
    )
