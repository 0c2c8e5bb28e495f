"""True reward against KL, as in figure 2 of the DPO paper: each method swept over its strength, in a world where both are known exactly."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import Point, scatter_chart
from prefloop.evaluation.wording import with_interval
from prefloop.studies.letters import (
    Letters,
    best_of,
    compare,
    distribution,
    expected,
    fit_reward_model,
    kl,
    make_world,
    tilted,
    train_on_reward,
)
from prefloop.studies.offline import paired, train_by_objective
from prefloop.studies.study import (
    Measure,
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
    over_seeds,
    sure,
)

OPTIMUM, MODEL_OPTIMUM, BEST_OF_N, PPO_GOLD = (
    "optimum",
    "optimum of the model",
    "best of n",
    "ppo, true reward",
)
OFFLINE = {"dpo": "dpo", "ipo": "ipo_sum", "kto": "kto", "simpo": "simpo"}
"""Method -> its name among the objectives of `prefer`."""
ONLINE = ("ppo", "grpo", "rloo")
DRAWN = (PPO_GOLD, BEST_OF_N, *OFFLINE, "ppo")
"""In the figure: GRPO, RLOO and the reward model's optimum lie on PPO's curve."""
LEVELS = (0.5, 1.0, 2.0, 4.0)
"""KL, in nats, at which frontiers are compared."""
SHARED = 2.0
"""That at which methods are compared with the optimum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FrontierSettings(StudySettings):
    """Settings of the study `frontier`."""

    seeds: int = 5
    prompts: int = 6
    letters: int = 4
    longest: int = 5
    comparisons: int = 2000
    temperature: float = 0.5
    """Of the annotator, in standard deviations of the true reward."""
    width: int = 64
    """Of the reward model."""
    reward_steps: int = 400
    offline_steps: int = 300
    online_steps: int = 200
    completions: int = 16
    """Of each prompt, a step of the methods that sample."""
    betas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0)
    """Of dpo, ipo and kto."""
    simpo_betas: tuple[float, ...] = (1.0, 2.5, 5.0, 10.0)
    kl_coefs: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0)
    """Of ppo, grpo and rloo, and of the optimum for the reward model."""
    ns: tuple[int, ...] = (2, 4, 16, 64, 256)


def cells(settings: FrontierSettings) -> list[StudyCell]:
    """A method a cell: it is swept inside, for a point takes half a second."""
    return [StudyCell(name=name) for name in (OPTIMUM, MODEL_OPTIMUM, BEST_OF_N, *OFFLINE, *ONLINE, PPO_GOLD)]


def work(settings: FrontierSettings, cell: StudyCell, place: Place) -> Numbers:
    """The method's points."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=place.seed
    )
    draw = torch.Generator().manual_seed(10_000 + place.seed)
    data = compare(world, settings.comparisons, temperature=settings.temperature, draw=draw)
    scores = fit_reward_model(world, data, width=settings.width, steps=settings.reward_steps, seed=place.seed)

    def policy(strength: float) -> Float[Tensor, "P S"]:
        if cell.name == OPTIMUM:
            return tilted(world, world.gold, strength)
        if cell.name == MODEL_OPTIMUM:
            return tilted(world, scores, strength)
        if cell.name == BEST_OF_N:
            return best_of(world, scores, int(strength))
        if cell.name in OFFLINE:
            table = train_by_objective(
                world,
                paired(data),
                OFFLINE[cell.name],
                steps=settings.offline_steps,
                seed=place.seed,
                settings={"beta": strength},
            )
            return distribution(world.tree, table)
        table = train_on_reward(
            world,
            world.gold if cell.name == PPO_GOLD else scores,
            "ppo" if cell.name == PPO_GOLD else cell.name,
            kl_coef=strength,
            steps=settings.online_steps,
            k=settings.completions,
            seed=place.seed,
        )
        return distribution(world.tree, table)

    return {"points": [_point(world, scores, one, policy(one)) for one in _strengths(settings, cell.name)]}


def _strengths(settings: FrontierSettings, method: str) -> Sequence[float]:
    if method == OPTIMUM:
        return np.geomspace(8.0, 0.06, 40).tolist()
    if method == BEST_OF_N:
        return [float(n) for n in settings.ns]
    if method == "simpo":
        return settings.simpo_betas
    return settings.betas if method in OFFLINE else settings.kl_coefs


def _point(world: Letters, scores: Tensor, strength: float, p: Tensor) -> dict[str, float]:
    return {
        "strength": strength,
        "kl": kl(p, world.probabilities),
        "gold": expected(p, world.gold),
        "proxy": expected(p, scores),
    }


def at(name: str, level: float) -> Callable[[Numbers], float]:
    """A measure: a reward at a KL, on straight lines between the method's points from the reference on; NaN beyond the furthest."""

    def measure(numbers: Numbers) -> float:
        points = sorted(numbers["points"], key=lambda point: point["kl"])
        x, y = [0.0, *(point["kl"] for point in points)], [0.0, *(point[name] for point in points)]
        return float(np.interp(level, x, y)) if level <= x[-1] else float("nan")

    return measure


