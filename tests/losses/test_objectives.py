"""Each objective against its paper's formula, and what must hold of it whatever the numbers are."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from prefloop.errors import InputError
from prefloop.losses import listwise, pairwise, reference_free, unary, whole_step
from prefloop.losses.objectives import (
    OBJECTIVES,
    Loss,
    Objective,
    call,
    objective_of,
    parameters,
    settings_of,
)
from prefloop.losses.preference import dpo_loss
from prefloop.losses.quantities import Needs, TokenNumbers, asked, quantities
from prefloop.losses.whole_step import Prepared, beta_dpo_step

from .cases import gradient, normal, numerical_gradient
from .objectives import by_hand, example, losses, prepared

FORMULAS = [name for name in OBJECTIVES if name != "beta_dpo"]  # its filter draws: tested by itself


def grown(numbers: TokenNumbers, *, extra: int, junk: float) -> TokenNumbers:
    """The same completions with other junk in the padding, and more of it."""

    def pad(values: Tensor) -> Tensor:
        filled = torch.where(numbers.mask, values, junk)
        return torch.cat([filled, filled.new_full((len(filled), extra), junk)], dim=1)

    mask = torch.cat([numbers.mask, numbers.mask.new_zeros(len(numbers.mask), extra)], dim=1)
    names = ("logprobs", "reference", "forward_kl", "log_collision", "contrast")
    return replace(numbers, mask=mask, **{name: pad(getattr(numbers, name)) for name in names})


def four(count: int, *, scale: float = 1.0, mean: float = 0.0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of policy and reference, chosen and rejected."""
    a, b, c, d = (normal(count, seed=seed, scale=scale) + mean for seed in range(4))
    return a, b, c, d


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", FORMULAS)
def test_value_and_gradient_are_the_papers(name: str, seed: int):  # K15
    objective = OBJECTIVES[name]
    given = example(objective.data, seed=seed)
    numbers = given.numbers
    # The second time with other settings: at their defaults several are 1, or the same on both sides.
    factor = 1.0 if seed == 0 else 1.3
    settings = {key: value if key == "decay" else factor * value for key, value in objective.settings.items()}
    extra = prepared(objective, given, settings)

    def of_tokens(tokens: Tensor) -> Tensor:
        return losses(name, replace(numbers, logprobs=tokens), extra, settings)

    def of_kl(kl: Tensor) -> Tensor:
        return losses(name, replace(numbers, forward_kl=kl), extra, settings)

    def of_contrast(contrast: Tensor) -> Tensor:
        return losses(name, replace(numbers, contrast=contrast), extra, settings)

    forward_kl, contrast = asked(numbers.forward_kl), asked(numbers.contrast)
    expected = by_hand(name, given, numbers.logprobs, forward_kl, settings=settings)
    assert of_tokens(numbers.logprobs).sum().item() == pytest.approx(expected, rel=1e-9)
    ours = gradient(of_tokens, numbers.logprobs)
    assert torch.all(ours[~numbers.mask] == 0)
    theirs = numerical_gradient(
        lambda x: by_hand(name, given, torch.from_numpy(x), forward_kl, settings=settings),
        numbers.logprobs,
    )
    np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-5)
    if objective.needs.forward_kl:
        ours = gradient(of_kl, forward_kl)
        theirs = numerical_gradient(
            lambda x: by_hand(name, given, numbers.logprobs, torch.from_numpy(x), settings=settings),
            forward_kl,
        )
        assert ours.abs().max() > 0
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
    if objective.needs.contrast:
        ours = gradient(of_contrast, contrast)
        theirs = numerical_gradient(
            lambda x: by_hand(
                name, given, numbers.logprobs, forward_kl, torch.from_numpy(x), settings=settings
            ),
            torch.where(numbers.mask, contrast, 0.0),
        )
        assert ours.abs().max() > 0
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, each in OBJECTIVES.items() if each.start])
def test_the_value_at_the_reference_is_the_entry_of_the_table(name: str):  # K9
    objective = OBJECTIVES[name]
    given = example(objective.data, at_start=True)
    extra = prepared(objective, given, objective.settings)
    observed = losses(name, given.numbers, extra)
    assert objective.start is not None
    names = [each for each in parameters(objective.start) if each not in objective.settings]
    values = quantities(objective.data, names, given.numbers)
    expected = call(objective.start, {**values, **objective.settings})
    torch.testing.assert_close(
        observed.mean(),
        torch.as_tensor(expected, dtype=torch.float64).mean(),
        rtol=1e-6,  # log K! by lgamma is float32
        atol=1e-9,
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ipo_sum", 25.0),
        ("hinge", 1.0),
        ("apo_zero", 1.0),
        ("apo_down", 1.0),
        ("nca_pair", 2 * math.log(2)),
        ("bco_pair", 2 * math.log(2)),
        ("exo_pair", 2.7612),
        ("discopop", 0.8466),
        ("sppo_hard", 0.5e6),
        ("robust_dpo", math.log(2)),
        ("tdpo2", math.log(2)),
        ("d2o", math.log(2)),
    ],
)
def test_values_at_the_reference_by_hand(name: str, value: float):
    """The numbers of the formulas at their defaults, as printed in the docs."""
    objective = OBJECTIVES[name]
    given = example(objective.data, at_start=True)
    extra = prepared(objective, given, objective.settings)
    assert losses(name, given.numbers, extra).mean().item() == pytest.approx(value, rel=1e-4)


