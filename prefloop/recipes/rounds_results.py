"""What came of rounds: every round's policy measured on the same held-out prompts, side by side and in an arena, and how far reward models overstate it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from prefloop.configs.recipes import RoundsConfig
from prefloop.data.store import Filters, Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.evaluation import (
    Evaluation,
    RewardModelSummary,
    Summary,
    write_evaluation,
    write_report,
    write_summary,
)
from prefloop.evaluation.arena import leaderboard_table
from prefloop.evaluation.evaluate import (
    PolicyResults,
    Setting,
    TokenBudget,
    evaluate_policies,
    evaluate_reward_model,
)
from prefloop.evaluation.intervals import Estimate, mean_interval
from prefloop.evaluation.json_files import write_json
from prefloop.evaluation.over_training import series_alarms
from prefloop.evaluation.reward_model_quality import RewardModelQuality
from prefloop.evaluation.tables import policy_table
from prefloop.evaluation.win_rate import win_rate
from prefloop.evaluation.wording import with_interval
from prefloop.feedback.judged import read_judged, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard
from prefloop.models.load import load_reward_model
from prefloop.recipes.clock import Clock
from prefloop.recipes.plan import Plan
from prefloop.recipes.rounds_feedback import RoundFeedback, judge_arena
from prefloop.records import Prompt
from prefloop.rollout.scoring import score_groups
from prefloop.runtime import World
from prefloop.runtime.environment import environment
from prefloop.text import completions_group, load_tokenizer

EVALUATION_SEED = 1_000_003
"""Added to the seed, so that evaluation does not draw with the numbers that training drew with."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundRow:
    """A row of the table. What was not measured is None."""

    number: int
    labels: int
    """Comparisons of the round."""
    accuracy: Estimate | None
    """Of the round's reward model on the round's held-out comparisons."""
    kl: Estimate
    """To the policy of round 0, nats a completion."""
    gold: Estimate | None
    wins_first: Estimate | None
    """Against round 0, by the gold utility."""
    wins_previous: Estimate | None
    """Against the round before, by the gold utility."""
    proxy_gain: Estimate | None
    """What the round's own reward model says it gained on the round before, in standard deviations of its scores of round 0's completions."""
    gold_gain: Estimate | None
    """What it gained, in standard deviations of the gold utility of round 0's completions."""
    gap: Estimate | None
    """The first less the second, prompt by prompt: above 0 the reward model has been exploited."""
    rating: Estimate | None
    """In the arena, by Bradley-Terry; round 0 is at 1000."""
    length: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundResults:
    """Everything that was measured."""

    prompts: tuple[Prompt, ...]
    policies: PolicyResults
    rounds: tuple[RoundRow, ...]
    quality: RewardModelQuality | None
    """Of the last reward model."""
    arena: tuple[Leaderboard, ...]
    """None if nobody compared the rounds' policies."""


def evaluate(
    config: RoundsConfig,
    plan: Plan,
    policies: Mapping[str, str],
    reward_models: Sequence[str],
    feedback: RoundFeedback,
    *,
    gold: Callable[[Prompt, str], float] | None,
    world: World,
) -> RoundResults:
    """Measure every round's policy. All processes call it together; only the first one's result is complete."""
    heldout = plan.reward.data.heldout
    with Store.open(plan.sample.store) as store:
        prompts = tuple(store.prompts(part="heldout", heldout=heldout)[: config.eval_prompts])
    if not prompts:
        raise InputError("no prompt is held out, so there is nothing to measure on; give more prompts")
    sampling = plan.evaluation
    setting = Setting(
        sampling=replace(sampling, max_new_tokens=min(sampling.max_new_tokens, config.completion_tokens)),
        completions_per_prompt=1,
        seed=config.seed + EVALUATION_SEED,
        max_prompt_tokens=plan.sample.data.max_prompt_tokens,
        compute=config.compute,
        world=world,
    )
    measured = evaluate_policies(
        policies,
        prompts,
        setting,
        gold=gold,
        reward_model=reward_models[-1],
    )
    past = world.on_main(lambda: series_alarms(measured.evaluated, {"the rounds": list(policies)}))
    measured = replace(measured, alarms=(*measured.alarms, *past))
    scores = [
        _scores(name, measured, prompts, setting, places=(0, number - 1, number))
        for number, name in enumerate(reward_models, 1)
    ]
    qualities = [
        _quality(plan, feedback, number, name, setting, gold) for number, name in enumerate(reward_models, 1)
    ]
    boards = world.on_main(lambda: _arena(config, plan, policies, feedback))
    rounds = world.on_main(lambda: _rounds(plan, policies, measured, scores, qualities, boards, feedback))
    return RoundResults(
        prompts=prompts, policies=measured, rounds=rounds, quality=qualities[-1], arena=boards
    )


