"""The stages of `align` as settings, with defaults for models of 0.1 to 8 billion weights.

Learning rates are the field's for adapters, about ten times those of all weights: TRL's example commands (rank 32: SFT 2e-4, reward model 1e-4, DPO and
online DPO 5e-6), CPO's adapter runs (arXiv:2401.08417, 1e-4), tinker-cookbook's reinforcement learning (1e-5). The small ones are for thousands of
steps. Adam moves a weight by about the rate in each step, so a short run takes a higher one: the rate times the steps stays what it is
there, up to a bound. beta 0.1 is DPO's (arXiv:2305.18290), the KL's weight 0.05 that of arXiv:2403.17031, whose temperature is 0.7 too.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prefloop.algorithms import critic_free, dpo, online_dpo, ppo, prefer, reward, sft
from prefloop.configs.align import OFFLINE, Method, PlanConfig
from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling
from prefloop.configs.critic_free import CriticFreeConfig, GRPOConfig, RLOOConfig
from prefloop.configs.dpo import DPOConfig
from prefloop.configs.own_samples import OnlineDPOConfig
from prefloop.configs.ppo import KL, CriticSettings, PPOConfig
from prefloop.configs.prefer import PreferConfig
from prefloop.configs.reward import RewardConfig
from prefloop.configs.sft import SFTConfig
from prefloop.recipes.align.look import Seen

Settings = (
    SFTConfig | RewardConfig | DPOConfig | PreferConfig | PPOConfig | CriticFreeConfig | OnlineDPOConfig
)

TEMPERATURE = 0.7
"""Of everything that is drawn."""
SMALL = 50_000_000
"""Weights below which all of them are trained: adapters would save little."""
SAVE_EVERY = 10
"""Steps between checkpoints: what a killed run does again at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rate:
    """A peak learning rate by what is trained and for how long."""

    lora: float
    all: float
    steps: int
    """Length of run that these are for."""
    most: float
    """Factor at most for shorter ones."""


SUPERVISED = Rate(lora=2e-4, all=2e-5, steps=500, most=5)
SCORING = Rate(lora=1e-4, all=1e-5, steps=500, most=3)
PREFERRING = Rate(lora=5e-6, all=5e-7, steps=2000, most=20)
SAMPLING = Rate(lora=1e-5, all=1e-6, steps=500, most=10)


def rate(kind: Rate, lora: LoRA, steps: int) -> float:
    """The default for a run of so many steps."""
    longer = min(kind.most, max(1.0, kind.steps / max(1, steps)))
    return (kind.lora if lora.on else kind.all) * longer


@dataclass(frozen=True, kw_only=True, slots=True)
class Sizes:
    """How much each stage gets."""

    policy: int
    """Comparisons that the policy (and its reward model) learns from."""
    judge: int
    """Comparisons that the judge learns from; 0 if none is fitted."""
    measure: int
    """Comparisons that measure judge and reward model."""
    prompts: int
    """Prompts that the policies are measured on."""
    answers: int
    """Of each policy to each of them."""
    steps: int
    """Of a method that samples."""
    demonstrations: int
    asked: int
    """Prompts that these methods draw completions of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """What is trained, and how the arithmetic is done."""

    lora: LoRA
    compute: Compute


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A stage that trains: the folder's name, its settings, and what runs them."""

    name: str
    settings: Settings
    train: Callable[[Any], object]


STEPS = 60
"""Steps of a pass over few comparisons, at least: Adam goes about as far in each, whatever its batch."""


def batch_for(records: int) -> int:
    """Comparisons a step: 32, or fewer where that would leave less than `STEPS` steps."""
    return max(4, min(32, 2 ** int(math.log2(max(1, records / STEPS)))))


