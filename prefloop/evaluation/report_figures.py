"""The report's figures: which numbers go into which chart, and the sentence that says how to read it."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate
from prefloop.evaluation.label_noise import ceiling_words
from prefloop.evaluation.over_training import series_of, step_of
from prefloop.evaluation.plots import (
    PlotRow,
    Point,
    ReferenceLine,
    bar_chart,
    category_chart,
    interval_chart,
    line_chart,
    reliability_diagram,
    scatter_chart,
)
from prefloop.evaluation.reward_model_quality import BestOf, LengthBin, RewardModelQuality
from prefloop.evaluation.summary import Evaluation, RewardModelSummary, StageTime, Summary
from prefloop.evaluation.text_statistics import TextStatistics
from prefloop.evaluation.training_curves import Figure
from prefloop.evaluation.wording import number, percent, with_interval

Slots = Mapping[str, int]
"""A policy's colour and shape, the same in every figure."""


def win_rates(summary: Summary | None, slots: Slots) -> Figure | None:
    """Win rates of every policy but the first against it."""
    rows = [
        PlotRow(label=p.name, estimate=p.win_rate_vs_sft, slot=slots[p.name])
        for p in (summary.policies[1:] if summary else ())
        if p.win_rate_vs_sft is not None
    ]
    if not rows:
        return None
    assert summary is not None
    title = f"Win rate against {summary.start}"
    svg = interval_chart(
        rows,
        title=title,
        x_label="share of held-out prompts won, ties as a half",
        references=[ReferenceLine(value=0.5, label=f"as good as {summary.start}")],
        percent_axis=True,
        include=[0.4, 1.0],
    )
    return Figure(
        title=title,
        svg=svg,
        caption=f"How often {summary.judge} prefers the policy's completion to that of {summary.start} on the same prompt, with 95 % intervals.",
    )


GOLD = "Gold score"


def judged_by(summary: Summary) -> str:
    """What the judge's score is called."""
    return GOLD if summary.judge == "the gold judge" else "Judge's score"


def frontier(summary: Summary | None, evaluation: Evaluation | None, slots: Slots) -> Figure | None:
    """Gold score against KL: policies, further points, and best-of-n for comparison."""
    points = [
        Point(label=p.name, x=p.kl, y=p.gold, slot=slots[p.name])
        for p in (summary.policies if summary else ())
        if p.gold is not None and math.isfinite(p.kl.value)
    ]
    best = evaluation.best_of_n if evaluation and len(evaluation.best_of_n) > 1 else ()
    points += [
        Point(label=f.policy, x=f.kl, y=f.score, slot=slots.get(f.policy, 7), note=f.label)
        for f in (evaluation.frontier if evaluation else ())
    ]
    curves = [_best_of_n_series("best of n from SFT", best, "gold", slot=3)] if best else []
    if len(points) < 2:
        return None
    start, score = (summary.start, judged_by(summary)) if summary else ("SFT", GOLD)
    svg = scatter_chart(
        points,
        title=f"{score} against KL",
        x_label=f"KL to {start}, nats per completion",
        y_label=score[0].lower() + score[1:],
        curves=curves,
        include_x=[0.0],
    )
    caption = f"Higher is better, further left is cheaper. A policy that stands above another at the same KL uses its distance from {start} better."
    if best:
        most = max(point.n for point in best)
        caption += f" The curve draws 1 to {most} completions from SFT and keeps the one that the reward model scores highest, at the largest KL this can cost."
    return Figure(title="Reward and KL", svg=svg, caption=caption)


def over_optimisation(curve: Sequence[BestOf]) -> list[Figure]:
    """Proxy and gold score of best-of-n: where gold turns down while the proxy rises, the reward model is being exploited."""
    if len(curve) < 2:
        return []
    units = {"proxy": "reward-model score", "gold": "gold score"}
    return [
        Figure(
            title=f"Best of n: {unit}",
            svg=line_chart(
                [_best_of_n_series(name, curve, name, slot=slot)],
                title=f"Best of n: {unit}",
                x_label="KL to SFT at most, nats",
                y_label=unit,
            ),
            caption=f"Best of {', '.join(str(point.n) for point in curve)} completions by the reward model, from left to right; the band is the 95 % interval over prompts.",
        )
        for slot, (name, unit) in enumerate(units.items(), start=1)
    ]


