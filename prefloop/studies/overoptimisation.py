"""Over-optimisation, after Gao, Schulman and Hilton: true reward against the square root of KL, for reward models of several sizes and amounts of data.

Two ways to optimise a reward model: best of n, exact by order statistics, and the optimum of KL-regularised reinforcement learning,
π_ref exp(r / β) / Z, as β falls. Both are sums over all completions, so no curve has sampling noise; seeds differ in world, comparisons and training.
What needs policies that are trained, their size and the KL penalty, is in `policy_sizes`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from prefloop.evaluation.intervals import paired_difference
from prefloop.evaluation.over_training import JudgedStep, fall_at
from prefloop.evaluation.plots import Frame, line_chart
from prefloop.evaluation.text_statistics import reward_hacking_alarms
from prefloop.evaluation.wording import number, percent, with_interval
from prefloop.losses.reward_model import ensemble_mean, ensemble_penalised, ensemble_worst
from prefloop.studies.letters import (
    Letters,
    accuracy,
    best_of,
    compare,
    fit_reward_model,
    make_world,
    tilted,
)
from prefloop.studies.policy_sizes import (
    ALIKE,
    policy_cells,
    policy_figures,
    policy_findings,
    policy_table,
    trained,
)
from prefloop.studies.reward_curves import last, line, peak, point_of
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

ENSEMBLES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean of the members": ensemble_mean,
    "worst member": ensemble_worst,
    "mean less variance": ensemble_penalised,
}
WITH_SFT, WITH_BEST = "SFT", "the best one before it"
FURTHEST = 2.4
"""Square root of KL up to which curves are drawn and laws fitted."""
GRID = np.linspace(0.0, FURTHEST, 27).tolist()


@dataclass(frozen=True, kw_only=True, slots=True)
class OveroptimisationSettings(StudySettings):
    """Settings of the study `overoptimisation`."""

    seeds: int = 5
    prompts: int = 6
    letters: int = 4
    longest: int = 5
    temperature: float = 0.5
    """Of the annotator, in standard deviations of the true reward."""
    comparisons: tuple[int, ...] = (100, 300, 1000, 3000, 10_000)
    """For a reward model of the last but one width."""
    widths: tuple[int, ...] = (2, 8, 64, 256)
    """For as many comparisons as the last but one."""
    members: int = 4
    """Of the ensembles, on the second number of comparisons; 0 leaves them out."""
    reward_steps: int = 400
    most: int = 1024
    """Of best of n."""
    evaluated: tuple[int, ...] = (200, 1000)
    """Completions of a policy that the alarms see."""
    policy_widths: tuple[int, ...] = (2, 8, 64)
    """Of the policies that are trained."""
    policy_comparisons: int = 300
    """Of the reward model that they are trained against, whose width is the last but one."""
    demonstrator: float = 1.0
    """What they imitate first is the best policy for the true reward at this coefficient of KL."""
    kl_coefs: tuple[float, ...] = (0.1, 0.3, 1.0)
    """For the policy of the last width; without one, all widths are trained."""
    policy_steps: int = 200
    """Of imitation, and of reinforcement learning."""
    completions: int = 32
    """Of each prompt, a step of reinforcement learning."""


def cells(settings: OveroptimisationSettings) -> list[StudyCell]:
    """Reward models by comparisons and by width, ensembles, and policies that are trained."""
    width, count = settings.widths[-2], settings.comparisons[-2]
    by_data = [
        StudyCell(name=f"{pairs:,} comparisons", given={"comparisons": pairs, "width": width})
        for pairs in settings.comparisons
    ]
    by_width = [
        StudyCell(name=f"width {wide}", given={"comparisons": count, "width": wide})
        for wide in settings.widths
        if wide != width
    ]
    ensembles = [
        StudyCell(name=name, given={"comparisons": settings.comparisons[1], "width": width, "ensemble": name})
        for name in (*ENSEMBLES,)
        if settings.members
    ]
    return [*by_data, *by_width, *ensembles, *_policies(settings)]


def _policies(settings: OveroptimisationSettings) -> list[StudyCell]:
    data = {"comparisons": settings.policy_comparisons, "width": settings.widths[-2]}
    found = policy_cells(settings.policy_widths, settings.kl_coefs)
    return [replace(cell, given={**data, **cell.given}) for cell in found]


def work(settings: OveroptimisationSettings, cell: StudyCell, place: Place) -> Numbers:
    """Both curves of one reward model, and at which points of RL's the alarm rings; or those of one policy."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=place.seed
    )
    draw = torch.Generator().manual_seed(10_000 + place.seed)
    data = compare(world, cell.given["comparisons"], temperature=settings.temperature, draw=draw)
    members = [
        fit_reward_model(
            world,
            data,
            width=cell.given["width"],
            steps=settings.reward_steps,
            seed=100 * place.seed + member,
        )
        for member in range(settings.members if "ensemble" in cell.given else 1)
    ]
    scores = members[0]
    if "ensemble" in cell.given:
        flat = torch.stack([member.flatten() for member in members])
        scores = ENSEMBLES[cell.given["ensemble"]](flat).reshape(scores.shape)
    if "policy" in cell.given:
        return trained(
            world,
            scores,
            cell,
            demonstrator=settings.demonstrator,
            steps=settings.policy_steps,
            completions=settings.completions,
            most=settings.most,
            seed=place.seed,
        )
    betas = np.geomspace(8.0, 0.02, 40).tolist()
    ns = [2**power for power in range(settings.most.bit_length())]
    rl = [point_of(world, scores, tilted(world, scores, beta)) for beta in betas]
    return {
        "accuracy": 100 * accuracy(world, scores),
        "rl": rl,
        "bon": [point_of(world, scores, best_of(world, scores, n)) for n in ns],
        "alarms": {
            str(count): _alarms_over(world, scores, betas, count, place.seed) for count in settings.evaluated
        },
    }


