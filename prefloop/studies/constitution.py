"""Constitutional AI, arXiv:2212.08073, in the world of letters: the judge's principles, revisions by them, and a policy that imitates revisions.

A principle is a part of the true reward with the judge's error. A revision draws a principle and a place; it keeps the completion up to that place and
ends it again, as the reference would if it heeded the principle: with probability proportional to π_ref exp(taste / rewriting). It is kept with
probability σ((taste of it - taste of the other) / temperature). So the distribution of answers after any number of revisions is exact. With a single
principle, revisions approach the policy that is best for it at the KL coefficient 1 / (1 / rewriting + 1 / temperature): the rule that keeps them is
Barker's. The paper keeps every revision.
"""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import one_hot

from prefloop.losses import example_mean
from prefloop.studies.letters import Letters, Tree, fit_network


def revise(
    world: Letters,
    principles: Float[Tensor, "K P S"],
    revisions: int,
    *,
    temperature: float,
    rewriting: float,
) -> Float[Tensor, "R P S"]:
    """Probability of every answer after 0, 1, ... revisions, R in all with the reference's."""
    found = [world.probabilities]
    shared = [_sharing(world.tree, place) for place in range(world.tree.tokens.shape[1])]
    for _ in range(revisions):
        found.append(found[-1].clone())
    for prompt, p in enumerate(world.probabilities):
        moves = [
            _moves(p[answers], principles[:, prompt, answers], temperature, rewriting) / len(shared)
            for answers in shared
        ]
        for before, after in pairwise(found):
            now = before[prompt]
            after[prompt] = now
            for answers, move in zip(shared, moves, strict=True):
                left = now[answers] * move.sum(-1)
                came = (now[answers][:, None] @ move).squeeze(1)
                after[prompt].index_add_(0, answers.flatten(), (came - left).flatten())
    return torch.stack(found)


def _sharing(tree: Tree, place: int) -> Int[Tensor, "B G"]:
    """The completions that go on at a place, those with the same beginning in a row."""
    there = tree.mask[:, place].nonzero().squeeze(1)
    states = tree.states[there, place]
    return there[states.argsort(stable=True)].view(len(states.unique()), -1)


def _moves(
    p: Float[Tensor, "B G"], tastes: Float[Tensor, "K B G"], temperature: float, rewriting: float
) -> Float[Tensor, "B G G"]:
    """How likely a revision of each completion is to be each other one of its row and is kept, over principles."""
    moves = torch.zeros(*p.shape, p.shape[1])
    for taste in tastes:
        ends = (p.log() + taste / rewriting).softmax(-1)
        gains = taste[:, None, :] - taste[:, :, None]
        moves += ends[:, None, :] * torch.sigmoid(gains / temperature)
    return moves / len(tastes)


def table_of(tree: Tree, p: Float[Tensor, "P S"]) -> Float[Tensor, "P N V"]:
    """Logits of the policy that draws every completion with its probability: what unlimited samples of it would teach."""
    mass = torch.zeros(len(p), len(tree.last) * tree.vocabulary)
    for mask, states, tokens in zip(tree.mask.T, tree.states.T, tree.tokens.T, strict=True):
        mass.index_add_(1, (states * tree.vocabulary + tokens)[mask], p[:, mask])
    return mass.unflatten(1, (-1, tree.vocabulary)).log()


def imitate(
    world: Letters,
    prompt: Int[Tensor, " M"],
    answers: Int[Tensor, " M"],
    *,
    width: int,
    steps: int,
    seed: int,
) -> Float[Tensor, "P N V"]:
    """Logits of a policy trained on answers by likelihood: the reference's, and what a network of one hidden layer adds for the prompt and the letters so far."""
    torch.manual_seed(seed)
    tree, prompts = world.tree, len(world.gold)
    prefixes = torch.full((len(tree.last), tree.tokens.shape[1]), tree.vocabulary)
    for place in range(1, tree.tokens.shape[1]):
        there = tree.mask[:, place]
        prefixes[tree.states[there, place], :place] = tree.tokens[there, :place]
    letters = one_hot(prefixes, tree.vocabulary + 1).flatten(1).float()
    asked = torch.eye(prompts)
    net = nn.Sequential(
        nn.Linear(prompts + letters.shape[1], width), nn.Tanh(), nn.Linear(width, tree.vocabulary)
    )

    def logits(of: Tensor, states: Tensor) -> Tensor:
        return world.reference[of, states] + net(torch.cat([asked[of], letters[states]], dim=-1))

    def loss(places: Tensor) -> Tensor:
        at = answers[places]
        of = prompt[places, None].expand(-1, tree.tokens.shape[1])
        logprobs = logits(of, tree.states[at]).log_softmax(-1).gather(-1, tree.tokens[at, :, None])
        return example_mean(-(logprobs.squeeze(-1) * tree.mask[at]).sum(1), examples=len(places))

    def table() -> Tensor:
        of = torch.arange(prompts)[:, None].expand(-1, len(letters))
        return logits(of, torch.arange(len(letters)).expand(prompts, -1))

    return fit_network(net, loss, table, examples=len(prompt), steps=steps, decay=1e-2)
