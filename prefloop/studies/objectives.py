"""All objectives of `prefer`, tuned equally: true reward, KL, length and win rates against DPO, and which "better than DPO" claims are left.

An objective is trained at its default settings and at five others. The one of the five with the highest true reward on one half of the prompts, over all seeds,
is reported on the other half, so that no number is of a prompt on which its setting was chosen. DPO is chosen in the same way. Policies are tables: what is
learned of one prompt says nothing of another.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.plots import PlotRow, ReferenceLine, interval_chart
from prefloop.evaluation.wording import with_interval
from prefloop.feedback.ratings import FIRST, SECOND, TIE, Votes, leaderboard, make_votes
from prefloop.losses.objectives import OBJECTIVES
from prefloop.studies.letters import (
    Letters,
    distribution,
    expected,
    fit_reward_model,
    kl,
    make_world,
    soft_labels,
    win_rate,
)
from prefloop.studies.objective_claims import CLAIMS, FAMILIES, SWEEPS, family_of
from prefloop.studies.offline import JudgedGroups, as_pairs, judge_groups, paired, train_by_objective
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
    over_seeds,
    sure,
)

DPO = "dpo"
DPO_POLICIES = "dpo.pt"
DEFAULT = 0
"""Place of the default settings among those that an objective is trained at."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectivesSettings(StudySettings):
    """Settings of the study `objectives`."""

    seeds: int = 3
    prompts: int = 16
    letters: int = 3
    longest: int = 4
    completions: int = 4000
    """Judged, for every objective: 2 a comparison, `ranked` a ranking, 1 a label or score."""
    ranked: int = 4
    temperature: float = 0.5
    """Of the annotator, in standard deviations of the true reward."""
    width: int = 64
    """Of the reward model that gives `sppo_soft` its win rates."""
    reward_steps: int = 200
    steps: int = 25
    rate: float = 0.4
    """Of Adam; `sft` is tuned over multiples of it."""
    drawn: int = 20
    """Completions of each prompt that policies are rated by."""
    only: tuple[str, ...] = ()
    """Objectives, `dpo` among them; empty for all."""

    def __post_init__(self) -> None:
        check_objectives(self.only)
        if self.prompts % 2:
            raise ValueError(
                f"prompts is {self.prompts}; it must be even, for settings are chosen on one half"
            )


def check_objectives(only: Sequence[str]) -> None:
    """Raise `ValueError` for a name that is no objective, or if DPO is not among them."""
    wrong = [name for name in only if name not in OBJECTIVES]
    if wrong:
        raise ValueError(f"only names {', '.join(wrong)}, which is no objective")
    if only and DPO not in only:
        raise ValueError(f"only leaves out {DPO}, which the others are compared with")


def cells(settings: ObjectivesSettings) -> list[StudyCell]:
    """An objective a cell: it is swept inside."""
    return objectives_of(settings.only)


def objectives_of(only: Sequence[str]) -> list[StudyCell]:
    """A cell for each of some objectives; for all if none is named."""
    return [StudyCell(name=name) for name in only or OBJECTIVES]


def tried(name: str) -> list[Mapping[str, float]]:
    """The settings that an objective is trained at: its defaults, then the five that it is tuned over."""
    return [{}, *SWEEPS[name]]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SeedWorld:
    """A seed's world and what its annotator said of it."""

    world: Letters
    judged: JudgedGroups
    """Groups of two with what the annotator gave each completion."""
    rankings: JudgedGroups

    def data(self, name: str, settings: ObjectivesSettings, seed: int) -> JudgedGroups:
        """What an objective trains on."""
        kind = OBJECTIVES[name].data
        if kind == "rankings":
            return self.rankings
        if kind == "scores":
            return self.judged
        pairs = as_pairs(self.judged)
        if name != "sppo_soft":
            return paired(pairs)
        scores = fit_reward_model(
            self.world, pairs, width=settings.width, steps=settings.reward_steps, seed=seed
        )
        p = soft_labels(scores, pairs)
        return JudgedGroups(
            prompt=pairs.prompt, completions=self.judged.completions, labels=torch.stack([p, 1 - p], 1)
        )


