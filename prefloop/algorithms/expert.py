"""Expert iteration, or rejection-sampling fine-tuning (arXiv:2304.06767, arXiv:2308.08998): sample, keep the best, raise their likelihood, again.

One step: sample n completions of each prompt, score them, keep the best of each prompt (or all above a quantile of the step), and take
likelihood updates on those, as `sft` does. No ratio, no advantage, no reference. What differs from the papers: each step samples from the
newest policy, and keeps nothing of earlier steps.

Logged: score (mean of all samples, as the scorer gave them), score_kept, kept (share of samples that are learned from), best_of_kl (log n - (n-1)/n: the
most that the choice of the best moves away from the policy, in nats; for `keep best`), length, ended; nll (of the kept completions per
token, mean over the updates); loss, lr, grad_norm, skipped.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.algorithms.online import (
    check_sampled,
    ended_of,
    mask_of,
    open_scorer,
    shape_scores,
    shown,
    shows_samples,
    state_of_moments,
)
from prefloop.algorithms.opening import open_policy, parameters_of
from prefloop.algorithms.session import open_session
from prefloop.algorithms.sft import likelihood_step
from prefloop.configs.own_samples import ExpertConfig
from prefloop.losses import RunningMoments
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, Updater, World
from prefloop.text.groups import Group


def train(config: ExpertConfig) -> Path:
    """Train and return the folder of the finished policy."""
    with open_session(config, headline=("score", "score_kept")) as session:
        run, world = session.run, session.world
        opened = open_policy(config.model, session.tokenizer, config.lora, config.compute, run)
        policy = opened.role
        score, stored = open_scorer(config, session.tokenizer, world)
        session.begin(policy)
        updater = Updater(
            [parameters_of(policy, config.optim, name="policy")],
            total_steps=config.steps * config.epochs * config.minibatches,
            world=world,
            dump_folder=run.nonfinite,
            max_nonfinite=config.run.max_nonfinite,
        )
        running = RunningMoments()
        if run.resumed:
            updater.load_state(run.resumed["updater"])
            running = RunningMoments(**run.resumed["score_moments"])

        def state() -> dict[str, object]:
            return {"updater": updater.state(), "score_moments": state_of_moments(running)}

        def learn(groups: Sequence[Group]) -> dict[str, float]:
            return likelihood_step(
                updater, policy, groups, tokens=config.compute.micro_batch_tokens, world=world
            )

        for step in run.steps(save=opened.save, state=state):
            first_key = (step - 1) * config.batch_prompts
            k = config.completions_per_prompt
            rollout = session.draw(policy, session.batches.at(step), k=k, first_key=first_key)
            scores = score(rollout)
            shaped, running = shape_scores(
                config.reward,
                scores,
                lengths=mask_of(rollout.groups, world.device).sum(dim=1).float(),
                ended=ended_of(rollout, world.device),
                longest=config.sampling.max_new_tokens,
                stored=stored,
                running=running,
                world=world,
            )
            kept = kept_of(config, shaped.view(-1, k), world)
            metrics = _seen(config, rollout, scores, kept, world)
            metrics |= _learn(config, rollout, kept, learn, step, world)
            run.log(step, {**metrics, **score.metrics(world)})
            if shows_samples(step, run.total_steps):
                run.samples(step, shown(rollout, scores))
        return session.finish()


def kept_of(config: ExpertConfig, scores: Float[Tensor, "P n"], world: World) -> list[tuple[int, int]]:
    """Which completions are learned from, (prompt, sample) of this process's. Of equal best ones the first is kept."""
    if config.keep == "best":
        best = scores.argmax(dim=1).tolist()
        return list(enumerate(best))
    everyone = np.concatenate([np.asarray(rows) for rows in world.gather_objects(scores.flatten().tolist())])
    threshold = float(np.quantile(everyone, config.quantile, method="higher"))
    return [(int(p), int(j)) for p, j in torch.nonzero(scores.double() >= threshold).tolist()]


def _seen(
    config: ExpertConfig,
    rollout: Rollout,
    scores: Float[Tensor, " B"],
    kept: Sequence[tuple[int, int]],
    world: World,
) -> dict[str, float]:
    """Metrics of what was sampled and kept."""
    n, metrics = config.completions_per_prompt, Metrics()
    rows = [p * n + j for p, j in kept]
    metrics.add("score", scores.sum(), len(scores))
    metrics.add("score_kept", scores[rows].sum(), len(rows))
    metrics.add("kept", len(rows), len(scores))
    metrics.add("length", sum(len(c) for group in rollout.groups for c in group.completions), len(scores))
    metrics.add("ended", sum(map(sum, rollout.ended)), len(scores))
    of_choice = {"best_of_kl": math.log(n) - (n - 1) / n} if config.keep == "best" else {}
    return {**metrics.reduce(world), **of_choice}


def _learn(
    config: ExpertConfig,
    rollout: Rollout,
    kept: Sequence[tuple[int, int]],
    learn: Callable[[Sequence[Group]], dict[str, float]],
    step: int,
    world: World,
) -> dict[str, float]:
    """Likelihood updates on the kept completions; their metrics."""
    updates = Metrics()
    for epoch in range(config.epochs):
        for number, own in enumerate(minibatches(config, kept, step, epoch, world)):
            learned = learn([alone(rollout.groups[p], j) for p, j in own])
            if epoch == number == 0 and config.sampling.temperature == 1:
                sampled = sum(sum(rollout.sampler_logprobs[p][j]) for p, j in own)
                # Before any update the likelihood is the sampler's own, which saw the same weights and tokens.
                expected = -world.sum_float(sampled) / learned["tokens"]
                check_sampled(config, "nll", learned["loss"], expected, scale=1 + expected)
            for name, value in learned.items():
                if name != "tokens":
                    updates.add("nll" if name == "loss" else name, value, 1)
    return updates.reduce(world)


def alone(group: Group, sample: int) -> Group:
    """A prompt with one of its completions."""
    return Group(prompt=group.prompt, completions=(group.completions[sample],), masks=(group.masks[sample],))


def minibatches(
    config: ExpertConfig, kept: Sequence[tuple[int, int]], step: int, epoch: int, world: World
) -> Iterator[list[tuple[int, int]]]:
    """This process's completions in each minibatch, dealt over those of all processes: they do not depend on the number of processes."""
    # The prompt at place p of this process is the one at place p * size + rank of the step.
    own = {(p * world.size + world.rank, j): (p, j) for p, j in kept}
    everyone = sorted(key for part in world.gather_objects(list(own)) for key in part)
    order = np.random.Generator(np.random.PCG64([config.run.seed, step, epoch])).permutation(len(everyone))
    for part in np.array_split(order, min(config.minibatches, len(everyone))):
        keys = [everyone[int(place)] for place in part]
        yield [own[key] for key in keys if key in own]
