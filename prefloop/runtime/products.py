"""Which library multiplies large float32 matrices on the CPU: PyTorch's usual one or oneDNN, by a measurement.

PyTorch hands float32 products to oneDNN only where that may round their factors to bfloat16. On processors without bfloat16 matrix units oneDNN
does not, and is the faster one on many; on others it does, and the measurement sees the error. Small products stay where they are: oneDNN
takes longer to begin.

oneDNN makes a kernel for every shape and never frees all of it (torch 2.13: some 0.2 MB of each). So products over rows of changing
number are rounded up to a few numbers with `filling`, and what cannot be stays with the usual library.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

Library = Literal["usual", "onednn"]

VARIABLE = "PREFLOOP_MATMUL"
"""Environment variable that decides instead of the measurement: `usual` or `onednn`."""
SHAPE = (1024, 512, 1024)
"""Rows, inner length and columns of the measured product."""
FASTER = 1.05
"""oneDNN must be so many times as fast to be taken."""
ERROR = 2.0
"""And its error at most so many times the usual float32 product's; bfloat16's is thousands of times that."""

_KERNELS = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
"""Kernels that oneDNN keeps at hand, by itself 1,024, each with its memory. The products of a step over a Llama's layers and head have about twelve shapes."""

_PRECISION = {"usual": "none", "onednn": "bf16"}

_chosen: Library = "usual"


@dataclass(frozen=True, kw_only=True, slots=True)
class MatrixProducts:
    """What multiplies large matrices, and why."""

    library: Library
    reason: str

    def __str__(self) -> str:
        return f"{'oneDNN' if self.library == 'onednn' else 'PyTorch default'} ({self.reason})"


@contextlib.contextmanager
def large_products() -> Iterator[None]:
    """Inside, large float32 products are the chosen library's."""
    with _by(_chosen):
        yield


@contextlib.contextmanager
def small_products() -> Iterator[None]:
    """Inside, they are PyTorch's usual ones."""
    with _by("usual"):
        yield


def filling(rows: int, device: torch.device) -> int:
    """Rows to add to so many before large products on a CPU, so that few different numbers occur: up to a multiple of 64, below 512 of 16."""
    return -rows % (64 if rows > 512 else 16) if device.type == "cpu" else 0


def large_backward(x: torch.Tensor) -> torch.Tensor:
    """`x`; in the backward pass, the products from here on are the chosen library's."""
    return x if _chosen == "usual" else _LargeBackward.apply(x)  # pyright: ignore[reportReturnType]


class _LargeBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        settings = _setting()
        settings.fp32_precision = _PRECISION[_chosen]

        def restore() -> None:  # the same for each of several trunks in one pass
            settings.fp32_precision = _PRECISION["usual"]

        torch.autograd.Variable._execution_engine.queue_callback(restore)  # at the end of this backward pass
        return grads[0]


def _setting() -> Any:
    """PyTorch's switch for float32 products in oneDNN; None before 2.9."""
    return getattr(torch.backends.mkldnn, "matmul", None)


@contextlib.contextmanager
def _by(library: Library) -> Iterator[None]:
    switch = _setting()
    if switch is None:
        yield
        return
    before = switch.fp32_precision
    switch.fp32_precision = _PRECISION[library]
    try:
        yield
    finally:
        switch.fp32_precision = before


def choose() -> MatrixProducts:
    """Decide for this process, by the environment, by what was measured here before, or by measuring, and say why.

    A measurement is kept in the user's cache folder: a run that is repeated or goes on computes with the same library, to the bit.
    """
    global _chosen
    os.environ.setdefault(*_KERNELS)  # read when the first of them is made
    choice = _decided()
    _chosen = choice.library
    return choice


def leave() -> None:
    """Large products are the usual ones again."""
    global _chosen
    _chosen = "usual"


def _decided() -> MatrixProducts:
    given = os.environ.get(VARIABLE, "")
    if given == "usual" or given == "onednn":
        return MatrixProducts(library=given, reason=f"{VARIABLE}={given}")
    if _setting() is None or not torch.backends.mkldnn.is_available():
        return MatrixProducts(
            library="usual", reason="this PyTorch is older than 2.9 or was built without oneDNN"
        )
    file = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "prefloop" / "matmul.json"
    where = f"{platform.node()}, torch {torch.__version__}, {torch.get_num_threads()} threads"
    known = _read(file)
    if where in known:
        return MatrixProducts(
            library="onednn" if known[where]["library"] == "onednn" else "usual",
            reason=known[where]["reason"],
        )
    choice = measured()
    with contextlib.suppress(OSError):  # a cache: without one it is measured again
        file.parent.mkdir(parents=True, exist_ok=True)
        beside = file.with_suffix(f".{os.getpid()}")
        entry = {"library": choice.library, "reason": choice.reason}
        beside.write_text(json.dumps({**known, where: entry}, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, file)
    return choice


def _read(file: Path) -> dict[str, dict[str, str]]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def measured(repeats: int = 7) -> MatrixProducts:
    """Time both on one product, in turns, and compare their errors with float64. About 0.2 s."""
    rows, inner, columns = SHAPE
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(shape, generator=generator) for shape in ((rows, inner), (inner, columns)))
    out, some = torch.empty(rows, columns), slice(0, 64)
    exact = a[some].double() @ b.double()
    seconds, errors = {"usual": float("inf"), "onednn": float("inf")}, {"usual": 0.0, "onednn": 0.0}
    for _ in range(repeats):
        for library in ("usual", "onednn"):
            with _by(library):
                began = time.perf_counter()
                torch.mm(a, b, out=out)
                seconds[library] = min(seconds[library], time.perf_counter() - began)
            errors[library] = ((out[some].double() - exact).norm() / exact.norm()).item()
    return decide(seconds, errors)


def decide(seconds: dict[str, float], errors: dict[str, float]) -> MatrixProducts:
    """oneDNN where it keeps float32's accuracy and is clearly faster."""
    if errors["onednn"] > ERROR * errors["usual"]:
        why = f"oneDNN's error is {errors['onednn']:.1e}, float32's {errors['usual']:.1e}"
        return MatrixProducts(library="usual", reason=why)
    faster = seconds["usual"] / seconds["onednn"]
    why = f"oneDNN is {faster:.2f} times as fast on a large product, error {errors['onednn']:.1e} for {errors['usual']:.1e}"
    return MatrixProducts(library="onednn" if faster >= FASTER else "usual", reason=why)
