import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.configs.ppo import KL
from prefloop.errors import InputError
from prefloop.losses import ESTIMATORS, k1, k2, k3, next_coef, sequence_sum
from prefloop.losses.ratio import LOG_RATIO_LIMIT

from .cases import gradient, normal, numerical_gradient, ragged_mask, widened, with_padding

LOGITS = normal(6, seed=0)
REFERENCE = normal(6, seed=1).log_softmax(-1)
POLICY = LOGITS.softmax(-1)


def exact_kl(logits: Tensor, reference: Tensor = REFERENCE) -> Tensor:
    logprobs = logits.log_softmax(-1)
    return (logprobs.exp() * (logprobs - reference)).sum()


def forward_kl(logits: Tensor) -> Tensor:
    """KL(π_ref || π)."""
    return (REFERENCE.exp() * (REFERENCE - logits.log_softmax(-1))).sum()


KL_GRADIENT = gradient(exact_kl, LOGITS)
FORWARD_GRADIENT = gradient(forward_kl, LOGITS)


def estimates(name: str, logits: Tensor) -> Tensor:
    """The estimator at every token of the vocabulary."""
    return ESTIMATORS[name](logits.log_softmax(-1).unsqueeze(0), REFERENCE.unsqueeze(0))[0]


def as_loss(name: str) -> Tensor:
    """Expected gradient, over tokens from the policy, of the estimator differentiated through the policy."""
    return gradient(lambda logits: POLICY * estimates(name, logits), LOGITS)


def as_reward(per_token: Tensor) -> Tensor:
    """Expected policy gradient where the estimate is a cost: E[cost ∇log π]."""
    return gradient(lambda logits: POLICY * per_token.detach() * logits.log_softmax(-1), LOGITS)


def test_exact_gradient_is_right_to_begin_with():
    probability = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()  # noqa: E731
    numeric = numerical_gradient(
        lambda x: float((probability(x) * (np.log(probability(x)) - REFERENCE.numpy())).sum()), LOGITS
    )
    np.testing.assert_allclose(KL_GRADIENT.numpy(), numeric, atol=1e-8)


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_k1_and_k3_estimate_the_kl_without_bias(name: str):
    assert (POLICY * estimates(name, LOGITS)).sum().item() == pytest.approx(exact_kl(LOGITS).item())


