"""`prefloop label agreement`."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from prefloop.configs.agreement import AgreementConfig
from prefloop.data.store import Filters, Store
from prefloop.evaluation.json_files import encode, write_json
from prefloop.evaluation.wording import number, percent
from prefloop.feedback.aggregated import write_aggregated
from prefloop.feedback.agreement import (
    MISSING,
    Agreement,
    AnnotatorFigures,
    Answer,
    NoiseCeiling,
    Share,
    agreement_matrix,
    disagreements,
    figures,
    half_credit_agreement,
    krippendorff_alpha,
    noise_ceiling,
    raw_agreement,
)
from prefloop.feedback.judged import PairLabels, gold_choices, pair_labels, read_judged

TIES = (2, 3)
"""Categories of `pair_labels` that name no side."""


def agreement(config: AgreementConfig) -> None:
    """Print agreement, annotators and disputed items; write the numbers and the aggregated labels where that is asked for."""
    with Store.open(config.store, create=False) as store:
        filters = Filters(annotators=config.annotators, rounds=config.rounds)
        judged = read_judged(store, filters, kinds=config.kinds)
        gold = _gold(config, store)
    table = pair_labels([each for each in judged if each.annotator != config.gold])
    labels = table.labels
    numbers: dict[str, Agreement] = {
        "raw": raw_agreement(labels, resamples=config.resamples, seed=config.seed),
        "raw_without_ties": raw_agreement(
            labels, ignoring=TIES, resamples=config.resamples, seed=config.seed
        ),
        "raw_ties_half": half_credit_agreement(
            labels, first=0, second=1, resamples=config.resamples, seed=config.seed
        ),
        "alpha_nominal": krippendorff_alpha(labels, resamples=config.resamples, seed=config.seed),
        "alpha_ordinal": krippendorff_alpha(
            table.strengths, "ordinal", resamples=config.resamples, seed=config.seed
        ),
    }
    ceiling = noise_ceiling(numbers["raw_without_ties"])
    people = figures(_answers(table), labels, gold=gold)
    print(
        f"{len(labels.table)} pairs judged by {len(labels.annotators)} annotators; {numbers['raw'].items} of them by two or more"
    )
    print("\n".join(agreement_lines(numbers, ceiling)))
    print("\n".join(annotator_lines(people)))
    disputed, how_much = disagreements(labels)
    print("\n".join(_disputed_lines(table, disputed[: config.disputed], how_much, len(disputed))))
    if config.out:
        raw, kappa, common = agreement_matrix(labels)
        matrix = {
            "annotators": labels.annotators,
            "raw": raw.tolist(),
            "kappa": kappa.tolist(),
            "items": common.tolist(),
        }
        found = numbers | {"noise_ceiling": ceiling, "annotators": people, "matrix": matrix}
        write_json(Path(config.out), encode(found))
        print(f"wrote {config.out}")
    if config.labels:
        written, left_out = write_aggregated(table, config.aggregate, config.labels, soft=config.soft)
        said = ", ".join(f"{reason} {count}" for reason, count in sorted(left_out.items())) or "none"
        print(f"wrote {written} comparisons to {config.labels} ({config.aggregate}; left out: {said})")


def _gold(config: AgreementConfig, store: Store) -> dict[int, str]:
    """Item -> right choice: what the studio's gold items know, and over that what the annotator named `gold` says."""
    found = gold_choices(store)
    if config.gold:
        known = read_judged(store, Filters(annotators=(config.gold,), rounds=config.rounds))
        found |= {each.item: each.choice for each in known if each.kind == "pair"}
    return found


def agreement_lines(numbers: Mapping[str, Agreement], ceiling: NoiseCeiling) -> list[str]:
    """Each coefficient with its interval, and what it means for a reward model."""
    shares = (("raw", "two annotators say the same"), ("raw_without_ties", "among those who both name a side"), ("raw_ties_half", "with a tie against a side as a half"))  # fmt: skip
    lines = [f"  {words}: {_share(numbers[name])}" for name, words in shares]
    lines += [
        f"  Krippendorff's alpha, {words}: {_coefficient(numbers[name])}"
        for name, words in (
            ("alpha_nominal", "a / b / tie / both bad"),
            ("alpha_ordinal", "strength as an order"),
        )
    ]
    if math.isnan(ceiling.at_least):
        return [*lines, "  noise ceiling: not known; it needs pairs on which two annotators both name a side"]
    span = f"between {ceiling.at_least:.1%} and {ceiling.at_most:.1%}"
    if math.isfinite(ceiling.low):
        span += f" (with the agreement's own interval, {ceiling.low:.1%} to {ceiling.high:.1%})"
    return [
        *lines,
        f"  noise ceiling: on single labels like these a reward model can be right {span} of the time at best",
    ]


def annotator_lines(people: Sequence[AnnotatorFigures]) -> list[str]:
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
    for each in people:
        rows.append(
            (
                each.name,
                str(each.answers),
                percent(each.ties.value),
                percent(each.both_bad.value),
                _interval(each.first_shown) + (" !" if each.position_bias else ""),
                number(each.seconds) if math.isfinite(each.seconds) else "",
                _interval(each.with_others),
                _interval(each.gold),
                _interval(each.accuracy),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    if any(each.position_bias for each in people):
        lines.append("! the side shown first is chosen more, or less, often than chance explains")
    return lines


def _disputed_lines(table: PairLabels, rows: np.ndarray, how_much: np.ndarray, total: int) -> list[str]:
    if not total:
        return ["no pair is disputed"]
    lines = [f"disputed pairs: {total}" + (f"; the most disputed {len(rows)}:" if len(rows) else "")]
    for row, share in zip(rows.tolist(), how_much.tolist(), strict=False):
        said = Counter(
            table.labels.categories[label] for label in table.labels.table[row] if label != MISSING
        )
        words = ", ".join(f"{choice} {count}" for choice, count in said.most_common())
        prompt = table.items[row].prompt.to_json()
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        lines.append(f"  item {table.items[row].item}: {words} ({share:.0%} of pairs differ): {text[:70]!r}")
    return lines


def _answers(table: PairLabels) -> list[Answer]:
    return [
        Answer(
            annotator=each.annotator,
            item=each.item,
            choice=each.choice,
            left="ab"[each.order_shown[0]],
            seconds=each.duration_ms / 1000,
        )
        for row in table.judged
        for each in row
        if each is not None
    ]


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
