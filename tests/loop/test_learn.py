"""The watch over the first minibatch of a step: there the probability ratio must be 1."""

import pytest
import torch

from prefloop.errors import InputError
from prefloop.loop.engine_sync import NOISE
from prefloop.loop.learn import Watch
from prefloop.loop.sources import StartCheck
from prefloop.runtime import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def seen(*distances: float) -> dict[str, float]:
    """What a watch says of tokens whose log-probabilities moved by so much, seen in two parts, one of them with padding."""
    watch = Watch()
    for part in (distances[:1], distances[1:]):
        old = torch.zeros(1, len(part) + 1)
        mask = torch.tensor([[True] * len(part) + [False]])
        watch.see(torch.tensor([[*part, 5.0]]), old, mask)
    watch.closed = True
    watch.see(torch.full((1, 2), 9.0), torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool))
    return watch.metrics(ALONE)


def check(dtype: str) -> StartCheck:
    return StartCheck(temperature=1.0, noise=NOISE[dtype], of_mean=dtype == "bfloat16")


def test_the_largest_and_the_mean_distance_over_the_tokens_of_the_first_minibatch() -> None:
    metrics = seen(0.0, 0.1, -0.1)
    up, down = torch.tensor(0.1).exp().item() - 1, 1 - torch.tensor(-0.1).exp().item()
    assert metrics["ratio"] == pytest.approx(up, rel=1e-5)
    assert metrics["ratio_mean"] == pytest.approx((up + down) / 3, rel=1e-5)
    assert Watch().metrics(ALONE) == {"ratio": 0.0, "ratio_mean": 0.0}


def test_rounding_to_bfloat16_moves_single_tokens_far_and_a_wrong_policy_all() -> None:
    rounded = seen(0.35, *[0.03, -0.03] * 20)
    check("bfloat16").ratio(rounded)
    wrong = seen(*[0.3, -0.2] * 20)
    with pytest.raises(InputError, match=r"step 0: ratio is 1\.2"):
        check("bfloat16").ratio(wrong)


def test_in_float32_one_token_is_enough() -> None:
    check("float32").ratio(seen(*[1e-4] * 1000))
    with pytest.raises(InputError, match=r"step 0: ratio is 1\.01"):
        check("float32").ratio(seen(0.01, *[0.0] * 1000))
