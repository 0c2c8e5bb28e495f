"""The stages that learn from their own samples, in small: settings that use most of what each can do, on the project of `small`."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings
from prefloop.configs.critic_free import (
    DAPOConfig,
    GRPOConfig,
    GSPOConfig,
    REINFORCEConfig,
    REINFORCEPlusConfig,
    ReMaxConfig,
    RLOOConfig,
)
from prefloop.configs.distill_context import DistillContextConfig
from prefloop.configs.engine import Importance, OnlineSampling
from prefloop.configs.environments import EnvironmentSettings
from prefloop.configs.games import NashMDConfig, SPPOConfig
from prefloop.configs.ilql import ILQLConfig
from prefloop.configs.own_samples import ExpertConfig, OnlineDPOConfig
from prefloop.configs.ppo import KL, A2CConfig, CriticSettings, NLPOConfig, ScoreShaping, TRPOConfig
from prefloop.records import Message, Prompt
from prefloop.text import load_tokenizer
from tests.tiny_project import tokenizer

OPTIM = Optim(lr=3e-3, schedule="cosine", warmup=0.2, weight_decay=0.1, eps=1e-3, max_grad_norm=0.5)


def basic(project: Path, out: str, compute: Compute) -> dict[str, Any]:
    """What all of them have: seven prompts in batches of three, so that the third step of an epoch has a single prompt."""
    return {
        "run": RunSettings(out=str(project / out), seed=3),
        "data": Data(source=str(project / "prompts.jsonl"), heldout=0.0),
        "model": str(project / "stopping/final"),
        "reward_model": str(project / "reward/final"),
        "sampling": OnlineSampling(max_new_tokens=8, temperature=1.3),
        "steps": 4,
        "batch_prompts": 3,
        "optim": OPTIM,
        "compute": compute,
    }


def grpo(shared: dict[str, Any], project: Path) -> Any:
    return GRPOConfig(
        **shared,
        completions_per_prompt=3,
        epochs=2,
        minibatches=2,
        kl=KL(coef=0.2, placement="loss", estimator="k3", target=0.05, horizon=20),
        kl_weighted=True,
        importance=Importance(rule="truncate"),
        entropy_coef=0.01,
        reward=ScoreShaping(
            scale=True, clip=3.0, residual=True, length_penalty=0.01, overlong=4, missing_eos=0.5
        ),
    )


def dapo(shared: dict[str, Any], project: Path) -> Any:
    """Scores of few values, so that groups are equal now and then and further rounds are sampled."""
    return DAPOConfig(
        **{**shared, "reward_model": "tests.algorithms.online_stages:has_a_vowel"},
        completions_per_prompt=2,
        minibatches=2,
        mask_truncated=True,
    )


def reinforce(shared: dict[str, Any], project: Path) -> Any:
    return REINFORCEConfig(**shared, completions_per_prompt=2)


def remax(shared: dict[str, Any], project: Path) -> Any:
    return ReMaxConfig(**shared, completions_per_prompt=2, reward=ScoreShaping(scale=True))


def rloo_lora(shared: dict[str, Any], project: Path) -> Any:
    return RLOOConfig(**shared, lora=LoRA(rank=2, alpha=8.0))


def gspo(shared: dict[str, Any], project: Path) -> Any:
    return GSPOConfig(
        **shared,
        completions_per_prompt=2,
        minibatches=2,
        clip_low=0.02,
        clip_high=0.02,
        kl=KL(coef=0.1, placement="loss", estimator="exact"),
    )


def reinforce_pp(shared: dict[str, Any], project: Path) -> Any:
    return REINFORCEPlusConfig(**shared, completions_per_prompt=2, epochs=2)


def a2c(shared: dict[str, Any], project: Path) -> Any:
    return A2CConfig(**shared, completions_per_prompt=2, critic=CriticSettings(start="shared", optim=OPTIM))


def trpo(shared: dict[str, Any], project: Path) -> Any:
    rest = {name: value for name, value in shared.items() if name != "optim"}
    return TRPOConfig(
        **rest,
        completions_per_prompt=2,
        max_kl=0.005,
        cg_iterations=4,
        critic_epochs=2,
        kl=KL(coef=0.2, target=0.05, horizon=20),
        critic=CriticSettings(warmup_steps=1, optim=OPTIM),
    )


def expert(shared: dict[str, Any], project: Path) -> Any:
    return ExpertConfig(
        **{**shared, "sampling": OnlineSampling(max_new_tokens=8)},
        completions_per_prompt=3,
        minibatches=2,
        epochs=2,
        reward=ScoreShaping(scale=True, missing_eos=0.5),
    )


def expert_above(shared: dict[str, Any], project: Path) -> Any:
    return ExpertConfig(
        **shared, completions_per_prompt=3, keep="above", quantile=0.6, lora=LoRA(rank=2, alpha=8.0)
    )


def online_dpo(shared: dict[str, Any], project: Path) -> Any:
    """Scores of few values, so that some pairs tie; a reference that is not the start, so that no margin is float noise around 0."""
    return OnlineDPOConfig(
        **{**shared, "reward_model": "tests.algorithms.online_stages:has_a_vowel"},
        reference=str(project / "start"),
        minibatches=2,
        epochs=2,
        beta=0.5,
        label_smoothing=0.1,
    )


def xpo(shared: dict[str, Any], project: Path) -> Any:
    return OnlineDPOConfig(**shared, beta=0.5, xpo_alpha=0.05, reward=ScoreShaping(scale=True))


def distill(shared: dict[str, Any], project: Path) -> Any:
    """On the policy's own samples, from a teacher of its own, with prompts held out."""
    rest = {name: value for name, value in shared.items() if name != "reward_model"}
    return DistillContextConfig(
        **{**rest, "data": Data(source=str(project / "prompts.jsonl"), heldout=0.3)},
        context="so",
        teacher=str(project / "start"),
        sampled_by="policy",
        divergence="reverse",
        completions_per_prompt=2,
        eval_every=3,
    )