def seed_world(settings: ObjectivesSettings, seed: int) -> SeedWorld:
    """The same for all cells of a seed."""
    world = make_world(
        prompts=settings.prompts, letters=settings.letters, longest=settings.longest, seed=seed
    )
    draw = torch.Generator().manual_seed(10_000 + seed)
    asked = {"temperature": settings.temperature, "draw": draw}
    judged = judge_groups(world, settings.completions // 2, 2, **asked)
    rankings = judge_groups(world, settings.completions // settings.ranked, settings.ranked, **asked)
    return SeedWorld(world=world, judged=judged, rankings=rankings)


def _policies(settings: ObjectivesSettings, name: str, seed: int) -> list[Float[Tensor, "P S"]]:
    """One for each setting that is tried."""
    own = seed_world(settings, seed)
    data = own.data(name, settings, seed)
    found = []
    for one in tried(name):
        given = {key: value for key, value in one.items() if key != "rate"}
        table = train_by_objective(
            own.world,
            data,
            name,
            steps=settings.steps,
            seed=seed,
            settings=given,
            rate=settings.rate * one.get("rate", 1.0),
        )
        found.append(distribution(own.world.tree, table))
    return found


def prepare(settings: ObjectivesSettings, place: Place) -> None:
    """DPO's policies, which every objective's are compared with."""
    torch.save(_policies(settings, DPO, place.seed), place.prepared / DPO_POLICIES)


def work(settings: ObjectivesSettings, cell: StudyCell, place: Place) -> Numbers:
    """The objective's points, by halves of the prompts: each with its win rates against every one of DPO's."""
    world = seed_world(settings, place.seed).world
    dpo = torch.load(place.prepared / DPO_POLICIES, weights_only=True)
    lengths = world.tree.mask.sum(1).float().expand_as(world.gold)
    draw = torch.Generator().manual_seed(30_000 + place.seed)
    points = []
    for policy in dpo if cell.name == DPO else _policies(settings, cell.name, place.seed):
        at = torch.multinomial(policy, settings.drawn, replacement=True, generator=draw)
        drawn = world.gold.gather(1, at)
        halves = []
        for half in (slice(0, settings.prompts // 2), slice(settings.prompts // 2, None)):
            own, gold = policy[half], world.gold[half]
            halves.append(
                {
                    "gold": expected(own, gold),
                    "kl": kl(own, world.probabilities[half]),
                    "length": expected(own, lengths[half]),
                    "wins": [100 * win_rate(own, other[half], gold) for other in dpo],
                    "drawn": [[round(float(g), 4) for g in row] for row in drawn[half]],
                }
            )
        points.append(halves)
    return {"points": points}


HALVES = (0, 1)
Pick = Callable[[StudyResults, str, int], int]
"""Of results, objective and half of the prompts, which of its settings is looked at."""


def choose(results: StudyResults, name: str, half: int) -> int:
    """The setting with the highest true reward on the other half of the prompts, over all seeds."""
    by_seed = results.numbers[name].values()
    means = [np.mean([numbers["points"][at][1 - half]["gold"] for numbers in by_seed]) for at in range(1, 6)]
    return 1 + int(np.argmax(means))


def untuned(results: StudyResults, name: str, half: int) -> int:
    """The default settings."""
    return DEFAULT


def values(results: StudyResults, name: str, what: str, pick: Pick = choose) -> list[float]:
    """A number of the picked setting, for each seed and half; `wins` is against DPO, picked in the same way."""
    found = []
    for half in HALVES:
        own, dpo = pick(results, name, half), pick(results, DPO, half)
        for numbers in results.numbers[name].values():
            value = numbers["points"][own][half][what]
            found.append(value[dpo] if what == "wins" else value)
    return found


def above_dpo(results: StudyResults, name: str, pick: Pick = choose) -> Estimate:
    """True reward less DPO's, half by half."""
    pairs = zip(values(results, name, "gold", pick), values(results, DPO, "gold", pick), strict=True)
    return over_seeds([own - dpo for own, dpo in pairs])


def votes_of(results: StudyResults, players: Mapping[str, Sequence[str]], *, seed: int = 0) -> Votes:
    """The player with the higher true reward wins, on each seed's prompts, every player against every other. A player is one objective or several, from which
    one is drawn for each vote."""
    draw = np.random.default_rng(seed)
    names, rows, prompts = list(players), [], 0
    for own in next(iter(results.numbers.values())):
        for half in HALVES:
            drawn = {
                name: np.array(
                    results.numbers[name][own]["points"][choose(results, name, half)][half]["drawn"]
                )
                for name in results.numbers
            }
            here, count = next(iter(drawn.values())).shape
            for i, j in combinations(range(len(names)), 2):
                for prompt in range(here):
                    first, second = (
                        drawn[str(draw.choice(players[names[side]]))][prompt, draw.integers(count)]
                        for side in (i, j)
                    )
                    outcome = TIE if first == second else FIRST if first > second else SECOND
                    rows.append((i, j, outcome, prompts + prompt))
            prompts += here
    first, second, outcome, prompt = np.array(rows).T
    return make_votes(names, first, second, outcome, prompt=prompt)


def rated(results: StudyResults, players: Mapping[str, Sequence[str]]) -> dict[str, Estimate]:
    """Ratings with intervals over the prompts of all seeds, best first; the average is 1000."""
    board = leaderboard(votes_of(results, players))
    return {
        row.name: Estimate(value=row.rating.value, low=row.rating.low, high=row.rating.high, n=row.votes)
        for row in board.ratings
    }


def report(settings: ObjectivesSettings, results: StudyResults) -> StudyReport:
    """The table of all objectives, the families, and the claims."""
    return reported(
        results,
        "Win rates are exact, by true reward; a tie counts half.",
        "Policies are tables, which share nothing between prompts or prefixes, so the study does not show what an objective does to texts "
        "that nobody compared.",
    )


def reported(results: StudyResults, wins: str, policies: str) -> StudyReport:
    """The same of points as those of `work`; `wins` says what win rates are, and `policies` what the policies are."""
    names = list(results.numbers)
    ratings = rated(results, {name: [name] for name in names})
    rows = tuple(
        (
            name,
            OBJECTIVES[name].data,
            _settings_chosen(results, name),
            over_seeds(values(results, name, "gold")),
            over_seeds(values(results, name, "gold", untuned)),
            over_seeds(values(results, name, "kl")),
            over_seeds(values(results, name, "length")),
            None if name == DPO else over_seeds(values(results, name, "wins")),
            None if name == DPO else over_seeds(values(results, name, "wins", untuned)),
            ratings[name],
        )
        for name in ratings
    )
    columns = (
        "objective",
        "trains on",
        "settings chosen",
        "true reward, tuned",
        "untuned",
        "KL, tuned",
        "length",
        "win rate against DPO, both tuned, %",
        "both untuned, %",
        "rating",
    )
    return StudyReport(
        findings=tuple(_findings(results)),
        table=StudyTable(columns=columns, rows=rows),
        further=(_families(results, names),),
        figure=StudyFigure(drawing=_drawing(results, names), caption="win rate against DPO, both tuned"),
        remarks=(
            "Tuned is the best of five settings, chosen by true reward on the other half of the prompts, over all seeds. Two choices are "
            "listed if the halves differ. Untuned is prefloop's default, which is mostly the paper's. Objectives with two settings are tried "
            "at three strengths, and at two further values of the other setting at the middle strength. `sft` has no setting and is tried at "
            f"five multiples of the learning rate. All get equally many steps and judged completions. {wins} Ratings are prefloop's own, of one "
            "answer of each objective to every prompt. Intervals of ratings are over prompts; all others are over the two halves of each "
            "seed's prompts.",
            f"{policies} Labels are the two sides of comparisons, so `bco_matched` has nothing to match and equals `bco`. "
            "`sppo_soft` takes its win rates from a reward model of the same comparisons. Scores and rankings carry more information than "
            "comparisons. At least as good means that true reward minus DPO's is above −0.1. Expect about one of twenty such claims to be "
            "decided by chance.",
            f"{_which_at_an_end(results)} the first setting was chosen at an end of its range, so a better one may lie beyond.",
        ),
    )


def _settings_chosen(results: StudyResults, name: str) -> str:
    chosen = []
    for half in HALVES:
        one = tried(name)[choose(results, name, half)]
        chosen.append(", ".join(f"{key} {value:g}" for key, value in one.items()))
    return " / ".join(dict.fromkeys(chosen))


def _which_at_an_end(results: StudyResults) -> str:
    """For which objectives, in words: those, or all but the others, whichever is shorter."""
    ends = _at_an_end(results)
    others = [name for name in results.numbers if name not in ends]
    if len(others) < len(ends):
        return f"For all objectives but {', '.join(others)}" if others else "For all objectives"
    return f"For these objectives ({', '.join(ends) or 'none'})"


def _at_an_end(results: StudyResults) -> list[str]:
    """Objectives whose strength was chosen as the smallest or largest of those tried, for either half."""
    found = []
    for name in results.numbers:
        strengths = [next(iter(one.values())) for one in SWEEPS[name]]
        chosen = {strengths[choose(results, name, half) - 1] for half in HALVES}
        if chosen & {min(strengths), max(strengths)}:
            found.append(name)
    return found


def _families(results: StudyResults, names: Sequence[str]) -> StudyTable:
    """Rated by an answer of one of their objectives, drawn anew for each vote."""
    members = {
        family: [name for name in names if family_of(name) == family and name != "unlikelihood"]
        for family in FAMILIES
    }
    players = {family: own for family, own in members.items() if own}
    rows = []
    for family, rating in rated(results, players).items():
        golds = np.mean([values(results, name, "gold") for name in players[family]], axis=0)
        best = max(players[family], key=lambda name: float(np.mean(values(results, name, "gold"))))
        rows.append((family, len(players[family]), rating, over_seeds(golds.tolist()), best))
    columns = ("family", "objectives", "rating", "true reward, mean of its objectives", "highest")
    return StudyTable(columns=columns, rows=tuple(rows))


def _findings(results: StudyResults) -> list[StudyFinding]:
    found, kept, lost, unseen = [], [], [], []
    for name, claim in CLAIMS.items():
        if name not in results.numbers:
            continue
        tuned, plain = above_dpo(results, name), above_dpo(results, name, untuned)
        holds = sure(tuned, above=claim.above)
        (kept if holds else lost if sure(plain, above=claim.above) else unseen).append(name)
        wins = over_seeds(values(results, name, "wins"))
        found.append(
            StudyFinding(
                expected=claim.words,
                source=claim.source,
                found=f"{name} less DPO: {with_interval(tuned)} tuned, {with_interval(plain)} untuned; win rate tuned {with_interval(wins)} %",
                holds=holds,
            )
        )
    parts = [
        f"holds for {len(kept)} of {len(found)} ({', '.join(kept) or 'none'})",
        f"seen with default settings and not when both are tuned for {len(lost)} ({', '.join(lost) or 'none'})",
        f"seen with neither for {len(unseen)} ({', '.join(unseen) or 'none'})",
    ]
    whole = StudyFinding(
        expected="what is published as better than DPO is better than DPO when both are tuned",
        source="all the claims below",
        found=". ".join(part[0].upper() + part[1:] for part in parts),
        holds=all_sure(one.holds for one in found),
    )
    return [whole, *found]


def _drawing(results: StudyResults, names: Sequence[str]) -> str:
    estimates = {name: over_seeds(values(results, name, "wins")) for name in names if name != DPO}
    rows = [
        PlotRow(label=name, estimate=estimate, slot=1 + FAMILIES.index(family_of(name)) % 7)
        for name, estimate in sorted(estimates.items(), key=lambda item: -item[1].value)
    ]
    return interval_chart(
        rows,
        title="Win rate against DPO, both tuned",
        x_label="win rate, %",
        references=[ReferenceLine(value=50.0, label="as good as DPO")],
    )


STUDY = Study(
    title="All objectives, tuned equally",
    question=(
        "Which objective of `prefer` is better than DPO when both are tuned? Each is trained in the world of letters, at its defaults and "
        "at five other settings. All learn from equally many completions, labelled by the same annotator."
    ),
    settings=ObjectivesSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
