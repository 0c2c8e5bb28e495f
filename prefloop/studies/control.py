"""Deep reinforcement learning from human preferences (arXiv:1706.03741): control from segments that a simulated person compares."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prefloop.errors import InputError
from prefloop.evaluation.curves import Series
from prefloop.evaluation.plots import Frame, ReferenceLine, line_chart
from prefloop.evaluation.wording import with_interval
from prefloop.studies.actor_critic import Collector, ControlModel, Settings, clipped_updates, judge
from prefloop.studies.control_rewards import Rewards, SimulatedPerson
from prefloop.studies.control_tasks import CONTROL_TASKS, ControlTask, Filmed
from prefloop.studies.study import (
    Numbers,
    Place,
    Study,
    StudyCell,
    StudyFigure,
    StudyFinding,
    StudyReport,
    StudyResults,
    StudySettings,
    StudyTable,
    all_sure,
    sure,
)

TRUE, UNIFORM, ONCE = "true reward", "uniform", "asked once"
CHRISTIANO = "Christiano et al., arXiv:1706.03741"


@dataclass(frozen=True, kw_only=True, slots=True)
class ControlSettings(StudySettings):
    """Settings of the study `control`."""

    tasks: tuple[str, ...] = ("cartpole", "acrobot", "swimmer")
    labels: tuple[int, ...] = (50, 150, 350)
    """The person's, over the whole training."""
    steps: int = 60_000
    """Of the environment."""
    rounds: int = 10
    """Times that the person is asked, evenly spread over the steps; the policy learns between them."""
    entropy_coef: float = 0.01
    """Of the bonus for the entropy of the policy's actions, which keeps it from settling on what an early reward model likes."""
    first: float = 0.25
    """Share of the labels that is asked for at the first time, when the policy is random (arXiv:1706.03741, appendix A)."""
    segment: int = 25
    """Steps of a segment."""
    error: float = 0.1
    """How often the person is wrong; the loss assumes twice this share of answers at random."""
    members: int = 3
    """Of the ensemble whose mean is the reward."""
    candidates: int = 10
    """Pairs of segments for each that is asked, of which the ensemble disagrees most on the one; one for uniform queries."""
    fits: int = 200
    """Updates of each reward model after each round."""
    drawn: int = 20
    """Episodes that a policy is measured on."""


