"""DPO begins at ln 2, raises the chosen side's implicit reward, and is held to the right reference."""

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.configs.common import Data, Optim, RunSettings
from prefloop.configs.dpo import DPOConfig
from prefloop.errors import InputError
from prefloop.loop import provenance, reference
from prefloop.loop.inputs import comparisons
from prefloop.models.load import load_policy
from prefloop.models.weights import weights_sha256
from prefloop.rollout.scoring import summed_logprobs
from prefloop.runtime import start_world
from prefloop.text import load_tokenizer
from tests.algorithms.small import weights_of
from tests.algorithms.tiny import CPU, logged, pairs


def config(project: Path, out: Path, **changes: Any) -> DPOConfig:
    basic = DPOConfig(
        run=RunSettings(out=str(out)),
        data=Data(source=str(pairs(out.with_suffix(".jsonl"))), heldout=0.25),
        model=str(project / "start"),
        batch_size=12,
        epochs=5,
        reference_cache=str(out.with_suffix(".cache")),
        optim=Optim(lr=1e-2, schedule="constant"),
        compute=CPU,
    )
    return replace(basic, **changes)


def heldout_logprobs(settings: DPOConfig, folder: str) -> torch.Tensor:
    """Summed log-probabilities `[pairs, 2]` of held-out comparisons under a saved policy, float64."""
    world = start_world("cpu")
    groups = comparisons(settings.data, load_tokenizer(folder), "", world).heldout.groups
    return summed_logprobs(load_policy(folder, CPU), groups, tokens=64, world=world).double().view(-1, 2)


def test_begins_at_ln_2_and_learns_the_preference(project: Path, tmp_path: Path) -> None:  # K9
    settings = config(project, tmp_path / "dpo")
    rows = logged(settings)
    first, last = rows[0], rows[-1]
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["margin"] == pytest.approx(0, abs=1e-5)
    assert last["heldout_accuracy"] > 0.9
    assert last["accuracy"] > 0.9
    assert last["heldout_margin"] > 0.5
    assert last["heldout_reward_chosen"] > 0.1


def test_heldout_metrics_are_those_of_the_saved_policy_and_its_start(
    project: Path, tmp_path: Path
) -> None:  # N9 K9
    settings = config(project, tmp_path / "dpo", max_steps=4, beta=0.3)
    last = logged(settings)[-1]
    rewards = 0.3 * (
        heldout_logprobs(settings, str(tmp_path / "dpo/final")) - heldout_logprobs(settings, settings.model)
    )
    assert last["heldout_reward_chosen"] == pytest.approx(rewards[:, 0].mean().item(), abs=1e-4)
    assert last["heldout_reward_rejected"] == pytest.approx(rewards[:, 1].mean().item(), abs=1e-4)
    loss = torch.log1p((rewards[:, 1] - rewards[:, 0]).exp()).mean().item()
    assert last["heldout_loss"] == pytest.approx(loss, abs=1e-4)


