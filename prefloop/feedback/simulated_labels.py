"""Labels of a simulated annotator in a store: the pairs it judges, and how good its labels are."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from prefloop.data.store import AddedItems, Filters, Store
from prefloop.errors import InputError
from prefloop.feedback.simulate import Labelled, SimulatedAnnotator, agreement_ceiling, label_items
from prefloop.marks import refuse_images


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelQuality:
    """How good an annotator's comparisons are."""

    comparisons: int
    """In all."""
    right: float
    """Share that names the truly better one; equally good counts half."""
    ceiling: float
    """Best accuracy that a reward model can be expected to have on such labels."""


def label_stored(
    store: Store,
    annotator: SimulatedAnnotator,
    *,
    pairs: Literal["all", "random", "none"] = "all",
    checkpoints: Sequence[str] = (),
    round: int = 0,
) -> tuple[AddedItems, Labelled]:
    """Pair stored completions and judge the pairs that are new; what was paired, and what was judged.

    Args:
        store: Where completions are, and labels go.
        annotator: Who judges.
        pairs: Every pair of a prompt's completions, one at random, or those that are items already.
        checkpoints: Names of the policies whose completions are paired; none means all.
        round: Round of the loop of the pairs.

    Raises:
        InputError: There is nothing to compare, or the utility of a completion is no number. Nothing has been written then.
    """
    known = [store.find_checkpoint(name) for name in checkpoints]
    _check(store, annotator, known)
    id = store.add_annotator(annotator.name, kind="simulated", settings=annotator.settings())
    if pairs == "none":
        added = _there(store, round)
    else:
        added = store.add_pairs(strategy=pairs, seed=annotator.seed, round=round, checkpoints=known)
    among = set(added.ids)
    new = [item for item in store.open_items(id, rounds=(round,)) if item.id in among]
    return added, label_items(store, annotator, new)


def _check(store: Store, annotator: SimulatedAnnotator, checkpoints: Sequence[int]) -> None:
    texts = dict.fromkeys((one.prompt, one.text) for one in store.completions(checkpoints))
    if max(Counter(prompt for prompt, _ in texts).values(), default=0) < 2:
        raise InputError(
            f"{store.label}: no prompt has two different completions to compare; draw more with `prefloop sample`"
        )
    refuse_images(texts, "a completion", "a simulated annotator")
    for prompt, text in texts:
        annotator.utility_of(prompt, text)


def _there(store: Store, round: int) -> AddedItems:
    """The pairs that a round has already."""
    there = [item.id for item in store.items() if item.kind == "pair" and item.round == round]
    if not there:
        raise InputError(
            f"{store.label}: round {round} has no pairs yet; make some with `prefloop label select`, or set pairs to all"
        )
    return AddedItems(ids=tuple(there), new=0, identical=0, single=0)


def label_quality(store: Store, annotator: SimulatedAnnotator) -> LabelQuality | None:
    """How good all comparisons of an annotator are; None if it has said nothing but ties."""
    comparisons = store.comparisons(Filters(annotators=(annotator.name,))).records
    if not comparisons:
        return None
    differences = [
        annotator.utility_of(c.prompt, c.chosen) - annotator.utility_of(c.prompt, c.rejected)
        for c in comparisons
    ]
    return LabelQuality(
        comparisons=len(comparisons),
        right=sum(1.0 if d > 0 else 0.5 * (d == 0) for d in differences) / len(differences),
        ceiling=agreement_ceiling(comparisons, [annotator]),
    )
