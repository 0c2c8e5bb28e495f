"""Rounds of comparisons of the current policy's own completions, against all of them at once from the reference: iterated online RLHF.

A round draws pairs from the policy, an annotator compares them, a reward model is fitted, and the policy of the next round is the best one for it under the
KL to the reference. So a round is exact but for its comparisons and its reward model.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import Frame, line_chart
from prefloop.evaluation.wording import with_interval
from prefloop.feedback.ratings import FIRST, SECOND, TIE, leaderboard, make_votes
from prefloop.studies.letters import (
    Comparisons,
    Letters,
    accuracy,
    compare,
    expected,
    fit_reward_model,
    joined,
    kl,
    make_world,
    tilted,
)
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
    over_seeds,
    sure,
)

ONE_SHOT, REFITTED, LAST_ONLY, FROZEN, REFERENCE = (
    "one shot",
    "rounds, model refitted on all",
    "rounds, model fitted on the last",
    "rounds, first model kept",
    "rounds from the reference",
)
START = "reference"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsSettings(StudySettings):
    """Settings of the study `rounds`."""

    seeds: int = 5
    prompts: int = 6
    letters: int = 4
    longest: int = 5
    rounds: int = 5
    labels: int = 100
    """A round; one shot has as many as all rounds together."""
    temperature: float = 0.5
    """Of the annotator, in standard deviations of the true reward."""
    width: int = 64
    reward_steps: int = 200
    beta: float = 0.25
    """KL's coefficient, in standard deviations of the reward model's scores under the reference."""
    drawn: int = 20
    """Completions of each prompt that policies are rated by."""


def cells(settings: RoundsSettings) -> list[StudyCell]:
    """One shot, and rounds in four ways."""
    return ways()


def ways() -> list[StudyCell]:
    """The cells of every world."""
    return [StudyCell(name=name) for name in (ONE_SHOT, REFITTED, LAST_ONLY, FROZEN, REFERENCE)]


def work(settings: RoundsSettings, cell: StudyCell, place: Place) -> Numbers:
    """The policy after each round; one shot is a single round with all labels."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=place.seed
    )
    draw = torch.Generator().manual_seed(10_000 + place.seed)
    one_shot = cell.name == ONE_SHOT
    count = settings.labels * (settings.rounds if one_shot else 1)
    policy = world.probabilities
    data: Comparisons | None = None
    scores = torch.zeros_like(world.gold)
    points = [_point(world, scores, policy, settings, place.seed)]
    for number in range(1 if one_shot else settings.rounds):
        source = world.probabilities if cell.name == REFERENCE else policy
        fresh = compare(world, count, temperature=settings.temperature, draw=draw, policy=source)
        data = fresh if data is None or cell.name == LAST_ONLY else joined(data, fresh)
        if number == 0 or cell.name != FROZEN:
            scores = fit_reward_model(
                world, data, width=settings.width, steps=settings.reward_steps, seed=place.seed
            )
        policy = tilted(world, scores, settings.beta)
        points.append(_point(world, scores, policy, settings, place.seed))
    return {"points": points}


def _point(
    world: Letters,
    scores: Float[Tensor, "P S"],
    policy: Float[Tensor, "P S"],
    settings: RoundsSettings,
    seed: int,
) -> Numbers:
    draw = torch.Generator().manual_seed(30_000 + seed)
    at = torch.multinomial(policy, settings.drawn, replacement=True, generator=draw)
    gold, proxy = expected(policy, world.gold), expected(policy, scores)
    return {
        "gold": gold,
        "kl": kl(policy, world.probabilities),
        "gap": proxy - gold,
        "accuracy": 100 * accuracy(world, scores, policy=policy),
        "drawn": [[round(float(g), 4) for g in row] for row in world.gold.gather(1, at)],
    }


def last(what: str):
    """A measure: a number after the last round."""
    return lambda numbers: numbers["points"][-1][what]


def after(number: int, what: str):
    """A measure: a number after a round, without the float noise that the reference's zeros have."""
    return lambda numbers: round(numbers["points"][number][what], 6) + 0.0


def ratings(results: StudyResults, drawn: Mapping[str, tuple[str, int]]) -> dict[str, Estimate]:
    """Elo points by prefloop's Bradley-Terry fit: every policy against every other on all prompts of all seeds. The first stands at 1000.

    `drawn` is name -> cell and round.
    """
    names, rows = list(drawn), []
    for at, seed in enumerate(next(iter(results.numbers.values()))):
        golds = [
            np.array(results.numbers[cell][seed]["points"][number]["drawn"])
            for cell, number in drawn.values()
        ]
        prompts, count = golds[0].shape
        for i, j in combinations(range(len(names)), 2):
            for prompt in range(prompts):
                for own in range(count):
                    a, b = golds[i][prompt, own], golds[j][prompt, (own + i + j) % count]
                    rows.append((i, j, TIE if a == b else FIRST if a > b else SECOND, at * prompts + prompt))
    first, second, outcome, prompt = np.array(rows).T
    board = leaderboard(make_votes(names, first, second, outcome, prompt=prompt), anchor=names[0])
    found = {
        row.name: Estimate(value=row.rating.value, low=row.rating.low, high=row.rating.high, n=row.votes)
        for row in board.ratings
    }
    return {name: found[name] for name in names}


