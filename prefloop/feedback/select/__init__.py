"""Which pair to ask next: what a label would be worth, and a stated share uniform. NumPy, SciPy and the store; no torch."""

from prefloop.feedback.select.acquisition import (
    conflict,
    disagreement,
    information_gain,
    most_informative,
    ranked,
    uncertainty,
)
from prefloop.feedback.select.choose import UNIFORM, ChosenPair, choose
from prefloop.feedback.select.scores import read_scores, write_scores

__all__ = [
    "UNIFORM",
    "ChosenPair",
    "choose",
    "conflict",
    "disagreement",
    "information_gain",
    "most_informative",
    "ranked",
    "read_scores",
    "uncertainty",
    "write_scores",
]
