"""AI judges beside the people, and the GPT-4, whose choices are published: how often they agree, and what order and length do to them.

A small chat model is asked which of two answers is better, in both orders, by the code of `label judge`. It is made to answer 1 or 2, whatever the
probability of a digit: a model that is too small to follow the instruction still prefers one of them. Beside it are judges that score each answer by
itself, and so know no order: the same model's likelihood of the answers, their length, and a reward model trained on other comparisons.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from prefloop.configs.common import Compute
from prefloop.data import load_comparisons, write_jsonl
from prefloop.errors import InputError
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.json_files import read_json, write_json
from prefloop.evaluation.plots import PlotRow, interval_chart
from prefloop.evaluation.wording import with_interval
from prefloop.feedback.agreement import MISSING, cohen_kappa
from prefloop.feedback.judges.judge import JudgeSettings, PairJudge, Verdict
from prefloop.feedback.judges.model import AnswersByProbability, Reply
from prefloop.feedback.judges.verdicts import LEAST_MASS
from prefloop.loop.local_judge import LocalChat
from prefloop.records import Comparison, Message
from prefloop.studies import reward_training as training
from prefloop.studies.reward_training import FILES, Floats, RewardFit
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
from prefloop.text import encode_prompt, load_tokenizer

PROMPTED, LIKELIHOOD, PER_TOKEN, LENGTH, REWARD = (
    "prompted",
    "likelihood",
    "likelihood of a token",
    "the longer one",
    "reward model",
)
JUDGES = (PROMPTED, LIKELIHOOD, PER_TOKEN, LENGTH, REWARD)
GPT4, PEOPLE = FILES
"""AlpacaEval's votes are GPT-4's, the harmless comparisons are people's."""
SAID_BY = {GPT4: "GPT-4", PEOPLE: "people"}
DIGITS = ("1", "2")


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgesSettings(StudySettings):
    """Settings of the study `judges`."""

    seeds: int = 5
    comparisons: int = 50
    """Of each data set and seed; no two of a set have the same prompt."""
    tokens: int = 96
    """Comparisons are used whose completions have fewer,"""
    prompt_tokens: int = 128
    """and whose prompt, as a chat, has fewer."""
    reward_comparisons: int = 400
    """What the reward model learns from, of the same set and of other prompts; 0 is all."""
    reward_layers: int = 4
    """First layers of the given model that it starts from; 0 is the whole model."""
    lr: float = 5e-4
    """Of its adapter."""
    batch: int = 16
    dtype: Literal["float32", "bfloat16"] = "bfloat16"


def cells(settings: JudgesSettings) -> list[StudyCell]:
    """Each judge of each set."""
    return [
        StudyCell(name=name_of(data, judge), given={"data": data, "judge": judge})
        for data in FILES
        for judge in JUDGES
    ]


def name_of(data: str, judge: str) -> str:
    """A cell's name."""
    return f"{data}, {judge}"


def prepare(settings: JudgesSettings, place: Place) -> None:
    """What is judged, what the reward model learns from, and how many comparisons were left out."""
    tokenizer = load_tokenizer(place.model)
    for name in FILES:
        short, count = training.read_short(place.data, name, place.model, tokens=settings.tokens)
        fits = [len(encode_prompt(tokenizer, one.prompt)) < settings.prompt_tokens for one in short]
        used = [one for one, fit in zip(short, fits, strict=True) if fit]
        judged, rest = drawn(used, settings.comparisons, place.seed)
        write_jsonl(judged, place.prepared / f"{name}-judged.jsonl")
        write_jsonl(rest[: settings.reward_comparisons or None], place.prepared / f"{name}-train.jsonl")
        prompts = len({one.prompt for one in used})
        write_json(place.prepared / f"{name}.json", {"count": count, "short": len(used), "prompts": prompts})


def drawn(records: Sequence[Comparison], count: int, seed: int) -> tuple[list[Comparison], list[Comparison]]:
    """A seed's comparisons, of prompts that no other seed has, and all comparisons of other prompts than these. Raises `InputError` for too few prompts."""
    shuffled = [records[place] for place in np.random.default_rng(0).permutation(len(records))]
    singles = list({one.prompt: one for one in shuffled}.values())
    own = singles[seed * count : (seed + 1) * count]
    if len(own) < count:
        raise InputError(
            f"comparisons is {count}, but there are {len(singles)} prompts with texts that are short enough, which is too few for {seed + 1} seeds; give fewer of "
            "either, or more tokens"
        )
    taken = {one.prompt for one in own}
    return own, [one for one in shuffled if one.prompt not in taken]