@pytest.mark.parametrize("mean", [0.1, 1.0])
def test_estimators_on_gaussians_have_the_known_moments(mean: float):
    """y from N(0, 1), reference N(mean, 1), by quadrature; relative to the KL of mean^2 / 2."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    weights = torch.tensor(weights / weights.sum())
    y = torch.tensor(nodes).unsqueeze(0)
    kl = mean**2 / 2
    expected = {
        0.1: {"k1": (0, 20), "k2": (0.0025, 1.42), "k3": (0, 1.42)},
        1.0: {"k1": (0, 2), "k2": (0.25, 1.73), "k3": (0, 1.7)},
    }[mean]
    for name, (bias, deviation) in expected.items():
        estimate = ESTIMATORS[name](-(y**2) / 2, -((y - mean) ** 2) / 2)[0]
        average = (weights * estimate).sum().item()
        assert average / kl - 1 == pytest.approx(bias, abs=1e-4)
        spread = (weights * (estimate - average) ** 2).sum().sqrt().item()
        assert spread / kl == pytest.approx(deviation, rel=5e-3)


def test_k1_as_a_loss_does_nothing():  # K4
    torch.testing.assert_close(as_loss("k1"), torch.zeros(6).double(), atol=1e-12, rtol=0)


def test_k2_as_a_loss_has_the_gradient_of_the_kl():  # K4
    torch.testing.assert_close(as_loss("k2"), KL_GRADIENT, atol=1e-12, rtol=0)


def test_k3_as_a_loss_has_the_gradient_of_the_other_kl():  # K4
    torch.testing.assert_close(as_loss("k3"), FORWARD_GRADIENT, atol=1e-12, rtol=0)
    assert (FORWARD_GRADIENT - KL_GRADIENT).abs().max() > 0.05


def test_k1_as_a_reward_has_the_gradient_of_the_kl():  # K4
    torch.testing.assert_close(as_reward(estimates("k1", LOGITS)), KL_GRADIENT, atol=1e-12, rtol=0)


def test_other_estimators_as_a_reward_do_not():  # K4
    assert (as_reward(estimates("k2", LOGITS)) - KL_GRADIENT).abs().max() > 0.1
    torch.testing.assert_close(
        as_reward(estimates("k3", LOGITS)), KL_GRADIENT - FORWARD_GRADIENT, atol=1e-12, rtol=0
    )
    # The exact KL is the same for all tokens at a prefix: a baseline, not a cost of any of them.
    exact = exact_kl(LOGITS).expand(6)
    torch.testing.assert_close(as_reward(exact), torch.zeros(6).double(), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "step", [as_loss("k2"), as_loss("k3"), as_reward(estimates("k1", LOGITS)), KL_GRADIENT]
)
def test_a_small_step_down_the_penalty_moves_towards_the_reference(step: Tensor):  # K5
    assert exact_kl(LOGITS - 0.05 * step) < exact_kl(LOGITS)
    assert exact_kl(LOGITS + 0.05 * step) > exact_kl(LOGITS)


def test_values_by_hand():
    """r = ln 2: k1 = r, k2 = r^2 / 2, k3 = 1/2 - 1 + r. At r = 0 all are 0."""
    r = float(np.log(2))
    logprobs, reference = torch.tensor([[r - 3, -3.0]]).double(), torch.tensor([[-3.0, -3.0]]).double()
    assert k1(logprobs, reference)[0].tolist() == pytest.approx([r, 0])
    assert k2(logprobs, reference)[0].tolist() == pytest.approx([r * r / 2, 0])
    assert k3(logprobs, reference)[0].tolist() == pytest.approx([r - 0.5, 0])
    assert torch.all(k3(normal(5, 5, seed=3), normal(5, 5, seed=4)) >= 0)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("r", [-1e4, -200.0, 200.0, 1e4])
def test_extreme_log_ratios_are_finite_and_pull_the_right_way(name: str, r: float):  # K10 K4
    estimate = lambda lp: ESTIMATORS[name](lp, torch.zeros(1, 1))  # noqa: E731
    at = torch.tensor([[r]])
    slope = gradient(estimate, at).item()
    assert estimate(at).isfinite().all()
    assert np.isfinite(slope)
    if name != "k1":
        # Down the slope is back to the reference, also where a plain clamp would have cut or turned it.
        assert slope * r > 0


def test_k3_is_exact_up_to_the_limit():
    r = torch.linspace(-LOG_RATIO_LIMIT, 5, 50, dtype=torch.float64).unsqueeze(0)
    torch.testing.assert_close(k3(r, torch.zeros_like(r)), (-r).exp() - 1 + r)


def test_every_estimator_of_the_configuration_exists():  # K7
    """All but `exact`, which the models compute; and no two of them agree."""
    names = KL.__dataclass_fields__["estimator"].type.__args__
    assert set(names) == {*ESTIMATORS, "exact"}
    results = [estimates(name, LOGITS) for name in ESTIMATORS]
    assert all((a - b).abs().max() > 0.01 for i, a in enumerate(results) for b in results[:i])


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sequence_kl_does_not_see_padding(name: str):  # K13
    mask = ragged_mask([2, 0, 4])
    logprobs, reference = normal(3, 4, seed=0), normal(3, 4, seed=1)
    narrow = sequence_sum(ESTIMATORS[name](logprobs, reference), mask)
    wide = sequence_sum(
        ESTIMATORS[name](with_padding(logprobs, mask, 55.0, 3), with_padding(reference, mask, np.nan, 3)),
        widened(mask, 3),
    )
    torch.testing.assert_close(narrow, wide)
    by_hand = [sum(ESTIMATORS[name](logprobs, reference)[b, :n].tolist()) for b, n in enumerate([2, 0, 4])]
    assert narrow.tolist() == pytest.approx(by_hand)


def test_controller_by_hand():
    settings = {"target": 6.0, "horizon": 10000, "n": 512}
    assert next_coef(0.15, 12.0, **settings) == pytest.approx(0.151536)
    assert next_coef(0.15, 0.0, **settings) == pytest.approx(0.15 * (1 - 0.2 * 512 / 10000))
    assert next_coef(0.15, 6.6, **settings) == pytest.approx(0.15 * (1 + 0.1 * 512 / 10000))
    assert next_coef(0.15, 6.0, **settings) == 0.15


def test_controller_steers_to_its_target():
    """A policy whose KL is 1 / coef settles at the target."""
    coef = 1.0
    for _ in range(2000):
        coef = next_coef(coef, 1 / coef, target=6.0, horizon=1000, n=100)
    assert 1 / coef == pytest.approx(6.0, rel=1e-3)


def test_controller_refuses_steps_that_could_turn_the_coefficient_negative():
    with pytest.raises(
        InputError, match=r"kl\.horizon is 100 with 512 completions a step; it must be above 102\.4"
    ):
        next_coef(0.1, 0.0, target=6.0, horizon=100, n=512)
