"""What each strategy of `prefloop label select` is worth: accuracy of a reward model per label, on simulated annotators. One core, minutes:

    OMP_NUM_THREADS=1 python -m bench.pair_selection --picture docs/pair_selection.svg

Each seed has toy-world questions of its own, several replies each, an annotator who knows the gold utility and errs (Bradley-Terry noise and flips),
and an AI judge who errs otherwise (it likes length). A Bradley-Terry reward model, linear in words and in what the gold judge counts, starts from
uniformly drawn labels and gets more in rounds: a share uniform, the rest by the strategy with the model of that moment. Accuracy is against the gold
utility, without noise, on pairs of other questions. All strategies of a seed share pool, test pairs, noise and first labels, so differences are paired.
"""

import argparse
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from prefloop.data.toy_world import ToyWorld
from prefloop.data.toy_world.gold import gold_components
from prefloop.data.toy_world.world import draw_style, write_reply
from prefloop.evaluation.curves import Series
from prefloop.evaluation.intervals import Estimate, mean_interval, paired_difference
from prefloop.evaluation.plots import Frame, line_chart, standalone
from prefloop.feedback.select import choose, disagreement, most_informative, ranked, uncertainty
from prefloop.feedback.select.acquisition import conflict

Floats = NDArray[np.float64]
STRATEGIES = ("uniform", "disagreement", "information", "margin", "conflict")
HASHED = 48
"""Features of words, by hash."""
PRIOR = 1.0
"""Precision of the reward model's Gaussian prior, features standardised."""
MEMBERS = 5
"""Of the ensemble, each on a bootstrap of the labels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """One seed's pool to label and pairs to test on."""

    pool: Floats
    """`[pairs, F]` features of the first reply less those of the second."""
    keys: tuple[str, ...]
    likes: Floats
    """`[pairs]` P(the annotator prefers the first)."""
    judge: Floats
    """`[pairs]` 1 where the AI judge prefers the first, else 0."""
    test: Floats
    right: NDArray[np.bool_]
    """`[test pairs]` whether the first is truly better."""


def words(text: str) -> Floats:
    """Square roots of word counts, in hashed places."""
    counts = np.zeros(HASHED)
    for word in text.lower().split():
        counts[int(hashlib.sha256(word.strip(".,!?").encode()).hexdigest()[:8], 16) % HASHED] += 1
    return np.sqrt(counts)


def make_world(seed: int, *, prompts: int, replies: int, temperature: float, flip: float) -> World:
    """Half of the questions for the pool, half to test on."""
    rng, random = Random(f"pair selection {seed}"), np.random.default_rng(seed)
    rows, utility, length, group = [], [], [], []
    for at, prompt in enumerate(ToyWorld(seed).prompts(2 * prompts)):
        for text in dict.fromkeys(write_reply(prompt, draw_style(rng), rng) for _ in range(replies)):
            found = gold_components(prompt, text)
            rows.append([*(getattr(found, name) for name in found.__slots__), *words(text)])
            utility.append(found.utility)
            length.append(len(text.split()))
            group.append(at)
    features, gold, size = np.array(rows), np.array(utility), np.array(length, dtype=np.float64)
    features = (features - features.mean(0)) / np.maximum(features.std(0), 1e-9)
    pairs = np.array(
        [
            pair
            for at in range(2 * prompts)
            for pair in combinations([i for i, g in enumerate(group) if g == at], 2)
        ]
    )
    a, b = pairs.T
    of_pool = np.array(group)[a] < prompts
    gap = gold[a] - gold[b]
    p = expit(gap / temperature)
    biased = gap / temperature + 0.1 * (size[a] - size[b])
    judge = (random.random(len(a)) < expit(biased)).astype(np.float64)
    test = ~of_pool & (gap != 0)
    difference = features[a] - features[b]
    return World(
        pool=difference[of_pool],
        keys=tuple(f"{i} {j}" for i, j in pairs[of_pool]),
        likes=(p * (1 - flip) + (1 - p) * flip)[of_pool],
        judge=judge[of_pool],
        test=difference[test],
        right=gap[test] > 0,
    )


def fit_reward_model(x: Floats, y: Floats, weight: Floats) -> tuple[Floats, Floats]:
    """Maximum a posteriori of a Bradley-Terry reward model linear in features, and its curvature, by Newton's method."""
    theta, step = np.zeros(x.shape[1]), np.full(x.shape[1], np.inf)
    curvature = PRIOR * np.eye(len(theta))
    while np.abs(step).max() > 1e-6:
        p = expit(x @ theta)
        curvature = (x * (weight * p * (1 - p))[:, None]).T @ x + PRIOR * np.eye(len(theta))
        step = np.linalg.solve(curvature, x.T @ (weight * (y - p)) - PRIOR * theta)
        theta = theta + step
    return theta, curvature


