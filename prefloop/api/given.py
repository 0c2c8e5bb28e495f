"""Settings given from Python: the commands' own names, with values that a command line cannot hold: rows, frames, functions, finished runs."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, is_dataclass
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from prefloop.configs.functions import give_function
from prefloop.configs.load import Given, Mismatch, Tree, accept, build, types_of, unknown
from prefloop.configs.names import short_names
from prefloop.configs.verifiers import FILE, VerifierConfig
from prefloop.environments.environment import give_environment, plays
from prefloop.errors import InputError

T = TypeVar("T")

PROJECT = Path("runs")
"""Where runs go that name no folder."""
WHOLE = {"lora": "rank", "data": "source", "environment": "name"}
"""Groups of settings that may be given as one value, and the setting that it is then of."""


def settings_from(cls: type[T], given: Mapping[str, Any], *, stage: str) -> T:
    """The settings of a stage from keyword arguments.

    A group is a dict or its dataclass (`optim=dict(lr=1e-5)`). A single setting of a group may be named with a dot (`**{"optim.lr": 1e-5}`). `lora=16` is
    `lora.rank`, `reward=function` is `reward_model`, `sampler=function` is `sampling.engine`, and the command line's short names (`out`, `seed`, `resume`, `store`) are known. Data may be
    rows or frames (see `rows_file`) or an open `Store`, models may be finished runs, functions may be given by value. Without `out` the run
    goes into the next free folder of `runs`, and where `out` holds a run already, into a new folder beside it.

    Raises:
        InputError: An unknown name, a value of the wrong type, or settings that contradict each other.
    """
    tree: Tree = {}
    kinds, short = types_of(cls), short_names(cls)
    for name, value in given.items():
        if name == "environment" and plays(value):
            name = "environment.name"
        as_group = name in kinds and (isinstance(value, Mapping) or is_dataclass(value))
        if name == "reward" and "reward_model" in kinds and not as_group:
            if "reward_model" in given:
                raise InputError("reward and reward_model both name a scorer; give one of them")
            name = "reward_model"
        if name == "sampler" and hasattr(kinds.get("sampling"), "engine"):
            name = "sampling.engine"
        _put(tree, name if as_group else short.get(name, name), value, cls)
    if "run" in kinds:
        run = cast(Tree, tree.setdefault("run", {}))
        run["out"] = Given(value=_run_folder(run, stage), where="run.out")
        data = given.get("data")
        source = data.get("source") if isinstance(data, Mapping) else data
        if _is_store(source):
            run.setdefault("store", Given(value=cast(Any, source).address, where="run.store"))
    return build(cls, tree)


def _run_folder(run: Tree, stage: str) -> str:
    """Where a run goes: the folder that is named, or a new one beside it where it holds a run and is not resumed."""
    out, resume = (cast("Given | None", run.get(name)) for name in ("out", "resume"))
    alone = os.environ.get("WORLD_SIZE", "1") == "1"
    if out is None:
        if resume and resume.value:
            raise InputError("resume is True, but out is not given; name the folder of the run to resume")
        if not alone:
            raise InputError(
                "out is not given, and each process would take a folder of its own; name the run folder"
            )
        return str(free_folder(stage))
    folder = Path(out.value)
    if not alone or (resume and resume.value) or not folder.is_dir():
        return out.value
    from prefloop.runtime.folder import marks_of_a_run  # torch

    if not marks_of_a_run(folder):
        return out.value
    beside = _first_free(folder, start=2)
    print(f"{folder} holds a run, so this one goes into {beside}")
    return str(beside)


def _put(tree: Tree, name: str, value: Any, root: Any, cls: Any = None, prefix: str = "") -> None:
    """Write one argument into the tree of given values; `cls` is the group that the tree is of, at first the root."""
    cls = cls or root
    head, _, rest = name.partition(".")
    kinds = types_of(cls)
    if head not in kinds:
        raise InputError(unknown(f"{prefix}{name}", root))
    kind, full = kinds[head], f"{prefix}{head}"
    if not is_dataclass(kind):
        tree[head] = Given(value=_value(value, kind, full), where=full)
        return
    group = cast(Tree, tree.setdefault(head, {}))
    if rest:
        _put(group, rest, value, root, kind, f"{full}.")
        return
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(cast(Any, value))
    if not isinstance(value, Mapping):
        if head not in WHOLE:
            example = f"{full}=dict({next(iter(types_of(kind)))}=...)"
            raise InputError(
                f"{full} is {value!r}, but it is a group of settings; give a dict, such as {example}"
            )
        value = {WHOLE[head]: value}
    for inner, item in value.items():
        _put(group, inner, item, root, kind, f"{full}.")


def _value(value: Any, kind: Any, name: str) -> Any:
    """A value of the setting's type. Raises `InputError` if it is none."""
    if name == "environment.name" and not isinstance(value, str):
        value = give_environment(value)
    elif kind is str:
        value = rows_file(value) if name == "data.source" else name_of(value)
    elif kind == tuple[str, ...] and not isinstance(value, str):
        value = [name_of(item) for item in (value if isinstance(value, list | tuple) else [value])]
    try:
        return accept(value, kind)
    except Mismatch as expected:
        raise InputError(f"{name} is {value!r}; it must be {expected}") from None


