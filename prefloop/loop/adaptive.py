"""State that one step passes to the next: running moments of scores, and the weight of the KL penalty."""

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.ppo import KL, ScoreShaping
from prefloop.loop.tensors import ended_of, mask_of
from prefloop.losses import (
    Moments,
    RunningMoments,
    clip_scores,
    length_slope,
    next_coef,
    normalise_scores,
    penalise_missing_eos,
    residual_scores,
    scale_scores,
    soft_overlong_penalty,
)
from prefloop.rollout import Rollout
from prefloop.runtime import StateTree, World


class KLCoefficient:
    """The weight of the KL penalty: fixed, or steered to a target by the controller of arXiv:1909.08593."""

    def __init__(self, settings: KL, *, completions: int) -> None:
        """Raises `InputError` if a step of so many completions is too large for the controller's horizon."""
        self._target, self._horizon = settings.target, settings.horizon
        self._in_reward = settings.placement == "reward"
        self.value = settings.coef
        self._next(settings.target, completions)

    @property
    def in_reward(self) -> float:
        """Weight of the KL in the rewards; 0 if the KL is in the loss."""
        return self.value if self._in_reward else 0.0

    @property
    def in_loss(self) -> float:
        """Weight of the KL in the loss; 0 if the KL is in the rewards."""
        return 0.0 if self._in_reward else self.value

    def follow(self, kl: float, *, completions: int) -> None:
        """After a step of so many completions with this mean KL per completion."""
        self.value = self._next(kl, completions)

    def _next(self, kl: float, completions: int) -> float:
        if not self._target:
            return self.value
        return next_coef(self.value, kl, target=self._target, horizon=self._horizon, n=completions)

    def state(self) -> StateTree:
        """For a checkpoint."""
        return {"value": self.value}

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        self.value = state["value"]


class RunningStatistics:
    """Moments of all values of a run so far, on all processes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.moments = RunningMoments()

    def add(self, values: Float[Tensor, " B"]) -> None:
        """This process's values of a step. Collective: all processes call it."""
        everyone = torch.ones_like(values, dtype=torch.bool)
        self.moments = self.moments.update(Moments.of(values, everyone).summed(self._world.sum))

    def state(self) -> StateTree:
        """For a checkpoint."""
        moments = self.moments
        return {"count": moments.count, "sum": moments.sum, "sum_of_squares": moments.sum_of_squares}

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        self.moments = RunningMoments(**state)


class ScoreShaper:
    """Turns scores into shaped scores by the settings (`ScoreShaping` has the order)."""

    def __init__(
        self, settings: ScoreShaping, *, stored: tuple[float, float], longest: int, world: World
    ) -> None:
        """`stored` are mean and standard deviation kept with the scorer, `longest` the limit of a completion's tokens."""
        self._settings, self._stored, self._longest, self._world = settings, stored, longest, world
        self._running = RunningStatistics(world)

    def __call__(self, rollout: Rollout, scores: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
        """The shaped scores of this process's completions. Collective: all processes call it."""
        shaping = self._settings
        lengths = mask_of(rollout.groups, self._world.device).sum(dim=1).float()
        ended = ended_of(rollout, self._world.device)
        if shaping.normalise:
            mean, std = self._stored
            scores = normalise_scores(scores, mean=mean, std=std)
        if shaping.scale:
            self._running.add(scores)
            scores = scale_scores(scores, self._running.moments)
        if shaping.clip:
            scores = clip_scores(scores, limit=shaping.clip)
        if shaping.residual:
            slope, mean_length = length_slope(scores, lengths, self._world.sum)
            scores = residual_scores(scores, lengths, slope=slope, mean_length=mean_length)
        if shaping.length_penalty:
            scores = scores - shaping.length_penalty * lengths
        if shaping.overlong:
            scores = scores + soft_overlong_penalty(lengths, longest=self._longest, zone=shaping.overlong)
        return penalise_missing_eos(scores, ended, penalty=shaping.missing_eos)

    def state(self) -> StateTree:
        """For a checkpoint."""
        return self._running.state()

    def load_state(self, state: StateTree) -> None:
        """Restore what `state` returned."""
        self._running.load_state(state)
