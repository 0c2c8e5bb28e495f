"""Online KTO, an algorithm of one's own: draw K completions, call those above their group's mean good, take KTO's step on them.

from examples.online_kto import OnlineKTOConfig, train
train(OnlineKTOConfig(run=RunSettings(out="runs/kto"), data=Data(source="prompts.jsonl"), model="MODEL", reward_model="REWARD"))
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.loop.learn import update
from prefloop.loop.roles import open_policy, parameters_of, reference_of
from prefloop.loop.scoring import open_scorer
from prefloop.loop.sources import open_session, read_prompts
from prefloop.losses import example_mean, sequence_sum
from prefloop.losses.unary import kto_loss
from prefloop.models.packing import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineKTOConfig(OnlineDPOConfig):
    """The settings of online DPO, and how many completions a group has."""

    STAGE: ClassVar[str] = "online_kto"
    completions_per_prompt: int = 4


def train(config: OnlineKTOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    source, k = read_prompts(config), config.completions_per_prompt
    with open_session(config, source, reference=config.reference, headline=("score", "loss")) as session:
        run, world = session.run, session.world
        opened = open_policy(session, config.model, config.lora)
        reference = reference_of(session, opened.role, config.model, config.reference)
        score, _ = open_scorer(session, config.reward_model, config.reward)
        session.begin()
        policy = parameters_of(opened.role, config.optim, name="policy")
        updater = session.updater(policy, updates=config.steps)
        for step in session.steps(save=opened.save, updater=updater):
            rollout = source.draw(opened.role, step, k=k)
            scores = score(rollout)
            good = (scores.view(-1, k) > scores.view(-1, k).mean(1, keepdim=True)).flatten()
            count = world.sum_float(len(scores))

            def loss(part: MicroBatch, good: Tensor = good, count: float = count) -> Tensor:
                mask = part.batch.completion_mask
                ours = sequence_sum(opened.role(part.batch), mask)
                with torch.no_grad():
                    theirs = sequence_sum(reference(part.batch), mask)
                    kl = (ours - theirs).mean().clamp(min=0)
                return example_mean(
                    kto_loss(ours, theirs, good[part.rows], kl, beta=config.beta), examples=count
                )

            result = update(updater, rollout.groups, loss, tokens=session.tokens, world=world)
            run.log(step, {"score": world.sum_float(float(scores.sum())) / count, **result.metrics()})
        return session.finish()
