"""Online KTO, an algorithm of one's own: draw K completions, call those above their group's mean good, take KTO's step on them.

from examples.online_kto import OnlineKTOConfig, train
train(OnlineKTOConfig(run=RunSettings(out="runs/kto"), data=Data(source="prompts.jsonl"), model="MODEL", reward_model="REWARD"))
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from torch import Tensor

from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.loop.online import open_online
from prefloop.losses.unary import kto_loss
from prefloop.models.packing import MicroBatch


@dataclass(frozen=True, kw_only=True, slots=True)
class OnlineKTOConfig(OnlineDPOConfig):
    """The settings of online DPO, and how many completions a group has."""

    STAGE: ClassVar[str] = "online_kto"
    completions_per_prompt: int = 4


def train(config: OnlineKTOConfig) -> Path:
    """Train and return the folder of the finished policy."""
    with open_online(config, headline=("score", "loss")) as online:
        for step in online.steps():
            rollout = online.draw(step, k=config.completions_per_prompt)
            scores = online.score(rollout)
            shaped = online.shape(rollout, scores).view(-1, config.completions_per_prompt)
            good = shaped > shaped.mean(1, keepdim=True)

            def losses(part: MicroBatch, groups: list[int], good: Tensor = good) -> Tensor:
                policy, reference = online.sums(part)
                kl = (policy - reference).detach().mean().clamp(min=0)
                return kto_loss(policy, reference, good[groups].flatten(), kl, beta=config.beta)

            online.log(step, rollout, scores, online.learn(step, rollout.groups, losses))
        return online.session.finish()