def test_reference_free_values_at_equal_means_by_hand():
    """SimPO -log σ(-γ) = 1.3133 at γ = 1; ORPO 1 + 0.1 ln 2 = 1.0693 at p̄ = -1; log 3! = 1.7918."""
    sums, tokens = torch.tensor([-2.0, -3.0]), torch.tensor([2, 3])
    other, other_tokens = torch.tensor([-4.0, -1.0]), torch.tensor([4, 1])
    simpo = reference_free.simpo_loss(sums, other, tokens, other_tokens, gamma=1.0)
    assert simpo.tolist() == pytest.approx([1.3132617] * 2)
    orpo = reference_free.orpo_loss(sums, other, tokens, other_tokens)
    assert orpo.tolist() == pytest.approx([1.0693147] * 2)
    flat = listwise.plackett_luce(torch.zeros(1, 3), torch.ones(1, 3, dtype=torch.bool))
    assert flat.item() == pytest.approx(1.7917595)


@pytest.mark.parametrize("name", FORMULAS)
def test_padding_and_its_content_change_nothing(name: str):  # M8 M9
    objective = OBJECTIVES[name]
    given = example(objective.data, seed=3)
    extra = prepared(objective, given, objective.settings)
    numbers = given.numbers
    for junk in (0.0, math.nan, math.inf):
        wide = grown(numbers, extra=2, junk=junk)
        torch.testing.assert_close(losses(name, wide, extra), losses(name, numbers, extra))
        ours = gradient(lambda x, w=wide: losses(name, replace(w, logprobs=x), extra), wide.logprobs)
        same = gradient(lambda x: losses(name, replace(numbers, logprobs=x), extra), numbers.logprobs)
        torch.testing.assert_close(ours[:, :7], same, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [n for n, each in OBJECTIVES.items() if each.data == "comparisons"])
def test_order_of_comparisons_does_not_matter(name: str):  # M11
    objective = OBJECTIVES[name]
    given = example("comparisons", seed=4)
    order = torch.tensor([3, 0, 4, 1, 2])
    rows = (2 * order[:, None] + torch.tensor([0, 1])).flatten()
    numbers = given.numbers
    fields = ("logprobs", "mask", "reference", "forward_kl", "log_collision", "contrast", "value", "labels")
    shuffled = replace(numbers, **{name: getattr(numbers, name)[rows] for name in fields})
    if objective.prepare is beta_dpo_step:
        extra = Prepared(shared={"step_beta": torch.tensor(0.1)}, each={"step_weight": torch.ones(5)})
        other = extra
    else:
        extra = prepared(objective, given, objective.settings)
        other = prepared(objective, replace(given, numbers=shuffled), objective.settings)
    torch.testing.assert_close(losses(name, shuffled, other), losses(name, numbers, extra)[order])


# Which side a gradient step raises. `down` on chosen is wanted where the method says so.
_NOT_UP = {"apo_down"}
_AGAINST = {"discopop"}  # its slope at the reference points the wrong way: see its docstring
_NOT_DOWN = {"sft"}


