"""Labels by an AI judge against labels by people at equal cost, in simulation: distilled, used directly as the reward, or after revisions by principles.

A judge's taste is the true reward, plus an error of its own that it makes every time, plus what it gives for length. Of a pair it prefers the first shown with
probability σ((taste of the first - taste of the second + position) / temperature). Asked in both orders, it costs twice as much, and the two are averaged.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.evaluation.plots import PlotRow, interval_chart
from prefloop.evaluation.wording import with_interval
from prefloop.studies.constitution import imitate, revise, table_of
from prefloop.studies.frontier import at
from prefloop.studies.letters import (
    TRAITS,
    Comparisons,
    Letters,
    accuracy,
    compare,
    distribution,
    expected,
    fit_reward_model,
    kl,
    make_world,
    spread,
    standardised,
    tilted,
)
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
    all_sure,
    sure,
)

PEOPLE = "people"
ONE_ORDER, BOTH_ORDERS, DIRECT = "one order", "both orders", "direct"
ASKED = (ONE_ORDER, BOTH_ORDERS, DIRECT)
FAIR, FIRST_SHOWN, LONGER = "no bias", "for the first shown", "for length"
BIASES = (FAIR, FIRST_SHOWN, LONGER)
REVISED, LABELLED, REVISED_LABELLED, UNLIMITED_LABELLED = (
    "constitution, revisions",
    "constitution, labels",
    "constitution, revisions then labels",
    "constitution, unlimited revisions then labels",
)
REVISION_COST = 2
"""Judgements for the price of a revision: one writes it, one decides whether it is kept."""
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
    revisions: int = 4
    """Of each answer that is imitated."""
    rewriting: float = 1.0
    """How little a revision heeds its principle: the temperature of rewriting, in standard deviations of the principle."""
    revising: float = 0.5
    """Share of the price that is spent on revisions where labels follow."""
    width: int = 64
    """Of the reward model, and of the network that imitates revisions."""
    reward_steps: int = 200
    """Of either."""


def cells(settings: RlaifSettings) -> list[StudyCell]:
    """People, each bias in each way of asking, and constitutional AI one part at a time."""
    judged = [
        StudyCell(name=name_of(bias, asked), given={"bias": bias, "asked": asked})
        for bias in BIASES
        for asked in ASKED
    ]
    constitutional = [
        StudyCell(name=REVISED),
        StudyCell(name=LABELLED, given={"revised": 0.0}),
        StudyCell(name=REVISED_LABELLED, given={"revised": settings.revising}),
        StudyCell(name=UNLIMITED_LABELLED, given={"revised": settings.revising, "unlimited": True}),
    ]
    return [StudyCell(name=PEOPLE), *judged, *constitutional]


def name_of(bias: str, asked: str) -> str:
    """A cell's name."""
    return f"judge, {bias}, {asked}"


def taste(world: Letters, settings: RlaifSettings, bias: str, seed: int) -> Float[Tensor, "P S"]:
    """What a judge thinks of each completion."""
    p = world.probabilities
    found = world.gold + settings.error * standardised(_error(settings, seed).gold, p)
    if bias != LONGER:
        return found
    lengths = world.tree.mask.sum(1).float().expand_as(found)
    return found + settings.length * (lengths - (p * lengths).sum(1, keepdim=True))


def principles(world: Letters, settings: RlaifSettings, seed: int) -> Float[Tensor, "K P S"]:
    """What an unbiased judge thinks of each completion by each principle: the parts of its taste, each of standard deviation 1."""
    p, error = world.probabilities, _error(settings, seed)
    parts = world.parts + settings.error * error.parts / spread(error.gold, p)
    return torch.stack([standardised(part, p) for part in parts])


def _error(settings: RlaifSettings, seed: int) -> Letters:
    """The world whose true reward is the judge's own error."""
    return make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=50_000 + seed
    )


