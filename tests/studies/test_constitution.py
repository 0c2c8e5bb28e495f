"""Constitutional AI in the world of letters: revisions against a brute-force chain, their limit, and policies that imitate them."""

import math
from itertools import product

import pytest
import torch

from prefloop.studies.constitution import imitate, revise, table_of
from prefloop.studies.letters import Letters, distribution, kl, make_world, standardised, tilted


@pytest.fixture(scope="module")
def world() -> Letters:
    return make_world(prompts=2, letters=2, longest=3, seed=0)


def tastes(world: Letters) -> torch.Tensor:
    return torch.stack([standardised(part, world.probabilities) for part in world.parts])[[0, 4]]


def test_revisions_are_the_chain_written_out(world: Letters) -> None:
    """Answer by answer, place by place and principle by principle, in Python's floats."""
    tree, principles = world.tree, tastes(world)
    found = revise(world, principles, 2, temperature=0.5, rewriting=0.8)
    texts = [tuple(row[mask].tolist()) for row, mask in zip(tree.tokens, tree.mask, strict=True)]
    for prompt, reference in enumerate(world.probabilities.tolist()):
        now = reference
        for revision in range(3):
            torch.testing.assert_close(found[revision, prompt], torch.tensor(now), atol=1e-6, rtol=1e-4)
            after = [0.0] * len(now)
            for at, place, principle in product(range(len(texts)), range(3), range(2)):
                mass = now[at] / 3 / 2
                if place >= len(texts[at]):
                    after[at] += mass
                    continue
                opinion = principles[principle, prompt].tolist()
                same = [
                    n
                    for n, text in enumerate(texts)
                    if text[:place] == texts[at][:place] and len(text) > place
                ]
                weights = [reference[n] * math.exp(opinion[n] / 0.8) for n in same]
                for n, weight in zip(same, weights, strict=True):
                    moved = mass * weight / sum(weights)
                    kept = 1 / (1 + math.exp(-(opinion[n] - opinion[at]) / 0.5))
                    after[n] += moved * kept
                    after[at] += moved * (1 - kept)
            now = after


def test_revisions_by_one_principle_approach_the_best_policy_for_it(world: Letters) -> None:
    """At 1 / (1 / 1 + 1 / 0.5) = 1/3; and never sooner than they can."""
    only = standardised(world.gold, world.probabilities)[None]
    found = revise(world, only, 60, temperature=0.5, rewriting=1.0)
    best = tilted(world, only[0], 1 / 3)
    away = [kl(p, best) for p in found]
    assert away[-1] < 1e-4
    assert away[0] > away[1] > away[2] > 0.01


def test_a_distribution_is_a_table(world: Letters) -> None:
    p = tilted(world, world.gold, 0.5)
    torch.testing.assert_close(distribution(world.tree, table_of(world.tree, p)), p)


def test_a_policy_imitates_the_answers(world: Letters) -> None:
    p = tilted(world, world.gold, 0.5)
    draw = torch.Generator().manual_seed(0)
    prompt = torch.randint(2, (4000,), generator=draw)
    answers = torch.multinomial(p[prompt], 1, generator=draw).squeeze(1)
    table = imitate(world, prompt, answers, width=16, steps=300, seed=0)
    found = distribution(world.tree, table)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert kl(p, found) < 0.01 < 0.2 < kl(p, world.probabilities)
