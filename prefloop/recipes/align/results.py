"""What came of it: every policy against the start on prompts that nothing was trained on, the judge against people, and the verdict in words."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from prefloop.data import load_comparisons
from prefloop.evaluation import Estimate
from prefloop.evaluation.evaluate import (
    PolicyResults,
    Setting,
    TokenBudget,
    evaluate_policies,
    evaluate_reward_model,
)
from prefloop.evaluation.intervals import mean_interval, paired_difference
from prefloop.evaluation.label_noise import ceiling_of_agreement, ceiling_of_soft_labels
from prefloop.evaluation.reward_model_quality import RewardModelQuality, reward_model_quality
from prefloop.evaluation.summary import EvaluatedPolicy, PolicySummary
from prefloop.evaluation.text_statistics import reward_hacking_alarms, text_alarms
from prefloop.evaluation.win_rate import win_rate, win_rate_at_equal_length, win_scores
from prefloop.evaluation.wording import percent, with_interval
from prefloop.recipes.align.decide import Decided
from prefloop.recipes.align.judges import Answers, Judge, open_judge
from prefloop.recipes.align.look import someone
from prefloop.recipes.align.parts import drawn, prompts_of
from prefloop.recipes.align.stages import data_files, online, sampling_of
from prefloop.records import Comparison, Prompt
from prefloop.runtime import World

log = logging.getLogger(__name__)

START = "start"
EVALUATION_SEED = 1_000_003
"""Added to the seed, so that evaluation does not draw with the numbers that training drew with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """A policy against the start."""

    name: str
    wins: Estimate
    """Share of answers that the judge prefers to the start's answer to the same prompt, ties as a half."""
    at_equal_length: Estimate | None
    """None where lengths cannot be told from the rest."""
    longer: float
    """Mean length over that of the start, less 1."""
    unjudged: int
    """Pairs of answers on which the judge gave no answer."""
    prompts: int
    """That were answered."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Results:
    """Everything that was measured."""

    prompts: tuple[Prompt, ...]
    policies: PolicyResults
    outcomes: tuple[Outcome, ...]
    judge: RewardModelQuality
    """On comparisons that neither it nor a policy has seen."""
    reward_model: RewardModelQuality | None
    """The policies' own, on the same ones."""
    called: str
    """The judge, in sentences."""
    author: str
    """Whose comparisons they are; empty if the file does not say."""
    verdict: str
    alarms: tuple[str, ...]


def measure(decided: Decided, start: str, project: Path, world: World) -> Results:
    """Every policy's answers, the judge's word on them, and how far the judge can be trusted. Collective: all processes call it."""
    config, compute = decided.config, decided.choice.compute
    comparisons = load_comparisons(data_files(project)["measure"]).records
    prompts = _asked(comparisons, decided)
    folders = {START: start, **{name: str(project / name / "final") for name in config.method}}
    setting = Setting(
        sampling=sampling_of(decided.seen),
        completions_per_prompt=decided.sizes.answers,
        seed=config.seed + EVALUATION_SEED,
        max_prompt_tokens=decided.seen.lengths.max_prompt,
        compute=compute,
        world=world,
    )
    own = str(project / "reward" / "final") if online(config) else ""
    policies = evaluate_policies(folders, prompts, setting, gold=None, reward_model=own)
    judge = open_judge(config.judge, project, compute, world)
    log.info(
        "judging %d answers, and %d comparisons to measure the judge",
        len(folders) * len(prompts) * decided.sizes.answers,
        len(comparisons),
    )
    quality = _quality(config.judge, judge, comparisons, decided, project, world)
    proxy = _model_quality(own, comparisons, decided, world) if own else None
    scored, outcomes, alarms = _against_start(judge, prompts, policies)
    author = someone(comparisons)
    return Results(
        prompts=prompts,
        policies=replace(policies, policies=scored),
        outcomes=outcomes,
        judge=quality,
        reward_model=proxy,
        called=judge.called,
        author=author,
        verdict=verdict(outcomes, quality, judge.called, author),
        alarms=(*judge_alarms(quality, judge.called), *alarms),
    )


def _asked(comparisons: Sequence[Comparison], decided: Decided) -> tuple[Prompt, ...]:
    """The prompts that are answered: of those that measure, a random choice by the seed."""
    all_of_them = prompts_of(comparisons)
    chosen = drawn(all_of_them, decided.sizes.prompts, seed=decided.config.seed, name="prompts")
    return tuple(chosen)


