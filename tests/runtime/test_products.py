import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from prefloop.configs.common import Compute
from prefloop.models.load import as_policy
from prefloop.models.packing import pack
from prefloop.models.roles import RewardModel, scalar_head
from prefloop.rollout import families
from prefloop.rollout.fused import FusedDecoder
from prefloop.runtime import products
from prefloop.runtime.products import (
    MatrixProducts,
    choose,
    decide,
    filling,
    large_products,
    measured,
    small_products,
)
from tests.models.tiny import PACKABLE, make, random_groups

PRECISION: Any = torch.backends.mkldnn.matmul  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv(products.VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = PRECISION.fp32_precision
    yield
    products.leave()
    assert PRECISION.fp32_precision == before


def test_a_backend_that_loses_accuracy_or_gains_nothing_is_refused() -> None:
    def library(faster: float, worse: float) -> str:
        seconds = {"usual": faster * 1e-3, "onednn": 1e-3}
        return decide(seconds, {"usual": 2e-7, "onednn": worse * 2e-7}).library

    assert library(2.0, 1.5) == "onednn"
    assert library(2.0, 2.5) == "usual"
    assert library(1.01, 0.5) == "usual"
    assert "error is 2.0e-03" in str(decide({"usual": 2.0, "onednn": 1.0}, {"usual": 2e-7, "onednn": 2e-3}))


def test_what_is_measured_keeps_float32_accuracy() -> None:
    """Whatever was chosen on this machine computes as float32 does."""
    choice = measured(repeats=2)
    products._chosen = choice.library
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(300, 700, generator=generator), torch.randn(700, 500, generator=generator)
    with large_products():
        out = a @ b
    exact = a.double() @ b.double()
    assert (out - exact).norm() / exact.norm() < 1e-6


def test_the_choice_holds_inside_only_and_small_products_keep_the_usual_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(products.VARIABLE, "onednn")
    assert str(choose()) == "oneDNN (PREFLOOP_MATMUL=onednn)"
    settings = PRECISION
    before = settings.fp32_precision
    with large_products():
        assert settings.fp32_precision == "bf16"
        with small_products():
            assert settings.fp32_precision == "none"
        assert settings.fp32_precision == "bf16"
    assert settings.fp32_precision == before


def test_a_machine_is_measured_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[None] = []

    def fake() -> MatrixProducts:
        calls.append(None)
        return MatrixProducts(library="onednn", reason="measured")

    monkeypatch.setattr(products, "measured", fake)
    assert choose() == choose() == MatrixProducts(library="onednn", reason="measured")
    assert len(calls) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # other threads, other measurement
    choose()
    assert len(calls) == 2
    file = tmp_path / "prefloop" / "matmul.json"
    assert len(json.loads(file.read_text())) == 2
    file.write_text("{")
    choose()
    assert len(calls) == 3


def test_rows_are_rounded_up_to_few_numbers_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert [n + filling(n, cpu) for n in (1, 16, 17, 512, 513, 576, 577)] == [16, 16, 32, 512, 576, 576, 640]
    assert filling(577, torch.device("meta")) == 0


@pytest.mark.parametrize("library", ["usual", "onednn"])
def test_only_what_is_asked_for_is_large_in_a_backward_pass(
    library: products.Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From where a trunk's backward pass begins to the end of that pass; not in the head before it, nor in the next pass."""
    settings = PRECISION
    monkeypatch.setattr(products, "_chosen", library)
    seen: list[str] = []

    class Note(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x.view_as(x)

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
            seen.append(settings.fp32_precision)
            return grads[0]

    def note(x: torch.Tensor) -> torch.Tensor:
        return Note.apply(x)  # pyright: ignore[reportReturnType]

    before = settings.fp32_precision
    x = torch.ones(3, requires_grad=True)
    for _ in range(2):
        note(products.large_backward(note(products.large_backward(note(x))))).sum().backward()
        assert settings.fp32_precision == before
    inside = "bf16" if library == "onednn" else before
    assert seen == [before, inside, inside] * 2


class Sizes(TorchDispatchMode):
    """Sizes of the factors of every product that oneDNN computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()
        self.products = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.name()
        large = PRECISION.fp32_precision == "bf16" and name.startswith(("aten::mm", "aten::addmm"))
        if large or name.startswith("mkldnn::_linear_pointwise"):
            self.products += 1
            factors = args[:2] if name.startswith("aten::mm") else args[1:3] if large else args[:1]
            self.seen |= {size for factor in factors for size in factor.shape}
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(products._setting() is None, reason="this PyTorch has no choice of library")
def test_rows_of_changing_number_make_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN keeps memory for every shape it has seen: a run over ragged batches must not show it ever new ones."""
    monkeypatch.setattr(products, "_chosen", "onednn")
    policy = as_policy(make(PACKABLE["llama"]), Compute(device="cpu"))
    head = RewardModel(policy.model, scalar_head(32, std=1.0, generator=torch.Generator()), way=policy.way)
    widths = {size for parameter in policy.model.parameters() for size in parameter.shape}
    for way in ("fused", "packed"):
        policy.way = way
        sizes = Sizes()
        for seed in range(12):
            batch = pack(random_groups(2, seed=seed, count=10 + 7 * seed))
            with sizes:
                for total in (policy(batch), policy.statistics(batch, entropy=True).entropy, head(batch)):
                    total.sum().backward()
        assert sizes.products > 100
        assert {size for size in sizes.seen - widths if filling(size, torch.device("cpu"))} == set()


@pytest.mark.skipif(
    not families._by_onednn(torch.empty(64, 64)), reason="this PyTorch has no linear layer of oneDNN's"
)
def test_prefills_of_changing_length_make_few_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(PACKABLE["llama"])
    monkeypatch.setattr(families, "_SMALL", 0)
    weights = families.read_weights(model, columns=40)
    assert weights is not None
    decoder = FusedDecoder(weights, slots=8, columns=40)
    sizes = Sizes()
    for seed in range(1, 20):
        with sizes, torch.inference_mode():
            decoder.prefill([[3] * (2 + (seed * i) % 30) for i in range(1, 9)])
    widths = {size for parameter in model.parameters() for size in parameter.shape}
    assert sizes.products > 20
    assert {size for size in sizes.seen - widths if filling(size, torch.device("cpu"))} == set()
