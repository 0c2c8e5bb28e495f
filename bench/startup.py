"""Time to `import prefloop`, to `prefloop --help`, and from typing `prefloop dpo` to its first step; half a minute:

python -m bench.startup

The first two are processor time, which other work on the machine hardly changes: the least of fifteen. The last is a median of five.
"""

import re
import resource
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
STARTS = 15


def processor_seconds(*arguments: str) -> float:
    """Of Python with these arguments, the least of several."""

    def used() -> float:
        of_children = resource.getrusage(resource.RUSAGE_CHILDREN)
        return of_children.ru_utime + of_children.ru_stime

    found = list[float]()
    for _ in range(STARTS):
        before = used()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        found.append(used() - before)
    return min(found)


def start_lines() -> str:
    """What starting takes, Python itself beside it."""
    bare, imported = processor_seconds("-c", "pass"), processor_seconds("-c", "import prefloop")
    helped = processor_seconds("-m", "prefloop", "--help")
    return (
        f"python -c pass:                  {bare:6.3f} s\nimport prefloop:                 {imported:6.3f} s\n"
        f"prefloop --help:                 {helped:6.3f} s"
    )


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
        texts = [f"{one.prompt.content}\n{one.completion}" for one in demonstrations]
        train_tokenizer(texts, vocab_size=1024).save_pretrained(material / "policy")
        rows = [
            {"prompt": f"{a.prompt.content}\n", "chosen": a.completion, "rejected": b.completion}
            for a, b in zip(demonstrations[0::2], demonstrations[1::2], strict=True)
        ]
        write_rows(material / "comparisons.jsonl", rows)
        steps = [first_step_seconds(material, material / f"run-{n}") for n in range(REPEATS)]
    print(start_lines())
    print(f"prefloop dpo, to its first step: {statistics.median(steps):6.2f} s")


if __name__ == "__main__":
    main()
