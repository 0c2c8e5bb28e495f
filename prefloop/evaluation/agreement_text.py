"""Agreement between annotators in words."""

import math
from collections.abc import Sequence

from prefloop.evaluation.wording import number, percent
from prefloop.feedback.agreement import Agreement, AnnotatorFigures, Share
from prefloop.feedback.agreement_report import AgreementReport, Dispute


def agreement_text(found: AgreementReport, *, disputed: int) -> str:
    """How many pairs were judged, the coefficients, a table of annotators, and the `disputed` most disputed pairs."""
    labels = found.table.labels
    judged = f"{len(labels.table)} pairs judged by {len(labels.annotators)} annotators; {found.raw.items} of them by two or more"
    return "\n".join(
        [
            judged,
            *_coefficient_lines(found),
            *_annotator_lines(found.annotators),
            *_disputed_lines(found.disputes, disputed),
        ]
    )


def _coefficient_lines(found: AgreementReport) -> list[str]:
    """Each coefficient with its interval, and what it means for a reward model."""
    lines = [
        f"  two annotators agree: {_share(found.raw)}",
        f"  if both choose a side: {_share(found.raw_without_ties)}",
        f"  counting a tie against a side as half: {_share(found.raw_ties_half)}",
        f"  Krippendorff's alpha, a / b / tie / both bad: {_coefficient(found.alpha_nominal)}",
        f"  Krippendorff's alpha, strength as an order: {_coefficient(found.alpha_ordinal)}",
    ]
    ceiling = found.noise_ceiling
    if math.isnan(ceiling.at_least):
        return [
            *lines,
            "  noise ceiling: not known; it needs pairs on which two annotators both choose a side",
        ]
    span = f"between {ceiling.at_least:.1%} and {ceiling.at_most:.1%}"
    if math.isfinite(ceiling.low):
        span += f" (with the agreement's own interval, {ceiling.low:.1%} to {ceiling.high:.1%})"
    return [
        *lines,
        f"  noise ceiling: on single labels like these a reward model can be right {span} of the time at best",
    ]


def _annotator_lines(people: Sequence[AnnotatorFigures]) -> list[str]:
    """A line for each annotator."""
    rows = [
        (
            "annotator",
            "answers",
            "ties",
            "both bad",
            "first shown chosen",
            "median s",
            "as the others",
            "gold",
            "model",
        )
    ]
    for person in people:
        rows.append(
            (
                person.name,
                str(person.answers),
                percent(person.ties.value),
                percent(person.both_bad.value),
                _interval(person.first_shown) + (" !" if person.position_bias else ""),
                number(person.seconds) if math.isfinite(person.seconds) else "",
                _interval(person.with_others),
                _interval(person.gold),
                _interval(person.accuracy),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if any(person.position_bias for person in people):
        lines.append("! the side shown first is chosen more, or less, often than chance explains")
    return lines


def _disputed_lines(disputes: Sequence[Dispute], shown: int) -> list[str]:
    if not disputes:
        return ["no pair is disputed"]
    first = disputes[:shown]
    lines = [f"disputed pairs: {len(disputes)}" + (f"; the most disputed {len(first)}:" if first else "")]
    for dispute in first:
        choices = ", ".join(f"{choice} {count}" for choice, count in dispute.choices.items())
        content = dispute.pair.prompt.content
        text = content if isinstance(content, str) else content[-1].content
        lines.append(
            f"  item {dispute.pair.item}: {choices} ({dispute.differing:.0%} of pairs differ): {text[:70]!r}"
        )
    return lines


def _share(value: Agreement) -> str:
    if math.isnan(value.value):
        return "not known, no pair has two such labels"
    return f"{value.value:.1%}" + (
        f" [{value.low:.1%}, {value.high:.1%}]" if math.isfinite(value.low) else ""
    )


def _coefficient(value: Agreement) -> str:
    if math.isnan(value.value):
        return "not known"
    return f"{value.value:.3f}" + (
        f" [{value.low:.3f}, {value.high:.3f}]" if math.isfinite(value.low) else ""
    )


def _interval(share: Share) -> str:
    if not share.n:
        return ""
    return f"{percent(share.value)} [{100 * share.low:.0f}, {100 * share.high:.0f}]"
