"""Labels by an AI judge against labels by people at equal cost, in simulation: distilled into a reward model, or used directly as the reward.

A judge's taste is the true reward, plus an error of its own that it makes every time, plus what it gives for length. Of a pair it prefers the first shown with
probability σ((taste of the first - taste of the second + position) / temperature). Asked in both orders, it costs twice as much, and the two are averaged.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.evaluation.plots import PlotRow, interval_chart
from prefloop.evaluation.wording import with_interval
from prefloop.studies.frontier import at
from prefloop.studies.letters import (
    Comparisons,
    Letters,
    accuracy,
    compare,
    expected,
    fit_reward_model,
    kl,
    make_world,
    standardised,
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
    sure,
)

PEOPLE = "people"
ONE_ORDER, BOTH_ORDERS, DIRECT = "one order", "both orders", "direct"
ASKED = (ONE_ORDER, BOTH_ORDERS, DIRECT)
FAIR, FIRST_SHOWN, LONGER = "no bias", "for the first shown", "for length"
BIASES = (FAIR, FIRST_SHOWN, LONGER)
LEVEL = 1.0
"""KL, in nats, at which true rewards are compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RlaifSettings(StudySettings):
    """Settings of the study `rlaif`."""

    seeds: int = 5
    prompts: int = 6
    letters: int = 4
    longest: int = 5
    labels: int = 200
    """By people."""
    cheaper: int = 10
    """Judgements of the judge for the price of a person's label."""
    temperature: float = 0.5
    """Of people and of the judge, in standard deviations of the true reward."""
    error: float = 0.5
    """The judge's own, in standard deviations."""
    position: float = 1.0
    """What the first shown is given, in standard deviations, by a judge with that bias."""
    length: float = 0.5
    """What a token more is given by a judge with that bias."""
    width: int = 64
    reward_steps: int = 200


def cells(settings: RlaifSettings) -> list[StudyCell]:
    """People, and each bias in each way of asking."""
    judged = [
        StudyCell(name=name_of(bias, asked), given={"bias": bias, "asked": asked})
        for bias in BIASES
        for asked in ASKED
    ]
    return [StudyCell(name=PEOPLE), *judged]


def name_of(bias: str, asked: str) -> str:
    """A cell's name."""
    return f"judge, {bias}, {asked}"


def taste(world: Letters, settings: RlaifSettings, bias: str, seed: int) -> Float[Tensor, "P S"]:
    """What a judge thinks of each completion."""
    other = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=50_000 + seed
    )
    p = world.probabilities
    found = world.gold + settings.error * standardised(other.gold, p)
    if bias != LONGER:
        return found
    lengths = world.tree.mask.sum(1).float().expand_as(found)
    return found + settings.length * (lengths - (p * lengths).sum(1, keepdim=True))


def ask(
    world: Letters,
    tastes: Float[Tensor, "P S"],
    count: int,
    *,
    temperature: float,
    position: float,
    both: bool,
    draw: torch.Generator,
) -> Comparisons:
    """A judge's labels of the reference's pairs, the first drawn shown first; in both orders its two probabilities are averaged."""
    p = world.probabilities
    prompt = torch.randint(len(p), (count,), generator=draw)
    pairs = torch.multinomial(p[prompt], 2, replacement=True, generator=draw)
    gap = -tastes[prompt[:, None], pairs].diff(dim=1).squeeze(1)
    first = torch.sigmoid((gap + position) / temperature)
    if both:
        first = (first + torch.sigmoid((gap - position) / temperature)) / 2
    wins = torch.rand(count, generator=draw) < first
    chosen, rejected = torch.where(wins[:, None], pairs, pairs.flip(1)).unbind(1)
    return Comparisons(prompt=prompt, chosen=chosen, rejected=rejected)


def work(settings: RlaifSettings, cell: StudyCell, place: Place) -> Numbers:
    """How often labels and reward model agree with the true reward, and the best policies for it at falling strengths of the KL."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=place.seed
    )
    draw = torch.Generator().manual_seed(10_000 + place.seed)
    agreement = float("nan")
    if cell.given.get("asked") == DIRECT:
        scores = standardised(taste(world, settings, cell.given["bias"], place.seed), world.probabilities)
    else:
        data = _labels(settings, cell, place.seed, world, draw)
        agreement = _agreement(world, data)
        scores = fit_reward_model(
            world, data, width=settings.width, steps=settings.reward_steps, seed=place.seed
        )
    lengths = world.tree.mask.sum(1).float().expand_as(world.gold)
    points = []
    for beta in np.geomspace(8.0, 0.05, 25):
        p = tilted(world, scores, float(beta))
        points.append(
            {
                "kl": kl(p, world.probabilities),
                "gold": expected(p, world.gold),
                "longer": expected(p, lengths) - expected(world.probabilities, lengths),
            }
        )
    return {"agreement": agreement, "accuracy": 100 * accuracy(world, scores), "points": points}


def _labels(
    settings: RlaifSettings, cell: StudyCell, seed: int, world: Letters, draw: torch.Generator
) -> Comparisons:
    """As many as the price of people's labels buys."""
    if cell.name == PEOPLE:
        return compare(world, settings.labels, temperature=settings.temperature, draw=draw)
    bias, both = cell.given["bias"], cell.given["asked"] == BOTH_ORDERS
    return ask(
        world,
        taste(world, settings, bias, seed),
        settings.labels * settings.cheaper // (2 if both else 1),
        temperature=settings.temperature,
        position=settings.position if bias == FIRST_SHOWN else 0.0,
        both=both,
        draw=draw,
    )


