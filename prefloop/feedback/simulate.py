"""Simulated annotators: people-shaped noise around a utility that is known, so that what training should find is known too.

Every draw is a function of (seed, annotator's name, the item's content and round): the same item gets the same judgement in whatever
order, batch, process or database the items come. Pairs follow Bradley-Terry; rankings follow Plackett-Luce, whose pairs are the same.
"""

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from prefloop.configs.common import require
from prefloop.data.store import Choice, Item, Judgement, Store
from prefloop.errors import InputError
from prefloop.records import Comparison, Prompt

Utility = Callable[[Prompt, str], float]
"""How good a completion of a prompt truly is, in any unit; differences count."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedAnnotator:
    """Somebody who knows the utility and errs in known ways."""

    name: str
    utility: Utility
    temperature: float = 1.0
    """Bradley-Terry scale, in units of the utility: prefers a with probability sigmoid((u_a - u_b) / temperature); 0 never errs so."""
    flip: float = 0.0
    """Then says the opposite, or the ranking backwards, with this probability. Ties are not flipped."""
    tie_width: float = 0.0
    """Says tie where the utilities differ by less than this."""
    seed: int = 0
    utility_sha256: str = ""
    """Hash of what the utility depends on, where it has one; kept with the annotator."""

    def __post_init__(self) -> None:
        where = f"annotator {self.name!r}"
        require(bool(self.name), "an annotator's name is empty; give one")
        require(
            math.isfinite(self.temperature) and self.temperature >= 0,
            f"{where}: temperature is {self.temperature}; it must be 0 (never errs) or more",
        )
        require(0 <= self.flip <= 1, f"{where}: flip is {self.flip}; it must be a probability, from 0 to 1")
        require(
            self.tie_width >= 0, f"{where}: tie_width is {self.tie_width}; it must be 0 (no ties) or more"
        )

    def settings(self) -> dict[str, str | float]:
        """What the store keeps of the annotator: the utility by name, the rest by value."""
        return {
            "utility": getattr(self.utility, "__qualname__", type(self.utility).__qualname__),
            "temperature": self.temperature,
            "flip": self.flip,
            "tie_width": self.tie_width,
            "seed": self.seed,
            "utility_sha256": self.utility_sha256,
        }

    def utility_of(self, prompt: Prompt, completion: str) -> float:
        """The utility, checked: `InputError` unless it is a finite number."""
        value = float(self.utility(prompt, completion))
        if not math.isfinite(value):
            raise InputError(
                f"annotator {self.name!r}: the utility of completion {completion[:60]!r} is {value}; it must be a finite number"
            )
        return value


@dataclass(frozen=True, kw_only=True, slots=True)
class SimulatedChoice:
    """What a simulated annotator says of one item."""

    choice: Choice
    order_shown: tuple[int, ...]
    ranking: tuple[tuple[int, ...], ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Labelled:
    """What `label_items` wrote."""

    judgements: tuple[int, ...]
    choices: Mapping[str, int]
    """Choice -> how often."""


def simulated_choice(
    annotator: SimulatedAnnotator, item: Item, utilities: Sequence[float]
) -> SimulatedChoice:
    """The annotator's verdict on an item whose completions have these utilities, by slot."""
    # By content, not by the store's id, which is another one in another store.
    content = [annotator.seed, annotator.name, item.round, item.kind, item.prompt.sha256, *item.completions]
    key = json.dumps(content).encode()
    slots = range(len(item.completions))
    order = tuple(sorted(slots, key=lambda slot: _uniform(key, f"shown {slot}")))
    flipped = _uniform(key, "flip") < annotator.flip
    if item.kind == "rank":
        ranking = _rank(annotator, key, utilities)
        return SimulatedChoice(
            choice="ranking", order_shown=order, ranking=ranking[::-1] if flipped else ranking
        )
    difference = utilities[0] - utilities[1]
    if abs(difference) < annotator.tie_width:
        return SimulatedChoice(choice="tie", order_shown=order)
    prefers_a = _uniform(key, "choice") < prefers(difference, annotator.temperature)
    return SimulatedChoice(choice="a" if prefers_a != flipped else "b", order_shown=order)