def best(name: str) -> Callable[[Numbers], float]:
    """A measure: a number of the point with the highest true reward."""
    return lambda numbers: max(numbers["points"], key=lambda point: point["gold"])[name]


def table_of(results: StudyResults, levels: Sequence[float], *, optimum: str = "") -> StudyTable:
    """The methods' frontiers at some KLs; the share of the best policy's true reward where that one is known."""
    share = (
        {f"share of the optimum at KL {SHARED:g}, %": lambda name: _share(results, name, optimum)}
        if optimum
        else {}
    )
    columns: dict[str, Callable[[str], Estimate]] = {
        **{f"true reward at KL {level:g}": partial(_mean, results, at("gold", level)) for level in levels},
        **share,
        "highest": partial(_mean, results, best("gold")),
        "at KL": partial(_mean, results, best("kl")),
    }
    rows = tuple((name, *(found(name) for found in columns.values())) for name in results.numbers)
    return StudyTable(columns=("method", *columns), rows=rows)


def _mean(results: StudyResults, measure: Measure, name: str) -> Estimate:
    return results.mean(name, measure)


def report(settings: FrontierSettings, results: StudyResults) -> StudyReport:
    """The frontiers, and the claims about who is above whom."""
    return StudyReport(
        findings=(*claimed(results, LEVELS), _best_of_n(results)),
        table=table_of(results, LEVELS, optimum=OPTIMUM),
        figure=StudyFigure(
            drawing=drawing_of(results, DRAWN, _optimum(results)),
            caption="true reward against KL to the reference (GRPO, RLOO and the optimum of the model are in the table)",
        ),
        remarks=(
            "Rewards are in standard deviations of the reference, whose mean is 0. KL is in nats per completion. Both are exact sums over all "
            "completions. At each KL, seeds whose sweep does not reach it are left out; a dash means that none does. `optimum` is the best "
            "policy at each KL for the true reward. `optimum of the model` is the best one for the reward model, π_ref exp(r / β) / Z.",
            "Policies are tables, which share nothing between prefixes or prompts, while the reward model is a network, which does. That "
            "favours the methods that learn from the reward model. In the papers, both are language models. This is a likely reason for "
            "differences from the papers; it was not tested.",
        ),
    )


def _share(results: StudyResults, name: str, optimum: str) -> Estimate:
    """Of the true reward that is reached at a KL, in %."""
    measure = at("gold", SHARED)
    pairs = zip(results.each(name, measure), results.each(optimum, measure), strict=True)
    return over_seeds([100 * own / whole for own, whole in pairs])


