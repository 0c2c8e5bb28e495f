"""Which pairs to ask: a stated share drawn uniformly, the rest by a strategy, and every one with the strategy that chose it."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

UNIFORM = "uniform"


@dataclass(frozen=True, kw_only=True, slots=True)
class ChosenPair:
    """A pair to ask."""

    place: int
    """Among those offered."""
    strategy: str
    """Kept with the item: what is measured on the uniform ones alone is not biased by the strategy."""


def choose(
    keys: Sequence[str], best_first: Sequence[int], *, strategy: str, count: int, uniform: float, seed: int
) -> list[ChosenPair]:
    """`count` of the pairs offered, named by what they hold (`keys`): ⌈uniform · count⌉ drawn uniformly, then the strategy's best of the others.

    The draw comes first and looks at nothing but seed and keys, so each pair offered has the same chance to be in the uniform part, whatever the
    strategy thinks of it. A strategy that has too few (`best_first` need not name every pair) gives fewer. Raises `ValueError` for a share outside
    0 to 1, a negative count and a key given twice.
    """
    if not 0 <= uniform <= 1 or count < 0:
        raise ValueError(
            f"uniform is {uniform} and count {count}; a share from 0 to 1, and 0 or more, are needed"
        )
    if len(set(keys)) != len(keys):
        raise ValueError("two pairs have the same key; give every pair its own")
    drawn = sorted(range(len(keys)), key=lambda at: draw(seed, keys[at]))
    wanted = count if strategy == UNIFORM else math.ceil(uniform * count - 1e-9)
    taken = [ChosenPair(place=at, strategy=UNIFORM) for at in drawn[:wanted]]
    known = {taken_pair.place for taken_pair in taken}
    rest = [at for at in best_first if at not in known] if strategy != UNIFORM else []
    return taken + [ChosenPair(place=at, strategy=strategy) for at in rest[: count - len(taken)]]


def draw(seed: int, key: str) -> str:
    """A pair's place in the uniform draw."""
    return hashlib.sha256(f"{seed} {key}".encode()).hexdigest()
