"""What several commands print alike."""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any


def show(found: Any, text: Callable[[], str], *, as_json: bool) -> None:
    """Print what was found as JSON, or as text."""
    print(json.dumps(found, indent=1, ensure_ascii=False) if as_json else text())


def show_left_out(counts: Mapping[str, int]) -> None:
    """Print what was left out, by reason; nothing if nothing was."""
    left_out = ", ".join(f"{reason} {count}" for reason, count in counts.items() if count)
    if left_out:
        print(f"  left out: {left_out}")


def show_new(made: Iterable[tuple[int, str, int]], *, where: str) -> None:
    """Print how many of each sort there are, and how many are new in a store; of none nothing."""
    for count, name, new in made:
        if count:
            print(f"  {count} {name}, {new} of them new in {where}")
