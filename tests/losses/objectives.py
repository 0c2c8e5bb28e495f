"""Every objective of `OBJECTIVES` written again from its paper, with Python's numbers and loops over tokens, and ragged examples to try it on."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from prefloop.losses.objectives import OBJECTIVES, Objective, call
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, asked, quantities
from prefloop.losses.whole_step import Prepared

from .cases import normal, ragged_mask


@dataclass(frozen=True, kw_only=True)
class Completion:
    """One completion's tokens, as lists."""

    lp: list[float]
    ref: list[float]
    kl: list[float]
    """Forward KL at each token."""
    collision: list[float]
    """Σ_v π(v)² at each token."""
    contrast: list[float]
    """Against the likeliest others at each token."""
    frozen: list[float]
    """The log-probabilities again, where no gradient goes."""
    frozen_kl: list[float]
    said: float
    value: float
    odds: float

    @property
    def n(self) -> int:
        return len(self.lp)

    @property
    def rho(self) -> float:
        return sum(self.lp) - sum(self.ref)

    @property
    def mean(self) -> float:
        return sum(self.lp) / self.n

    @property
    def weight(self) -> float:
        return math.exp(
            sum(lp - math.log(c) for lp, c in zip(self.frozen, self.collision, strict=True)) / self.n
        )


def s(x: float) -> float:
    """σ"""
    return 1 / (1 + math.exp(-x))


def nls(x: float) -> float:
    """-log σ"""
    return math.log(1 + math.exp(-x))


Pair = tuple[Completion, Completion]
Settings = Mapping[str, Any]


def h(pair: Pair) -> float:
    return pair[0].rho - pair[1].rho


def log_odds(c: Completion) -> float:
    p = math.exp(c.mean)
    return math.log(p / (1 - p))


def lengths_damped(c: Completion, shorter: int, alpha: float) -> float:
    ratios = [lp - ref for lp, ref in zip(c.lp, c.ref, strict=True)]
    return sum(ratios[:shorter]) + alpha * sum(ratios[shorter:])


def exo(pair: Pair, o: Settings) -> float:
    z, e = o["beta"] * h(pair), o["label_smoothing"]
    return sum(q * (math.log(q) - math.log(p)) for q, p in ((s(z), 1 - e), (1 - s(z), e)))


def jsd(rho: float) -> float:
    u = math.exp(rho)
    return math.log(2 * u / (1 + u))


def discopop(pair: Pair, o: Settings) -> float:
    z = o["beta"] * h(pair)
    share = s(z / o["tau"])
    return (1 - share) * nls(z) + share * math.exp(-z)


def ld(pair: Pair, o: Settings) -> float:
    shorter = min(pair[0].n, pair[1].n)
    w, l = (lengths_damped(c, shorter, o["alpha"]) for c in pair)  # noqa: E741
    return nls(o["beta"] * (w - l))


def ipo_mean(p: Pair, o: Settings) -> float:
    return (p[0].rho / p[0].n - p[1].rho / p[1].n - 1 / (2 * o["beta"])) ** 2


def nca(p: Pair, o: Settings) -> float:
    w, l = (o["beta"] * c.rho for c in p)  # noqa: E741
    return nls(w) + 0.5 * nls(-w) + 0.5 * nls(-l)


def smoothed(p: Pair, o: Settings) -> float:
    z, e = o["beta"] * h(p), o["label_smoothing"]
    return (1 - e) * nls(z) + e * nls(-z)


def robust(p: Pair, o: Settings) -> float:
    z, e = o["beta"] * h(p), o["label_smoothing"]
    return ((1 - e) * nls(z) - e * nls(-z)) / (1 - 2 * e)


def sppo_soft(p: Pair, o: Settings) -> float:
    """Each side to its own target, (P - 1/2)/β."""
    wins = p[0].said
    return (p[0].rho - (wins - 0.5) / o["beta"]) ** 2 + (p[1].rho - ((1 - wins) - 0.5) / o["beta"]) ** 2


