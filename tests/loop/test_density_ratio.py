"""The odds that prompts come from good or bad completions."""

from pathlib import Path

import pytest
import torch

from prefloop.loop.density_ratio import odds_of, prompt_features
from prefloop.models.load import load_policy
from prefloop.runtime import World
from prefloop.text.groups import Group
from tests.algorithms.tiny import CPU


def test_odds_are_the_density_ratio_whatever_the_shares_are() -> None:
    """Two normal distributions a distance d apart: log p(x | good)/p(x | bad) = d (x - d/2), from 4 bad ones for each good one."""
    draw = torch.Generator().manual_seed(0)
    good = torch.arange(5000) % 5 == 0
    x = torch.randn(5000, 1, generator=draw, dtype=torch.float64) + 1.5 * good[:, None]
    at = torch.tensor([[-1.0], [0.75], [2.0]], dtype=torch.float64)
    _, odds = odds_of(x, good, at)
    assert odds.log().tolist() == pytest.approx([1.5 * (v - 0.75) for v in (-1.0, 0.75, 2.0)], abs=0.2)


def test_features_that_say_nothing_give_even_odds() -> None:
    good = torch.tensor([True, False, False, True, False])
    constant = torch.full((5, 3), 2.0, dtype=torch.float64)
    odds, others = odds_of(constant, good, constant[:2])
    assert odds.tolist() == pytest.approx([1.0] * 5, abs=1e-6)
    assert others.tolist() == pytest.approx([1.0] * 2, abs=1e-6)


def test_the_penalty_keeps_separable_prompts_finite() -> None:
    good = torch.tensor([True, False] * 6)
    odds, _ = odds_of(good.double()[:, None], good, torch.zeros(0, 1, dtype=torch.float64))
    assert 2 < odds[0] < 1e4
    assert odds[1].item() == pytest.approx(1 / odds[0].item(), rel=1e-4)


@pytest.mark.parametrize("tokens", [8, 4096])
def test_features_are_each_prompts_last_state(tokens: int, project: Path) -> None:
    policy = load_policy(str(project / "start"), CPU)
    prompts = [[3, 4, 5], [6], [3, 4]]
    groups = [
        Group(prompt=prompt, completions=([7 + i, 8],), masks=((False, True),))
        for i, prompt in enumerate(prompts)
    ]
    features = prompt_features(
        policy, groups, tokens=tokens, world=World(rank=0, size=1, device=torch.device("cpu"))
    )
    with torch.no_grad():
        for prompt, row in zip(prompts, features, strict=True):
            states = policy.model.model(input_ids=torch.tensor([prompt])).last_hidden_state
            torch.testing.assert_close(row.float(), states[0, -1], rtol=1e-4, atol=1e-5)
