"""A world of letters in which everything is known: every completion, the true reward, and each policy's exact KL.

A prompt is answered by up to five letters. The reference is a table of next-letter probabilities, the true reward a planted function that no small reward
model can write down: a random network of the letters and their places, less a price for letters that are repeated, which the reference seldom does.
So a reward model learns little about repetition from the reference's own samples. Policies are tables too, so their KL to the reference and their true
reward are sums over all completions, not estimates; and the best policy at each KL is known in closed form.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from prefloop.losses import (
    ADVANTAGES,
    REDUCTIONS,
    SURROGATES,
    Moments,
    bradley_terry,
    clipped_surrogate,
    clipped_value_loss,
    example_mean,
    gae,
    shape_rewards,
    token_mean,
    whiten,
)

REPEAT_PRICE = 1.5
"""What a letter costs that is the same as the one before, in standard deviations of the rest of the reward."""
REPEAT_LOGIT = -2.0
"""What the reference's logit of such a letter is less."""
TRAITS = 4
"""Groups of the random network's hidden units; each is a part of the true reward."""
RATE = 0.1
"""Of Adam on tables of logits."""
CRITIC_FREE = {
    "grpo": ("group_std", "clipped", "sequence_mean"),
    "rloo": ("leave_one_out", "score", "sequence_sum"),
}
"""Method -> its advantages, surrogate and reduction, by their names in `losses.critic_free`."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Tree:
    """All completions: letters until the stop token or the longest length. S completions, L places, N prefixes; the last token of V is the stop."""

    tokens: Int[Tensor, "S L"]
    mask: Bool[Tensor, "S L"]
    states: Int[Tensor, "S L"]
    """Which prefix each token goes on from."""
    last: Int[Tensor, " N"]
    """Last letter of each prefix, -1 of the empty one."""
    vocabulary: int


@cache
def make_tree(letters: int, longest: int) -> Tree:
    """Breadth first; the prefixes in the order they are met."""
    prefixes: list[tuple[int, ...]] = [()]
    for prefix in prefixes:
        if len(prefix) < longest - 1:
            prefixes += [(*prefix, letter) for letter in range(letters)]
    place = {prefix: at for at, prefix in enumerate(prefixes)}
    whole = [(*prefix, letters) for prefix in prefixes]
    whole += [
        (*prefix, letter) for prefix in prefixes if len(prefix) == longest - 1 for letter in range(letters)
    ]
    lengths = torch.tensor([len(one) for one in whole])
    padded = [[*one, *[0] * (longest - len(one))] for one in whole]
    states = [[place[one[:t]] if t < len(one) else 0 for t in range(longest)] for one in whole]
    return Tree(
        tokens=torch.tensor(padded),
        mask=torch.arange(longest) < lengths[:, None],
        states=torch.tensor(states),
        last=torch.tensor([prefix[-1] if prefix else -1 for prefix in prefixes]),
        vocabulary=letters + 1,
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Letters:
    """A reference and the true reward of every completion, of P prompts."""

    tree: Tree
    reference: Float[Tensor, "P N V"]
    """Logits."""
    gold: Float[Tensor, "P S"]
    """Mean 0 and standard deviation 1 under the reference, over all prompts."""
    parts: Float[Tensor, "K P S"]
    """What the true reward is the sum of: groups of the network's hidden units, and at last the price of repeats; each of mean 0 in every prompt."""
    features: Float[Tensor, "P S F"]
    """What a reward model sees: the prompt and the letter at each place."""

    @property
    def probabilities(self) -> Float[Tensor, "P S"]:
        """Of every completion under the reference."""
        return distribution(self.tree, self.reference)