def cringe(p: Pair, o: Settings) -> float:
    gate = s((o["gap"] - (sum(p[0].lp) - sum(p[1].lp))) / o["tau"])
    return gate * (-p[0].mean + o["alpha"] * sum(p[1].contrast) / p[1].n)


def tdpo1(p: Pair, o: Settings) -> float:
    return nls(o["beta"] * h(p) - o["beta"] * (sum(p[1].kl) - sum(p[0].kl)))


def tdpo2(p: Pair, o: Settings) -> float:
    return nls(o["beta"] * h(p) - o["alpha"] * o["beta"] * (sum(p[1].kl) - sum(p[0].frozen_kl)))


PAIRWISE: dict[str, Callable[[Pair, Settings], float]] = {
    "dpo": smoothed,
    "cdpo": smoothed,
    "robust_dpo": robust,
    "ipo_sum": lambda p, o: (h(p) - 1 / (2 * o["beta"])) ** 2,
    "ipo_mean": ipo_mean,
    "hinge": lambda p, o: max(0.0, 1 - o["beta"] * h(p)),
    "dpo_norm": lambda p, o: nls(o["beta"] * (p[0].rho / p[0].n - p[1].rho / p[1].n)),
    "rpo": lambda p, o: nls(o["beta"] * h(p)) - o["alpha"] * p[0].mean,
    "dpop": lambda p, o: nls(o["beta"] * (h(p) - o["penalty"] * max(0.0, -p[0].rho))),
    "tdpo1": tdpo1,
    "tdpo2": tdpo2,
    "f_dpo_forward_kl": lambda p, o: nls(o["beta"] * (math.exp(-p[1].rho) - math.exp(-p[0].rho))),
    "f_dpo_jensen_shannon": lambda p, o: nls(o["beta"] * (jsd(p[0].rho) - jsd(p[1].rho))),
    "f_dpo_alpha": lambda p, o: nls(
        o["beta"]
        * ((1 - math.exp(-o["alpha"] * p[0].rho)) - (1 - math.exp(-o["alpha"] * p[1].rho)))
        / o["alpha"]
    ),
    "r_dpo": lambda p, o: nls(o["beta"] * h(p) + o["alpha"] * (p[0].n - p[1].n)),
    "ld_dpo": ld,
    "gpo_exponential": lambda p, o: math.exp(-o["beta"] * h(p)),
    "gpo_truncated_square": lambda p, o: max(0.0, 1 - o["beta"] * h(p)) ** 2,
    "gpo_savage": lambda p, o: 1 / (1 + math.exp(o["beta"] * h(p))) ** 2,
    "exo_pair": exo,
    "nca_pair": nca,
    "apo_zero": lambda p, o: 1 - s(o["beta"] * p[0].rho) + s(o["beta"] * p[1].rho),
    "apo_down": lambda p, o: s(o["beta"] * p[0].rho) + 1 - s(o["beta"] * h(p)),
    "sppo_hard": lambda p, o: (p[0].rho - 0.5 / o["beta"]) ** 2 + (p[1].rho + 0.5 / o["beta"]) ** 2,
    "sppo_soft": sppo_soft,
    "wpo": lambda p, o: min(1.0, p[0].weight * p[1].weight) * nls(o["beta"] * h(p)),
    "discopop": discopop,
    "sft": lambda p, o: -p[0].mean,
    "slic_hf": lambda p, o: max(0.0, o["delta"] - sum(p[0].lp) + sum(p[1].lp)) - o["sft"] * sum(p[0].lp),
    "simpo": lambda p, o: nls(o["beta"] * (p[0].mean - p[1].mean) - o["gamma"]),
    "orpo": lambda p, o: -p[0].mean + o["weight"] * nls(log_odds(p[0]) - log_odds(p[1])),
    "cpo": lambda p, o: nls(o["beta"] * (sum(p[0].lp) - sum(p[1].lp))) - o["alpha"] * p[0].mean,
    "cringe": cringe,
    "unlikelihood": lambda p, o: -sum(p[0].lp) + o["alpha"] * sum(p[1].lp),
}

