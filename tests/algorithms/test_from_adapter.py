"""Stages that start from an adapter's folder: it is merged into its base, or goes on being trained, and nothing of it is lost."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from prefloop.algorithms import merge
from prefloop.configs.common import Compute, LoRA
from prefloop.configs.merge import MergeConfig
from prefloop.data.store import Store
from prefloop.data.store.lineage import lineage
from prefloop.errors import InputError
from prefloop.models.load import load_policy, load_reward_model
from prefloop.models.packing import pack
from prefloop.models.quiet import quiet
from prefloop.text.groups import Group
from tests.algorithms.small import (
    ADAPTER,
    CPU,
    assert_same,
    metrics_of,
    resumed,
    settings,
    train,
)

IDS = torch.tensor([[5, 80, 90, 100, 7]])
TRAIN = LoRA(adapter="train")


@pytest.fixture(scope="module")
def adapters(project: Path, unbroken: Callable[[str], Path]) -> dict[str, str]:
    """A policy's and a reward model's adapter, by kind."""
    return {
        "policy": str(unbroken("sft_lora") / "final/adapter"),
        "reward": str(project / "reward_lora/final/adapter"),
    }


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


def of_peft(folder: Path | str) -> torch.Tensor:
    """What PEFT makes of an adapter's folder and the base that it names."""
    with quiet():
        return logits(AutoPeftModelForCausalLM.from_pretrained(str(folder)).eval())


def said_by(adapter: Path | str) -> dict[str, Any]:
    return json.loads((Path(adapter) / "adapter_config.json").read_text())


def base_of(adapter: Path | str) -> str:
    return said_by(adapter)["base_model_name_or_path"]


def start_of(name: str, adapters: dict[str, str], project: Path, *, out: str, lora: LoRA) -> Any:
    """Stage `name`, from the policy's adapter, with a learning rate of zero: what is saved is what was loaded."""
    config = settings(name, project, out=out)
    still = replace(config.optim, lr=0.0, weight_decay=0.0)
    if name == "ppo":
        config = replace(config, ema=0.0, critic=replace(config.critic, start="policy"))
    return replace(config, model=adapters["policy"], lora=lora, optim=still)


@pytest.mark.parametrize("name", ["sft", "dpo", "ppo"])
@pytest.mark.parametrize("lora", [LoRA(), ADAPTER, TRAIN], ids=["full", "new", "train"])
def test_nothing_of_the_adapter_is_lost(
    name: str, lora: LoRA, adapters: dict[str, str], project: Path
) -> None:  # R9
    out = f"kept-{name}-{lora.rank}-{lora.adapter}"
    config = start_of(name, adapters, project, out=out, lora=lora)
    if name == "dpo" and lora.on:
        config = replace(config, reference_cache=str(project / f"cache-{out}"))
    final = train(config)
    expected = of_peft(adapters["policy"])
    plain: Any = AutoModelForCausalLM.from_pretrained(final)
    torch.testing.assert_close(logits(plain), expected, rtol=1e-4, atol=1e-4)
    assert (expected - logits(load_policy(base_of(adapters["policy"]), Compute()).model)).abs().max() > 1e-3
    if lora.on:
        torch.testing.assert_close(of_peft(final / "adapter"), expected, rtol=1e-4, atol=1e-4)
        assert said_by(final / "adapter")["task_type"] == "CAUSAL_LM"
        own = base_of(final / "adapter")
        assert own == (
            str(project / out / "base") if lora.adapter == "merge" else base_of(adapters["policy"])
        )
    if name in ("dpo", "ppo"):  # the reference is where the policy began, adapter and all
        key = "kl_distance" if name == "ppo" else "margin"
        assert abs(metrics_of(project / out)[0][key]) < 1e-5