def over_training(summary: Summary | None) -> list[Figure]:
    """Gold and reward-model score of a run's checkpoints by step, where several were evaluated."""
    policies = {policy.name: policy for policy in (summary.policies if summary else ())}
    found = []
    for run, names in series_of({name: one.checkpoint for name, one in policies.items()}).items():
        own = [policies[name] for name in names]
        for slot, (which, unit) in enumerate((("proxy", "reward-model score"), ("gold", "gold score")), 1):
            estimates: list[Estimate] = [
                getattr(one, which) for one in own if getattr(one, which) is not None
            ]
            if len(estimates) < len(own):
                continue
            title = f"{Path(run).name}: {unit} over training"
            line = Series(
                label=unit,
                x=[float(step_of(one.checkpoint) or 0) for one in own],
                y=[estimate.value for estimate in estimates],
                low=[estimate.low for estimate in estimates],
                high=[estimate.high for estimate in estimates],
                slot=slot,
            )
            svg = line_chart([line], title=title, x_label="step", y_label=unit)
            caption = (
                "The run's checkpoints on the same prompts; the band is the 95 % interval over prompts. Where the gold score turns down "
                "while the reward model's score does not, the policy exploits the reward model."
            )
            found.append(Figure(title=title, svg=svg, caption=caption))
    return found


def reward_model_accuracy(
    summary: RewardModelSummary | None, quality: RewardModelQuality | None
) -> Figure | None:
    """Accuracy beside the ceiling that noisy labels set, and beside length alone."""
    accuracy = summary.accuracy if summary else quality.accuracy if quality else None
    if accuracy is None:
        return None
    ceiling = summary.ceiling if summary else quality.ceiling if quality else None
    gold = (summary.gold_accuracy if summary else None) or (quality.gold_accuracy if quality else None)
    rows = [PlotRow(label="on the labels", estimate=accuracy)]
    rows += [PlotRow(label="on true preferences", estimate=gold, slot=3)] if gold else []
    rows += (
        [PlotRow(label="longer one wins", estimate=quality.length.longer_is_chosen, slot=0)]
        if quality
        else []
    )
    references = [ReferenceLine(value=0.5, label="chance")]
    references += [ReferenceLine(value=ceiling, label=f"ceiling {percent(ceiling)}")] if ceiling else []
    agreed = quality.label_ceiling if quality and not ceiling else None
    if agreed:
        bounds = dict.fromkeys((agreed.at_least, agreed.at_most))
        references += [ReferenceLine(value=bound, label=f"ceiling {percent(bound)}") for bound in bounds]
    caption = "Held-out comparisons that the reward model orders as the label does, with 95 % intervals."
    if ceiling:
        caption += f" The labels are noisy: a perfect model would agree with {percent(ceiling)} of them."
    if agreed:
        caption += f" Annotators of the same pairs did not always agree: {ceiling_words(agreed)}."
    if quality:
        caption += " “Longer one wins” is a judge that always chooses the longer completion."
    svg = interval_chart(
        rows,
        title="Reward-model accuracy",
        x_label="accuracy on held-out comparisons",
        references=references,
        percent_axis=True,
        include=[1.0],
    )
    return Figure(title="Accuracy", svg=svg, caption=caption)


def calibration(quality: RewardModelQuality) -> Figure:
    """Observed against predicted probabilities."""
    found = quality.calibration
    svg = reliability_diagram(
        [b.predicted for b in found.bins],
        [b.observed for b in found.bins],
        title="Calibration of the reward model",
        x_label="probability it gives the completion it prefers",
        y_label="how often the judge agrees",
    )
    caption = (
        f"On the diagonal, σ(score difference) is a probability. Expected calibration error {percent(found.expected_error)}"
        f" (a perfectly calibrated model would show {percent(found.expected_error_by_chance)} with this many comparisons),"
        f" Brier score {number(found.brier.value)}, log-loss {number(found.log_loss.value)} nats."
    )
    return Figure(title="Calibration", svg=svg, caption=caption)


