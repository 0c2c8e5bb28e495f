"""Every training setting changes something: each is given a second value, and what the run leaves must differ."""

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import jaxtyping
import pytest

from prefloop.errors import InputError
from prefloop.loop.provenance import RunRecord
from prefloop.models import load
from tests.algorithms.settings_table import TABLE, UNSEEN, changed, filled, first, make_files, setting_paths
from tests.algorithms.small import metrics_of, train, weights_of


@pytest.fixture(scope="session")
def with_files(project: Path) -> Path:
    make_files(project)
    return project


def traces(config: Any) -> dict[str, Any]:
    """What a run leaves: metrics, weights, the models' configurations and names of files; or why it was refused."""
    folder = Path(config.run.out)
    try:
        train(config)
    except InputError as error:
        return {"refused": str(error)}
    store = Path(config.run.store or folder.parent / "prefloop.db")
    return {
        "metrics": metrics_of(folder),
        "weights": {
            name: tensor.float().numpy().tobytes() for name, tensor in weights_of(folder / "final").items()
        },
        "configs": {
            str(file.relative_to(folder)): {
                key: value for key, value in json.loads(file.read_text()).items() if key != "_name_or_path"
            }
            for file in sorted((folder / "final").rglob("*config.json"))
        },
        "files": sorted(
            str(file.relative_to(folder)) for file in folder.glob("*/*") if file.parent.name != "tensorboard"
        ),
        "store": store.name,
    }


def part_of(path: str) -> str:
    """`optim` of `optim.lr`; settings of the stage itself are `own`."""
    return path.partition(".")[0] if "." in path else "own"


PARTS = [(stage, part) for stage, cases in TABLE.items() for part in dict.fromkeys(map(part_of, cases))]
Runs = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def left_by(with_files: Path, tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """What a run leaves that starts from a stage's first settings, with some of them changed; each made once."""
    folder, known = tmp_path_factory.mktemp("settings"), {}

    def run(stage: str, given: dict[str, Any], path: str = "", value: Any = None, again: str = "") -> Any:
        key = repr((stage, given, path, value, again))
        if key not in known:
            values = {**given, path: value} if path else given
            config = first(stage, with_files, folder / f"run-{len(known)}")
            try:
                config = changed(config, filled(values, with_files, stage))
            except InputError as error:
                known[key] = {"refused": str(error)}
                return known[key]
            known[key] = traces(config)
        return known[key]

    return run


@pytest.fixture(scope="module")
def loaded() -> dict[str, Any]:
    """Models as they were read, by what was asked for: five folders, which five hundred runs begin from."""
    return {}


@pytest.fixture(autouse=True)
def only_what_is_compared(loaded: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No waiting for the disk, no entry in the store, no model read twice, and no check of tensors' shapes: every other test of the stages has them."""
    real = load._from_pretrained

    def copied(auto: Any, name: str, compute: Any, **kwargs: Any) -> Any:
        key = repr((auto, name, compute, kwargs))
        if key not in loaded:
            loaded[key] = real(auto, name, compute, **kwargs)
        return deepcopy(loaded[key])

    monkeypatch.setattr(load, "_from_pretrained", copied)
    monkeypatch.setattr(RunRecord, "begin", lambda *args, **kwargs: None)
    monkeypatch.setattr(RunRecord, "finish", lambda *args, **kwargs: None)
    monkeypatch.setattr("prefloop.runtime.files.os.fsync", lambda *args: None)
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize(("stage", "part"), PARTS, ids=["-".join(each) for each in PARTS])
def test_every_setting_changes_something(stage: str, part: str, left_by: Runs) -> None:  # K7
    base = left_by(stage, {})
    assert "refused" not in base, base
    assert base == left_by(stage, {}, again="yes"), (
        "two runs with the same settings differ, so a difference says nothing"
    )
    wrong = []
    for path, case in TABLE[stage].items():
        if part_of(path) == part:
            before, after = left_by(stage, case.given), left_by(stage, case.given, path, case.value)
            if before == after:
                wrong.append(f"{path} changes nothing")
            for when, run, expected in (("before", before, case.before), ("after", after, case.refused)):
                if ("refused" in run) != expected:
                    wrong.append(f"{path} {when}: {run.get('refused', 'was to be refused')}")
    assert wrong == []


def test_every_setting_is_in_the_table(with_files: Path, tmp_path: Path) -> None:
    """A new setting is added to the table, or said to be unseen, or this fails."""
    of_parts = {path for cases in TABLE.values() for path in cases if "." in path}
    for stage, cases in TABLE.items():
        if stage == "nlpo":  # the rest is PPO's, in the same loop
            continue
        for path in setting_paths(first(stage, with_files, tmp_path / stage)):
            part, _, rest = path.partition(".")
            handed_on = any(each.startswith(f"{part}.") for each in cases)
            elsewhere = path in of_parts or (part.endswith("_optim") and f"optim.{rest}" in of_parts)
            assert path in cases or path in UNSEEN or (handed_on and elsewhere), (
                f"{stage}: {path} has no second value in tests/algorithms/settings_table.py"
            )