@pytest.mark.parametrize("name", ["sft", "dpo"])
@pytest.mark.parametrize("lora", [ADAPTER, TRAIN], ids=["new", "train"])
def test_a_resumed_run_from_an_adapter_equals_an_unbroken_one(
    name: str, lora: LoRA, adapters: dict[str, str], project: Path
) -> None:  # R1
    config = replace(
        settings(name, project, out=f"whole-{name}-{lora.adapter}"), model=adapters["policy"], lora=lora
    )
    train(config)
    half = replace(config, run=replace(config.run, out=f"{config.run.out}-half", save_every=1))
    steps = len(metrics_of(Path(config.run.out)))
    with pytest.raises(Stopped):
        stopped_after(2, half)
    train(resumed(half))
    assert steps > 2
    assert_same(Path(half.run.out), Path(config.run.out))
    trained = load_file(Path(config.run.out) / "final/adapter/adapter_model.safetensors")
    ranks = {tensor.shape[0] for key, tensor in trained.items() if "lora_A" in key}
    assert ranks == {ADAPTER.rank}


def test_a_changed_base_of_the_run_is_not_gone_on_from(
    adapters: dict[str, str], project: Path
) -> None:  # R10
    config = replace(
        settings("sft", project, out="changed-base"), model=adapters["policy"], lora=ADAPTER, max_steps=1
    )
    train(config)
    weights = project / "changed-base/base/model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-3] ^= 1
    weights.write_bytes(content)
    with pytest.raises(InputError, match=r"base/model.safetensors was changed after it was written"):
        train(replace(resumed(config), max_steps=2))


class Stopped(Exception):
    pass


def stopped_after(steps: int, config: Any) -> None:
    from prefloop.runtime import Updater

    real, done = Updater.step, 0

    def step(self: Updater, *args: Any, **kwargs: Any) -> Any:
        nonlocal done
        if done == steps:
            raise Stopped
        done += 1
        return real(self, *args, **kwargs)

    Updater.step = step
    try:
        train(config)
    finally:
        Updater.step = real


@pytest.mark.parametrize("lora", [LoRA(), ADAPTER, TRAIN], ids=["full", "new", "train"])
@pytest.mark.parametrize("start", ["policy", "reward"])
def test_a_reward_model_from_an_adapter_has_its_trained_head(
    start: str, lora: LoRA, adapters: dict[str, str], project: Path
) -> None:  # C3
    config = settings("reward", project, out=f"reward-{start}-{lora.rank}-{lora.adapter}")
    final = train(replace(config, model=adapters[start], lora=lora))
    weights = load_file(final / "model.safetensors")
    assert weights["score.weight"].shape[0] == 1
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(final).eval()
    ours = load_reward_model(str(final), CPU)
    group = Group(prompt=IDS[0, :2].tolist(), completions=(IDS[0, 2:].tolist(),), masks=([True] * 3,))
    with torch.no_grad():
        torch.testing.assert_close(ours(pack([group])), logits(theirs)[0], rtol=1e-4, atol=1e-4)
    measured = metrics_of(Path(config.run.out))[-1]["heldout_loss"]
    again = replace(config, model=str(final), keep_head=True, optim=replace(config.optim, lr=0.0))
    train(replace(again, run=replace(again.run, out=f"{config.run.out}-again")))
    said = metrics_of(Path(f"{config.run.out}-again"))[-1]["heldout_loss"]
    assert said == pytest.approx(measured, rel=1e-4)  # the head that was measured is the one in the file
    if lora.on:
        with quiet():
            base = AutoModelForSequenceClassification.from_pretrained(
                base_of(final / "adapter"), num_labels=1
            )
            peft = PeftModel.from_pretrained(base, str(final / "adapter")).eval()
        torch.testing.assert_close(logits(peft), logits(theirs), rtol=1e-4, atol=1e-4)


