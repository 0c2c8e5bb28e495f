"""Time to `prefloop --help`, and from typing `prefloop dpo` to its first step. Medians of five, half a minute:

python -m bench.startup
"""

import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.scaling import make_policy
from prefloop.data.toy_world import ToyWorld
from prefloop.text import train_tokenizer

REPEATS = 5


def help_seconds() -> float:
    """One `prefloop --help`."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "prefloop", "--help"], check=True, capture_output=True)
    return time.perf_counter() - began


def first_step_seconds(material: Path, out: Path) -> float:
    """Until the first step's metrics are in the file."""
    command = [sys.executable, "-m", "prefloop", "dpo", "--model", str(material / "policy"), "--data"]
    command += [str(material / "comparisons.jsonl"), "--out", str(out), "--batch_size", "8"]
    command += ["--max_steps", "100", "--run.log_every", "1"]
    began = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        metrics = out / "metrics.jsonl"
        while not (metrics.exists() and re.search(r'"loss"', metrics.read_text(encoding="utf-8"))):
            if process.poll() is not None:
                raise SystemExit(
                    "the run ended before its first step; try the command by hand: " + " ".join(command)
                )
            time.sleep(0.01)
        took = time.perf_counter() - began
        process.kill()
    return took


def main() -> None:
    """Measure and print."""
    from bench.versus.material import write_rows

    with tempfile.TemporaryDirectory() as folder:
        material = Path(folder)
        make_policy(material / "policy", "tiny")
        demonstrations = ToyWorld(0).demonstrations(400)
        texts = [f"{each.prompt.content}\n{each.completion}" for each in demonstrations]
        train_tokenizer(texts, vocab_size=1024).save_pretrained(material / "policy")
        rows = [
            {"prompt": f"{a.prompt.content}\n", "chosen": a.completion, "rejected": b.completion}
            for a, b in zip(demonstrations[0::2], demonstrations[1::2], strict=True)
        ]
        write_rows(material / "comparisons.jsonl", rows)
        helps = [help_seconds() for _ in range(REPEATS)]
        steps = [first_step_seconds(material, material / f"run-{n}") for n in range(REPEATS)]
    print(f"prefloop --help:                 {statistics.median(helps):6.2f} s")
    print(f"prefloop dpo, to its first step: {statistics.median(steps):6.2f} s")


if __name__ == "__main__":
    main()
