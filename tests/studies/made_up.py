"""Data sets in the form of the published ones, small enough for a test."""

import csv
import gzip
import json
import random
from pathlib import Path

from prefloop.studies.votes import BASELINE, PUBLISHED


def write_votes(folder: Path, *, systems: int = 8, prompts: int = 60, seed: int = 0) -> Path:
    """A folder like AlpacaEval's: votes of a judge on systems whose win rates are as published, and answers whose lengths differ."""
    draw = random.Random(seed)
    folder.mkdir(parents=True)
    names = sorted(PUBLISHED)[:systems]
    with gzip.open(folder / "outputs.jsonl.gz", "wt", encoding="utf-8") as file:
        for prompt in range(prompts):
            for name in (*names, BASELINE):
                row = {"prompt_id": str(prompt), "model": name, "completion": "a" * draw.randint(20, 200)}
                file.write(json.dumps(row) + "\n")
    with gzip.open(folder / "votes.csv.gz", "wt", encoding="utf-8", newline="") as file:
        write = csv.writer(file)
        write.writerow(("prompt_id", "model_a", "model_b", "winner"))
        for prompt in range(prompts):
            for name in names:
                first = draw.random() < 0.5
                won = draw.random() < PUBLISHED[name] / 100
                sides = (name, BASELINE) if first else (BASELINE, name)
                write.writerow((prompt, *sides, "model_a" if won == first else "model_b"))
    return folder


def write_comparisons(folder: Path, *, count: int = 40) -> Path:
    """Folders like those of AlpacaEval's comparisons and Anthropic's harmless ones; the polite answer is chosen."""
    draw = random.Random(0)
    for name, file in (("alpaca-eval", "comparisons.jsonl.gz"), ("hh-harmless", "train.jsonl.gz")):
        (folder / name).mkdir(parents=True)
        with gzip.open(folder / name / file, "wt", encoding="utf-8") as rows:
            for number in range(count):
                good, bad = "yes please" + " sir" * draw.randint(0, 3), "no" + " way" * draw.randint(0, 3)
                if name == "alpaca-eval":
                    row = {"prompt": f"Q {number}?", "chosen": good, "rejected": bad}
                else:
                    asked = f"\n\nHuman: Q {number}?\n\nAssistant: "
                    row = {"chosen": asked + good, "rejected": asked + bad}
                rows.write(json.dumps(row) + "\n")
    return folder
