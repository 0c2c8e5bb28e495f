"""The hash of a model's weights: one for a folder and for the same model from the hub."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
from safetensors.torch import load_file, save_file

from prefloop.errors import InputError
from prefloop.models.weights import weights_sha256
from tests.tiny_project import make_model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_model(tmp_path / "model")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of the hub model `someone/tiny`, in a cache as the hub's own client leaves it."""
    cache = tmp_path / "cache"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    repository, commit = cache / "models--someone--tiny", "0" * 40
    (repository / "refs").mkdir(parents=True)
    (repository / "refs/main").write_text(commit)
    files = repository / "snapshots" / commit
    files.mkdir(parents=True)
    return files


def test_a_hub_model_has_the_hash_of_its_files(folder: Path, cached: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(folder / name, cached)
    assert weights_sha256("someone/tiny") == weights_sha256(str(folder))
    shutil.copy(folder / "model.safetensors", cached / "another.safetensors")  # not what would be loaded
    assert weights_sha256("someone/tiny") == weights_sha256(str(folder))


def test_all_files_of_a_hub_model_in_pieces_count(folder: Path, cached: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    places = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(sorted(weights))}
    for piece in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == piece}, folder / piece)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    shutil.copytree(folder, cached, dirs_exist_ok=True)
    before = weights_sha256("someone/tiny")
    assert before == weights_sha256(str(folder))
    last = cached / "model-00002-of-00002.safetensors"
    save_file({name: tensor + 1e-3 for name, tensor in load_file(last).items()}, last)
    assert weights_sha256("someone/tiny") != before


@pytest.mark.parametrize("name", ["someone/nothing", "no such name at all"])
def test_a_name_that_is_nowhere_is_one_line(name: str, cached: Path) -> None:
    with pytest.raises(InputError, match=f"model '{name}': its safetensors weights were not found") as error:
        weights_sha256(name)
    assert "\n" not in str(error.value)


def test_a_folder_without_weights_and_one_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no safetensors weights; give the folder"):
        weights_sha256(str(tmp_path))
    with pytest.raises(InputError, match="does not exist"):
        weights_sha256(str(tmp_path / "none"))
