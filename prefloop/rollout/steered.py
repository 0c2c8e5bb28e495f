"""Drawing from logits that more than one model, or more than its head, has a say in. To the sampler each of these is one causal model.

`joined` runs two models side by side and combines their next-token logits: a geometric mixture, or one model's choice masked by the other's.
`perturbed` adds what Q and value heads think of each token to a model's own logits.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache

from prefloop.models.gathering import whole
from prefloop.models.q_heads import QHeads
from prefloop.models.roles import Policy, adapter
from prefloop.models.trunk import trunk_of
from prefloop.rollout.draw import support
from prefloop.rollout.encoded import CombinedDecoder, EncodedDecoder
from prefloop.rollout.sampler import sampling_mode

_BEHIND = 1 << 20
"""Added to the layer numbers of the second of two joined models, which share one cache."""

Combine = Callable[[Float[Tensor, "n V"], Float[Tensor, "n V"]], Float[Tensor, "n V"]]


class Drawer(Protocol):
    """What completions can be drawn from: a policy, or a policy that something steers."""

    def active(self) -> AbstractContextManager[nn.Module]:
        """A causal language model, for the sampler."""
        ...


class _Behind(Cache):
    """The same cache, for the layers of a second model."""

    def __init__(self, cache: Cache) -> None:
        super().__init__(layers=[])
        self._cache = cache

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        return self._cache.update(key_states, value_states, layer_idx + _BEHIND, *args, **kwargs)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._cache.get_seq_length(layer_idx)


class _Joined(nn.Module):
    """Two causal models that read the same tokens; the logits are combined."""

    def __init__(self, first: Policy, second: Policy, combine: Combine) -> None:
        super().__init__()
        self.first, self.second = first, second
        self._combine = combine
        one, two = first.model, second.model
        same = type(one) is type(two)
        # One mask serves both, so that a cache may only be shared by models that want the same.
        self._supports_attention_backend = (
            same and one._supports_attention_backend and two._supports_attention_backend
        )
        self._supports_sdpa = getattr(one, "_supports_sdpa", False)
        self._is_stateful = any(getattr(model, "_is_stateful", False) for model in (one, two))
        self.leader = one

    @property
    def config(self) -> PreTrainedConfig:
        return self.first.model.config

    def encoded_decoder(self, *, slots: int, columns: int, longest: int) -> CombinedDecoder:
        """See `Several`."""
        parts = [
            (
                EncodedDecoder(role.model, slots=slots, columns=columns, longest=longest),
                partial(adapter, role.model, role.adapter_name),
            )
            for role in (self.first, self.second)
        ]
        return CombinedDecoder(parts, self._combine)

    def forward(self, *, past_key_values: Cache | None = None, **inputs: Any) -> SimpleNamespace:
        with adapter(self.first.model, self.first.adapter_name):
            one = self.first.model(past_key_values=past_key_values, **inputs).logits
        behind = None if past_key_values is None else _Behind(past_key_values)
        with adapter(self.second.model, self.second.adapter_name):
            two = self.second.model(past_key_values=behind, **inputs).logits
        shape = one.shape
        combined = self._combine(one.flatten(0, -2).float(), two.flatten(0, -2).float())
        return SimpleNamespace(logits=combined.view(shape))


@dataclass(frozen=True, kw_only=True, slots=True)
class Joined:
    """A policy and another of the same vocabulary, whose logits are combined at every token."""

    first: Policy
    second: Policy
    combine: Combine

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """See `Drawer`."""
        with whole(self.first.model), whole(self.second.model), sampling_mode(self.second.model):
            yield _Joined(self.first, self.second, self.combine)


def geometric_mixture(policy: Policy, other: Policy, *, share: float) -> Joined:
    """Draws each token from π^(1 - share) π_other^share, normalised (section 5 of arXiv:2312.00886): the logits are mixed.

    The mixture is of next-token distributions; of whole completions it has no tractable form.
    """

    def combine(one: Tensor, two: Tensor) -> Tensor:
        return torch.lerp(one, two, share)

    return Joined(first=policy, second=other, combine=combine)


def masked_by(policy: Policy, masking: Policy, *, top_p: float, least: int, temperature: float) -> Joined:
    """Draws each token from the policy among those of the masking policy's top-p set, at least `least` of them."""

    def combine(one: Tensor, two: Tensor) -> Tensor:
        return one.masked_fill(~nucleus(two / temperature, top_p=top_p, least=least), -torch.inf)

    return Joined(first=policy, second=masking, combine=combine)


def nucleus(logits: Float[Tensor, "n V"], *, top_p: float, least: int) -> Tensor:
    """`[n, V]`, True on the smallest set of tokens with `top_p` of the probability, and on the `least` likeliest whatever they have."""
    everything = torch.ones_like(logits, dtype=torch.bool)
    by_mass = support(logits, top_k=0, top_p=top_p)
    by_rank = support(logits, top_k=max(1, least), top_p=1.0)
    if by_mass is None or by_rank is None:
        return everything
    return by_mass | by_rank


class _Perturbed(nn.Module):
    """A causal model whose logits are log π + β (min Q - V)."""

    def __init__(self, policy: Policy, heads: QHeads, beta: float) -> None:
        super().__init__()
        self.policy, self.heads = policy, heads
        self._beta = beta
        model = policy.model
        self._supports_attention_backend = model._supports_attention_backend
        self._supports_sdpa = getattr(model, "_supports_sdpa", False)
        self._is_stateful = getattr(model, "_is_stateful", False)
        self.leader = model

    @property
    def config(self) -> PreTrainedConfig:
        return self.policy.model.config

    def forward(self, *, logits_to_keep: int = 0, **inputs: Any) -> SimpleNamespace:
        with adapter(self.policy.model, self.policy.adapter_name):
            hidden = trunk_of(self.policy.model)(**inputs).last_hidden_state
        hidden = hidden[:, -logits_to_keep:] if logits_to_keep else hidden
        head = self.policy.head()
        logits = (hidden @ head.weight.T).float() * head.scale
        if head.bias.numel():
            logits = logits + head.bias.float()
        if self._beta:
            logits = logits.log_softmax(-1) + self._beta * self.heads.advantages(hidden)
        return SimpleNamespace(logits=logits)


@dataclass(frozen=True, kw_only=True, slots=True)
class Perturbed:
    """A policy trained by implicit language Q-learning, and how far its Q heads steer it: section 4.3 of arXiv:2206.11871."""

    policy: Policy
    heads: QHeads
    beta: float

    @contextmanager
    def active(self) -> Iterator[nn.Module]:
        """See `Drawer`."""
        yield _Perturbed(self.policy, self.heads, self.beta)
