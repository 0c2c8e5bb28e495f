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
