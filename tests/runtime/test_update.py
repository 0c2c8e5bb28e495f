import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from prefloop.configs.common import Optim
from prefloop.errors import InputError
from prefloop.runtime.optim import ParameterGroup
from prefloop.runtime.state import load_state, save_state
from prefloop.runtime.update import NonFiniteError, Updater
from prefloop.runtime.world import World

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
FOLDER = Path("never-written")


def make(
    model: nn.Module, optim: Optim, folder: Path = FOLDER, *, max_nonfinite: int = 3, total_steps: int = 10
) -> Updater:
    group = ParameterGroup.of(model, optim)
    return Updater(
        [group], total_steps=total_steps, world=ALONE, dump_folder=folder, max_nonfinite=max_nonfinite
    )


def weights(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def line(seed: int = 0, dtype: torch.dtype = torch.float32) -> nn.Linear:
    torch.manual_seed(seed)
    return nn.Linear(3, 1, dtype=dtype)


def squares(model: nn.Module, rows: Tensor, count: float) -> Tensor:
    return model(rows).square().sum() / count


@settings(deadline=None, max_examples=40)
@given(cuts=st.lists(st.integers(1, 4), min_size=1, max_size=8), data=st.data())
def test_any_split_into_micro_batches_gives_the_same_update(
    cuts: list[int], data: st.DataObject
) -> None:  # N1 N8
    rows = torch.randn(sum(cuts), 3, generator=torch.Generator().manual_seed(sum(cuts)), dtype=torch.float64)
    results = []
    for parts in (cuts, [sum(cuts)], data.draw(st.permutations(cuts))):
        model = line(dtype=torch.float64)
        updater = make(model, Optim(lr=0.1, max_grad_norm=0.3))
        result = updater.step(rows.split(parts), lambda m, f=model: squares(f, m, len(rows)), replay=dict)
        results.append((result, weights(model)))
    for result, after in results[1:]:
        assert result.loss == pytest.approx(results[0][0].loss, rel=1e-12)
        assert result.grad_norm == pytest.approx(results[0][0].grad_norm, rel=1e-12)
        torch.testing.assert_close(after, results[0][1], rtol=1e-9, atol=1e-12)


def test_trajectory_equals_plain_pytorch() -> None:
    """Against a loop written directly: one backward on the whole batch, clip_grad_norm_, AdamW with a hand-made schedule."""
    data = torch.randn(4, 8, 3, generator=torch.Generator().manual_seed(3))
    ours, plain = line(), line()
    optim = Optim(
        lr=0.1, schedule="linear", weight_decay=0.1, max_grad_norm=0.5, beta1=0.8, beta2=0.9, eps=1e-6
    )
    updater = make(ours, optim, total_steps=4)
    reference = torch.optim.AdamW(
        [{"params": [plain.weight], "weight_decay": 0.1}, {"params": [plain.bias], "weight_decay": 0.0}],
        betas=(0.8, 0.9),
        eps=1e-6,
        foreach=False,
    )
    for step, rows in enumerate(data):
        result = updater.step(rows.split(3), lambda m: squares(ours, m, 8), replay=dict)
        for group in reference.param_groups:
            group["lr"] = 0.1 * (4 - step) / 4
        reference.zero_grad()
        squares(plain, rows, 8).backward()
        norm = nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        reference.step()
        assert result.grad_norm == pytest.approx(norm.item(), rel=1e-5)
        assert result.learning_rates == {"model": pytest.approx(0.1 * (4 - step) / 4)}
        torch.testing.assert_close(weights(ours), weights(plain), rtol=1e-5, atol=1e-6)


def test_result_by_hand() -> None:
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    updater = make(model, Optim(lr=0.5, schedule="constant", max_grad_norm=0.0, eps=1.0))
    result = updater.step([torch.tensor([3.0, 4.0])], lambda x: (model(x) + 2).sum(), replay=dict)
    assert result.metrics() == {"loss": 2.0, "grad_norm": 5.0, "lr": 0.5, "skipped": 0.0}
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[-0.5 * 3 / 4, -0.5 * 4 / 5]]))


