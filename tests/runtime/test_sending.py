"""What of a folder is sent, where nothing is, and that no copy outlives its process for long. Sending itself: `tests/algorithms/test_sharded.py`."""

import os
from pathlib import Path

import pytest

from prefloop.runtime import sending
from prefloop.runtime.folder import FolderLock


def test_a_machine_that_sees_the_same_files_is_sent_nothing(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    for name in ("a/x.json", "a/b/model.safetensors"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a/.hidden").write_text("not read")
    (tmp_path / "a/pytorch_model.bin").write_text("never read")
    listed = sending._listed(tmp_path / "a")
    assert [file.path for file in listed] == ["x.json", "b/model.safetensors"]
    assert sending._same(listed, sending._listed(tmp_path / "a"))
    os.utime(tmp_path / "a/x.json", (0, 0))
    assert not sending._same(listed, sending._listed(tmp_path / "a"))
    assert not sending._same(listed, sending._listed(tmp_path / "absent"))
    assert [file.path for file in sending._listed(tmp_path / "a/x.json")] == [""]


def test_copies_that_were_left_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending.tempfile, "gettempdir", lambda: str(tmp_path))
    left, used, new = (tmp_path / f"{sending._PREFIX}{name}" for name in ("left", "used", "new"))
    for folder in (left, used, new):
        folder.mkdir()
        (folder / "model.safetensors").write_text("weights")
    lock = FolderLock(used)
    for folder in (left, used):
        os.utime(folder, (0, 0))
    made = sending.scratch.__wrapped__()
    assert not left.exists()
    assert (used / "model.safetensors").exists()
    assert (new / "model.safetensors").exists()  # its process may not have locked it yet
    assert made.is_dir()
    lock.close()
