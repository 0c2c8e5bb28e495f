"""`prefloop best_of_n`: the cheapest way to use a reward model, and the baseline that every trained policy has to beat."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prefloop.configs.best_of_n import BestOfNConfig
from prefloop.data import write_jsonl
from prefloop.errors import InputError
from prefloop.evaluation.evaluate import Setting, answer, proxy_scores
from prefloop.evaluation.json_files import write_json
from prefloop.evaluation.reward_model_quality import BestOf, best_of_n
from prefloop.evaluation.tables import best_of_table
from prefloop.feedback.utility import find_utility
from prefloop.loop.inputs import prompts, store_of
from prefloop.models.generation import say_what_is_not_taken
from prefloop.models.load import load_policy
from prefloop.models.roles import vocabulary_size
from prefloop.records import Comparison, Demonstration, Prompt
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import Drawn, EnsembleScorer
from prefloop.runtime.world import World, start_world
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
class Chosen:
    """What was taken of every prompt's completions."""

    demonstrations: tuple[Demonstration, ...]
    """The best of each prompt; a prompt whose best one is empty has none."""
    comparisons: tuple[Comparison, ...]
    """Best and worst, with the difference of their scores as margin."""
    empty: int
    """Prompts whose best completion is empty."""
    equal: int
    """Prompts whose completions all score the same, or whose best or worst is empty: no comparison."""


def best(config: BestOfNConfig) -> str:
    """Draw, score, choose and write; the file of demonstrations."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)
    asked, summary = world.on_main(lambda: _prompts(config))
    rollout, proxy, disagreement = draw_and_score(config, asked, world)
    shape = (len(asked), config.completions_per_prompt)
    gold = None
    if config.gold:
        judge = find_utility(config.gold)
        pairs = zip(*rollout.pairs(), strict=True)
        gold = np.array([judge(prompt, text) for prompt, text in pairs]).reshape(shape)
    curve = Curve(
        policy=config.model,
        reward_model=config.reward_model,
        prompts=len(asked),
        completions_per_prompt=config.completions_per_prompt,
        disagreement=disagreement,
        points=best_of_n(proxy.reshape(shape), gold),
    )
    chosen = choose(rollout, proxy.reshape(shape))
    folder = Path(config.out)

    def write() -> None:
        print(summary)
        print(best_of_table(curve.points))
        if disagreement:
            print(f"the scorers disagree by {disagreement:.3f} standard deviations on average")
        write_json(folder / "best_of_n.json", curve)
        for name, records, why in (
            (
                "demonstrations",
                chosen.demonstrations,
                f"{chosen.empty} prompts whose best completion is empty",
            ),
            (
                "comparisons",
                chosen.comparisons,
                f"{chosen.equal} prompts whose completions score alike or are empty",
            ),
        ):
            file = folder / f"{name}.jsonl"
            if not records:
                raise InputError(f"{file}: nothing to write; left out were {why}")
            write_jsonl(records, file)
            print(f"{file}: {len(records)}; left out {why}")

    world.on_main(write)
    return str(folder / "demonstrations.jsonl")


def choose(rollout: Rollout, scores: NDArray[np.float64]) -> Chosen:
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
    return Chosen(
        demonstrations=tuple(demonstrations), comparisons=tuple(comparisons), empty=empty, equal=equal
    )


def _prompts(config: BestOfNConfig) -> tuple[tuple[Prompt, ...], str]:
    tokenizer = load_tokenizer(config.model, trust_remote_code=config.compute.trust_remote_code)
    train, heldout, read = prompts(config.data, tokenizer, store_of(config.out, ""))
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
    setting = Setting(
        sampling=config.sampling,
        completions_per_prompt=config.completions_per_prompt,
        seed=config.seed,
        max_prompt_tokens=config.data.max_prompt_tokens,
        truncate=config.data.overlong == "truncate",
        compute=config.compute,
        world=world,
    )
    rollout = answer(policy, tokenizer, asked, setting)
    if len(scorer.parts) == 1:
        return rollout, proxy_scores(scorer, rollout, tokenizer), 0.0
    members = scorer.members_of(Drawn(rollout=rollout, tokenizer=tokenizer))
    disagreement = members.std(dim=0, unbiased=False).mean().item()
    return rollout, scorer.combine(members).double().numpy(), disagreement