def accuracy_by_length(quality: RewardModelQuality) -> Figure:
    """Accuracy in bins of length difference."""
    svg = category_chart(
        [PlotRow(label=_range(b), estimate=b.accuracy) for b in quality.length.bins],
        title="Accuracy by length difference",
        x_label="chosen minus rejected length",
        y_label="accuracy on held-out comparisons",
        references=[ReferenceLine(value=0.5, label="")],
    )
    higher = quality.length.longer_scores_higher
    caption = (
        "If it is low on the left and high on the right, the model rewards length."
        f" It scores the longer completion higher in {with_interval(higher, share=True)} of comparisons;"
        f" the judge chose it in {with_interval(quality.length.longer_is_chosen, share=True)}."
    )
    return Figure(title="Accuracy by length difference", svg=svg, caption=caption)


TEXT_FIGURES: tuple[tuple[str, str, bool, Callable[[TextStatistics], Estimate], str], ...] = (
    ("Length", "tokens per completion", False, lambda t: t.length, "Mean over held-out prompts."),
    (
        "Repetition",
        "share of repeated 3-grams",
        True,
        lambda t: t.repetition,
        "Three-word sequences that occurred earlier in the same completion.",
    ),
    (
        "Ended by itself",
        "share of completions",
        True,
        lambda t: t.ended,
        "The rest hit the token limit.",
    ),
    (
        "Alike across prompts",
        "similarity, 0 to 1",
        False,
        lambda t: t.similarity,
        "Similarity of answers to different prompts; a rise is mode collapse.",
    ),
    (
        "Same answer twice",
        "share of completions",
        True,
        lambda t: t.duplicates,
        "Another prompt got the same completion, word for word.",
    ),
    (
        "Longest repeat",
        "words",
        False,
        lambda t: t.longest_repeat,
        "Longest sequence of words that a completion contains twice.",
    ),
)


def text_changes(summary: Summary | None, evaluation: Evaluation | None, slots: Slots) -> list[Figure]:
    """Length, repetition and the rest, each policy a row; from the summary alone, the first two."""
    if evaluation and evaluation.policies:
        found = [
            (title, unit, share, caption, [(p.name, take(p.text)) for p in evaluation.policies])
            for title, unit, share, take, caption in TEXT_FIGURES
        ]
    elif summary and summary.policies:
        length, repetition = TEXT_FIGURES[:2]
        found = [
            (*length[:3], length[4], [(p.name, p.length) for p in summary.policies]),
            (*repetition[:3], repetition[4], [(p.name, p.repetition) for p in summary.policies]),
        ]
    else:
        return []
    return [
        Figure(
            title=title,
            caption=caption,
            svg=interval_chart(
                [PlotRow(label=name, estimate=estimate, slot=slots[name]) for name, estimate in rows],
                title=title,
                x_label=unit,
                percent_axis=share,
                include=[0.0, 0.1] if share else [0.0],  # so that hardly anything looks like hardly anything
            ),
        )
        for title, unit, share, caption, rows in found
    ]


def timings(stages: Sequence[StageTime]) -> Figure | None:
    """Where the time went."""
    if not stages:
        return None
    svg = bar_chart(
        [(s.stage, s.seconds, duration(s.seconds)) for s in stages],
        title="Time of each stage",
        slot=0,
    )
    return Figure(title="Time of each stage", svg=svg, caption="Wall-clock time.")


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def _best_of_n_series(label: str, curve: Sequence[BestOf], which: str, *, slot: int) -> Series:
    estimates: list[Estimate] = [getattr(point, which) for point in curve]
    return Series(
        label=label,
        x=[point.kl for point in curve],
        y=[e.value for e in estimates],
        low=[e.low for e in estimates],
        high=[e.high for e in estimates],
        slot=slot,
    )


def _range(b: LengthBin) -> str:
    low, high = (f"{edge:+.0f}".replace("-", "−").replace("+0", "0") for edge in (b.low, b.high))
    return low if low == high else f"{low} … {high}"
