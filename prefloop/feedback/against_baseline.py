"""Votes between each model and one baseline, as AlpacaEval's figures read them: a mean preference a prompt, and how long both answers were."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np

from prefloop.errors import InputError
from prefloop.feedback.judged import OUTCOMES, JudgedItem
from prefloop.feedback.ratings import LengthControlled, length_controlled_win_rates

PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""Choice -> preference for slot 0; who finds both bad prefers neither."""


def win_rates_against(judged: Sequence[JudgedItem], baseline: str) -> Mapping[str, LengthControlled]:
    """Model -> win rate against the baseline, raw and at equal length, for every model that was compared with it; by name.

    Several votes on one prompt (other annotators, other samples) are one row, their mean: they share the prompt's difficulty, and the standard
    error counts prompts. Raises `InputError`, with the models there are, for a baseline that was compared with none.
    """
    rows: dict[str, dict[int, list[tuple[float, float, int, int]]]] = defaultdict(lambda: defaultdict(list))
    for judgement in judged:
        if (
            judgement.kind != "pair"
            or judgement.choice not in OUTCOMES
            or judgement.models[0] == judgement.models[1]
        ):
            continue
        if baseline not in judgement.models:
            continue
        own = 1 - judgement.models.index(baseline)
        preference = PREFERENCE[judgement.choice] if own == 0 else 1 - PREFERENCE[judgement.choice]
        lengths = len(judgement.completions[own]), len(judgement.completions[1 - own])
        rows[judgement.models[own]][judgement.prompt_id].append((judgement.weight, preference, *lengths))
    if not rows:
        names = sorted(
            {name for judgement in judged if judgement.kind == "pair" for name in judgement.models}
        )
        raise InputError(
            f"baseline is {baseline!r}, which no vote compares with another model; the models are {', '.join(names) or 'no models yet'}"
        )
    names = sorted(rows)
    means = []
    for at, name in enumerate(names):
        for prompt, votes in rows[name].items():
            table = np.array(votes)
            means.append((at, prompt, *np.average(table[:, 1:], axis=0, weights=table[:, 0])))
    model, prompt, preference, own, other = (np.array(column) for column in zip(*means, strict=True))
    return dict(zip(names, length_controlled_win_rates(model, prompt, preference, own, other), strict=True))
