"""What a stage works with that trains one policy on its own scored samples, beside a reference.

`open_online` opens it all from settings; `Online` has it, and a verb for each part of a step: draw, score, learn, log.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.loop.adaptive import ScoreShaper
from prefloop.loop.learn import Learner, Loss, Passes, shared_places
from prefloop.loop.roles import Opened, open_policy, parameters_of, reference_of, shard_roles
from prefloop.loop.scoring import open_shaped_scorer
from prefloop.loop.session import Session
from prefloop.loop.shown import show_rollout
from prefloop.loop.sources import PromptSource, open_session, read_prompts, staleness
from prefloop.losses import example_mean, sequence_sum
from prefloop.models.packing import MicroBatch
from prefloop.models.roles import Policy
from prefloop.rollout import Rollout
from prefloop.rollout.reward_scorers import RolloutScorer
from prefloop.runtime import Metrics, Updater
from prefloop.text.groups import Group

Sums = Float[Tensor, " B"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Online:
    """An open run, its prompts, models, scorer and optimiser."""

    session: Session
    source: PromptSource
    opened: Opened[Policy]
    reference: Policy
    score: RolloutScorer
    """Gives every completion of a rollout its score."""
    shape: ScoreShaper
    """What `reward` makes of the scores: scaled, clipped, less for what is too long."""
    passes: Passes
    updater: Updater

    @property
    def policy(self) -> Policy:
        """The policy that is trained."""
        return self.opened.role

    def steps(self) -> Iterator[int]:
        """The numbers of the steps still to do; after a resume, those since the last checkpoint."""
        return self.session.steps(save=self.opened.save, updater=self.updater, scores=self.shape)

    def draw(self, step: int, *, k: int) -> Rollout:
        """k completions of each of this process's prompts of the step."""
        return self.source.draw(self.policy, step, k=k)

    def sums(self, part: MicroBatch) -> tuple[Sums, Sums]:
        """Log-probability of each completion, by policy and reference, at the sampling temperature. The reference's has no gradient."""
        mask, temperature = part.batch.completion_mask, self.source.sampling.temperature
        policy = sequence_sum(self.policy(part.batch, temperature=temperature), mask)
        with torch.no_grad():
            return policy, sequence_sum(self.reference(part.batch, temperature=temperature), mask)

    def learn(
        self, step: int, groups: Sequence[Group], losses: Callable[[MicroBatch, list[int]], Sums]
    ) -> dict[str, float]:
        """Train on these groups for the run's epochs, and return the updates' metrics. Collective: all processes call it.

        `losses` gives the loss of each completion of a micro-batch, and is told at which places of `groups` its groups are. Every update lowers
        their mean over the completions of its minibatch on all processes.
        """
        world = self.session.world

        def loss(places: list[int]) -> Loss:
            count = world.sum_float(sum(len(groups[place].completions) for place in places))
            return lambda part: example_mean(losses(part, [places[g] for g in part.groups]), examples=count)

        (updates,) = self.passes.learn(
            [Learner(updater=self.updater, loss=loss)],
            groups,
            shared_places(len(groups), world),
            step=step,
        )
        return updates

    def log(self, step: int, rollout: Rollout, scores: Sums, metrics: dict[str, float]) -> None:
        """Log the step: `score`, the mean of all completions', what the scorer and the sampler have to say, and `metrics`; show samples."""
        run, world, score = self.session.run, self.session.world, Metrics()
        score.add("score", scores.sum(), len(scores))
        of_source = staleness(rollout, step - 1, world) | self.source.metrics()
        run.log(step, score.reduce(world) | self.score.metrics(world) | of_source | metrics)
        show_rollout(run, step, rollout, scores)


@contextmanager
def open_online(config: OnlineDPOConfig, *, headline: tuple[str, ...]) -> Iterator[Online]:
    """Open the run of a stage with the settings of `online_dpo`, or more. `headline` are the metrics in the progress line."""
    source = read_prompts(config)
    with open_session(config, source, reference=config.reference, headline=headline) as session:
        opened = open_policy(session, config.model, config.lora)
        shard_roles(session, opened.role)
        reference = reference_of(session, opened.role, config.model, config.reference)
        score, shape = open_shaped_scorer(
            session, config.reward_model, config.reward, longest=config.sampling.max_new_tokens
        )
        source.check_room(opened.role, reference)
        session.begin()
        passes = Passes(epochs=config.epochs, minibatches=config.minibatches, session=session)
        weights = parameters_of(opened.role, config.optim, name="policy")
        yield Online(
            session=session,
            source=source,
            opened=opened,
            reference=reference,
            score=score,
            shape=shape,
            passes=passes,
            updater=session.updater(weights, updates=config.steps * passes.updates),
        )