def _compared(
    results: StudyResults, one: str, other: str, levels: Sequence[float], name: str = "gold"
) -> tuple[str, list[bool | None]]:
    """The difference of two frontiers in words, and whether it is above 0, at every level that both reach."""
    words, verdicts = [], []
    for level in levels:
        found = results.difference(one, other, at(name, level))
        if found.n > 1:
            words.append(f"{with_interval(found)} at KL {level:g}")
            verdicts.append(sure(found, above=0.0))
    return ", ".join(words) or "no KL that both reach", verdicts


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """True where all are, False where one is False, else open."""
    if False in verdicts:
        return False
    return True if verdicts and all(verdicts) else None


CLAIMS = (
    ("dpo", "ppo", "DPO's true reward is above PPO's at every KL", "arXiv:2305.18290, figure 2"),
    ("dpo", PPO_GOLD, "it is even above that of PPO with the true reward", "arXiv:2305.18290, figure 2"),
    ("rloo", "ppo", "RLOO gets more reward than PPO", "arXiv:2402.14740"),
    ("simpo", "dpo", "SimPO is better than DPO", "arXiv:2405.14734"),
    ("kto", "dpo", "KTO, from single labels, is at least as good as DPO", "arXiv:2402.01306"),
)
"""A method that is above another, as it was published."""


def claimed(
    results: StudyResults, levels: Sequence[float], claims: Sequence[tuple[str, str, str, str]] = CLAIMS
) -> list[StudyFinding]:
    """What the frontiers say of published claims."""
    found = []
    for one, other, claim, source in claims:
        words, verdicts = _compared(results, one, other, levels)
        found.append(
            StudyFinding(
                expected=claim, source=source, found=f"{one} less {other}: {words}", holds=_all(verdicts)
            )
        )
    return found


def _best_of_n(results: StudyResults) -> StudyFinding:
    words, _ = _compared(results, BEST_OF_N, MODEL_OPTIMUM, LEVELS, "proxy")
    gap = results.difference(BEST_OF_N, MODEL_OPTIMUM, at("proxy", SHARED))
    return StudyFinding(
        expected="best-of-n is close to the best policy at its KL",
        source="arXiv:2401.01879",
        found=f"the reward model's score of best of n less that of its optimum: {words}",
        holds=True if gap.low > -0.1 else sure(gap, above=-0.1),
    )


def drawing_of(results: StudyResults, names: Sequence[str], optimum: Series | None = None) -> str:
    """Each method's points with intervals in both directions, before the best policies' line where that is known."""
    points = []
    for slot, name in enumerate(names):
        by_seed = list(results.numbers[name].values())
        for place in range(len(by_seed[0]["points"])):
            own: list[dict[str, Any]] = [one["points"][place] for one in by_seed]
            points.append(
                Point(
                    label=name,
                    x=over_seeds([point["kl"] for point in own]),
                    y=over_seeds([point["gold"] for point in own]),
                    slot=slot,
                )
            )
    return scatter_chart(
        points,
        curves=[optimum] if optimum else [],
        title="True reward against KL",
        x_label="KL to the reference, nats",
        y_label="true reward",
        include_x=(0.0,),
        height=340,
    )


def _optimum(results: StudyResults) -> Series:
    """Up to the furthest method's mean KL."""
    reached = [
        over_seeds([one["points"][place]["kl"] for one in own.values()]).value
        for name in DRAWN
        for own in [results.numbers[name]]
        for place in range(len(next(iter(own.values()))["points"]))
    ]
    grid = np.linspace(0, max(reached) * 1.02, 30)
    line = [results.mean(OPTIMUM, at("gold", float(level))) for level in grid]
    return Series(
        label=OPTIMUM,
        x=grid.tolist(),
        y=[point.value for point in line],
        low=[point.low for point in line],
        high=[point.high for point in line],
        slot=7,
    )


STUDY = Study(
    title="Reward against KL",
    question=(
        "Which method gets the most true reward for the KL it spends? Policies are tables over all completions of up to five letters, so "
        "reward, KL and the optimum are exact. The losses are those of prefloop's trainers. The offline methods and the reward model learn "
        "from the same comparisons, labelled by an annotator who makes errors."
    ),
    settings=FrontierSettings,
    cells=cells,
    work=work,
    report=report,
)