@pytest.mark.parametrize("name", [n for n, each in OBJECTIVES.items() if each.data == "comparisons"])
def test_a_step_from_the_reference_raises_chosen_and_lowers_rejected(name: str):  # K5
    objective = OBJECTIVES[name]
    given = example("comparisons", seed=5, at_start=True)
    extra = prepared(objective, given, objective.settings)
    if name == "dpop":  # at its corner the derivative of max(0, -ρ) is taken as 0
        assert objective.settings["penalty"] > 0
    numbers = given.numbers
    if (
        objective.takes_soft_labels and not objective.soft_labels
    ):  # a chosen completion that loses is not raised
        numbers = replace(numbers, labels=1.0 - torch.arange(10) % 2)
    moved = gradient(lambda x: losses(name, replace(numbers, logprobs=x), extra), numbers.logprobs)
    chosen, rejected = moved[0::2][numbers.mask[0::2]], moved[1::2][numbers.mask[1::2]]
    if name == "beta_dpo":
        assert (chosen <= 0).all()
        assert chosen.min() < 0
        assert (rejected >= 0).all()
        return
    if name in _AGAINST:
        slope = (1 - math.log(2)) / (4 * 0.05) - 0.75
        assert chosen.flatten().tolist() == pytest.approx([0.1 * slope] * len(chosen))
        assert rejected.flatten().tolist() == pytest.approx([-0.1 * slope] * len(rejected))
        return
    if name in _NOT_UP:
        assert torch.allclose(chosen, torch.zeros_like(chosen), atol=1e-12)
    else:
        assert (chosen < 0).all()
    if name in _NOT_DOWN:
        assert (rejected == 0).all()
    else:
        assert (rejected > 0).all()