def test_another_reference_is_used(project: Path, tmp_path: Path) -> None:  # K7 K9
    settings = config(
        project,
        tmp_path / "dpo",
        max_steps=1,
        reference=str(project / "other"),
        optim=Optim(lr=0.0),
        beta=2.0,
    )
    row = logged(settings)[0]
    rewards = 2.0 * (
        heldout_logprobs(settings, settings.model) - heldout_logprobs(settings, settings.reference)
    )
    assert row["heldout_margin"] == pytest.approx((rewards[:, 0] - rewards[:, 1]).mean().item(), abs=1e-3)
    assert abs(row["loss"] - math.log(2)) > 1e-3


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.2}, {"sft_coef": 0.5}, {"beta": 3.0}])
def test_a_wrong_reference_stops_the_run_at_step_0(
    changes: dict[str, float], project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # K9
    """Under every setting the check knows the loss to expect, and the right reference passes it."""
    wrong = load_policy(str(project / "other"), CPU)
    real = reference.reference_tokens
    settings = {**changes, "beta": changes.get("beta", 1.0), "max_steps": 1}
    logged(config(project, tmp_path / "right", **settings))
    monkeypatch.setattr(
        reference, "reference_tokens", lambda policy, *args, **kwargs: real(wrong, *args, **kwargs)
    )
    with pytest.raises(InputError, match=r"step 0: dpo loss is .* must be 0\.693147 \(within 0\.001\)"):
        logged(config(project, tmp_path / "wrong", **settings))
    assert not (tmp_path / "wrong").exists()  # refused before its first step was done
    # A copy of the model is the same reference, by whatever name.
    shutil.copytree(project / "start", tmp_path / "copy")
    with pytest.raises(InputError, match="step 0: dpo loss is"):
        logged(config(project, tmp_path / "wrong", reference=str(tmp_path / "copy"), **settings))


def test_a_spoilt_cache_of_the_reference_is_said_with_the_way_out(project: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    settings: dict[str, Any] = {"reference_cache": str(cache), "max_steps": 1, "beta": 1.0}
    logged(config(project, tmp_path / "first", **settings))
    (file,) = cache.glob("*.safetensors")
    logprobs = load_file(file)["logprobs"].clone()
    logprobs += torch.arange(len(logprobs))
    save_file({"logprobs": logprobs}, file, metadata={"sha256": reference.numbers_sha256(logprobs)})
    with pytest.raises(InputError) as error:
        logged(config(project, tmp_path / "second", **settings))
    said = str(error.value)
    assert f"remove the stored reference log-probabilities in {cache}" in said
    assert "\n" not in said
    file.unlink()
    logged(config(project, tmp_path / "second", **settings))


def test_a_cache_of_the_reference_with_a_changed_byte_is_computed_again(
    project: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:  # R10
    settings = config(project, tmp_path / "first", max_steps=2, reference_cache=str(tmp_path / "cache"))
    logged(settings)
    (file,) = (tmp_path / "cache").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-2] ^= 64
    file.write_bytes(content)
    logged(replace(settings, run=replace(settings.run, out=str(tmp_path / "second"))))
    assert f"{file} is damaged (its hash does not match)" in caplog.text
    ours, theirs = weights_of(tmp_path / "first/final"), weights_of(tmp_path / "second/final")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_every_models_weights_are_hashed_once(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reads every byte of them, which takes a while for large ones."""
    hashed: list[str] = []

    def counted(name: str) -> str:
        hashed.append(name)
        return weights_sha256(name)

    monkeypatch.setattr(provenance, "weights_sha256", counted)
    model = str(project / "start")
    logged(config(project, tmp_path / "dpo", model=model, reference=model, max_steps=1))
    assert hashed == [model, str(tmp_path / "dpo/final")]


def test_the_sft_term_raises_the_likelihood_of_chosen(project: Path, tmp_path: Path) -> None:  # K7 N7
    chosen = {}
    for coefficient in (0.0, 1.0):
        row = logged(config(project, tmp_path / f"dpo{coefficient:g}", sft_coef=coefficient, epochs=2))[-1]
        chosen[coefficient] = row["logp_chosen"]
    assert chosen[1.0] > chosen[0.0] + 1


def test_the_sft_term_is_a_mean_over_chosen_tokens(project: Path, tmp_path: Path) -> None:  # N7
    settings = config(project, tmp_path / "dpo", sft_coef=0.7, max_steps=1)
    row = logged(settings)[0]
    assert row["loss"] == pytest.approx(math.log(2) + 0.7 * row["nll"], abs=1e-4)
    world, tokenizer = start_world("cpu"), load_tokenizer(settings.model)
    inputs = comparisons(settings.data, tokenizer, "", world).train
    from prefloop.loop.batches import Batches

    batch = Batches(count=len(inputs), size=12, seed=0).pick(inputs.groups, 1)
    sums = summed_logprobs(load_policy(settings.model, CPU), batch, tokens=99, world=world).view(-1, 2)
    tokens = sum(len(group.completions[0]) for group in batch)
    assert row["nll"] == pytest.approx(-sums[:, 0].sum().item() / tokens, rel=1e-4)


def test_the_reference_is_computed_once_and_read_again(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(project, tmp_path / "first", max_steps=3)
    logged(settings)
    (file,) = Path(settings.reference_cache).iterdir()

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(reference, "token_logprobs", refuse)
    again = replace(settings, run=replace(settings.run, out=str(tmp_path / "second")))
    logged(again)
    ours, theirs = weights_of(tmp_path / "first/final"), weights_of(tmp_path / "second/final")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert list(Path(settings.reference_cache).iterdir()) == [file]
    # Other weights are another reference: the file is not for them.
    with pytest.raises(AssertionError, match="computed again"):
        logged(
            replace(again, model=str(project / "other"), run=replace(again.run, out=str(tmp_path / "third")))
        )
