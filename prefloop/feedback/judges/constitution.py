"""Constitutions: principles that critiques, revisions and comparisons are asked by (Bai et al. 2022, arXiv:2212.08073)."""

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from prefloop.configs.copies import here
from prefloop.errors import InputError


@dataclass(frozen=True, kw_only=True, slots=True)
class Principle:
    """One principle, as it is put in each of the three questions."""

    critique: str
    """What the critique is asked for."""
    revision: str
    """What the revision is asked for."""
    preference: str
    """What a comparison goes by."""

    @classmethod
    def of(cls, text: str) -> "Principle":
        """From one sentence, which serves all three."""
        return cls(
            critique=f"Principle: {text}\nSay briefly where the answer goes against this principle, and how it could follow it better.",
            revision="Rewrite the answer so that it follows the principle and stays as helpful as it can.",
            preference=text,
        )


def read_constitution(file: str | Path) -> tuple[Principle, ...]:
    """The principles in a file, in order; none if no file is named.

    YAML (`.yaml`, `.yml`): a list whose entries are sentences, or groups with `preference` and, where the questions are to be worded
    otherwise than by it, `critique` and `revision`. Any other file: a principle a line; empty lines and lines that begin with `#` are passed over.

    Raises `InputError` with the file and the entry.
    """
    if not file:
        return ()
    path = Path(here(str(file)))
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix in (".yaml", ".yml"):
            entries = yaml.safe_load(text)
        else:
            lines = (line.strip() for line in text.splitlines())
            entries = [line for line in lines if line and not line.startswith("#")]
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"constitution {file}: it cannot be read ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(
            f"constitution {file}: it has no principles; write a YAML list, or one principle per line"
        )
    return tuple(_principle(entry, f"constitution {file}, entry {n}") for n, entry in enumerate(entries, 1))


def _principle(entry: Any, where: str) -> Principle:
    if isinstance(entry, str) and entry.strip():
        return Principle.of(entry.strip())
    if not isinstance(entry, dict):
        raise InputError(f"{where} is {entry!r}; it must be a sentence, or a mapping with `preference`")
    unknown = set(entry) - {"critique", "revision", "preference"}
    if unknown:
        raise InputError(
            f"{where} has {', '.join(sorted(map(str, unknown)))}; the keys are critique, revision and preference"
        )
    for name, value in entry.items():
        if not (isinstance(value, str) and value.strip()):
            raise InputError(f"{where}: {name} is {value!r}; it must be a sentence")
    if "preference" not in entry:
        raise InputError(f"{where} has no `preference`; say what makes an answer better")
    basic = Principle.of(entry["preference"].strip())
    given = {name: value.strip() for name, value in entry.items()}
    return Principle(**(asdict(basic) | given))


def constitution_sha256(principles: Sequence[Principle]) -> str:
    """Hash of everything that is asked by the principles."""
    return hashlib.sha256(json.dumps([asdict(principle) for principle in principles]).encode()).hexdigest()


def drawn_order(count: int, seed: int, *texts: str) -> list[int]:
    """The places 0 to `count` - 1 in an order drawn from the seed and the texts alone, whatever order the texts are in."""
    order = list(range(count))
    random.Random(json.dumps([seed, *sorted(texts)])).shuffle(order)
    return order