def steps_for(records: int) -> int:
    """Steps of one pass in such batches."""
    return -(-records // batch_for(records))


BATCH_PROMPTS: Mapping[Method, int] = {"ppo": 32, "grpo": 8, "rloo": 8, "online_dpo": 16}
"""Prompts a step of the methods that sample: 32 completions in each."""
GROUP = 4
"""Completions of each prompt in grpo and rloo."""
MOST_STEPS = 100
"""Steps of a method that samples, at most."""


def online(config: PlanConfig) -> list[Method]:
    """The methods that sample, and so need a reward model."""
    return [name for name in config.method if name not in OFFLINE]


def online_steps(prompts: int) -> int:
    """Steps of about one pass over the prompts."""
    return max(1, min(MOST_STEPS, -(-prompts // BATCH_PROMPTS["grpo"])))


def data_files(project: Path) -> dict[str, str]:
    """Where `align` writes what the stages read."""
    names = ("policy", "judge", "measure", "prompts", "demonstrations")
    return {name: str(project / "data" / f"{name}.jsonl") for name in names}


def stages(
    config: PlanConfig, seen: Seen, sizes: Sizes, choice: Choice, project: Path, *, resume: bool = False
) -> tuple[Stage, ...]:
    """All stages in order."""
    made = _Maker(config, seen, sizes, choice, project, resume)
    before = (
        ("sft", config.demonstrations, made.sft, sft.train),
        ("judge", seen.layout.own_judge, made.judge, reward.train),
        ("reward", online(config), made.reward, reward.train),
    )
    first = (Stage(name=name, settings=of(), train=train) for name, wanted, of, train in before if wanted)
    return (*first, *map(made.method, config.method))


def start_of(config: PlanConfig, project: Path) -> str:
    """What the policies start from: the model, or what SFT makes of it."""
    return str(project / "sft" / "final") if config.demonstrations else config.model


@dataclass(frozen=True, slots=True)
class _Maker:
    """Settings of one project."""

    config: PlanConfig
    seen: Seen
    sizes: Sizes
    choice: Choice
    project: Path
    resume: bool

    @property
    def start(self) -> str:
        """What the policies start from."""
        return start_of(self.config, self.project)

    def run(self, stage: str) -> RunSettings:
        return RunSettings(
            out=str(self.project / stage),
            seed=self.config.seed,
            resume=self.resume,
            save_every=SAVE_EVERY,
            keep=1,
        )

    def data(self, name: str, *, heldout: float) -> Data:
        lengths = self.seen.lengths
        return Data(
            source=data_files(self.project)[name],
            heldout=heldout,
            max_prompt_tokens=lengths.max_prompt,
            max_completion_tokens=lengths.max_completion,
            overlong="drop" if name in ("demonstrations", "prompts") else "error",
        )

    @property
    def sampling(self) -> Sampling:
        return sampling_of(self.seen)

    def sft(self) -> SFTConfig:
        count = self.sizes.demonstrations
        optim = Optim(lr=rate(SUPERVISED, self.choice.lora, steps_for(count)), schedule="cosine", warmup=0.1)
        return SFTConfig(
            run=self.run("sft"),
            data=self.data("demonstrations", heldout=self.seen.layout.policy_heldout),
            model=self.config.model,
            batch_size=batch_for(count),
            optim=optim,
            lora=self.choice.lora,
            compute=self.choice.compute,
        )

    def judge(self) -> RewardConfig:
        return self._scorer(
            "judge", self.config.model, self.sizes.judge, heldout=self.seen.layout.judge_heldout
        )

    def reward(self) -> RewardConfig:
        return self._scorer(
            "reward", self.start, self.sizes.policy, heldout=self.seen.layout.policy_heldout, data="policy"
        )

    def _scorer(self, name: str, model: str, count: int, *, heldout: float, data: str = "") -> RewardConfig:
        optim = Optim(lr=rate(SCORING, self.choice.lora, steps_for(count)), schedule="linear", warmup=0.1)
        return RewardConfig(
            run=self.run(name),
            data=self.data(data or name, heldout=heldout),
            model=model,
            batch_size=batch_for(count),
            optim=optim,
            lora=self.choice.lora,
            compute=self.choice.compute,
        )

    def method(self, name: Method) -> Stage:
        if name in OFFLINE:
            return self._offline(name)
        kind = PREFERRING if name == "online_dpo" else SAMPLING
        optim = self.optim(kind, self.sizes.steps)
        common: dict[str, Any] = {
            "run": self.run(name),
            "data": self.data("prompts", heldout=0.0),
            "model": self.start,
            "reward_model": str(self.project / "reward" / "final"),
            "sampling": self.sampling,
            "steps": self.sizes.steps,
            "batch_prompts": BATCH_PROMPTS[name],
            "optim": optim,
            "lora": self.choice.lora,
            "compute": self.choice.compute,
        }
        if name == "ppo":
            critic = CriticSettings(
                optim=replace(optim, lr=rate(SCORING, self.choice.lora, self.sizes.steps))
            )
            settings = PPOConfig(**common, epochs=2, minibatches=2, kl=KL(coef=self.config.kl), critic=critic)
            return Stage(name=name, settings=settings, train=ppo.train)
        if name == "online_dpo":
            return Stage(
                name=name,
                settings=OnlineDPOConfig(**common, beta=self.config.beta),
                train=online_dpo.train,
            )
        cls = GRPOConfig if name == "grpo" else RLOOConfig
        preset = cls(**common, completions_per_prompt=GROUP)
        settings = replace(preset, kl=replace(preset.kl, coef=self.config.kl))
        return Stage(name=name, settings=settings, train=critic_free.train)

    def _offline(self, name: Method) -> Stage:
        count = self.sizes.policy
        common: dict[str, Any] = {
            "run": self.run(name),
            "data": self.data("policy", heldout=self.seen.layout.policy_heldout),
            "model": self.start,
            "batch_size": batch_for(count),
            "optim": self.optim(PREFERRING, steps_for(count)),
            "lora": self.choice.lora,
            "compute": self.choice.compute,
        }
        if name == "dpo":
            return Stage(name=name, settings=DPOConfig(**common, beta=self.config.beta), train=dpo.train)
        loss = "ipo_sum" if name == "ipo" else name
        given = (f"beta={self.config.beta}",) if name == "ipo" else ()
        return Stage(
            name=name, settings=PreferConfig(**common, loss=loss, settings=given), train=prefer.train
        )

    def optim(self, kind: Rate, steps: int) -> Optim:
        lr = self.config.lr or rate(kind, self.choice.lora, steps)
        return Optim(lr=lr, schedule="linear", warmup=0.1)


def sampling_of(seen: Seen) -> Sampling:
    """How policies write, in training and when they are measured."""
    return Sampling(max_new_tokens=seen.lengths.max_completion, temperature=TEMPERATURE, batch_size=64)
