"""`prefloop label`."""

from collections import Counter
from collections.abc import Sequence
from functools import cache

from prefloop.configs.label import SimulateConfig
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError
from prefloop.feedback.simulate import SimulatedAnnotator, agreement_ceiling, label_items
from prefloop.feedback.utility import find_utility


def simulate(config: SimulateConfig) -> str:
    """Pair stored completions, judge the pairs, and print what was made and how good the labels are; the store's name."""
    annotator = SimulatedAnnotator(
        name=config.annotator,
        utility=cache(find_utility(config.utility)),
        temperature=config.temperature,
        flip=config.flip,
        tie_width=config.tie_width,
        seed=config.seed,
    )
    with Store.open(config.store, create=False) as store:
        checkpoints = [store.find_checkpoint(name) for name in config.checkpoints]
        _check_before_writing(store, annotator, checkpoints)
        known = store.add_annotator(config.annotator, kind="simulated", settings=annotator.settings())
        added = store.add_pairs(
            strategy=config.pairs, seed=config.seed, round=config.round, checkpoints=checkpoints
        )
        pairs = set(added.ids)
        new = [item for item in store.open_items(known, rounds=(config.round,)) if item.id in pairs]
        labelled = label_items(store, annotator, new)
        print(f"{store.label}: {len(added.ids)} pairs, {added.new} of them new")
        if added.identical or added.single:
            print(
                f"  no pair of {added.identical} twice the same text; {added.single} prompts without two different completions"
            )
        counts = (
            ", ".join(f"{choice} {count}" for choice, count in sorted(labelled.choices.items())) or "none"
        )
        print(f"  new judgements by {config.annotator}: {len(labelled.judgements)} ({counts})")
        _print_quality(store, annotator)
    return config.store


def _check_before_writing(store: Store, annotator: SimulatedAnnotator, checkpoints: Sequence[int]) -> None:
    """Raise `InputError` where there is nothing to compare, or the utility of a completion is no number."""
    texts = dict.fromkeys((one.prompt, one.text) for one in store.completions(checkpoints))
    if max(Counter(prompt for prompt, _ in texts).values(), default=0) < 2:
        raise InputError(
            f"{store.label}: no prompt has two different completions to compare; draw more with `prefloop sample`"
        )
    for prompt, text in texts:
        annotator.utility_of(prompt, text)


def _print_quality(store: Store, annotator: SimulatedAnnotator) -> None:
    """How often the annotator named the truly better one, and the best that a model can do on such labels."""
    comparisons = store.comparisons(Filters(annotators=(annotator.name,))).records
    if not comparisons:
        print("  all of them are ties; lower tie_width")
        return
    differences = [
        annotator.utility_of(c.prompt, c.chosen) - annotator.utility_of(c.prompt, c.rejected)
        for c in comparisons
    ]
    right = sum(1.0 if d > 0 else 0.5 * (d == 0) for d in differences) / len(differences)
    print(f"  all comparisons by {annotator.name}: {len(comparisons)}")
    print(f"  the truly better one was chosen: {right:.1%} (equally good counts half)")
    print(
        f"  best accuracy a reward model can be expected to have on such labels: {agreement_ceiling(comparisons, [annotator]):.1%}"
    )