def test_methods_that_contain_others_reduce_to_them():  # K15
    p = four(6, scale=2.0, mean=-9.0)
    half = (p[0] / 2, p[1] / 2, p[2] / 2, p[3] / 2)
    n, m = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([6, 5, 4, 3, 2, 1])
    zero = torch.zeros(6, dtype=torch.float64)
    dpo = dpo_loss(*p, beta=0.3)
    same = {
        "tdpo1 without KL": pairwise.tdpo1_loss(*p, zero, zero, beta=0.3),
        "tdpo2 at α = 0": pairwise.tdpo2_loss(*p, zero + 1, zero + 2, beta=0.3, alpha=0.0),
        "r_dpo at α = 0": pairwise.r_dpo_loss(*p, n, m, beta=0.3, alpha=0.0),
        "ld_dpo at α = 1": pairwise.ld_dpo_loss(*p, pairwise.margin_of(*half), beta=0.3, alpha=1.0),
        "ld_dpo of equal lengths": pairwise.ld_dpo_loss(*p, pairwise.margin_of(*p), beta=0.3, alpha=0.2),
        "dpop without penalty": pairwise.dpop_loss(*p, beta=0.3, penalty=0.0),
        "robust at ε = 0": pairwise.robust_dpo_loss(*p, beta=0.3, label_smoothing=0.0),
        "rpo at α = 0": pairwise.rpo_loss(*p, n, beta=0.3, alpha=0.0),
        "wpo of certain policies": pairwise.wpo_loss(*p, zero + 1, zero + 1, beta=0.3),
        "f-DPO, α → 0": pairwise.f_dpo_alpha_loss(*p, beta=0.3, alpha=1e-7),
        "β-DPO that keeps all": pairwise.beta_dpo_loss(*p, torch.tensor(0.3).double(), zero + 1),
        "dpo_norm of one-token completions": pairwise.dpo_norm_loss(*p, n * 0 + 1, n * 0 + 1, beta=0.3),
        "cpo against a uniform reference": reference_free.cpo_loss(
            p[0] - p[2], p[1] - p[3], n, beta=0.3, alpha=0.0
        ),
        "Plackett-Luce of two": listwise.pl_dpo_loss(
            torch.stack(p[:2], 1), torch.stack(p[2:], 1), torch.ones(6, 2, dtype=torch.bool), beta=0.3
        ),
        "EXO is KL(q ‖ p); at q = p it is 0": dpo
        + pairwise.exo_pair_loss(zero + math.log(9) / 0.3, zero, zero, zero, beta=0.3, label_smoothing=0.1),
    }
    for what, value in same.items():
        torch.testing.assert_close(value, dpo, rtol=1e-5, atol=1e-6, msg=what)
    forward = pairwise.f_dpo_forward_kl_loss(*p, beta=0.3)
    torch.testing.assert_close(pairwise.f_dpo_alpha_loss(*p, beta=0.3, alpha=1.0), forward)
    # GPO's square (βh - 1)² is IPO of half the β, up to β²; beyond the corner the truncated one is 0.
    h = pairwise.margin_of(*p)
    ipo = pairwise.ipo_sum_loss(*p, beta=0.15)
    torch.testing.assert_close((0.3 * h - 1).square(), 0.3**2 * ipo)
    truncated = pairwise.gpo_truncated_square_loss(*p, beta=0.3)
    torch.testing.assert_close(truncated, torch.where(0.3 * h < 1, 0.3**2 * ipo, 0.0))
    torch.testing.assert_close(pairwise.hinge_loss(*p, beta=0.3).square(), truncated)
    # SimPO as TRL writes it, γ/β inside.
    simpo = reference_free.simpo_loss(p[0], p[1], n, m, beta=2.5, gamma=0.5)
    inside = -torch.nn.functional.logsigmoid(2.5 * (p[0] / n - p[1] / m - 0.5 / 2.5))
    torch.testing.assert_close(simpo, inside)
    # NPO tends to gradient ascent: its slope is 2σ(βρ) → 1 per unit of log-probability.
    bad = torch.zeros(6, dtype=torch.bool)
    slope = gradient(lambda x: unary.npo_loss(x, p[2], bad, n, beta=1e-9), p[0])
    torch.testing.assert_close(slope, torch.ones_like(slope))
    # KTO with the reference point at 0 and one completion of each kind is APO-zero.
    good = torch.ones(6, dtype=torch.bool)
    point = torch.tensor(0.0).double()
    both = unary.kto_loss(p[0], p[2], good, point, beta=0.1) + unary.kto_loss(
        p[1], p[3], ~good, point, beta=0.1
    )
    torch.testing.assert_close(both, pairwise.apo_zero_loss(*p, beta=0.1))
    # Of two completions: D2O at α = β is DPO, PRO without its likelihood is CPO of means, RRHF without it a hinge on means.
    both, theirs = torch.stack(p[:2], 1), torch.stack(p[2:], 1)
    lengths, two = torch.stack([n, m], 1), torch.ones(6, 2, dtype=torch.bool)
    torch.testing.assert_close(listwise.d2o_loss(both, theirs, two, beta=0.3, alpha=0.3), dpo)
    means = p[0] / n, p[1] / m
    torch.testing.assert_close(
        listwise.pro_loss(both, lengths, two, sft=0.0),
        reference_free.cpo_loss(*means, n, beta=1.0, alpha=0.0),
    )
    torch.testing.assert_close(
        listwise.rrhf_loss(both, lengths, two, sft=0.0), torch.relu(means[1] - means[0])
    )
    # SPPO with certain win rates is the hard one; with even ones it only holds the policy.
    sure = pairwise.sppo_soft_loss(*p, zero + 1, beta=0.2)
    torch.testing.assert_close(sure, pairwise.sppo_hard_loss(*p, beta=0.2))
    even = pairwise.sppo_soft_loss(*p, zero + 0.5, beta=0.2)
    torch.testing.assert_close(even, (p[0] - p[2]).square() + (p[1] - p[3]).square())
    # Of a step of one comparison, and of one where both are in the same order, paired optimal transport is DPO.
    torch.testing.assert_close(pairwise.aot_paired_loss(*p, p[2] - p[3], beta=0.3), dpo)
    one = (p[0][:1], p[1][:1], p[2][:1], p[3][:1])
    extra = whole_step.aot_paired_step(*one, running={}, draw=torch.Generator())
    torch.testing.assert_close(
        pairwise.aot_paired_loss(*one, extra.each["reference_partner"], beta=0.3), dpo[:1]
    )
    # CRINGE with a gate that never closes is half of likelihood and contrast.
    cringe = reference_free.cringe_loss(p[0], p[1], n, zero + 2, alpha=0.5, tau=1e9)
    torch.testing.assert_close(cringe, 0.5 * (1.0 - p[0] / n), rtol=1e-6, atol=1e-6)
    # BCO of both kinds at the same shift is BCO on pairs.
    shift = torch.tensor(0.2).double()
    both = unary.bco_loss(p[0], p[2], good, shift) + unary.bco_loss(p[1], p[3], ~good, shift)
    torch.testing.assert_close(both, pairwise.bco_pair_loss(*p, shift))
    # Matched to even odds it is itself; good completions weigh 1 at any odds.
    for kind, odds in ((good, zero + 7), (~good, zero + 1)):
        plain = unary.bco_loss(p[0], p[2], kind, shift)
        torch.testing.assert_close(unary.bco_matched_loss(p[0], p[2], kind, shift, odds), plain)
    torch.testing.assert_close(unary.bco_matched_loss(p[0], p[2], ~good, shift, zero + 99), 10 * plain)


