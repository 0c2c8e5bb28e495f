"""A recipe whose comparisons come from people: it puts the samples into the studio, waits until enough are judged, and goes on."""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from prefloop.data.split import part_of
from prefloop.data.store import Filters, Store
from prefloop.studio.demo import GUIDELINES
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound, ProjectSettings

FEWEST_HELDOUT = 2
"""Comparisons of held-out prompts without which there is nothing to measure the reward model on."""
POLL_SECONDS = 2.0
PEOPLE = Filters(kinds=("human",))


@dataclass(frozen=True, kw_only=True, slots=True)
class AskedPeople:
    """What people are asked to compare, and how much of it."""

    project: str
    """Name of the project in the studio."""
    pairs: int
    """Pairs of samples in it."""
    labels: int
    """Comparisons to wait for."""
    heldout: float
    """Share of prompts that nothing is trained on."""
    seed: int
    checkpoints: Sequence[int] = ()
    """Whose samples are paired; all if none are named."""
    round: int = 0
    """Round of the loop; 0 for a recipe without rounds."""


def prepare(studio: Studio, asked: AskedPeople) -> int:
    """A project with pairs of the samples, unless it is there; its id.

    The first `labels` questions asked have their share of held-out prompts, so that waiting for so many is enough.
    """
    try:
        return studio.find_project(asked.project).id
    except NotFound:
        pass
    store, heldout, labels = studio.store, asked.heldout, asked.labels
    added = store.add_pairs(
        strategy="random", seed=asked.seed, round=asked.round, checkpoints=asked.checkpoints
    )
    items = store.items(added.ids)
    random.Random(f"{asked.seed} people").shuffle(items)
    items = items[: asked.pairs]
    held = [item.id for item in items if part_of(item.prompt, heldout=heldout) == "heldout"]
    train = [item.id for item in items if item.id not in set(held)]
    first_held = held[: max(FEWEST_HELDOUT, round(labels * heldout))]
    first = [*first_held, *train[: max(0, labels - len(first_held))]]
    project = studio.create_project(ProjectSettings(name=asked.project, guidelines=GUIDELINES))
    studio.add_tasks(project.id, [item.id for item in items], priorities=dict.fromkeys(first, 1.0))
    return project.id


def enough(store: Store, *, labels: int, heldout: float, rounds: Sequence[int] = ()) -> tuple[bool, int, int]:
    """Whether people have compared enough (in these rounds, if any are named), how often they have, and how many of those are of held-out
    prompts."""
    everything = store.comparisons(replace(PEOPLE, rounds=tuple(rounds))).records
    held = sum(part_of(record.prompt, heldout=heldout) == "heldout" for record in everything)
    done = len(everything) >= labels and held >= FEWEST_HELDOUT and held < len(everything)
    return done, len(everything), held


def wait_for_people(where: str, asked: AskedPeople, *, sleep: Callable[[float], object] = time.sleep) -> int:
    """Wait until people have made `labels` comparisons in the studio; how many there are. Ties and skips are not counted.

    Stopped while it waits, the recipe goes on here with `--resume true`.
    """
    labels, rounds = asked.labels, (asked.round,) if asked.round else ()
    with Store.open(where) as store:
        prepare(Studio(store), asked)
        told = -1
        while True:
            done, count, held = enough(store, labels=labels, heldout=asked.heldout, rounds=rounds)
            if done:
                print(f"compare: {count} comparisons by people, {held} of them of held-out prompts")
                return count
            if told < 0:
                print(f"compare: waiting for {labels} comparisons by people. In another terminal:\n")
                print(f"    prefloop label serve --store {where}\n")
                print(
                    "The recipe continues when there are enough. If you stop it, continue with --resume true.",
                    flush=True,
                )
            if count != told:
                missing = (
                    "" if count < labels else f"; {held} of held-out prompts, {FEWEST_HELDOUT} are needed"
                )
                print(f"  {count} of {labels}{missing}", flush=True)
                told = count
            sleep(POLL_SECONDS)