def ask(
    world: Letters,
    tastes: Float[Tensor, "K P S"],
    count: int,
    *,
    temperature: float,
    position: float,
    both: bool,
    draw: torch.Generator,
) -> Comparisons:
    """A judge's labels of the reference's pairs, the first drawn shown first; in both orders its two probabilities are averaged.

    Of several tastes, one is drawn for each pair.
    """
    p = world.probabilities
    prompt = torch.randint(len(p), (count,), generator=draw)
    pairs = torch.multinomial(p[prompt], 2, replacement=True, generator=draw)
    level = torch.rand(count, generator=draw)
    principle = torch.randint(len(tastes), (count,), generator=draw)
    gap = -tastes[principle[:, None], prompt[:, None], pairs].diff(dim=1).squeeze(1)
    first = torch.sigmoid((gap + position) / temperature)
    if both:
        first = (first + torch.sigmoid((gap - position) / temperature)) / 2
    wins = level < first
    chosen, rejected = torch.where(wins[:, None], pairs, pairs.flip(1)).unbind(1)
    return Comparisons(prompt=prompt, chosen=chosen, rejected=rejected)


def work(settings: RlaifSettings, cell: StudyCell, place: Place) -> Numbers:
    """How often labels and reward model agree with the true reward, and the best policies for it at falling strengths of the KL."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=place.seed
    )
    if cell.name == REVISED:
        return _revisions(settings, place.seed, world)
    draw = torch.Generator().manual_seed(10_000 + place.seed)
    start = _revised(settings, cell, place.seed, world, draw)
    agreement = float("nan")
    if cell.given.get("asked") == DIRECT:
        scores = standardised(taste(world, settings, cell.given["bias"], place.seed), world.probabilities)
    else:
        data = _labels(settings, cell, place.seed, world, start, draw)
        agreement = _agreement(world, data)
        scores = fit_reward_model(
            start, data, width=settings.width, steps=settings.reward_steps, seed=place.seed
        )
    lengths = world.tree.mask.sum(1).float().expand_as(world.gold)
    policies = [tilted(start, scores, float(beta)) for beta in np.geomspace(8.0, 0.05, 25)]
    points = [
        {
            "kl": kl(p, world.probabilities),
            "gold": expected(p, world.gold),
            "longer": expected(p, lengths) - expected(world.probabilities, lengths),
        }
        for p in (start.probabilities, *policies)
    ]
    return {"agreement": agreement, "accuracy": 100 * accuracy(world, scores), "points": points}


def _revisions(settings: RlaifSettings, seed: int, world: Letters) -> Numbers:
    """True reward and KL of the answers after each number of revisions, and of policies that imitate as many of them as the whole price buys."""
    answers = _answers(settings, seed, world)
    draw = torch.Generator().manual_seed(10_000 + seed)
    imitations = [world.probabilities]
    for revisions in range(1, len(answers)):
        table = _imitate(settings, seed, world, answers[revisions], revisions, share=1.0, draw=draw)
        imitations.append(distribution(world.tree, table))
    return {
        "revised": [expected(p, world.gold) for p in answers],
        "revised_kl": [kl(p, world.probabilities) for p in answers],
        "imitated": [expected(p, world.gold) for p in imitations],
        "imitated_kl": [kl(p, world.probabilities) for p in imitations],
    }


def _revised(
    settings: RlaifSettings, cell: StudyCell, seed: int, world: Letters, draw: torch.Generator
) -> Letters:
    """The world with the policy that labels start from in the reference's place: one that imitates revisions, where the cell has such."""
    share = cell.given.get("revised", 0.0)
    if not share:
        return world
    last = _answers(settings, seed, world)[-1]
    if cell.given.get("unlimited"):
        return replace(world, reference=table_of(world.tree, last))
    table = _imitate(settings, seed, world, last, settings.revisions, share=share, draw=draw)
    return replace(world, reference=table)


def _answers(settings: RlaifSettings, seed: int, world: Letters) -> Float[Tensor, "R P S"]:
    return revise(
        world,
        principles(world, settings, seed),
        settings.revisions,
        temperature=settings.temperature,
        rewriting=settings.rewriting,
    )


