import ast
import inspect
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import prefloop.losses
from prefloop.losses import (
    Moments,
    clipped_surrogate,
    example_mean,
    explained_variance,
    fixed_length,
    k3,
    keep,
    masked_sum,
    mean_over,
    sequence_count,
    sequence_mean,
    sequence_mean_of_token_mean,
    sequence_sum,
    sum_and_count,
    token_count,
    token_mean,
    whiten,
)

from .cases import gradient, normal, quick, ragged_mask, widened, with_padding

BAD = [math.nan, math.inf, -math.inf]


def test_sums_by_hand():
    values = torch.tensor([[1.0, 2.0, 9.0], [4.0, 9.0, 9.0]])
    mask = ragged_mask([2, 1], width=3)
    assert masked_sum(values, mask) == 7
    assert mean_over(values, mask, count=2) == 3.5
    assert sequence_sum(values, mask).tolist() == [3, 4]
    assert sequence_mean(values, mask).tolist() == [1.5, 4]
    assert sum_and_count(values, mask) == (7, 3)
    assert token_count(mask) == 3
    assert example_mean(torch.tensor([1.0, 2.0]), examples=4) == 0.75


def test_masks_with_holes_are_summed_too():
    values = torch.tensor([[1.0, 2.0, 4.0]])
    assert sequence_mean(values, torch.tensor([[True, False, True]])).tolist() == [2.5]


def test_aggregation_modes_on_the_published_example():  # N5
    losses = torch.tensor([[1.0, 1, 1, 1, 10, 7, 7, 7, 7, 7], [1.0, 1, 1, 1, 1, 1, 1, 1, 1, 10]])
    losses = torch.nn.functional.pad(losses, (0, 2), value=7.0)
    mask = ragged_mask([5, 10], width=12)
    assert sequence_mean_of_token_mean(losses, mask, sequences=2).item() == pytest.approx(2.35)
    assert token_mean(losses, mask, tokens=15).item() == pytest.approx(2.2)
    assert fixed_length(losses, mask, length=10, sequences=2).item() == pytest.approx(1.65)


@pytest.mark.parametrize("bad", BAD)
def test_nan_in_padding_leaks_neither_into_value_nor_gradient(bad: float):  # M8
    mask = ragged_mask([3, 1, 0, 4])
    clean = normal(4, 4, seed=0)
    dirty = with_padding(clean, mask, bad)
    count = int(mask.sum())
    for reduced in (
        lambda x: masked_sum(x, mask),
        lambda x: mean_over(x, mask, count=count),
        lambda x: sequence_sum(x, mask),
        lambda x: sequence_mean(x, mask),
        lambda x: token_mean(x, mask, tokens=count),
        lambda x: sequence_mean_of_token_mean(x, mask, sequences=3),
        lambda x: fixed_length(x, mask, length=4, sequences=3),
        lambda x: Moments.of(x, mask).mean + Moments.of(x, mask).variance() + 0 * masked_sum(x, mask),
        lambda x: whiten(x, mask, Moments.of(x, mask)),
    ):
        assert torch.equal(reduced(dirty), reduced(clean))
        assert torch.equal(gradient(reduced, dirty), gradient(reduced, clean))


@pytest.mark.parametrize("bad", BAD)
def test_keep_stops_overflow_in_padding_from_reaching_the_gradient(bad: float):  # M8
    mask = ragged_mask([3, 1, 4])
    old, advantages = normal(3, 4, seed=1), normal(3, 4, seed=2)
    clean = old + normal(3, 4, seed=3, scale=0.1)
    dirty = with_padding(clean, mask, bad)
    for loss in (lambda x: clipped_surrogate(x, old, advantages, clip=0.2), lambda x: k3(x, old)):
        reduced = lambda x, loss=loss: masked_sum(loss(keep(x, mask)), mask)  # noqa: E731
        assert torch.equal(reduced(dirty), reduced(clean))
        assert torch.equal(gradient(reduced, dirty), gradient(reduced, clean))
        assert torch.all(gradient(reduced, dirty)[~mask] == 0)


def test_fully_masked_row_is_zero_and_not_counted():  # M7
    mask = ragged_mask([2, 0, 3])
    values = normal(3, 3, seed=0)
    assert sequence_mean(values, mask)[1] == 0
    assert torch.all(gradient(lambda x: sequence_mean(x, mask), values)[1] == 0)
    assert sequence_count(mask) == 2
    kept = torch.tensor([True, False, True])
    with_row = sequence_mean_of_token_mean(values, mask, sequences=float(sequence_count(mask)))
    without = sequence_mean_of_token_mean(values[kept], mask[kept], sequences=2)
    assert torch.equal(with_row, without)