def test_optima_are_where_theory_puts_them():
    x = torch.linspace(-40, 40, 160001, dtype=torch.float64)
    zero = torch.zeros_like(x)

    def best(values: Tensor) -> float:
        return x[values.argmin()].item()

    assert best(pairwise.ipo_sum_loss(x, zero, zero, zero, beta=0.1)) == pytest.approx(5, abs=1e-3)
    assert best(dpo_loss(x, zero, zero, zero, beta=0.1, label_smoothing=0.1)) == pytest.approx(
        21.972, abs=1e-3
    )
    exo = pairwise.exo_pair_loss(x, zero, zero, zero, beta=0.2, label_smoothing=0.1)
    assert best(exo) == pytest.approx(math.log(9) / 0.2, abs=1e-3)
    nca = pairwise.nca_pair_loss(x, zero, zero, zero, beta=0.1)
    assert best(nca) == pytest.approx(math.log(2) / 0.1, abs=1e-3)
    sppo = pairwise.sppo_hard_loss(x, zero, zero, zero, beta=0.1)
    assert best(sppo) == pytest.approx(5, abs=1e-3)
    dro = unary.dro_loss(x, zero, zero + 3.0, zero + 1.0, tau=0.5)
    assert best(dro) == pytest.approx((3 - 1) / 0.5, abs=1e-3)


def test_sppo_pulls_each_side_to_its_win_rate():
    x = torch.linspace(-40, 40, 16001, dtype=torch.float64)
    zero = torch.zeros_like(x)
    for p_soft in (0.3, 0.5, 0.9):
        wins = zero + p_soft
        best_chosen = x[pairwise.sppo_soft_loss(x, zero, zero, zero, wins, beta=0.05).argmin()]
        best_rejected = x[pairwise.sppo_soft_loss(zero, x, zero, zero, wins, beta=0.05).argmin()]
        assert best_chosen.item() == pytest.approx((p_soft - 0.5) / 0.05, abs=1e-2)
        assert best_rejected.item() == pytest.approx((0.5 - p_soft) / 0.05, abs=1e-2)


def test_cringe_lets_go_of_comparisons_that_are_far_apart():
    """The gate is a half where the lead is the gap, and closes beyond it."""
    lead = torch.tensor([0.0, 4.0, 400.0], dtype=torch.float64)
    tokens, zero = torch.tensor([1, 1, 1]), torch.zeros(3, dtype=torch.float64)
    gates = reference_free.cringe_loss(zero, -lead, tokens, zero + 1, alpha=1.0, gap=4.0, tau=1.0)
    assert gates.tolist() == pytest.approx([1 / (1 + math.exp(-4)), 0.5, 0.0], abs=1e-9)


def test_means_are_sums_of_what_is_divided():
    """Per-token IPO and DPO are the summed ones of log-probabilities that were divided by lengths; β changes its meaning by the length."""
    p = four(6, scale=2.0, mean=-9.0)
    n, m = torch.tensor([1, 2, 3, 4, 5, 6]), torch.tensor([6, 5, 4, 3, 2, 1])
    divided = (p[0] / n, p[1] / m, p[2] / n, p[3] / m)
    mean, norm = pairwise.ipo_mean_loss(*p, n, m, beta=0.2), pairwise.dpo_norm_loss(*p, n, m, beta=0.2)
    torch.testing.assert_close(mean, pairwise.ipo_sum_loss(*divided, beta=0.2))
    torch.testing.assert_close(norm, dpo_loss(*divided, beta=0.2))
    longer = pairwise.ipo_mean_loss(3 * p[0], 3 * p[1], 3 * p[2], 3 * p[3], 3 * n, 3 * m, beta=0.2)
    torch.testing.assert_close(longer, mean)  # the same text said three times is the same


def test_lambda_weights_are_changes_of_the_dcg():
    """Swapping two places of a ranking changes its discounted gain by exactly the weight of the pair."""
    relevance = torch.tensor([[1.0, 0.7, 0.2, 0.0]], dtype=torch.float64)
    ranks = torch.tensor([[2.0, 1.0, 4.0, 3.0]], dtype=torch.float64)
    weights = listwise.lambda_weights(relevance, ranks, torch.ones(1, 4, dtype=torch.bool))

    def dcg(order: list[float]) -> float:
        return sum((2**r - 1) / math.log(1 + k) for r, k in zip(relevance[0].tolist(), order, strict=True))

    for i in range(4):
        for j in range(4):
            swapped = ranks[0].tolist()
            swapped[i], swapped[j] = swapped[j], swapped[i]
            change = abs(dcg(ranks[0].tolist()) - dcg(swapped)) if i < j else 0.0
            assert weights[0, i, j].item() == pytest.approx(change)
    p = four(3)
    two = torch.ones(3, 2, dtype=torch.bool)
    relevance = torch.tensor([[1.0, 0.0]], dtype=torch.float64).expand(3, 2)
    pair = listwise.rank_dpo_loss(torch.stack(p[:2], 1), torch.stack(p[2:], 1), relevance, two, beta=0.3)
    delta = 1 / math.log(2) - 1 / math.log(3)
    torch.testing.assert_close(pair, delta * dpo_loss(*p, beta=0.3))


