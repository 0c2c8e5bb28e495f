"""The control example: what it collects is what happened, a time limit is bootstrapped, and its updates do what they say."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

gymnasium = pytest.importorskip("gymnasium")

from examples.control.train import SETTINGS, trust_region_update  # noqa: E402
from prefloop.studies.actor_critic import (  # noqa: E402
    Collector,
    ControlModel,
    Settings,
    Standard,
    clipped_updates,
    judge,
)


class Counting:
    """A task whose state is the number of the step, that pays 1 a step and ends, or is cut, at a known one."""

    def __init__(self, *, ends: int = 0, cut: int = 0) -> None:
        self.ends, self.cut, self.step_number = ends, cut, 0
        self.action_space: Any = gymnasium.spaces.Discrete(2)

    def reset(self, seed: int = 0) -> tuple[np.ndarray, dict[str, Any]]:
        self.step_number = 0
        return self.state(), {}

    def state(self) -> np.ndarray:
        return np.array([self.step_number, 1.0], dtype=np.float32)

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.step_number += 1
        return self.state(), 1.0, self.step_number == self.ends, self.step_number == self.cut, {}


def collector(*tasks: Counting) -> Collector:
    made = Collector.__new__(Collector)
    made.envs = list(tasks)  # pyright: ignore[reportAttributeAccessIssue]
    made.states = np.stack([task.reset()[0] for task in tasks])
    made.steps, made.returns, made.running = 0, [], np.zeros(len(tasks))
    return made


def model() -> ControlModel:
    torch.manual_seed(0)
    return ControlModel(2, 2)


def test_rows_hold_the_states_that_were_seen():
    """Not the last one over and over: the environments' states are written into one array."""
    batch = collector(Counting(ends=3)).collect(model(), Settings(batch=7))
    assert batch.mask.sum(1).tolist() == [3, 3, 1]
    assert batch.states[:, 0].tolist() == [0, 1, 2, 0, 1, 2, 0]


def test_an_end_pays_nothing_more_and_a_cut_is_bootstrapped():
    policy = model()
    settings = Settings(batch=4, gamma=0.9)
    ended = collector(Counting(ends=4)).collect(policy, settings)
    assert ended.rewards[ended.mask].tolist() == [1, 1, 1, 1]
    for task in (Counting(cut=4), Counting()):  # by the time limit, and by the end of the batch
        cut = collector(task).collect(policy, settings)
        with torch.no_grad():
            value = policy.values(torch.tensor([4.0, 1.0])).item()
        np.testing.assert_allclose(cut.rewards[cut.mask].numpy(), [1, 1, 1, 1 + 0.9 * value], rtol=1e-6)


def test_advantages_of_a_cut_row_are_the_bootstrapped_ones():
    """Against the textbook's loop, with V of the state after the cut."""
    policy, gamma, lam = model(), 0.9, 0.8
    settings = Settings(batch=4, gamma=gamma, lam=lam, whiten=False)
    steps = judge(policy, collector(Counting(cut=4)).collect(policy, settings), settings, critic=True)
    with torch.no_grad():
        values = policy.values(torch.tensor([[float(t), 1.0] for t in range(5)])).tolist()
    expected, following = [], 0.0
    for t in reversed(range(4)):
        following = 1 + gamma * values[t + 1] - values[t] + gamma * lam * following
        expected.insert(0, following)
    np.testing.assert_allclose(steps.advantages.numpy(), expected, rtol=1e-5)
    np.testing.assert_allclose(steps.returns.numpy(), np.add(expected, values[:4]), rtol=1e-5)


def test_observations_are_standardised_by_all_that_were_seen():
    """However they come in; nothing changes before the first of them."""
    states = (
        torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 5.0, 0.1]) + 2
    )
    standard = Standard(3)
    assert torch.equal(standard(states), states)
    for part in states.split([7, 30, 13]):
        standard.add(part)
    expected = (states - states.mean(0)) / states.std(0, correction=0)
    torch.testing.assert_close(standard(states), expected, rtol=1e-4, atol=1e-5)


