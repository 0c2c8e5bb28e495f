import json
from pathlib import Path
from typing import Any

import pytest
import torch

from prefloop.runtime import products
from prefloop.runtime.products import Choice, choose, decide, large_products, measured, small_products

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

    def fake() -> Choice:
        calls.append(None)
        return Choice(library="onednn", reason="measured")

    monkeypatch.setattr(products, "measured", fake)
    assert choose() == choose() == Choice(library="onednn", reason="measured")
    assert len(calls) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)  # other threads, other measurement
    choose()
    assert len(calls) == 2
    file = tmp_path / "prefloop" / "matmul.json"
    assert len(json.loads(file.read_text())) == 2
    file.write_text("{")
    choose()
    assert len(calls) == 3