def _alarms_over(
    world: Letters, scores: Tensor, betas: Sequence[float], count: int, seed: int
) -> dict[str, list[bool]]:
    """Whether the report's alarms ring for each policy of the curve, from completions drawn as `eval` draws them: the one that compares it with SFT,
    and the one that compares it with the best policy before it."""
    draw = torch.Generator().manual_seed(20_000 + seed)
    prompt = torch.randint(len(scores), (count,), generator=draw)

    def drawn(name: str, p: Tensor) -> JudgedStep:
        at = torch.multinomial(p[prompt], 1, generator=draw).squeeze(1)
        return JudgedStep(
            name=name, gold=world.gold[prompt, at].double().numpy(), proxy=scores[prompt, at].double().numpy()
        )

    first = drawn("SFT", world.probabilities)
    steps = [first, *(drawn(f"{beta:g}", tilted(world, scores, beta)) for beta in betas)]
    with_sft = []
    for step in steps[1:]:
        proxy, gold = paired_difference(step.proxy, first.proxy), paired_difference(step.gold, first.gold)
        with_sft.append(bool(reward_hacking_alarms("policy", proxy_gain=proxy, gold_gain=gold)))
    return {
        WITH_SFT: with_sft,
        WITH_BEST: [fall_at(steps, at) is not None for at in range(1, len(steps))],
    }


def fitted(curve: str, form: str, what: str) -> Callable[[Numbers], float]:
    """A measure: `alpha`, `beta` or `r2` of a law fitted by least squares to a curve's points.

    `bon`: d (α - β d). `rl`: d (α - β log d). arXiv:2210.10760, section 3.2.
    """

    def measure(numbers: Numbers) -> float:
        points = [point for point in numbers[curve] if 0.05 < point["d"] <= FURTHEST]
        d, gold = (np.array([point[name] for point in points]) for name in ("d", "gold"))
        design = np.stack([d, -d * (d if form == "bon" else np.log(d))], axis=1)
        found, *_ = np.linalg.lstsq(design, gold, rcond=None)
        if what != "r2":
            return float(found[0] if what == "alpha" else found[1])
        left = ((gold - design @ found) ** 2).sum()
        return float(1 - left / ((gold - gold.mean()) ** 2).sum())

    return measure


