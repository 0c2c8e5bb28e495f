"""Q and value heads on a language model's hidden states, for implicit language Q-learning (arXiv:2206.11871).

Every head is a layer of twice the width, a rectifier, and a linear layer: to the vocabulary for Q, to one number for V. The last layers begin at
zero, so nothing is worth more than anything else. As with the language-model head, `[tokens, vocabulary]` exists a chunk at a time only.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from prefloop.configs.adapters import read_object
from prefloop.errors import InputError
from prefloop.models.gathering import save_tensors, tell_pass
from prefloop.models.head import CHUNK_ELEMENTS
from prefloop.models.weights import read_tensors
from prefloop.runtime.dealt import here

FOLDER = "ilql"
"""Where the heads stand in a checkpoint, beside the policy."""
_WEIGHTS, _CONFIG = "heads.safetensors", "config.json"


class QHead(nn.Module):
    """Two layers; float32 whatever the model is in."""

    def __init__(self, width: int, outputs: int, *, generator: torch.Generator) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 2 * width, dtype=torch.float32)
        self.outer = nn.Linear(2 * width, outputs, dtype=torch.float32)
        with torch.no_grad():
            self.inner.weight.copy_(
                torch.randn(self.inner.weight.shape, generator=generator) * (2 / width) ** 0.5
            )
            for part in (self.inner.bias, self.outer.weight, self.outer.bias):
                part.zero_()

    def features(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n e"]:
        """What the last layer reads."""
        return self.inner(hidden.float()).relu()

    def forward(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n o"]:
        """All outputs."""
        return self.outer(self.features(hidden))

    def at(self, hidden: Float[Tensor, "M d"], actions: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """One output a row, without computing the others."""
        rows = self.outer.weight.index_select(0, actions)
        return (self.features(hidden) * rows).sum(-1) + self.outer.bias.index_select(0, actions)


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """What Q and V heads say of states and of the actions taken there."""

    values: Float[Tensor, " M"]
    q: tuple[Float[Tensor, " M"], Float[Tensor, " M"]]
    """Q(s, a) by both heads."""
    surprise: Float[Tensor, " M"]
    """-log softmax(Q)[a], summed over both heads."""
    target_q: Float[Tensor, " M"]
    """The smaller of both target heads' Q(s, a)."""


class QHeads(nn.Module):
    """Twin Q heads, their slowly moving copies, and a V head."""

    def __init__(self, width: int, vocabulary: int, *, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.width, self.vocabulary = width, vocabulary
        self.q = nn.ModuleList(QHead(width, vocabulary, generator=generator) for _ in range(2))
        self.value = QHead(width, 1, generator=generator)
        self.target = nn.ModuleList(QHead(width, vocabulary, generator=generator) for _ in range(2))
        self.target.load_state_dict(self.q.state_dict())
        self.target.requires_grad_(False)

    def read(self, hidden: Float[Tensor, "M d"], actions: Int[Tensor, " M"]) -> "Readings":
        """What the heads say of each state and of the action taken there; if they are sharded, all processes read together."""
        tell_pass(self)
        values, one, two, surprise, target_q = self(hidden, actions)
        return Readings(values=values, q=(one, two), surprise=surprise, target_q=target_q)

    def forward(self, hidden: Float[Tensor, "M d"], actions: Int[Tensor, " M"]) -> list[Float[Tensor, " M"]]:
        """What `read` gives, as a list: FSDP2 finds tensors in nothing else."""
        (one, surprise_one), (two, surprise_two) = self.chosen(hidden, actions)
        surprise = surprise_one + surprise_two
        return [self.values(hidden), one, two, surprise, self.target_chosen(hidden, actions)]

    def values(self, hidden: Float[Tensor, "M d"]) -> Float[Tensor, " M"]:
        """V of each state."""
        return self.value(hidden).squeeze(-1)

    def chosen(
        self, hidden: Float[Tensor, "M d"], actions: Int[Tensor, " M"]
    ) -> list[tuple[Float[Tensor, " M"], Float[Tensor, " M"]]]:
        """Of each Q head: Q(s, a) of the action taken, and -log softmax(Q)[a], which conservative Q-learning lowers.

        A chunk's `[rows, vocabulary]` is computed again in the backward pass instead of being kept.
        """
        return [_in_chunks(head, hidden, actions, self.vocabulary) for head in self.q]  # pyright: ignore[reportArgumentType]

    @torch.no_grad()
    def target_chosen(self, hidden: Float[Tensor, "M d"], actions: Int[Tensor, " M"]) -> Float[Tensor, " M"]:
        """The smaller of both target heads' Q(s, a)."""
        first, second = (head.at(hidden, actions) for head in self.target)  # pyright: ignore[reportCallIssue]
        return torch.minimum(first, second)

    @torch.no_grad()
    def advantages(self, hidden: Float[Tensor, "*n d"]) -> Float[Tensor, "*n V"]:
        """min Q - V of every token, by the target heads; for decoding, a row a completion."""
        first, second = (head(hidden) for head in self.target)
        return torch.minimum(first, second) - self.value(hidden)

    @torch.no_grad()
    def follow(self, share: float) -> None:
        """target <- target + share (Q - target)."""
        for target, source in zip(self.target.parameters(), self.q.parameters(), strict=True):
            here(target).lerp_(here(source), share)

    def save(self, folder: Path) -> None:
        """Weights as safetensors, and their sizes; `load_q_heads` reads them. Collective if they are sharded: all processes call it."""
        folder.mkdir(parents=True, exist_ok=True)
        save_tensors(self, folder / _WEIGHTS)
        sizes = {"width": self.width, "vocabulary": self.vocabulary}
        (folder / _CONFIG).write_text(json.dumps(sizes, indent=2) + "\n", encoding="utf-8")


def _in_chunks(
    head: QHead, hidden: Tensor, actions: Tensor, vocabulary: int
) -> tuple[Float[Tensor, " M"], Float[Tensor, " M"]]:
    rows = max(1, CHUNK_ELEMENTS // vocabulary)
    taken: list[Tensor] = []
    for some, chosen in zip(hidden.split(rows), actions.split(rows), strict=True):
        taken.append(checkpoint(_chosen, head, some, chosen, use_reentrant=False))  # pyright: ignore[reportArgumentType]
    q, surprise = torch.cat(taken, dim=1).unbind(0)
    return q, surprise


def _chosen(head: QHead, hidden: Tensor, actions: Tensor) -> Float[Tensor, "2 m"]:
    everything = head(hidden)
    q = everything.gather(1, actions[:, None]).squeeze(1)
    return torch.stack([q, everything.logsumexp(-1) - q])


def load_q_heads(checkpoint_folder: Path, device: torch.device) -> QHeads:
    """The heads that `prefloop ilql` left beside a policy. Raises `InputError` if there are none."""
    folder = checkpoint_folder / FOLDER
    if not (folder / _WEIGHTS).exists():
        raise InputError(
            f"{checkpoint_folder} has no Q heads ({FOLDER}/{_WEIGHTS}); name the folder of a policy trained by `prefloop ilql`, or set ilql_beta to 0"
        )
    sizes = read_object(folder / _CONFIG)
    try:
        heads = QHeads(int(sizes["width"]), int(sizes["vocabulary"]), seed=0)
        heads.load_state_dict(read_tensors(folder / _WEIGHTS))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, InputError):
            raise
        lines = str(error).strip().splitlines()
        raise InputError(
            f"{folder / _CONFIG} and {_WEIGHTS} do not fit together ({lines[-1].strip() if lines else error}); restore both"
        ) from error
    return heads.to(device)