def make_world(*, prompts: int, letters: int, longest: int, seed: int) -> Letters:
    """A world of its own for every seed."""
    draw = torch.Generator().manual_seed(seed)
    tree = make_tree(letters, longest)
    again = one_hot(tree.last.clamp(min=0), tree.vocabulary) * (tree.last >= 0)[:, None]
    shape = (prompts, len(tree.last), tree.vocabulary)
    reference = 0.7 * torch.randn(shape, generator=draw) + REPEAT_LOGIT * again
    reference[:, :, letters] -= 0.5  # stops a little less often
    places = (
        one_hot(torch.where(tree.mask, tree.tokens, tree.vocabulary), tree.vocabulary + 1).flatten(1).float()
    )
    asked = torch.eye(prompts)
    features = torch.cat(
        [
            asked[:, None].expand(-1, len(places), -1),
            places[None].expand(prompts, -1, -1),
        ],
        dim=-1,
    )
    hidden = 48
    into = torch.randn((features.shape[-1], hidden), generator=draw)
    into[:prompts] *= 1.5  # so that prompts want different things
    units = torch.tanh(features @ into + torch.randn(hidden, generator=draw))
    weights = torch.randn(hidden, generator=draw)
    p = distribution(tree, reference)
    plain = units @ weights
    rest = standardised(plain, p)
    repeats = ((tree.tokens[:, 1:] == tree.tokens[:, :-1]) & tree.mask[:, 1:]).sum(1).float()
    whole = rest - REPEAT_PRICE * repeats
    traits = (units * weights).unflatten(-1, (TRAITS, -1)).sum(-1).movedim(-1, 0)
    parts = torch.cat([traits / spread(plain, p), -REPEAT_PRICE * repeats.expand_as(plain)[None]])
    return Letters(
        tree=tree,
        reference=reference,
        gold=standardised(whole, p),
        parts=(parts - (p * parts).sum(-1, keepdim=True)) / spread(whole, p),
        features=features,
    )


def standardised(values: Float[Tensor, "P S"], p: Float[Tensor, "P S"]) -> Float[Tensor, "P S"]:
    """Less its mean within each prompt, by its standard deviation over all, under the reference."""
    return (values - (p * values).sum(1, keepdim=True)) / spread(values, p)


def spread(values: Float[Tensor, "P S"], p: Float[Tensor, "P S"]) -> Float[Tensor, ""]:
    """Standard deviation within prompts, over all of them."""
    centred = values - (p * values).sum(1, keepdim=True)
    return (p * centred.square()).sum(1).mean().sqrt()


def token_logprobs(tree: Tree, table: Float[Tensor, "P N V"]) -> Float[Tensor, "P S L"]:
    """log π of every token of every completion; zero past a completion's end."""
    found = table.log_softmax(-1)[:, tree.states, tree.tokens]
    return torch.where(tree.mask, found, 0.0)


def distribution(tree: Tree, table: Float[Tensor, "P N V"]) -> Float[Tensor, "P S"]:
    """Probability of every completion."""
    return token_logprobs(tree, table.detach()).sum(-1).exp()


def kl(p: Float[Tensor, "P S"], reference: Float[Tensor, "P S"]) -> float:
    """KL(p ‖ reference) in nats, the mean over prompts."""
    return float((torch.special.xlogy(p, p) - torch.special.xlogy(p, reference)).sum(1).mean())


def expected(p: Float[Tensor, "P S"], reward: Float[Tensor, "P S"]) -> float:
    """Mean reward over prompts."""
    return float((p * reward).sum(1).mean())


def win_rate(one: Float[Tensor, "P S"], other: Float[Tensor, "P S"], reward: Float[Tensor, "P S"]) -> float:
    """How often a completion of one policy has a higher reward than the other policy's, ties as a half; exact, the mean over prompts."""
    ranked, order = reward.sort(dim=1)
    below = torch.nn.functional.pad(other.gather(1, order).cumsum(1), (1, 0))
    first = torch.searchsorted(ranked, ranked, side="left")
    last = torch.searchsorted(ranked, ranked, side="right")
    wins = (below.gather(1, first) + below.gather(1, last)) / 2
    return float((one.gather(1, order) * wins).sum(1).mean())


def tilted(world: Letters, reward: Float[Tensor, "P S"], beta: float) -> Float[Tensor, "P S"]:
    """The policy that KL-regularised reinforcement learning aims at: π_ref exp(r / β) / Z."""
    return (world.probabilities.log() + reward / beta).softmax(-1)


def best_of(world: Letters, reward: Float[Tensor, "P S"], n: int) -> Float[Tensor, "P S"]:
    """The distribution of the best of n by a reward, exact by order statistics: F(r)ⁿ - F(r-)ⁿ, shared by completions of equal reward."""
    p = world.probabilities.double()
    order = reward.argsort(dim=1)
    ranked, of = p.gather(1, order), reward.gather(1, order)
    above = ranked.cumsum(1)
    rows = torch.arange(len(p))[:, None]
    first = torch.searchsorted(of.contiguous(), of.contiguous(), side="left")
    last = torch.searchsorted(of.contiguous(), of.contiguous(), side="right") - 1
    high = above[rows, last].clamp(max=1.0)
    low = torch.where(first > 0, above[rows, (first - 1).clamp(min=0)], 0.0)
    found = torch.zeros_like(p).scatter(1, order, ranked * (high**n - low**n) / (high - low))
    return (found / found.sum(1, keepdim=True)).to(world.gold.dtype)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Comparisons:
    """Pairs of the reference's completions, and which an annotator prefers; M pairs."""

    prompt: Int[Tensor, " M"]
    chosen: Int[Tensor, " M"]
    rejected: Int[Tensor, " M"]

    def take(self, places: Int[Tensor, " K"]) -> "Comparisons":
        """Some of them."""
        return replace(
            self, prompt=self.prompt[places], chosen=self.chosen[places], rejected=self.rejected[places]
        )


