"""What is measured. Standard library only: both sides' processes read it, in environments of their own."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """A Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int = 0
    """0: as many as heads."""
    head_size: int = 0
    """0: the heads share `hidden`."""
    ffn: int
    vocabulary: int

    @classmethod
    def of(cls, folder: Path) -> Self:
        """Of a model's folder."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return cls(
            hidden=config["hidden_size"],
            layers=config["num_hidden_layers"],
            heads=config["num_attention_heads"],
            kv_heads=config.get("num_key_value_heads") or 0,
            head_size=config.get("head_dim") or 0,
            ffn=config["intermediate_size"],
            vocabulary=config["vocab_size"],
        )

    @property
    def queries(self) -> int:
        """Numbers of a token's queries."""
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def keys(self) -> int:
        """Numbers of a token's keys, fewer than of its queries where several heads share one."""
        return self.queries * (self.kv_heads or self.heads) // self.heads

    @property
    def trunk_weights(self) -> int:
        """Weights of the layers' matrices."""
        return self.layers * self.hidden * (2 * self.queries + 2 * self.keys + 3 * self.ffn)

    @property
    def last_weights(self) -> int:
        """Weights of the last layer that only rows which are read need: all but keys' and values'."""
        return self.hidden * (2 * self.queries + 3 * self.ffn)

    @property
    def head_weights(self) -> int:
        """Weights of the output matrix; where it is the input embedding too, reading that takes no arithmetic."""
        return self.hidden * self.vocabulary

    def adapter_weights(self, rank: int) -> int:
        """Weights of adapters on all matrices of the layers."""
        return self.layers * rank * (7 * self.hidden + 2 * self.queries + 2 * self.keys + 3 * self.ffn)

    def last_adapter_weights(self, rank: int) -> int:
        """As `last_weights`, of the adapters."""
        return rank * (5 * self.hidden + 2 * self.queries + 3 * self.ffn)


SIZES = {
    "tiny": Size(hidden=128, layers=4, heads=4, ffn=344, vocabulary=4096),
    "small": Size(hidden=384, layers=6, heads=6, ffn=1024, vocabulary=16384),
}
OFFLINE = ("sft", "reward", "dpo", "kto", "orpo")
ONLINE = ("ppo", "grpo", "rloo")
STAGES = (*OFFLINE, *ONLINE, "generation")
GIVEN = "smol"
"""The size that a published model stands for."""
CASES = tuple(f"{stage}-{size}" for stage in STAGES for size in SIZES)
GIVEN_CASES = tuple(
    f"{stage}-{GIVEN}{adapter}"
    for stage in ("sft", "reward", "dpo", "ppo", "grpo", "generation")
    for adapter in ("", "-lora")
)

PAIRS = 16
"""Comparisons a step; for SFT and KTO twice as many completions."""
STEPS = 20
"""Comparisons kept are so many steps': more than any run's steps read."""
MAX_TOKENS = 256
"""Prompt and completion together; longer records are left out beforehand, so that neither side truncates."""
BETA = 0.1
LEARNING_RATE = 1e-5
ROLLOUTS, GROUP, PROMPT_TOKENS, NEW_TOKENS = 32, 8, 64, 64
"""Of an online round: completions, completions of a prompt where there is a group, tokens at most of a prompt and of a completion."""
GROUP_UPDATES = 4
"""GRPO and RLOO: one pass over the round's completions in so many updates."""
PPO_EPOCHS, PPO_MINIBATCHES = 4, 2
ADAPTER_RANK = 16
GENERATION_PROMPT = 32
"""Tokens of a prompt where generation alone is measured; there are ROLLOUTS prompts with NEW_TOKENS new tokens each."""
SEED = 0
FILES = {"sft": "demonstrations", "kto": "labels", **dict.fromkeys(ONLINE, "prompts")}
"""Which file of the material a stage reads, where it is not `comparisons`."""
CHAT = "chat"
"""Folder inside the material with the same rows as messages, where the model has a chat template."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """Where and on how many tokens a worker of either side works, told to it in its environment. The defaults are those of the comparison on a processor."""

    device: str = "cpu"
    bf16: bool = False
    """Weights and products in bfloat16; otherwise float32."""
    lora: int = 0
    """Rank of the adapters that are trained; 0 trains all weights."""
    pairs: int = PAIRS
    steps: int = STEPS
    ppo_epochs: int = PPO_EPOCHS
    max_tokens: int = MAX_TOKENS
    rollouts: int = ROLLOUTS
    prompt_tokens: int = PROMPT_TOKENS
    new_tokens: int = NEW_TOKENS

    def batch_size(self, stage: str) -> int:
        """Records of a training step."""
        return 2 * self.pairs if stage in ("sft", "kto") else self.pairs

    def environment(self) -> dict[str, str]:
        """What to add to a worker's environment."""
        return {"CONDITIONS": json.dumps(asdict(self))}

    @classmethod
    def told(cls) -> Self:
        """Those of this process."""
        return cls(**json.loads(os.environ.get("CONDITIONS", "{}")))


USUAL = Conditions()


def conditions_of(case: str) -> Conditions:
    """How much a case does in a step. A published model takes fewer records, as it takes hundreds of times as long for one."""
    stage, size, *adapter = case.split("-")
    if size != GIVEN:
        return USUAL
    return Conditions(
        lora=ADAPTER_RANK if adapter else 0,
        pairs=4,
        steps=16,
        rollouts=16 if stage == "ppo" else ROLLOUTS,
        prompt_tokens=96,
        ppo_epochs=2,
    )


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
        rank: int = 0,
    ) -> float:
        """Of so many passes forward and backward, and so many forward only; 2 a weight and token forward, twice that backward.

        Under adapters of a rank above 0 the weights are frozen, and backward only what goes through them counts: as much as forward. Adapters count
        where they are trained.

        `read` is what comes out: log-probabilities, a value for each token, or a score for each completion.
        """
        rows = self.completions if read == "scores" else self.head_tokens
        unread = self.tokens - rows
        head = size.head_weights * self.head_tokens if read == "tokens" else 0
        weights = size.trunk_weights * self.tokens - size.last_weights * unread + head
        adapters = size.adapter_weights(rank) * self.tokens - size.last_adapter_weights(rank) * unread
        attention = 2 * size.layers * size.queries * self.squares
        frozen = weights if rank else 0
        return 2.0 * ((weights + attention) * (3 * trained + scored) + (3 * adapters - frozen) * trained)


def flops(stage: str, work: Work, size: Size, conditions: Conditions = USUAL) -> float:
    """Least floating-point operations of a step or round, a reference's pass among them; KTO's KL takes as many mismatched completions again."""
    rank, epochs = conditions.lora, conditions.ppo_epochs
    if stage == "generation":
        return work.flops(size, scored=1)
    if stage == "reward":
        return work.flops(size, trained=1, read="scores", rank=rank)
    if stage in ("sft", "orpo"):
        return work.flops(size, trained=1, rank=rank)
    if stage == "dpo":
        return work.flops(size, trained=1, scored=1, rank=rank)
    if stage == "kto":
        return work.flops(size, trained=1, scored=1, rank=rank) + work.beside().flops(size, scored=1)
    score = work.flops(size, scored=1, read="scores")
    if stage == "ppo":
        policy = work.flops(size, trained=epochs, scored=3, rank=rank)
        return policy + work.flops(size, trained=epochs, scored=1, read="values", rank=rank) + score
    return work.flops(size, trained=1, scored=1, rank=rank) + score