def _quality(
    name: str, judge: Judge, comparisons: Sequence[Comparison], decided: Decided, project: Path, world: World
) -> RewardModelQuality:
    """The judge on comparisons that it has not seen."""
    if name == "reward":
        return _model_quality(str(project / "judge" / "final"), comparisons, decided, world)
    prompts = [one.prompt.in_context(one.context) for one in comparisons]
    ended = [True] * len(comparisons)
    chosen = Answers(texts=[one.chosen for one in comparisons], ended=ended)
    rejected = Answers(texts=[one.rejected for one in comparisons], ended=ended)
    odds = judge.compare(prompts, chosen, rejected)
    known = np.isfinite(odds)
    kept = [one for one, is_known in zip(comparisons, known, strict=True) if is_known]
    return reward_model_quality(
        odds[known],
        np.zeros(int(known.sum())),
        [len(one.chosen) for one in kept],
        [len(one.rejected) for one in kept],
        clusters=[one.prompt.sha256 for one in kept],
        ceiling=ceiling_of_soft_labels(kept),
        label_ceiling=ceiling_of_agreement(kept),
    )


def _model_quality(
    folder: str, comparisons: Sequence[Comparison], decided: Decided, world: World
) -> RewardModelQuality:
    lengths = decided.seen.lengths
    return evaluate_reward_model(
        folder,
        comparisons,
        budget=TokenBudget(prompt=lengths.max_prompt, completion=lengths.max_completion),
        compute=decided.choice.compute,
        world=world,
    )


def _answers(policy: EvaluatedPolicy) -> Answers:
    """All of them, prompt after prompt."""
    answers = [one for group in policy.completions for one in group]
    return Answers(texts=[one.text for one in answers], ended=[one.ended for one in answers])


def _against_start(
    judge: Judge, prompts: Sequence[Prompt], results: PolicyResults
) -> tuple[tuple[PolicySummary, ...], tuple[Outcome, ...], list[str]]:
    """The table's rows with the judge's numbers, each policy's outcome, and alarms.

    The n-th answer to a prompt is compared with the n-th of the start; answers to one prompt are kept together in intervals.
    """
    first, *others = results.evaluated
    before = _answers(first)
    places = np.repeat(np.arange(len(prompts)), [len(group) for group in first.completions])
    asked = [prompts[int(place)] for place in places]
    base = judge.scores(asked, before)
    rows = [replace(results.policies[0], gold=None if base is None else mean_interval(base, clusters=places))]
    outcomes: list[Outcome] = []
    alarms: list[str] = []
    for policy, row in zip(others, results.policies[1:], strict=True):
        after = _answers(policy)
        scores = judge.scores(asked, after)
        odds = judge.compare(asked, after, before) if base is None or scores is None else scores - base
        known = np.isfinite(odds)
        even, clusters = np.zeros(int(known.sum())), places[known]
        wins = win_rate(odds[known], even, clusters=clusters)
        lengths = [_tokens(run)[known] for run in (policy, first)]
        outcomes.append(
            Outcome(
                name=policy.name,
                wins=wins,
                at_equal_length=win_rate_at_equal_length(
                    win_scores(odds[known], even), *lengths, clusters=clusters
                ),
                longer=policy.text.length.value / first.text.length.value - 1,
                unjudged=int((~known).sum()),
                prompts=len(prompts),
            )
        )
        rows.append(
            replace(
                row,
                gold=None if scores is None else mean_interval(scores, clusters=places),
                win_rate_vs_sft=wins,
            )
        )
        judged = None if base is None or scores is None else (scores, base)
        alarms += _alarms(policy, first, judged, clusters=places)
    return tuple(rows), tuple(outcomes), alarms


def _tokens(policy: EvaluatedPolicy) -> np.ndarray:
    return np.array([one.tokens for group in policy.completions for one in group])


