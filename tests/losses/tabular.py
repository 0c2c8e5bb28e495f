"""Policies that can be enumerated: a softmax table over the prefix tree of two ordinary tokens and a stop token, three tokens at most.

15 sequences of one to three tokens, so the masks are ragged as in a real batch, and every objective can be given exactly the data that theory speaks of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
from torch import Tensor

from prefloop.losses.objectives import OBJECTIVES, call
from prefloop.losses.quantities import MISMATCHED, TokenNumbers, quantities
from prefloop.losses.reduce import sequence_sum
from prefloop.models.contrast import contrast_of_logits

from .cases import normal

STOP, LONGEST = 2, 3


def sequences() -> list[tuple[int, ...]]:
    """Every way to go on until the stop token or the longest length."""
    done: list[tuple[int, ...]] = []
    open_prefixes: list[tuple[int, ...]] = [()]
    while open_prefixes:
        grown = [(*prefix, token) for prefix in open_prefixes for token in range(3)]
        done += [sequence for sequence in grown if sequence[-1] == STOP or len(sequence) == LONGEST]
        open_prefixes = [prefix for prefix in grown if prefix not in done]
    return done


SEQUENCES = sequences()
PREFIXES = sorted({sequence[:t] for sequence in SEQUENCES for t in range(len(sequence))})
MASK = torch.tensor([[t < len(sequence) for t in range(LONGEST)] for sequence in SEQUENCES])
TOKENS = torch.tensor([[*sequence, 0, 0][:LONGEST] for sequence in SEQUENCES])
STATES = torch.tensor(
    [
        [PREFIXES.index(sequence[:t]) if t < len(sequence) else 0 for t in range(LONGEST)]
        for sequence in SEQUENCES
    ]
)


def token_logprobs(table: Tensor) -> Tensor:
    """`[15, 3]` log-probabilities of every sequence's tokens."""
    return table.log_softmax(-1)[STATES, TOKENS]


def distribution(table: Tensor) -> Tensor:
    """Probability of every sequence."""
    return sequence_sum(token_logprobs(table.detach()), MASK).exp()


@dataclass(frozen=True, kw_only=True)
class World:
    """A reference, and how good every sequence is."""

    reference: Tensor
    rewards: Tensor

    @classmethod
    def of(cls, seed: int) -> "World":
        return cls(
            reference=0.7 * normal(len(PREFIXES), 3, seed=2 * seed + 6),
            rewards=normal(len(SEQUENCES), seed=2 * seed + 5),
        )


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Examples: which sequences, in which groups, what is said of each, and how much each example counts."""

    sequences: Tensor
    group: Tensor
    said: Tensor
    weight: Tensor

    @classmethod
    def of(
        cls, groups: Sequence[Sequence[int]], said: Sequence[float] = (), weight: Tensor | None = None
    ) -> "Rows":
        sizes = torch.tensor([len(one) for one in groups])
        flat = torch.tensor([i for one in groups for i in one])
        return cls(
            sequences=flat,
            group=torch.repeat_interleave(torch.arange(len(groups)), sizes),
            said=torch.tensor(said, dtype=torch.float64) if said else torch.zeros(len(flat)).double(),
            weight=torch.ones(len(groups)).double() if weight is None else weight,
        )


def hard_data(kind: str, rewards: Tensor) -> Rows:
    """All that can be said without noise: every pair; every window of three in order; good above the median; the reward."""
    order = rewards.argsort(descending=True).tolist()
    if kind == "comparisons":
        pairs = [(a, b) for i, a in enumerate(order) for b in order[i + 1 :]]
        return Rows.of(pairs, said=[1.0, 0.0] * len(pairs))
    if kind == "rankings":
        return Rows.of([[order[i], order[j], order[k]] for i in range(15) for j in range(i + 1, 15) for k in range(j + 1, 15, 3)])  # fmt: skip
    if kind == "labels":
        middle = rewards.median()
        return Rows.of([[i] for i in range(15)], said=[float(r > middle) for r in rewards])
    return Rows.of([[i] for i in range(15)], said=rewards.tolist())


def bradley_terry_data(rewards: Tensor, *, flip: float = 0.0) -> Rows:
    """Infinite comparisons: every ordered pair, weighing what Bradley and Terry's model gives it, some labels flipped."""
    pairs = list(permutations(range(15), 2))
    first, second = torch.tensor(pairs).T
    wins = torch.sigmoid(rewards[first] - rewards[second])
    return Rows.of(pairs, said=[1.0, 0.0] * len(pairs), weight=(1 - flip) * wins + flip * (1 - wins))


