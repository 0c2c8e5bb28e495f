"""What labels allow: the ceiling from soft labels, and from pairs that were judged more than once."""

import json
import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest

from prefloop.evaluation.json_files import decode, encode
from prefloop.evaluation.label_noise import ceiling_of_agreement, ceiling_of_soft_labels
from prefloop.evaluation.report_figures import reward_model_accuracy
from prefloop.evaluation.reward_model_quality import RewardModelQuality, reward_model_quality
from prefloop.evaluation.tables import reward_model_lines
from prefloop.records import Comparison, Prompt


def pair(at: int, *, first: bool = True, p_soft: float = 1.0, who: str = "") -> Comparison:
    one, other = (f"a {at}", f"b {at}") if first else (f"b {at}", f"a {at}")
    return Comparison(
        prompt=Prompt(content=f"p {at}"), chosen=one, rejected=other, p_soft=p_soft, annotator=who
    )


def test_soft_labels_are_taken_at_their_word() -> None:
    assert ceiling_of_soft_labels([pair(0), pair(1)]) is None
    soft = [pair(0, p_soft=0.9), pair(1, p_soft=0.3), pair(2)]
    assert ceiling_of_soft_labels(soft) == pytest.approx((0.9 + 0.7 + 1) / 3)


def test_agreement_by_hand() -> None:
    # Two pairs agree, one does not, and of one with three labels one couple of three does: 3 of 6.
    said = [(0, 1, 1), (1, 0, 0), (2, 1, 0)]
    rows = [pair(at, first=bool(label)) for at, *labels in said for label in labels]
    rows += [pair(3, first=True), pair(3, first=True), pair(3, first=False), pair(4)]
    found = ceiling_of_agreement(rows)
    assert found is not None
    assert found.items == 4
    agreement = (1 + 1 + 0 + 1) / (1 + 1 + 1 + 3)
    assert found.at_least == pytest.approx(max(0.5, agreement))
    assert found.at_most == pytest.approx(0.5 * (1 + math.sqrt(max(0.0, 2 * agreement - 1))))


def test_pairs_judged_once_or_in_other_contexts_say_nothing() -> None:
    assert ceiling_of_agreement([pair(at) for at in range(5)]) is None
    assert ceiling_of_agreement([pair(0), pair(0, first=False)]) is None  # one pair has no interval
    soft = [pair(at, p_soft=0.7) for at in (0, 0, 1, 1)]
    assert ceiling_of_agreement(soft) is None
    contexts = [replace(pair(at), context=context) for at in (0, 1) for context in ("short", "long")]
    assert ceiling_of_agreement(contexts) is None


def test_the_bounds_hold_what_a_perfect_model_reaches() -> None:
    """Labels drawn with a known probability each: whoever knows it is right mean max(q, 1 - q) of the time, within the bounds."""
    random = Random(0)
    q = [random.random() for _ in range(3000)]
    rows = [pair(at, first=random.random() < p) for at, p in enumerate(q) for _ in range(2)]
    found = ceiling_of_agreement(rows)
    assert found is not None
    reached = sum(max(p, 1 - p) for p in q) / len(q)
    assert found.low < reached < found.high
    assert found.at_least < reached < found.at_most


def test_it_stands_beside_the_accuracy() -> None:
    rows = [pair(at, first=at % 4 > 0 or who == "x", who=who) for at in range(40) for who in "xy"]
    ceiling = ceiling_of_agreement(rows)
    scores = np.linspace(-1, 1, len(rows))
    quality = reward_model_quality(scores, scores[::-1], scores, scores, label_ceiling=ceiling)
    assert "between 75.0% and 85.4% can be expected at best" in reward_model_lines(quality)
    assert "40 pairs with several labels" in reward_model_lines(quality)
    figure = reward_model_accuracy(None, quality)
    assert figure is not None
    assert "ceiling 75" in figure.svg
    assert "did not always agree" in figure.caption
    again = decode(RewardModelQuality, json.loads(json.dumps(encode(quality))), "file: ")
    assert again.label_ceiling == ceiling
    before = encode(quality)
    del before["label_ceiling"]  # as an earlier version wrote it
    assert decode(RewardModelQuality, before, "file: ").label_ceiling is None