def test_masking_a_sample_out_leaves_the_others_gradients_as_without_it():  # N4
    values, mask = normal(3, 4, seed=0), ragged_mask([4, 2, 3])
    out = mask & torch.tensor([[True], [False], [True]])
    others = torch.tensor([True, False, True])
    for with_row, without in (
        (
            gradient(lambda x: token_mean(x, out, tokens=float(token_count(out))), values)[others],
            gradient(lambda x: token_mean(x, mask[others], tokens=7), values[others]),
        ),
        (
            gradient(
                lambda x: sequence_mean_of_token_mean(x, out, sequences=float(sequence_count(out))), values
            )[others],
            gradient(lambda x: sequence_mean_of_token_mean(x, mask[others], sequences=2), values[others]),
        ),
    ):
        torch.testing.assert_close(with_row, without, rtol=0, atol=0)


def test_nothing_to_train_on_is_an_error():  # M6
    values, mask = torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool)
    with pytest.raises(ValueError, match="count is 0; it must be above 0"):
        mean_over(values, mask, count=float(token_count(mask)))
    with pytest.raises(ValueError, match="tokens is 0"):
        token_mean(values, mask, tokens=0)
    with pytest.raises(ValueError, match="sequences is 0"):
        sequence_mean_of_token_mean(values, mask, sequences=float(sequence_count(mask)))
    with pytest.raises(ValueError, match="examples is 0"):
        example_mean(torch.zeros(0), examples=0)


def test_mask_of_another_shape_or_kind_is_refused():  # M12
    with pytest.raises(Exception, match=r"(?i)shape|type"):
        masked_sum(torch.ones(2, 2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(Exception, match=r"(?i)type|bool"):
        masked_sum(torch.ones(2, 3), torch.ones(2, 3))
    unchecked = inspect.unwrap(keep)  # outside tests nobody checks annotations
    with pytest.raises(AssertionError, match="shape"):
        unchecked(torch.ones(2, 2), torch.ones(2, dtype=torch.bool))
    with pytest.raises(RuntimeError, match="bool"):
        unchecked(torch.ones(2, 3), torch.ones(2, 3))


def test_half_precision_is_summed_in_float32():  # K10
    """4097 has no bfloat16."""
    values, mask = torch.ones(1, 4097, dtype=torch.bfloat16), torch.ones(1, 4097, dtype=torch.bool)
    assert masked_sum(values, mask).item() == 4097
    assert sequence_sum(values, mask).item() == 4097
    assert example_mean(values[0], examples=1).item() == 4097


@quick
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any), st.integers(0, 4), st.integers(0, 99))
def test_reductions_do_not_depend_on_padding(lengths: list[int], extra: int, seed: int):  # M16
    mask = ragged_mask(lengths)
    values = normal(*mask.shape, seed=seed)
    wide, wide_mask = with_padding(values, mask, 1e6, extra), widened(mask, extra)
    for narrow_result, wide_result in (
        (sum_and_count(values, mask)[0], sum_and_count(wide, wide_mask)[0]),
        (sequence_mean(values, mask), sequence_mean(wide, wide_mask)),
        (
            token_mean(values, mask, tokens=float(token_count(mask))),
            token_mean(wide, wide_mask, tokens=float(token_count(wide_mask))),
        ),
    ):
        torch.testing.assert_close(narrow_result, wide_result, rtol=1e-12, atol=1e-12)
    assert sum_and_count(values, mask)[1] == sum_and_count(wide, wide_mask)[1]


def test_metric_pairs_merge_to_the_mean_over_all_tokens():  # N9
    mask = ragged_mask([1, 5, 2])
    values = normal(3, 5, seed=0)
    pairs = [sum_and_count(values[i : i + 1], mask[i : i + 1]) for i in range(3)]
    merged = sum(float(total) for total, _ in pairs) / sum(int(count) for _, count in pairs)
    assert merged == pytest.approx(values[mask].mean().item(), rel=1e-12)


