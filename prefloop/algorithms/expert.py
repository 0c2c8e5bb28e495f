"""Expert iteration, or rejection-sampling fine-tuning (arXiv:2304.06767, arXiv:2308.08998): sample, keep the best, raise their likelihood, again.

One step: sample n completions of each prompt, score them, keep the best of each prompt (or all above a quantile of the step), and take
likelihood updates on those, as `sft` does. No ratio, no advantage, no reference. What differs from the papers: each step samples from the
newest policy, and keeps nothing of earlier steps.

Logged: score (mean of all samples, as the scorer gave them), score_kept, kept (share of samples that are learned from), best_of_kl (log n - (n-1)/n: the
most that the choice of the best moves away from the policy, in nats; for `keep best`), length, ended; nll (of the kept completions per
token, mean over the updates); loss, lr, grad_norm, skipped.
"""

import math
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.engine import is_function
from prefloop.configs.own_samples import ExpertConfig
from prefloop.loop.learn import Learner, Loss, Passes
from prefloop.loop.likelihood import likelihood_loss
from prefloop.loop.roles import open_policy, parameters_of, shard_roles
from prefloop.loop.scoring import open_shaped_scorer
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import StartCheck, open_session, read_prompts, staleness
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.runtime import Metrics, StepResult, Updater, World
from prefloop.text.groups import Group

Kept = list[tuple[int, int]]
"""Which completions are learned from, (prompt, sample) of this process's."""


def train(config: ExpertConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source, n = read_prompts(config), config.completions_per_prompt
    with open_session(config, source, headline=("score", "score_kept")) as session:
        run, world = session.run, session.world
        opened = open_policy(session, config.model, config.lora)
        policy = opened.role
        shard_roles(session, policy)
        score, shape = open_shaped_scorer(
            session, config.reward_model, config.reward, longest=config.sampling.max_new_tokens
        )
        source.check_room(policy)
        session.begin()
        passes = Passes(epochs=config.epochs, minibatches=config.minibatches, session=session)
        updater = session.updater(
            parameters_of(policy, config.optim, name="policy"), updates=config.steps * passes.updates
        )
        share = None if config.keep == "best" else config.quantile
        # A user's sampler may draw from something else than the policy.
        known = config.sampling.temperature == 1 and not is_function(config.sampling.engine)
        for step in session.steps(save=opened.save, updater=updater, scores=shape):
            rollout = source.draw(policy, step, k=n)
            scores = score(rollout)
            shaped = shape(rollout, scores).view(-1, n)
            kept = best_of(shaped) if share is None else above(shaped, share, world)
            metrics = _seen(rollout, scores, kept, world)
            if share is None:
                metrics["best_of_kl"] = math.log(n) - (n - 1) / n
            metrics |= _learn(policy, updater, passes, rollout, kept, step, source.check if known else None)
            run.log(
                step,
                {
                    **metrics,
                    **score.metrics(world),
                    **staleness(rollout, step - 1, world),
                    **source.metrics(),
                },
            )
            show_rollout(run, step, rollout, scores)
        return session.finish()


def best_of(scores: Float[Tensor, "P n"]) -> Kept:
    """The best of each prompt; of equal ones the first."""
    return list(enumerate(scores.argmax(dim=1).tolist()))


def above(scores: Float[Tensor, "P n"], quantile: float, world: World) -> Kept:
    """All whose score is at or above this quantile of all processes' scores."""
    everyone = np.concatenate([np.asarray(rows) for rows in world.gather_objects(scores.flatten().tolist())])
    threshold = float(np.quantile(everyone, quantile, method="higher"))
    return [(int(p), int(j)) for p, j in torch.nonzero(scores.double() >= threshold).tolist()]


def _seen(rollout: Rollout, scores: Float[Tensor, " B"], kept: Kept, world: World) -> dict[str, float]:
    """Metrics of what was sampled and kept."""
    n, metrics = len(scores) // max(1, len(rollout.groups)), Metrics()
    rows = [p * n + j for p, j in kept]
    metrics.add("score", scores.sum(), len(scores))
    metrics.add("score_kept", scores[rows].sum(), len(rows))
    metrics.add("kept", len(rows), len(scores))
    metrics.add("length", sum(len(c) for group in rollout.groups for c in group.completions), len(scores))
    metrics.add("ended", sum(map(sum, rollout.ended)), len(scores))
    return metrics.reduce(world)


def _learn(
    policy: Policy,
    updater: Updater,
    passes: Passes,
    rollout: Rollout,
    kept: Kept,
    step: int,
    check_start: StartCheck | None,
) -> dict[str, float]:
    """Likelihood updates on the kept completions; their metrics. `check_start` is given if the sampler's log-probabilities are the policy's."""
    world = passes.session.world
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
        if check_start:
            # Before any update the likelihood is the sampler's own, which saw the same weights and tokens.
            check_start("nll", result.loss, expected[0], scale=1 + expected[0])

    (learned,) = passes.learn(
        [Learner(updater=updater, loss=loss)], groups, (own, everyone), step=step, check=check
    )
    return {"nll" if name == "loss" else name: value for name, value in learned.items()}


def alone(group: Group, sample: int) -> Group:
    """A prompt with one of its completions."""
    return group.take([sample])
