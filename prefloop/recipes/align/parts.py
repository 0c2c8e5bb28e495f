"""Preferences in three parts, by prompt: one for the policy and its reward model, one for an independent judge, one that measures both.

A part is a stretch of `split.position`, which is uniform over prompts; each stretch is divided again by `Data.heldout` for the curves of its own
stage. So nothing that the judge learned from was seen by a policy, and nothing that measures was seen by either.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from prefloop.data import write_jsonl
from prefloop.data.formats import Record
from prefloop.data.split import position, split_key
from prefloop.records import Comparison, Prompt

Name = Literal["policy", "judge", "measure"]
JUDGE, MEASURE = 0.5, 0.8
"""Where the parts begin: half of the prompts are the policy's, three tenths the judge's, a fifth measures."""
CURVES = 0.1
"""Share of a part's prompts that its own stage holds out, for its curves."""

R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Where each part lies, and what a stage that reads it sets `data.heldout` to."""

    own_judge: bool
    """Whether a judge is fitted; without one its part is the policy's too."""

    def of(self, prompt: Prompt) -> Name:
        """The part that a prompt is in."""
        at = position(prompt)
        if at >= MEASURE:
            return "measure"
        return "judge" if self.own_judge and at >= JUDGE else "policy"

    @property
    def policy_heldout(self) -> float:
        """The policy's part begins at 0."""
        return CURVES * (JUDGE if self.own_judge else MEASURE)

    @property
    def judge_heldout(self) -> float:
        """The judge's part has nothing below `JUDGE`, so the share reaches a little into it."""
        return JUDGE + CURVES * (MEASURE - JUDGE)

    def split(self, comparisons: Iterable[Comparison]) -> dict[Name, list[Comparison]]:
        """Every comparison in its part."""
        found: dict[Name, list[Comparison]] = {"policy": [], "judge": [], "measure": []}
        for one in comparisons:
            found[self.of(one.prompt)].append(one)
        return found

    def not_measuring(self, records: Sequence[R]) -> list[R]:
        """Those whose prompt measures nothing, so that they may be trained on."""
        return [one for one in records if position(split_key(one)) < MEASURE]


def drawn(records: Sequence[T], count: int, *, seed: int, name: str) -> list[T]:
    """So many at random, in their order; all where there are no more."""
    if count >= len(records):
        return list(records)
    chosen = random.Random(f"{seed} {name}").sample(range(len(records)), count)
    return [records[place] for place in sorted(chosen)]


def prompts_of(records: Iterable[Comparison]) -> list[Prompt]:
    """Each prompt once."""
    return list(dict.fromkeys(one.prompt for one in records))


def write_all(folder: Path, files: dict[str, Sequence[Record]]) -> None:
    """`NAME.jsonl` in the folder for each that has a record."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, records in files.items():
        if records:
            write_jsonl(records, folder / f"{name}.jsonl")
