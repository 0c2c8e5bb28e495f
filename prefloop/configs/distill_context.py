"""Settings of `prefloop distill_context`."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from prefloop.configs.common import Compute, Data, LoRA, Optim, RunSettings, Sampling, require


@dataclass(frozen=True, kw_only=True, slots=True)
class DistillContextConfig:
    """Context distillation (arXiv:2112.00861): train a policy without a context to answer as it does with it."""

    STAGE: ClassVar[str] = "distill_context"
    """The command's name."""
    run: RunSettings
    data: Data
    """Prompts. Records with completions give their prompts."""
    model: str
    """Policy to train: a hub name or a folder."""
    context: str = ""
    """What the teacher reads before each prompt: a paragraph before a text, the system message of a chat."""
    context_file: str = ""
    """File with the context instead."""
    teacher: str = ""
    """Model that reads the context; it needs the policy's tokenizer. Empty uses the starting policy. It is never trained."""
    sampled_by: Literal["teacher", "policy"] = "teacher"
    """Whose completions are learned on: the teacher's with the context, or the policy's own without it (arXiv:2306.13649)."""
    divergence: Literal["forward", "reverse"] = "forward"
    """KL(teacher ‖ policy), which covers everything the teacher says, or KL(policy ‖ teacher), which concentrates on what it says most."""
    sampling: Sampling = field(default_factory=Sampling)
    steps: int = 100
    """Rounds of sampling and learning."""
    batch_prompts: int = 32
    """Prompts per step."""
    completions_per_prompt: int = 1
    """Completions of each prompt."""
    eval_every: int = 0
    """Steps between divergences on held-out prompts; 0 computes it at the end only."""
    optim: Optim = field(default_factory=lambda: Optim(lr=1e-5, schedule="linear"))
    lora: LoRA = field(default_factory=LoRA)
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(
            bool(self.context) != bool(self.context_file),
            f"context is {self.context[:40]!r} and context_file {self.context_file!r}; give one of them",
        )
        for name in ("steps", "batch_prompts", "completions_per_prompt"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(self.eval_every >= 0, f"eval_every is {self.eval_every}; it must be 0 (at the end) or more")
        require(
            self.sampling.temperature > 0,
            "sampling.temperature is 0 (greedy), and distributions at temperature 0 cannot be matched; set it above 0",
        )
