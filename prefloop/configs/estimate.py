"""Settings of `prefloop estimate`."""

from dataclasses import dataclass
from typing import Literal

from prefloop.configs.common import require

Card = Literal["A100", "H100", "H200", "B200", "L40S", "RTX4090"]


@dataclass(frozen=True, kw_only=True, slots=True)
class EstimateConfig:
    """Say what a training needs on GPUs before they are paid for: memory, time and traffic of a step. Nothing is loaded or run."""

    nodes: int = 1
    """Machines."""
    gpus: int = 8
    """GPUs of each machine."""
    card: Card = "H100"
    """The GPU; A100 is the one with 80 GB."""
    engine_gpus: int = 0
    """GPUs of an inference engine: of a machine of its own if there are several, else of this one."""
    prompt_tokens: float = 256.0
    """Tokens of a prompt, on average."""
    completion_tokens: float = 0.0
    """Tokens of a completion, on average; 0 is sampling.max_new_tokens where the policy samples, else 512."""
    mfu: float = 0.4
    """Share of the GPU's arithmetic that training reaches (model FLOPs utilisation)."""
    network: float = 50.0
    """Gigabytes a second between machines, in each direction, for each GPU; 50 is 400 Gbit/s."""
    command: tuple[str, ...] = ()
    """After `--`: a training command with its settings."""

    def __post_init__(self) -> None:
        require(
            bool(self.command),
            "command is empty; end the line with -- and a training command, such as -- dpo",
        )
        for name in ("nodes", "gpus"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("prompt_tokens", "network"):
            require(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0")
        require(
            self.completion_tokens >= 0,
            f"completion_tokens is {self.completion_tokens}; it must be 0 (chosen) or more",
        )
        require(0 < self.mfu <= 1, f"mfu is {self.mfu}; it must be a share, above 0")
        require_engine_gpus(self.engine_gpus, nodes=self.nodes, gpus=self.gpus)


def require_engine_gpus(engine_gpus: int, *, nodes: int, gpus: int) -> None:
    """Raise `InputError` for more GPUs than an engine can have: with several nodes it has the first, with one some must be left."""
    most = gpus if nodes > 1 else gpus - 1
    require(
        0 <= engine_gpus <= most,
        f"engine_gpus is {engine_gpus}; with nodes {nodes} and gpus {gpus} it must be between 0 and {most}",
    )