@dataclass(kw_only=True, slots=True)
class Labels:
    """What was asked so far; a pair may be asked twice."""

    pairs: list[int]
    said: list[float]

    def model(self, world: World) -> tuple[Floats, Floats]:
        return fit_reward_model(world.pool[self.pairs], np.array(self.said), np.ones(len(self.said)))

    def ensemble(self, world: World, random: np.random.Generator) -> Floats:
        """`[members, F]`"""
        n, rows, said = len(self.said), world.pool[self.pairs], np.array(self.said)
        draws = (random.multinomial(n, np.full(n, 1 / n)).astype(np.float64) for _ in range(MEMBERS))
        return np.stack([fit_reward_model(rows, said, weight)[0] for weight in draws])


def best_first(
    strategy: str, world: World, labels: Labels, offered: Sequence[int], batch: int, seed: int
) -> list[int]:
    """Places among the pairs offered, in the strategy's order."""
    rows, keys = world.pool[list(offered)], [world.keys[at] for at in offered]
    theta, curvature = labels.model(world)
    if strategy == "disagreement":
        scores = labels.ensemble(world, np.random.default_rng([seed, len(labels.said)])) @ rows.T
        return ranked(disagreement(scores, np.zeros_like(scores)), keys)
    if strategy == "information":
        return most_informative(rows, curvature, theta, 2 * batch)
    if strategy == "margin":
        return ranked(uncertainty(rows @ theta), keys)
    return []


def ask(
    strategy: str, world: World, labels: Labels, batch: int, uniform: float, seed: int
) -> list[tuple[int, str]]:
    """The pairs of the next round and the strategy that chose each. Conflict asks labelled pairs again, and what it lacks is drawn uniformly."""
    known = set(labels.pairs)
    offered = [at for at in range(len(world.keys)) if at not in known]
    again: list[int] = []
    if strategy == "conflict":
        once = [
            (at, said)
            for at, said in zip(labels.pairs, labels.said, strict=True)
            if labels.pairs.count(at) == 1
        ]
        worth = conflict(np.array([said for _, said in once]), world.judge[[at for at, _ in once]])
        order = ranked(worth, [world.keys[at] for at, _ in once])
        again = [once[at][0] for at in order if worth[at] > 0][: batch - round(uniform * batch)]
    order = (
        []
        if strategy in ("uniform", "conflict")
        else best_first(strategy, world, labels, offered, batch, seed)
    )
    chosen = choose(
        [world.keys[at] for at in offered],
        order,
        strategy="uniform" if strategy == "conflict" else strategy,
        count=batch - len(again),
        uniform=uniform,
        seed=seed * 1000 + len(labels.said),
    )
    return [(offered[each.place], each.strategy) for each in chosen] + [(at, strategy) for at in again]


def study(
    strategy: str, world: World, *, first: int, batch: int, rounds: int, uniform: float, seed: int
) -> tuple[list[float], Mapping[str, list[float]]]:
    """Accuracy after the first labels and after every round; and of each round's new labels, by what chose them, whether the model before had them right."""
    random = np.random.default_rng([7, seed])
    noise = random.random((2, len(world.keys)))  # of the first and of the second time a pair is asked
    labels = Labels(pairs=[], said=[])

    def label(asked: Sequence[int]) -> None:
        for at in asked:
            draw = noise[labels.pairs.count(at), at]
            labels.pairs.append(at)
            labels.said.append(float(draw < world.likes[at]))

    start = choose(world.keys, [], strategy="uniform", count=first, uniform=1.0, seed=seed)
    label([each.place for each in start])
    curve, seen = [accuracy(world, labels)], {"uniform": [], strategy: []}
    for _ in range(rounds):
        theta, _ = labels.model(world)
        asked = ask(strategy, world, labels, batch, uniform, seed)
        label([at for at, _ in asked])
        said = labels.said[-len(asked) :]
        for (at, by), answer in zip(asked, said, strict=True):
            seen[by].append(float((world.pool[at] @ theta > 0) == (answer == 1)))
        curve.append(accuracy(world, labels))
    return curve, seen