def test_a_reward_adapter_goes_on_with_its_head(adapters: dict[str, str], project: Path) -> None:
    config = settings("reward", project, out="reward-head-kept")
    still = replace(config.optim, lr=0.0, weight_decay=0.0)
    final = train(replace(config, model=adapters["reward"], lora=TRAIN, keep_head=True, optim=still))
    group = Group(prompt=[5, 80], completions=([90, 100], [7]), masks=([True] * 2, [True]))
    with torch.no_grad():
        now, before = (
            load_reward_model(name, CPU)(pack([group])) for name in (str(final), adapters["reward"])
        )
    torch.testing.assert_close(now, before, rtol=1e-4, atol=1e-4)


def test_reward_model_reference_and_critic_may_be_adapters(adapters: dict[str, str], project: Path) -> None:
    config = settings("ppo", project, out="ppo-of-adapters")
    whole = replace(config, ema=0.0, run=replace(config.run, out=str(project / "ppo-of-whole")))
    folders = {name: str(Path(adapter).parent) for name, adapter in adapters.items()}
    train(
        replace(whole, model=folders["policy"], reward_model=folders["reward"], reference=folders["policy"])
    )
    train(
        replace(
            config,
            ema=0.0,
            model=adapters["policy"],
            reward_model=adapters["reward"],
            reference=adapters["policy"],
        )
    )
    for row, other in zip(
        metrics_of(project / "ppo-of-adapters"), metrics_of(project / "ppo-of-whole"), strict=True
    ):
        for name in ("score", "kl_distance", "value_loss"):
            assert row[name] == pytest.approx(other[name], rel=1e-3, abs=1e-4), name


@pytest.mark.parametrize("lora", [ADAPTER, TRAIN], ids=["new", "train"])
def test_a_reward_adapter_joins_the_trunk_by_its_own_folder_too(
    lora: LoRA, adapters: dict[str, str], project: Path
) -> None:
    """Named by its own folder, by the merged model's above it, or with its base, it is an adapter of the policy's trunk."""
    config = settings("ppo_lora", project, out=f"joined-{lora.adapter}")
    model = adapters["policy"] if lora.adapter == "train" else config.model
    config = replace(config, model=model, lora=lora, steps=1)
    reward = adapters["reward"]
    names = (str(Path(reward).parent), reward, f"{reward}+{base_of(reward)}")
    rows = []
    for place, name in enumerate(names):
        out = f"{config.run.out}-{place}"
        train(replace(config, reward_model=name, run=replace(config.run, out=out)))
        assert "shares it" in (Path(out) / "log.txt").read_text()
        rows.append(metrics_of(Path(out))[0])
    for row in rows[1:]:
        for key in ("score", "value_loss"):
            assert row[key] == rows[0][key], key


def test_merge_takes_adapters(adapters: dict[str, str], project: Path) -> None:
    base = base_of(adapters["policy"])
    out = merge.merge(
        MergeConfig(
            base=base,
            models=(adapters["policy"], base),
            method="sum",
            out=str(project / "merged"),
            compute=CPU,
        )
    )
    expected = of_peft(adapters["policy"])
    torch.testing.assert_close(
        logits(AutoModelForCausalLM.from_pretrained(out)), expected, rtol=1e-4, atol=1e-4
    )


def test_going_on_needs_an_adapter_and_no_rank(adapters: dict[str, str], project: Path) -> None:
    config = settings("sft", project, out="not-an-adapter")
    with pytest.raises(InputError, match="is not an adapter"):
        train(replace(config, lora=TRAIN))
    assert not (project / "not-an-adapter").exists()
    with pytest.raises(InputError, match=r"lora\.rank 4"):
        LoRA(adapter="train", rank=4)


def test_lineage_goes_on_through_an_adapter(adapters: dict[str, str], project: Path) -> None:
    config = settings("sft", project, out="of-an-adapter")
    final = train(replace(config, model=adapters["policy"], max_steps=1))
    with Store.open(str(project / "prefloop.db"), create=False) as store:
        said = str(lineage(store, str(final)))
    assert said.count("training_run") >= 2
    for name in (
        "of-an-adapter/final",
        "unbroken-sft_lora/final/adapter",
        "demonstrations.jsonl",
        "stopping/final",
    ):
        assert name in said, said