def name_of(value: Any) -> Any:
    """What a setting that holds a name is written as: a finished run by its model's folder, a function by its name, several with commas."""
    if isinstance(value, Path):
        return str(value)
    if _is_store(value):
        return value.address
    folder = getattr(value, "model_folder", None)
    if isinstance(folder, Path):
        return str(folder)
    if isinstance(getattr(value, "config", None), VerifierConfig):
        return _verifier_name(value.config)
    if callable(value) and not isinstance(value, type):
        return give_function(value)
    if isinstance(value, list | tuple) and value:
        names = [name_of(item) for item in value]
        return ",".join(names) if all(isinstance(name, str) for name in names) else value
    return value


def _verifier_name(config: VerifierConfig) -> str:
    """A verifier's short name, or where more is set than that says, the name of a file of its settings, so that a run goes on without it."""
    words = config.stated
    if set(words) == {"kind", "column"} and "," not in words["column"]:
        return f"{config.kind}:{config.column}"
    return FILE + str(_kept(yaml.safe_dump(words, allow_unicode=True, sort_keys=False), ".yaml"))


def rows_file(data: Any) -> Any:
    """A data source for the stages, made of rows given by value.

    Rows are dicts with the columns of any format that files may have: a list or other iterable of them, a pandas or polars frame, a
    `datasets.Dataset`. They are written to a file named by their content, so two runs on the same rows read the same data, and lineage finds it.
    Names and paths are returned unchanged; an open store becomes `store`.
    """
    if _is_store(data):
        return "store"
    if isinstance(data, str):
        return data
    if isinstance(data, Path):
        return str(data)
    rows = list(_rows(data))
    if not rows:
        raise InputError(
            "data holds no row; give a list of dicts, a frame, a data set, or the name of a file"
        )
    lines: list[str] = []
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, Mapping):
            raise InputError(
                f"row {number} of data is {type(row).__name__}; every row must be a dict of columns"
            )
        try:
            lines.append(json.dumps(dict(row), ensure_ascii=False, default=_plain))
        except (TypeError, ValueError) as error:
            raise InputError(f"row {number} of data cannot be written as JSON ({error})") from error
    text = "".join(line + "\n" for line in lines)
    return str(_kept(text, ".jsonl"))


def _kept(text: str, suffix: str) -> Path:
    """The file that holds this text, named by it, in the project's folder of data."""
    file = PROJECT / "data" / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}{suffix}"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return file


def _is_store(value: Any) -> bool:
    """Whether it is an open `Store`, told without importing what a store needs."""
    return isinstance(getattr(type(value), "address", None), property)


def _rows(data: Any) -> Iterable[Any]:
    to_dicts = getattr(data, "to_dicts", None)  # polars
    if callable(to_dicts):
        return cast(Callable[[], list[Any]], to_dicts)()
    to_dict = getattr(data, "to_dict", None)
    if callable(to_dict) and hasattr(data, "iloc"):  # pandas
        return cast(Callable[..., list[Any]], to_dict)(orient="records")
    if isinstance(data, Mapping) or not isinstance(data, Iterable):
        raise InputError(
            f"data is {type(data).__name__}; give a list of dicts, a pandas or polars frame, a data set, or the name of a file"
        )
    return cast(Iterable[Any], data)


def _plain(value: Any) -> Any:
    """NumPy's numbers and arrays, as frames hold them, as Python's."""
    for name in ("tolist", "item"):
        convert = getattr(value, name, None)
        if callable(convert):
            return convert()
    raise TypeError(f"{type(value).__name__} is not text, a number, a list or a dict")


def free_folder(stage: str) -> Path:
    """`runs/STAGE-N` with the first number that is free."""
    return _first_free(PROJECT / stage, start=1)


def _first_free(folder: Path, *, start: int) -> Path:
    """`FOLDER-N` with the first number that is free."""
    return next(path for n in count(start) if not (path := Path(f"{folder}-{n}")).exists())
