"""How many votes until the order is right: AlpacaEval's 25 systems, pairs asked uniformly or actively, and its win rates at equal length.

GPT-4 has judged each of 24 systems against text_davinci_003 on 603 instructions. Two ways to ask: `baseline`, those votes themselves; and `pairs`, any
two systems on one instruction, where the one that beat the baseline wins over the one that did not, and two alike are a tie. The order by all votes is
the same in both. Every strategy starts with the same uniform votes, then asks in batches; after each batch a Bradley-Terry fit orders the systems.
"""

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from prefloop.errors import InputError
from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import mean_interval
from prefloop.evaluation.plots import Frame, line_chart
from prefloop.evaluation.wording import number, with_interval
from prefloop.feedback.ratings import (
    Votes,
    fit,
    length_controlled_win_rate,
    length_controlled_win_rates,
    make_votes,
    pair_likelihood,
)
from prefloop.feedback.ratings.fit import Fit
from prefloop.feedback.select import most_informative
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

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

BASELINE = "text_davinci_003"
PUBLISHED = {
    "LMCocktail-10.7B-v1": 84.8,
    "alpaca-7b-neft": 31.6,
    "alpaca-farm-ppo-human": 29.8,
    "claude": 76.8,
    "claude-2": 74.3,
    "claude2-alpaca-13b": 49.7,
    "deita-7b-v1.0": 71.1,
    "falcon-40b-instruct": 39.1,
    "gpt-3.5-turbo-0301": 79.2,
    "gpt-3.5-turbo-1106": 75.6,
    "gpt35_turbo_instruct": 66.9,
    "gpt4": 86.5,
    "guanaco-65b": 54.7,
    "llama-2-70b-chat-hf": 74.1,
    "minichat-3b": 32.0,
    "mistral-medium": 91.5,
    "oasst-rlhf-llama-33b": 55.8,
    "phi-2": 29.8,
    "phi-2-sft": 44.7,
    "text_davinci_001": 20.6,
    "ultralm-13b-v2.0": 63.8,
    "vicuna-13b": 50.0,
    "wizardlm-13b": 62.6,
    "zephyr-7b-alpha": 73.5,
}
"""Length-controlled win rates in %, AlpacaEval's leaderboard of the GPT-4 judge."""
DESIGNS = ("baseline", "pairs")
STRATEGIES = ("uniform", "information", "interval")
TOGETHER = "rates of all systems"
MOST_REPEATS = 6
"""How often one pair may be in a batch that `information` chooses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VotesSettings(StudySettings):
    """Settings of the study `votes`."""

    seeds: int = 20
    votes: int = 2400
    """Asked by each strategy, in all."""
    first: int = 96
    """Of these drawn uniformly, before a strategy chooses."""
    batch: int = 24
    groups: tuple[int, ...] = (3, 6, 12)
    """How many systems the rates at equal length are fitted on together, besides all."""
    draws: int = 10
    """Groups of each size, a seed."""


def cells(settings: VotesSettings) -> list[StudyCell]:
    """Each strategy in each design, and groups of systems rated at equal length."""
    asked = [
        StudyCell(name=f"{design}, {strategy}", given={"design": design, "strategy": strategy})
        for design in DESIGNS
        for strategy in STRATEGIES
    ]
    groups = [StudyCell(name=f"rates of {size} systems", given={"group": size}) for size in settings.groups]
    return [*asked, *groups, StudyCell(name=TOGETHER, given={"group": 0})]


def work(settings: VotesSettings, cell: StudyCell, place: Place) -> Numbers:
    """One strategy's curve, or the errors of one size of groups."""
    judged = read(place.data)
    if "group" in cell.given:
        return rate_errors(judged, settings, size=int(cell.given["group"]), seed=place.seed)
    return asked_by(judged, settings, place.seed, **cell.given)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class JudgedVotes:
    """All votes. Arrays are `[systems, prompts]`, NaN where there is no vote."""

    names: tuple[str, ...]
    won: Floats
    length: Floats
    baseline_length: Floats

    @property
    def rates(self) -> Floats:
        """`[systems]` against the baseline, raw."""
        return np.nanmean(self.won, axis=1)


