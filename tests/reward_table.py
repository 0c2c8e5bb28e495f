"""What reward models learn on tiny tasks, three seeds each: `python -m tests.reward_table` prints the table of docs/reward.md."""

import logging
import tempfile
from pathlib import Path

from prefloop.losses.reward_model import REWARD_LOSSES
from tests.algorithms.reward_tasks import TASKS, ensembled, heldout_accuracy, length_bias, pretrained
from tests.algorithms.small import make_project

SEEDS = (0, 1, 2)


def rows(folder: Path) -> list[tuple[str, list[float]]]:
    """What is measured, and its number for each seed."""
    project = make_project(folder / "project")
    found: list[tuple[str, list[float]]] = []
    for loss in REWARD_LOSSES:
        numbers = [heldout_accuracy(loss, project, folder / f"{loss}-{seed}", seed) for seed in SEEDS]
        what = "held-out variance explained by" if loss == "regression" else "held-out accuracy of"
        found.append((f"{what} `{loss}`", numbers))
    for number, (name, task) in enumerate(TASKS.items()):
        found.append((name, [task(project, folder / f"task{number}-{seed}", seed) for seed in SEEDS]))
    both = [pretrained(project, folder / f"pretrained-{seed}", seed) for seed in SEEDS]
    found.append(("eight comparisons alone", [alone for alone, _ in both]))
    found.append(("the same after pretraining on 256, a fifth of them wrong", [after for _, after in both]))
    rules = [ensembled(project, folder / f"ensemble-{seed}", seed) for seed in SEEDS]
    found += [
        (f"four models of 24 noisy comparisons: {name}", [each[name] for each in rules]) for name in rules[0]
    ]
    biased = [length_bias(project, folder / f"length-{seed}", seed) for seed in SEEDS]
    return found + [(f"longer is chosen; {name}", [each[name] for each in biased]) for name in biased[0]]


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        measured = rows(Path(folder))
    print("| measured | seed 0 | seed 1 | seed 2 |")
    print("| --- | --- | --- | --- |")
    for name, numbers in measured:
        print(f"| {name} | {' | '.join(f'{number:.3f}' for number in numbers)} |")


if __name__ == "__main__":
    main()