def distill_lora(shared: dict[str, Any], project: Path) -> Any:
    rest = {name: value for name, value in shared.items() if name != "reward_model"}
    (project / "context.txt").write_text("so it is")
    return DistillContextConfig(
        **rest, context_file=str(project / "context.txt"), lora=LoRA(rank=2, alpha=8.0)
    )


def nlpo(shared: dict[str, Any], project: Path) -> Any:
    """A mask that is renewed in the middle of the run."""
    return NLPOConfig(
        **shared,
        completions_per_prompt=2,
        epochs=2,
        minibatches=2,
        top_p=0.6,
        mask_least=2,
        mask_every=2,
        entropy_coef=0.01,
        critic=CriticSettings(optim=OPTIM),
    )


def nlpo_shared(shared: dict[str, Any], project: Path) -> Any:
    return NLPOConfig(**shared, epochs=2, top_p=0.8, critic=CriticSettings(start="shared", optim=OPTIM))


def nash_md(shared: dict[str, Any], project: Path) -> Any:
    return NashMDConfig(
        **shared,
        reference=str(project / "start"),
        mixture=0.3,
        beta=0.2,
        reward=ScoreShaping(scale=True, missing_eos=0.5),
    )


def nash_md_lora(shared: dict[str, Any], project: Path) -> Any:
    """The reference is the trunk without the adapter, and both take turns at every token."""
    rest = {name: value for name, value in shared.items() if name != "reward_model"}
    return NashMDConfig(
        **rest,
        preference="tests.algorithms.online_stages:more_vowels",
        mixture=0.5,
        lora=LoRA(rank=2, alpha=8.0),
    )


def sppo(shared: dict[str, Any], project: Path) -> Any:
    rest = {name: value for name, value in shared.items() if name != "reward_model"}
    return SPPOConfig(
        **rest,
        preference="tests.algorithms.online_stages:more_vowels",
        completions_per_prompt=3,
        keep="all",
        epochs=2,
        minibatches=2,
        eta=2.0,
    )


def sppo_extremes(shared: dict[str, Any], project: Path) -> Any:
    return SPPOConfig(
        **shared, completions_per_prompt=3, minibatches=2, eta=2.0, reward=ScoreShaping(scale=True)
    )