@dataclass(frozen=True, kw_only=True, slots=True)
class Opinion:
    """Probability that a judge says the chosen completion is better."""

    first: float
    """Where it is shown first."""
    second: float

    @property
    def both(self) -> float:
        """Both orders averaged."""
        return (self.first + self.second) / 2


class Forced:
    """A `ChatModel` that must answer 1 or 2: their probabilities, divided by their sum."""

    def __init__(self, model: AnswersByProbability) -> None:
        self._model = model
        self.masses: list[float] = []
        """Of each question, the probability that the model would have answered with either by itself."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """The model's."""
        return {**self._model.identity, "forced": list(DIGITS)}

    def complete(self, messages: Sequence[Message], *, max_tokens: int) -> Reply:
        """One of the digits."""
        ((one, two),) = self._model.probabilities([messages], DIGITS)
        self.masses.append(one + two)
        least = np.finfo(float).tiny
        digits = {
            digit: math.log(max(mass, least) / max(one + two, least))
            for digit, mass in zip(DIGITS, (one, two), strict=True)
        }
        return Reply(
            text=max(digits, key=lambda digit: digits[digit]),
            first_token=digits,
            prompt_tokens=0,
            completion_tokens=1,
        )


def opinion_of(verdict: Verdict) -> Opinion:
    """What a verdict on (chosen, rejected) says of each order, for it holds their mean, and the mean probability of the one shown first."""
    apart = verdict.first_shown - 0.5
    return Opinion(first=verdict.probability + apart, second=verdict.probability - apart)


def work(settings: JudgesSettings, cell: StudyCell, place: Place) -> Numbers:
    """What a judge's opinions of a seed's comparisons come to."""
    data, judge = cell.given["data"], cell.given["judge"]
    judged = load_comparisons(place.prepared / f"{data}-judged.jsonl").records
    lengths = token_lengths(place.model, judged)
    numbers: dict[str, Any] = dict(read_json(place.prepared / f"{data}.json"))
    if judge != PROMPTED:
        opinions = by_scores(_scores(settings, data, judge, place, judged, lengths))
        return {**numbers, **measured(opinions, lengths)}
    model = Forced(LocalChat(place.model, Compute(device="auto", dtype=settings.dtype)))
    pairs = PairJudge(model, JudgeSettings(mode="logprobs"))
    opinions = [opinion_of(pairs.compare(one.prompt, one.chosen, one.rejected)) for one in judged]
    masses = np.array(model.masses)
    numbers["digit"] = 100 * float(masses.mean())
    numbers["unreadable"] = 100 * float((masses < LEAST_MASS).mean())
    return {**numbers, **measured(opinions, lengths)}


def token_lengths(model: str, records: Sequence[Comparison]) -> Floats:
    """`[comparisons, 2]` tokens of the chosen and the rejected completions."""
    sides = [side for one in records for side in (one.chosen, one.rejected)]
    ids = load_tokenizer(model)(sides, add_special_tokens=False)["input_ids"]
    return np.array([len(one) for one in ids], dtype=float).reshape(-1, 2)


def _scores(
    settings: JudgesSettings,
    data: str,
    judge: str,
    place: Place,
    judged: Sequence[Comparison],
    lengths: Floats,
) -> Floats:
    """`[comparisons, 2]` what a judge thinks of each completion by itself."""
    if judge == LENGTH:
        return lengths
    fit = RewardFit(
        seed=place.seed,
        folder=place.folder,
        tokens=max(settings.tokens, settings.prompt_tokens),
        lr=settings.lr,
        whole_lr=settings.lr,
        policy_lr=settings.lr,
        batch=settings.batch,
        compute=Compute(device="auto", dtype=settings.dtype),
    )
    if judge == REWARD:
        others = load_comparisons(place.prepared / f"{data}-train.jsonl").records
        start = training.cut(place.model, settings.reward_layers, place.folder / "start")
        return training.scores_of(fit, training.fit_reward(fit, start, others, "reward"), judged)[0]
    mean, counted = training.scores_of(fit, place.model, judged, start=place.model)
    return mean if judge == PER_TOKEN else mean * counted