def _imitate(
    settings: RlaifSettings,
    seed: int,
    world: Letters,
    answers: Float[Tensor, "P S"],
    revisions: int,
    *,
    share: float,
    draw: torch.Generator,
) -> Float[Tensor, "P N V"]:
    """A policy that imitates as many answers as a share of the price buys."""
    count = round(share * settings.labels * settings.cheaper) // (REVISION_COST * revisions)
    prompt = torch.randint(len(answers), (count,), generator=draw)
    drawn = torch.multinomial(answers[prompt], 1, generator=draw).squeeze(1)
    return imitate(world, prompt, drawn, width=settings.width, steps=settings.reward_steps, seed=seed)


def _labels(
    settings: RlaifSettings,
    cell: StudyCell,
    seed: int,
    world: Letters,
    start: Letters,
    draw: torch.Generator,
) -> Comparisons:
    """As many as the price of people's labels buys, of pairs of the policy that is trained."""
    if cell.name == PEOPLE:
        return compare(world, settings.labels, temperature=settings.temperature, draw=draw)
    count = settings.labels * settings.cheaper
    if "revised" in cell.given:
        return ask(
            start,
            principles(world, settings, seed),
            count - round(cell.given["revised"] * count),
            temperature=settings.temperature,
            position=0.0,
            both=False,
            draw=draw,
        )
    bias, both = cell.given["bias"], cell.given["asked"] == BOTH_ORDERS
    return ask(
        start,
        taste(world, settings, bias, seed)[None],
        count // (2 if both else 1),
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
    """Agreement, accuracy, and what policies get; and what revisions do."""
    labelled = [name for name in results.numbers if name != REVISED]
    rows = tuple(
        (
            name,
            results.mean(name, "agreement"),
            results.mean(name, "accuracy"),
            results.mean(name, at("gold", LEVEL)),
            results.mean(name, at("longer", LEVEL)),
        )
        for name in labelled
    )
    columns = (
        "labels by",
        "labels that are right, %",
        "reward's accuracy, %",
        f"true reward at KL {LEVEL:g}",
        "letters more than the reference",
    )
    measures = ("revised", "revised_kl", "imitated", "imitated_kl")
    revisions = tuple(
        (count, *(results.mean(REVISED, _nth(name, count)) for name in measures))
        for count in range(1, settings.revisions + 1)
    )
    drawing = interval_chart(
        [
            PlotRow(label=name, estimate=results.mean(name, at("gold", LEVEL)), slot=1 + slot)
            for slot, name in enumerate(labelled)
        ],
        title=f"True reward at KL {LEVEL:g}",
        x_label="standard deviations of the reference",
    )
    judgements = settings.labels * settings.cheaper
    return StudyReport(
        findings=(*_findings(settings, results), *_constitutional(settings, results)),
        table=StudyTable(columns=columns, rows=rows),
        further=(
            StudyTable(
                columns=(
                    "revisions",
                    "true reward of the answers",
                    "their KL",
                    "true reward of the policy that imitates them",
                    "its KL",
                ),
                rows=revisions,
            ),
        ),
        figure=StudyFigure(drawing=drawing, caption=f"true reward at KL {LEVEL:g}"),
        remarks=(
            f"People give {settings.labels} labels. For the same price the judge gives {judgements} in one order, or "
            "half as many in both orders. `direct` is the best policy for the judge's own taste. It asks the judge about every completion that "
            "training draws, so its price differs, and it has no order. Policies are the exact optimum for their reward at KL 1. The judge's "
            "biases and error are planted; measure those of a real judge with `prefloop label judge`.",
            f"Constitutional AI: the true reward is the sum of {TRAITS + 1} parts, and the judge's opinion of a part is a principle. One is drawn for "
            "each question. A revision keeps an answer's beginning and writes a new end that heeds the principle, and stays if the judge "
            f"prefers it by that principle. Principles here are separate parts, so a label by one is right less often than a label by the whole; the paper's overlap. "
            f"A revision costs {REVISION_COST} judgements: one to write it, one to keep it or not. An answer revised n times so costs "
            f"{REVISION_COST}n, and {judgements} judgements buy {judgements // (REVISION_COST * settings.revisions)} answers revised {settings.revisions} times. "
            f"`revisions then labels` spends {100 * settings.revising:g} % on such answers and the rest on labels of the pairs of the policy that imitates them, which reinforcement "
            "learning then starts from. The answers' true reward is exact; the policy that imitates them is the reference plus a network of the "
            "reward model's size, trained by likelihood. `unlimited revisions` has the same labels, and starts from the answers' exact distribution, "
            "as if revisions cost nothing. KL is always to the reference, so what imitation strays from it counts.",
        ),
    )


def _nth(name: str, place: int) -> Measure:
    """A measure: one number of a list."""
    return lambda numbers: numbers[name][place]


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


def _constitutional(settings: RlaifSettings, results: StudyResults) -> list[StudyFinding]:
    """What revisions gain, and what they are worth before labels."""
    bai = "Constitutional AI, arXiv:2212.08073"
    last = settings.revisions
    gain = results.mean(REVISED, _nth("imitated", last))
    steps = [
        results.difference_of((REVISED, _nth("revised", n)), (REVISED, _nth("revised", n - 1)))
        for n in range(1, last + 1)
    ]
    falls = [
        results.mean(REVISED, lambda one, n=n: _gain(one, n) - _gain(one, n + 1)) for n in range(1, last)
    ]
    found = [
        StudyFinding(
            expected="supervised learning on revisions, without a label, gives a better policy",
            source=f"{bai}, figure 3",
            found=f"true reward of the policy that imitates {last} revisions, less the reference's: {with_interval(gain)}",
            holds=sure(gain, above=0.0),
        ),
        StudyFinding(
            expected="each revision is better than the one before",
            source=f"{bai}, figure 5",
            found=f"gain of each, first to last: {', '.join(map(with_interval, steps))}",
            holds=all_sure(sure(step, above=0.0) for step in steps),
        ),
        StudyFinding(
            expected="the first revision gains most, and each one after it less",
            source=f"{bai}, figure 5",
            found=f"by how much the gain falls from each to the next: {', '.join(map(with_interval, falls))}",
            holds=all_sure(sure(fall, above=0.0) for fall in falls),
        ),
    ]
    claims = (
        (REVISED_LABELLED, LABELLED, "revisions first are better than labels alone at equal cost"),
        (UNLIMITED_LABELLED, LABELLED, "so they are if revisions cost nothing, with half of the labels"),
        (REVISED_LABELLED, PEOPLE, "constitutional AI is better than people's labels at equal cost"),
        (UNLIMITED_LABELLED, PEOPLE, "so it is if revisions cost nothing"),
    )
    for one, other, claim in claims:
        gain = results.difference(one, other, at("gold", LEVEL))
        found.append(
            StudyFinding(
                expected=claim,
                source=bai,
                found=f"true reward at KL {LEVEL:g}, {one} less {other}: {with_interval(gain)}",
                holds=sure(gain, above=0.0),
            )
        )
    return found


def _gain(numbers: Numbers, revision: int) -> float:
    """What a revision adds to the true reward."""
    return numbers["revised"][revision] - numbers["revised"][revision - 1]


def _bias(bias: str) -> str:
    return "no bias" if bias == FAIR else f"a bias {bias}"


STUDY = Study(
    title="AI labels against people's at equal cost",
    question=(
        "Are many cheap labels by an AI judge worth as much as few labels by people? What do the judge's biases cost, for the answer shown "
        "first and for length? And is it better to revise answers by principles first (constitutional AI)? In this world of letters the biases of the judges are planted."
    ),
    settings=RlaifSettings,
    cells=cells,
    work=work,
    report=report,
)