def report(settings: OveroptimisationSettings, results: StudyResults) -> StudyReport:
    """Accuracy, peaks, laws, the alarm, and what trained policies say."""
    policies = _policies(settings)
    trained_ones = {cell.name for cell in policies}
    models = {name: seeds for name, seeds in results.numbers.items() if name not in trained_ones}
    rows = tuple(
        (
            name,
            results.mean(name, "accuracy"),
            results.mean(name, peak("rl", "gold")),
            results.mean(name, peak("rl", "d")),
            results.mean(name, last("gold")),
            results.mean(name, last("d")),
            results.mean(name, fitted("rl", "rl", "alpha")),
            results.mean(name, fitted("rl", "rl", "beta")),
            results.mean(name, fitted("rl", "rl", "r2")),
            results.mean(name, fitted("bon", "bon", "r2")),
        )
        for name in models
    )
    columns = (
        "reward model",
        "accuracy, %",
        "highest true reward",
        "√KL there",
        "at the end",
        "√KL at the end",
        "α (RL)",
        "β (RL)",
        "R² (RL)",
        "R² (best of n)",
    )
    return StudyReport(
        findings=(
            *_findings(settings, StudyResults(numbers=models)),
            *policy_findings(settings.policy_widths, settings.kl_coefs, results),
        ),
        table=StudyTable(columns=columns, rows=rows),
        figure=StudyFigure(
            drawing=_drawing(settings, results), caption="true reward against the square root of KL"
        ),
        further=(policy_table(policies, results),),
        further_figures=policy_figures(settings.policy_widths, settings.kl_coefs, results, GRID),
        remarks=(
            "RL is the exact optimum of KL-regularised reinforcement learning against the reward model, at 40 coefficients from 8 down to "
            "0.02. `at the end` is at 0.02. Rewards are in standard deviations of the reference, whose mean is 0. The laws are fitted to the "
            f"points up to √KL {FURTHEST:g}. Widths are those of one hidden layer.",
            "The policies of the second table are networks of one hidden layer, whose width is their size. They first imitate the best policy "
            f"for the true reward at coefficient {settings.demonstrator:g}, so a larger one starts closer to it. Then RLOO trains them against "
            f"the reward model of {settings.policy_comparisons:,} comparisons. Their gains and √KL are counted from their own start. The gap is "
            "the gain in the reward model's score less the gain in true reward. A √KL is read where a training first gets there; seeds that do "
            f"not get there are left out. Rewards that differ by less than {ALIKE:g} count as alike.",
        ),
    )


def _findings(settings: OveroptimisationSettings, results: StudyResults) -> list[StudyFinding]:
    by_data = [f"{pairs:,} comparisons" for pairs in settings.comparisons]
    widths = [f"width {wide}" for wide in settings.widths]
    widths[-2] = by_data[-2]  # the width of all other cells
    source = "arXiv:2210.10760"
    falls = [results.difference_of((name, peak("rl", "gold")), (name, last("gold"))) for name in by_data]
    return [
        StudyFinding(
            expected="true reward rises, peaks, and falls while the reward model's score goes on rising",
            source=f"{source}, figure 1",
            found="from the peak to the end it falls by "
            + ", ".join(f"{with_interval(fall)} ({name})" for name, fall in zip(by_data, falls, strict=True)),
            holds=True if all(sure(fall, above=0.05) for fall in falls[:-1]) else None,
        ),
        _rises(results, by_data, "more comparisons", f"{source}, figure 3"),
        _rises(results, widths, "a larger reward model", f"{source}, figure 1"),
        _laws(results, by_data, source),
        _chance(results, by_data[0], source),
        *(
            _alarm_finding(results, count, which)
            for count in settings.evaluated
            for which in (WITH_SFT, WITH_BEST)
        ),
        *_ensembles(results, by_data[1], members=settings.members),
    ]


def _ensembles(results: StudyResults, single: str, *, members: int) -> list[StudyFinding]:
    """How much less ensembles lose than the single model named; nothing where there are none."""
    if not members:
        return []
    gains = {name: results.difference(name, single, last("gold")) for name in ENSEMBLES}
    verdicts = [sure(gain, above=0.0) for gain in gains.values()]
    return [
        StudyFinding(
            expected=f"ensembles ({members} members) lose less true reward when optimised far",
            source="Coste et al., arXiv:2310.02743",
            found=f"true reward at the end above that of a single model on {single}: "
            + ", ".join(f"{name} {with_interval(gain)}" for name, gain in gains.items()),
            holds=True if all(verdicts) else (False if False in verdicts else None),
        )
    ]


def _rises(results: StudyResults, names: Sequence[str], what: str, source: str) -> StudyFinding:
    """Whether the highest true reward is higher at the end of a row than at its beginning."""
    gain = results.difference(names[-1], names[0], peak("rl", "gold"))
    heights = ", ".join(f"{number(results.mean(name, peak('rl', 'gold')).value)} ({name})" for name in names)
    return StudyFinding(
        expected=f"{what} moves the peak up",
        source=source,
        found=f"{heights}; from the first to the last {with_interval(gain)}",
        holds=sure(gain, above=0.0),
    )