@quick
@given(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any), st.integers(0, 99))
def test_moments_are_those_of_the_ragged_list(lengths: list[int], seed: int):  # M10
    mask = ragged_mask(lengths, width=7)
    values = normal(*mask.shape, seed=seed) + 3
    ragged = np.concatenate([row[:length].numpy() for row, length in zip(values, lengths, strict=True)])
    moments = Moments.of(values, mask)
    assert moments.mean.item() == pytest.approx(ragged.mean(), rel=1e-12)
    assert moments.variance().item() == pytest.approx(ragged.var(), rel=1e-9, abs=1e-13)
    if len(ragged) > 1:
        assert moments.variance(unbiased=True).item() == pytest.approx(ragged.var(ddof=1), rel=1e-9)


@quick
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=6).filter(any),
    st.data(),
    st.booleans(),
)
def test_whitening_equals_the_ragged_list_however_the_step_is_split(
    lengths: list[int], data: st.DataObject, keep_mean: bool
):  # M10
    mask = ragged_mask(lengths, width=7)
    values = normal(*mask.shape, seed=len(lengths), scale=2.0) + 5
    ragged = values[mask].numpy()
    expected = (ragged - ragged.mean()) / np.sqrt(ragged.var() + 1e-8) + (ragged.mean() if keep_mean else 0)

    cut = data.draw(st.integers(1, len(lengths) - 1))
    parts = [(values[:cut], mask[:cut]), (values[cut:], mask[cut:])]
    of_parts = [Moments.of(*part) for part in parts]
    merged = of_parts[0].merge(of_parts[1])
    # Two processes: each hands its own three sums to the all-reduce.
    other = of_parts[1]
    summed = of_parts[0].summed(
        lambda sums: sums + torch.stack((other.count, other.sum, other.sum_of_squares))
    )
    for moments in (merged, summed):
        whitened = torch.cat([whiten(*part, moments, keep_mean=keep_mean) for part in parts])
        np.testing.assert_allclose(whitened[mask].numpy(), expected, rtol=1e-9, atol=1e-9)
        assert torch.all(whitened[~mask] == 0)


def test_whitening_one_value_or_equal_values_is_zero():
    for count in (1, 3):
        values = torch.full((1, 3), 0.1)
        mask = ragged_mask([count], width=3)
        assert torch.all(whiten(values, mask, Moments.of(values, mask)) == 0)


def test_moments_survive_a_mean_far_from_zero():  # K10
    values = (1000 + normal(1, 1000, seed=0, scale=0.01)).float()
    mask = torch.ones_like(values, dtype=torch.bool)
    assert Moments.of(values, mask).variance().item() == pytest.approx(
        values.double().numpy().var(), rel=1e-6
    )


def test_moments_and_whitening_of_nothing_are_zero():
    values, mask = torch.full((2, 2), math.nan), torch.zeros(2, 2, dtype=torch.bool)
    moments = Moments.of(values, mask)
    assert (moments.count, moments.mean, moments.variance()) == (0, 0, 0)
    assert torch.equal(whiten(values, mask, moments), torch.zeros(2, 2))


def test_explained_variance():
    returns = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
    mask = torch.ones_like(returns, dtype=torch.bool)

    def explained(values: torch.Tensor) -> float:
        return explained_variance(Moments.of(returns, mask), Moments.of(returns - values, mask)).item()

    assert explained(returns) == 1
    assert explained(torch.full_like(returns, 3.0)) == pytest.approx(0)
    assert explained(-returns) == pytest.approx(-3)
    constant = Moments.of(torch.ones(1, 4), mask)
    assert explained_variance(constant, Moments.of(returns, mask)) == 0


def test_only_reduce_reduces_over_a_batch():
    """Elsewhere a reduction names its axis: one example's tokens or candidates, or an ensemble's members."""
    reductions = {"sum", "mean", "nansum", "nanmean", "sum_to_size", "logsumexp", "norm"}
    whole = {"whole_step.py", "length_slope"}  # statistics of a whole step, all processes' together
    for path in Path(prefloop.losses.__file__).parent.glob("*.py"):
        functions = [
            node
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            if isinstance(node, ast.FunctionDef)
        ]
        for function in functions:
            if path.name in {"reduce.py", *whole} or function.name in whole:
                continue
            for node in ast.walk(function):
                if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                    continue
                named = any(keyword.arg == "dim" for keyword in node.keywords)
                assert node.func.attr not in reductions or named, f"{path}:{node.lineno}"