@cache
def read(folder: str) -> JudgedVotes:
    """The votes and how long the answers are. Raises `InputError` where the files are not AlpacaEval's."""
    length: dict[tuple[str, str], int] = {}
    won: dict[str, dict[str, float]] = {}
    for line in _lines(folder, "outputs.jsonl.gz"):
        row = json.loads(line)
        length[row["prompt_id"], row["model"]] = len(row["completion"])
    for row in csv.DictReader(_lines(folder, "votes.csv.gz")):
        own = row["model_b"] if row["model_a"] == BASELINE else row["model_a"]
        if own in PUBLISHED:
            won.setdefault(own, {})[row["prompt_id"]] = float(row[row["winner"]] == own)
    if len(won) < 3:
        raise InputError(
            f"{folder}/votes.csv.gz: has votes on {len(won)} of the {len(PUBLISHED)} systems against {BASELINE}; it takes 3 or more"
        )
    names, prompts = sorted(won), sorted({prompt for row in won.values() for prompt in row})

    def table(value: Any) -> Floats:
        rows = [
            [value(name, prompt) if prompt in won[name] else np.nan for prompt in prompts] for name in names
        ]
        return np.array(rows, dtype=np.float64)

    return JudgedVotes(
        names=tuple(names),
        won=table(lambda name, prompt: won[name][prompt]),
        length=table(lambda name, prompt: length[prompt, name]),
        baseline_length=table(lambda _, prompt: length[prompt, BASELINE]),
    )


def _lines(folder: str, name: str) -> Sequence[str]:
    file = Path(folder) / name
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            return list(lines)
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error}); give the folder of AlpacaEval's votes and answers"
        ) from error


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pool:
    """What can be asked: pairs of systems, the last system being the baseline, and the outcome on each prompt."""

    first: Ints
    second: Ints
    outcomes: tuple[Ints, ...]
    """For each pair its outcomes in the order in which they are asked: 0 the first, 1 the second, 2 a tie."""


def make_pool(judged: JudgedVotes, design: str, seed: int) -> Pool:
    """The pairs of a design, their prompts in an order of the seed's own."""
    systems = len(judged.names)
    won = np.vstack([judged.won, np.full(judged.won.shape[1], 0.5)])
    pairs = [pair for pair in combinations(range(systems + 1), 2) if design == "pairs" or pair[1] == systems]
    draw = np.random.default_rng([seed, 1])
    outcomes = []
    for a, b in pairs:
        gap = won[a] - won[b]
        gap = draw.permutation(gap[np.isfinite(gap)])
        outcomes.append(np.where(gap > 0, 0, np.where(gap < 0, 1, 2)))
    first, second = np.array(pairs, dtype=np.intp).T
    return Pool(first=first, second=second, outcomes=tuple(outcomes))


def asked_by(
    judged: JudgedVotes, settings: VotesSettings, seed: int, *, design: str, strategy: str
) -> Numbers:
    """Shares of pairs of systems in the right order, and the mean error of win rates, after each batch."""
    pool = make_pool(judged, design, seed)
    draw = np.random.default_rng([seed, 2])
    taken = np.zeros(len(pool.first), dtype=np.intp)
    votes, right, certain, error = [], [], [], []
    truth = np.append(judged.rates, 0.5)
    known = _certain(judged)
    asked, uniform = settings.votes, settings.votes if strategy == "uniform" else settings.first
    while taken.sum() < asked:
        room = np.array([len(outcome) for outcome in pool.outcomes]) - taken
        count = min(settings.batch, asked - int(taken.sum()), int(room.sum()))
        if not count:
            break
        if taken.sum() < uniform:
            chosen = _uniform(room, count, draw)
        else:
            chosen = CHOOSE[strategy](pool, taken, room, count, fitted(judged, pool, taken), draw)
        taken += np.bincount(chosen, minlength=len(taken))
        strengths = fitted(judged, pool, taken).strengths
        same = np.sign(strengths[:, None] - strengths) == np.sign(truth[:, None] - truth)
        votes.append(int(taken.sum()))
        right.append(float(same[_upper(truth)].mean()))
        certain.append(float(same[known].mean()))
        error.append(float(np.abs(expit(strengths[:-1] - strengths[-1]) - judged.rates).mean()))
    return {"votes": votes, "right": right, "certain": certain, "error": error}


