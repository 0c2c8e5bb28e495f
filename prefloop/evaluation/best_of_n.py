"""Best of n: the cheapest way to use a reward model, and the baseline that every trained policy has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prefloop.configs.best_of_n import BestOfNConfig
from prefloop.errors import InputError
from prefloop.evaluation.evaluate import answer, proxy_scores
from prefloop.evaluation.measure import gold_of, setting_of
from prefloop.evaluation.reward_model_quality import BestOf, best_of_n
from prefloop.loop.inputs import prompts
from prefloop.loop.provenance import same_models
from prefloop.loop.reading import store_of
from prefloop.loop.scoring import bring_scorers
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.load import load_policy
from prefloop.models.roles import vocabulary_size
from prefloop.records import Comparison, Demonstration, Prompt
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import Drawn, EnsembleScorer
from prefloop.runtime.world import World
from prefloop.text import check_vocabulary, load_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """`best_of_n.json`."""

    policy: str
    reward_model: str
    prompts: int
    completions_per_prompt: int
    disagreement: float
    """Of several scorers: mean standard deviation of a completion's normalised scores over them; 0 of one."""
    points: tuple[BestOf, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BestAndWorst:
    """What was taken of every prompt's completions."""

    demonstrations: tuple[Demonstration, ...]
    """The best of each prompt; a prompt whose best one is empty has none."""
    comparisons: tuple[Comparison, ...]
    """Best and worst, with the difference of their scores as margin."""
    empty: int
    """Prompts whose best completion is empty."""
    equal: int
    """Prompts whose completions all score the same, or whose best or worst is empty: no comparison."""


def choose_best(config: BestOfNConfig, world: World) -> tuple[Curve, BestAndWorst]:
    """Draw, score and choose; the same on every process."""
    bring_scorers(world, config.reward_model)
    same_models(world, config.model)
    asked, summary = world.on_main(lambda: _prompts(config))
    world.say(summary)
    rollout, proxy, disagreement = draw_and_score(config, asked, world)
    shape = (len(asked), config.completions_per_prompt)
    gold = gold_of(config, world)
    utilities = None
    if gold:
        pairs = zip(*rollout.pairs(), strict=True)
        utilities = np.array([gold(prompt, text) for prompt, text in pairs]).reshape(shape)
    curve = Curve(
        policy=config.model,
        reward_model=config.reward_model,
        prompts=len(asked),
        completions_per_prompt=config.completions_per_prompt,
        disagreement=disagreement,
        points=best_of_n(proxy.reshape(shape), utilities),
    )
    return curve, choose(rollout, proxy.reshape(shape))


def choose(rollout: Rollout, scores: NDArray[np.float64]) -> BestAndWorst:
    """The highest and the lowest of every prompt's completions by score `[prompts, n]`; of equal ones the first."""
    demonstrations: list[Demonstration] = []
    comparisons: list[Comparison] = []
    empty = equal = 0
    for prompt, texts, row in zip(rollout.prompts, rollout.texts, scores, strict=True):
        top, low = int(row.argmax()), int(row.argmin())
        if texts[top].strip():
            demonstrations.append(Demonstration(prompt=prompt, completion=texts[top]))
        else:  # files of demonstrations do not hold them
            empty += 1
        if row[top] > row[low] and texts[top] != texts[low] and texts[top].strip() and texts[low].strip():
            margin = float(row[top] - row[low])
            comparisons.append(
                Comparison(prompt=prompt, chosen=texts[top], rejected=texts[low], margin=margin)
            )
        else:
            equal += 1
    return BestAndWorst(
        demonstrations=tuple(demonstrations), comparisons=tuple(comparisons), empty=empty, equal=equal
    )


def _prompts(config: BestOfNConfig) -> tuple[tuple[Prompt, ...], str]:
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    train, heldout, read = prompts(
        config.data, tokenizer, store_of(config.out, ""), scorers=(config.reward_model, config.gold)
    )
    parts = {"train": (train,), "heldout": (heldout,), "all": (train, heldout)}[config.part]
    found = tuple(prompt for part in parts for prompt in part.records)
    if not found:
        raise InputError(
            f"{config.data.source}: no prompt in part {config.part!r} (heldout {config.data.heldout}); give more prompts, or part all"
        )
    return found, read.summary


def draw_and_score(
    config: BestOfNConfig, asked: Sequence[Prompt], world: World
) -> tuple[Rollout, NDArray[np.float64], float]:
    """Completions of all prompts, their scores, and the scorers' mean disagreement; the same on every process."""
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    scorer = EnsembleScorer.load(
        config.reward_model, config.compute, world, rules=config.reward, normalise=False
    )
    policy = load_policy(config.model, config.compute)
    say_what_is_not_taken(policy.model, config.sampling)
    check_vocabulary(tokenizer, vocabulary_size(policy))
    rollout = answer(policy, tokenizer, asked, setting_of(config, world))
    if len(scorer.parts) == 1:
        return rollout, proxy_scores(scorer, rollout, tokenizer), 0.0
    members = scorer.members_of(Drawn(rollout=rollout, tokenizer=tokenizer))
    disagreement = members.std(dim=0, unbiased=False).mean().item()
    return rollout, scorer.combine(members).double().numpy(), disagreement
