"""`prefloop plan` beside what is then measured: seconds of one thread and most memory of six stages on a real model, each in a process of its own.

    python -m bench.plan --model MODEL --data comparisons.jsonl

Seconds are the process's own (CPU time of one thread), so that other programs on the machine change little; the rates that the estimate starts from are
measured in the same process, just before.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import yaml

from prefloop.configs.align import PlanConfig, Preferences
from prefloop.configs.common import Compute
from prefloop.recipes.align.cost import Cost
from prefloop.recipes.align.decide import decide, held_mib, model_of
from prefloop.recipes.align.estimate import estimates
from prefloop.recipes.align.look import look
from prefloop.recipes.align.run import write_data
from prefloop.recipes.align.stages import Stage, stages

CASES: Mapping[str, tuple[str, str]] = {
    "reward model, adapters": ("judge", "lora"),
    "dpo, adapters": ("dpo", "lora"),
    "dpo, all weights": ("dpo", "all"),
    "orpo, adapters": ("orpo", "lora"),
    "grpo, adapters": ("grpo", "lora"),
    "ppo, adapters": ("ppo", "lora"),
}
"""Case -> stage, and what is trained."""

TRAIN = """
import json, sys, time
import torch, peft
from prefloop.configs.load import load_config
from prefloop.runtime.tune import peak_rss_mb
module, settings, file = sys.argv[1:]
train = __import__(module, fromlist=["train"]).train
name, _, cls = settings.partition(":")
config = load_config(getattr(__import__(name, fromlist=[cls]), cls), file)
began = time.process_time()
train(config)
print(json.dumps([time.process_time() - began, peak_rss_mb()]))
"""


def main() -> None:
    """Print the table, a row as each case ends."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--comparisons", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64, help="of a completion, at most")
    parser.add_argument("--only", default="", help="cases with this in their name")
    given = parser.parse_args()
    torch.set_num_threads(1)
    base = held_mib()  # with its libraries, as each stage's own process begins
    print("| stage | s estimated | s measured | | GiB estimated | GiB measured | |")
    print("| -- | -- | -- | -- | -- | -- | -- |")
    for name, (stage, weights) in CASES.items():
        if given.only in name:
            estimated, taken = compare(given, stage, weights, base)
            cells = [
                f"{a / unit:.{digits}f} | {b / unit:.{digits}f} | {a / b - 1:+.0%}"
                for a, b, unit, digits in (
                    (estimated.seconds, taken.seconds, 1.0, 1),
                    (estimated.mib, taken.mib, 1024.0, 2),
                )
            ]
            print(f"| {name} | {' | '.join(cells)} |", flush=True)


def compare(given: argparse.Namespace, name: str, weights: str, base: float) -> tuple[Cost, Cost]:
    """A stage's cost by the estimate, and as it was."""
    data = Preferences(
        source=given.data,
        limit=given.comparisons * 100,
        max_prompt_tokens=96,
        max_completion_tokens=given.tokens,
    )
    settings: dict[str, Any] = {"method": ("dpo" if name == "judge" else name,), "weights": weights}
    config = PlanConfig(model=given.model, data=data, compute=Compute(device="cpu"), **settings)
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        decided = decide(config, look(config), project)
        few = given.comparisons
        sizes = replace(
            decided.sizes, policy=min(few, decided.sizes.policy), judge=min(few, decided.sizes.judge), steps=1
        )
        made = stages(config, decided.seen, sizes, decided.choice, project)
        write_data(config, replace(decided, sizes=sizes), project / "data")
        model = replace(model_of(decided.seen, decided.machine, decided.choice), base=base)
        cost = {
            each.stage: each.cost for each in estimates(made, sizes, decided.seen.lengths, model, judge=True)
        }
        taken = Cost(seconds=0.0, mib=0.0)
        for each in made:
            if each.name == name or each.name == "reward":  # what a method needs is made first
                taken = train(each, project)
        return cost[name], taken


def train(stage: Stage, project: Path) -> Cost:
    """Train in a process of its own."""
    file = project / f"{stage.name}.yaml"
    file.write_text(yaml.safe_dump(plain(asdict(stage.settings)), sort_keys=False))
    kind = type(stage.settings)
    command = [
        sys.executable,
        "-c",
        TRAIN,
        stage.train.__module__,
        f"{kind.__module__}:{kind.__qualname__}",
        str(file),
    ]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{stage.name} failed:\n{run.stderr[-2000:]}")
    seconds, mib = json.loads(run.stdout.splitlines()[-1])
    return Cost(seconds=seconds, mib=mib)


def plain(value: Any) -> Any:
    """Lists in place of tuples."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, tuple | list) else value


if __name__ == "__main__":
    main()
