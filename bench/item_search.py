"""How long the studio's item browser looks for words, by how rare they are.

python -m bench.item_search --items 20000

fills an SQLite store with pairs of replies of about 600 characters each, and prints the processor time of each search for a page of fifty.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path
from random import Random

from prefloop.data.store import Store
from prefloop.records import Completion, Prompt
from prefloop.studio import items
from prefloop.studio.items import Wanted
from prefloop.studio.service import Studio
from prefloop.studio.values import ProjectSettings

WORDS = 5000
LENGTH = 95
"""Words of a reply, six characters each."""


def fill(studio: Studio, count: int) -> int:
    """A project of so many pairs; one of them has the word `needle`, every hundredth the word `common`."""
    rng = Random(0)
    checkpoint = studio.store.add_checkpoint("made-up")
    project = studio.create_project(ProjectSettings(name="search")).id
    for start in range(0, count, 1000):
        made = []
        for number in range(start, min(start + 1000, count)):
            prompt = Prompt(content=f"question {number}")
            for index in range(2):
                words = [f"w{rng.randrange(WORDS):04d}" for _ in range(LENGTH)]
                words += ["needle"] * (number == count // 2) + ["common"] * (number % 100 == 0)
                made.append(
                    Completion(
                        prompt=prompt,
                        text=" ".join(words),
                        policy="made-up",
                        logprob=0.0,
                        tokens=0,
                        ended=True,
                        temperature=0.0,
                        top_p=1.0,
                        top_k=0,
                        seed=0,
                        index=index,
                    )
                )
        ids = studio.store.add_completions(made, checkpoint)
        pairs = [list(ids[at : at + 2]) for at in range(0, len(ids), 2)]
        studio.add_tasks(project, studio.store.add_items(pairs, kind="pair"))
    return project


def main() -> None:
    """Fill a store, search it, and print a line for each search."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=20_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "search.db") as store:
        studio = Studio(store)
        project = fill(studio, given.items)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for name, wanted in (
            ("no word", Wanted()),
            ("a word in every hundredth item", Wanted(text="common")),
            ("a word in one item", Wanted(text="needle")),
            ("a word in none", Wanted(text="nowhere")),
            ("two words in none", Wanted(text="common nowhere")),
        ):
            began = time.process_time()
            found = items.find(studio, project, wanted)
            page = time.process_time() - began
            began = time.process_time()
            count = items.count(studio, project, wanted)
            print(
                f"{name}: {len(found)} shown in {page:.2f} s, {count} counted in {time.process_time() - began:.2f} s"
            )
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        print(f"{given.items} items; memory grew by {grown / 1024:.0f} MB")


if __name__ == "__main__":
    main()
