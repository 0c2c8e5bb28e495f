"""Settings of `prefloop best_of_n`."""

from dataclasses import dataclass, field
from typing import Literal

from prefloop.configs.common import Compute, Data, Sampling, require
from prefloop.configs.scorers import Combining


@dataclass(frozen=True, kw_only=True, slots=True)
class BestOfNConfig:
    """Draw n completions of each prompt and use the one that scores highest."""

    model: str
    """Policy: a hub name or a folder."""
    data: Data
    """Prompts. Records with completions give their prompts."""
    reward_model: str
    """A reward model's folder or hub name, `module:function` for a Python function of (prompts, completions), a verifier such as `exact:answer`, or
    POLICY@REFERENCE; several with commas."""
    out: str
    """Folder for demonstrations.jsonl (the best of each prompt), comparisons.jsonl (best and worst) and best_of_n.json (the curve)."""
    completions_per_prompt: int = 16
    """n: completions of each prompt."""
    gold: str = ""
    """Gold judge, as in `prefloop eval`: the curve then shows the true gain."""
    part: Literal["train", "heldout", "all"] = "all"
    """Which prompts, by hash."""
    seed: int = 0
    """Everything random derives from it."""
    reward: Combining = field(default_factory=Combining)
    sampling: Sampling = field(default_factory=Sampling)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.out), "out is empty; name a folder, for example --out runs/first/best")
        require(
            self.completions_per_prompt >= 2,
            f"completions_per_prompt is {self.completions_per_prompt}; the best of one is no choice, so set it to 2 or more",
        )
        require(
            self.sampling.temperature > 0,
            "sampling.temperature is 0 (greedy), so all completions of a prompt are the same; set it above 0",
        )
