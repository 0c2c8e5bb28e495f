"""The long runs behind the numbers in docs/results.md: the toy recipe over several seeds, and the film reviews where their data is there.

    python -m prefloop.recipes.evidence --out evidence [--seeds 0 1 2] [--imdb FOLDER]

Each run is a process of its own, so that its memory is its own. Prints Markdown tables, and writes them to OUT/results.md.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def main(arguments: list[str] | None = None) -> int:
    """Run what was asked for, one after another, and print the tables. 1 if a toy policy misses the level that is claimed for it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("evidence"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--imdb", default="", help="folder with the reviews; left out where it is not given")
    given = parser.parse_args(arguments)
    toy = [run("toy", given.out / f"toy-{seed}", ["--seed", str(seed)]) for seed in given.seeds]
    lines = [machine(), "", *table(toy)]
    if given.imdb:
        reviews = run("imdb", given.out / "imdb", ["--data", given.imdb])
        lines += ["", *table([reviews])]
    text = "\n".join(lines) + "\n"
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "results.md").write_text(text)
    print(text)
    missed = [summary for summary in toy if not beats_sft(summary)]
    for summary in missed:
        print(
            f"seed {summary['seed']}: a policy's win rate is not above 60 % with 95 % confidence",
            file=sys.stderr,
        )
    return 1 if missed else 0


def run(recipe: str, out: Path, flags: list[str]) -> dict[str, Any]:
    """One recipe in a process of its own, unless its summary is there already; the summary."""
    summary = out / "summary.json"
    if not summary.exists():
        command = [sys.executable, "-m", "prefloop", "run", recipe, "--out", str(out), *flags]
        if out.exists():
            command += ["--resume", "true"]
        print("$ prefloop", " ".join(command[3:]), flush=True)
        subprocess.run(command, check=True)
    return json.loads(summary.read_text())


def beats_sft(summary: dict[str, Any]) -> bool:
    """Whether every policy but SFT wins against it with the lower end of its interval above 60 %."""
    return all(
        policy["win_rate_vs_sft"]["low"] > 0.6 for policy in summary["policies"] if policy["name"] != "sft"
    )


def table(summaries: list[dict[str, Any]]) -> list[str]:
    """A row for each policy of each run."""
    extra = "positive_share" in summaries[0]["policies"][0]
    head = [
        "recipe",
        "seed",
        "policy",
        "gold",
        "positive" if extra else "",
        "reward model",
        "KL, nats",
        "wins vs SFT, %",
    ]
    head += ["perplexity under SFT", "tokens", "repeated 3-grams, %", "minutes", "peak MB"]
    head = [name for name in head if name]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for summary in summaries:
        for policy in summary["policies"]:
            first = policy["name"] == "sft"
            row = [summary["recipe"], str(summary["seed"]), policy["name"], shown(policy["gold"], 2)]
            row += [shown(policy["positive_share"], 1, 100)] if extra else []
            row += [
                shown(policy["proxy"], 2),
                shown(policy["kl"], 1),
                "" if first else shown(policy["win_rate_vs_sft"], 1, 100),
            ]
            row += [
                shown(policy["perplexity_under_sft"], 2),
                shown(policy["length"], 1),
                shown(policy["repetition"], 1, 100),
            ]
            row += [
                f"{summary['seconds'] / 60:.1f}" if first else "",
                f"{summary['peak_rss_mb']:.0f}" if first else "",
            ]
            lines.append("| " + " | ".join(row) + " |")
    reward_models = [
        f"{summary['recipe']} seed {summary['seed']}: {shown(summary['reward_model']['accuracy'], 1, 100)} % on noisy labels "
        f"(at most {100 * summary['reward_model']['ceiling']:.1f} %), {shown(summary['reward_model']['gold_accuracy'], 1, 100)} % against gold"
        for summary in summaries
    ]
    return [*lines, "", "Reward models on held-out comparisons: " + "; ".join(reward_models) + "."]


def shown(estimate: dict[str, Any], digits: int, scale: float = 1.0) -> str:
    """A number with its 95 % interval."""
    value, low, high = (estimate[name] for name in ("value", "low", "high"))
    if low == high:  # so by definition, or both null: the sample has no spread
        return f"{scale * value:.{digits}f}"
    return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]"


def machine() -> str:
    """Commit and size of the machine."""
    commit = (
        subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
        or "not a checkout"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"Commit {commit}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB."


if __name__ == "__main__":
    sys.exit(main())
