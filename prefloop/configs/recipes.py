"""Settings of `prefloop run`: one dataclass a recipe. A recipe's stages leave their own settings in the project folder, to change and run again."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, require


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopSettings:
    """What every recipe has."""

    out: str
    """Project folder: data, store, a folder for each stage, summary.json and report.html."""
    seed: int = 0
    """Everything random derives from it."""
    resume: bool = False
    """Continue the project: finished stages are kept, an unfinished one continues from its last checkpoint."""
    flip: float = 0.1
    """Share of simulated judgements that are flipped."""
    annotator: Literal["simulated", "studio"] = "simulated"
    """Who compares: a simulated annotator, or people in the studio (the recipe waits for them)."""
    labels: int = 50
    """Number of people's comparisons to wait for, with `annotator studio`."""
    eval_prompts: int = 400
    """Number of held-out prompts that the policies are compared on."""
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name the project folder, for example --out runs/toy")
        require(0 <= self.flip < 0.5, f"flip is {self.flip}; it must be at least 0 and below 0.5")
        require(self.labels >= 4, f"labels is {self.labels}; 4 or more are needed, some of them held out")
        require(self.eval_prompts >= 2, f"eval_prompts is {self.eval_prompts}; an interval needs 2 or more")


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyConfig(LoopSettings):
    """The whole loop in minutes, with nothing to download: a small world of readable English whose gold preference is a formula."""

    texts: int = 22_000
    """Documents the language model is trained on."""
    demonstrations: int = 4_000
    """Questions with a good, middling or bad answer, for SFT."""
    prompts: int = 4_000
    """Questions for sampling, PPO and evaluation."""
    pairs: int = 4_000
    """Maximum number of comparisons."""


GROUP = 4
"""Completions of each prompt in GRPO."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IMDBConfig(LoopSettings):
    """Positive film reviews: real text, and a gold judge fitted on the stars that people gave."""

    data: str
    """Folder or file with the reviews: columns text and rating (1 to 10), for example the parquet of the Large Movie Review Dataset."""
    model: str = ""
    """A causal language model to start from instead of training one: a hub name or a folder. From 50 million weights on, adapters are trained."""
    demonstrations: int = 0
    """Reviews for SFT, at most; 0 uses all."""
    prompt_words: int = 8
    """Words of a review's beginning that make a prompt."""
    completion_tokens: int = 48
    """Tokens the policies write."""
    prompts: int = 4_000
    """Review openings for sampling, PPO and evaluation."""
    pairs: int = 8_000
    """Maximum number of comparisons."""
    steps: int = 40
    """Steps of PPO, and of GRPO."""
    batch_completions: int = 128
    """Completions in each of these steps."""
    grpo: bool = False
    """Train with GRPO too, on groups of four completions."""
    best_of: int = 16
    """Completions of each prompt for the curve of best-of-n; 0 leaves it out."""

    def __post_init__(self) -> None:
        LoopSettings.__post_init__(self)
        for name, least in (
            ("demonstrations", 0),
            ("steps", 1),
            ("batch_completions", GROUP),
            ("best_of", 0),
        ):
            value = getattr(self, name)
            require(value >= least, f"{name} is {value}; it must be {least} or more")
        require(
            self.batch_completions % GROUP == 0,
            f"batch_completions is {self.batch_completions}; GRPO's groups have {GROUP} completions each, so give a multiple of {GROUP}",
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class RoundsConfig(ToyConfig):
    """Several rounds of the loop, each with new samples, new comparisons, a new reward model and a new policy.

    On the toy world, or from a model and prompts that are given.
    """

    prompts: int = 2_000
    """Questions of the toy world for sampling and evaluation."""
    pairs: int = 1_000
    """Maximum number of comparisons per round."""
    rounds: int = 3
    """Number of rounds."""
    policy: Literal["dpo", "ppo"] = "dpo"
    """How each round's policy is trained, from the previous round's policy."""
    model: str = ""
    """Policy to start from instead of training one: a hub name or a folder."""
    data: str = ""
    """File of prompts, if a model is given."""
    utility: str = ""
    """True preference, if a model is given: the folder of a fitted judge, or `module:function` of (prompt, completion). Empty for none."""
    judge: str = ""
    """Who compares instead of the simulated annotator: a file with an AI judge's settings, or `self` for each round's policy (arXiv:2401.10020)."""
    completions_per_prompt: int = 2
    """Samples of each prompt per round; `judge self` compares the best with the worst."""
    completion_tokens: int = 48
    """Tokens the policies write."""
    lr: float = 0.0
    """Peak learning rate of the policies; 0 uses 2e-4 for DPO and 3e-4 for PPO on the toy world, and 5e-7 if a model is given."""

    def __post_init__(self) -> None:
        LoopSettings.__post_init__(self)
        require(self.rounds >= 1, f"rounds is {self.rounds}; it must be 1 or more")
        require(
            bool(self.model) == bool(self.data),
            f"model is {self.model!r} and data {self.data!r}; give both, or neither for the toy world",
        )
        require(
            bool(self.model) or not self.utility,
            f"utility is {self.utility!r}, but the toy world has its own; give model and data, or leave it out",
        )
        require(
            not self.judge or self.annotator == "simulated",
            f"annotator is {self.annotator} and judge {self.judge!r}; give one of them",
        )
        require(
            bool(self.judge or self.utility or not self.model) or self.annotator == "studio",
            "nobody compares: give utility for a simulated annotator, judge, or annotator studio",
        )
        require(
            self.judge != "self" or bool(self.model),
            "judge is self, but the toy world's model cannot judge; give model and data",
        )
        require(
            self.completions_per_prompt >= 2,
            f"completions_per_prompt is {self.completions_per_prompt}; a comparison needs 2 or more",
        )
        require(self.lr >= 0, f"lr is {self.lr}; it must be 0 (the recipe's) or more")