def test_robust_dpo_is_unbiased_under_flips():
    """Over labels flipped with probability ε its mean is DPO's loss on the true label."""
    p = four(4, scale=3.0)
    kept = pairwise.robust_dpo_loss(*p, beta=0.2, label_smoothing=0.3)
    flipped = pairwise.robust_dpo_loss(p[1], p[0], p[3], p[2], beta=0.2, label_smoothing=0.3)
    torch.testing.assert_close(0.7 * kept + 0.3 * flipped, dpo_loss(*p, beta=0.2))


def test_weights_and_statistics_pass_no_gradient():  # K4
    p = four(4)
    leaves = (normal(4, seed=9).requires_grad_(), normal(4, seed=10).requires_grad_())
    p[0].requires_grad_()
    pairwise.wpo_loss(*p, *leaves).sum().backward()
    assert [leaf.grad for leaf in leaves] == [None, None]
    kl = (normal(4, seed=9).requires_grad_(), normal(4, seed=10).requires_grad_())
    pairwise.tdpo2_loss(*p, *kl).sum().backward()
    assert kl[0].grad is None
    assert kl[1].grad is not None


@pytest.mark.parametrize("size", [1e3, 1e5])
@pytest.mark.parametrize("name", [n for n, each in OBJECTIVES.items() if each.data == "comparisons"])
def test_extreme_log_ratios_stay_finite(name: str, size: float):  # K10
    objective = OBJECTIVES[name]
    for sign in (1.0, -1.0):
        given = example("comparisons", seed=6)
        shift = torch.where(torch.arange(10) % 2 == 0, sign, -sign)[:, None] * size
        numbers = replace(
            given.numbers,
            logprobs=torch.where(given.numbers.mask, -1.0, 0.0).float(),
            reference=(torch.where(given.numbers.mask, -1.0 - shift, 0.0)).float(),
            forward_kl=torch.where(given.numbers.mask, 1.0, 0.0).float(),
            log_collision=torch.where(given.numbers.mask, -1.0, 0.0).float(),
        )
        extra = prepared(objective, replace(given, numbers=numbers), objective.settings)
        value = losses(name, numbers, extra)
        assert torch.isfinite(value).all(), name
        moved = gradient(
            lambda x, n=numbers, e=extra: losses(name, replace(n, logprobs=x), e), numbers.logprobs
        )
        assert torch.isfinite(moved).all(), name


def test_log_odds_lose_no_digits():
    p = torch.tensor([-1e-3, -0.1, -0.6931472, -2.0, -30.0])
    exact = [math.log(math.exp(x) / -math.expm1(x)) for x in p.double().tolist()]
    assert reference_free.log_odds(p).tolist() == pytest.approx(exact, rel=1e-5, abs=1e-6)
    assert math.isfinite(reference_free.log_odds(torch.zeros(1)).item())


def test_beta_dpo_filters_and_scales_as_its_formulas_say():
    chosen = torch.tensor([0.0, 1.0, 2.0, 3.0, 100.0]).double()
    running = {"mean": 1.0, "std": 1.0}
    counts = torch.zeros(5)
    for seed in range(200):
        result = beta_dpo_step(chosen, running=running, draw=torch.Generator().manual_seed(seed), kept=0.6)
        weight = result.each["step_weight"]
        assert weight.sum() == pytest.approx(5)
        assert sorted(weight.tolist())[-1] == pytest.approx(5 / 3)
        kept = weight > 0
        counts += kept
        mean, std = 0.9 + 0.1 * 21.2, 0.9 + 0.1 * chosen.std(unbiased=False).item()
        assert result.running == pytest.approx({"mean": mean, "std": std})
        expected = max(1e-3, 0.1 * (1 + 0.6 * (chosen[kept].mean().item() - mean)))
        assert result.shared["step_beta"].item() == pytest.approx(expected)
    assert counts[4] == 0  # twenty deviations away: never while others are left
    assert counts[:4].min() > 40
    again = beta_dpo_step(chosen, running=running, draw=torch.Generator().manual_seed(0), kept=0.6)
    first = beta_dpo_step(chosen, running=running, draw=torch.Generator().manual_seed(0), kept=0.6)
    assert torch.equal(again.each["step_weight"], first.each["step_weight"])