def accuracy(world: World, labels: Labels) -> float:
    """Share of test pairs ordered as the gold utility does."""
    theta, _ = labels.model(world)
    return float(((world.test @ theta > 0) == world.right).mean())


def shown(value: Estimate, *, sign: bool = False) -> str:
    """In per cent, with its interval."""
    form = "{:+.1f}" if sign else "{:.1f}"
    return (
        f"{form.format(100 * value.value)} [{form.format(100 * value.low)}, {form.format(100 * value.high)}]"
    )


def reached(labels: Sequence[int], curve: Floats, wanted: float) -> str:
    """Where a curve first has the accuracy wanted."""
    for at in range(1, len(curve)):
        if curve[at] >= wanted > curve[at - 1]:
            share = (wanted - curve[at - 1]) / (curve[at] - curve[at - 1])
            return f"{labels[at - 1] + share * (labels[at] - labels[at - 1]):.0f}"
    return "not reached"


def picture(labels: Sequence[int], curves: Mapping[str, Floats]) -> str:
    """The curves as an SVG file of its own."""
    series = []
    for slot, (strategy, values) in enumerate(curves.items()):
        found = [mean_interval(column) for column in 100 * values.T]
        series.append(
            Series(
                label=strategy,
                x=[float(n) for n in labels],
                y=[e.value for e in found],
                low=[e.low for e in found] if strategy == "uniform" else (),
                high=[e.high for e in found] if strategy == "uniform" else (),
                slot=slot,
            )
        )
    drawn = line_chart(
        series, title="Accuracy per label", x_label="labels", y_label="accuracy against gold, %",
        frame=Frame(include_x=[float(labels[0])]),
    )  # fmt: skip
    return standalone(drawn)


def main() -> None:
    """Print the tables of docs/selection.md, and draw its picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=150)
    parser.add_argument("--replies", type=int, default=4)
    parser.add_argument("--first", type=int, default=50)
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--uniform", type=float, default=0.2)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--flip", type=float, default=0.1)
    parser.add_argument("--picture", default="")
    given = parser.parse_args()
    began = time.process_time()
    curves: dict[str, list[list[float]]] = {strategy: [] for strategy in STRATEGIES}
    fresh: dict[str, dict[str, list[float]]] = {strategy: {} for strategy in STRATEGIES}
    pool = test = 0
    for seed in range(given.seeds):
        world = make_world(
            seed, prompts=given.prompts, replies=given.replies, temperature=given.temperature, flip=given.flip
        )
        pool, test = len(world.keys), len(world.right)
        for strategy in STRATEGIES:
            curve, seen = study(
                strategy,
                world,
                first=given.first,
                batch=given.batch,
                rounds=given.rounds,
                uniform=given.uniform,
                seed=seed,
            )
            curves[strategy].append(curve)
            for by, right in seen.items():
                if right:
                    fresh[strategy].setdefault(by, []).append(float(np.mean(right)))
    labels = [given.first + given.batch * at for at in range(given.rounds + 1)]
    table = {strategy: np.array(values) for strategy, values in curves.items()}
    print(
        f"{given.seeds} seeds, {pool} pairs in the pool, {test} test pairs, processor time {time.process_time() - began:.0f} s"
    )
    at = sorted({1, (given.rounds + 1) // 2, given.rounds})
    print("\naccuracy, % [95 % over seeds]; and less uniform's of the same seed\n")
    print("| strategy | " + " | ".join(f"{labels[i]} labels | less uniform" for i in at) + " |")
    for strategy, values in table.items():
        cells = []
        for i in at:
            cells.append(shown(mean_interval(values[:, i])))
            less = paired_difference(values[:, i], table["uniform"][:, i])
            cells.append("" if strategy == "uniform" else shown(less, sign=True))
        print(f"| {strategy} | {' | '.join(cells)} |")
    print(
        f"\nlabels until uniform's mean accuracy at {labels[-1]} is reached (mean curves, straight between rounds)\n"
    )
    for strategy, values in table.items():
        print(f"| {strategy} | {reached(labels, values.mean(0), float(table['uniform'].mean(0)[-1]))} |")
    print("\nthe model before each round on that round's labels, by what chose the pair: % agreed with\n")
    for strategy, by in fresh.items():
        print(
            f"| {strategy} | "
            + " | ".join(f"{name} {shown(mean_interval(np.array(v)))}" for name, v in by.items())
            + " |"
        )
    if given.picture:
        Path(given.picture).write_text(picture(labels, table), encoding="utf-8")
        print(f"\nwrote {given.picture}")


if __name__ == "__main__":
    main()
