"""What is saved is plain Hugging Face: it loads there, and here, with the same numbers."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from prefloop.configs.common import Compute, LoRA
from prefloop.errors import InputError
from prefloop.models.load import (
    classifier_padding,
    critic_from_policy,
    critic_from_reward_model,
    load_critic,
    load_policy,
    load_reward_model,
    new_reward_model,
    reward_moments,
    save_classifier,
    save_policy,
    set_reading,
    set_reward_moments,
    set_thresholds,
    stored_reading,
    stored_reward_moments,
)
from prefloop.models.lora import (
    critic_on_trunk,
    lora_policy,
    lora_reward_model,
    reward_model_on_trunk,
    save_merged,
)
from prefloop.models.packing import pack
from prefloop.models.quiet import quiet
from prefloop.models.roles import Reading, RewardModel
from prefloop.models.weights import weights_sha256
from tests.models.tiny import PACKABLE, make, random_groups


def tokenizer(pad: str = "<pad>") -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, models

    vocabulary = {"<pad>": 0, "<bos>": 1, "<eos>": 2} | {f"t{i}": i for i in range(3, 97)}
    built = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    return PreTrainedTokenizerFast(
        tokenizer_object=built, bos_token="<bos>", eos_token="<eos>", pad_token=pad
    )


@pytest.fixture(params=PACKABLE)
def base(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make(PACKABLE[request.param]).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make(PACKABLE["llama"]).save_pretrained(tmp_path / "llama")
    return tmp_path / "llama"


def test_policy_loads_with_auto_model(base: Path, tmp_path: Path) -> None:  # R8
    policy = load_policy(str(base), Compute())
    save_policy(policy, tokenizer(), tmp_path / "saved")
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved").eval()
    group = random_groups(1, seed=3)[1]
    ids = torch.tensor([[*group.prompt, *group.completions[0]]])
    logp = torch.log_softmax(loaded(ids).logits[0], -1)[len(group.prompt) - 1 : -1]
    expected = logp.gather(1, ids[0, len(group.prompt) :, None])[:, 0]
    assert torch.allclose(policy(pack([group]))[0], expected, atol=1e-4)
    assert loaded.config._attn_implementation == "sdpa"
    assert "prefloop" not in (tmp_path / "saved" / "config.json").read_text()


def test_reward_model_gives_the_same_scores_in_transformers(base: Path, tmp_path: Path) -> None:  # C3 M14
    reward_model = new_reward_model(str(base), tokenizer(), Compute(), seed=5)
    set_reward_moments(reward_model, 0.25, 2.0)
    groups = random_groups(3, seed=6)
    scores = reward_model(pack(groups))
    save_classifier(reward_model, tokenizer(), tmp_path / "reward")
    again = load_reward_model(str(tmp_path / "reward"), Compute())
    assert torch.equal(again(pack(groups)), scores)
    assert reward_moments(again) == (0.25, 2.0)
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    sequences = [[*group.prompt, *completion] for group in groups for completion in group.completions]
    longest = max(map(len, sequences))
    for padded in ([s + [0] * (longest - len(s)) for s in sequences], None):
        if padded is not None:
            ids = torch.tensor(padded)
            batch = theirs(ids, attention_mask=(ids != 0).long()).logits[:, 0]
        else:
            batch = torch.stack([theirs(torch.tensor([s])).logits[0, 0] for s in sequences])
        assert torch.allclose(batch, scores, atol=1e-4)


def test_padding_that_also_ends_completions_is_not_stored(llama: Path, tmp_path: Path) -> None:  # M14 M1
    """transformers would score the token before the stop token, silently; without a padding id it refuses batches instead."""
    same = tokenizer(pad="<eos>")
    assert classifier_padding(same) is None
    reward_model = new_reward_model(str(llama), same, Compute(), seed=1)
    group = random_groups(1, seed=1)[2]
    ended = type(group)(
        prompt=group.prompt, completions=([*group.completions[0], 2],), masks=([*group.masks[0], True],)
    )
    score = reward_model(pack([ended]))
    save_classifier(reward_model, same, tmp_path / "reward")
    theirs: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    ids = torch.tensor([[*ended.prompt, *ended.completions[0]]])
    assert torch.allclose(theirs(ids).logits[0], score, atol=1e-4)
    with pytest.raises(ValueError, match="padding token"):
        theirs(ids.expand(2, -1))


def test_head_is_drawn_from_the_seed_alone(llama: Path) -> None:  # C4
    def head(seed: int) -> torch.Tensor:
        torch.rand(seed * 7 + 1)  # the global generator is somewhere else each time
        return (
            new_reward_model(str(llama), tokenizer(), Compute(), seed=seed)
            .score_head.get_parameter("weight")
            .detach()
        )

    assert torch.equal(head(3), head(3))
    assert not torch.equal(head(3), head(4))
    many = torch.cat([head(seed) for seed in range(40)])
    assert many.std().item() == pytest.approx(33**-0.5, rel=0.1)


def test_a_language_model_is_not_taken_for_a_reward_model(llama: Path) -> None:  # C3
    with pytest.raises(InputError, match=r"score\.weight.*prefloop reward"):
        load_reward_model(str(llama), Compute())


def test_a_reward_model_is_not_taken_for_a_policy(llama: Path, tmp_path: Path) -> None:
    save_classifier(
        new_reward_model(str(llama), tokenizer(), Compute(), seed=1), tokenizer(), tmp_path / "reward"
    )
    with pytest.raises(InputError, match="not a policy"):
        load_policy(str(tmp_path / "reward"), Compute())


@pytest.mark.parametrize("name", ["absent/folder", "no-such-model", "./absent", "runs/absent/final"])
def test_a_model_that_is_not_there(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=name):
        load_policy(name, Compute())


def test_pickled_weights_are_refused(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    torch.save(weights, llama / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        load_policy(str(llama), Compute())


def test_critic_from_the_policy_begins_at_zero(llama: Path) -> None:
    critic = critic_from_policy(str(llama), tokenizer(), Compute())
    batch = pack(random_groups(2, seed=1))
    assert not critic(batch).any()
    critic(batch).sum().backward()
    grad = critic.value_head.get_parameter("weight").grad
    assert grad is not None
    assert grad.any()


def test_critic_from_the_reward_model_predicts_normalised_scores(llama: Path, tmp_path: Path) -> None:
    reward_model = new_reward_model(str(llama), tokenizer(), Compute(), seed=1)
    set_reward_moments(reward_model, 2.0, 4.0)
    groups = random_groups(2, seed=5)
    batch = pack(groups)
    critic = critic_from_reward_model(reward_model, normalised=True)
    raw = critic_from_reward_model(reward_model)
    expected = torch.where(batch.completion_mask, (raw(batch) - 2.0) / 4.0, 0.0)
    assert torch.allclose(critic(batch), expected, atol=1e-5)
    save_classifier(critic, tokenizer(), tmp_path / "critic")
    assert torch.equal(load_critic(str(tmp_path / "critic"), Compute())(batch), critic(batch))


def test_weights_hash_follows_the_weights(llama: Path) -> None:
    before = weights_sha256(str(llama))
    assert before == weights_sha256(str(llama))
    policy = load_policy(str(llama), Compute())
    with torch.no_grad():
        next(policy.model.parameters()).add_(1e-3)
    save_policy(policy, tokenizer(), llama)
    assert weights_sha256(str(llama)) != before


LORA = LoRA(rank=4, alpha=8.0)


def train_a_little(role: torch.nn.Module, loss: torch.Tensor) -> None:
    loss.backward()
    with torch.no_grad():
        for parameter in role.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.01 * parameter.grad.sign())
                parameter.grad = None


def test_lora_policy_starts_unchanged_and_its_reference_is_the_trunk(
    base: Path, tmp_path: Path
) -> None:  # K9
    policy = load_policy(str(base), Compute())
    batch = pack(random_groups(2, seed=3))
    before = policy(batch).detach()
    adapted, peft = lora_policy(policy, LORA, seed=1)
    assert torch.allclose(adapted(batch), before, atol=1e-6)
    reference = adapted.frozen_copy()
    for _ in range(3):
        train_a_little(adapted, adapted(batch).sum())
    after = adapted(batch).detach()
    assert (after - before).abs().max() > 1e-2
    assert torch.allclose(reference(batch), before, atol=1e-6)
    assert torch.allclose(adapted(batch), after)  # the reference switched adapters off, and on again

    save_merged(adapted, peft, tokenizer(), tmp_path / "final")
    merged = load_policy(str(tmp_path / "final"), Compute())
    assert torch.allclose(merged(batch), after, atol=1e-4)

    from peft import PeftModel

    with quiet():
        theirs: Any = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "final" / "adapter")
        )
    group = random_groups(2, seed=3)[1]
    ids = torch.tensor([[*group.prompt, *group.completions[0]]])
    logp = torch.log_softmax(theirs(input_ids=ids).logits[0], -1)[len(group.prompt) - 1 : -1]
    expected = logp.gather(1, ids[0, len(group.prompt) :, None])[:, 0]
    assert torch.allclose(after[2, : len(expected)], expected, atol=1e-4)


def test_four_roles_on_one_trunk(llama: Path, tmp_path: Path) -> None:
    batch = pack(random_groups(2, seed=4))
    alone, peft = lora_reward_model(
        new_reward_model(str(llama), tokenizer(), Compute(), seed=2), LORA, seed=3
    )
    for _ in range(3):
        train_a_little(alone, alone(batch).sum())
    scores = alone(batch).detach()
    save_merged(alone, peft, tokenizer(), tmp_path / "reward")
    assert torch.allclose(load_reward_model(str(tmp_path / "reward"), Compute())(batch), scores, atol=1e-3)

    policy = load_policy(str(llama), Compute())
    plain = policy(batch).detach()
    adapted, trunk = lora_policy(policy, LORA, seed=5)
    critic = critic_on_trunk(trunk, adapted, LORA, seed=6)
    reward_model = reward_model_on_trunk(trunk, adapted, LORA, tmp_path / "reward" / "adapter")
    reference = adapted.frozen_copy()
    parameters = {
        id(p) for role in (adapted, critic, reward_model, reference) for p in role.model.parameters()
    }
    trunk_size = sum(p.numel() for n, p in policy.model.named_parameters() if "lora_" not in n)
    total = sum(p.numel() for p in policy.model.parameters())
    assert len(parameters) == len(list(policy.model.parameters()))
    assert total < 2 * trunk_size

    assert torch.allclose(reward_model(batch), scores, atol=1e-4)
    assert not critic(batch).any()
    train_a_little(adapted, adapted(batch).sum())
    train_a_little(critic, (critic(batch) - 1).square().sum())
    train_a_little(critic, (critic(batch) - 1).square().sum())
    assert critic(batch).any()
    assert not torch.allclose(adapted(batch), plain, atol=1e-3)
    assert torch.allclose(reward_model(batch), scores, atol=1e-4)
    assert torch.allclose(reference(batch), plain, atol=1e-5)


def test_an_unknown_lora_target_is_named(llama: Path) -> None:
    with pytest.raises(InputError, match="no_such_layer"):
        lora_policy(load_policy(str(llama), Compute()), LoRA(rank=2, targets=("no_such_layer",)), seed=1)


def test_config_of_a_saved_reward_model_has_one_label(llama: Path, tmp_path: Path) -> None:
    reward_model: RewardModel = new_reward_model(str(llama), tokenizer(), Compute(), seed=1)
    save_classifier(reward_model, tokenizer(), tmp_path / "reward")
    config = json.loads((tmp_path / "reward" / "config.json").read_text())
    assert len(config["id2label"]) == 1


BASE_PADS = {"none": None, "its own": 0, "the end": 2, "another": 3}


@pytest.mark.parametrize("pad", BASE_PADS)
def test_a_reward_adapter_by_itself_reads_the_same_token_or_is_refused(
    base: Path, pad: str, tmp_path: Path
) -> None:  # M18
    """transformers reads the last token that is not the base's padding, so an adapter alone may be read elsewhere than it was trained."""
    from peft import PeftModel

    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "pad_token_id": BASE_PADS[pad]}))
    alone, peft = lora_reward_model(new_reward_model(str(base), tokenizer(), Compute(), seed=2), LORA, seed=3)
    set_reward_moments(alone, 0.5, 2.0)
    group = random_groups(2, seed=4)[1]
    ended = tuple([*completion, 2] for completion in group.completions)
    groups = [replace(group, completions=ended, masks=tuple([True] * len(each) for each in ended))]
    for _ in range(2):
        train_a_little(alone, alone(pack(groups)).sum())
    save_merged(alone, peft, tokenizer(), tmp_path / "final")
    with torch.no_grad():
        scores = alone(pack(groups))
        ours = load_reward_model(str(tmp_path / "final/adapter"), Compute())
        assert torch.allclose(ours(pack(groups)), scores, atol=1e-4)
    assert reward_moments(ours) == stored_reward_moments(str(tmp_path / "final/adapter")) == (0.5, 2.0)
    assert ours.model.config.get_text_config().pad_token_id == 0

    def theirs() -> torch.Tensor:
        with quiet():
            trunk = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
            model: Any = PeftModel.from_pretrained(trunk, str(tmp_path / "final/adapter")).eval()
        rows = [torch.tensor([[*group.prompt, *completion]]) for completion in ended]
        with torch.no_grad():
            return torch.stack([model(input_ids=row).logits[0, 0] for row in rows])

    if pad in ("none", "its own"):
        assert torch.allclose(theirs(), scores, atol=1e-4)
    else:
        with pytest.raises(ValueError, match="its score is not read as transformers reads it"):
            theirs()