def test_clipping_scales_the_whole_gradient() -> None:
    # eps is huge, so AdamW's first update is lr * g / eps: linear in the clipped gradient.
    model = nn.Linear(2, 1, bias=False)
    nn.init.zeros_(model.weight)
    updater = make(model, Optim(lr=1e6, schedule="constant", max_grad_norm=1.0, eps=1e6))
    updater.step([torch.tensor([3.0, 4.0])], lambda x: model(x).sum(), replay=dict)
    torch.testing.assert_close(model.weight.detach(), torch.tensor([[-0.6, -0.8]]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_step_that_is_not_finite_changes_nothing_but_counts(bad: float, tmp_path: Path) -> None:
    model = line()
    updater = make(model, Optim(lr=0.1), tmp_path)
    rows = torch.randn(4, 3)
    updater.step([rows], lambda m: squares(model, m, 4), replay=dict)
    before = weights(model)
    moments = updater.state()["optimizer"]["model/weight"]["exp_avg"].clone()

    result = updater.step([rows, rows], lambda m: squares(model, m, 4) * bad, replay=lambda: {"rows": rows})

    assert result.skipped
    assert result.metrics()["skipped"] == 1.0
    assert all(torch.equal(a, b) for a, b in zip(weights(model), before, strict=True))
    assert torch.equal(updater.state()["optimizer"]["model/weight"]["exp_avg"], moments)
    assert (updater.steps, updater.skipped) == (2, 1)
    dumped = load_state(tmp_path / "step-2/rank-0")
    assert torch.equal(dumped["batch"]["rows"], rows)
    report = json.loads((tmp_path / "step-2/report.json").read_text())
    assert report["update"] == 2
    assert report["parameters_with_bad_gradients"] == ["model/weight", "model/bias"]
    assert report["reason"] in ("the loss is nan", "the loss is inf")


def test_finite_loss_with_a_gradient_that_is_not_is_skipped_too(tmp_path: Path) -> None:
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    updater = make(model, Optim(lr=0.1), tmp_path)
    result = updater.step(
        [torch.ones(1)], lambda x: model(x).square().sum().sqrt(), replay=dict
    )  # 0/0 in the backward
    assert result.loss == 0
    assert result.skipped
    assert model.weight.item() == 0
    assert "gradient" in json.loads((tmp_path / "step-1/report.json").read_text())["reason"]


def test_stops_after_so_many_in_a_row_with_batch_and_weights(tmp_path: Path) -> None:
    model = line()
    updater = make(model, Optim(lr=0.1), tmp_path, max_nonfinite=2)
    rows = torch.ones(2, 3)
    bad: Callable[[Tensor], Tensor] = lambda m: squares(model, m, 2) * math.nan  # noqa: E731
    good: Callable[[Tensor], Tensor] = lambda m: squares(model, m, 2)  # noqa: E731
    updater.step([rows], bad, replay=lambda: {"rows": rows})
    updater.step([rows], good, replay=lambda: {"rows": rows})  # a finite step begins the row anew
    updater.step([rows], bad, replay=lambda: {"rows": rows})
    with pytest.raises(
        NonFiniteError, match="the loss is nan at update 4, the last of 2 in a row; the batches"
    ):
        updater.step([rows], bad, replay=lambda: {"rows": rows})
    dumped = load_state(tmp_path / "step-4/weights")
    assert torch.equal(dumped["model/weight"], model.weight.detach())
    assert not (tmp_path / "step-3/weights").exists()
    assert issubclass(NonFiniteError, InputError)


def test_parameter_without_gradient_counts_as_zero_gradient() -> None:
    used, idle = nn.Linear(1, 1), nn.Linear(2, 2)
    model = nn.ModuleList([used, idle])
    updater = make(model, Optim(lr=0.1, schedule="constant", weight_decay=0.5))
    before = idle.weight.detach().clone()
    updater.step([torch.ones(1)], lambda x: used(x).sum(), replay=dict)
    torch.testing.assert_close(idle.weight.detach(), before * (1 - 0.1 * 0.5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pulling_back_is_the_proximal_step_and_stops_at_the_start(dtype: torch.dtype) -> None:
    model = line(dtype=dtype)
    start = {f"model/{name}": p.detach().clone() for name, p in model.named_parameters()}
    updater = make(model, Optim(lr=0.5, max_grad_norm=0.0))
    updater.step(
        [torch.ones(1)], lambda m: (model.weight * torch.tensor([[1.0, -1.0, 0.0]])).sum(), replay=dict
    )
    before = {f"model/{name}": p.detach().clone() for name, p in model.named_parameters()}
    assert updater.pull_back(start, by=0.25) == pytest.approx(
        2 / 4
    )  # of the three weights two have moved, the bias has not
    for name, parameter in model.named_parameters():
        change = (before[f"model/{name}"] - start[f"model/{name}"]).float()
        expected = change.sign() * (change.abs() - 0.25).clamp(min=0)
        found = (parameter - start[f"model/{name}"]).float()
        torch.testing.assert_close(found, expected, atol=2e-2 if dtype == torch.bfloat16 else 1e-6, rtol=0)
    assert updater.pull_back(start, by=1.0) == 0
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, start[f"model/{name}"])  # to the bit


def test_nothing_to_learn_from_is_an_error() -> None:
    model = line()
    with pytest.raises(ValueError, match="no micro-batch"):
        make(model, Optim()).step(list[Tensor](), lambda m: squares(model, m, 1), replay=dict)
    with pytest.raises(ValueError, match=r"shape \(2, 1\)"):
        make(model, Optim()).step([torch.ones(2, 3)], lambda m: model(m), replay=dict)


def test_groups_updated_together_share_one_norm() -> None:
    groups = [
        ParameterGroup.of(line(), Optim(max_grad_norm=1.0), name="policy"),
        ParameterGroup.of(line(), Optim(max_grad_norm=0.5), name="critic"),
    ]
    with pytest.raises(InputError, match="max_grad_norm differs"):
        Updater(groups, total_steps=1, world=ALONE, dump_folder=FOLDER, max_nonfinite=1)


def test_bfloat16_weights_learn_from_updates_smaller_than_their_last_bit() -> None:
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    nn.init.ones_(model.weight)
    updater = make(model, Optim(lr=1e-3, schedule="constant"))  # bfloat16 next to 1 steps by 4e-3
    for _ in range(8):
        updater.step([torch.ones(1, dtype=torch.bfloat16)], lambda x: model(x).sum(), replay=dict)
    assert model.weight.item() == pytest.approx(1 - 8e-3, abs=4e-3)
    assert updater.state()["masters"]["model/weight"].item() == pytest.approx(1 - 8e-3, rel=1e-5)


def test_bfloat16_gradients_are_added_in_float32() -> None:  # N1
    # 256 + 1 is 256 in bfloat16: small parts would vanish beside a large one.
    model = nn.Linear(1, 1, bias=False, dtype=torch.bfloat16)
    updater = make(model, Optim(max_grad_norm=0.0))
    parts = [torch.tensor([256.0])] + [torch.tensor([1.0])] * 16
    result = updater.step(parts, lambda x: model(x.bfloat16()).float().sum(), replay=dict)
    assert result.grad_norm == 272.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("stop", [0, 1, 3])
def test_resumed_updater_goes_on_bit_for_bit(dtype: torch.dtype, stop: int, tmp_path: Path) -> None:  # R5
    data = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    optim = Optim(lr=0.05, schedule="cosine", warmup=0.4, weight_decay=0.1)

    def learn(model: nn.Module, updater: Updater, batches: Tensor) -> None:
        for rows in batches:
            updater.step(rows.split(3), lambda m: squares(model, m, 4).float(), replay=dict)

    unbroken = line(dtype=dtype)
    learn(unbroken, make(unbroken, optim, total_steps=5), data)

    first = line(dtype=dtype)
    updater = make(first, optim, total_steps=5)
    learn(first, updater, data[:stop])
    save_state({"model": first.state_dict(), "updater": updater.state()}, tmp_path)

    saved = load_state(tmp_path)
    second = line(seed=99, dtype=dtype)
    second.load_state_dict(saved["model"])
    updater = make(second, optim, total_steps=5)
    updater.load_state(saved["updater"])
    assert updater.steps == stop
    learn(second, updater, data[stop:])
    assert all(torch.equal(a, b) for a, b in zip(weights(second), weights(unbroken), strict=True))


def test_counts_survive_a_restart(tmp_path: Path) -> None:
    model = line()
    updater = make(model, Optim(), tmp_path, max_nonfinite=2)
    rows = torch.ones(2, 3)
    updater.step([rows], lambda m: squares(model, m, 2) * math.nan, replay=dict)
    other = make(model, Optim(), tmp_path, max_nonfinite=2)
    other.load_state(updater.state())
    assert (other.steps, other.skipped) == (1, 1)
    with pytest.raises(NonFiniteError):
        other.step([rows], lambda m: squares(model, m, 2) * math.nan, replay=dict)
