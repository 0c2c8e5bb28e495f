import errno
import os
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prefloop.errors import InputError
from prefloop.runtime.checkpoint import Checkpoints, Content, compare_fingerprints
from prefloop.runtime.state import load_state, save_state


def writes(value: int, size: int = 10) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        save_state({"value": value, "tensor": torch.full((size,), float(value))}, folder / "resume")
        (folder / "config.json").write_text("{}")

    return write


def test_latest_is_by_number(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=9)
    assert checkpoints.latest() is None
    for step in (9, 10, 100):
        checkpoints.save(step, writes(step))
    assert checkpoints.latest() == (100, tmp_path / "checkpoints/step-100")
    assert load_state(checkpoints.path(100) / "resume")["value"] == 100
    assert checkpoints.steps() == [9, 10, 100]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(keep: int, tmp_path: Path) -> None:  # R7
    checkpoints = Checkpoints(tmp_path, keep=keep)
    for step in range(1, 7):
        checkpoints.save(step, writes(step))
        assert checkpoints.steps() == list(range(max(1, step - keep + 1), step + 1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{n}" for n in range(7 - keep, 7)]


def test_old_one_goes_only_after_the_new_one_is_in_place(tmp_path: Path) -> None:  # R7
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, writes(1))

    def write(folder: Path) -> None:
        writes(2)(folder)
        assert checkpoints.latest() == (1, tmp_path / "step-1")
        assert load_state(tmp_path / "step-1/resume")["value"] == 1

    checkpoints.save(2, write)
    assert checkpoints.steps() == [2]


def test_failed_write_leaves_the_last_one_and_no_rest(tmp_path: Path) -> None:  # R7
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, writes(1))

    def write(folder: Path) -> None:
        writes(2)(folder)
        raise RuntimeError("broken model")

    with pytest.raises(RuntimeError, match="broken model"):
        checkpoints.save(2, write)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]


def test_same_step_again_is_left_as_it_is(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, writes(1))
    checkpoints.save(1, writes(2))
    assert load_state(tmp_path / "step-1/resume")["value"] == 1


def test_leftovers_are_cleaned_and_are_no_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, writes(1))
    for name in (".new-step-2", ".old-step-0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("x")
    (tmp_path / "step-x").mkdir()
    assert checkpoints.latest() == (1, tmp_path / "step-1")
    checkpoints.clean()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-1", "step-x"]
    Checkpoints(tmp_path / "none", keep=1).clean()


def test_everything_is_on_the_device_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), tmp_path))
        real_fsync(descriptor)

    def rename(source: Path, target: Path) -> None:
        events.append(f"rename {Path(target).name}")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    Checkpoints(tmp_path / "c", keep=1).save(1, writes(1))
    renamed = events.index("rename step-1")
    before = {event.removeprefix("c/.new-step-1").lstrip("/") for event in events[:renamed]}
    assert before >= {"", "config.json", "resume", "resume/state.json", "resume/state.safetensors"}
    assert events[renamed + 1] == "c"  # the rename itself


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (errno.ENOSPC, "no space is left on the device"),
        (errno.EDQUOT, "the disk quota is used up"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "the device failed"),
    ],
)
@pytest.mark.parametrize("style", ["python", "rust"])
def test_disk_trouble_is_told_and_the_last_checkpoint_is_intact(
    number: int, reason: str, style: str, tmp_path: Path
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, writes(1))

    def write(folder: Path) -> None:
        (folder / "part").write_text("x")
        if style == "python":
            raise OSError(number, os.strerror(number))
        raise RuntimeError(f"I/O error: {os.strerror(number)} (os error {number})")

    with pytest.raises(
        InputError, match=f"cannot write .*step-2: {reason}; the checkpoint of step 1 is intact"
    ):
        checkpoints.save(2, write)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert load_state(tmp_path / "step-1/resume")["value"] == 1


def test_a_file_in_the_way_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match="no checkpoint was written before"):
            Checkpoints(folder, keep=1).save(1, writes(1))


def test_full_disk(tmp_path: Path) -> None:
    """On a real file system of one MiB."""
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        checkpoints = Checkpoints(small / "checkpoints", keep=2)
        checkpoints.save(1, writes(1))
        for big in (
            writes(2, size=1_000_000),
            lambda folder: save_file({"a": torch.zeros(1_000_000)}, folder / "model.safetensors"),
            lambda folder: (folder / "text").write_text("x" * 2_000_000),
        ):
            with pytest.raises(
                InputError, match=r"no space is left on the device; the checkpoint of step 1 is intact"
            ):
                checkpoints.save(2, big)
            assert [path.name for path in checkpoints.folder.iterdir()] == ["step-1"]
        checkpoints.save(2, writes(2))  # the room was given back
        assert load_state(checkpoints.path(2) / "resume")["value"] == 2
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_limit_on_file_size(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(1, writes(1))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.getsignal(signal.SIGXFSZ)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(InputError, match="limit on a file's size; the checkpoint of step 1 is intact"):
            checkpoints.save(2, writes(2, size=1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert checkpoints.steps() == [1]
    assert load_state(tmp_path / "step-1/resume")["value"] == 1


def test_checkpoint_of_other_settings_is_refused_by_name() -> None:
    saved = {"stage": "sft", "model": "a", "optim.lr": 0.1, "run.keep": 2, "gone": 1}
    current = {"stage": "dpo", "model": "a", "optim.lr": 0.2, "run.keep": 3, "beta": 0.1}
    with pytest.raises(
        InputError,
        match=r"beta: not set -> 0.1; gone: 1 -> not set; optim.lr: 0.1 -> 0.2; stage: 'sft' -> 'dpo'\)",
    ):
        compare_fingerprints(saved, current, may_differ=["run."])
    allowed = ["run.", "stage", "beta", "gone", "optim.lr"]
    assert "run.keep: 2 -> 3" in compare_fingerprints(saved, current, may_differ=allowed)
    assert compare_fingerprints(saved, saved, may_differ=[]) == []
    with pytest.raises(InputError, match="run: 1 -> 2"):
        compare_fingerprints({"run": 1}, {"run": 2}, may_differ=["run.", "ru"])


def test_what_is_read_must_be_the_same() -> None:
    saved = {"model": "m", "data": "1" * 64, "weights.model": "2" * 64}
    same = {
        "data": Content(what="the data of a.jsonl", sha256="1" * 64),
        "weights.model": Content(what="the weights of model m", sha256="2" * 64),
    }
    assert compare_fingerprints(saved, {"model": "m"}, may_differ=[], reads=same) == []
    other = same | {"weights.model": Content(what="the weights of model m", sha256="3" * 64)}
    with pytest.raises(InputError) as error:
        compare_fingerprints(saved, {"model": "m"}, may_differ=["weights.model"], reads=other)
    assert str(error.value) == (
        "the weights of model m (sha256 222222222222 -> 333333333333) changed since the run was started; "
        "restore it, or start a new run in another folder"
    )
    with pytest.raises(
        InputError, match=r"model: 'm' -> 'n'\)"
    ):  # other weights under another name are no riddle
        compare_fingerprints(saved, {"model": "n"}, may_differ=[], reads=other)