def ilql(shared: dict[str, Any], project: Path) -> Any:
    """Fourteen scored completions, a third of them held out."""
    return ILQLConfig(
        run=shared["run"],
        data=Data(source=str(project / "scores.jsonl"), heldout=0.3),
        model=shared["model"],
        batch_size=4,
        epochs=2,
        advantage_weight=0.5,
        target_rate=0.3,
        target_every=2,
        eval_every=2,
        optim=OPTIM,
        heads_optim=OPTIM,
        compute=shared["compute"],
    )


def ilql_lora(shared: dict[str, Any], project: Path) -> Any:
    return replace(ilql(shared, project), lora=LoRA(rank=2, alpha=8.0), whiten_scores=False, eval_every=0)


ONLINE: dict[str, Callable[[dict[str, Any], Path], Any]] = {
    "grpo": grpo,
    "dapo": dapo,
    "gspo": gspo,
    "reinforce": reinforce,
    "reinforce++": reinforce_pp,
    "remax": remax,
    "rloo_lora": rloo_lora,
    "a2c": a2c,
    "trpo": trpo,
    "expert": expert,
    "expert_above": expert_above,
    "online_dpo": online_dpo,
    "xpo": xpo,
    "nlpo": nlpo,
    "nlpo_shared": nlpo_shared,
    "nash_md": nash_md,
    "nash_md_lora": nash_md_lora,
    "sppo": sppo,
    "sppo_extremes": sppo_extremes,
    "ilql": ilql,
    "ilql_lora": ilql_lora,
    "distill": distill,
    "distill_lora": distill_lora,
}
IN_ENVIRONMENT = {
    "grpo_environment": lambda shared, project: GRPOConfig(
        **in_environment(shared, project), completions_per_prompt=3, minibatches=2, epochs=2
    ),
    "ppo_environment": lambda shared, project: A2CConfig(
        **in_environment(shared, project), completions_per_prompt=2, lam=0.9, reference=str(project / "start")
    ),
}
"""Conversations of up to three turns."""
NOISY = ("trpo",)
"""Stages that enlarge float noise: TRPO's Fisher products are differences of gradients that lie close together."""
TOLERANCE = {"sppo_extremes": 1e-4}
"""Where 1e-5 is too little: the squared loss of a whole completion has gradients of norm 7, so a rounding error weighs more in a later step."""


def online_settings(name: str, project: Path, *, out: str, compute: Compute) -> Any:
    """The configuration of an online stage, in folder `out` of the project."""
    return (ONLINE | IN_ENVIRONMENT)[name](basic(project, out, compute), project)


class Echo:
    """Repeats what it hears until that is short, and likes vowels; what it says first hangs on the seed."""

    def reset(self, prompt: Prompt, seed: int) -> list[Message]:
        return [Message(role="user", content=f"{prompt.content} {seed % 7}")]

    def step(self, messages: Sequence[Message]) -> tuple[list[Message], float, bool]:
        said = messages[-1].content
        reward = sum(c in "aeiou" for c in said) - len(said) / 10
        return [Message(role="user", content=said[::-1] or "?")], reward, len(said) == 1


def make_chatting(project: Path) -> None:
    """Give the policy that has learned to stop a chat template."""
    model = shutil.copytree(project / "stopping/final", project / "chatting")
    chatting = load_tokenizer(str(model))
    chatting.chat_template = tokenizer().chat_template
    chatting.save_pretrained(model)


def in_environment(shared: dict[str, Any], project: Path) -> dict[str, Any]:
    """With the policy that has learned to stop, and a chat template: conversations go on."""
    return {
        **shared,
        "model": str(project / "chatting"),
        "reward_model": "tests.algorithms.online_stages:has_a_vowel",
        "environment": EnvironmentSettings(
            name="tests.algorithms.online_stages:Echo", max_turns=3, max_tokens=60
        ),
        "sampling": OnlineSampling(max_new_tokens=6, temperature=1.3),
    }


def more_vowels(prompts: Any, first: Any, second: Any) -> list[float]:
    """A preference function: a winner by vowels is preferred with 0.8."""
    counts = [[sum(c in "aeiou" for c in text) for text in texts] for texts in (first, second)]
    return [0.5 + 0.3 * ((a > b) - (a < b)) for a, b in zip(*counts, strict=True)]


def has_a_vowel(prompts: Any, completions: Any) -> list[float]:
    """A reward function of two values."""
    return [float(any(c in "aeiou" for c in text)) for text in completions]
