"""Sampling completions, scoring them, and putting both together as rollouts."""

from prefloop.rollout.draw import DrawnTokens, draw, row_uniforms
from prefloop.rollout.rollout import Rollout, make_rollout
from prefloop.rollout.sampler import Sampled, check_prompts, sample
from prefloop.rollout.scorers import Scorer, checked, load_function, score

__all__ = [
    "DrawnTokens",
    "Rollout",
    "Sampled",
    "Scorer",
    "check_prompts",
    "checked",
    "draw",
    "load_function",
    "make_rollout",
    "row_uniforms",
    "sample",
    "score",
]