def _alarms(
    policy: EvaluatedPolicy,
    first: EvaluatedPolicy,
    judged: tuple[np.ndarray, np.ndarray] | None,
    *,
    clusters: np.ndarray,
) -> list[str]:
    """What went off for one policy."""
    proxies = [
        [one.proxy for some in run.completions for one in some if one.proxy is not None]
        for run in (policy, first)
    ]
    found = text_alarms(policy.name, before=first.text, after=policy.text)
    if judged is not None and all(proxies):
        gains = {
            "proxy_gain": paired_difference(*proxies, clusters=clusters),
            "gold_gain": paired_difference(*judged, clusters=clusters),
        }
        hacking = reward_hacking_alarms(policy.name, **gains, start="the start", judged="judge's score")
        found = [*hacking, *found]
    return found


def judge_alarms(quality: RewardModelQuality, called: str) -> list[str]:
    """Warns if the judge's verdict is worth little."""
    accuracy, longer = quality.accuracy, quality.length.longer_is_chosen
    if not accuracy.low > 0.5:
        return [
            f"The verdict is by {called}, which is right on {with_interval(accuracy, share=True)} of {accuracy.n} comparisons that it has not seen; this "
            "does not show that it is better than chance, so neither is the verdict. Give more comparisons, or an AI judge (`--judge judge.yaml`)."
        ]
    if accuracy.value <= longer.value:
        return [
            f"The verdict is by {called}, which is right on {with_interval(accuracy, share=True)} of comparisons that it has not seen; choosing the longer "
            f"answer is right on {with_interval(longer, share=True)}. It may know little but length: use the rate at equal length, more "
            "comparisons, or an AI judge (`--judge judge.yaml`)."
        ]
    return []


def verdict(outcomes: Sequence[Outcome], judge: RewardModelQuality, called: str, author: str) -> str:
    """The best policy against the start, in a sentence or two."""
    best = max(outcomes, key=lambda side: side.wins.value)
    wins, accuracy = best.wins, judge.accuracy
    length = "Its answers are as long"
    if abs(best.longer) >= 0.005:
        length = f"Its answers are {percent(abs(best.longer))} {'longer' if best.longer > 0 else 'shorter'}"
    equal = (
        f"; at equal length {with_interval(best.at_equal_length, share=True)}"
        if best.at_equal_length is not None
        else ""
    )
    return (
        f"{_begin(best, judge)}. It is preferred on {with_interval(wins, share=True)} of {_counted(best)} by {called}. {length}{equal}. The judge agrees with "
        f"{author or 'the labels'} on {with_interval(accuracy, share=True)} of {accuracy.n} comparisons that it has not seen."
    )


def _begin(best: Outcome, judge: RewardModelQuality) -> str:
    """What is shown. A judge that may know little but length shows a difference only if there is one at equal length too."""
    if not judge.accuracy.low > 0.5:
        return f"Nothing is shown about {best.name}, since its judge is not shown to be better than chance"
    side = _side(best.wins)
    if not side:
        return f"No difference is shown between {best.name} and the model it started from"
    equal = _side(best.at_equal_length) if best.at_equal_length is not None else ""
    if equal != side and judge.accuracy.value <= judge.length.longer_is_chosen.value:
        grew = "longer" if best.longer > 0 else "shorter"
        return f"{best.name} is not shown to be {side}, as its answers are {grew} and the judge may know little but length"
    return f"{best.name} made the model {side}"


def _side(rate: Estimate) -> str:
    """On which side of one half a whole interval lies; empty if it holds one half."""
    return "better" if rate.low > 0.5 else "worse" if rate.high < 0.5 else ""


def _counted(outcome: Outcome) -> str:
    """What a win rate is a share of."""
    prompts, answers = f"{outcome.prompts} held-out prompts", outcome.wins.n + outcome.unjudged
    return prompts if answers == outcome.prompts else f"{answers} answers to {prompts}"


def to_json(results: Results, took: Mapping[str, float], decided: Decided) -> dict[str, object]:
    """`align.json`: the verdict in numbers, and what was estimated beside what it took."""
    return {
        "verdict": results.verdict,
        "judge": results.called,
        "labels_by": results.author,
        "policies": results.outcomes,
        "judge_quality": results.judge,
        "reward_model_quality": results.reward_model,
        "stages": [
            {
                "stage": estimate.stage,
                "estimated_seconds": estimate.cost.seconds,
                "seconds": took.get(estimate.stage),
                "estimated_mib": estimate.cost.mib,
            }
            for estimate in decided.estimates
        ],
    }