def joined(one: Comparisons, other: Comparisons) -> Comparisons:
    """Both."""
    return Comparisons(
        prompt=torch.cat([one.prompt, other.prompt]),
        chosen=torch.cat([one.chosen, other.chosen]),
        rejected=torch.cat([one.rejected, other.rejected]),
    )


def compare(
    world: Letters,
    count: int,
    *,
    temperature: float,
    draw: torch.Generator,
    policy: Float[Tensor, "P S"] | None = None,
) -> Comparisons:
    """An annotator who prefers a to b with probability σ((gold a - gold b) / temperature), of a policy's pairs; None is the reference."""
    p = world.probabilities if policy is None else policy
    prompt = torch.randint(len(p), (count,), generator=draw)
    pairs = torch.multinomial(p[prompt], 2, replacement=True, generator=draw)
    gap = world.gold[prompt[:, None], pairs].diff(dim=1).squeeze(1)  # the second less the first
    first = torch.rand(count, generator=draw) < torch.sigmoid(-gap / temperature)
    chosen, rejected = torch.where(first[:, None], pairs, pairs.flip(1)).unbind(1)
    return Comparisons(prompt=prompt, chosen=chosen, rejected=rejected)


def fit_reward_model(
    world: Letters,
    data: Comparisons,
    *,
    width: int,
    steps: int,
    seed: int,
    decay: float = 1e-2,
) -> Float[Tensor, "P S"]:
    """Scores of every completion by a network of one hidden layer, trained by Bradley and Terry's loss; standardised under the reference.

    Of five stops, evenly spread over the steps, the one is taken whose loss on a tenth of the comparisons, held out, is lowest.
    """
    torch.manual_seed(seed)
    size = world.features.shape[-1]
    net = nn.Sequential(nn.Linear(size, width), nn.Tanh(), nn.Linear(width, 1))

    def loss(places: Tensor) -> Tensor:
        some = data.take(places)
        chosen, rejected = (
            net(world.features[some.prompt, side]).squeeze(-1) for side in (some.chosen, some.rejected)
        )
        return example_mean(bradley_terry(chosen, rejected), examples=len(places))

    scores = fit_network(
        net,
        loss,
        lambda: net(world.features).squeeze(-1),
        examples=len(data.prompt),
        steps=steps,
        decay=decay,
    )
    return standardised(scores, world.probabilities) if float(scores.std()) > 0 else scores


def fit_network(
    net: nn.Module,
    loss: Callable[[Tensor], Tensor],
    outcome: Callable[[], Tensor],
    *,
    examples: int,
    steps: int,
    decay: float,
) -> Tensor:
    """The network's outcome at that of five stops, evenly spread over the steps, where the loss on the first tenth of the examples, held out, is lowest.

    `loss` takes the examples' places.
    """
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2, weight_decay=decay)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    held = max(1, examples // 10)
    lowest, best = float("inf"), outcome().detach()
    for step in range(steps):
        optimizer.zero_grad()
        loss(held + torch.randint(examples - held, (min(256, examples - held),))).backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 5) == 0:
            with torch.no_grad():
                now = float(loss(torch.arange(held)))
                if now < lowest:
                    lowest, best = now, outcome()
    return best


def soft_labels(scores: Float[Tensor, "P S"], data: Comparisons) -> Float[Tensor, " M"]:
    """How likely each chosen completion is the better one, σ(a gap of scores), with the a that makes the comparisons likeliest."""
    return likelihoods(scores[data.prompt, data.chosen] - scores[data.prompt, data.rejected])


def likelihoods(gap: Float[Tensor, " M"]) -> Float[Tensor, " M"]:
    """σ(a gap), with the a that makes comparisons whose scores differ so likeliest."""
    scales = torch.logspace(-1.5, 1.5, 61)[:, None]
    losses = -torch.nn.functional.logsigmoid(scales * gap).mean(1)
    return torch.sigmoid(scales[losses.argmin()] * gap)