def _scores(
    reward_model: str,
    measured: PolicyResults,
    prompts: Sequence[Prompt],
    setting: Setting,
    *,
    places: Sequence[int],
) -> dict[int, np.ndarray]:
    """A reward model's scores of some rounds' completions, by round."""
    tokenizer = load_tokenizer(reward_model, trust_remote_code=setting.compute.trust_remote_code)
    model = load_reward_model(reward_model, setting.compute)
    found: dict[int, np.ndarray] = {}
    for place in sorted(set(places)):
        groups = [
            completions_group(tokenizer, prompt, [one.text], ended=[one.ended], origin="drawn")
            for prompt, (one,) in zip(prompts, measured.evaluated[place].completions, strict=True)
        ]
        tokens = setting.compute.micro_batch_tokens
        found[place] = score_groups(model, groups, tokens=tokens, world=setting.world).double().numpy()
    return found


def _quality(
    plan: Plan,
    feedback: RoundFeedback,
    number: int,
    reward_model: str,
    setting: Setting,
    gold: Callable[[Prompt, str], float] | None,
) -> RewardModelQuality | None:
    """A round's reward model on that round's held-out comparisons; None if there are none."""
    heldout = plan.reward.data.heldout
    whose = replace(feedback.filters, rounds=(number,), part="heldout", heldout=heldout)
    with Store.open(plan.sample.store) as store:
        judged = store.comparisons(whose).records
    if not judged:
        return None
    return evaluate_reward_model(
        reward_model,
        judged,
        budget=TokenBudget.of(plan.reward.data),
        compute=setting.compute,
        world=setting.world,
        gold=gold,
    )


def _arena(
    config: RoundsConfig, plan: Plan, policies: Mapping[str, str], feedback: RoundFeedback
) -> tuple[Leaderboard, ...]:
    """Ratings of the rounds' policies, from comparisons of their stored samples that are made now, in a round after the last."""
    if not feedback.arena:
        return ()
    (who,) = feedback.arena
    number, heldout = config.rounds + 1, plan.reward.data.heldout
    with Store.open(plan.sample.store) as store:
        judge_arena(
            store,
            who,
            list(policies.values()),
            round=number,
            heldout=heldout,
            prompts=config.eval_prompts,
        )
        judged = read_judged(store, Filters(rounds=(number,)))
    votes = votes_of(judged).votes
    if not len(votes):
        return ()
    with Store.open(plan.sample.store) as store:
        first = store.completions([store.find_checkpoint(next(iter(policies.values())))])[0].policy
    return (leaderboard(votes, anchor=first if first in votes.names else ""),)


def _rounds(
    plan: Plan,
    policies: Mapping[str, str],
    measured: PolicyResults,
    scores: Sequence[Mapping[int, np.ndarray]],
    qualities: Sequence[RewardModelQuality | None],
    boards: Sequence[Leaderboard],
    feedback: RoundFeedback,
) -> tuple[RoundRow, ...]:
    """The table."""
    gold = [_gold(measured, place) for place in range(len(policies))]
    ratings = _ratings(plan, policies, boards)
    rows: list[RoundRow] = []
    with Store.open(plan.sample.store) as store:
        for number, summary in enumerate(measured.policies):
            later, known = number > 0, len(gold[number]) > 0
            labels = (
                len(store.comparisons(replace(feedback.filters, rounds=(number,))).records) if later else 0
            )
            quality = qualities[number - 1] if later else None
            proxy = _gain(scores[number - 1], number) if later else None
            truth = _gain(dict(enumerate(gold)), number) if later and known else None
            rows.append(
                RoundRow(
                    number=number,
                    labels=labels,
                    accuracy=quality.accuracy if quality else None,
                    kl=summary.kl,
                    gold=summary.gold,
                    wins_first=win_rate(gold[number], gold[0]) if later and known else None,
                    wins_previous=win_rate(gold[number], gold[number - 1]) if later and known else None,
                    proxy_gain=None if proxy is None else mean_interval(proxy),
                    gold_gain=None if truth is None else mean_interval(truth),
                    gap=None if proxy is None or truth is None else mean_interval(proxy - truth),
                    rating=ratings.get(summary.name),
                    length=summary.length,
                )
            )
    return tuple(rows)


def _gold(measured: PolicyResults, place: int) -> np.ndarray:
    values = [one.gold for (one,) in measured.evaluated[place].completions]
    return np.array([value for value in values if value is not None])


def _gain(by_round: Mapping[int, np.ndarray], number: int) -> np.ndarray:
    """What a round's completions score above those of the round before, in standard deviations of round 0's.

    One number a prompt, whose mean is the gain. Their spread holds also what each prompt tells of that deviation (delta
    method): taken as known, intervals of a gain of two deviations hold it in 62 % of runs, at any number of prompts.
    """
    first = by_round[0]
    deviation = float(first.std())
    raised = by_round[number] - by_round[number - 1]
    if not deviation:
        return raised
    gains = raised / deviation
    return gains - gains.mean() * (((first - first.mean()) / deviation) ** 2 - 1) / 2


