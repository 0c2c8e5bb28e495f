import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import Tensor

from prefloop.errors import InputError
from prefloop.rollout.draw import draw, inverse_cdf, row_uniforms, support
from tests.rollout.policies import chi_square_p_value

ALMOST_ONE = float(np.nextafter(1.0, 0.0))


def softmax64(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = logits.astype(np.float64) / temperature
    scaled = np.exp(scaled - scaled.max())
    return scaled / scaled.sum()


def draw_many(logits: np.ndarray, uniforms: np.ndarray, **settings: float) -> np.ndarray:
    """One token for each uniform number, all from the same logits."""
    rows = torch.from_numpy(logits.astype(np.float32)).expand(len(uniforms), -1)
    temperature = settings.pop("temperature", 1.0)
    drawn = draw(rows, torch.from_numpy(uniforms), temperature=temperature, **settings)  # pyright: ignore[reportArgumentType]
    return drawn.tokens.numpy()


def random_logits(vocabulary: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, vocabulary).astype(np.float32)


# 7: below one block; 256, 512: blocks without a rest; 300, 1000: a rest of 44 and of 232.
@pytest.mark.parametrize("vocabulary", [1, 7, 256, 300, 512, 1000])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_every_token_gets_its_share_of_the_unit_interval(vocabulary: int, temperature: float):
    logits = random_logits(vocabulary)
    grid = (np.arange(20_000) + 0.5) / 20_000
    tokens = draw_many(logits, grid, temperature=temperature)
    counts = np.bincount(tokens, minlength=vocabulary)
    # An interval of length p holds between Np - 1 and Np + 1 points of an even grid; the rest is float32.
    assert np.abs(counts - 20_000 * softmax64(logits, temperature)).max() < 1.1
    assert (np.diff(tokens) >= 0).all()


@pytest.mark.parametrize("vocabulary", [7, 300])
def test_frequencies_pass_a_chi_square_test(vocabulary: int):
    logits = random_logits(vocabulary)
    uniforms = row_uniforms(seed=1, key=2, sample=3, count=50_000)
    counts = np.bincount(draw_many(logits, uniforms), minlength=vocabulary)
    assert chi_square_p_value(counts, softmax64(logits) * len(uniforms)) > 1e-3


finite_rows = arrays.arrays(
    np.float32, st.tuples(st.integers(1, 4), st.sampled_from([1, 2, 9, 255, 256, 257, 515])),
    elements=st.floats(-30, 30, width=32),
)  # fmt: skip


@given(finite_rows, st.floats(0, 1, exclude_max=True), st.floats(0.2, 3))
def test_token_is_where_the_uniform_number_falls(logits: np.ndarray, uniform: float, temperature: float):
    uniforms = torch.full((len(logits),), uniform, dtype=torch.float64)
    drawn = draw(torch.from_numpy(logits), uniforms, temperature=temperature)
    for row, token, logprob in zip(logits, drawn.tokens.tolist(), drawn.logprobs.tolist(), strict=True):
        probabilities = softmax64(row, temperature)
        upper = probabilities.cumsum()
        assert upper[token] - probabilities[token] - 1e-5 <= uniform <= upper[token] + 1e-5
        if probabilities[token] > 1e-36:
            assert logprob == pytest.approx(np.log(probabilities[token]), abs=1e-4)


@given(
    arrays.arrays(
        np.float32, st.sampled_from([3, 256, 300, 700]), elements=st.sampled_from([0.0, 0.0, 1e-30, 1.0, 7.5])
    ),
    st.sampled_from([0.0, 1e-300, 0.5, 1 - 1e-9, ALMOST_ONE]),
)
def test_never_a_token_without_weight_nor_an_id_that_does_not_exist(weights: np.ndarray, uniform: float):
    if weights.sum() == 0:
        weights[len(weights) // 2] = 1.0
    token = int(inverse_cdf(torch.from_numpy(weights)[None], torch.tensor([uniform], dtype=torch.float64)))
    assert 0 <= token < len(weights)
    assert weights[token] > 0


def test_first_and_last_tokens_with_weight_are_reached():
    weights = torch.zeros(2, 600)
    weights[0, 300] = weights[1, 5] = weights[1, 599] = 1.0
    uniforms = torch.tensor([ALMOST_ONE, ALMOST_ONE], dtype=torch.float64)
    assert inverse_cdf(weights, uniforms).tolist() == [300, 599]
    assert inverse_cdf(weights, torch.zeros(2, dtype=torch.float64)).tolist() == [300, 5]


def test_rounding_of_block_sums_does_not_spill_into_the_next_tokens():
    uniforms = torch.full((100,), ALMOST_ONE, dtype=torch.float64)
    weights = torch.zeros(100, 512)
    weights[:, :200] = torch.rand(100, 200, generator=torch.Generator().manual_seed(0))
    # The blocks are summed in float32, the tokens inside in float64; in some rows the former is larger.
    assert (weights.sum(-1).double() > weights.double().sum(-1)).any()
    assert inverse_cdf(weights, uniforms).max() == 199


def test_a_rare_token_behind_fifty_thousand_others_is_drawn_as_often_as_it_should():
    # In float32 the cumulated sum near 1 moves in steps of 6e-8 and this token's interval would be lost or doubled.
    weights = torch.full((1, 50_257), 1.0)
    weights[0, -1] = 2e-3
    total = 50_256 + 2e-3
    inside = torch.tensor([(50_256 + 1e-3) / total], dtype=torch.float64)
    outside = torch.tensor([(50_256 - 1e-3) / total], dtype=torch.float64)
    assert inverse_cdf(weights, inside).item() == 50_256
    assert inverse_cdf(weights, outside).item() == 50_255


def test_extreme_logits_stay_finite():  # K10
    logits = torch.tensor([[-3e38, 3e38, -torch.inf], [0.0, 1e4, -1e4], [-torch.inf, -1e30, -torch.inf]])
    uniforms = torch.full((3,), ALMOST_ONE, dtype=torch.float64)
    for temperature in (1e-30, 0.1, 1.0, 10.0, 0.0):
        drawn = draw(logits, uniforms, temperature=temperature)
        assert drawn.tokens.tolist() == [1, 1, 1]
        assert drawn.logprobs.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_broken_logits_are_an_error(bad: float, temperature: float):
    logits = torch.zeros(3, 300)
    logits[1] = bad
    with pytest.raises(InputError, match="NaN or infinite in 1 of 3 rows"):
        draw(logits, torch.full((3,), 0.5, dtype=torch.float64), temperature=temperature)
    with pytest.raises(InputError, match="NaN or infinite in 1 of 3 rows"):
        draw(logits, torch.full((3,), 0.5, dtype=torch.float64), temperature=0.5, top_k=5, top_p=0.9)


def test_temperature_zero_takes_the_most_probable_token():
    logits = torch.tensor([[0.0, 2.0, 1.0], [5.0, 2.0, 1.0]])
    drawn = draw(logits, torch.full((2,), ALMOST_ONE, dtype=torch.float64), temperature=0.0)
    assert drawn.tokens.tolist() == [1, 0]
    assert drawn.logprobs.tolist() == pytest.approx(torch.log_softmax(logits, -1)[[0, 1], [1, 0]].tolist())


def test_logprobs_are_at_the_sampling_temperature():  # K1
    logits = torch.from_numpy(np.stack([random_logits(40, seed) for seed in range(6)]))
    uniforms = torch.linspace(0.05, 0.95, 6, dtype=torch.float64)
    for temperature in (0.5, 2.0):
        drawn = draw(logits, uniforms, temperature=temperature)
        wanted = torch.log_softmax(logits.double() / temperature, -1).gather(-1, drawn.tokens[:, None])[:, 0]
        torch.testing.assert_close(drawn.logprobs.double(), wanted, atol=1e-5, rtol=0)


def kept_brute_force(logits: np.ndarray, top_k: int, top_p: float) -> list[int]:
    """Sort by probability and then id, cut to k, cut to p, all in float64."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))
    if top_k:
        order = order[:top_k]
    probabilities = softmax64(logits[order])
    if top_p < 1:
        # The same rounding as float32 gets at the border is not asked for: callers keep away from it.
        order = order[: int(np.searchsorted(probabilities.cumsum(), top_p)) + 1]
    return sorted(order)


@given(
    arrays.arrays(
        np.float32, st.sampled_from([1, 5, 40, 300]), elements=st.integers(-6, 6).map(lambda n: n / 2)
    ),
    st.sampled_from([0, 1, 2, 5, 39, 400]),
    st.sampled_from([1.0, 0.12345, 0.4321, 0.76543, 0.98765]),
)
def test_top_k_and_top_p_keep_exactly_the_right_tokens(logits: np.ndarray, top_k: int, top_p: float):
    keep = support(torch.from_numpy(logits)[None], top_k=top_k, top_p=top_p)
    kept = list(range(len(logits))) if keep is None else keep[0].nonzero()[:, 0].tolist()
    wanted = kept_brute_force(logits, top_k, top_p)
    if kept != wanted:  # the share falls within rounding of a border between two sets
        ordered = np.sort(softmax64(logits[kept_brute_force(logits, top_k, 1.0)]))[::-1].cumsum()
        assert np.abs(ordered - top_p).min() < 1e-6
        assert abs(len(kept) - len(wanted)) == 1


def test_only_rows_that_need_it_have_all_their_tokens_sorted(monkeypatch: pytest.MonkeyPatch):
    """A flat row's set is larger than what is looked through first. Its neighbour's is not, and is the same beside it and alone."""
    generator = torch.Generator().manual_seed(0)
    peaked, flat = 6 * torch.randn(1, 3000, generator=generator), torch.randn(1, 3000, generator=generator)
    sorted_tokens: list[int] = []
    draw_module = sys.modules[draw.__module__]
    descending = draw_module._descending

    def watched(logits: Tensor, count: int) -> Tensor:
        sorted_tokens.append(count)
        return descending(logits, count)

    monkeypatch.setattr(draw_module, "_descending", watched)
    alone = [support(row, top_k=0, top_p=0.9) for row in (peaked, flat)]
    assert sorted_tokens == [1024, 1024, 3000]
    together = support(torch.cat([peaked, flat]), top_k=0, top_p=0.9)
    for row, (keep, logits) in enumerate(zip(alone, (peaked, flat), strict=True)):
        assert keep is not None
        assert together is not None
        assert torch.equal(together[row], keep[0])
        assert np.flatnonzero(keep[0].numpy()).tolist() == sorted(kept_brute_force(logits[0].numpy(), 0, 0.9))


def test_top_p_over_many_equal_tokens_keeps_the_lower_ids():
    logits = np.zeros(3000, dtype=np.float32)
    keep = support(torch.from_numpy(logits)[None], top_k=0, top_p=0.5001)
    assert keep is not None
    assert keep[0].nonzero()[:, 0].tolist() == list(range(1501))


def test_ties_at_the_border_keep_lower_ids():
    logits = torch.tensor([[1.0, 3.0, 1.0, 1.0, 0.0]])
    keep = support(logits, top_k=3, top_p=1.0)
    assert keep is not None
    assert keep.tolist() == [[True, True, True, False, False]]


def test_truncated_draws_follow_the_renormalised_distribution_and_keep_full_logprobs():  # K3
    logits = random_logits(50)
    kept = kept_brute_force(logits, 20, 0.8)
    grid = (np.arange(5000) + 0.5) / 5000
    tokens = draw_many(logits, grid, top_k=20, top_p=0.8)
    probabilities = softmax64(logits)
    wanted = np.zeros(50)
    wanted[kept] = probabilities[kept] / probabilities[kept].sum()
    assert np.abs(np.bincount(tokens, minlength=50) - 5000 * wanted).max() < 1.1
    drawn = draw(
        torch.from_numpy(logits)[None], torch.tensor([0.5], dtype=torch.float64), temperature=1.0, top_k=2
    )
    assert drawn.logprobs.item() == pytest.approx(np.log(probabilities[drawn.tokens[0]]), abs=1e-5)


def test_half_precision_logits_are_drawn_in_float32():  # K10
    logits = torch.randn(4, 500).bfloat16()
    uniforms = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    half, full = (draw(x, uniforms, temperature=0.7) for x in (logits, logits.float()))
    assert half.tokens.tolist() == full.tokens.tolist()
    assert half.logprobs.dtype == torch.float32
    torch.testing.assert_close(half.logprobs, full.logprobs)


def test_streams_are_their_own_and_repeat():  # D7
    streams = [
        row_uniforms(seed=seed, key=key, sample=sample, count=8)
        for seed in (0, 1, 2**64 - 1)
        for key in (0, 1, 2**64 - 1)
        for sample in (0, 1, 7)
    ]
    assert len({tuple(stream) for stream in streams}) == len(streams)
    assert len(np.unique(np.concatenate(streams))) == 8 * len(streams)
    np.testing.assert_array_equal(streams[0], row_uniforms(seed=0, key=0, sample=0, count=8))
    np.testing.assert_array_equal(streams[0][:3], row_uniforms(seed=0, key=0, sample=0, count=3))
    assert all(((stream >= 0) & (stream < 1)).all() for stream in streams)


@settings(max_examples=20)
@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_streams_look_uniform(seed: int, key: int):
    uniforms = row_uniforms(seed=seed, key=key, sample=0, count=4000)
    counts = np.histogram(uniforms, bins=10, range=(0, 1))[0]
    assert np.abs(counts - 400).max() < 120  # six standard deviations
