"""Every loss and estimator that TRL or rlax computes too, on the same ragged float64 numbers: `make oracles`, or

    python -m bench.oracles [--environment .oracles] [--python PYTHON] [--out docs/oracles.md]

The other packages are installed into an environment of their own (the first time); none of them is imported here. Prints a Markdown table and the
explained disagreements. Ends with 1 if values or gradients that must agree do not to 1e-6 (5e-6 where the other side computes in float32), or if two that
are explained as different have become the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.oracles.cases import CASES, ONLY_HERE, Case, numbers

HERE = Path(__file__).parent
_HEAD = """# Losses beside other packages

`make oracles` writes this page with `python -m bench.oracles --out docs/oracles.md`. It installs the releases in
[`bench/oracles/requirements.txt`](../bench/oracles/requirements.txt) into a separate environment. Both sides get the same ragged float64
numbers. TRL's trainers compute their loss through stand-ins for trainer and model; rlax's functions are called directly. Values, and
gradients in every token's log-probability, must agree to 1e-6 (5e-6 if the other side computes in float32), relative to the largest
number or to 1. A pair that is explained as different must stay different, so that an explanation cannot outlive its reason.
"""


def make_environment(folder: Path) -> Path:
    """Its Python, made once."""
    python, finished = folder / "bin/python", folder / "finished"
    if not finished.exists():
        print(f"setting up TRL and rlax in {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", HERE / "requirements.txt"], check=True)
        finished.touch()
    return python


def ours(case: Case, all: dict[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Value and gradient in the log-probabilities."""
    n = {key.split("/")[1]: value for key, value in all.items() if key.startswith(f"{case.data}/")}
    logprobs = n["logprobs"].clone().requires_grad_()
    value = case.ours(n, logprobs)
    if not value.requires_grad:
        return value, None
    (gradient,) = torch.autograd.grad(value, logprobs)
    return value.detach(), gradient


def difference(a: Tensor, b: Tensor) -> float:
    """The largest, as a share of the largest number (or of 1)."""
    return ((a - b).abs().max() / max(1.0, b.abs().max().item())).item()


def main() -> int:
    """Compare and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", type=Path, default=Path(".oracles"))
    parser.add_argument("--python", type=Path, help="an environment that has the other packages already")
    parser.add_argument("--out", type=Path, help="page to write, where all is as expected")
    given = parser.parse_args()
    python = (given.python or make_environment(given.environment)).absolute()  # it is run in another folder
    all = numbers()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_file(all, folder / "numbers.safetensors")
        rows = [
            {"name": c.name, "theirs": c.theirs, "settings": dict(c.settings), "data": c.data} for c in CASES
        ]
        (folder / "cases.json").write_text(json.dumps(rows))
        # Only this variable: the other side must not find this project by PYTHONPATH.
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        subprocess.run([python, HERE / "theirs.py", folder], check=True, env=environment, cwd=folder)
        theirs = load_file(folder / "theirs.safetensors")
    failed = []
    lines = [
        "| ours | theirs | value | difference | in the gradient | |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for case in CASES:
        value, gradient = ours(case, all)
        apart = difference(value, theirs[f"{case.name}/value"])
        moved = 0.0 if gradient is None else difference(gradient, theirs[f"{case.name}/gradient"])
        agrees = apart <= case.tolerance and moved <= case.tolerance
        if agrees == bool(case.differs):
            failed.append(case.name)
        shown = f"{value.item():.6g}" if value.dim() == 0 else f"{value.numel()} numbers"
        word = "explained below" if case.differs else "agree" if agrees else "**DISAGREE**"
        slope = "-" if gradient is None else f"{moved:.1e}"
        lines.append(f"| {case.name} | {case.package} | {shown} | {apart:.1e} | {slope} | {word} |")
    lines += ["", "## Where they differ, and why", ""]
    lines += [f"- **{c.name}** and {c.package}: {c.differs}" for c in CASES if c.differs]
    lines += ["", "## Without a counterpart", "", f"{'; '.join(ONLY_HERE)}."]
    lines += ["", "What TRL's trainers write inside longer methods cannot be called by itself: group advantages, whose formulas are the tests' (`tests/losses/test_critic_free.py`)."]  # fmt: skip
    print("\n".join(lines))
    if given.out and not failed:
        given.out.write_text("\n".join([_HEAD, *lines]) + "\n", encoding="utf-8")
    for name in failed:
        print(f"{name}: not as expected", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
