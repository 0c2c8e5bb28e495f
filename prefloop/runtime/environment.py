"""What a run was made with: versions and machine, and settings as flat keys."""

import os
import platform
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from prefloop.runtime.tune import available_cores

_PACKAGES = ("prefloop", "torch", "transformers", "tokenizers", "peft", "numpy", "safetensors")


def environment() -> dict[str, str]:
    """Versions and machine, by name. Nothing is imported to find out."""
    versions = {name: _version(name) for name in _PACKAGES}
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        **versions,
        "python": platform.python_version(),
        "system": platform.platform(),
        "processor": _processor(),
        "cores": f"{available_cores():g}",
        "memory": f"{memory / 2**30:.1f} GiB",
    }


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys: `{"optim": {"lr": 1}}` is `{"optim.lr": 1}`."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@cache
def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


@cache
def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