@pytest.mark.parametrize("seed", [0, 1])
def test_beta_dpo_is_dpo_at_its_own_beta_on_what_it_kept(seed: int):
    """Value and gradient, with the draw's outcome taken from `step_weight`."""
    objective = OBJECTIVES["beta_dpo"]
    given = example("comparisons", seed=seed)
    extra = prepared(objective, given, objective.settings, seed=seed)
    beta, weights = extra.shared["step_beta"].item(), extra.each["step_weight"].tolist()
    assert sorted(set(weights)) == [0, 5 / 4]
    numbers = given.numbers

    def total(tokens: np.ndarray) -> float:
        kept = np.where(numbers.mask.numpy(), tokens - asked(numbers.reference).numpy(), 0.0).sum(1)
        return sum(
            w * math.log1p(math.exp(-beta * (kept[2 * i] - kept[2 * i + 1]))) for i, w in enumerate(weights)
        )

    assert losses("beta_dpo", numbers, extra).sum().item() == pytest.approx(total(numbers.logprobs.numpy()))
    ours = gradient(lambda x: losses("beta_dpo", replace(numbers, logprobs=x), extra), numbers.logprobs)
    np.testing.assert_allclose(
        ours.numpy(), numerical_gradient(total, numbers.logprobs), rtol=1e-5, atol=1e-6
    )


def test_rankings_absent_places_do_not_count():  # M7
    present = torch.tensor([[True, True, False], [True, True, True]])
    for junk in (0.0, math.nan, math.inf):
        policy = torch.tensor([[-1.0, -2.0, junk], [-1.0, -2.0, -3.0]], requires_grad=True)
        reference = torch.zeros(2, 3)
        for loss in (
            listwise.pl_dpo_loss(policy, reference, present),
            listwise.rank_dpo_loss(policy, reference, torch.ones(2, 3), present),
            listwise.lipo_lambda_loss(policy, reference, torch.rand(2, 3), present),
            listwise.rrhf_loss(policy, torch.ones(2, 3, dtype=torch.long), present),
            listwise.pro_loss(policy, torch.ones(2, 3, dtype=torch.long), present),
            listwise.d2o_loss(policy, reference, present),
        ):
            (moved,) = torch.autograd.grad(loss.sum(), policy, retain_graph=True)
            assert torch.isfinite(loss).all()
            assert torch.isfinite(moved).all()
            assert moved[0, 2] == 0


def test_reference_free_objectives_need_no_reference():
    free = {name for name, each in OBJECTIVES.items() if not each.needs.reference}
    assert free == {"sft", "slic_hf", "simpo", "orpo", "cpo", "cringe", "unlikelihood", "rrhf", "pro"}
    assert {n for n, each in OBJECTIVES.items() if each.needs.contrast} == {"cringe"}
    assert {n for n, each in OBJECTIVES.items() if each.needs.prompt_odds} == {"bco_matched"}
    assert {n for n, each in OBJECTIVES.items() if each.needs.forward_kl} == {"tdpo1", "tdpo2"}
    assert {n for n, each in OBJECTIVES.items() if each.needs.log_collision} == {"wpo"}
    assert {n for n, each in OBJECTIVES.items() if each.needs.mismatched} == {"kto"}
    assert {n for n, each in OBJECTIVES.items() if each.needs.value} == {"dro"}
    assert not Needs.of(["policy", "good", "reference_point"]).reference


def test_settings_are_checked():  # K7
    objective = OBJECTIVES["r_dpo"]
    assert settings_of(objective, ["alpha=0.5"], loss="r_dpo") == {"beta": 0.1, "alpha": 0.5}
    for words, message in (
        (["alhpa=1"], "did you mean alpha"),
        (["alpha"], "write name=value"),
        (["alpha=1", "alpha=2"], "twice"),
        (["alpha=x"], "must be a number"),
        (["beta=0"], "must be above 0"),
        (["beta=nan"], "must be above 0|finite"),
    ):
        with pytest.raises(InputError, match=message):
            settings_of(objective, words, loss="r_dpo")
    with pytest.raises(InputError, match=r"below 0\.5"):
        settings_of(OBJECTIVES["robust_dpo"], ["label_smoothing=0.5"], loss="robust_dpo")
    with pytest.raises(InputError, match="above most"):
        settings_of(OBJECTIVES["bco_matched"], ["least=20"], loss="bco_matched")
    with pytest.raises(InputError, match="logarithm"):
        settings_of(OBJECTIVES["exo_pair"], ["label_smoothing=0"], loss="exo_pair")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_setting_changes_the_loss(name: str):  # K7
    objective = OBJECTIVES[name]
    given = example(objective.data, seed=7)
    plain_extra = prepared(objective, given, objective.settings)
    plain = losses(name, given.numbers, plain_extra)
    for setting, value in objective.settings.items():
        other = {
            **objective.settings,
            setting: {"kept": 0.4, "smallest_beta": 9.0, "delta": 30.0}.get(setting, value + 0.07),
        }
        extra = prepared(objective, given, other)
        changed = losses(name, given.numbers, extra, other)
        assert not torch.allclose(changed, plain, rtol=1e-9, atol=1e-9), setting


