"""The curves of each training stage: which metrics are drawn, under which heading, and what they mean."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from prefloop.evaluation.curves import Series
from prefloop.evaluation.metrics_log import MetricsLog
from prefloop.evaluation.plots import Frame, line_chart


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """A chart with its heading and how to read it."""

    title: str
    svg: str
    caption: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Curves:
    """One chart of training and the metrics in it, by the names that the algorithms log."""

    title: str
    unit: str
    lines: tuple[tuple[str, str], ...]
    """Label and metric of each line."""
    caption: str
    as_percent: bool = False


def _learning(unit: str, caption: str) -> Curves:
    lines = (("training", "loss"), ("held out", "heldout_loss"))
    return Curves(title="Loss", unit=unit, lines=lines, caption=caption)


def _accuracy(title: str, caption: str) -> Curves:
    return Curves(
        title=title,
        unit="comparisons ordered as labelled",
        lines=(("training", "accuracy"), ("held out", "heldout_accuracy")),
        caption=caption,
        as_percent=True,
    )


LIKELIHOOD = (
    _learning(
        "nats per token",
        "Cross-entropy of the text. If it rises on held-out text while it falls in training, the model overfits.",
    ),
    Curves(
        title="Perplexity",
        unit="perplexity on held-out text",
        lines=(("held out", "heldout_perplexity"),),
        caption="How many tokens the model hesitates between, on average.",
    ),
)
TRAINING: Mapping[str, tuple[Curves, ...]] = {
    "pretrain": LIKELIHOOD,
    "sft": LIKELIHOOD,
    "reward": (
        _learning("nats per comparison", "ln 2 = 0.693 is a model that guesses."),
        _accuracy("Accuracy", "Training accuracy is measured on each batch before the update on it."),
    ),
    "ppo": (
        Curves(
            title="Score",
            unit="reward-model score",
            lines=(("score", "score"),),
            caption="Mean score of the completions sampled at each step, as the reward model gives it.",
        ),
        Curves(
            title="KL to the reference",
            unit="nats per completion",
            lines=(("KL", "kl"),),
            caption="How far the policy has moved from the reference: the price of the score.",
        ),
        Curves(
            title="Reward",
            unit="reward per completion",
            lines=(("reward", "reward"),),
            caption="What PPO maximises: the shaped score minus the KL penalty.",
        ),
        Curves(
            title="Completion length",
            unit="tokens",
            lines=(("length", "length"),),
            caption="If the reward favours length, it shows here first.",
        ),
        Curves(
            title="Entropy",
            unit="nats per token",
            lines=(("entropy", "entropy"),),
            caption="If it falls to zero, the policy has stopped exploring.",
        ),
        Curves(
            title="Critic",
            unit="explained variance of returns",
            lines=(("explained variance", "explained_variance"),),
            caption="1 predicts every return; 0 is no better than their mean.",
        ),
        Curves(
            title="Clipping",
            unit="share of tokens",
            lines=(("clipped", "clip_fraction"),),
            caption="Tokens whose ratio left the clip range, which cuts their gradient.",
            as_percent=True,
        ),
        Curves(
            title="Ended by itself",
            unit="share of completions",
            lines=(("ended", "ended"),),
            caption="The rest hit the token limit.",
            as_percent=True,
        ),
    ),
    "dpo": (
        _learning(
            "nats per comparison",
            "It starts at ln 2 = 0.693, where policy and reference are the same, unless an SFT term is added.",
        ),
        Curves(
            title="Margin of implicit rewards",
            unit="β · log-ratio, chosen minus rejected",
            lines=(("training", "margin"), ("held out", "heldout_margin")),
            caption="How much more the policy favours the chosen completion than the reference does.",
        ),
        _accuracy("Accuracy of implicit rewards", "Share of comparisons whose margin is above zero."),
        Curves(
            title="Implicit rewards",
            unit="β · log-ratio to the reference",
            lines=(("chosen", "reward_chosen"), ("rejected", "reward_rejected")),
            caption="If both fall, probability moves to texts that nobody compared.",
        ),
    ),
}
"""The charts that matter for each stage, in order. Whatever else was logged is shown small, below."""


def training(stage: str, log: MetricsLog) -> tuple[list[Figure], list[Figure]]:
    """The charts of a stage that matter, and small ones of everything else that it logged."""
    figures, used = [], set()
    for spec in TRAINING.get(stage, ()):
        series = [
            _logged(Series(label=label, x=log.steps, y=log.values[name], slot=slot))
            for slot, (label, name) in enumerate(spec.lines, start=1)
            if log.has(name)
        ]
        if not series:
            continue
        used |= {name for _, name in spec.lines}
        svg = line_chart(
            series,
            title=spec.title,
            x_label="step",
            y_label=spec.unit,
            smooth=True,
            percent_axis=spec.as_percent,
        )
        figures.append(Figure(title=spec.title, svg=svg, caption=spec.caption))
    rest = [
        Figure(
            title=name,
            caption="",
            svg=line_chart(
                [_logged(Series(label=name, x=log.steps, y=values, slot=0))],
                title=name,
                x_label="step",
                y_label="",
                smooth=True,
                frame=Frame(height=170),
            ),
        )
        for name, values in log.values.items()
        if name not in used and sum(map(math.isfinite, values)) > 1
    ]
    return figures, rest


def _logged(series: Series) -> Series:
    """A metric that was logged at fewer than half of the steps, without the steps between: a line, not dots among gaps."""
    kept = [i for i, v in enumerate(series.y) if math.isfinite(v)]
    if len(kept) > len(series.y) / 2:  # logged at every step or nearly: what is missing is a gap
        return series
    return Series(
        label=series.label, x=[series.x[i] for i in kept], y=[series.y[i] for i in kept], slot=series.slot
    )
