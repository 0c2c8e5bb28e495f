"""A small world of readable English, made by a seeded generator, in which the quality of any reply is known."""

from prefloop.data.toy_world.gold import (
    BEST_UTILITY,
    WEIGHTS,
    GoldComponents,
    gold_components,
    gold_hash,
    gold_utility,
)
from prefloop.data.toy_world.world import Style, ToyWorld, best_reply, write_reply

__all__ = [
    "BEST_UTILITY",
    "WEIGHTS",
    "GoldComponents",
    "Style",
    "ToyWorld",
    "best_reply",
    "gold_components",
    "gold_hash",
    "gold_utility",
    "write_reply",
]
