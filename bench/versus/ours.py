"""prefloop's side of a case: `python -m bench.versus.ours STAGE MATERIAL`. The stages as they are, stopped between steps."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.versus.cases import (
    BETA,
    CHAT,
    FILES,
    GENERATION_PROMPT,
    GROUP,
    GROUP_UPDATES,
    LEARNING_RATE,
    ONLINE,
    PPO_MINIBATCHES,
    SEED,
    Conditions,
    Size,
)
from bench.versus.pace import Pace
from prefloop.algorithms import critic_free, ppo, prefer, reward, sft
from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import GRPOConfig, RLOOConfig
from prefloop.configs.ppo import PPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.loop import batches, reference
from prefloop.models.load import load_policy
from prefloop.models.lora import lora_policy
from prefloop.rollout.sampler import sample
from prefloop.runtime import Run
from prefloop.runtime.tune import tune
from prefloop.text.groups import Group

CONDITIONS = Conditions.told()
MANY = 10_000
"""Steps: more than anyone asks for."""


def compute() -> Compute:
    """As the conditions have it."""
    dtype = "bfloat16" if CONDITIONS.bf16 else "float32"
    return Compute(device="cuda" if CONDITIONS.device == "cuda" else "cpu", dtype=dtype)


def adapters() -> LoRA:
    """Those that are trained, or none."""
    return LoRA(rank=CONDITIONS.lora, alpha=2.0 * CONDITIONS.lora) if CONDITIONS.lora else LoRA()


def settings_of(stage: str, material: Path, steps: int = MANY) -> tuple[Any, Callable[[Any], Any]]:
    """A stage's configuration and its own `train`."""
    rows = material / CHAT if (material / CHAT).exists() else material
    common: dict[str, Any] = {
        "run": RunSettings(out=f"{tempfile.mkdtemp()}/{stage}", seed=SEED),
        "optim": Optim(lr=LEARNING_RATE, schedule="constant", beta2=0.999),
        "compute": compute(),
        "lora": adapters(),
        "data": Data(
            source=str(rows / f"{FILES.get(stage, 'comparisons')}.jsonl"),
            heldout=0.0,
            max_prompt_tokens=CONDITIONS.prompt_tokens if stage in ONLINE else CONDITIONS.max_tokens,
            max_completion_tokens=CONDITIONS.max_tokens,
        ),
    }
    if stage in ONLINE:
        return _online(stage, material, common | {"steps": steps})
    return _offline(
        stage, material, common | {"batch_size": CONDITIONS.batch_size(stage), "max_steps": steps}
    )


def _offline(stage: str, material: Path, common: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    model = str(material / "policy")
    if stage == "sft":
        return SFTConfig(**common, model=model), sft.train
    if stage == "reward":
        start = str(material / "reward_model")
        # An adapter comes with a head of its own.
        return RewardConfig(**common, model=start, keep_head=not CONDITIONS.lora, centring=0.0), reward.train
    settings = () if stage == "orpo" else (f"beta={BETA}",)
    return PreferConfig(**common, model=model, loss=stage, settings=settings), prefer.train


def _online(stage: str, material: Path, common: dict[str, Any]) -> tuple[Any, Callable[[Any], Any]]:
    common |= {
        "model": str(material / "policy"),
        "reward_model": str(material / "reward_model"),
        "sampling": Sampling(max_new_tokens=CONDITIONS.new_tokens, batch_size=CONDITIONS.rollouts),
    }
    if stage == "ppo":
        shape: dict[str, Any] = {
            "batch_prompts": CONDITIONS.rollouts,
            "epochs": CONDITIONS.ppo_epochs,
            "minibatches": PPO_MINIBATCHES,
        }
        return PPOConfig(**common, **shape), ppo.train
    group: dict[str, Any] = {
        "batch_prompts": CONDITIONS.rollouts // GROUP,
        "completions_per_prompt": GROUP,
        "minibatches": GROUP_UPDATES,
    }
    if stage == "grpo":
        return GRPOConfig(**common, **group), critic_free.train
    # One update from each batch is REINFORCE; more need the ratio, as the other side has it too.
    return RLOOConfig(**common, **group, surrogate="clipped", ratio="sequence_sum"), critic_free.train


def train(stage: str, material: Path, pace: Pace) -> None:
    """A stage's own `train`, with its batches in the data's order and a pause before each step."""
    once = _Once(reference.reference_tokens)
    reference.reference_tokens = once
    batches.Batches.at = in_order
    steps = Run.steps

    def paced(self: Run, **kwargs: Any) -> Iterator[int]:
        pace.ready(reference_seconds=once.seconds)
        for step in steps(self, **kwargs):
            with pace.step() as answer:
                yield step
                answer["loss"] = self.last_metrics.get("loss")

    Run.steps = paced
    config, run = settings_of(stage, material)
    run(config)


class _Once:
    """Times the one pass of the reference over the data."""

    def __init__(self, work: Callable[..., Any]) -> None:
        self._work, self.seconds = work, 0.0

    def __call__(self, model: Any, groups: Sequence[Group], **kwargs: Any) -> Any:
        began = time.perf_counter()
        result = self._work(model, groups, **kwargs)
        self.seconds += time.perf_counter() - began
        return result


def in_order(self: Any, step: int) -> list[int]:
    """Stands for `Batches.at`: the records as they come, again from the first after the last."""
    first = (step - 1) * self.size
    return [place % self.count for place in range(first, first + self.size)]


def generate(material: Path, pace: Pace) -> None:
    """As many tokens for as many prompts: no token is a stop token."""
    tune()
    policy = load_policy(str(material / "policy"), compute())
    if CONDITIONS.lora:
        policy, _ = lora_policy(policy, adapters(), seed=SEED)
    generator = torch.Generator().manual_seed(SEED)
    shape = (CONDITIONS.rollouts, GENERATION_PROMPT)
    prompts = torch.randint(10, Size.of(material / "policy").vocabulary, shape, generator=generator).tolist()
    sampling = Sampling(max_new_tokens=CONDITIONS.new_tokens, batch_size=CONDITIONS.rollouts)
    pace.ready()
    with policy.active() as model:
        while True:
            with pace.step():
                drawn = sample(
                    model,
                    prompts,
                    k=1,
                    stop_ids=(),
                    sampling=sampling,
                    seed=SEED,
                    row_keys=range(len(prompts)),
                )
            assert all(len(each.tokens) == CONDITIONS.new_tokens for [each] in drawn)


if __name__ == "__main__":
    stage, material = sys.argv[1], Path(sys.argv[2])
    pace = Pace(torch.cuda.synchronize if CONDITIONS.device == "cuda" else None)
    generate(material, pace) if stage == "generation" else train(stage, material, pace)