def by_scores(scores: Floats) -> list[Opinion]:
    """Of a judge that scores each completion by itself: sure, and the same in both orders; one half for equal scores."""
    sides = (1 + np.sign(scores[:, 0] - scores[:, 1])) / 2
    return [Opinion(first=float(side), second=float(side)) for side in sides]


def measured(opinions: Sequence[Opinion], lengths: Floats) -> dict[str, float]:
    """Agreement with the given choices and bias, in %, with one order (the mean of either) and with both averaged; and Cohen's kappa.

    Kappa is of the choice between the longer and the shorter completion, so that a shared preference for length is no agreement. An opinion of exactly one
    half counts a half; kappa leaves it out, as it does completions of equal length.
    """
    first, second, both = (
        np.array([(1 + np.sign(getattr(one, order) - 0.5)) / 2 for one in opinions])
        for order in ("first", "second", "both")
    )
    differ = lengths[:, 0] != lengths[:, 1]
    chosen_longer = lengths[:, 0] > lengths[:, 1]

    def longer(right: Floats) -> Floats:
        """Whether the longer one is said to be better, where lengths differ."""
        return np.where(chosen_longer, right, 1 - right)[differ]

    def kappa(*sides: Floats) -> float:
        said = np.concatenate([longer(side) for side in sides])
        known = np.where(said == 0.5, MISSING, said).astype(np.intp)
        given = np.tile(chosen_longer[differ].astype(np.intp), len(sides))
        return cohen_kappa(known, given, 2)

    def percent(values: Floats) -> float:
        return 100 * float(values.mean()) if len(values) else math.nan

    return {
        "agreement, one order": percent((first + second) / 2),
        "agreement, both orders": percent(both),
        "kappa, one order": kappa(first, second),
        "kappa, both orders": kappa(both),
        "changed": percent((first != second).astype(float)),
        "first chosen": percent((first + 1 - second) / 2),
        "longer, one order": percent(longer((first + second) / 2)),
        "longer, both orders": percent(longer(both)),
        "longer, given": percent(chosen_longer[differ].astype(float)),
    }


def report(settings: JudgesSettings, results: StudyResults) -> StudyReport:
    """Agreement; bias; and what was left out."""
    cell_rows = [(data, judge, name_of(data, judge)) for data in FILES for judge in JUDGES]

    def table(*measures: str, columns: Sequence[str]) -> StudyTable:
        rows = tuple(
            (data, judge, *(results.mean(name, measure) for measure in measures))
            for data, judge, name in cell_rows
        )
        return StudyTable(columns=("comparisons", "judge", *columns), rows=rows)

    kinds = ("one order", "both orders")
    read = tuple(
        (
            data,
            *(int(results.each(name_of(data, PROMPTED), what)[0]) for what in ("count", "short", "prompts")),
            settings.seeds * settings.comparisons,
            *(results.mean(name_of(data, PROMPTED), what) for what in ("digit", "unreadable")),
        )
        for data in FILES
    )
    drawing = interval_chart(
        [
            PlotRow(
                label=f"{name_of(data, judge)}, {kind}" if judge == PROMPTED else name_of(data, judge),
                estimate=results.mean(name_of(data, judge), f"agreement, {kind}"),
                slot=1 + list(FILES).index(data),
            )
            for data, judge, _ in cell_rows
            for kind in (kinds if judge == PROMPTED else kinds[1:])
        ],
        title="Agreement with the given choices, %",
        x_label="agreement, %",
    )
    return StudyReport(
        findings=tuple(_findings(results)),
        table=table(
            *(f"{what}, {kind}" for what in ("agreement", "kappa") for kind in kinds),
            columns=(
                "agreement, one order, %",
                "both orders, %",
                "kappa of longer or shorter, one order",
                "both orders",
            ),
        ),
        further=(
            table(
                "changed",
                "first chosen",
                "longer, one order",
                "longer, both orders",
                "longer, given",
                columns=(
                    "changes with the order, %",
                    "chooses the first shown, %",
                    "chooses the longer, one order, %",
                    "both orders, %",
                    "people or GPT-4 chose the longer, %",
                ),
            ),
            StudyTable(
                columns=(
                    "comparisons",
                    "in the file",
                    "of these short enough",
                    "their prompts",
                    "judged, all seeds",
                    "probability of a digit, prompted, %",
                    "unreadable for `label judge`, %",
                ),
                rows=read,
            ),
        ),
        figure=StudyFigure(drawing=drawing, caption="agreement with the given choices"),
        remarks=(
            f"A seed judges {settings.comparisons} comparisons of each set that no other seed has, one of a prompt. Comparisons are short enough if both "
            f"completions have fewer than {settings.tokens} tokens and the prompt fewer than {settings.prompt_tokens}; all others are left out, so nothing is said of long "
            "answers. `prompted` is asked in both orders by the code of `label judge`, and made to answer 1 or 2: P(first) = p(1) / (p(1) + p(2)) however "
            f"small both are. `label judge` itself calls a reply unreadable where both together have less than {LEAST_MASS:g}. With one order, figures are means of the two "
            "orders asked alone; with both, the averaged probability decides. The other judges score each answer by itself, so order cannot change "
            "what they say.",
            "Kappa is of choosing the longer or the shorter answer. It is 0 for a judge that always takes the longer one, however often that agrees. "
            f"The reward model is {_start_said(settings)}, trained on {settings.reward_comparisons or 'all'} comparisons of the same set and of other prompts.",
        ),
    )