def _agreement(world: Letters, data: Comparisons) -> float:
    """Share of labels, of pairs with different true reward, that are for the truly better completion, in %."""
    gap = world.gold[data.prompt, data.chosen] - world.gold[data.prompt, data.rejected]
    return 100 * float((gap > 0)[gap != 0].float().mean())


def report(settings: RlaifSettings, results: StudyResults) -> StudyReport:
    """Agreement, accuracy, and what policies get."""
    rows = tuple(
        (
            name,
            results.mean(name, "agreement"),
            results.mean(name, "accuracy"),
            results.mean(name, at("gold", LEVEL)),
            results.mean(name, at("longer", LEVEL)),
        )
        for name in results.numbers
    )
    columns = (
        "labels by",
        "labels that are right, %",
        "reward's accuracy, %",
        f"true reward at KL {LEVEL:g}",
        "letters more than the reference",
    )
    drawing = interval_chart(
        [
            PlotRow(label=name, estimate=results.mean(name, at("gold", LEVEL)), slot=1 + slot)
            for slot, name in enumerate(results.numbers)
        ],
        title=f"True reward at KL {LEVEL:g}",
        x_label="standard deviations of the reference",
    )
    return StudyReport(
        findings=tuple(_findings(settings, results)),
        table=StudyTable(columns=columns, rows=rows),
        figure=StudyFigure(drawing=drawing, caption=f"true reward at KL {LEVEL:g}"),
        remarks=(
            f"People give {settings.labels} labels. For the same price the judge gives {settings.labels * settings.cheaper} in one order, or "
            "half as many in both orders. `direct` is the best policy for the judge's own taste. It asks the judge about every completion that "
            "training draws, so its price differs, and it has no order. Policies are the exact optimum for their reward at KL 1. The judge's "
            "biases and error are planted; measure those of a real judge with `prefloop label judge`.",
        ),
    )


def _findings(settings: RlaifSettings, results: StudyResults) -> list[StudyFinding]:
    google = "RLAIF, arXiv:2309.00267"
    gold = at("gold", LEVEL)
    found = []
    for bias in BIASES:
        gain = results.difference(name_of(bias, BOTH_ORDERS), PEOPLE, gold)
        found.append(
            StudyFinding(
                expected=f"labels by a judge with {_bias(bias)}, asked in both orders, are worth as much as people's at equal cost",
                source=google,
                found=f"true reward less that of people's labels: {with_interval(gain)}",
                holds=True if gain.low > -0.05 else sure(gain, above=-0.05),
            )
        )
    for bias in (FIRST_SHOWN, LONGER):
        gain = results.difference(name_of(bias, BOTH_ORDERS), name_of(bias, ONE_ORDER), gold)
        right = results.difference(name_of(bias, BOTH_ORDERS), name_of(bias, ONE_ORDER), "agreement")
        found.append(
            StudyFinding(
                expected=f"averaging both orders helps against {_bias(bias)}, though it halves the pairs",
                source=google,
                found=f"both orders less one: {with_interval(right)} points of right labels, {with_interval(gain)} true reward",
                holds=sure(gain, above=0.0),
            )
        )
    gain = results.difference(name_of(FAIR, DIRECT), name_of(FAIR, BOTH_ORDERS), gold)
    longer = results.difference(name_of(LONGER, DIRECT), name_of(FAIR, DIRECT), at("longer", LEVEL))
    return [
        *found,
        StudyFinding(
            expected="direct RLAIF is better than a reward model distilled from the judge",
            source=google,
            found=f"direct less distilled, a judge without bias: {with_interval(gain)} true reward",
            holds=sure(gain, above=0.0),
        ),
        StudyFinding(
            expected="a judge that favours length makes policies longer",
            source="Singhal et al., arXiv:2310.03716",
            found=f"letters more than with a judge without bias, direct: {with_interval(longer)}",
            holds=sure(longer, above=0.0),
        ),
    ]


def _bias(bias: str) -> str:
    return "no bias" if bias == FAIR else f"a bias {bias}"


STUDY = Study(
    title="AI labels against people's at equal cost",
    question=(
        "Are many cheap labels by an AI judge worth as much as few labels by people? What do the judge's biases cost, for the answer shown "
        "first and for length? In this world of letters the biases of the judges are planted."
    ),
    settings=RlaifSettings,
    cells=cells,
    work=work,
    report=report,
)
