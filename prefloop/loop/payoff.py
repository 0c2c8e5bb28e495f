"""Which completion of a prompt wins: by a preference function, or by scores through Bradley-Terry."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.functions import call, find_function, numbers_in
from prefloop.configs.games import GameConfig
from prefloop.errors import InputError
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.scoring import open_shaped_scorer
from prefloop.loop.session import Kept, Session
from prefloop.losses.games import bradley_terry_table
from prefloop.records import Prompt
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import RolloutScorer
from prefloop.runtime import StateTree, World

Preference = Callable[[Sequence[Prompt], Sequence[str], Sequence[str]], Sequence[float]]
"""Item i of each argument belongs together; the probability that the first completion is preferred to the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judged:
    """What was found of a rollout of K completions a prompt."""

    table: Float[Tensor, "P K K"]
    """[p, i, j]: probability that completion i of prompt p is preferred to completion j; both orders together are 1."""
    scores: Float[Tensor, " B"] | None
    """The scores behind it as they were given; None of a preference function."""

    def shown(self) -> Float[Tensor, " B"]:
        """A number for each completion, for the files of samples: its score, or its mean probability of being preferred."""
        return self.table.mean(dim=2).flatten() if self.scores is None else self.scores


class Payoff(Kept, Protocol):
    """Compares the completions of a rollout."""

    def __call__(self, rollout: Rollout, *, k: int) -> Judged:
        """Every completion against every other of its prompt."""
        ...

    def metrics(self) -> dict[str, float]:
        """`disagreement` of several scorers since it was last asked; nothing of one, or of a preference. Collective: all processes call it."""
        ...


class ByScores:
    """Scores through Bradley-Terry. Their running moments are state."""

    def __init__(self, score: RolloutScorer, shape: ScoreShaper, world: World) -> None:
        self._score, self._shape, self._world = score, shape, world

    def __call__(self, rollout: Rollout, *, k: int) -> Judged:
        """See `Payoff`."""
        scores = self._score(rollout)
        shaped = self._shape(rollout, scores)
        return Judged(table=bradley_terry_table(shaped.view(-1, k)), scores=scores)

    def metrics(self) -> dict[str, float]:
        """See `Payoff`."""
        return self._score.metrics(self._world)

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self._shape.state()

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        self._shape.load_state(state)


class ByPreference:
    """A user's preference function, which has no state."""

    def __init__(self, preference: Preference, device: torch.device) -> None:
        self._preference, self._device = preference, device

    def __call__(self, rollout: Rollout, *, k: int) -> Judged:
        """See `Payoff`."""
        return Judged(table=_compared(self._preference, rollout, k).to(self._device), scores=None)

    def metrics(self) -> dict[str, float]:
        """None."""
        return {}

    def state(self) -> StateTree:
        """Nothing."""
        return {}

    def load_state(self, state: StateTree) -> None:
        """Nothing to restore."""


def open_payoff(session: Session, config: GameConfig) -> Payoff:
    """Who decides comparisons, by the settings."""
    if config.preference:
        return ByPreference(load_preference(config.preference), session.world.device)
    score, shape = open_shaped_scorer(
        session, config.reward_model, config.reward, longest=config.sampling.max_new_tokens
    )
    return ByScores(score, shape, session.world)


def load_preference(name: str) -> Preference:
    """A user's preference function; its results are checked at every call, see `checked_preference`."""
    return checked_preference(cast(Preference, find_function(name, what="preference function")), name=name)


def checked_preference(preference: Preference, *, name: str) -> Preference:
    """The same function, whose result is refused unless it is one probability for every pair. Raises `InputError` that names the pair."""

    def probabilities(
        prompts: Sequence[Prompt], first: Sequence[str], second: Sequence[str]
    ) -> Sequence[float]:
        what = f"preference function {name}"
        result = call(preference, prompts, first, second, what=what)
        values = numbers_in(result, len(prompts), what=what, unit="pair", where=lambda index: f"pair {index}")
        for index, value in enumerate(values):
            if not 0 <= value <= 1:
                raise InputError(
                    f"{what} returned {value} for pair {index}; every value must be a probability between 0 and 1"
                )
        return values

    return probabilities


def _compared(preference: Preference, rollout: Rollout, k: int) -> Float[Tensor, "P K K"]:
    """Both orders of every pair, averaged, so that a preference for the first place cannot decide; a half on the diagonal."""
    places = [(i, j) for i in range(k) for j in range(k) if i != j]
    prompts = [prompt for prompt in rollout.prompts for _ in places]
    first = [texts[i] for texts in rollout.texts for i, _ in places]
    second = [texts[j] for texts in rollout.texts for _, j in places]
    values = preference(prompts, first, second) if prompts else []
    table = torch.full((len(rollout.prompts), k, k), 0.5)
    rows = torch.tensor(list(values), dtype=torch.float32).view(-1, len(places))
    for column, (i, j) in enumerate(places):
        table[:, i, j] = rows[:, column]
    return (table + 1 - table.transpose(1, 2)) / 2