def _start_said(settings: JudgesSettings) -> str:
    """What the reward model starts from, in words."""
    return (
        f"the first {settings.reward_layers} layers of the model" if settings.reward_layers else "the model"
    )


def _findings(results: StudyResults) -> list[StudyFinding]:
    """What was published of such judges."""
    prompted = {data: name_of(data, PROMPTED) for data in FILES}
    both, one = "agreement, both orders", "agreement, one order"
    zheng = "Zheng et al., arXiv:2306.05685"

    def less(measure: str, other: str, constant: float = 0.0) -> dict[str, Estimate]:
        """Of the prompted model, one measure less another, or less a number."""
        return {
            said: results.mean(
                prompted[data],
                lambda numbers: numbers[measure] - (numbers[other] if other else constant),
            )
            for data, said in SAID_BY.items()
        }

    def judge_less(judge: str, other: str) -> dict[str, Estimate]:
        return {
            said: results.difference(name_of(data, judge), name_of(data, other), both)
            for data, said in SAID_BY.items()
        }

    longer = results.mean(prompted[GPT4], lambda numbers: numbers["longer, given"] - 50)
    claims = (
        (
            "a language model that is asked agrees beyond chance",
            "RLAIF, arXiv:2309.00267",
            "agreement with both orders less 50",
            less(both, "", 50.0),
        ),
        (
            "it prefers the answer that is shown first",
            zheng,
            "first chosen less 50",
            less("first chosen", "", 50.0),
        ),
        (
            "averaging both orders agrees more than one order",
            f"{zheng}; Wang et al., arXiv:2305.17926",
            "both less one",
            less(both, one),
        ),
        (
            "it chooses the longer answer more often than people do",
            "Saito et al., arXiv:2310.10076",
            "both orders less the share given",
            less("longer, both orders", "longer, given"),
        ),
        (
            "GPT-4 prefers the longer answer",
            "Dubois et al. 2024, arXiv:2404.04475",
            "longer chosen less 50",
            {"GPT-4": longer},
        ),
        (
            "a trained reward model agrees more than a model that is asked",
            "RewardBench, arXiv:2403.13787",
            "reward model less prompted",
            judge_less(REWARD, PROMPTED),
        ),
        (
            "length alone agrees more than a small model that is asked",
            "Singhal et al., arXiv:2310.03716",
            "the longer one less prompted",
            judge_less(LENGTH, PROMPTED),
        ),
    )
    return [
        StudyFinding(
            expected=expected,
            source=source,
            found=f"{said}, in points: {', '.join(f'{with_interval(value)} ({name})' for name, value in found.items())}",
            holds=all_sure(_above_zero(value) for value in found.values()),
        )
        for expected, source, said, found in claims
    ]


def _above_zero(value: Estimate) -> bool | None:
    """Also sure where no seed differs from another, as of a judge that always takes the first."""
    return value.value > 0 if value.no_spread and value.value else sure(value, above=0.0)


STUDY = Study(
    title="AI judges beside people: agreement, order and length",
    question=(
        "How often does a small language model agree with people, and with GPT-4, on which of two answers is better? How much do the order in which answers "
        "are shown and their length decide, and what does it help to ask in both orders? AlpacaEval's votes are GPT-4's on helpfulness, Anthropic's harmless "
        "comparisons are people's."
    ),
    settings=JudgesSettings,
    cells=cells,
    work=work,
    report=report,
    prepare=prepare,
)