def _upper(truth: Floats) -> NDArray[np.bool_]:
    """Each pair of systems once, those that are equal by all votes left out."""
    return np.triu(truth[:, None] != truth, 1)


def _certain(judged: JudgedVotes) -> NDArray[np.bool_]:
    """Pairs of systems whose order by all votes is beyond chance: the difference on common prompts is 1.96 standard errors or more."""
    won = np.vstack([judged.won, np.full(judged.won.shape[1], 0.5)])
    found = np.zeros((len(won), len(won)), dtype=np.bool_)
    for a, b in combinations(range(len(won)), 2):
        gap = won[a] - won[b]
        gap = gap[np.isfinite(gap)]
        found[a, b] = abs(gap.mean()) > 1.96 * gap.std(ddof=1) / np.sqrt(len(gap))
    return found


def fitted(judged: JudgedVotes, pool: Pool, taken: Ints) -> Fit:
    """Bradley and Terry's model of the votes so far."""
    return fit(pair_likelihood(_votes(judged, pool, taken)))


def _votes(judged: JudgedVotes, pool: Pool, taken: Ints) -> Votes:
    outcome = np.concatenate([outcome[:count] for outcome, count in zip(pool.outcomes, taken, strict=True)])
    return make_votes(
        [*judged.names, BASELINE], np.repeat(pool.first, taken), np.repeat(pool.second, taken), outcome
    )


def _uniform(room: Ints, count: int, draw: np.random.Generator) -> Ints:
    """Any vote that has not been asked, each as likely."""
    return np.repeat(np.arange(len(room)), draw.multivariate_hypergeometric(room, count))


