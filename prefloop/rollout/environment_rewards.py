"""The scores of conversations: what their environment gave, and what a scorer thinks of them."""

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.rollout.episodes import ENDS, Episodes
from prefloop.rollout.reward_scorers import OnlineScorer
from prefloop.rollout.rollout import Rollout
from prefloop.runtime import Metrics, World


class EnvironmentScorer:
    """Sums an environment's rewards over each conversation, and adds a scorer's score of the policy's last turn, where there is a scorer.

    It reports how the conversations went since it was last asked.
    """

    def __init__(self, scorer: OnlineScorer | None, world: World, *, normalise: bool) -> None:
        """`normalise`: a scorer's scores by the moments stored with it, before they are added."""
        self._scorer = scorer
        self._moments = scorer.moments if scorer and normalise else (0.0, 1.0)
        self._device = world.device
        self._seen = Metrics()

    def __call__(self, rollout: Rollout) -> Float[Tensor, " B"]:
        """A score for every conversation, prompt after prompt."""
        assert isinstance(rollout, Episodes)
        episodes = rollout.flat()
        rewards = torch.tensor([episode.reward for episode in episodes], device=self._device)
        count = len(episodes)
        masks = [mask for group in rollout.groups for mask in group.masks]
        self._seen.add("turns", sum(len(episode.turns) for episode in episodes), count)
        self._seen.add("environment_tokens", sum(len(mask) - sum(mask) for mask in masks), count)
        for end in ENDS:
            self._seen.add(f"ends/{end}", sum(episode.end == end for episode in episodes), count)
        if self._scorer is None:
            return rewards
        self._seen.add("environment_reward", rewards.sum().item(), count)
        mean, std = self._moments
        return rewards + (self._scorer(rollout.last_turns()) - mean) / std

    def metrics(self, world: World) -> dict[str, float]:
        """`turns`, `environment_tokens`, and the share of conversations that ended in each way as `ends/WAY`; with a scorer `environment_reward`, and its own."""
        seen, self._seen = self._seen, Metrics()
        return seen.reduce(world) | (self._scorer.metrics(world) if self._scorer else {})
