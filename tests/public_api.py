"""What is public, as types: `python -m tests.public_api` writes `prefloop/__init__.pyi`, which editors and type checkers read.

The functions of the stages are made from the commands' settings, so their signatures are written here from the same dataclasses. When they change,
the line of CHANGELOG.md that says so ends in the new `API` mark, which the test prints.
"""

import hashlib
import inspect
from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import prefloop
from prefloop.api.stages import COMMANDS
from prefloop.cli.commands import STAGES, load
from prefloop.configs.load import inner_of, is_optional, names_of, types_of
from prefloop.configs.names import short_names

REPOSITORY = Path(__file__).resolve().parents[1]
STUB = REPOSITORY / "prefloop" / "__init__.pyi"
HEAD = '''"""Written by `python -m tests.public_api`; see `prefloop/__init__.py`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from prefloop.api.aligning import Aligned, AlignPlan
from prefloop.api.evaluating import Evaluated
from prefloop.api.measures import agreement as agreement, ratings as ratings, verifier as verifier, win_rate as win_rate
from prefloop.api.results import FinishedRun, PolicyRun, RewardRun, open_run as open_run
from prefloop.api.studying import FinishedStudy
from prefloop.api.texts import TextPolicy, TextScorer, load_policy as load_policy, load_reward_model as load_reward_model
from prefloop.data.store import Store as Store
from prefloop.errors import InputError as InputError
from prefloop.studio.client import RemoteStudio as Studio

__version__: str
__all__: list[str]
STAGE_NAMES: tuple[str, ...]

Model = str | Path | FinishedRun | TextPolicy
Scorer = Model | TextScorer | Callable[..., Any]
Rows = str | Path | Store | Iterable[Mapping[str, Any]] | Any
'''
ALIGNING = {"align": "align", "plan": "plan", "study": "study", "evaluate": "eval"}
"""Functions that are no single stage, and their commands."""
RESULTS = {
    "reward": "RewardRun",
    "align": "Aligned",
    "plan": "AlignPlan",
    "study": "FinishedStudy",
    "eval": "Evaluated",
}
"""What functions return that train no policy."""
MODELS = ("model", "reference", "reference_last", "teacher")
OF_FOLDERS = {"out": " | Path", "store": " | Path | Store"}
SCORERS = ("reward_model", "loss", "preference")
BY_VALUE = {
    "policies": "Mapping[str, Model] | Sequence[str]",
    "metrics": "Sequence[str | Callable[..., Any]] | Callable[..., Any]",
    "gold": "str | Callable[..., Any]",
    "judge": "str | Callable[..., Any]",
}
"""Settings that Python gives otherwise than the command line does."""


def stub() -> str:
    """The whole file."""
    groups: dict[str, Any] = {}
    functions = [function(name, command, groups) for name, command in {**ALIGNING, **COMMANDS}.items()]
    return "\n\n".join([HEAD.rstrip(), *map(group, groups.values()), *functions]) + "\n"


def function(name: str, command: str, groups: dict[str, Any]) -> str:
    """One stage's signature; the groups of settings that it has are added to `groups`."""
    cls = load(STAGES[command].settings)
    result = RESULTS.get(command, "PolicyRun")
    given = "".join(f"    {line},\n" for line in parameters(cls, groups))
    return f'def {name}(\n    *,\n{given}) -> {result}:\n    """{str(cls.__doc__).strip()}"""'


def parameters(cls: Any, groups: dict[str, Any]) -> Iterator[str]:
    """Keyword arguments: settings, and the short names of the command line."""
    short = {long: name for name, long in short_names(cls).items()}
    for field in fields(cls):
        kind = types_of(cls)[field.name]
        if field.name == "data" and kind is not str:
            groups[kind.__name__] = kind
            yield f"data: Rows | {kind.__name__}Settings{'' if kind.__name__ == 'Preferences' else ' = ...'}"
        elif is_dataclass(kind):
            groups[kind.__name__] = kind  # pyright: ignore[reportAttributeAccessIssue]
            more = {
                "lora": " | int",
                "reward": " | Scorer | Sequence[Scorer]",
                "environment": " | str | Callable[..., Any]",
            }.get(field.name, "")
            yield f"{field.name}: {kind.__name__}Settings{more} | Any = ..."  # pyright: ignore[reportAttributeAccessIssue]
            if "engine" in types_of(kind):
                yield "sampler: Callable[..., Any] | str = ..."
        else:
            other_way = field.name == "out" or (field.name == "reward_model" and "reward" in types_of(cls))
            needed = field.default is MISSING and field.default_factory is MISSING and not other_way
            yield f"{field.name}: {written(kind, field.name)}{'' if needed else ' = ...'}"
    for long, name in short.items():
        if long not in ("data.source", "environment.name"):
            yield f"{name}: {written(names_of(cls)[long], '')}{OF_FOLDERS.get(name, '')} = ..."


def group(cls: Any) -> str:
    """A group of settings as a dict's type."""
    lines = "".join(f"    {name}: {written(kind, name)}\n" for name, kind in types_of(cls).items())
    return f'class {cls.__name__}Settings(TypedDict, total=False):\n    """{str(cls.__doc__).strip()}"""\n\n{lines.rstrip()}'


def written(kind: Any, name: str) -> str:
    """A setting's type as Python writes it."""
    if is_dataclass(kind):
        return "Mapping[str, Any] | Any"
    if name in BY_VALUE:
        return BY_VALUE[name]
    if name == "out":
        return "str | Path"
    if kind is str:
        return "Scorer | Sequence[Scorer]" if name in SCORERS else "Model" if name in MODELS else "str"
    if is_optional(kind):
        return f"{written(inner_of(kind), name)} | None"
    if get_origin(kind) is Literal:
        return f"Literal[{', '.join(map(repr, get_args(kind)))}]"
    if name == "method":
        one = written(get_args(kind)[0], "")
        return f"{one} | Sequence[{one}]"
    if get_origin(kind) is tuple:
        return f"Sequence[{written(get_args(kind)[0], '')}]"
    return kind.__name__


def mark() -> str:
    """Of all public signatures, the measures' and models' too: it changes when one of them does."""
    plain = [getattr(prefloop, name) for name in prefloop.__all__ if name not in COMMANDS]
    said = [
        stub(),
        *(f"{each.__name__}{inspect.signature(each)}" for each in plain if inspect.isfunction(each)),
    ]
    said += [
        f"{each.__name__}.{name}"
        for each in plain
        if inspect.isclass(each)
        for name in vars(each)
        if name[0] != "_"
    ]
    return f"API {hashlib.sha256(chr(10).join(said).encode()).hexdigest()[:8]}"


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
    print(f"wrote {STUB.name}; the mark for CHANGELOG.md is ({mark()})")
