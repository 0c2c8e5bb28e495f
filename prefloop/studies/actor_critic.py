"""PPO and its kin on control tasks: the loss and estimator functions of `prefloop.losses` around a small network.

An episode, or what a batch holds of it, is a row of a right-padded `[B, T]`, as a completion is. Where it was cut and not ended, the value of
the next state is added, discounted, to the last reward: generalised advantages and returns are then those of bootstrapping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Categorical

from prefloop.losses import Moments, clipped_surrogate, clipped_value_loss, gae, token_mean, whiten


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How one method is run on one task; the defaults are PPO's on CartPole, after rl-baselines3-zoo."""

    steps: int = 100_000
    """Environment steps."""
    environments: int = 8
    batch: int = 32
    """Steps of every environment between updates; 0 takes whole episodes, about `episode_steps` steps of them."""
    episode_steps: int = 2000
    gamma: float = 0.98
    lam: float = 0.8
    lr: float = 1e-3
    linear: bool = True
    """The rate falls to zero at the last step; PPO's clip, or TRPO's bound, with it."""
    normalise: bool = False
    """Observations less their mean, by their standard deviation, over all steps so far."""
    reward_scale: float = 1.0
    """Rewards are learnt from times this; what is reported are the task's own."""
    epochs: int = 20
    minibatch: int = 256
    clip: float = 0.2
    value_coef: float = 0.5
    entropy_coef: float = 0.0
    """Of a bonus for the entropy of the actions, nats."""
    whiten: bool = True
    max_grad_norm: float = 0.5
    max_kl: float = 0.01
    cg_iterations: int = 15
    cg_damping: float = 1e-3
    critic_epochs: int = 20


class Standard(nn.Module):
    """Observations `[N, observations]` in units of their running standard deviation; as they are until `add` is called."""

    def __init__(self, observations: int) -> None:
        super().__init__()
        for name, start in (("mean", torch.zeros), ("variance", torch.ones)):
            self.register_buffer(name, start(observations))
        self.mean: Tensor
        self.variance: Tensor
        self.count = 0

    def forward(self, states: Tensor) -> Tensor:
        return ((states - self.mean) / (self.variance + 1e-8).sqrt()).clamp(-10, 10) if self.count else states

    def add(self, states: Tensor) -> None:
        """Chan's update of mean and variance with more states."""
        new, total = len(states), self.count + len(states)
        away = states.mean(0) - self.mean
        squares = self.variance * self.count + states.var(0, correction=0) * new
        self.variance = (squares + away.square() * self.count * new / total) / total
        self.mean = self.mean + away * new / total
        self.count = total


class ControlModel(nn.Module):
    """Two networks of two layers of 64: logits of the actions, and the value."""

    def __init__(self, observations: int, actions: int) -> None:
        super().__init__()
        self.standard = Standard(observations)
        self.policy, self.critic = network(observations, actions, 0.01), network(observations, 1, 1.0)

    def logits(self, states: Tensor) -> Tensor:
        """Of the actions in each state."""
        return self.policy(self.standard(states))

    def values(self, states: Tensor) -> Tensor:
        """Value of each state."""
        return self.critic(self.standard(states)).squeeze(-1)


def network(inputs: int, outputs: int, gain: float) -> nn.Sequential:
    """Orthogonal weights, as in the public implementations."""
    layers = [nn.Linear(inputs, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, outputs)]
    for layer, scale in zip(layers[::2], (2**0.5, 2**0.5, gain), strict=True):
        nn.init.orthogonal_(layer.weight, scale)
        nn.init.zeros_(layer.bias)
    return nn.Sequential(*layers)


@dataclass(frozen=True, kw_only=True)
class PlayedBatch:
    """Rows of episodes, right-padded, and their steps one after another."""

    mask: Tensor
    """`[B, T]`, True on steps."""
    rewards: Tensor
    """`[B, T]`, with the value of what follows added where a row was cut."""
    states: Tensor
    """`[N, observations]`, in the order of the mask's True places."""
    actions: Tensor


