"""Settings of `prefloop chat`."""

from dataclasses import dataclass, field

from prefloop.configs.common import Compute, Sampling, require


@dataclass(frozen=True, kw_only=True, slots=True)
class ChatConfig:
    """Talk to a model in the terminal: a chat if its tokenizer has a chat template; otherwise the model continues your text."""

    model: str
    """Policy: a hub name or a folder."""
    system: str = ""
    """A system message that every chat begins with."""
    seed: int = 0
    """The same seed and the same words get the same answers."""
    sampling: Sampling = field(default_factory=lambda: Sampling(max_new_tokens=256))
    compute: Compute = field(default_factory=Compute)

    def __post_init__(self) -> None:
        require(bool(self.model), "model is empty; give a hub name or a folder")
