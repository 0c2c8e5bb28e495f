"""Settings of `prefloop eval`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Data, Sampling, require
from prefloop.configs.scorers import Combining


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalConfig:
    """Measure policies on the same held-out prompts, and a reward model on held-out comparisons; every number has its interval."""

    out: str
    """Project folder to write summary.json and evaluation.json into, which `prefloop report` reads."""
    data: Data
    """Prompts. Records with completions give theirs. Comparisons are read with the same limits and split by the same `heldout`."""
    policies: tuple[str, ...] = ()
    """Policies as name=folder; the others are compared with the first, which is usually SFT. A run's folder `checkpoints` is all of them, as NAME-STEP."""
    reward_model: str = ""
    """Scores the policies' completions; with `comparisons` it is measured itself. Several with commas, a log-ratio POLICY@REFERENCE and
    `module:function` are scorers too."""
    reward: Combining = field(default_factory=Combining)
    comparisons: str = ""
    """Comparisons to measure the reward model on: a file, a data set, or `store`."""
    gold: str = ""
    """Gold judge: `toy`, the folder of a fitted judge (`judge` in the project of `run imdb`), a verifier such as `exact:answer`, or `module:function` of (prompt, completion). Win rates need one."""
    metrics: tuple[str, ...] = ()
    """Of the policies' completions: bleu, rouge1, rouge2, rougeL, rougeLsum against the completions of the data's records, or your own as
    `file.py:function` of (prompts, completions, references), which returns a number for each."""
    part: Literal["auto", "heldout", "train", "all"] = "auto"
    """Which prompts and comparisons, by the hash of the prompt. auto takes the held-out ones of a source that a model, or one that it was made
    from, was trained on, and everything of a source that none of them has seen; it says which and why."""
    completions_per_prompt: int = 1
    """Completions of each prompt."""
    store: str = ""
    """The project's store: a file or a database URL; empty uses prefloop.db in the project folder."""
    seed: int = 0
    """Everything random derives from it."""
    sampling: Sampling = field(default_factory=Sampling)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name the project folder, for example --out runs/first")
        require(
            bool(self.policies) or bool(self.reward_model and self.comparisons),
            "there is nothing to measure; give policies as name=folder, or reward_model and comparisons",
        )
        require(
            not self.comparisons or bool(self.reward_model),
            f"comparisons is {self.comparisons!r} without reward_model; name the reward model to measure on them",
        )
        require(
            bool(self.reward_model) or self.reward == Combining(),
            "reward says how scores of reward_model are combined, but none is named; name one, or leave it out",
        )
        for name, usual in (("sampling", Sampling()), ("completions_per_prompt", 1), ("metrics", ())):
            require(
                bool(self.policies) or getattr(self, name) == usual,
                f"{name} is set, but policies is empty, so nothing is sampled or measured; name policies, or leave it out",
            )
        require(
            bool(self.policies) or not self.data.source or self.data.source == self.comparisons,
            f"data.source is {self.data.source!r}, but policies is empty, so no prompts are read; the reward model is measured on comparisons. "
            "Leave data.source out",
        )
        require(
            bool(self.comparisons) or self.data.max_completion_tokens == Data().max_completion_tokens,
            f"data.max_completion_tokens is {self.data.max_completion_tokens}, but no comparisons are read; sampling.max_new_tokens limits what policies write",
        )
        require(
            self.completions_per_prompt >= 1,
            f"completions_per_prompt is {self.completions_per_prompt}; it must be 1 or more",
        )