def _ratings(plan: Plan, policies: Mapping[str, str], boards: Sequence[Leaderboard]) -> dict[str, Estimate]:
    """By the policy's name in the table."""
    named: dict[str, Estimate] = {}
    with Store.open(plan.sample.store) as store:
        in_store = (
            {
                store.completions([store.find_checkpoint(folder)])[0].policy: name
                for name, folder in policies.items()
            }
            if boards
            else {}
        )
    for board in boards:
        for row in board.ratings:
            value = row.rating
            named[in_store[row.name]] = Estimate(
                value=value.value, low=value.low, high=value.high, n=row.votes
            )
    return named


HEADINGS = (
    *("round", "labels", "RM accuracy", "KL (nats)", "gold", "wins vs 0", "wins vs last"),
    *("RM gain", "gold gain", "gap", "rating", "tokens"),
)


def rounds_table(rounds: Sequence[RoundRow]) -> str:
    """A line a round; columns that no round has are left out."""

    def cell(value: Estimate | None, *, share: bool = False) -> str:
        return "" if value is None else with_interval(value, share=share)

    rows = [
        [
            str(row.number),
            str(row.labels) if row.labels else "",
            cell(row.accuracy, share=True),
            cell(row.kl),
            cell(row.gold),
            cell(row.wins_first, share=True),
            cell(row.wins_previous, share=True),
            cell(row.proxy_gain),
            cell(row.gold_gain),
            cell(row.gap),
            cell(row.rating),
            cell(row.length),
        ]
        for row in rounds
    ]
    columns = [[name, *cells] for name, cells in zip(HEADINGS, zip(*rows, strict=True), strict=True)]
    kept = [column for column in columns if any(column[1:])]
    widths = [max(map(len, column)) for column in kept]
    lines = zip(*kept, strict=True)
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write_results(
    plan: Plan,
    results: RoundResults,
    policies: Mapping[str, str],
    settings: Sequence[Any],
    *,
    clock: Clock,
    command: str,
) -> Path:
    """rounds.json, summary.json, evaluation.json and report.html; prints the tables. The report."""
    project = plan.project
    table = rounds_table(results.rounds)
    write_json(project / "rounds.json", {"rounds": results.rounds, "arena": results.arena})
    with Store.open(plan.sample.store) as store:
        tree = lineage(store, list(policies.values())[-1]).render()
    quality = results.quality
    summary = Summary(
        recipe=plan.recipe,
        seconds=clock.seconds,
        peak_rss_mb=clock.peak_rss_mb,
        reward_model=None
        if quality is None
        else RewardModelSummary(
            accuracy=quality.accuracy,
            ceiling=quality.ceiling,
            gold_accuracy=quality.gold_accuracy,
            checkpoint=f"round-{len(results.rounds) - 1}/reward/final",
        ),
        policies=tuple(_relative(policy, project) for policy in results.policies.policies),
        alarms=results.policies.alarms,
        notes=(
            "Each round's policy starts from the one before it; KL and win rates here are against round 0, and the reward model is the last round's. "
            "rounds.json has each round against the one before, by its own reward model.",
            *(_sentence(row) for row in results.rounds[1:]),
        ),
        stages=clock.times,
        seed=plan.settings.seed,
        commands=(command,),
        settings={type(setting).__name__: asdict(setting) for setting in settings},
        versions=environment(),
    )
    write_summary(project / "summary.json", summary)
    write_evaluation(
        project / "evaluation.json",
        Evaluation(
            prompts=results.prompts,
            policies=results.policies.evaluated,
            reward_model=quality,
            wins=results.policies.wins,
            lineage=tree,
        ),
    )
    report = write_report(project)
    print(f"\n{policy_table(results.policies.policies)}\n\n{table}")
    for board in results.arena:
        print(f"\n{leaderboard_table(board)}")
    for alarm in results.policies.alarms:
        print(f"! {alarm}")
    print(f"\n{clock.seconds:.0f} s, {clock.peak_rss_mb:.0f} MB. Report: {report}")
    return report


def _relative(policy: Any, project: Path) -> Any:
    """The policy with its folder named from the project, where it lies in it."""
    folder = Path(policy.checkpoint)
    inside = folder.is_relative_to(project)
    return replace(policy, checkpoint=str(folder.relative_to(project))) if inside else policy


def _sentence(row: RoundRow) -> str:
    """A round in words, for the report."""
    parts = [f"Round {row.number}: {row.labels} comparisons"]
    if row.accuracy is not None:
        parts.append(f"reward model right on {with_interval(row.accuracy, share=True)} of those held out")
    if row.wins_previous is not None:
        parts.append(f"wins {with_interval(row.wins_previous, share=True)} against round {row.number - 1}")
    if row.gap is not None:
        parts.append(f"its reward model overstates the gain by {with_interval(row.gap)} standard deviations")
    if row.rating is not None:
        parts.append(f"rating {with_interval(row.rating)}")
    return "; ".join(parts) + "."
