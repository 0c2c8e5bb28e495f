"""What is measured. Standard library only: both sides' processes read it, in environments of their own."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A Llama with random weights and an untied head."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int = 0
    """0: as many as heads."""
    ffn: int
    vocabulary: int

    @property
    def trunk_weights(self) -> int:
        """Weights of the layers' matrices."""
        keys = self.hidden * (self.kv_heads or self.heads) // self.heads
        return self.layers * self.hidden * (2 * self.hidden + 2 * keys + 3 * self.ffn)

    @property
    def last_weights(self) -> int:
        """Weights of the last layer that only rows which are read need: all but keys' and values'."""
        return 2 * self.hidden**2 + 3 * self.hidden * self.ffn

    @property
    def head_weights(self) -> int:
        """Weights of the output matrix."""
        return self.hidden * self.vocabulary


SIZES = {
    "tiny": Size(hidden=128, layers=4, heads=4, ffn=344, vocabulary=4096),
    "small": Size(hidden=384, layers=6, heads=6, ffn=1024, vocabulary=16384),
}
OFFLINE = ("sft", "reward", "dpo", "kto", "orpo")
ONLINE = ("ppo", "grpo", "rloo")
STAGES = (*OFFLINE, *ONLINE, "generation")
CASES = tuple(f"{stage}-{size}" for stage in STAGES for size in ("tiny", "small"))

PAIRS = 16
"""Comparisons a step; for SFT and KTO twice as many completions."""
RECORDS = 20 * PAIRS
"""Comparisons kept: more than any run's steps read."""
MAX_TOKENS = 256
"""Prompt and completion together; longer records are left out beforehand, so that neither side truncates."""
BETA = 0.1
LEARNING_RATE = 1e-5
ROLLOUTS, GROUP, PROMPT_TOKENS, NEW_TOKENS = 32, 8, 64, 64
"""Of an online round: completions, completions of a prompt where there is a group, tokens at most of a prompt and of a completion."""
GROUP_UPDATES = 4
"""GRPO and RLOO: one pass over the round's completions in so many updates."""
PPO_EPOCHS, PPO_MINIBATCHES = 4, 2
GENERATION_PROMPT = 32
"""Tokens of a prompt where generation alone is measured; there are ROLLOUTS prompts with NEW_TOKENS new tokens each."""
SEED = 0
FILES = {"sft": "demonstrations", "kto": "labels", **dict.fromkeys(ONLINE, "prompts")}
"""Which file of the material a stage reads, where it is not `comparisons`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """Where and on how many tokens a worker of either side works, told to it in its environment. The defaults are those of the comparison on a processor."""

    device: str = "cpu"
    bf16: bool = False
    """Weights and products in bfloat16; otherwise float32."""
    max_tokens: int = MAX_TOKENS
    rollouts: int = ROLLOUTS
    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = NEW_TOKENS

    def environment(self) -> dict[str, str]:
        """What to add to a worker's environment."""
        return {"CONDITIONS": json.dumps(asdict(self))}

    @classmethod
    def told(cls) -> Self:
        """Those of this process."""
        return cls(**json.loads(os.environ.get("CONDITIONS", "{}")))


def batch_size(stage: str) -> int:
    """Records of a training step."""
    return 2 * PAIRS if stage in ("sft", "kto") else PAIRS


@dataclass(frozen=True, kw_only=True, slots=True)
class Work:
    """The least that one pass over a batch takes: no padding, a prompt once, the last layer's queries, output projection and MLP and the head
    only for rows that are read."""

    tokens: int
    head_tokens: int
    """Predicted tokens."""
    completions: int
    squares: float
    """Pairs of positions that attend: half the sum of squared lengths."""
    prompt_squares: float
    """Of these, inside prompts."""

    @classmethod
    def of(cls, groups: int, prompt: int, completions: Sequence[int]) -> Self:
        """Groups of a prompt and its completions, in tokens; each completion attends to the prompt and to what it has itself."""
        within = prompt**2 / 2
        return cls(
            tokens=groups * (prompt + sum(completions)),
            head_tokens=groups * sum(completions),
            completions=groups * len(completions),
            squares=groups * (within + sum(prompt * each + each**2 / 2 for each in completions)),
            prompt_squares=groups * within,
        )

    def beside(self) -> Self:
        """With as many completions again to the same prompts."""
        return replace(
            self,
            tokens=self.tokens + self.head_tokens,
            head_tokens=2 * self.head_tokens,
            completions=2 * self.completions,
            squares=2 * self.squares - self.prompt_squares,
        )

    def flops(
        self,
        size: Size,
        *,
        trained: int = 0,
        scored: int = 0,
        read: Literal["tokens", "values", "scores"] = "tokens",
    ) -> float:
        """Of so many passes forward and backward, and so many forward only; 2 a weight and token forward, twice that backward.

        `read` is what comes out: log-probabilities, a value for each token, or a score for each completion.
        """
        rows = self.completions if read == "scores" else self.head_tokens
        head = size.head_weights * self.head_tokens if read == "tokens" else 0
        trunk = size.trunk_weights * self.tokens - size.last_weights * (self.tokens - rows)
        once = trunk + head + 2 * size.layers * size.hidden * self.squares
        return 2.0 * once * (3 * trained + scored)


def flops(stage: str, work: Work, size: Size) -> float:
    """Least floating-point operations of a step or round, a reference's pass among them; KTO's KL takes as many mismatched completions again."""
    if stage == "generation":
        return work.flops(size, scored=1)
    if stage == "reward":
        return work.flops(size, trained=1, read="scores")
    if stage in ("sft", "orpo"):
        return work.flops(size, trained=1)
    if stage == "dpo":
        return work.flops(size, trained=1, scored=1)
    if stage == "kto":
        return work.flops(size, trained=1, scored=1) + work.beside().flops(size, scored=1)
    score = work.flops(size, scored=1, read="scores")
    if stage == "ppo":
        policy = work.flops(size, trained=PPO_EPOCHS, scored=3)
        return policy + work.flops(size, trained=PPO_EPOCHS, scored=1, read="values") + score
    return work.flops(size, trained=1, scored=1) + score
