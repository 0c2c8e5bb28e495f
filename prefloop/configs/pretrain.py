"""Settings of `prefloop pretrain`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Data, Optim, RunSettings, require, require_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class Architecture:
    """A Llama-shaped causal language model."""

    hidden_size: int = 128
    """Width of the residual stream."""
    layers: int = 4
    """Blocks."""
    heads: int = 4
    """Attention heads; the width must divide by them."""
    ffn_size: int = 344
    """Width inside the feed-forward layer."""
    vocab_size: int = 4096
    """Maximum vocabulary; smaller if the texts do not give as many tokens."""
    max_positions: int = 1024
    """Longest sequence."""
    tie_embeddings: bool = True
    """One matrix for input embeddings and output head."""

    def __post_init__(self) -> None:
        for name in ("hidden_size", "layers", "heads", "ffn_size", "max_positions"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        require(
            self.hidden_size % self.heads == 0 and (self.hidden_size // self.heads) % 2 == 0,
            f"hidden_size is {self.hidden_size} with {self.heads} heads; each head needs an even, whole width",
        )
        require(
            self.vocab_size >= 300, f"vocab_size is {self.vocab_size}; byte-level tokens need 300 or more"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainConfig:
    """Train a byte-level BPE tokenizer and a causal language model from scratch, or continue from a model."""

    run: RunSettings
    data: Data
    model: str = ""
    """A hub name or folder to continue from; empty starts from nothing."""
    architecture: Architecture = field(default_factory=Architecture)
    block_tokens: int = 256
    """Documents are joined by the end token and cut into blocks of this length."""
    batch_blocks: int = 32
    """Blocks per step."""
    epochs: float = 1.0
    """Passes over the text."""
    max_steps: int = 0
    """Stop after this many steps; 0 runs all epochs. The learning rate falls to zero at the last step either way."""
    eval_every: int = 200
    """Steps between perplexities on held-out documents; 0 computes it at the end only."""
    optim: Optim = field(
        default_factory=lambda: Optim(lr=1e-3, schedule="cosine", warmup=0.05, weight_decay=0.1)
    )
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require_whole(self.compute, "pretraining moves all weights")
        require(self.block_tokens >= 2, f"block_tokens is {self.block_tokens}; it must be 2 or more")
        require(self.batch_blocks >= 1, f"batch_blocks is {self.batch_blocks}; it must be 1 or more")
        require(
            self.epochs > 0 or self.max_steps > 0,
            f"epochs is {self.epochs}; give epochs or max_steps, above 0",
        )
        require(
            bool(self.model) or self.block_tokens <= self.architecture.max_positions,
            f"block_tokens is {self.block_tokens}, above architecture.max_positions = {self.architecture.max_positions}",
        )
