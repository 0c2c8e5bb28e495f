"""Scores of stored completions, computed beforehand by models and read here as numbers: JSON lines `{prompt, completion, scores}` of hashes and numbers."""

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from prefloop.errors import InputError

Key = tuple[str, str]
"""SHA-256 of the prompt and of the completion's text."""


def write_scores(path: str | Path, rows: Iterable[tuple[Key, Sequence[float]]]) -> int:
    """Write scores of completions, one number a scorer; how many. Raises `InputError` if the file cannot be written."""
    lines = [
        json.dumps({"prompt": prompt, "completion": completion, "scores": list(scores)}, allow_nan=False)
        for (prompt, completion), scores in rows
    ]
    target = Path(path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_name(f".{target.name}.tmp")
        draft.write_text("".join(f"{line}\n" for line in lines))
        draft.replace(target)
    except OSError as error:
        raise InputError(f"{target}: cannot be written ({error}); name a file") from error
    return len(lines)


def read_scores(path: str | Path) -> dict[Key, tuple[float, ...]]:
    """What `write_scores` wrote. Raises `InputError`, with the line, for anything else."""
    source = Path(path)
    try:
        lines = source.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{source}: cannot be read ({error}); write it with `prefloop data score`"
        ) from error
    found: dict[Key, tuple[float, ...]] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key, scores = (str(row["prompt"]), str(row["completion"])), tuple(map(float, row["scores"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{source}:{number}: is not a row of scores ({error}); write the file with `prefloop data score`"
            ) from error
        if not scores or not all(map(math.isfinite, scores)):
            raise InputError(
                f"{source}:{number}: scores are {list(scores)}; they must be finite numbers, one or more"
            )
        found[key] = scores
    if len({len(scores) for scores in found.values()}) != 1:
        raise InputError(f"{source}: rows must hold the same number of scores, and there must be one or more")
    return found