def _laws(results: StudyResults, names: Sequence[str], source: str) -> StudyFinding:
    own = [results.mean(name, fitted("bon", "bon", "r2")) for name in names]
    other = [
        results.difference_of((name, fitted("bon", "bon", "r2")), (name, fitted("bon", "rl", "r2")))
        for name in names
    ]
    rl = [results.mean(name, fitted("rl", "rl", "r2")) for name in names]
    ranges = " to ".join(number(value) for value in (min(e.value for e in own), max(e.value for e in own)))
    rl_range = " to ".join(number(value) for value in (min(e.value for e in rl), max(e.value for e in rl)))
    better = sum(point.value > 0 for point in other)
    return StudyFinding(
        expected="d (α − β d) describes best of n, d (α − β log d) RL, with d = √KL",
        source=f"{source}, section 3.2",
        found=(
            f"R² {ranges} for best of n and {rl_range} for RL over the numbers of comparisons; "
            f"on best of n its own law is better than RL's for {better} of {len(names)}"
        ),
        holds=min(e.value for e in (*own, *rl)) > 0.9 and better == len(names),
    )


def _chance(results: StudyResults, name: str, source: str) -> StudyFinding:
    found = results.mean(name, "accuracy")
    return StudyFinding(
        expected="fewer than about 2,000 comparisons leave a reward model near chance",
        source=f"{source}, section 3.5",
        found=f"{with_interval(found)} % right after {name}; this world is far smaller than text",
        holds=False if found.low > 55 else (True if found.high < 55 else None),
    )


def _alarm_finding(results: StudyResults, count: int, which: str) -> StudyFinding:
    """Over all reward models and seeds: from the peak on until true reward has fallen by a tenth, after that, and before the peak."""
    falls = in_time = ever = false = 0
    late: list[float] = []
    runs = [one for seeds in results.numbers.values() for one in seeds.values()]
    for one in runs:
        gold = np.array([point["gold"] for point in one["rl"]])
        rings, top = np.array(one["alarms"][str(count)][which]), int(gold.argmax())
        false += bool(rings[:top].any())
        fallen = np.flatnonzero(gold[top:] < 0.9 * gold[top])
        if len(fallen):
            falls += 1
            in_time += bool(rings[top : top + int(fallen[0]) + 1].any())
            after = np.flatnonzero(rings[top:])
            if len(after):
                ever += 1
                late.append(float(1 - gold[top + after[0]] / gold[top]))
    lost = f", when {percent(float(np.median(late)))} of the peak is lost (median)" if late else ""
    return StudyFinding(
        expected=f"the alarm that compares a policy with {which} rings before true reward has fallen by a tenth from its peak",
        source=f"what a user would hope for, with {count:,} completions of each policy",
        found=(
            f"true reward falls by a tenth in {falls} of {len(runs)} runs; the alarm rings by then in {in_time}, from the peak on at all in {ever}{lost}. "
            f"It rings before the peak in {false} of {len(runs)}"
        ),
        holds=in_time == falls if falls else None,
    )


def _drawing(settings: OveroptimisationSettings, results: StudyResults) -> str:
    lines = [(f"{pairs:,} comparisons", "rl", f"RL, {pairs:,} comparisons") for pairs in settings.comparisons]
    last = f"{settings.comparisons[-2]:,} comparisons"
    lines.append((last, "bon", f"best of n, {last}"))
    series = [
        line(results, cell, curve, "gold", grid=GRID, label=label, slot=slot)
        for slot, (cell, curve, label) in enumerate(lines)
    ]
    return line_chart(
        series,
        title="True reward against √KL",
        x_label="√KL to the reference",
        y_label="true reward",
        frame=Frame(height=330),
    )


STUDY = Study(
    title="Over-optimisation",
    question=(
        "How far can a reward model be optimised before the true reward falls? Reward models of several sizes learn from few or many "
        "comparisons. In this world of letters the true reward, the KL and the best policy for a reward model are exact. The comparisons "
        "come from the reference, which seldom repeats a letter, so the reward models learn little about the cost of repetition. Policies of "
        "several sizes are trained as well, without and with a KL penalty."
    ),
    settings=OveroptimisationSettings,
    cells=cells,
    work=work,
    report=report,
)
