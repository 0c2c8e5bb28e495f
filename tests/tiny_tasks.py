"""A tiny task that every objective must solve, over three seeds: `python -m tests.tiny_tasks --write` writes the table of docs/tiny_tasks.md.

A policy over 15 sequences is trained from a random reference on all that can be said of random rewards without noise: every pair, orders of three, good
above the median, or the reward itself. Solved means both: `gain`, the share of the way from the reference's expected reward to the best sequence's,
is at least the objective's level, and `agreement`, the share of pairs of sequences that the policy's log-ratio to the reference orders as the rewards
do, is at least the other level. Levels are below what three seeds reached by a margin, not to the digit.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from prefloop.losses.objectives import OBJECTIVES
from tests.losses.tabular import World, descend, distribution, hard_data

PAGE = Path(__file__).resolve().parents[1] / "docs" / "tiny_tasks.md"
SEEDS = (0, 1, 2)
STEPS = 200


@dataclass(frozen=True, kw_only=True)
class Level:
    """What an objective must reach, and with which settings."""

    gain: float = 0.5
    agreement: float = 0.9
    settings: Mapping[str, float] | None = None


PAIRS = Level(gain=0.5, agreement=0.85)
HELD = Level(gain=0.5, agreement=0.8)
"""Each side has a target of its own, so sure pairs are not pulled further apart."""
IMITATES = Level(gain=0.2, agreement=0.7)
"""A likelihood term is most of the loss, or all of it."""
GOOD_OR_BAD = Level(gain=0.35, agreement=0.65)
"""Half the sequences are as good as each other, for all that is said."""
ORDERS = Level(gain=0.5, agreement=0.85)

LEVELS: dict[str, Level] = {
    **dict.fromkeys(
        ("dpo", "cdpo", "robust_dpo", "ipo_sum", "ipo_mean", "hinge", "dpo_norm", "beta_dpo", "r_dpo"), PAIRS
    ),
    **dict.fromkeys(("ld_dpo", "gpo_exponential", "gpo_truncated_square", "gpo_savage", "exo_pair"), PAIRS),
    **dict.fromkeys(("aot_paired", "slic_hf", "simpo"), PAIRS),
    # On sure labels their margins have no end: at the published 0.1 they leave the reference so far that one run differs much from the next.
    **dict.fromkeys(
        ("f_dpo_forward_kl", "f_dpo_jensen_shannon", "f_dpo_alpha"),
        Level(gain=0.5, agreement=0.85, settings={"beta": 1.0}),
    ),
    **dict.fromkeys(("tdpo1", "tdpo2"), Level(gain=0.4, agreement=0.8, settings={"beta": 1.0})),
    **dict.fromkeys(("nca_pair", "apo_zero", "bco_pair", "sppo_hard", "sppo_soft"), HELD),
    **dict.fromkeys(("rpo", "sft", "orpo", "cpo", "cringe", "unlikelihood", "rrhf"), IMITATES),
    "dpop": Level(
        gain=0.2, agreement=0.85
    ),  # chosen ones may not fall, and nearly all are chosen from something
    "apo_down": Level(
        gain=-0.2, agreement=0.65
    ),  # lowers both sides: it tells them apart, and gains nothing by itself
    "wpo": Level(gain=0.9, agreement=0.65),  # what the policy has left behind counts no more
    "aot": Level(gain=0.5, agreement=0.7),  # whole distributions: who is beside whom is not said
    "discopop": Level(
        gain=0.5, agreement=0.85, settings={"tau": 0.5}
    ),  # at its own τ the slope is wrong: see its docstring
    **dict.fromkeys(("pl_dpo", "pro", "lipo_lambda", "rank_dpo", "d2o"), ORDERS),
    **dict.fromkeys(("kto", "bco", "bco_matched", "npo"), GOOD_OR_BAD),
    "dro": Level(gain=0.2, agreement=0.99),  # stops at π_ref e^(r/τ)/Z, which is only so far away
}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one seed reached."""

    gain: float
    agreement: float


def solve(name: str, seed: int, *, steps: int = STEPS) -> Outcome:
    """Train and measure."""
    world = World.of(seed)
    settings = dict(LEVELS[name].settings or {})
    trained = descend(name, world, hard_data(OBJECTIVES[name].data, world.rewards), steps=steps, **settings)
    before, after, rewards = distribution(world.reference), distribution(trained.table), world.rewards
    ratio = after.log() - before.log()
    first, second = torch.triu_indices(15, 15, offset=1)
    same = (rewards[first] - rewards[second]) * (ratio[first] - ratio[second]) > 0
    expected = (before * rewards).sum()
    gain = ((after * rewards).sum() - expected) / (rewards.max() - expected)
    return Outcome(gain=gain.item(), agreement=same.double().mean().item())


def page(found: Mapping[str, list[Outcome]]) -> str:
    """Markdown."""
    lines = [_HEAD, "| `--loss` | settings | gain, seeds 0, 1, 2 | level | agreement | level |"]
    lines.append("| --- | --- | --- | --- | --- | --- |")
    for name, outcomes in found.items():
        level = LEVELS[name]
        settings = " ".join(f"{key}={value:g}" for key, value in (level.settings or {}).items())
        gains = ", ".join(f"{each.gain:.2f}" for each in outcomes)
        agreements = ", ".join(f"{each.agreement:.2f}" for each in outcomes)
        lines.append(
            f"| `{name}` | {settings} | {gains} | {level.gain:g} | {agreements} | {level.agreement:g} |"
        )
    return "\n".join(lines) + "\n"


_HEAD = """# A tiny task for every objective

This page is written by `python -m tests.tiny_tasks --write`; the first seed is a test ([`tests/losses/test_audit.py`](../tests/losses/test_audit.py)).

A policy over 15 sequences, held as a table, is trained from a random reference for 200 steps of Adam. The data is everything that can be
said about random rewards without noise: every pair, orders of three, good above the median, or the reward itself.

The **gain** is the share of
the way from the reference's expected reward to that of the best sequence. The **agreement** is the share of pairs of sequences that the log-ratio
to the reference orders as the rewards do.

Some objectives gain less by design, and their levels say so: those bounded by their margins
(`ipo_sum`, `nca_pair`, `cdpo`), those that only read good and bad, and those that imitate (`sft`) and learn what is chosen, not what is
better. Where theory gives the optimum, [`tests/losses/test_tabular_offline.py`](../tests/losses/test_tabular_offline.py) requires it, in total
variation, over the same seeds.
"""


def main() -> int:
    """Run all seeds; 1 if a level is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loss", nargs="*", default=list(OBJECTIVES))
    parser.add_argument("--write", action="store_true", help="write docs/tiny_tasks.md")
    given = parser.parse_args()
    found = {name: [solve(name, seed) for seed in SEEDS] for name in given.loss}
    print(page(found))
    missed = [
        name
        for name, outcomes in found.items()
        if any(each.gain < LEVELS[name].gain or each.agreement < LEVELS[name].agreement for each in outcomes)
    ]
    if given.write and not missed:
        PAGE.write_text(page(found), encoding="utf-8")
    print(f"missed: {', '.join(missed) or 'none'}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