def _information(
    pool: Pool, taken: Ints, room: Ints, count: int, found: Fit, draw: np.random.Generator
) -> Ints:
    """What says most about the ratings together (`label select --strategy information`), a fifth of it uniform as there."""
    uniform = -(-count // 5)
    drawn = _uniform(room, uniform, draw)
    left = np.minimum(
        room - np.bincount(drawn, minlength=len(room)), max(MOST_REPEATS, count // len(room) + 1)
    )
    offered = np.repeat(np.arange(len(room)), left)
    rows = np.zeros((len(offered), len(found.strengths)))
    rows[np.arange(len(offered)), pool.first[offered]] = 1
    rows[np.arange(len(offered)), pool.second[offered]] = -1
    best = most_informative(rows, found.curvature, found.strengths, count - uniform)
    return np.concatenate([drawn, offered[best]])


def _interval(pool: Pool, taken: Ints, room: Ints, count: int, found: Fit, draw: np.random.Generator) -> Ints:
    """Drawn in proportion to how much a vote shortens the interval of the pair's own win rate (Chatbot Arena's rule)."""
    p = expit(found.strengths[pool.first] - found.strengths[pool.second])
    spread, n = np.sqrt(p * (1 - p)), np.maximum(taken, 1)
    worth = spread * (1 / np.sqrt(n) - 1 / np.sqrt(n + 1))
    chosen = []
    for _ in range(count):
        open_pairs = worth * (room > 0)
        at = int(draw.choice(len(room), p=open_pairs / open_pairs.sum()))
        chosen.append(at)
        room = room - (np.arange(len(room)) == at)
    return np.array(chosen, dtype=np.intp)


CHOOSE = {"information": _information, "interval": _interval}


def rate_errors(judged: JudgedVotes, settings: VotesSettings, *, size: int, seed: int) -> Numbers:
    """Mean distance, in points, of rates at equal length from the published ones; `size` 0 fits all systems once."""
    draw = np.random.default_rng([seed, 3])
    everyone = list(range(len(judged.names)))
    groups = [
        draw.choice(everyone, min(size, len(everyone)), replace=False).tolist() for _ in range(settings.draws)
    ]
    found: dict[str, list[float]] = {"raw": [], "alone": [], "together": []}
    for group in groups if size else [everyone]:
        rows = [_rows(judged, at) for at in group]
        published = [PUBLISHED[judged.names[at]] for at in group]
        table = np.concatenate(rows)
        model = np.repeat(np.arange(len(group)), [len(row) for row in rows])
        together = length_controlled_win_rates(model, table[:, 0].astype(np.intp), *table[:, 1:].T)
        found["together"] += [
            100 * one.controlled.value - wanted for one, wanted in zip(together, published, strict=True)
        ]
        found["raw"] += [100 * row[:, 1].mean() - wanted for row, wanted in zip(rows, published, strict=True)]
        if not size:
            alone = [length_controlled_win_rate(*row[:, 1:].T).controlled.value for row in rows]
            found["alone"] = [100 * one - wanted for one, wanted in zip(alone, published, strict=True)]
    numbers: dict[str, Any] = {name: float(np.abs(error).mean()) for name, error in found.items() if error}
    numbers |= {f"{name} largest": float(np.abs(error).max()) for name, error in found.items() if error}
    return (
        numbers
        if size
        else numbers | {f"{name} each": np.abs(error).tolist() for name, error in found.items()}
    )


def _rows(judged: JudgedVotes, at: int) -> Floats:
    """`[prompts, 4]` prompt, preference, length, the baseline's length, of one system's votes."""
    asked = np.flatnonzero(np.isfinite(judged.won[at]))
    columns = (judged.won[at], judged.length[at], judged.baseline_length[at])
    return np.stack([asked.astype(np.float64), *(column[asked] for column in columns)], axis=1)


def votes_until(level: float) -> Any:
    """A measure: after how many votes the share of certain pairs in the right order reaches a level and stays there; NaN where it does not."""

    def measure(numbers: Numbers) -> float:
        below = np.flatnonzero(np.array(numbers["certain"]) < level)
        at = int(below[-1]) + 1 if len(below) else 0
        return float(numbers["votes"][at]) if at < len(numbers["votes"]) else float("nan")

    return measure


def at_votes(name: str, votes: int) -> Any:
    """A measure: 100 times a curve's last value at or before so many votes."""

    def measure(numbers: Numbers) -> float:
        place = int(np.searchsorted(numbers["votes"], votes, side="right")) - 1
        return 100 * float(numbers[name][max(0, place)])

    return measure


def report(settings: VotesSettings, results: StudyResults) -> StudyReport:
    """The curves, how many votes each level takes, and how near the rates at equal length come."""
    asked = [name for name in results.numbers if "," in name]
    half = settings.votes // 4
    rows = [
        (
            name,
            results.mean(name, votes_until(0.9)),
            results.mean(name, votes_until(0.95)),
            results.mean(name, at_votes("certain", half)),
            results.mean(name, at_votes("certain", settings.votes)),
            results.mean(name, at_votes("right", settings.votes)),
            results.mean(name, at_votes("error", settings.votes)) if name.startswith("baseline") else None,
        )
        for name in asked
    ]
    columns = (
        "what is asked, and how chosen",
        "votes until 90 %",
        "votes until 95 %",
        f"certain pairs right at {half}, %",
        f"at {settings.votes}, %",
        f"all pairs right at {settings.votes}, %",
        "error of win rates, points",
    )
    return StudyReport(
        findings=(*_against_uniform(results), _lengths(results)),
        table=StudyTable(columns=columns, rows=tuple(rows)),
        further=(_rate_table(results),),
        figure=StudyFigure(
            drawing=_drawing(settings, results, asked),
            caption="certain pairs of systems in the right order, by votes",
        ),
        remarks=(
            "A pair of systems is certain if all votes together decide its order beyond chance. A level counts as reached if the share does "
            "not fall below it again. Seeds that never reach it are left out of the mean.",
        ),
    )


def _against_uniform(results: StudyResults) -> list[StudyFinding]:
    found = []
    for strategy in STRATEGIES[1:]:
        parts, fewer = [], over_seeds([])
        for design in DESIGNS:
            own, uniform = f"{design}, {strategy}", f"{design}, uniform"
            fewer = results.difference(uniform, own, votes_until(0.95))
            if not fewer.n:
                parts.append(f"{design}: nobody comes to 95 %")
                continue
            parts.append(
                f"{design}: {number(results.mean(own, votes_until(0.95)).value)} votes until 95 %, "
                f"uniform {number(results.mean(uniform, votes_until(0.95)).value)}, that is {with_interval(fewer)} fewer"
            )
        found.append(
            StudyFinding(
                expected=f"between any two systems, `{strategy}` takes fewer votes than uniform pairs (about a third fewer there)",
                source="Chatbot Arena, arXiv:2403.04132",
                found="; ".join(parts),
                holds=sure(fewer, above=0.0) if fewer.n else None,
            )
        )
    return found


def _lengths(results: StudyResults) -> StudyFinding:
    whole = next(iter(results.numbers[TOGETHER].values()))
    raw, together = (mean_interval(whole[f"{name} each"]) for name in ("raw", "together"))
    return StudyFinding(
        expected="at equal length, GPT-4's votes give the leaderboard's length-controlled rates",
        source="Dubois et al. 2024, arXiv:2404.04475",
        found=f"{with_interval(together)} points from them on average over systems; the raw rates are {with_interval(raw)} points away",
        holds=True if together.high < raw.low else None,
    )


def _rate_table(results: StudyResults) -> StudyTable:
    rows: list[tuple[Any, ...]] = []
    whole = next(iter(results.numbers[TOGETHER].values()))
    for name in ("raw", "alone", "together"):
        label = {"raw": "raw", "alone": "one system at a time", "together": "all systems together"}[name]
        rows.append((label, mean_interval(whole[f"{name} each"]), float(whole[f"{name} largest"]), "systems"))
    for cell in results.numbers:
        if cell.startswith("rates of ") and cell != TOGETHER:
            largest = max(results.each(cell, "together largest"))
            rows.append((cell.replace("rates", "groups"), results.mean(cell, "together"), largest, "seeds"))
    return StudyTable(
        columns=("rate at equal length", "error, points", "largest", "interval over"), rows=tuple(rows)
    )


def _drawing(settings: VotesSettings, results: StudyResults, asked: Sequence[str]) -> str:
    """From where the strategies begin to choose."""
    series = []
    for slot, name in enumerate(asked):
        seeds: Mapping[int, Numbers] = results.numbers[name]
        places = min((result["votes"] for result in seeds.values()), key=len)
        kept = [at for at, votes in enumerate(places) if votes >= settings.first]
        found = [over_seeds([100 * result["certain"][at] for result in seeds.values()]) for at in kept]
        series.append(
            Series(
                label=name,
                x=[float(places[at]) for at in kept],
                y=[result.value for result in found],
                low=[result.low for result in found],
                high=[result.high for result in found],
                slot=slot,
            )
        )
    return line_chart(
        series,
        title="Certain pairs of systems in the right order",
        x_label="votes",
        y_label="right, %",
        frame=Frame(height=380),
    )


STUDY = Study(
    title="Ratings from few votes",
    question=(
        "How many votes does it take to rank 25 systems correctly, and does it help to choose which pairs are asked? The data are "
        "AlpacaEval's 14,332 votes of GPT-4. A strategy asks for some of them; the ranking by all of them counts as the truth. `baseline` "
        "compares a system with text_davinci_003, `pairs` compares any two systems through their votes against it. `information` is the "
        "strategy of `label select`, `interval` is Chatbot Arena's."
    ),
    settings=VotesSettings,
    cells=cells,
    work=work,
    report=report,
)
