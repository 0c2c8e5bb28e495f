"""Statistical rejection sampling (RSO, arXiv:2309.06657): from samples of one policy to comparisons between draws of the policy to be learned.

DPO on samples of the SFT model estimates its loss under the wrong distribution. Accepting a sample with probability exp((r - r_max)/β) leaves draws
of π_SFT exp(r/β), the optimal policy, and pairs of those are what the loss is defined on. Train on them with `dpo` or `hinge`.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path

from prefloop.addresses import without_passwords
from prefloop.configs.filter import RejectionConfig
from prefloop.data import write_jsonl
from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.loop.scoring import bring_scorers
from prefloop.records import Comparison, Prompt
from prefloop.rollout.reward_scorers import EnsembleScorer
from prefloop.runtime import start_world


def accept(rewards: Sequence[float], *, beta: float, keep: int, draw: random.Random) -> list[int]:
    """Indices of accepted samples in the order of acceptance, `keep` of them or all there are; algorithm 1 of arXiv:2309.06657.

    Rounds over the samples that are left, each with the largest reward among those as r_max: a round accepts one at least.
    """
    left = list(range(len(rewards)))
    accepted: list[int] = []
    while left and len(accepted) < keep:
        largest = max(rewards[i] for i in left)
        rest = []
        for i in left:
            if len(accepted) < keep and draw.random() < math.exp((rewards[i] - largest) / beta):
                accepted.append(i)
            else:
                rest.append(i)
        left = rest
    return accepted


def paired(
    prompt: Prompt, texts: Sequence[str], rewards: Sequence[float], accepted: Sequence[int]
) -> list[Comparison]:
    """Accepted samples two by two, the higher reward chosen; equal rewards say nothing and give no comparison."""
    result = []
    for a, b in zip(accepted[0::2], accepted[1::2], strict=False):
        better, worse = (a, b) if rewards[a] >= rewards[b] else (b, a)
        if rewards[better] > rewards[worse]:
            margin = rewards[better] - rewards[worse]
            result.append(
                Comparison(prompt=prompt, chosen=texts[better], rejected=texts[worse], margin=margin)
            )
    return result


def sample_by_rejection(config: RejectionConfig) -> str:
    """Score a store's completions, accept, pair, and write the comparisons; the file."""
    world = start_world(config.compute.device, wait_minutes=config.compute.wait_minutes)

    def completions() -> tuple[dict[Prompt, list[str]], int]:
        by_prompt: dict[Prompt, dict[str, None]] = {}
        empty = 0
        with Store.open(config.store, create=False) as store:
            checkpoints = [store.find_checkpoint(name) for name in config.checkpoints]
            for one in store.completions(checkpoints):
                if one.text.strip():
                    by_prompt.setdefault(one.prompt, {})[one.text] = None
                else:  # files of comparisons do not hold them
                    empty += 1
        return {prompt: list(texts) for prompt, texts in by_prompt.items() if len(texts) > 1}, empty

    groups, empty = world.on_main(completions)
    if not groups:
        raise InputError(
            f"{without_passwords(config.store)}: no prompt has two different completions; draw more with `prefloop sample`"
        )
    bring_scorers(world, *config.reward_models)
    scorer = EnsembleScorer.load(config.reward_models, config.compute, world, rules=config.reward)
    prompts = [prompt for prompt, texts in groups.items() for _ in texts]
    scores = iter(scorer(prompts, [text for texts in groups.values() for text in texts]))
    pairs: list[Comparison] = []
    for prompt, texts in groups.items():
        rewards = [next(scores) for _ in texts]
        # by content, so that a prompt's draw does not depend on the others
        draw = random.Random(f"{config.seed} {prompt.sha256}")
        pairs += paired(
            prompt, texts, rewards, accept(rewards, beta=config.beta, keep=config.keep, draw=draw)
        )
    if not pairs:
        raise InputError(
            f"{without_passwords(config.store)}: no accepted pair has different scores; draw more completions"
        )

    def write() -> None:
        write_jsonl(pairs, Path(config.out))
        left_out = f"; {empty} empty completions left out" if empty else ""
        made = f"{len(pairs)} comparisons of {len(prompts)} completions to {len(groups)} prompts"
        print(f"{config.out}: {made}{left_out}")

    world.on_main(write)
    return config.out
