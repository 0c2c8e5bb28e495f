"""Expert iteration, or rejection-sampling fine-tuning (arXiv:2304.06767, arXiv:2308.08998): sample, keep the best, raise their likelihood, again.

One step: sample n completions of each prompt, score them, keep the best of each prompt (or all above a quantile of the step), and take
likelihood updates on those, as `sft` does. No ratio, no advantage, no reference. What differs from the papers: each step samples from the
newest policy, and keeps nothing of earlier steps.

Logged: score (mean of all samples, as the scorer gave them), score_kept, kept (share of samples that are learned from), best_of_kl (log n - (n-1)/n: the
most that the choice of the best moves away from the policy, in nats; for `keep best`), length, ended; nll (of the kept completions per
token, mean over the updates); loss, lr, grad_norm, skipped.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.algorithms.sft import likelihood_loss
from prefloop.configs.own_samples import ExpertConfig
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.learn import Learner, Loss, deal, learn
from prefloop.loop.online import (
    check_sampled,
    open_scorer,
    shown,
    shows_samples,
)
from prefloop.loop.roles import open_policy, parameters_of
from prefloop.loop.session import open_session, read_prompts
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, Updater, World
from prefloop.text.groups import Group


def train(config: ExpertConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source = read_prompts(config)
    with open_session(config, source, headline=("score", "score_kept")) as session:
        run, world = session.run, session.world
        opened = open_policy(config.model, session.tokenizer, config.lora, config.compute, run)
        policy = opened.role
        score, stored = open_scorer(config, session.tokenizer, world)
        shape = ScoreShaper(config.reward, stored=stored, longest=config.sampling.max_new_tokens, world=world)
        source.check_room(policy)
        session.begin()
        updater = session.updater(
            parameters_of(policy, config.optim, name="policy"),
            updates=config.steps * config.epochs * config.minibatches,
        )
        for step in session.steps(save=opened.save, updater=updater, scores=shape):
            rollout = source.draw(policy, step, k=config.completions_per_prompt)
            scores = score(rollout)
            kept = kept_of(config, shape(rollout, scores).view(-1, config.completions_per_prompt), world)
            metrics = _seen(config, rollout, scores, kept, world)
            metrics |= _learn(config, policy, updater, rollout, kept, step, world)
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
    policy: Policy,
    updater: Updater,
    rollout: Rollout,
    kept: Sequence[tuple[int, int]],
    step: int,
    world: World,
) -> dict[str, float]:
    """Likelihood updates on the kept completions; their metrics."""
    groups = [alone(rollout.groups[p], j) for p, j in kept]
    sampled = [sum(rollout.sampler_logprobs[p][j]) for p, j in kept]
    # The prompt at place p of this process is the one at place p * size + rank of the step.
    own = [(p * world.size + world.rank, j) for p, j in kept]
    everyone = sorted(key for part in world.gather_objects(own) for key in part)
    expected: list[float] = []

    def loss(places: list[int]) -> Loss:
        of_batch, count = likelihood_loss(policy, [groups[i] for i in places], world)
        if not expected:
            expected.append(-world.sum_float(sum(sampled[i] for i in places)) / count)
        return of_batch

    def check(result: StepResult) -> None:
        if config.sampling.temperature == 1:
            # Before any update the likelihood is the sampler's own, which saw the same weights and tokens.
            check_sampled(config, "nll", result.loss, expected[0], scale=1 + expected[0])

    (learned,) = learn(
        [Learner(updater=updater, loss=loss)],
        groups,
        deal(
            own,
            everyone,
            minibatches=config.minibatches,
            epochs=config.epochs,
            seed=config.run.seed,
            step=step,
        ),
        tokens=config.compute.micro_batch_tokens,
        world=world,
        check=check,
    )
    return {"nll" if name == "loss" else name: value for name, value in learned.items()}


def alone(group: Group, sample: int) -> Group:
    """A prompt with one of its completions."""
    return Group(prompt=group.prompt, completions=(group.completions[sample],), masks=(group.masks[sample],))
