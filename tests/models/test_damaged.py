"""Files of a model that are cut off, damaged or edited: one line that names the file, wherever the model is read."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.cli.program import main
from prefloop.configs.common import Compute
from prefloop.errors import InputError
from prefloop.models.load import (
    load_critic,
    load_policy,
    load_reward_model,
    new_reward_model,
    save_classifier,
    stored_reading,
)
from prefloop.models.q_heads import QHeads, load_q_heads
from prefloop.models.weights import weights_sha256
from prefloop.text import load_tokenizer
from tests.models.test_save_load import tokenizer
from tests.models.tiny import PACKABLE, make

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    make(PACKABLE["llama"]).save_pretrained(folder / "policy")
    tokenizer().save_pretrained(folder / "policy")
    scorer = new_reward_model(str(folder / "policy"), tokenizer(), Compute(), seed=1)
    save_classifier(scorer, tokenizer(), folder / "reward")
    QHeads(8, 5, seed=0).save(folder / "policy/ilql")
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return shutil.copytree(whole, tmp_path / "models")


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-30])


def header_only(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:40])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def noise(file: Path) -> None:
    file.write_bytes(bytes(range(256)))


LOADERS: dict[str, tuple[str, Callable[[str], object]]] = {
    "policy": ("policy", lambda name: load_policy(name, Compute())),
    "new reward model": ("policy", lambda name: new_reward_model(name, tokenizer(), Compute(), seed=1)),
    "reward model": ("reward", lambda name: load_reward_model(name, Compute())),
    "critic": ("reward", lambda name: load_critic(name, Compute())),
    "hash": ("policy", weights_sha256),
}


@pytest.mark.parametrize("damage", [cut, header_only, empty, noise])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_damaged_file_is_named_in_one_line(
    loader: str, file: str, damage: Callable[[Path], None], folder: Path
) -> None:
    kind, load = LOADERS[loader]
    damage(folder / kind / file)
    said = refused(lambda: load(str(folder / kind)))
    assert str(folder / kind / file) in said


def refused(load: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        load()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("damage", [cut, empty, noise])
@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json"])
def test_a_damaged_tokenizer_is_named_in_one_line(
    file: str, damage: Callable[[Path], None], folder: Path
) -> None:
    damage(folder / "policy" / file)
    assert file in refused(lambda: load_tokenizer(folder / "policy"))


@pytest.mark.parametrize("file", ["config.json", "heads.safetensors"])
def test_damaged_q_heads_are_named_in_one_line(file: str, folder: Path) -> None:
    cut(folder / "policy/ilql" / file)
    assert file in refused(lambda: load_q_heads(folder / "policy", CPU))
    QHeads(8, 6, seed=0).save(folder / "other/ilql")
    shutil.copy(folder / "other/ilql/heads.safetensors", folder / "policy/ilql")
    QHeads(8, 5, seed=0).save(folder / "third/ilql")
    shutil.copy(folder / "third/ilql/config.json", folder / "policy/ilql")
    assert "do not fit together" in refused(lambda: load_q_heads(folder / "policy", CPU))


EDITS = {
    "another width": {"hidden_size": 40},
    "a word for a number": {"hidden_size": "wide"},
    "no such kind": {"model_type": "llamma"},
    "fewer layers": {"num_hidden_layers": 1},
    "heads that do not divide": {"num_attention_heads": 5, "head_dim": None},
}


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_configuration_is_one_line(edit: str, folder: Path) -> None:
    config = folder / "policy/config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **EDITS[edit]}))
    assert str(folder / "policy") in refused(lambda: load_policy(str(folder / "policy"), Compute()))


def test_pieces_that_are_missing_are_named(folder: Path) -> None:
    policy = folder / "policy"
    weights = load_file(policy / "model.safetensors")
    (policy / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for piece in set(places.values()):
        save_file(
            {name: weights[name] for name in weights if places[name] == piece},
            policy / piece,
            metadata={"format": "pt"},
        )
    index = policy / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    load_policy(str(policy), Compute())
    (policy / "model-00002-of-00002.safetensors").rename(policy / "kept")
    assert "model-00002-of-00002.safetensors" in refused(lambda: load_policy(str(policy), Compute()))
    (policy / "kept").rename(policy / "model-00002-of-00002.safetensors")
    cut(index)
    assert index.name in refused(lambda: load_policy(str(policy), Compute()))


def test_readings_of_a_damaged_configuration(folder: Path) -> None:
    cut(folder / "reward/config.json")
    assert "config.json" in refused(lambda: stored_reading(str(folder / "reward")))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_command_says_it_in_one_line(
    file: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cut(folder / "policy" / file)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "t5", "completion": "t6"}\n')
    out = tmp_path / "run"
    code = main(
        ["sft", "--model", str(folder / "policy"), "--data", str(tmp_path / "rows.jsonl"), "--out", str(out)]
    )
    said = capsys.readouterr().err
    assert code == 2
    assert said.count("\n") == 1
    assert f"policy/{file}" in said
    assert not out.exists()