def prefers(difference: float, temperature: float) -> float:
    """P(a preferred to b) = sigmoid((u_a - u_b) / temperature), Bradley-Terry; its limit, 0, 1/2 or 1, at temperature 0."""
    if temperature == 0:
        return 0.5 + 0.5 * ((difference > 0) - (difference < 0))
    # sigmoid(z) = (1 + tanh(z/2)) / 2, which does not overflow
    return 0.5 * (1 + math.tanh(0.5 * difference / temperature))


def label_items(store: Store, annotator: SimulatedAnnotator, items: Iterable[Item]) -> Labelled:
    """Write the annotator's judgements of items into the store, as any annotator's. Running it again adds nothing."""
    id = store.add_annotator(annotator.name, kind="simulated", settings=annotator.settings())
    known: dict[tuple[str, str], float] = {}
    judgements: list[Judgement] = []
    for item in items:
        prompt = item.prompt.sha256
        for completion in item.completions:
            if (prompt, completion) not in known:
                known[prompt, completion] = annotator.utility_of(item.prompt, completion)
        verdict = simulated_choice(
            annotator, item, [known[prompt, completion] for completion in item.completions]
        )
        judgements.append(
            Judgement(
                item=item.id,
                annotator=id,
                choice=verdict.choice,
                order_shown=verdict.order_shown,
                ranking=verdict.ranking,
                idempotency_key=f"simulated {id} {item.id}",
            )
        )
    written = store.add_judgements(judgements)
    return Labelled(
        judgements=tuple(written), choices=dict(Counter(judgement.choice for judgement in judgements))
    )


def agreement_ceiling(comparisons: Iterable[Comparison], annotators: Iterable[SimulatedAnnotator]) -> float:
    """The best accuracy that any model can be expected to have on these annotators' labels of these pairs.

    For a pair with utility difference d, the label agrees with the better completion with probability

        q = p (1 - flip) + (1 - p) flip,    p = sigmoid(|d| / temperature),

    and a model, which cannot know the draw, is right with probability max(q, 1 - q) at best, by naming the likelier one. The ceiling is
    the mean of that over the comparisons, each with the settings of the annotator it names. Only pairs and names count: which side was
    chosen does not. Ties give no comparison, so they do not enter. Needs flip <= 1/2 of every annotator, or of none, to be reached by
    one ranking of the completions.

    Raises `InputError` if there is no comparison, or one of an annotator who is not given.
    """
    by_name = {annotator.name: annotator for annotator in annotators}
    best: list[float] = []
    for comparison in comparisons:
        if comparison.annotator not in by_name:
            raise InputError(
                f"comparison by {comparison.annotator!r}: its ceiling is not known; give that annotator, or leave the comparison out"
            )
        annotator = by_name[comparison.annotator]
        chosen = annotator.utility_of(comparison.prompt, comparison.chosen)
        rejected = annotator.utility_of(comparison.prompt, comparison.rejected)
        p = prefers(abs(chosen - rejected), annotator.temperature)
        q = p * (1 - annotator.flip) + (1 - p) * annotator.flip
        best.append(max(q, 1 - q))
    if not best:
        raise InputError("there are no comparisons to compute the ceiling from; label some items first")
    return math.fsum(best) / len(best)


def _rank(
    annotator: SimulatedAnnotator, key: bytes, utilities: Sequence[float]
) -> tuple[tuple[int, ...], ...]:
    """A Plackett-Luce draw, best first, by Gumbel noise; neighbours closer than the tie width share a group."""

    def noisy(slot: int) -> float:
        # -log of an Exp(1) draw is a standard Gumbel draw; `max` keeps it finite where the uniform one is exactly 0
        return utilities[slot] - annotator.temperature * math.log(
            max(-math.log1p(-_uniform(key, f"rank {slot}")), 5e-324)
        )

    ordered = sorted(range(len(utilities)), key=noisy, reverse=True)
    groups = [[ordered[0]]]
    for before, slot in pairwise(ordered):
        if abs(utilities[before] - utilities[slot]) < annotator.tie_width:
            groups[-1].append(slot)
        else:
            groups.append([slot])
    return tuple(tuple(sorted(group)) for group in groups)


def _uniform(key: bytes, purpose: str) -> float:
    """A number in [0, 1), uniform over keys and purposes: 53 bits of a hash."""
    digest = hashlib.sha256(key + purpose.encode()).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53
