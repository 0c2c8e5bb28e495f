"""Recipes at their smallest: the same stages and files, a model of one layer, a few steps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from prefloop.configs.common import Compute, Sampling
from prefloop.configs.pretrain import Architecture
from prefloop.configs.recipes import ToyConfig
from prefloop.recipes.plan import Plan

SIZE = Architecture(hidden_size=16, layers=1, heads=2, ffn_size=24, vocab_size=320, max_positions=512)
SHORT = Sampling(max_new_tokens=12, batch_size=32)


def small_toy(out: Path) -> ToyConfig:
    """A toy world of a few hundred sentences."""
    return ToyConfig(
        out=str(out),
        texts=120,
        demonstrations=60,
        prompts=40,
        pairs=24,
        eval_prompts=6,
        compute=Compute(device="cpu"),
    )


def shrink(plan: Plan) -> Plan:
    """The plan with a tiny model, short completions and few steps."""
    return replace(
        plan,
        pretrain=tuple(
            replace(stage, architecture=SIZE, block_tokens=64, max_steps=6, batch_blocks=8)
            for stage in plan.pretrain
        ),
        sft=replace(plan.sft, max_steps=4, batch_size=8),
        sample=replace(plan.sample, completions_per_prompt=2, sampling=SHORT),
        reward=replace(plan.reward, max_steps=3, batch_size=8),
        ppo=replace(plan.ppo, steps=2, batch_prompts=4, minibatches=1, epochs=1, sampling=SHORT),
        grpo=tuple(replace(stage, steps=2, batch_prompts=2, sampling=SHORT) for stage in plan.grpo),
        dpo=replace(plan.dpo, max_steps=3, batch_size=8),
        evaluation=SHORT,
        best_of=min(plan.best_of, 2),
    )


def made(project: Path) -> dict[str, Any]:
    """When each finished model of a project was written."""
    return {
        stage: (project / stage / "final/model.safetensors").stat().st_mtime_ns
        for stage in ("pretrain", "sft", "reward", "ppo", "dpo")
        if (project / stage).is_dir()
    }