class Collector:
    """Plays in several copies of a task, which go on where the last batch stopped."""

    def __init__(self, envs: Sequence[Any], seed: int) -> None:
        self.envs = list(envs)
        self.states = np.stack([env.reset(seed=1000 * seed + i)[0] for i, env in enumerate(self.envs)])
        self.steps = 0
        self.returns: list[float] = []
        """Of all finished episodes."""
        self.running = np.zeros(len(self.envs))

    def collect(self, model: ControlModel, settings: Settings) -> PlayedBatch:
        """Steps of every environment; whole episodes where `settings.batch` is 0."""
        rows: list[tuple[list[np.ndarray], list[int], list[float]]] = []
        open_rows = [([], [], []) for _ in self.envs]
        count, enough = 0, settings.batch * len(self.envs) if settings.batch else settings.episode_steps
        playing = list(range(len(self.envs)))
        while playing:
            with torch.no_grad():
                states = torch.tensor(self.states[playing])
                actions = Categorical(logits=model.logits(states)).sample().tolist()
            count += len(playing)
            for i, action in zip(list(playing), actions, strict=True):
                state, reward, ended, cut, _ = self.envs[i].step(action)
                self.running[i] += float(reward)
                row = open_rows[i]
                row[0].append(self.states[i].copy())  # the array is written over below
                row[1].append(action)
                row[2].append(settings.reward_scale * float(reward))
                self.states[i] = state
                if ended or cut:
                    if cut and not ended:
                        row[2][-1] += self.following(model, state, settings)
                    rows.append(row)
                    open_rows[i] = ([], [], [])
                    self.returns.append(self.running[i])
                    self.running[i] = 0.0
                    self.states[i] = self.envs[i].reset()[0]
                    # Whole episodes: each goes on to its end. Leaving the unfinished ones out would leave out the long ones.
                    if count >= enough and not settings.batch:
                        playing.remove(i)
            if count >= enough and settings.batch:
                break
        self.steps += count
        for i, row in enumerate(open_rows):
            if row[1]:
                row[2][-1] += self.following(model, self.states[i], settings)
                rows.append(row)
        lengths = torch.tensor([len(row[1]) for row in rows])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        rewards = torch.zeros(mask.shape)
        rewards[mask] = torch.tensor([reward for row in rows for reward in row[2]], dtype=torch.float32)
        return PlayedBatch(
            mask=mask,
            rewards=rewards,
            states=torch.tensor(np.stack([state for row in rows for state in row[0]])),
            actions=torch.tensor([action for row in rows for action in row[1]]),
        )

    @staticmethod
    def following(model: ControlModel, state: np.ndarray, settings: Settings) -> float:
        """What the critic expects after a cut, discounted; nothing where there is no critic."""
        if not settings.value_coef:
            return 0.0
        with torch.no_grad():
            return settings.gamma * model.values(torch.tensor(state)).item()


@dataclass(frozen=True, kw_only=True)
class PlayedSteps:
    """What a batch has to teach, one step after another; every tensor but the states is `[N]`."""

    states: Tensor
    actions: Tensor
    old_logprobs: Tensor
    old_values: Tensor
    advantages: Tensor
    returns: Tensor

    def take(self, places: Tensor) -> "PlayedSteps":
        """Some of the steps."""
        return PlayedSteps(**{name: value[places] for name, value in vars(self).items()})


def judge(model: ControlModel, batch: PlayedBatch, settings: Settings, *, critic: bool) -> PlayedSteps:
    """Advantages and returns; REINFORCE has no critic, and its advantages are the returns themselves."""
    with torch.no_grad():
        values = model.values(batch.states)
        logprobs = Categorical(logits=model.logits(batch.states)).log_prob(batch.actions)
    padded = torch.zeros(batch.mask.shape)
    if critic:
        padded[batch.mask] = values
    advantages, returns = gae(
        batch.rewards, padded, batch.mask, gamma=settings.gamma, lam=settings.lam if critic else 1.0
    )
    if settings.whiten:
        advantages = whiten(advantages, batch.mask, Moments.of(advantages, batch.mask))
    return PlayedSteps(
        states=batch.states,
        actions=batch.actions,
        old_logprobs=logprobs,
        old_values=values,
        advantages=advantages[batch.mask],
        returns=returns[batch.mask],
    )


def mean(losses: Tensor) -> Tensor:
    """As one row of a batch whose every step counts."""
    row = losses.unsqueeze(0)
    return token_mean(row, torch.ones_like(row, dtype=torch.bool), tokens=row.numel())


def clipped_updates(
    model: ControlModel,
    steps: PlayedSteps,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    *,
    clip: float,
) -> None:
    """PPO's epochs. One epoch of one minibatch has ratio 1 throughout, and is A2C; without the value term REINFORCE."""
    for _ in range(settings.epochs):
        order = torch.randperm(len(steps.actions))
        for places in order.split(min(settings.minibatch, len(order))):
            some = steps.take(places)
            chosen = Categorical(logits=model.logits(some.states))
            logprobs = chosen.log_prob(some.actions)
            loss = mean(clipped_surrogate(*rows(logprobs, some.old_logprobs, some.advantages), clip=clip)[0])
            if settings.entropy_coef:
                loss = loss - settings.entropy_coef * mean(chosen.entropy())
            if settings.value_coef:
                values = model.values(some.states)
                loss = loss + 2 * settings.value_coef * mean(
                    clipped_value_loss(*rows(values, some.old_values, some.returns), clip=0.0)[0]
                )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()


def rows(*values: Tensor) -> list[Tensor]:
    """Each as a batch of one row."""
    return [value.unsqueeze(0) for value in values]