Ranked = Sequence[Completion]


def order_likelihood(scores: Sequence[float]) -> float:
    """-log of: draw the best in proportion to e^score, then the next best of the rest, ..."""
    likelihood = 1.0
    for k in range(len(scores)):
        likelihood *= math.exp(scores[k]) / sum(math.exp(score) for score in scores[k:])
    return -math.log(likelihood)


def rrhf(c: Ranked, o: Settings) -> float:
    loss = -o["sft"] * sum(c[0].lp)
    for i in range(len(c)):
        for j in range(i + 1, len(c)):
            loss += max(0.0, c[j].mean - c[i].mean)
    return loss


def pro(c: Ranked, o: Settings) -> float:
    return order_likelihood([one.mean for one in c]) - o["sft"] * (len(c) - 1) ** 2 * c[0].mean


def weighted_pairs(c: Ranked, o: Settings, ranks: Sequence[int]) -> float:
    loss = 0.0
    relevance = [1 - i / (len(c) - 1) for i in range(len(c))]
    for i in range(len(c)):
        for j in range(len(c)):
            if relevance[i] > relevance[j]:
                gain = abs(2 ** relevance[i] - 2 ** relevance[j])
                discount = abs(1 / math.log(1 + ranks[i]) - 1 / math.log(1 + ranks[j]))
                loss += gain * discount * nls(o["beta"] * (c[i].rho - c[j].rho))
    return loss


def lipo(c: Ranked, o: Settings) -> float:
    scores = [sum(one.frozen) - sum(one.ref) for one in c]
    return weighted_pairs(c, o, [1 + sum(other > score for other in scores) for score in scores])


def d2o(c: Ranked, o: Settings) -> float:
    *own, bad = (one.rho for one in c)
    return nls(o["beta"] / len(own) * sum(own) - o["alpha"] * bad)


LISTWISE: dict[str, Callable[[Ranked, Settings], float]] = {
    "pl_dpo": lambda c, o: order_likelihood([o["beta"] * one.rho for one in c]),
    "rrhf": rrhf,
    "pro": pro,
    "lipo_lambda": lipo,
    "rank_dpo": lambda c, o: weighted_pairs(c, o, range(1, len(c) + 1)),
    "d2o": d2o,
}


# Those that look at the whole step: from all examples to one number each, statistics held fixed where the paper does.


def aot(pairs: Sequence[Pair], o: Settings) -> float:
    chosen = sorted(pair[0].rho for pair in pairs)
    rejected = sorted(pair[1].rho for pair in pairs)
    return sum(nls(o["beta"] * (w - l)) for w, l in zip(chosen, rejected, strict=True))  # noqa: E741


def aot_paired(pairs: Sequence[Pair], o: Settings) -> float:
    ours = sorted(sum(w.lp) - sum(l.lp) for w, l in pairs)  # noqa: E741
    theirs = sorted(sum(w.ref) - sum(l.ref) for w, l in pairs)  # noqa: E741
    return sum(nls(o["beta"] * (a - b)) for a, b in zip(ours, theirs, strict=True))


def bco_pair(pairs: Sequence[Pair], o: Settings) -> float:
    frozen = [[sum(c.frozen) - sum(c.ref) for c in pair] for pair in pairs]
    now = sum(0.5 * o["beta"] * (w + l) for w, l in frozen) / len(pairs)  # noqa: E741
    shift = 0.1 * now
    return sum(
        nls(o["beta"] * w.rho - shift) + nls(-(o["beta"] * l.rho - shift))
        for w, l in pairs  # noqa: E741
    )


