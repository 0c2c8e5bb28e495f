"""How verifiable rewards are named and set: `exact:COLUMN`, `number:COLUMN`, `regex:COLUMN`, `code:COLUMN`, or `verifier:FILE` with all settings."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

import regex

from prefloop.configs.common import require
from prefloop.configs.copies import here
from prefloop.configs.load import load_config

Kind = Literal["exact", "number", "regex", "code"]
KINDS: tuple[str, ...] = get_args(Kind)
FILE = "verifier:"

_OF_KINDS = {
    "extract": ("exact", "number", "code"),
    "ignore_case": ("exact", "regex"),
    **dict.fromkeys(("with_prompt", "seconds", "memory_mb", "output_kb", "workers", "unconfined"), ("code",)),
}
"""Settings that only some kinds have a use for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifierConfig:
    """A reward that needs no model: a completion is right or wrong by what a column of its prompt's row says.

    It is the file that `--reward_model verifier:FILE` names.
    """

    kind: Kind
    """exact: the answer is the column's text, or one of its list. number: the last number of the answer is the column's last number. regex: the column's regular expression is found in the completion. code: the completion is a program that passes the column's tests."""
    column: str
    """Column of the prompt's row that holds the answer, the pattern or the tests."""
    extract: str = ""
    """Regular expression that finds the answer in the completion: its last match, or that match's first group. Empty uses the whole completion; of code the last fenced block."""
    ignore_case: bool = False
    """Whether upper and lower case are the same, for exact and regex."""
    right: float = 1.0
    """Score of a completion that is right."""
    wrong: float = 0.0
    """Score of any other."""
    with_prompt: bool = False
    """For code: the program begins with the prompt's text, which the completion continues."""
    seconds: int = 5
    """For code: processor time of one program with its tests. By the clock it may take three times as long."""
    memory_mb: int = 512
    """For code: address space of one program."""
    output_kb: int = 64
    """For code: what one program may write to its output, and to its errors."""
    workers: int = 2
    """For code: programs that run at the same time."""
    unconfined: bool = False
    """For code: run programs where the kernel cannot keep them from files, network and other processes. They can then do whatever you can."""

    def __post_init__(self) -> None:
        require(self.kind in KINDS, f"kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        require(bool(self.column), "column is empty; name the column of the prompts that holds the answers")
        require(
            self.right > self.wrong,
            f"right is {self.right:g} and wrong {self.wrong:g}; right must be the higher score",
        )
        for name in ("seconds", "memory_mb", "output_kb", "workers"):
            require(getattr(self, name) >= 1, f"{name} is {getattr(self, name)}; it must be 1 or more")
        for setting in fields(self):
            value, kinds = getattr(self, setting.name), _OF_KINDS.get(setting.name, KINDS)
            require(
                self.kind in kinds or value == setting.default,
                f"{setting.name} is {value!r}, but kind is {self.kind}, which has no use for it; leave it out",
            )
        try:
            regex.compile(self.extract)
        except regex.error as error:
            require(False, f"extract is {self.extract!r}, which is not a regular expression: {error}")

    @property
    def stated(self) -> dict[str, Any]:
        """The settings that are not defaults, by name."""
        return {
            setting.name: getattr(self, setting.name)
            for setting in fields(self)
            if getattr(self, setting.name) != setting.default
        }


def is_verifier(scorer: str) -> bool:
    """Whether a scorer's name is a verifier's."""
    return scorer.partition(":")[0] in (*KINDS, FILE.removesuffix(":")) and ":" in scorer


def read_verifier(scorer: str) -> VerifierConfig:
    """The settings that a verifier's name stands for. Raises `InputError` if there is no such file, or it says something wrong."""
    kind, _, rest = scorer.partition(":")
    if scorer.startswith(FILE):
        require(
            Path(here(rest)).is_file(),
            f"reward_model is {scorer!r}, but there is no file {rest!r}; write the verifier's settings into it: kind and column",
        )
        return load_config(VerifierConfig, here(rest))
    require(bool(rest), f"reward_model is {scorer!r}; name the column too, for example {kind}:answer")
    return VerifierConfig(kind=kind, column=rest)  # pyright: ignore[reportArgumentType]


def verifiers_among(*given: str) -> tuple[VerifierConfig, ...]:
    """The verifiers among scorers; each of `given` may hold several names with commas between them."""
    names = (name.strip() for several in given for name in several.split(","))
    return tuple(read_verifier(name) for name in dict.fromkeys(names) if is_verifier(name))