def test_functions_from_outside_become_objectives():
    def mine(policy_chosen: Tensor, policy_rejected: Tensor, *, beta: float = 1.0) -> Tensor:
        return (policy_rejected - policy_chosen) * beta

    def on_labels(policy: Tensor, good: Tensor) -> Tensor:
        return torch.where(good, -policy, policy)

    found = objective_of(mine, name="my:mine")
    assert (found.data, found.settings, found.needs.reference) == ("comparisons", {"beta": 1.0}, False)
    assert objective_of(on_labels, name="my:other").data == "labels"
    with pytest.raises(InputError, match="quantities of one kind"):
        objective_of(lambda policy_chosen, good: good, name="my:wrong")


def reduced(policy_chosen: Tensor, policy_rejected: Tensor) -> Tensor:
    return (policy_rejected - policy_chosen).mean()


def broadcast(policy_chosen: Tensor, policy_rejected: Tensor) -> Tensor:
    return policy_rejected - policy_chosen[:, None]


def a_column(policy_chosen: Tensor, policy_rejected: Tensor) -> Tensor:
    return (policy_rejected - policy_chosen)[:, None]


def a_number(policy_chosen: Tensor, policy_rejected: Tensor) -> float:
    return float((policy_rejected - policy_chosen).detach().mean())


def detached(policy_chosen: Tensor, policy_rejected: Tensor) -> Tensor:
    return (policy_rejected - policy_chosen).detach()


def whole_numbers(policy_chosen: Tensor, policy_rejected: Tensor) -> Tensor:
    return (policy_chosen > policy_rejected).long()


def raising(policy_chosen: Tensor, policy_rejected: Tensor) -> Tensor:
    return policy_chosen @ policy_rejected[:2]


def of_the_first(policy: Tensor, present: Tensor) -> Tensor:
    return -policy


@pytest.mark.parametrize(
    ("loss", "said"),
    [
        (
            reduced,
            r"returned a tensor of shape \[\]; it must return a tensor of shape \[5\], the loss of each comparison",
        ),
        (broadcast, r"returned a tensor of shape \[5, 5\]; it must return a tensor of shape \[5\]"),
        (a_column, r"returned a tensor of shape \[5, 1\]; it must return a tensor of shape \[5\]"),
        (a_number, r"returned .* of type float; it must return a tensor of shape \[5\]"),
        (detached, "returned a tensor without a gradient, so it would train nothing"),
        (whole_numbers, "returned a tensor of torch.int64; it must be of floating point"),
        (raising, r"raised RuntimeError: .* \(.*test_objectives.py:\d+\); correct the function"),
    ],
)
def test_a_loss_of_the_wrong_shape_is_refused_by_name(loss: Loss, said: str):  # C10
    """A loss of [B, B] would train on the sum over all B² and divide by B."""
    values = {name: torch.arange(5.0).requires_grad_() for name in ("policy_chosen", "policy_rejected")}
    with pytest.raises(InputError, match=f"loss my_losses:mine {said}"):
        call(objective_of(loss, name="my_losses:mine").loss, values)


def test_a_loss_of_rankings_is_one_number_a_ranking():
    values = {"policy": torch.zeros(3, 4).requires_grad_(), "present": torch.ones(3, 4, dtype=torch.bool)}
    with pytest.raises(
        InputError, match=r"shape \[3, 4\]; it must return a tensor of shape \[3\], the loss of each ranking"
    ):
        call(objective_of(of_the_first, name="m:f").loss, values)


def test_every_name_that_a_loss_takes_is_provided():
    for name, objective in OBJECTIVES.items():
        given = example(objective.data)
        extra = prepared(objective, given, objective.settings)
        losses(name, given.numbers, extra)
        assert isinstance(objective, Objective)
