"""TRPO learns, never goes past its bound, and multiplies by the Fisher matrix as two derivatives of the KL do."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from prefloop.algorithms import trpo
from prefloop.configs.common import RunSettings, Sampling
from prefloop.configs.ppo import KL, CriticSettings, TRPOConfig
from prefloop.errors import InputError
from prefloop.loop.parameter_vectors import WeightVector
from prefloop.losses import mean_over
from prefloop.models.load import load_policy
from prefloop.models.packing import micro_batches
from prefloop.models.roles import scatter_tokens
from prefloop.runtime import World
from prefloop.text.groups import Group
from tests.algorithms import tiny
from tests.algorithms.small import weights_of
from tests.algorithms.tiny import CPU, FAST, logged

ALONE = World(rank=0, size=1, device=torch.device("cpu"))


def tiny_settings(project: Path, out: Path, **changes: Any) -> TRPOConfig:
    """From a model that has learned nothing, towards small letters."""
    of_ppo = tiny.ppo(project, out)
    config = TRPOConfig(
        run=of_ppo.run,
        data=of_ppo.data,
        model=of_ppo.model,
        reward_model=of_ppo.reward_model,
        sampling=of_ppo.sampling,
        steps=1,
        batch_prompts=16,
        completions_per_prompt=2,
        max_kl=0.05,
        kl=KL(coef=0.01),
        critic=CriticSettings(start="policy", optim=FAST),
        compute=CPU,
    )
    return replace(config, **changes)


@tiny.seeds(1, 2, 3)
def test_score_rises_within_the_bound(seed: int, project: Path, tmp_path: Path):
    run = RunSettings(out=str(tmp_path / "run"), seed=seed)
    cheap = {"cg_iterations": 4, "critic_epochs": 2}
    rows = logged(tiny_settings(project, tmp_path / "run", steps=18, run=run, **cheap))
    assert sum(row["score"] for row in rows[-3:]) / 3 > rows[0]["score"] + 1.0
    for row in rows:
        assert row["step_kl"] <= 0.05
        assert row["gain"] >= 0
        assert row["ratio"] < 1e-4
    taken = [row for row in rows if row["step_share"] > 0]
    assert len(taken) > 9
    assert all(row["gain"] > 0 for row in taken)


def test_fisher_products_equal_two_derivatives_of_the_kl(project: Path):
    """In float64, by transformers' plain attention and double backward, one sequence at a time."""
    name = str(project / "stopping/final")
    groups = [
        Group(prompt=[5, 9, 31], completions=([7, 8, 44, 2], [12]), masks=([True] * 4, [True])),
        Group(prompt=[3], completions=([90, 17],), masks=([True] * 2,)),
    ]
    temperature, tokens = 1.3, 7
    policy = load_policy(name, CPU)
    old = policy.frozen_copy()
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    vector = torch.randn(sum(p.numel() for p in parameters), generator=torch.Generator().manual_seed(0))

    def kl(part: Any) -> torch.Tensor:
        statistics = policy.statistics_against(old, part.batch, temperature=temperature)
        return mean_over(scatter_tokens(statistics.kl, part.batch), part.batch.completion_mask, count=tokens)

    before = [parameter.detach().clone() for parameter in parameters]
    ours = WeightVector(parameters=parameters, world=ALONE).fisher_times(
        vector, kl, micro_batches(groups, tokens=6)
    )
    assert all(torch.equal(a, b) for a, b in zip(before, parameters, strict=True))

    plain = AutoModelForCausalLM.from_pretrained(name, dtype=torch.float64, attn_implementation="eager")
    weights = list(plain.parameters())
    total = torch.zeros((), dtype=torch.float64)
    for group in groups:
        for completion in group.completions:
            logits = plain(torch.tensor([[*group.prompt, *completion]])).logits[0, len(group.prompt) - 1 : -1]
            logp = (logits / temperature).log_softmax(-1)
            total = total + (logp.exp() * (logp - logp.detach())).sum() / tokens
    first = torch.cat([g.reshape(-1) for g in torch.autograd.grad(total, weights, create_graph=True)])
    second = torch.autograd.grad(first @ vector.double(), weights)
    theirs = torch.cat([g.reshape(-1) for g in second])
    assert [n for n, p in policy.model.named_parameters() if p.requires_grad] == [
        n for n, _ in plain.named_parameters()
    ]
    assert torch.nn.functional.cosine_similarity(ours.double(), theirs, dim=0) > 0.999
    assert ours.norm().item() == pytest.approx(theirs.norm().item(), rel=0.02)


def test_a_step_that_is_not_good_enough_changes_no_weight(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Downhill: every share of the step loses, so none is taken."""
    real = trpo.conjugate_gradient
    monkeypatch.setattr(trpo, "conjugate_gradient", lambda *a, **k: -real(*a, **k))
    (row,) = logged(tiny_settings(project, tmp_path / "run"))
    assert row["step_share"] == row["gain"] == row["step_kl"] == 0
    ours, theirs = weights_of(tmp_path / "run/final"), weights_of(project / "start")
    for name, tensor in theirs.items():
        assert torch.equal(ours[name], tensor), name


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_kl": 0.0}, "max_kl is 0.0"),
        ({"cg_damping": -1.0}, "cg_damping"),
        ({"critic": CriticSettings(start="shared")}, "critic.start is shared"),
        ({"kl": KL(coef=0.1, placement="loss", estimator="k2")}, "kl.placement is loss"),
        ({"compute": tiny.Compute(dtype="bfloat16")}, "compute.dtype is bfloat16"),
        ({"sampling": Sampling(temperature=0.0)}, "TRPO must explore"),
        ({"reward_model": "a:b"}, "reward_model is a Python function"),
    ],
)
def test_settings_that_contradict_are_refused(changes: dict[str, Any], named: str):
    settings = {"run": RunSettings(out="x"), "data": tiny.Data(source="y"), "model": "m", "reward_model": "r"}
    with pytest.raises(InputError, match=named):
        TRPOConfig(**settings | changes)
