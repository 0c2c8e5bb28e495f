"""95 % intervals of what `label agreement`, the studio's page, the noise ceiling and `arena --baseline` say cover, as the callers make them.

Prompts differ in how far people agree on them, and several items are of one prompt.
"""

import math
from collections import Counter
from dataclasses import astuple, replace
from functools import partial

import numpy as np
import pytest
from scipy.special import expit

from prefloop.evaluation.label_noise import ceiling_of_agreement
from prefloop.feedback.against_baseline import win_rates_against
from prefloop.feedback.agreement import Agreement, PairChoice, figures, fit_annotators, noise_ceiling, people
from prefloop.feedback.agreement_report import measure_agreement
from prefloop.feedback.judged import JudgedItem, pair_labels
from prefloop.records import Comparison, Prompt
from prefloop.studio import quality

PROMPTS, ITEMS, PEOPLE = 16, 4, 3
TIMES = 100
TIE = 0.2
CLEAR, COIN = 0.95, 0.5
"""How likely a label that names a side names the item's better one, on prompts of either kind."""
ASKED = [Prompt(content=f"p{at}") for at in range(PROMPTS)]


def judgement(
    item: int, prompt: int, who: int, choice: str, models: tuple[str, str] = ("x", "y")
) -> JudgedItem:
    return JudgedItem(
        judgement=0,
        item=item,
        kind="pair",
        round=0,
        prompt_id=prompt,
        prompt=ASKED[prompt % PROMPTS],
        completions=("one", "other"),
        models=models,
        annotator=f"p{who}",
        annotator_kind="human",
        choice=choice,
        ranking=(),
        strength=1,
        order_shown=(0, 1),
        duration_ms=0,
    )


def judged(random: np.random.Generator) -> list[JudgedItem]:
    """Every item is judged by three people."""
    right = np.where(random.random(PROMPTS) < 0.5, CLEAR, COIN)
    rows = []
    for item in range(PROMPTS * ITEMS):
        prompt, better = item // ITEMS, int(random.random() < 0.5)
        for who in range(PEOPLE):
            side = better if random.random() < right[prompt] else 1 - better
            rows.append(judgement(item, prompt, who, "tie" if random.random() < TIE else "ab"[side]))
    return rows


def truths() -> dict[str, float]:
    """From the probabilities (a, tie, b) of an item's labels: four kinds of items, equally many."""
    kinds = np.array([[(1 - TIE) * p, TIE, (1 - TIE) * (1 - p)] for p in (CLEAR, 1 - CLEAR, COIN, COIN)])
    together, common = np.einsum("ia,ib->ab", kinds, kinds) / 4, kinds.mean(0)
    middle = np.cumsum(common) - common / 2

    def alpha(distance: np.ndarray) -> float:
        return 1 - float((together * distance).sum() / (np.outer(common, common) * distance).sum())

    same = float(np.trace(together))
    return {
        "raw": same,
        "raw_without_ties": float(np.mean([p**2 + (1 - p) ** 2 for p in (CLEAR, COIN)])),
        "raw_ties_half": same + 0.5 * 2 * TIE * (1 - TIE),
        "alpha_nominal": alpha(1 - np.eye(3)),
        "alpha_ordinal": alpha((middle[:, None] - middle) ** 2),
    }


def coefficients(rows: list[JudgedItem]) -> dict[str, Agreement]:
    """As `label agreement` and `prefloop.agreement` make them."""
    numbers = measure_agreement(rows, resamples=300).numbers()
    return {name: each for name, each in numbers.items() if isinstance(each, Agreement)}


