"""The study of control from comparisons: the swimmer's physics, what a person says, what is asked for, and the smallest size."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prefloop.configs.study import StudyConfig
from prefloop.errors import InputError
from prefloop.studies.control import ONCE, Asking, ControlSettings, cells
from prefloop.studies.control_rewards import Rewards, SimulatedPerson
from prefloop.studies.control_tasks import ControlTask, Filmed, Swimmer, drift
from prefloop.studies.run import study

pytest.importorskip("gymnasium")


class Climbing:
    """A state that goes up by the action, and ends at 3."""

    def __init__(self) -> None:
        self.action_space = type("Two", (), {"n": 2})()

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict]:
        self.height = 0
        return np.array([0.0], dtype=np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.height += action
        return np.array([self.height], dtype=np.float32), 1.0, self.height == 3, False, {}


TASK = ControlTask(make=Climbing, seen=lambda state, reward: reward, scale=2.0, length=6, gamma=0.9, lam=0.9)


def play(env: Filmed, actions: list[int]) -> list[tuple[float, bool, bool]]:
    env.reset()
    return [env.step(action)[1:4] for action in actions]


def test_an_episode_that_ends_stays_where_it_ended_and_tells_nothing() -> None:
    told, untold = Filmed(TASK, told=True), Filmed(TASK, told=False)
    steps = play(told, [1, 1, 1, 1, 0, 1])
    assert [reward for reward, *_ in steps] == [2.0, 2.0, 0.0, 0.0, 0.0, 0.0]
    assert [over for _, over, _ in steps] == [False] * 6
    assert [cut for *_, cut in steps] == [False] * 5 + [True]
    states, actions, seen, total = told.films[0]
    assert [float(state[0]) for state in states] == [0, 1, 2, 3, 3, 3]
    assert actions == [1, 1, 1, 1, 0, 1]
    assert seen == [1, 1, 0, 0, 0, 0]
    assert total == 3
    assert {reward for reward, *_ in play(untold, [1, 1, 1, 1, 0, 1])} == {0.0}


def test_an_episode_with_a_rest_starts_anew_after_it() -> None:
    env = Filmed(replace(TASK, rest=2, length=8), told=True)
    steps = play(env, [1, 1, 1, 0, 1, 1, 1, 1])
    assert [reward for reward, *_ in steps] == [2.0, 2.0, 0.0, 0.0, 0.0, 2.0, 2.0, 0.0]
    assert [over for _, over, _ in steps] == [False] * 8
    states, _, _, total = env.films[0]
    assert [float(state[0]) for state in states] == [0, 1, 2, 3, 3, 0, 1, 2]
    assert total == 3  # of the first start alone


def test_strokes_that_are_the_same_backwards_lead_nowhere() -> None:
    """The scallop theorem; and out of phase the swimmer moves, the other way round backwards."""

    def way(stroke: list[tuple[int, int]]) -> float:
        swimmer = Swimmer()
        swimmer.reset(seed=0)
        swimmer.joints = np.zeros(2)
        return sum(swimmer.step(3 * (a + 1) + b + 1)[1] for a, b in stroke)

    assert way([(1, 0)] * 3 + [(-1, 0)] * 3) == pytest.approx(0, abs=1e-12)
    square = [(1, 0)] * 3 + [(0, 1)] * 3 + [(-1, 0)] * 3 + [(0, -1)] * 3
    other = [(0, 1)] * 3 + [(1, 0)] * 3 + [(0, -1)] * 3 + [(-1, 0)] * 3
    assert abs(way(square)) > 0.02
    assert way(square) == pytest.approx(-way(other), abs=0.02)


def test_nothing_pushes_the_swimmer() -> None:
    """The drag on small pieces of its links, summed, has no force and no moment."""
    joints, bent = np.array([0.7, -0.4]), np.array([0.2, 0.3])
    forward, aside, turn = drift(joints, bent)
    force, moment = np.zeros(2), 0.0
    along = (np.arange(2000) + 0.5) / 2000
    for hinge, sign, angle, spin in (
        (-0.5, 1, 0.0, 0.0),
        (-0.5, -1, joints[0], bent[0]),
        (0.5, 1, joints[1], bent[1]),
    ):
        axis = np.array([np.cos(angle), np.sin(angle)])
        from_hinge = sign * along[:, None] * axis
        at = np.array([hinge, 0.0]) + from_hinge
        speed = (
            np.array([forward, aside]) + turn * at[:, ::-1] * (-1, 1) + spin * from_hinge[:, ::-1] * (-1, 1)
        )
        drag = (2 * speed - (speed @ axis)[:, None] * axis) / len(along)
        force += drag.sum(0)
        moment += float((at[:, 0] * drag[:, 1] - at[:, 1] * drag[:, 0]).sum())
    np.testing.assert_allclose([*force, moment], 0, atol=1e-6)


def test_a_person_is_wrong_as_often_as_said_and_equal_segments_are_equal() -> None:
    sums = torch.tensor([[2.0, 1.0]]).repeat(4000, 1)
    person = SimulatedPerson(segment=2, error=0.1, seed=0)
    assert float((person.compare(sums) == 0).float().mean()) == pytest.approx(0.1, abs=0.02)
    assert set(person.compare(torch.ones(50, 2)).tolist()) == {0.5}


def test_segments_are_of_the_films_and_rewards_are_learned_from_answers() -> None:
    env = Filmed(TASK, told=False)
    draw = np.random.default_rng(0)
    for _ in range(10):
        play(env, draw.integers(0, 2, 6).tolist())
    states, actions, sums = SimulatedPerson(segment=2, error=0.0, seed=0).segments([env], 300)
    assert states.shape == (300, 2, 2, 1)
    standing = (states.squeeze(-1) + actions < 3).sum(-1)  # the reward is of the state that follows
    assert torch.equal(standing.float(), sums.float())
    torch.manual_seed(0)
    rewards = Rewards(1, 2, 2)
    assert float(rewards(states, actions).abs().sum()) == 0
    answers = SimulatedPerson(segment=2, error=0.0, seed=0).compare(sums)
    rewards.fit(states + 50, actions, answers, updates=3, error=0.0, draw=torch.Generator().manual_seed(0))
    assert rewards.standard.mean.item() == pytest.approx(states.mean().item() + 50)
    rewards.fit(states, actions, answers, updates=150, error=0.0, draw=torch.Generator().manual_seed(0))
    better = rewards(states, actions).sum(-1)
    told = sums[:, 0] != sums[:, 1]
    agrees = (better[:, 0] > better[:, 1]) == (sums[:, 0] > sums[:, 1])
    assert float(agrees[told].float().mean()) > 0.9
    assert rewards.disagreement(states, actions).shape == (300,)


def test_labels_are_spread_over_the_training_or_asked_once() -> None:
    settings = ControlSettings(rounds=4)
    asking = Asking(settings, 100, "", 0)
    asked = []
    for share in (0.0, 0.1, 0.3, 0.6, 0.8, 0.99):
        asked.append(asking.due(share))
        asking.count += asked[-1]
    assert asked == [25, 0, 25, 25, 25, 0]
    assert Asking(replace(settings, first=0.4), 100, "", 0).due(0.0) == 40
    assert Asking(replace(settings, first=0.4), 100, "", 0).due(0.99) == 100
    assert Asking(replace(settings, rounds=1), 100, "", 0).due(0.0) == 100
    assert Asking(settings, 100, ONCE, 0).due(0.0) == 100
    assert Asking(settings, 0, "", 0).due(0.5) == 0


def test_the_smallest_size_runs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    out = tmp_path / "control"
    assert study(StudyConfig(name="control", size="smallest", seeds=1, jobs=1, out=str(out))) == 0
    found = json.loads((out / "study.json").read_text())
    assert len(found["findings"]) == 4
    assert [row["labels"]["value"] for row in found["tables"][0]] == [0, 4, 6, 8, 6, 6]


def test_a_task_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match="tasks has 'ant', which is no task; there are cartpole"):
        cells(ControlSettings(tasks=("ant",)))