def accuracy(
    world: Letters,
    scores: Float[Tensor, "P S"],
    *,
    pairs: int = 20_000,
    seed: int = 0,
    policy: Float[Tensor, "P S"] | None = None,
) -> float:
    """Share of a policy's pairs, of different true reward, that scores order as the true reward does; None is the reference."""
    draw = torch.Generator().manual_seed(seed)
    p = world.probabilities if policy is None else policy
    prompt = torch.randint(len(p), (pairs,), generator=draw)
    sides = torch.multinomial(p[prompt], 2, replacement=True, generator=draw)
    true, scored = (one[prompt[:, None], sides].diff(dim=1).squeeze(1) for one in (world.gold, scores))
    return float((torch.sign(true) == torch.sign(scored))[true != 0].float().mean())


def adam(parameters: Sequence[Tensor], rate: float, steps: int) -> tuple[Any, Any]:
    """Adam with a rate that falls to a hundredth over the steps: the optimiser and its schedule."""
    optimizer = torch.optim.Adam(parameters, lr=rate)
    return optimizer, torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, steps)


class Table(nn.Module):
    """A policy that shares nothing between prefixes: its parameters are the logits."""

    def __init__(self, logits: Float[Tensor, "P N V"]) -> None:
        super().__init__()
        self.logits = nn.Parameter(logits.clone())

    def forward(self) -> Float[Tensor, "P N V"]:
        return self.logits


def train_on_reward(
    world: Letters,
    reward: Float[Tensor, "P S"],
    method: str,
    *,
    kl_coef: float,
    steps: int,
    k: int,
    seed: int,
    policy: nn.Module | None = None,
    rate: float = RATE,
    seen: Callable[[Float[Tensor, "P S"]], None] | None = None,
) -> Float[Tensor, "P N V"]:
    """A policy by PPO, GRPO or RLOO on its own samples, K a prompt and step, with the KL to where it started in the reward.

    It starts as the `policy` given, which is trained in place; without one, as a table of the reference. `seen` gets the distribution over
    completions before every step and after the last.
    """
    tree = world.tree
    draw = torch.Generator().manual_seed(seed)
    policy = policy or Table(world.reference)
    values = torch.zeros(world.reference.shape[:2], requires_grad=True)
    with torch.no_grad():
        reference = token_logprobs(tree, policy())
    updates = 1 if method == "rloo" else 2  # RLOO's surrogate is right for one update only
    optimizer, schedule = adam([*policy.parameters(), values], rate, steps * updates)
    prompt = torch.arange(len(reference)).repeat_interleave(k)
    for _ in range(steps):
        with torch.no_grad():
            old = token_logprobs(tree, policy())
            p = old.sum(-1).exp()
            if seen:
                seen(p)
            at = torch.multinomial(p, k, replacement=True, generator=draw).flatten()
            mask, states = tree.mask[at], tree.states[at]
            sampled = old[prompt, at]
            rewards = shape_rewards(
                reward[prompt, at], sampled - reference[prompt, at], mask, kl_coef=kl_coef
            )
            tokens = int(mask.sum())
            before = returns = values[prompt[:, None], states]
            if method == "ppo":
                advantages, returns = gae(rewards, before, mask, gamma=1.0, lam=0.95)
                advantages = whiten(advantages, mask, Moments.of(advantages, mask))
            else:
                kind = CRITIC_FREE[method][0]
                advantages = ADVANTAGES[kind](rewards, mask, prompt, torch.zeros(len(prompt)))
        for _ in range(updates):
            logprobs = token_logprobs(tree, policy())[prompt, at]
            if method == "ppo":
                loss = token_mean(
                    clipped_surrogate(logprobs, sampled, advantages, clip=0.2), mask, tokens=tokens
                )
                now = values[prompt[:, None], states]
                # The table of values learns at the same rate, so its loss weighs more than a shared network's would.
                loss = loss + 5.0 * token_mean(
                    clipped_value_loss(now, before, returns, clip=0.0), mask, tokens=tokens
                )
            else:
                _, surrogate, reduction = CRITIC_FREE[method]
                losses = SURROGATES[surrogate](logprobs, sampled, advantages, clip=(0.2, 0.2))
                loss = REDUCTIONS[reduction](
                    losses, mask, tokens=tokens, sequences=len(at), length=mask.shape[1]
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    table = policy().detach()
    if seen:
        seen(distribution(tree, table))
    return table