@pytest.fixture(autouse=True)
def cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of right answers by a model has tests of its own."""
    monkeypatch.setattr(people, "fit_annotators", partial(fit_annotators, sweeps=101))


def test_coefficients_are_covered(monkeypatch: pytest.MonkeyPatch) -> None:  # E3
    """Taking the items of a prompt as independent covers 88 % of the worst."""
    monkeypatch.setattr(quality, "logins", lambda studio: {})
    random, expected, held = np.random.default_rng(0), truths(), Counter()
    for _ in range(TIMES):
        table = judged(random)
        found = coefficients(table)
        assert set(found) == set(expected)
        held.update(name for name, each in found.items() if each.low <= expected[name] <= each.high)
        _, _, raw, alpha, _ = quality._agreement(None, table)  # pyright: ignore[reportArgumentType]
        assert raw == found["raw"]
        assert alpha is not None
        held["the page's alpha"] += alpha.low <= expected["alpha_nominal"] <= alpha.high
        sided = [each for each in table if each.choice in "ab"]
        ceiling = ceiling_of_agreement(
            [
                Comparison(prompt=each.prompt, chosen=f"{each.item} {each.choice}", rejected=f"{each.item} {'ba'['ab'.index(each.choice)]}")
                for each in sided
            ]
        )  # fmt: skip
        assert ceiling is not None
        assert astuple(ceiling) == pytest.approx(astuple(noise_ceiling(found["raw_without_ties"])))
    assert len(held) == len(expected) + 1
    assert {name: count for name, count in held.items() if count < 0.9 * TIMES} == {}


@pytest.mark.parametrize("prompts", [2, 16])
def test_people_who_all_agree_leave_intervals(prompts: int) -> None:  # V1
    rows = [
        judgement(item, item // 2, who, "ab"[item % 2]) for item in range(2 * prompts) for who in range(3)
    ]
    found = coefficients(rows)
    for each in found.values():
        assert (each.value, each.high) == (1.0, 1.0)
        assert -1.5 < each.low < 0.9
    ceiling = noise_ceiling(found["raw_without_ties"])
    assert ceiling.low < ceiling.at_least == 1.0


def test_figures_of_annotators_are_covered() -> None:  # E3
    """Three people, right four times of five, with a tie now and then; which side is shown first has to do with nothing."""
    random, held, times = np.random.default_rng(1), Counter(), 100
    for _ in range(times):
        rows, answers, gold = [], [], {}
        for item in range(40):
            better = int(random.random() < 0.5)
            gold[item] = "ab"[better]
            for who in range(PEOPLE):
                side = better if random.random() < 0.8 else 1 - better
                choice = "tie" if random.random() < 0.1 else "ab"[side]
                rows.append(judgement(item, item, who, choice))
                left = "ab"[int(random.random() < 0.5)]
                answers.append(
                    PairChoice(annotator=f"p{who}", item=item, choice=choice, left=left, seconds=1.0)
                )
        one, *_ = figures(answers, pair_labels(rows).labels, gold=gold)
        # The other two say the same: both right, both wrong, or both a tie.
        named = np.array([0.9 * 0.8, 0.9 * 0.2, 0.1])
        expected = {
            "ties": 0.1,
            "first_shown": 0.5,
            "gold": 0.72,
            "with_others": float((named**3).sum() / (named**2).sum()),
        }
        for name, truth in expected.items():
            share = getattr(one, name)
            held[name] += share.low <= truth <= share.high
    assert {name: count for name, count in held.items() if count < 0.9 * times} == {}


def test_rates_against_a_baseline_are_covered() -> None:  # E3
    """Eight votes of a model on a prompt share how hard the prompt is."""
    random, held, times = np.random.default_rng(2), Counter(), 40
    quality_of = {"m0": -0.8, "m1": 0.0, "m2": 0.9}
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    for _ in range(times):
        hard, rows = random.normal(0, 1, 40), []
        for name, level in quality_of.items():
            for prompt in range(40):
                for who in range(8):
                    won = random.random() < expit(level + hard[prompt])
                    each = judgement(len(rows), prompt, who, "a" if won else "b", (name, "base"))
                    lengths = random.integers(20, 60, 2)
                    texts = tuple("x" * int(n) for n in lengths)
                    rows.append(replace(each, completions=texts))
        for name, found in win_rates_against(rows, "base").items():
            truth = float(expit(quality_of[name] + nodes) @ weights / weights.sum())
            low, high = found.raw.interval
            assert not math.isnan(found.controlled.value)
            held["raw"] += low <= truth <= high
            held["at equal length"] += found.low <= truth <= found.high
    assert {name: count for name, count in held.items() if count < 0.9 * 3 * times} == {}
