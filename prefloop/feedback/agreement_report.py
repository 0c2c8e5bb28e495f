"""How far the labels of pairs can be trusted, in one object: `prefloop label agreement`, `prefloop.agreement`."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefloop.feedback.agreement import (
    MISSING,
    Agreement,
    AnnotatorFigures,
    Labels,
    Metric,
    NoiseCeiling,
    PairChoice,
    agreement_matrix,
    disagreements,
    figures,
    half_credit_agreement,
    krippendorff_alpha,
    noise_ceiling,
    raw_agreement,
)
from prefloop.feedback.judged import JudgedItem, PairLabels, pair_labels

TIES = (2, 3)
"""Categories of `pair_labels` that name no side."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Dispute:
    """A pair that annotators do not agree on."""

    pair: JudgedItem
    """One of its judgements, for its texts and ids."""
    choices: Mapping[str, int]
    """Choice -> annotators who made it, the commonest first."""
    differing: float
    """Chance that two of its labels differ."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementReport:
    """What several annotators' labels of the same pairs say about the labels."""

    table: PairLabels
    """The labels: a row a pair, a column an annotator."""
    raw: Agreement
    """Chance that two annotators say the same of a pair."""
    raw_without_ties: Agreement
    """The same among those who both name a side."""
    raw_ties_half: Agreement
    """The same where a tie against a side counts a half."""
    alpha_nominal: Agreement
    """Krippendorff's alpha of a, b, tie and both bad as categories."""
    alpha_ordinal: Agreement
    """Krippendorff's alpha of how strongly a side is preferred, as an order."""
    noise_ceiling: NoiseCeiling
    """The accuracy that a perfect reward model would reach on single labels like these."""
    annotators: tuple[AnnotatorFigures, ...]
    disputes: tuple[Dispute, ...]
    """The most disputed first."""

    def numbers(self) -> dict[str, Any]:
        """All numbers by name, and the annotators pair by pair as a matrix, for JSON."""
        raw, kappa, common = agreement_matrix(self.table.labels)
        return {
            "raw": self.raw,
            "raw_without_ties": self.raw_without_ties,
            "raw_ties_half": self.raw_ties_half,
            "alpha_nominal": self.alpha_nominal,
            "alpha_ordinal": self.alpha_ordinal,
            "noise_ceiling": self.noise_ceiling,
            "annotators": self.annotators,
            "matrix": {
                "annotators": self.table.labels.annotators,
                "raw": raw.tolist(),
                "kappa": kappa.tolist(),
                "items": common.tolist(),
            },
        }


def measure_agreement(
    judged: Sequence[JudgedItem],
    *,
    gold: Mapping[int, str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> AgreementReport:
    """Measure the labels of pairs. `gold` maps items to the choice that is right.

    Intervals are of other prompts; `resamples` and `seed` are of the bootstrap of Krippendorff's alpha. Raises `InputError` if no pair is
    judged.
    """
    table = pair_labels(judged)
    labels, prompts = table.labels, table.prompts
    without_ties = raw_agreement(labels, ignoring=TIES, prompts=prompts)

    def alpha(of: Labels, metric: Metric) -> Agreement:
        return krippendorff_alpha(of, metric, prompts=prompts, resamples=resamples, seed=seed)

    return AgreementReport(
        table=table,
        raw=raw_agreement(labels, prompts=prompts),
        raw_without_ties=without_ties,
        raw_ties_half=half_credit_agreement(labels, first=0, second=1, prompts=prompts),
        alpha_nominal=alpha(labels, "nominal"),
        alpha_ordinal=alpha(table.strengths, "ordinal"),
        noise_ceiling=noise_ceiling(without_ties),
        annotators=figures(_answers(table), labels, gold=gold),
        disputes=_disputes(table),
    )


def _answers(table: PairLabels) -> list[PairChoice]:
    return [
        PairChoice(
            annotator=judgement.annotator,
            item=judgement.item,
            choice=judgement.choice,
            left="ab"[judgement.order_shown[0]],
            seconds=judgement.duration_ms / 1000,
        )
        for row in table.judged
        for judgement in row
        if judgement is not None
    ]


def _disputes(table: PairLabels) -> tuple[Dispute, ...]:
    rows, differing = disagreements(table.labels)
    found = []
    for row, share in zip(rows.tolist(), differing.tolist(), strict=True):
        labels = (label for label in table.labels.table[row] if label != MISSING)
        choices = Counter(str(table.labels.categories[label]) for label in labels)
        found.append(Dispute(pair=table.items[row], choices=dict(choices.most_common()), differing=share))
    return tuple(found)
