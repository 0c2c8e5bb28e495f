"""Fused layers: equal to the models' own, computed only where they are read, and left alone where somebody watches."""

from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from prefloop.configs.common import Compute, LoRA
from prefloop.models import trunk
from prefloop.models.blocks import _Norm, _Rotate, _SwiGLU, has_known_blocks, run_blocks
from prefloop.models.gather import rows_once
from prefloop.models.load import as_policy
from prefloop.models.lora import lora_policy
from prefloop.models.packing import Batch, pack
from prefloop.models.roles import Policy
from prefloop.models.trunk import hidden_rows
from prefloop.runtime.products import filling
from tests.models.test_forward import assert_close, gradients
from tests.models.tiny import FUSED, PACKABLE, SHAPE, make, random_groups


def batch_with_holes() -> Batch:
    """Groups of three with another speaker's turn in the middle of some completions, one of them without a token of its own at its start."""
    groups = random_groups(3, seed=21)
    longest = max(range(len(groups)), key=lambda i: len(groups[i].completions[1]))
    group = groups[longest]
    masks = tuple([place % 3 != j % 3 for place in range(len(c))] for j, c in enumerate(group.completions))
    groups[longest] = replace(group, masks=masks)
    return pack(groups)


def weighted(policy: Policy, batch: Batch) -> Tensor:
    """A scalar in which every predicted token has a say of its own."""
    logprobs = policy(batch)
    return (logprobs * torch.linspace(0.5, 2.0, logprobs.numel()).view_as(logprobs)).sum()


@pytest.mark.parametrize("name", sorted(FUSED))
@pytest.mark.parametrize("adapted", [False, True])
def test_fused_layers_are_the_models_own_on_the_rows_that_are_read(name: str, adapted: bool) -> None:
    batch = batch_with_holes()
    policy = as_policy(make(PACKABLE[name]), Compute())
    if adapted:
        policy, _ = lora_policy(policy, LoRA(rank=4), seed=1)
        with torch.no_grad():
            for key, parameter in policy.model.named_parameters():
                if "lora_B" in key:
                    parameter.normal_(0, 0.3)
    assert policy.way == "fused"
    ours, mine = policy(batch), gradients(policy.model, weighted(policy, batch))
    policy.way = "packed"
    assert torch.allclose(ours, policy(batch), atol=1e-5)
    assert_close(mine, gradients(policy.model, weighted(policy, batch)))
    assert any(("lora" in key) == adapted for key in mine)


class Counted(nn.Module):
    """Another module, and how many rows it was given."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.rows = inner, 0

    def forward(self, x: Tensor) -> Tensor:
        self.rows = x.shape[0]
        return self.inner(x)


def rounded(rows: int) -> int:
    return rows + filling(rows, torch.device("cpu"))


def test_the_last_layer_ends_with_keys_and_values_for_rows_that_nobody_reads() -> None:
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute())
    batch = pack(random_groups(2, seed=3))
    layers = cast(Any, model.base_model).layers
    for layer in layers:
        layer.mlp.down_proj = Counted(layer.mlp.down_proj)
    policy(batch)
    assert [layer.mlp.down_proj.rows for layer in layers] == [
        rounded(batch.tokens),
        rounded(len(batch.targets)),
    ]
    hidden_rows(model, batch, "fused", rows_once(batch.last, batch.tokens))
    assert layers[-1].mlp.down_proj.rows == rounded(len(batch.last))
    assert len(hidden_rows(model, batch, "fused")) == batch.tokens


def test_an_adapter_on_bfloat16_weights_runs_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[int] = []
    monkeypatch.setattr(trunk, "run_blocks", lambda *args: (called.append(1), run_blocks(*args))[1])
    policy = as_policy(make(PACKABLE["qwen3"], std=0.2).bfloat16(), Compute(dtype="bfloat16"))
    adapted, _ = lora_policy(policy, LoRA(rank=4), seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    called.clear()
    batch = pack(random_groups(2, seed=0))
    fused = adapted(batch)
    assert (adapted.way, called) == ("fused", [1])
    adapted.way = "padded"
    torch.testing.assert_close(fused, adapted(batch), rtol=0, atol=0.1)


def test_where_somebody_watches_a_module_it_is_called() -> None:
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute())
    batch = pack(random_groups(2, seed=3))
    expected, seen = policy(batch), []
    handle = (
        cast(Any, model.base_model).layers[0].mlp.register_forward_hook(lambda *given: seen.append(given[2]))
    )
    assert torch.allclose(policy(batch), expected, atol=1e-5)
    assert len(seen) == 1
    handle.remove()
    assert torch.equal(policy(batch), expected)
    assert len(seen) == 1


def test_layers_that_are_not_known_to_the_letter_run_as_their_modules(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    dynamic = LlamaConfig(
        **SHAPE, rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    )
    assert not has_known_blocks(LlamaForCausalLM(dynamic))
    own = make(PACKABLE["llama"])
    own.base_model.__class__ = type("OwnModel", (type(own.base_model),), {})
    assert as_policy(own, Compute()).way == "packed"

    def wrong(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        return gate * up

    monkeypatch.setattr(_SwiGLU, "forward", staticmethod(wrong))
    assert as_policy(make(PACKABLE["llama"]), Compute()).way == "packed"


def test_gradients_of_the_fused_operations() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(5, 3, 8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    for each in (x, weight):
        each.requires_grad_()
    for gemma in (False, True):
        assert torch.autograd.gradcheck(lambda a, w, g=gemma: _Norm.apply(a, w, 1e-3, g), (x, weight))
        assert torch.autograd.gradcheck(lambda a, w, g=gemma: _Norm.apply(a, w, 1e-3, g)[1], (x, weight))
    angle = torch.randn(5, 1, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a: _Rotate.apply(a, angle.cos(), angle.sin()), (x,))
    turned = _Rotate.apply(x.detach(), angle.cos(), angle.sin())
    assert isinstance(turned, Tensor)
    assert torch.allclose(turned.norm(dim=-1), x.detach().norm(dim=-1).T)
    gate, up = torch.randn(2, 5, 8, dtype=torch.float64).requires_grad_().unbind(0)
    assert torch.autograd.gradcheck(_SwiGLU.apply, (gate, up))


def test_layers_that_are_computed_again_are_fused_too() -> None:
    """The option puts a hook on the embedding, which is called."""
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute(gradient_checkpointing=True))
    batch = pack(random_groups(2, seed=3))
    last = cast(Any, model.base_model).layers[-1].mlp
    last.down_proj = Counted(last.down_proj)
    total = policy(batch).sum()
    assert last.down_proj.rows == rounded(len(batch.targets))
    last.down_proj.rows = 0
    total.backward()
    assert last.down_proj.rows == rounded(len(batch.targets))


def test_a_frozen_norm_gets_no_gradient_and_passes_one_on() -> None:
    model = make(PACKABLE["llama"])
    policy = as_policy(model, Compute())
    batch = pack(random_groups(2, seed=3))
    full = gradients(model, weighted(policy, batch))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("norm" not in name)
    some = gradients(model, weighted(policy, batch))
    assert some.keys() == {name for name in full if "norm" not in name}
    assert_close(some, {name: full[name] for name in some})