def plackett_luce_data(rewards: Tensor) -> Rows:
    """Infinite rankings of three: every order of every window, weighing what Plackett and Luce's model gives it."""
    orders = [order for i in range(15) for order in permutations([i, (i + 4) % 15, (i + 7) % 15])]
    scores = rewards[torch.tensor(orders)]
    weight = torch.ones(len(orders), dtype=torch.float64)
    for k in range(2):
        weight = weight * (scores[:, k] - scores[:, k:].logsumexp(1)).exp()
    return Rows.of(orders, weight=weight)


@dataclass
class Trained:
    """What is trained, and the state that the objective carries."""

    table: Tensor
    value: Tensor
    running: dict[str, float] = field(default_factory=dict)


def step_loss(
    name: str, world: World, rows: Rows, trained: Trained, settings: Mapping[str, Any], step: int = 0
) -> Tensor:
    """The weighted mean loss of all examples, made from tokens as the trainer makes it."""
    objective = OBJECTIVES[name]
    settings = {**objective.settings, **settings}
    policy, reference = token_logprobs(trained.table), token_logprobs(world.reference)
    full, theirs = trained.table.log_softmax(-1), world.reference.log_softmax(-1)
    kl = (theirs.exp() * (theirs - full)).sum(-1)
    flat_states, flat_tokens = STATES.flatten(), TOKENS.flatten()
    contrast = contrast_of_logits(full[flat_states], flat_tokens).view(STATES.shape)
    at = rows.sequences
    numbers = TokenNumbers(
        logprobs=policy[at],
        mask=MASK[at],
        group=rows.group,
        reference=reference[at],
        forward_kl=kl[STATES][at],
        log_collision=torch.logsumexp(2 * full.detach(), -1)[STATES][at],
        contrast=contrast[at],
        value=trained.value.expand(len(at)),
        prompt_odds=torch.ones(len(at), dtype=torch.float64),
        labels=rows.said,
    )
    extra: dict[str, Tensor] = {}
    if objective.prepare:
        names = [each for each in objective.prepare_names if each not in MISMATCHED]
        known = {key: v.detach() for key, v in quantities(objective.data, names, numbers).items()}
        # Other prompts' completions have no part in a world of one prompt: its own stand for them.
        known |= {
            "policy_mismatched": sequence_sum(policy, MASK).detach(),
            "reference_mismatched": sequence_sum(reference, MASK),
        }
        state = {"running": trained.running, "draw": torch.Generator().manual_seed(step)}
        result = call(objective.prepare, {**known, **settings, **state})
        trained.running = dict(result.running) or trained.running
        extra = {**result.shared, **result.each}
    known = quantities(objective.data, [each for each in objective.names if each not in extra], numbers)
    losses = call(objective.loss, {**known, **extra, **settings})
    return (rows.weight * losses).sum() / rows.weight.sum()


def fresh(name: str, world: World) -> Trained:
    """At the reference."""
    return Trained(
        table=world.reference.clone().requires_grad_(),
        value=torch.zeros(1, dtype=torch.float64, requires_grad=True),
        running=dict(OBJECTIVES[name].running),
    )


def descend(
    name: str, world: World, rows: Rows, *, steps: int, rate: float = 0.1, **settings: float
) -> Trained:
    """Adam from the reference, at a rate that falls to zero."""
    trained = fresh(name, world)
    optimizer = torch.optim.Adam([trained.table, trained.value], lr=rate)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)
    for step in range(steps):
        optimizer.zero_grad()
        step_loss(name, world, rows, trained, settings, step).backward()
        optimizer.step()
        schedule.step()
    return trained


def minimise(name: str, world: World, rows: Rows, **settings: float) -> Trained:
    """To the bottom, of objectives that carry no state."""
    trained = fresh(name, world)
    optimizer = torch.optim.LBFGS(
        [trained.table, trained.value], max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = step_loss(name, world, rows, trained, settings)
        loss.backward()
        return loss

    optimizer.step(closure)
    return trained
