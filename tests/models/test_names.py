"""What a model may be called: a folder, a hub repository, one of its revisions, a .gguf file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from prefloop.algorithms import sft
from prefloop.configs.adapters import adapter_of
from prefloop.configs.common import Compute, Data, LoRA, RunSettings
from prefloop.configs.model_names import ModelName, model_name
from prefloop.configs.scorers import scorers_named
from prefloop.configs.sft import SFTConfig
from prefloop.errors import InputError
from prefloop.models.load import load_policy, new_language_model, new_reward_model
from prefloop.models.weights import weights_sha256
from prefloop.text import load_tokenizer
from tests.tiny_project import SIZE, make_demonstrations, make_model, tokenizer

gguf_file = pytest.importorskip("tests.models.gguf_file", reason="the extra gguf", exc_type=ImportError)
as_read, write_gguf = gguf_file.as_read, gguf_file.write_gguf

CPU = Compute(device="cpu")
IDS = torch.tensor([[5, 6, 7, 80, 9, 30, 40, 250]])


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("team/model", ModelName(source="team/model")),
        ("team/model@v2", ModelName(source="team/model", revision="v2")),
        ("team/model@refs/pr/3", ModelName(source="team/model", revision="refs/pr/3")),
        ("gpt2@main", ModelName(source="gpt2", revision="main")),
        ("team/model/q4.gguf", ModelName(source="team/model", gguf="q4.gguf")),
        ("team/model/q4.gguf@v2", ModelName(source="team/model", revision="v2", gguf="q4.gguf")),
        ("../far/model", ModelName(source="../far/model")),
    ],
)
def test_names_have_parts(given: str, parts: ModelName) -> None:
    assert model_name(given) == parts


def test_what_is_here_is_no_revision(tmp_path: Path) -> None:
    (tmp_path / "a@b").mkdir()
    assert model_name(str(tmp_path / "a@b")) == ModelName(source=str(tmp_path / "a@b"))
    with pytest.raises(InputError, match=r"is here, where there are no revisions; leave @v2 out"):
        model_name(f"{tmp_path}@v2")
    with pytest.raises(InputError, match=r"a revision is written NAME@REVISION"):
        model_name("team/model@")


def test_a_scorer_may_be_a_revision_or_a_log_ratio(tmp_path: Path) -> None:
    names = [
        (each.kind, each.name, each.reference)
        for each in scorers_named(f"team/rm@v2,a/b@c/d,a/b@v1@c/d@v2,a/b@{tmp_path},{tmp_path}@gpt2")
    ]
    assert names == [
        ("model", "team/rm@v2", ""),
        ("implicit", "a/b", "c/d"),
        ("implicit", "a/b@v1", "c/d@v2"),
        ("implicit", "a/b", str(tmp_path)),
        ("implicit", str(tmp_path), "gpt2"),
    ]
    with pytest.raises(InputError, match="a log-ratio is written POLICY@REFERENCE"):
        scorers_named("a/b@c/d@e/f")


def test_a_gguf_file_is_a_model(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    ours = load_policy(str(tmp_path / "model"), CPU)
    file = str(write_gguf(ours.model, tokenizer(), tmp_path / "tiny.gguf"))
    theirs = load_policy(file, CPU)
    assert torch.equal(theirs.model(IDS).logits, ours.model(IDS).logits)
    assert theirs.model.name_or_path == file
    read, own = load_tokenizer(file), tokenizer()
    assert len(read) == len(own)
    for text in ("Hello, what is 3 + 4?", " naïve  ✓\n\n<|user|>x<|eos|>"):
        assert read(text).input_ids == own(text).input_ids
    assert read.chat_template == own.chat_template
    assert (read.bos_token_id, read.eos_token_id, read.pad_token_id) == (0, 1, 2)
    assert weights_sha256(file) != weights_sha256(str(tmp_path / "model"))
    new_reward_model(file, read, CPU, seed=0)
    (tmp_path / "broken.gguf").write_bytes(Path(file).read_bytes()[:500])
    with pytest.raises(InputError, match=r"broken\.gguf' could not be loaded"):
        load_policy(str(tmp_path / "broken.gguf"), CPU)


def test_a_quantized_gguf_file_is_unpacked(tmp_path: Path) -> None:
    size = replace(SIZE, hidden_size=32, ffn_size=64)  # blocks hold 32 numbers
    model = new_language_model(size, tokenizer(), CPU, seed=0).model
    file = write_gguf(model, tokenizer(), tmp_path / "q8.gguf", quantized=True)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "proj" in name:
                weight.copy_(torch.from_numpy(as_read(weight.numpy())))
    read = load_policy(str(file), CPU).model
    assert all(each.dtype == torch.float32 for each in read.parameters())
    assert torch.equal(read(IDS).logits, model(IDS).logits)


def test_a_gguf_file_is_trained_on(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    file = write_gguf(load_policy(str(tmp_path / "model"), CPU).model, tokenizer(), tmp_path / "tiny.gguf")
    config = SFTConfig(
        model=str(file),
        data=Data(source=str(make_demonstrations(tmp_path / "demos.jsonl")), heldout=0.2),
        lora=LoRA(rank=2),
        batch_size=8,
        compute=CPU,
        run=RunSettings(out=str(tmp_path / "project/sft"), tune=False),
    )
    sft.train(config)
    adapter = adapter_of(str(tmp_path / "project/sft/final/adapter"))
    assert adapter is not None
    assert adapter.base == str(tmp_path / "project/sft/base")  # PEFT reads no .gguf file
    final = load_policy(str(tmp_path / "project/sft/final"), CPU)
    merged = load_policy(adapter.name, CPU)
    assert torch.allclose(final.model(IDS).logits, merged.model(IDS).logits, atol=1e-6)
