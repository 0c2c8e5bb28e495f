"""A changed byte in a checkpoint or a finished model is one line that names the file; weights that are not finite are never final."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prefloop.cli.program import main
from prefloop.configs.common import RunSettings
from prefloop.errors import InputError
from prefloop.runtime.manifest import MANIFEST, check_finite, faults, listed, others, write_manifest
from prefloop.runtime.run import Run
from prefloop.runtime.world import World
from tests.runtime.example import Config, train

ALONE = World(rank=0, size=1, device=torch.device("cpu"))
LAST = "checkpoints/step-6"


def run(folder: Path, *, resume: bool = False) -> Path:
    return train(Config(run=RunSettings(out=str(folder), save_every=2, resume=resume)), ALONE)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "run"
    run(folder)
    return folder


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def flip(file: Path, place: int = -5) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)


def test_every_file_of_checkpoints_and_of_the_final_model_is_listed(finished: Path) -> None:
    for folder in (finished / LAST, finished / "checkpoints/step-4", finished / "final"):
        names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert set(listed(folder)) == names - {MANIFEST}
        assert faults(folder) == []
        assert others(folder) == []
    assert "resume/state.json" in listed(finished / LAST)
    assert not any(name.startswith("resume") for name in listed(finished / "final"))


@pytest.mark.parametrize(
    "name", ["model.safetensors", "resume/state.json", "resume/state.safetensors", MANIFEST]
)
def test_one_flipped_byte_is_not_gone_on_from(name: str, copy: Path) -> None:  # R10
    flip(copy / LAST / name)
    with pytest.raises(InputError) as error:
        run(copy, resume=True)
    said = str(error.value)
    assert str(copy / LAST / name) in said
    assert "\n" not in said
    shutil.rmtree(copy / LAST)  # the way out that it names
    run(copy, resume=True)


def test_an_edited_state_is_not_gone_on_from(copy: Path) -> None:  # R10
    file = copy / LAST / "resume/state.json"
    text = file.read_text()
    assert '"step": 6' in text
    file.write_text(text.replace('"step": 6', '"step": 5'))
    with pytest.raises(InputError, match=r"resume/state.json was changed after it was written"):
        run(copy, resume=True)
    file.unlink()
    with pytest.raises(InputError, match=r"resume/state.json is missing"):
        run(copy, resume=True)


def test_a_checkpoint_from_before_manifests_is_gone_on_from_and_said(copy: Path) -> None:
    (copy / LAST / MANIFEST).unlink()
    run(copy, resume=True)
    assert "could not be checked" in (copy / "log.txt").read_text()


def test_verify(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def verify(folder: Path, code: int = 0) -> str:
        assert main(["verify", str(folder)]) == code
        out, err = capsys.readouterr()
        assert err.count("\n") == (code == 2)
        return err if code else out

    assert verify(copy).count("files as they were written") == 3  # two checkpoints and the final model
    assert "3 files" in verify(copy / LAST)
    assert "1 files" in verify(copy / "final")
    assert "2 files" in verify(copy / LAST / "resume")
    (copy / "final/notes.txt").write_text("mine")
    assert "not listed: notes.txt" in verify(copy / "final")
    (copy / "final/model.safetensors").unlink()  # shared with the checkpoint
    shutil.copy(copy / "checkpoints/step-4/model.safetensors", copy / "final/model.safetensors")
    assert f"{copy}/final/model.safetensors was changed" in verify(copy, 2)
    assert verify(copy / LAST)
    flip(copy / LAST / "resume/state.json")
    assert "state.json was changed" in verify(copy / LAST / "resume", 2)
    said = verify(copy, 2)
    assert "model.safetensors was changed" in said
    assert "state.json was changed" in said
    assert "no manifest.json" in verify(copy / "tensorboard", 2)
    assert "is not a folder" in verify(copy / "absent", 2)


def test_what_changes_between_checkpoint_and_final_is_found(tmp_path: Path) -> None:
    """The final model's list is the checkpoint's, made when the bytes were written."""
    from prefloop.runtime.folder import publish

    checkpoint, new = tmp_path / "step-1", tmp_path / "new"
    checkpoint.mkdir()
    new.mkdir()
    (checkpoint / "model.safetensors").write_bytes(b"0123456789")
    write_manifest(checkpoint)
    flip(checkpoint / "model.safetensors")
    before = (checkpoint / MANIFEST).read_bytes()
    publish(checkpoint, new)
    assert faults(new) == [line.replace(str(checkpoint), str(new)) for line in faults(checkpoint)] != []
    assert (checkpoint / MANIFEST).read_bytes() == before


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["model.safetensors", "critic/model.safetensors"])
def test_weights_that_are_not_finite_are_not_called_final(
    wrong: float, where: str, tmp_path: Path
) -> None:  # R11
    def save(folder: Path) -> None:
        for name in ("model.safetensors", "critic/model.safetensors"):
            (folder / name).parent.mkdir(exist_ok=True)
            weights = torch.ones(3, 2)
            if name == where:
                weights[1, 1] = wrong
            save_file({"layer.weight": weights, "ids": torch.arange(2)}, folder / name)

    def publish() -> None:
        settings = RunSettings(out=str(tmp_path / "run"))
        config = Config(run=settings)
        with Run.open(
            settings, stage="example", config=config, total_steps=1, world=ALONE, headline=("x",)
        ) as run:
            for step in run.steps(save=save, state=dict):
                run.log(step, {"x": 1.0})

    with pytest.raises(InputError, match=rf"{where}: 1 of 6 numbers in layer\.weight are not finite"):
        publish()
    assert not (tmp_path / "run/final").exists()


def test_finite_weights_of_all_kinds_pass(tmp_path: Path) -> None:
    kinds = [torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.bool]
    save_file({str(kind): torch.ones(2).to(kind) for kind in kinds}, tmp_path / "model.safetensors")
    check_finite(tmp_path, way_out="")
    (tmp_path / "resume").mkdir()
    save_file({"x": torch.tensor([torch.nan])}, tmp_path / "resume/state.safetensors")
    check_finite(tmp_path, skip=frozenset({"resume"}), way_out="")
    weights = load_file(tmp_path / "model.safetensors")
    save_file(
        {**weights, "half": torch.tensor([torch.inf], dtype=torch.bfloat16)}, tmp_path / "model.safetensors"
    )
    with pytest.raises(InputError, match="half"):
        check_finite(tmp_path, skip=frozenset({"resume"}), way_out="")


def test_a_manifest_that_is_not_json_is_one_line(copy: Path) -> None:
    for content in ("", "[]", "{", json.dumps({"files": {}}), json.dumps({"files": 1, "sha256": "x"})):
        (copy / LAST / MANIFEST).write_text(content)
        with pytest.raises(InputError, match=rf"{MANIFEST} is damaged"):
            listed(copy / LAST)
