"""The thresholds that an ordinal reward model learns beside its scores; see `losses.reward_model.ordinal`."""

import bisect
import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from prefloop.errors import InputError
from prefloop.losses.reward_model import free, level_probabilities, rising
from prefloop.runtime import StateTree

MOST_LEVELS = 100
"""More different values are a measurement, which `regression` is for."""


class Thresholds(nn.Module):
    """Rising thresholds between the levels of a scale. They start where scores of 0 give each level its share of the data."""

    def __init__(self, values: Sequence[float]) -> None:
        """`values` are the ratings to train on; each different one is a level. Raises `InputError` for one level, or for more than a hundred."""
        super().__init__()
        self.levels = tuple(sorted(set(values)))
        if not 2 <= len(self.levels) <= MOST_LEVELS:
            raise InputError(
                f"loss ordinal needs ratings on a scale of 2 to {MOST_LEVELS} levels, but the training data have {len(self.levels)} different ones; "
                "use regression for measurements"
            )
        below = [sum(value <= level for value in values) / len(values) for level in self.levels[:-1]]
        start = torch.tensor([math.log(share / (1 - share)) for share in below], dtype=torch.float64)
        self.raw = nn.Parameter(free(start).float())

    def forward(self) -> Float[Tensor, " L"]:
        """The thresholds, lowest first."""
        return rising(self.raw)

    def level_of(self, values: Sequence[float]) -> Int[Tensor, " B"]:
        """Places of ratings among the levels. Raises `InputError` for one that the training data do not have."""
        places = [bisect.bisect_left(self.levels, value) for value in values]
        for value, place in zip(values, places, strict=True):
            if place == len(self.levels) or self.levels[place] != value:
                known = ", ".join(f"{level:g}" for level in self.levels)
                raise InputError(
                    f"a held-out rating is {value:g}, but the training data have {known} only; lower data.heldout, or leave the rating out"
                )
        return torch.tensor(places, device=self.raw.device)

    def expected(self, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """Mean rating that scores stand for."""
        levels = torch.tensor(self.levels, dtype=scores.dtype, device=scores.device)
        return level_probabilities(scores, self()) @ levels

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self.raw.detach()

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        with torch.no_grad():
            self.raw.copy_(state)