@pytest.mark.parametrize(
    "reading",
    [Reading(at="sum"), Reading(at="steps", rule="product"), Reading(length_slope=0.3, mean_length=2.0)],
)
def test_a_reward_adapter_that_is_read_in_its_own_way_is_refused_by_peft(
    reading: Reading, llama: Path, tmp_path: Path
) -> None:  # M18
    from peft import PeftModel

    alone, peft = lora_reward_model(
        new_reward_model(str(llama), tokenizer(), Compute(), seed=2), LORA, seed=3
    )
    set_reading(alone, reading)
    set_thresholds(alone, [1.0, 2.0], [0.5])
    batch = pack(random_groups(2, seed=4))
    train_a_little(alone, alone(batch).sum())
    save_merged(alone, peft, tokenizer(), tmp_path / "final")
    ours = load_reward_model(str(tmp_path / "final/adapter"), Compute())
    assert ours.reading == stored_reading(str(tmp_path / "final/adapter")) == reading
    assert ours.model.config.reward_thresholds == [0.5]
    with torch.no_grad():
        assert torch.allclose(ours(batch), alone(batch), atol=1e-4)
    trunk = AutoModelForSequenceClassification.from_pretrained(llama, num_labels=1)
    with quiet(), pytest.raises(ValueError, match="its score is not read as transformers reads it"):
        PeftModel.from_pretrained(trunk, str(tmp_path / "final/adapter"))