def kto(examples: Sequence[Completion], o: Settings, reference_point: float) -> float:
    loss = 0.0
    for c in examples:
        if c.said:
            loss += o["good_weight"] * (1 - s(o["beta"] * c.rho - o["beta"] * reference_point))
        else:
            loss += o["bad_weight"] * (1 - s(o["beta"] * reference_point - o["beta"] * c.rho))
    return loss


def bco(examples: Sequence[Completion], o: Settings) -> float:
    reward = {True: [], False: []}
    for c in examples:
        reward[bool(c.said)].append(o["beta"] * (sum(c.frozen) - sum(c.ref)))
    shift = 0.1 * 0.5 * sum(sum(side) / len(side) for side in reward.values())
    return sum(weight_of(c, o) * nls((1 if c.said else -1) * (o["beta"] * c.rho - shift)) for c in examples)


def weight_of(c: Completion, o: Settings) -> float:
    """The density ratio that BCO's bad completions have, where it is matched."""
    return 1.0 if c.said or "least" not in o else max(o["least"], min(o["most"], c.odds))


def npo(c: Completion, o: Settings) -> float:
    return -o["retain"] * c.mean if c.said else -2 / o["beta"] * -nls(-o["beta"] * c.rho)


def dro(c: Completion, o: Settings) -> float:
    return (c.said - c.value - o["tau"] * c.rho) ** 2 / 2


@dataclass(frozen=True, kw_only=True)
class Example:
    """A step's numbers, and what goes with them."""

    numbers: TokenNumbers
    mismatched: dict[str, Tensor]

    def completions(self) -> list[Completion]:
        n = self.numbers
        kept = n.mask.tolist()

        def tokens(values: Tensor | None) -> list[list[float]]:
            return [
                [value for value, keep in zip(*row, strict=True) if keep]
                for row in zip(asked(values).tolist(), kept, strict=True)
            ]

        lp, kl = tokens(n.logprobs), tokens(n.forward_kl)
        columns = (
            *(lp, tokens(n.reference), kl),
            *(tokens(asked(n.log_collision).exp()), tokens(n.contrast)),
            *(n.labels.tolist(), asked(n.value).tolist(), asked(n.prompt_odds).tolist()),
        )
        return [
            Completion(
                lp=lp,
                ref=ref,
                kl=kl,
                collision=collision,
                contrast=contrast,
                frozen=lp,
                frozen_kl=kl,
                said=said,
                value=value,
                odds=odds,
            )
            for lp, ref, kl, collision, contrast, said, value, odds in zip(*columns, strict=True)
        ]


SIZES = {"comparisons": [2] * 5, "rankings": [3, 2, 4, 2], "labels": [1] * 6, "scores": [1] * 5}


def reference_point(given: Example) -> float:
    ratio = given.mismatched["policy_mismatched"] - given.mismatched["reference_mismatched"]
    return max(0.0, sum(ratio.tolist()) / len(ratio))


UNARY: dict[str, Callable[[Completion, Settings], float]] = {"npo": npo, "dro": dro}

STEPWISE: dict[str, Callable[[Example, Ranked, Sequence[Pair], Settings], float]] = {
    "aot": lambda given, each, pairs, o: aot(pairs, o),
    "aot_paired": lambda given, each, pairs, o: aot_paired(pairs, o),
    "bco_pair": lambda given, each, pairs, o: bco_pair(pairs, o),
    "kto": lambda given, each, pairs, o: kto(each, o, reference_point(given)),
    "bco": lambda given, each, pairs, o: bco(each, o),
    "bco_matched": lambda given, each, pairs, o: bco(each, o),
}
"""Those that look at the whole step."""