def report(settings: RoundsSettings, results: StudyResults) -> StudyReport:
    """The end of each way, and Elo by round."""
    return reported(
        settings.rounds,
        results,
        f"A round has {settings.labels} labels, one shot {settings.labels * settings.rounds}. {SCALES} In the end `rounds from the reference` has "
        "the same labels as `one shot`, so the two differ by chance alone. The policy is always the exact optimum for its reward model: rounds "
        "differ in where the comparisons come from, not in how well a policy is trained.",
    )


SCALES = (
    "Rewards are in standard deviations of the reference, whose mean is 0. Elo is from prefloop's ratings of answers to the same prompts. Its "
    "intervals are over prompts; all others are over seeds."
)


def reported(rounds: int, results: StudyResults, remark: str) -> StudyReport:
    """The same of points as those of `work`, with what is to be said of them."""
    measures = ("gold", "kl", "gap", "accuracy")
    rows = tuple((name, *(results.mean(name, last(one)) for one in measures)) for name in results.numbers)
    columns = (
        "way",
        "true reward at the end",
        "KL",
        "reward model's score less true reward",
        "accuracy on the policy's own pairs, %",
    )
    players = {
        START: (REFITTED, 0),
        **{f"round {number}": (REFITTED, number) for number in range(1, rounds + 1)},
        ONE_SHOT: (ONE_SHOT, 1),
    }
    elo = ratings(results, players)
    by_round = tuple(
        (
            name,
            elo[name],
            results.mean(cell, after(number, "gold")),
            results.mean(cell, after(number, "gap")),
        )
        for name, (cell, number) in players.items()
    )
    heads = ("policy", "Elo", "true reward", "reward model's score less true reward")
    return StudyReport(
        findings=tuple(_findings(rounds, results, elo)),
        table=StudyTable(columns=columns, rows=rows),
        further=(StudyTable(columns=heads, rows=by_round),),
        figure=StudyFigure(drawing=_drawing(rounds, results), caption="true reward by round"),
        remarks=(remark,),
    )


def _findings(rounds: int, results: StudyResults, elo: Mapping[str, Estimate]) -> list[StudyFinding]:
    online = "iterated online RLHF"
    bai = "Bai et al., arXiv:2204.05862"
    gain = results.difference(REFITTED, ONE_SHOT, last("gold"))
    gap = results.difference(REFITTED, ONE_SHOT, last("gap"))
    kept = results.difference(REFITTED, FROZEN, last("gold"))
    older = results.difference(REFITTED, LAST_ONLY, last("gold"))
    first, final = elo["round 1"], elo[f"round {rounds}"]
    steps = [
        over_seeds(
            [
                b - a
                for a, b in zip(
                    *(results.each(REFITTED, after(n, "gold")) for n in (number, number + 1)), strict=True
                )
            ]
        )
        for number in range(rounds)
    ]
    return [
        StudyFinding(
            expected=f"{online} gets more true reward than one shot with as many labels",
            source=bai,
            found=f"{rounds} rounds less one shot: {with_interval(gain)}",
            holds=sure(gain, above=0.0),
        ),
        StudyFinding(
            expected="the reward model, refitted on the policy's own samples, overrates it less",
            source=bai,
            found=f"score less true reward, {rounds} rounds less one shot: {with_interval(gap)}",
            holds=None if sure(gap, above=0.0) is None else not sure(gap, above=0.0),
        ),
        StudyFinding(
            expected="Elo rises with every round",
            source=f"{bai}; RLHF Workflow, arXiv:2405.07863",
            found=f"Elo {with_interval(first)} after the first round, {with_interval(final)} after the last; true reward by round: "
            + ", ".join(with_interval(step) for step in steps),
            holds=all(sure(step, above=0.0) for step in steps) or None,
        ),
        StudyFinding(
            expected="a reward model that is not refitted gains less",
            source=bai,
            found=f"refitted less kept: {with_interval(kept)}",
            holds=sure(kept, above=0.0),
        ),
        StudyFinding(
            expected="old comparisons are kept when a round is fitted",
            source=bai,
            found=f"fitted on all less fitted on the last round: {with_interval(older)}",
            holds=sure(older, above=0.0),
        ),
    ]


def _drawing(rounds: int, results: StudyResults) -> str:
    series = []
    for slot, name in enumerate((REFITTED, LAST_ONLY, FROZEN, REFERENCE, ONE_SHOT), 1):
        numbers = range(rounds + 1)
        line = (
            [results.mean(name, last("gold"))] * len(numbers)
            if name == ONE_SHOT
            else [results.mean(name, after(number, "gold")) for number in numbers]
        )
        series.append(
            Series(
                label=name,
                x=[float(number) for number in numbers],
                y=[point.value for point in line],
                low=[point.low for point in line],
                high=[point.high for point in line],
                slot=slot,
            )
        )
    return line_chart(
        series, title="True reward by round", x_label="round", y_label="true reward", frame=Frame(height=330)
    )


STUDY = Study(
    title="Rounds against one shot",
    question=(
        "Is it better to compare the current policy's completions round after round, or to compare the reference's once, with equally many "
        "labels? And must the reward model be fitted again in each round? In this world of letters the best policy for a reward model is "
        "known."
    ),
    settings=RoundsSettings,
    cells=cells,
    work=work,
    report=report,
)
