"""Rewards of control tasks that are learned from compared segments: a simulated person, and an ensemble that says where it disagrees."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from prefloop.losses import example_mean
from prefloop.losses.reward_model import segments
from prefloop.studies.actor_critic import Standard
from prefloop.studies.control_tasks import Filmed


class SimulatedPerson:
    """Compares segments by what is seen in them, and is wrong at a known rate."""

    def __init__(self, *, segment: int, error: float, seed: int) -> None:
        self.segment, self.error, self.draw = segment, error, np.random.default_rng(seed)

    def segments(self, envs: Sequence[Filmed], count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Pairs of segments of the last finished episodes: states `[count, 2, T, ...]`, actions `[count, 2, T]`, and what is seen, summed, `[count, 2]`."""
        films = [film for env in envs for film in env.films[-10:]]
        size = self.segment
        found: list[tuple[np.ndarray, list[int], float]] = []
        for _ in range(2 * count):
            states, actions, seen, _ = films[self.draw.integers(len(films))]
            start = self.draw.integers(len(seen) - size + 1)
            part = slice(start, start + size)
            found.append((np.stack(states[part]), actions[part], sum(seen[part])))
        states, actions, sums = zip(*found, strict=True)
        pairs = (count, 2)
        return (
            torch.tensor(np.stack(states)).unflatten(0, pairs),
            torch.tensor(actions).unflatten(0, pairs),
            torch.tensor(sums).unflatten(0, pairs),
        )

    def compare(self, sums: Tensor) -> Tensor:
        """1 where the first of each pair is said to be better, 0 where the second is, and a half where they look the same, `[count]`."""
        first = torch.sign(sums[:, 0] - sums[:, 1]) / 2 + 0.5
        wrong = torch.tensor(self.draw.random(len(first)) < self.error)
        return torch.where(wrong, 1 - first, first)


class Rewards(nn.Module):
    """An ensemble of rewards of state and action, each of two layers of 64, with a scale of its own. States are standardised over what was compared:
    the pole's angle, by which it falls, is a tenth of its speeds.
    """

    def __init__(self, observations: int, actions: int, members: int) -> None:
        super().__init__()
        self.actions, self.standard = actions, Standard(observations)
        self.members = nn.ModuleList(
            nn.Sequential(
                nn.Linear(observations + actions, 64),
                nn.Tanh(),
                nn.Linear(64, 64),
                nn.Tanh(),
                nn.Linear(64, 1),
            )
            for _ in range(members)
        )
        self.moments = [(0.0, 1.0)] * members
        self.fitted = False

    def each(self, states: Tensor, actions: Tensor) -> Tensor:
        """Of every member, not standardised, `[members, ...]`."""
        return torch.stack([self.of(place, states, actions) for place in range(len(self.members))])

    def of(self, member: int, states: Tensor, actions: Tensor) -> Tensor:
        """Of one member, not standardised."""
        told = torch.cat(
            [self.standard(states), nn.functional.one_hot(actions, self.actions).to(states.dtype)], dim=-1
        )
        return self.members[member](told).squeeze(-1)

    @torch.no_grad()
    def forward(self, states: Tensor, actions: Tensor) -> Tensor:
        """Mean over members of their rewards in standard deviations; nothing before they were fitted."""
        if not self.fitted:
            return torch.zeros(actions.shape)
        own = self.each(states, actions)
        return torch.stack(
            [(one - mean) / std for one, (mean, std) in zip(own, self.moments, strict=True)]
        ).mean(0)

    @torch.no_grad()
    def disagreement(self, states: Tensor, actions: Tensor) -> Tensor:
        """Variance over members of the probability that the first of each pair is better."""
        sums = self.each(states, actions).sum(-1)
        return torch.sigmoid(sums[..., 0] - sums[..., 1]).var(0)

    def fit(
        self,
        states: Tensor,
        actions: Tensor,
        answers: Tensor,
        *,
        updates: int,
        error: float,
        draw: torch.Generator,
    ) -> None:
        """Each member on a bootstrap of its own; then the moments of its rewards over all that was compared."""
        self.standard = Standard(states.shape[-1])
        self.standard.add(states.flatten(0, -2))
        mask = torch.ones(actions.shape[0], actions.shape[2], dtype=torch.bool)
        self.fitted = True
        for place, member in enumerate(self.members):
            own = torch.randint(len(answers), (len(answers),), generator=draw)
            optimizer = torch.optim.Adam(member.parameters(), lr=1e-3, weight_decay=1e-4)
            for _ in range(updates):
                at = own[torch.randint(len(own), (min(32, len(own)),), generator=draw)]
                scores = self.of(place, states[at], actions[at])
                one, other = scores.unbind(1)
                kept = mask[at]
                losses = answers[at] * segments(one, other, kept, kept, random_share=2 * error)
                losses = losses + (1 - answers[at]) * segments(other, one, kept, kept, random_share=2 * error)
                optimizer.zero_grad()
                example_mean(losses, examples=len(at)).backward()
                optimizer.step()
        with torch.no_grad():
            found = self.each(states, actions).flatten(1)
        self.moments = [(float(one.mean()), max(float(one.std()), 1e-3)) for one in found]
