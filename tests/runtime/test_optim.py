import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from prefloop.configs.common import Optim
from prefloop.errors import InputError
from prefloop.runtime.optim import (
    ParameterGroup,
    learning_rate,
    load_optimizer_state,
    make_optimizer,
    named,
    optimizer_state,
    set_learning_rates,
)


def rates(optim: Optim, total: int) -> list[float]:
    return [learning_rate(step, total, optim) for step in range(total)]


def test_schedules_by_hand() -> None:
    assert rates(Optim(lr=8.0, schedule="constant"), 3) == [8.0, 8.0, 8.0]
    assert rates(Optim(lr=8.0, schedule="linear"), 4) == [8.0, 6.0, 4.0, 2.0]
    # warm-up over 3 of 6: quarters of the way up, the peak at step 3, then thirds of the way down
    assert rates(Optim(lr=12.0, schedule="linear", warmup=0.5), 6) == pytest.approx([3, 6, 9, 12, 8, 4])
    assert rates(Optim(lr=12.0, schedule="constant", warmup=0.5), 6) == pytest.approx([3, 6, 9, 12, 12, 12])
    half = math.sqrt(0.5)
    assert rates(Optim(lr=2.0, schedule="cosine"), 4) == pytest.approx([2, 1 + half, 1, 1 - half])


def test_warmup_steps_are_not_changed_by_float_noise() -> None:
    # 0.1 * 30 is 3.0000000000000004
    assert learning_rate(2, 30, Optim(lr=1.0, warmup=0.1)) == pytest.approx(0.75)
    assert learning_rate(3, 30, Optim(lr=1.0, warmup=0.1)) == 1.0


@given(
    total=st.integers(1, 200),
    warmup=st.floats(0, 1),
    schedule=st.sampled_from(["constant", "linear", "cosine"]),
)
def test_rate_rises_then_falls_and_no_update_has_none(total: int, warmup: float, schedule) -> None:
    values = rates(Optim(lr=0.5, warmup=warmup, schedule=schedule), total)
    peak = values.index(max(values))
    assert all(0 < value <= 0.5 for value in values)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)
    assert warmup == 1 or peak == total - 1 or max(values) == 0.5


def test_rate_after_the_last_step_is_zero_and_misuse_is_an_error() -> None:
    assert learning_rate(10, 10, Optim(schedule="linear")) == 0
    assert learning_rate(11, 10, Optim(schedule="cosine")) == pytest.approx(0)
    with pytest.raises(ValueError, match="step is -1"):
        learning_rate(-1, 10, Optim())


def two_groups() -> tuple[ParameterGroup, ParameterGroup]:
    policy = ParameterGroup.of(nn.Linear(2, 2), Optim(lr=1.0, schedule="linear"), name="policy")
    head = ParameterGroup.of(nn.Linear(2, 1), Optim(lr=10.0, schedule="constant"), name="value_head")
    return policy, head


def test_every_group_follows_its_own_schedule_at_every_step() -> None:  # C5
    groups = two_groups()
    optimizer = make_optimizer(groups, [p for _, p in named(groups)])
    for step, expected in enumerate([1.0, 0.75, 0.5, 0.25]):
        assert set_learning_rates(optimizer, groups, step, 4) == {"policy": expected, "value_head": 10.0}
        seen = [(group["group"], group["lr"]) for group in optimizer.param_groups]
        assert seen == [("policy", expected)] * 2 + [("value_head", 10.0)] * 2


def test_decay_is_for_matrices() -> None:
    group = ParameterGroup.of(nn.Linear(2, 2), Optim(lr=0.5, schedule="constant", weight_decay=0.1))
    tensors = [p for _, p in named([group])]
    optimizer = make_optimizer([group], tensors)
    before = [tensor.detach().clone() for tensor in tensors]
    for tensor in tensors:
        tensor.grad = torch.zeros_like(tensor)
    optimizer.step()
    torch.testing.assert_close(tensors[0].detach(), before[0] * (1 - 0.5 * 0.1))
    torch.testing.assert_close(tensors[1].detach(), before[1], rtol=0, atol=0)


def test_first_update_by_hand() -> None:
    # Bias-corrected, the first AdamW update is lr * g / (|g| + eps).
    parameter = nn.Parameter(torch.tensor([1.0, 2.0]))
    group = ParameterGroup(name="g", parameters=(("p", parameter),), optim=Optim(lr=0.5, eps=1.0))
    optimizer = make_optimizer([group], [parameter])
    parameter.grad = torch.tensor([3.0, -1.0])
    optimizer.step()
    torch.testing.assert_close(parameter.detach(), torch.tensor([1 - 0.5 * 3 / 4, 2 + 0.5 * 1 / 2]))


def test_state_goes_by_name_not_by_order() -> None:
    torch.manual_seed(0)
    groups = two_groups()
    names, tensors = [n for n, _ in named(groups)], [p for _, p in named(groups)]
    optimizer = make_optimizer(groups, tensors)
    assert optimizer_state(optimizer, names, tensors) == {}
    for tensor in tensors:
        tensor.grad = torch.randn_like(tensor)
    optimizer.step()
    state = optimizer_state(optimizer, names, tensors)
    assert sorted(state) == ["policy/bias", "policy/weight", "value_head/bias", "value_head/weight"]

    turned = groups[::-1]
    names, tensors = [n for n, _ in named(turned)], [p for _, p in named(turned)]
    other = make_optimizer(turned, tensors)
    load_optimizer_state(other, names, tensors, state)
    again = optimizer_state(other, names, tensors)
    for name in state:
        for key in ("step", "exp_avg", "exp_avg_sq"):
            assert torch.equal(state[name][key], again[name][key])
            assert state[name][key] is not again[name][key]


def test_state_of_another_model_is_refused() -> None:
    groups = two_groups()
    names, tensors = [n for n, _ in named(groups)], [p for _, p in named(groups)]
    optimizer = make_optimizer(groups, tensors)
    one = {"step": torch.tensor(1.0), "exp_avg": torch.zeros(2, 2), "exp_avg_sq": torch.zeros(2, 2)}
    with pytest.raises(InputError, match=r"has \['other'\] .* lacks \['policy/bias'"):
        load_optimizer_state(optimizer, names, tensors, {"other": one})
    with pytest.raises(InputError, match=r"policy/bias of shape \(2, 2\), this model \(2,\)"):
        load_optimizer_state(optimizer, names, tensors, dict.fromkeys(names, one))


def test_groups_are_checked() -> None:
    layer = nn.Linear(2, 2)
    group = ParameterGroup.of(layer, Optim())
    with pytest.raises(ValueError, match="twice"):
        make_optimizer([group, group], [p for _, p in named([group, group])])
    layer.requires_grad_(False)
    with pytest.raises(ValueError, match="policy has no trainable parameter"):
        ParameterGroup.of(layer, Optim(), name="policy")


def test_tied_parameter_is_there_once() -> None:
    first, second = nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False)
    second.weight = first.weight
    assert [name for name, _ in ParameterGroup.of(nn.Sequential(first, second), Optim()).parameters] == [
        "0.weight"
    ]
