"""Judgements that an earlier row gives with the sides swapped, found without writing out the K(K-1)/2 pairs of a long ranking."""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from prefloop.data.formats import Record
from prefloop.records import Comparison, Label, Prompt, Ranking

_SHORT = 16
"""Completions of a ranking whose pairs are written out, at most."""


@dataclass(slots=True)
class _Order:
    """A long ranking: the place of each completion."""

    places: dict[str, int]
    origin: str


@dataclass(slots=True)
class _Stated:
    """What rows said of one prompt's completions so far."""

    pairs: dict[tuple[str, str], str] = field(default_factory=dict)
    """(better, worse) -> where it was said."""
    orders: list[_Order] = field(default_factory=list)
    known: set[tuple[str, ...]] = field(default_factory=set)
    """Long rankings, of which one that is said again is kept once."""


def contradictions(records: Iterable[tuple[Record, str]]) -> list[str]:
    """`ROW contradicts EARLIER ROW` for each row that judges two completions of a prompt, or one completion, differently from an earlier row."""
    seen: defaultdict[Hashable, _Stated] = defaultdict(_Stated)
    labels: dict[tuple[Prompt, str, bool], str] = {}
    found: list[str] = []
    for record, origin in records:
        earlier: str | None = None
        if isinstance(record, Comparison):
            asked = record.prompt.in_context(record.context)
            earlier = _contradicted(seen[asked], (record.chosen, record.rejected), origin)
        elif isinstance(record, Ranking):
            earlier = _contradicted(seen[record.prompt], record.completions, origin)
        elif isinstance(record, Label):
            earlier = labels.get((record.prompt, record.completion, not record.good))
            labels.setdefault((record.prompt, record.completion, record.good), origin)
        if earlier is not None:
            found.append(f"{origin} contradicts {earlier}")
    return found


def _contradicted(seen: _Stated, best_first: Sequence[str], origin: str) -> str | None:
    """The first earlier row found that says otherwise; what is said is kept."""
    if len(best_first) > _SHORT:
        return _contradicted_long(seen, tuple(best_first), origin)
    earlier = None
    pairs = [(one, two) for at, one in enumerate(best_first) for two in best_first[at + 1 :]]
    for better, worse in pairs:
        earlier = earlier or seen.pairs.get((worse, better))
        seen.pairs.setdefault((better, worse), origin)
    for order in seen.orders if earlier is None else ():
        if _disagree(best_first, order.places):
            return order.origin
    return earlier


def _contradicted_long(seen: _Stated, best_first: tuple[str, ...], origin: str) -> str | None:
    places = {completion: place for place, completion in enumerate(best_first)}
    opposite = (
        where
        for (better, worse), where in seen.pairs.items()
        if better in places and worse in places and places[better] > places[worse]
    )
    other = (order.origin for order in seen.orders if _disagree(best_first, order.places))
    earlier = next(opposite, None) or next(other, None)
    if best_first not in seen.known:
        seen.known.add(best_first)
        seen.orders.append(_Order(places=places, origin=origin))
    return earlier


def _disagree(best_first: Sequence[str], places: dict[str, int]) -> bool:
    """Whether two rankings order any two completions differently: then two neighbours among those that both have."""
    shared = [places[completion] for completion in best_first if completion in places]
    return any(one > two for one, two in pairwise(shared))
