"""Control tasks as a person sees them: episodes of one length, whose end tells the learner nothing, and a reward for what is seen.

An episode that the task ends stays where it ended, for the rest of its length or for a while before it starts anew (arXiv:1706.03741, appendix A:
episodes that end when the task goes wrong would tell the learner what the person was to say).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prefloop.errors import InputError

State = NDArray[Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlTask:
    """A task, what a person sees in it, and how it is learned."""

    make: Callable[[], Any]
    """An environment with Gymnasium's `reset`, `step` and `action_space`."""
    seen: Callable[[State, float], float]
    """From a state and the task's reward for it: what the person adds up, and what learning from the true reward learns from."""
    scale: float
    """That reward times this is learned from, so that values are of the size of one."""
    length: int
    """Steps of an episode."""
    gamma: float
    lam: float
    rest: int = 0
    """Steps that an episode which the task ends stays where it ended, after which it starts anew; 0 for the rest of its length.

    Where bad policies end soon, the rest of the length would be most of what is compared: early rewards then like one end better than another, and
    the policy settles on it.
    """


class Swimmer:
    """Purcell's swimmer: three links of length 1 in a fluid so viscous that nothing glides. Reward is the way made along x.

    Forces are resistive: along a link 1, across it 2, times speed and length; their sum and their moment are zero at every moment, which gives the
    body's velocity from those of the joints. Strokes that are the same backwards lead nowhere, so two joints must move out of phase.
    Actions are the nine pairs of joint velocities -1, 0 and 1; observations are both angles, and cosine and sine of the body's direction.
    """

    RATE, LIMIT = 0.3, 1.2
    """Radians in a step, and the furthest that a joint bends."""

    def __init__(self) -> None:
        self.action_space = SimpleNamespace(n=9)
        self.joints, self.direction = np.zeros(2), 0.0

    def reset(self, seed: int | None = None) -> tuple[State, dict[str, Any]]:
        """Nearly straight, along x."""
        if seed is not None:
            self.draw = np.random.default_rng(seed)
        self.joints, self.direction = self.draw.uniform(-0.1, 0.1, 2), 0.0
        return self.state(), {}

    def state(self) -> State:
        """What is observed."""
        return np.array([*self.joints, np.cos(self.direction), np.sin(self.direction)], dtype=np.float32)

    def step(self, action: int) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """Bend the joints, and move as the fluid lets the body; never ends."""
        wanted = self.joints + self.RATE * (np.array(divmod(int(action), 3)) - 1)
        bent = np.clip(wanted, -self.LIMIT, self.LIMIT) - self.joints
        forward, aside, turn = drift(self.joints + bent / 2, bent)
        middle = self.direction + turn / 2
        self.joints, self.direction = self.joints + bent, self.direction + turn
        return self.state(), float(forward * np.cos(middle) - aside * np.sin(middle)), False, False, {}


def drift(joints: State, bent: State) -> State:
    """How far the body goes along and across itself, and turns, when its joints turn by `bent` at these angles."""
    balance = np.zeros(
        (3, 5)
    )  # forces along and across and the moment, of velocities: body's three, joints' two
    for side, angle, place in ((0.0, 0.0, None), (-0.5, joints[0], 3), (0.5, joints[1], 4)):
        along = np.array([np.cos(angle), np.sin(angle)])
        across = np.array([-along[1], along[0]])
        arm = np.sign(side) * 0.5
        centre = np.array([side, 0.0]) + arm * along
        velocity = np.zeros((3, 5))
        velocity[:2, :2] = np.eye(2)
        velocity[:, 2] = (-centre[1], centre[0], 1.0)
        if place:
            velocity[:, place] = (*(arm * across), 1.0)
        drag = np.zeros((3, 3))
        drag[:2, :2] = np.outer(along, along) + 2 * np.outer(across, across)
        drag[2, 2] = 2 / 12
        force = drag @ velocity
        force[2] += centre[0] * force[1] - centre[1] * force[0]
        balance += force
    return np.linalg.solve(balance[:, :3], -balance[:, 3:] @ bent)


def _gymnasium(name: str) -> Callable[[], Any]:
    def make() -> Any:
        try:
            import gymnasium
        except ImportError as error:
            raise InputError("this task needs Gymnasium: pip install 'prefloop[control]'") from error
        return gymnasium.make(name)

    return make


def _height(state: State, reward: float) -> float:
    """How high the tip of two rods is, from the cosines and sines of their angles."""
    del reward
    return float(-state[0] - (state[0] * state[2] - state[1] * state[3]))


CONTROL_TASKS: Mapping[str, ControlTask] = {
    "cartpole": ControlTask(
        make=_gymnasium("CartPole-v1"),
        seen=lambda state, reward: reward,
        scale=1.0,
        length=200,
        gamma=0.98,
        lam=0.8,
        rest=25,
    ),
    "acrobot": ControlTask(
        make=_gymnasium("Acrobot-v1"), seen=_height, scale=0.5, length=300, gamma=0.99, lam=0.94
    ),
    "swimmer": ControlTask(
        make=Swimmer, seen=lambda state, reward: reward, scale=50.0, length=200, gamma=0.99, lam=0.95
    ),
}


class Filmed:
    """An environment of one length, whose reward the learner is told or is not, and which is kept on film.

    Of the step that ends the task, and of those that it stays there, the task's reward is 0 and the state the last one.
    """

    def __init__(self, task: ControlTask, *, told: bool) -> None:
        self.task, self.told, self.env = task, told, task.make()
        self.action_space = self.env.action_space
        self.films: list[tuple[list[State], list[int], list[float], float]] = []
        """Finished episodes: states, actions, what was seen in each step, and the task's own return until it first ended."""

    def reset(self, seed: int | None = None) -> tuple[State, dict[str, Any]]:
        """A new episode."""
        self.now, _ = self.env.reset(seed=seed)
        self.over, self.rested, self.total, self.ended = False, 0, 0.0, False
        self.states: list[State] = []
        self.actions: list[int] = []
        self.seen: list[float] = []
        return self.now, {}

    def step(self, action: int) -> tuple[State, float, bool, bool, dict[str, Any]]:
        """One step, with what is seen as its reward or with none; cut when the length is over."""
        self.states.append(np.array(self.now))
        self.actions.append(action)
        reward = 0.0
        if not self.over:
            self.now, reward, self.over, _, _ = self.env.step(action)
            self.total += 0.0 if self.ended else float(reward)
            self.ended = self.ended or self.over
            reward = 0.0 if self.over else float(reward)
        elif self.rested < self.task.rest - 1:
            self.rested += 1
        elif self.task.rest:
            self.now, _ = self.env.reset()
            self.over, self.rested = False, 0
        self.seen.append(self.task.seen(self.now, reward))
        cut = len(self.seen) == self.task.length
        if cut:
            self.films.append((self.states, self.actions, self.seen, self.total))
        return self.now, self.task.scale * self.seen[-1] if self.told else 0.0, False, cut, {}