def cells(settings: ControlSettings) -> list[StudyCell]:
    """For each task the true reward, each number of labels, and at the middle one uniform queries and all queries at the start."""
    for task in settings.tasks:
        if task not in CONTROL_TASKS:
            raise InputError(f"tasks has {task!r}, which is no task; there are {', '.join(CONTROL_TASKS)}")
    middle = settings.labels[len(settings.labels) // 2]
    ways = [
        (TRUE, 0, ""),
        *((f"{count} labels", count, "") for count in settings.labels),
        (f"{middle} labels, {UNIFORM}", middle, UNIFORM),
        (f"{middle} labels, {ONCE}", middle, ONCE),
    ]
    return [
        StudyCell(name=f"{task}, {name}", given={"task": task, "labels": labels, "way": way})
        for task in settings.tasks
        for name, labels, way in ways
    ]


class Asking:
    """Asks the person when it is time, and fits the rewards to all answers."""

    def __init__(self, settings: ControlSettings, labels: int, way: str, seed: int) -> None:
        self.settings, self.labels, self.way = settings, labels, way
        self.person = SimulatedPerson(segment=settings.segment, error=settings.error, seed=seed)
        self.draw = torch.Generator().manual_seed(seed)
        self.count = 0
        self.known: list[tuple[Tensor, Tensor, Tensor]] = []

    def due(self, share: float) -> int:
        """Labels to ask for, after a share of the steps."""
        rounds = self.settings.rounds
        later = 1.0 if self.way == ONCE or rounds == 1 else min(1.0, int(share * rounds) / (rounds - 1))
        return round(self.labels * (self.settings.first + (1 - self.settings.first) * later)) - self.count

    def ask(self, rewards: Rewards, envs: Sequence[Filmed], share: float) -> None:
        """Those that are due, if any."""
        due = self.due(share)
        if due <= 0:
            return
        chance = self.way == UNIFORM or not self.known
        states, actions, sums = self.person.segments(envs, due * (1 if chance else self.settings.candidates))
        if not chance:
            best = rewards.disagreement(states, actions).topk(due).indices
            states, actions, sums = states[best], actions[best], sums[best]
        self.known.append((states, actions, self.person.compare(sums)))
        self.count += due
        together = [torch.cat(parts) for parts in zip(*self.known, strict=True)]
        rewards.fit(*together, updates=self.settings.fits, error=self.settings.error, draw=self.draw)


def work(settings: ControlSettings, cell: StudyCell, place: Place) -> Numbers:
    """Learn from the person's comparisons or from the true reward, and measure the greedy policy by the task's own return."""
    torch.manual_seed(place.seed)
    task, labels = CONTROL_TASKS[cell.given["task"]], cell.given["labels"]
    usual = Settings(steps=settings.steps, gamma=task.gamma, lam=task.lam, entropy_coef=settings.entropy_coef)
    envs = [Filmed(task, told=not labels) for _ in range(usual.environments)]
    collector = Collector(envs, place.seed)
    sizes = (collector.states.shape[1], int(envs[0].action_space.n))
    model, rewards = ControlModel(*sizes), Rewards(*sizes, settings.members)
    optimizer = torch.optim.Adam(model.parameters(), lr=usual.lr, eps=1e-5)
    asking = Asking(settings, labels, cell.given["way"], place.seed)
    while collector.steps < usual.steps:
        share = collector.steps / usual.steps
        optimizer.param_groups[0]["lr"] = usual.lr * (1 - share)
        if all(env.films for env in envs):
            asking.ask(rewards, envs, share)
        batch = collector.collect(model, usual)
        if labels:  # what is there already is what follows a cut
            learned = rewards(batch.states, batch.actions)
            batch.rewards[batch.mask] += (1 - task.gamma) * learned  # so that values are of the size of one
        steps = judge(model, batch, usual, critic=True)
        clipped_updates(model, steps, optimizer, usual, clip=usual.clip * (1 - share))
    return {
        "return": evaluate(model, task, seed=place.seed, episodes=settings.drawn),
        "asked": asking.count,
    }


def evaluate(model: ControlModel, task: ControlTask, *, seed: int, episodes: int) -> float:
    """The task's own mean return of the greedy policy, from fresh starts, in episodes of one length."""
    env = Filmed(task, told=False)
    for episode in range(episodes):
        state, _ = env.reset(seed=10_000_000 + 1000 * seed + episode)
        cut = False
        while not cut:
            with torch.no_grad():
                action = int(model.logits(torch.tensor(np.asarray(state))).argmax())
            state, _, _, cut, _ = env.step(action)
    return float(np.mean([total for *_, total in env.films]))


def report(settings: ControlSettings, results: StudyResults) -> StudyReport:
    """Returns by number of labels, and by how they are asked for."""
    rows = tuple(
        (
            *name.split(", ", 1),
            results.mean(name, "asked"),
            results.mean(name, "return"),
            None
            if name.endswith(TRUE)
            else results.difference(name, f"{name.split(', ', 1)[0]}, {TRUE}", "return"),
        )
        for name in results.numbers
    )
    columns = ("task", "learned from", "labels", "return", "less that of the true reward")
    return StudyReport(
        findings=tuple(_findings(settings, results)),
        table=StudyTable(columns=columns, rows=rows),
        figure=StudyFigure(drawing=_drawing(settings, results), caption="return by number of labels"),
        remarks=(
            f"PPO, {settings.steps} steps. Returns are the task's own, of the greedy policy, over episodes of {_lengths(settings)} steps. In training an "
            f"episode that the task ends stays where it ended{_rests(settings)}, so that its end tells nothing. The person compares segments of "
            f"{settings.segment} steps by the task's reward (acrobot: by how high the tip is), says that equal ones are equal, and is wrong {settings.error:.0%} of the "
            "time. Queries are those of several candidates on which the ensemble disagrees most. The paper has TRPO on MuJoCo's tasks and 700 "
            "or 1,400 labels; the swimmer here is Purcell's, of three links, in a fluid without inertia. A real person labels clips in the studio: see "
            "[studio.md](studio.md).",
        ),
    )


def _rests(settings: ControlSettings) -> str:
    rests = {task: CONTROL_TASKS[task].rest for task in settings.tasks}
    found = ", ".join(
        f"{task}: for {steps} steps, and then starts anew" for task, steps in rests.items() if steps
    )
    return f" ({found})" if found else ""


def _lengths(settings: ControlSettings) -> str:
    return ", ".join(f"{CONTROL_TASKS[task].length} ({task})" for task in settings.tasks)


def _findings(settings: ControlSettings, results: StudyResults) -> list[StudyFinding]:
    most, middle = settings.labels[-1], settings.labels[len(settings.labels) // 2]

    def less(one: str, other: str) -> StudyFinding:
        """A finding without its claim: differences over tasks."""
        found = {
            task: results.difference(f"{task}, {one}", f"{task}, {other}", "return")
            for task in settings.tasks
        }
        return StudyFinding(
            expected="",
            source=CHRISTIANO,
            found=f"{one} less {other}: "
            + ", ".join(f"{with_interval(gap)} ({task})" for task, gap in found.items()),
            holds=all_sure(sure(gap, above=0.0) for gap in found.values()),
        )

    true = {
        task: (
            results.mean(f"{task}, {TRUE}", "return"),
            results.difference(f"{task}, {most} labels", f"{task}, {TRUE}", "return"),
        )
        for task in settings.tasks
    }
    near = [sure(gap, above=-0.1 * abs(whole.value)) for whole, gap in true.values()]
    said = ", ".join(f"{with_interval(gap)} ({task})" for task, (_, gap) in true.items())
    asked = f"{middle} labels"
    return [
        StudyFinding(
            expected=f"{most} labels get at least nine tenths of the return of the true reward (700 labels there)",
            source=CHRISTIANO,
            found=f"{most} labels less the true reward: {said}",
            holds=all_sure(near),
        ),
        replace(
            less(f"{most} labels", f"{settings.labels[0]} labels"), expected="more labels get more return"
        ),
        replace(
            less(asked, f"{asked}, {UNIFORM}"),
            expected="queries on which the ensemble disagrees are better than uniform ones (mixed there)",
        ),
        replace(
            less(asked, f"{asked}, {ONCE}"),
            expected="asking during training is better than asking once at the start",
        ),
    ]


def _drawing(settings: ControlSettings, results: StudyResults) -> str:
    """Shares of the true reward's return would hide signs, so each task's returns are in units of the largest."""
    series, references = [], [ReferenceLine(value=1.0, label=TRUE)]
    for slot, task in enumerate(settings.tasks, 1):
        scale = abs(results.mean(f"{task}, {TRUE}", "return").value) or 1.0
        line = [results.mean(f"{task}, {count} labels", "return") for count in settings.labels]
        sign = 1.0 if results.mean(f"{task}, {TRUE}", "return").value >= 0 else -1.0
        shares = [[sign * value / scale for value in (one.value, one.low, one.high)] for one in line]
        series.append(
            Series(
                label=task,
                x=[float(count) for count in settings.labels],
                y=[one[0] for one in shares],
                low=[one[1] for one in shares],
                high=[one[2] for one in shares],
                slot=slot,
            )
        )
    return line_chart(
        series,
        title="Return, as a share of the true reward's",
        x_label="labels",
        y_label="share (of a return below 0, lower is better)",
        references=references,
        frame=Frame(include=(0.0, 1.0), height=330),
    )


STUDY = Study(
    title="Control from a person's comparisons",
    question=(
        "How many comparisons of short segments does a policy need in place of a reward? And does it matter which segments are compared, and when? A "
        "simulated person compares; an ensemble learns the reward from the answers while the policy learns from the ensemble."
    ),
    settings=ControlSettings,
    cells=cells,
    work=work,
    report=report,
)
