"""Losses of rankings that leave some completions tied or unordered, against values worked out by hand."""

import math

import pytest
import torch

from prefloop.loop.reward_step import USABLE
from prefloop.losses.listwise import plackett_luce, plackett_luce_top
from prefloop.losses.reward_model import best_of, ordered_pairs
from prefloop.records import Prompt, Ranking

PROMPT = Prompt(content="?")
SCORES = [2.0, 0.5, -1.0, 1.0]


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def test_pairs_that_a_ranking_orders():  # D15
    """1, 2, 2, 3: the mean over five pairs, the tied ones in none."""
    pairs = torch.zeros(1, 4, 4, dtype=torch.bool)
    listed = [(0, 1), (0, 2), (0, 3), (1, 3), (2, 3)]
    for i, j in listed:
        pairs[0, i, j] = True
    expected = -sum(log_sigmoid(SCORES[i] - SCORES[j]) for i, j in listed) / 5
    assert ordered_pairs(torch.tensor([SCORES]), pairs).item() == pytest.approx(expected, rel=1e-6)


def test_plackett_luce_of_the_first_places():  # D15
    """Of one place it is the choice of the best of K, and moves nothing among the rest; of all places but the last it is the whole order."""
    scores = torch.tensor([SCORES], requires_grad=True)
    present = torch.ones(1, 4, dtype=torch.bool)
    one = torch.tensor([[True, False, False, False]])
    loss = plackett_luce_top(scores, present, one)
    assert loss.item() == pytest.approx(math.log(sum(map(math.exp, SCORES))) - SCORES[0], rel=1e-6)
    assert torch.allclose(loss, best_of(scores, present))
    loss.sum().backward()
    assert scores.grad is not None
    total = sum(map(math.exp, SCORES))
    assert scores.grad[0].tolist() == pytest.approx(
        [math.exp(s) / total - (at == 0) for at, s in enumerate(SCORES)], abs=1e-6
    )
    three = torch.tensor([[True, True, True, False]])
    assert torch.allclose(plackett_luce_top(scores, present, three), plackett_luce(scores, present))


def test_what_each_loss_can_train_on():
    texts = ("a", "b", "c", "d")
    strict = Ranking(prompt=PROMPT, completions=texts)
    tied, tied_best = (
        Ranking(prompt=PROMPT, completions=texts, ranks=ranks) for ranks in ((1, 2, 2, 3), (1, 1, 2, 3))
    )
    best = Ranking(prompt=PROMPT, completions=texts, top=1)
    usable = {name: [use(each) for each in (strict, tied, tied_best, best)] for name, use in USABLE.items()}
    assert usable == {
        "all_pairs": [True, True, True, True],
        "plackett_luce": [True, False, False, True],
        "best_of": [True, True, False, True],
    }