def test_a_scale_of_rewards_is_learned_from_and_not_reported():
    made = collector(Counting(ends=3))
    batch = made.collect(model(), Settings(batch=3, reward_scale=0.1))
    torch.testing.assert_close(batch.rewards, torch.full((1, 3), 0.1))
    assert made.returns == [3.0]


def test_reinforce_collects_whole_episodes():
    batch = collector(Counting(ends=5), Counting(ends=9)).collect(
        model(), Settings(batch=0, episode_steps=40)
    )
    assert set(batch.mask.sum(1).tolist()) == {5, 9}


def test_a_long_episode_is_played_to_its_end_and_not_left_out():
    """Leaving out what has not ended when there are enough steps would teach from short episodes alone."""
    made = collector(Counting(ends=4), Counting(ends=50))
    batch = made.collect(model(), Settings(batch=0, episode_steps=16))
    assert sorted(set(batch.mask.sum(1).tolist())) == [4, 50]
    assert made.steps == int(batch.mask.sum())


def test_without_a_critic_a_cut_is_not_bootstrapped():
    batch = collector(Counting(cut=4)).collect(model(), Settings(batch=0, episode_steps=4, value_coef=0.0))
    assert batch.rewards[batch.mask].tolist() == [1, 1, 1, 1]


@pytest.fixture
def steps() -> tuple[ControlModel, Any, Settings]:
    """Steps of CartPole, judged."""
    torch.manual_seed(0)
    settings = replace(SETTINGS["cartpole", "trpo"], environments=2, batch=100, critic_epochs=1)
    policy = ControlModel(4, 2)
    batch = Collector([gymnasium.make("CartPole-v1") for _ in range(2)], seed=0).collect(policy, settings)
    return policy, judge(policy, batch, settings, critic=True), settings


def test_a_trust_region_step_gains_within_its_bound(steps: tuple[ControlModel, Any, Settings]):
    policy, judged, settings = steps
    before = [parameter.clone() for parameter in policy.policy.parameters()]
    kl, gain = trust_region_update(policy, judged, torch.optim.Adam(policy.critic.parameters()), settings)
    assert 0.25 * settings.max_kl < kl <= settings.max_kl
    assert gain > 0
    assert any(not torch.equal(a, b) for a, b in zip(before, policy.policy.parameters(), strict=True))


def test_good_actions_become_likelier(steps: tuple[ControlModel, Any, Settings]):
    policy, judged, settings = steps
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-3)
    clipped_updates(policy, judged, optimizer, replace(settings, epochs=3), clip=0.2)
    with torch.no_grad():
        logprobs = policy.policy(judged.states).log_softmax(-1).gather(1, judged.actions[:, None]).squeeze(1)
    change = logprobs - judged.old_logprobs
    assert (change * judged.advantages).mean() > 0


@pytest.mark.parametrize(("coefficient", "sign"), [(1.0, 1), (-1.0, -1)])
def test_an_entropy_bonus_levels_the_policy(
    steps: tuple[ControlModel, Any, Settings], coefficient: float, sign: int
):
    policy, judged, settings = steps
    last = policy.policy[-1]
    assert isinstance(last, torch.nn.Linear)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([0.5, -0.5]))

    def entropy() -> float:
        with torch.no_grad():
            return (
                torch.distributions.Categorical(logits=policy.logits(judged.states)).entropy().mean().item()
            )

    before, flat = entropy(), replace(judged, advantages=torch.zeros_like(judged.advantages))
    optimizer = torch.optim.Adam(policy.policy.parameters(), lr=1e-3)
    clipped_updates(policy, flat, optimizer, replace(settings, epochs=3, entropy_coef=coefficient), clip=0.2)
    assert sign * (entropy() - before) > 1e-3
