"""How right a model can be on labels of people who do not agree, from the comparisons themselves."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import numpy as np

from prefloop.evaluation.reward_model_quality import ceiling_of_probabilities
from prefloop.feedback.agreement import MISSING, NoiseCeiling, make_labels, noise_ceiling, raw_agreement
from prefloop.records import Comparison


def ceiling_of_soft_labels(comparisons: Sequence[Comparison]) -> float | None:
    """Mean of max(p, 1 - p) over soft labels p, the accuracy of whoever knows every truth; None if all labels are plain ones.

    It takes `p_soft` at its word: as the probability that `chosen` is the better one.
    """
    if all(comparison.p_soft == 1 for comparison in comparisons):
        return None
    return ceiling_of_probabilities([comparison.p_soft for comparison in comparisons])


def ceiling_of_agreement(comparisons: Sequence[Comparison]) -> NoiseCeiling | None:
    """The noise ceiling from pairs that were judged more than once (`feedback.agreement.ceiling`); None where fewer than two were.

    Comparisons of one pair, whichever way round, are its labels: agreement is among those who named a side. Soft labels are no single judgements
    and are not counted.
    """
    votes: dict[tuple[str, str, tuple[str, ...]], Counter[int]] = defaultdict(Counter)
    for comparison in comparisons:
        if comparison.p_soft == 1:
            texts = tuple(sorted((comparison.chosen, comparison.rejected)))
            votes[comparison.prompt.sha256, comparison.context, texts][
                int(comparison.chosen == texts[1])
            ] += 1
    kept = {place: counts for place, counts in votes.items() if counts.total() > 1}
    several = list(kept.values())
    if len(several) < 2:
        return None
    table = np.full((len(several), max(counts.total() for counts in several)), MISSING, np.intp)
    for row, counts in zip(table, several, strict=True):
        row[: counts.total()] = sorted(counts.elements())
    labels = make_labels(table, ("first", "second"), [f"label {at}" for at in range(table.shape[1])])
    prompts = np.unique([prompt for prompt, _, _ in kept], return_inverse=True)[1]
    return noise_ceiling(raw_agreement(labels, prompts=prompts))


def ceiling_words(ceiling: NoiseCeiling) -> str:
    """The bounds and what they stand on."""
    span = f"between {ceiling.at_least:.1%} and {ceiling.at_most:.1%} can be expected at best, from how far the labels agree"
    return f"{span} (with that agreement's own interval {ceiling.low:.1%} to {ceiling.high:.1%}; {ceiling.items} pairs with several labels)"
