"""`prefloop best_of_n`."""

from collections.abc import Sequence
from pathlib import Path

from prefloop.configs.best_of_n import BestOfNConfig
from prefloop.data import write_jsonl
from prefloop.errors import InputError
from prefloop.evaluation.best_of_n import BestAndWorst, Curve, choose_best
from prefloop.evaluation.json_files import write_json
from prefloop.evaluation.tables import best_of_table
from prefloop.records import Comparison, Demonstration
from prefloop.runtime.world import start_world


def best(config: BestOfNConfig) -> str:
    """Draw, score, choose, print and write; the file of demonstrations."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    curve, chosen = choose_best(config, world)
    folder = Path(config.out)
    world.on_main(lambda: _write(folder, curve, chosen))
    return str(folder / "demonstrations.jsonl")


def _write(folder: Path, curve: Curve, chosen: BestAndWorst) -> None:
    print(best_of_table(curve.points))
    if curve.disagreement:
        print(f"the scorers disagree by {curve.disagreement:.3f} standard deviations on average")
    write_json(folder / "best_of_n.json", curve)
    empty = f"{chosen.empty} prompts whose best completion is empty"
    _write_records(folder / "demonstrations.jsonl", chosen.demonstrations, left_out=empty)
    equal = f"{chosen.equal} prompts whose completions score alike or are empty"
    _write_records(folder / "comparisons.jsonl", chosen.comparisons, left_out=equal)


def _write_records(file: Path, records: Sequence[Demonstration | Comparison], *, left_out: str) -> None:
    if not records:
        raise InputError(f"{file}: nothing to write; left out were {left_out}")
    write_jsonl(records, file)
    print(f"{file}: {len(records)}; left out {left_out}")
