"""How near win rates at equal length come to AlpacaEval's published ones, on GPT-4's votes on 24 systems against text_davinci_003.

    python -m bench.length_control DATA

DATA is a folder with AlpacaEval's `votes.csv.gz` and `outputs.jsonl.gz`. "Alone" fits one system without the prompts' difficulty; "together"
is what `prefloop arena --baseline` prints, of all systems or of random groups. The published rates are of all 805 instructions, with the
authors' penalties and rows of the baseline against itself.
"""

import csv
import gzip
import json
import sys
from pathlib import Path

import numpy as np

from prefloop.feedback.ratings import length_controlled_win_rate, length_controlled_win_rates

BASELINE = "text_davinci_003"
PUBLISHED = {
    "LMCocktail-10.7B-v1": 84.8,
    "alpaca-7b-neft": 31.6,
    "alpaca-farm-ppo-human": 29.8,
    "claude": 76.8,
    "claude-2": 74.3,
    "claude2-alpaca-13b": 49.7,
    "deita-7b-v1.0": 71.1,
    "falcon-40b-instruct": 39.1,
    "gpt-3.5-turbo-0301": 79.2,
    "gpt-3.5-turbo-1106": 75.6,
    "gpt35_turbo_instruct": 66.9,
    "gpt4": 86.5,
    "guanaco-65b": 54.7,
    "llama-2-70b-chat-hf": 74.1,
    "minichat-3b": 32.0,
    "mistral-medium": 91.5,
    "oasst-rlhf-llama-33b": 55.8,
    "phi-2": 29.8,
    "phi-2-sft": 44.7,
    "text_davinci_001": 20.6,
    "ultralm-13b-v2.0": 63.8,
    "vicuna-13b": 50.0,
    "wizardlm-13b": 62.6,
    "zephyr-7b-alpha": 73.5,
}
"""Length-controlled win rates in %, AlpacaEval's leaderboard of the GPT-4 judge."""


def rows_of(folder: Path) -> dict[str, np.ndarray]:
    """System -> `[prompts, 4]` prompt, preference, length, the baseline's length."""
    length = {}
    with gzip.open(folder / "outputs.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            length[row["prompt_id"], row["model"]] = len(row["completion"])
    number: dict[str, int] = {}
    found: dict[str, list[tuple[float, ...]]] = {}
    with gzip.open(folder / "votes.csv.gz", "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            own = row["model_b"] if row["model_a"] == BASELINE else row["model_a"]
            won = float(row[row["winner"]] == own)
            at, prompt = number.setdefault(row["prompt_id"], len(number)), row["prompt_id"]
            found.setdefault(own, []).append((at, won, length[prompt, own], length[prompt, BASELINE]))
    return {name: np.array(each) for name, each in found.items() if name in PUBLISHED}


def together(rows: dict[str, np.ndarray]) -> dict[str, float]:
    """System -> rate in %, NaN where there is too little."""
    names = sorted(rows)
    table = np.concatenate([rows[name] for name in names])
    model = np.repeat(np.arange(len(names)), [len(rows[name]) for name in names])
    rates = length_controlled_win_rates(model, table[:, 0].astype(np.intp), *table[:, 1:].T)
    return {name: 100 * each.controlled.value for name, each in zip(names, rates, strict=True)}


def main() -> None:
    """Print the table of docs/ratings.md."""
    rows = rows_of(Path(sys.argv[1]))
    random = np.random.default_rng(0)
    alone = {
        name: 100 * length_controlled_win_rate(*each[:, 1:].T).controlled.value for name, each in rows.items()
    }
    errors = {
        "raw": [100 * each[:, 1].mean() - PUBLISHED[name] for name, each in rows.items()],
        "alone": [value - PUBLISHED[name] for name, value in alone.items()],
        f"together, all {len(rows)}": [value - PUBLISHED[name] for name, value in together(rows).items()],
    }
    for size in (3, 6, 12):
        errors[f"together, groups of {size}"] = [
            value - PUBLISHED[name]
            for _ in range(40)
            for name, value in together({name: rows[name] for name in random.choice(sorted(rows), size, replace=False)}).items()
        ]  # fmt: skip
    print("| rate | mean error, points | mean of errors | largest |\n| --- | --- | --- | --- |")
    for name, each in errors.items():
        print(f"| {name} | {np.abs(each).mean():.1f} | {np.mean(each):+.1f} | {np.abs(each).max():.1f} |")


if __name__ == "__main__":
    main()