def example(data: str, *, seed: int = 0, at_start: bool = False) -> Example:
    """Ragged completions with holes in their masks; junk where the mask is False."""
    sizes = SIZES[data]
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = len(group)
    lengths = [1 + (3 * b + seed) % 6 for b in range(count)]
    mask = ragged_mask(lengths, width=7)
    mask[1, 0] = lengths[1] == 1  # another speaker's turn in the middle of one
    logprobs = normal(*mask.shape, seed=seed, scale=0.4) - 1.5
    reference = logprobs.clone() if at_start else logprobs + normal(*mask.shape, seed=seed + 1, scale=0.5)
    kl = normal(*mask.shape, seed=seed + 2).abs() * (0 if at_start else 0.3)
    said = normal(count, seed=seed + 3)
    if (
        data == "comparisons"
    ):  # how likely chosen is the better one, and rejected: what the data says of a pair
        sure = said[0::2].sigmoid()
        said = torch.stack([sure, 1 - sure], dim=1).flatten()
    if data == "labels":
        said = (torch.arange(count) % 3 != 1).double()
    odds = normal(count, seed=seed + 9).exp()
    odds[1], odds[4] = 0.2, 14.0  # of bad completions, outside the bounds
    junk = torch.where(mask, 0.0, 1e6)
    return Example(
        numbers=TokenNumbers(
            logprobs=logprobs + junk,
            mask=mask,
            group=group,
            reference=reference - junk,
            forward_kl=kl + junk,
            log_collision=normal(*mask.shape, seed=seed + 4, scale=0.3) - 1.2 + junk,
            contrast=normal(*mask.shape, seed=seed + 8).abs() + junk,
            value=normal(count, seed=seed + 5),
            prompt_odds=odds,
            labels=said,
        ),
        mismatched={
            "policy_mismatched": normal(count, seed=seed + 6, scale=0.0 if at_start else 1.0) - 2.5,
            "reference_mismatched": torch.full((count,), -2.5 if at_start else -3.0, dtype=torch.float64),
        },
    )


def prepared(objective: Objective, given: Example, settings: Settings, seed: int = 0) -> Prepared:
    """What the trainer works out before the losses."""
    if objective.prepare is None:
        return Prepared()
    names = [name for name in objective.prepare_names if name not in MISMATCHED]
    values = quantities(objective.data, names, given.numbers)
    values = {name: value.detach() for name, value in values.items()} | given.mismatched
    generator = torch.Generator().manual_seed(seed)
    return call(objective.prepare, {**values, **settings, "running": objective.running, "draw": generator})


def losses(name: str, numbers: TokenNumbers, extra: Prepared, settings: Settings | None = None) -> Tensor:
    """The objective's loss of each example."""
    objective = OBJECTIVES[name]
    known = [each for each in objective.names if each not in {*extra.shared, *extra.each}]
    values = quantities(objective.data, known, numbers)
    return call(
        objective.loss, {**values, **extra.shared, **extra.each, **objective.settings, **(settings or {})}
    )


def by_hand(
    name: str,
    given: Example,
    tokens: Tensor,
    kl: Tensor,
    contrast: Tensor | None = None,
    *,
    settings: Settings | None = None,
) -> float:
    """The step's summed loss by the functions above, with these log-probabilities, KLs and contrasts in place of the example's."""
    contrast = given.numbers.contrast if contrast is None else contrast
    moved = Example(
        numbers=replace(given.numbers, logprobs=tokens, forward_kl=kl, contrast=contrast),
        mismatched=given.mismatched,
    )
    completions = [
        replace(new, frozen=old.lp, frozen_kl=old.kl)
        for new, old in zip(moved.completions(), given.completions(), strict=True)
    ]
    o = {**OBJECTIVES[name].settings, **(settings or {})}
    groups: dict[int, list[Completion]] = {}
    for one, g in zip(completions, given.numbers.group.tolist(), strict=True):
        groups.setdefault(g, []).append(one)
    pairs = [(group[0], group[1]) for group in groups.values() if len(group) > 1]
    if name in PAIRWISE:
        return sum(PAIRWISE[name](pair, o) for pair in pairs)
    if name in LISTWISE:
        return sum(LISTWISE[name](group, o) for group in groups.values())
    if name in UNARY:
        return sum(UNARY[name](one, o) for one in completions)
    return STEPWISE[name](given, completions, pairs, o)
