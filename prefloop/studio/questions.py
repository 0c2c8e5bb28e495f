"""Further questions of a project, asked of every item beside its main one: what they are, and how they are written down as YAML."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal, get_args

import yaml

from prefloop.configs.common import require
from prefloop.errors import InputError

QuestionKind = Literal["rating", "choice", "text", "spans"]
QUESTION_KINDS: tuple[str, ...] = get_args(QuestionKind)
MOST_QUESTIONS = 12
MOST_OPTIONS = 20
MOST_SPANS = 200
"""Of one answer."""
LONGEST_COMMENT = 2000
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question beside the main one."""

    name: str
    """Its key in exports."""
    kind: QuestionKind
    ask: str = ""
    """Its wording on the page; the name if it is empty."""
    of: Literal["item", "reply"] = "item"
    """Asked once for an item, or of each reply. Spans are marked in each reply."""
    levels: int = 5
    """Of a rating: 1 (worst) to this."""
    options: tuple[str, ...] = ()
    """Of a choice: what can be chosen. Of spans: their labels."""
    required: bool = False
    """Whether an answer without it is refused. Spans are never required: a reply may have nothing to mark."""

    def __post_init__(self) -> None:
        where = f"question {self.name!r}"
        require(
            _NAME.fullmatch(self.name) is not None,
            f"{where}: a name has 1 to 40 letters, digits, _ and -, and begins with a letter",
        )
        require(
            self.kind in QUESTION_KINDS,
            f"{where}: kind is {self.kind!r}; it must be one of {', '.join(QUESTION_KINDS)}",
        )
        require(self.of in ("item", "reply"), f"{where}: of is {self.of!r}; it must be item or reply")
        require(len(self.ask) <= 300, f"{where}: ask has {len(self.ask)} characters; 300 are the most")
        require(2 <= self.levels <= 9, f"{where}: levels is {self.levels}; it must be 2 to 9")
        require(
            self.kind == "rating" or self.levels == 5,
            f"{where}: levels is only for ratings, and this is of kind {self.kind}; leave it out",
        )
        require(
            self.kind != "spans" or self.of == "reply", f"{where}: spans are marked in replies; set of: reply"
        )
        require(
            self.kind != "spans" or not self.required,
            f"{where}: spans cannot be required, because a reply may have nothing to mark; leave required out",
        )
        self._check_options(where)

    def _check_options(self, where: str) -> None:
        if self.kind not in ("choice", "spans"):
            require(not self.options, f"{where}: options is only for choice and spans; leave it out")
            return
        least = 2 if self.kind == "choice" else 1
        require(
            least <= len(self.options) <= MOST_OPTIONS,
            f"{where}: options has {len(self.options)} entries; give {least} to {MOST_OPTIONS}",
        )
        require(
            all(0 < len(option.strip()) <= 60 for option in self.options)
            and len(set(self.options)) == len(self.options),
            f"{where}: options are texts of 1 to 60 characters, each once",
        )

    @property
    def wording(self) -> str:
        """What the page asks."""
        return self.ask or self.name

    def to_json(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON types."""
        written: dict[str, Any] = {}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if entry.default is MISSING or value != entry.default:
                written[entry.name] = list(value) if isinstance(value, tuple) else value
        return written


@dataclass(frozen=True, kw_only=True, slots=True)
class QuestionAnswer:
    """An answer to one question."""

    question: str
    value: int | str
    """A level, an option or a text."""
    place: int | None = None
    """The reply it is about, by its place on the page from 0; None if it is about the item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Span:
    """A part of a reply with a label. `text[start:end]` is the part, in Unicode characters."""

    question: str
    place: int
    start: int
    end: int
    label: str
    comment: str = ""


_KINDS: Mapping[str, tuple[type, str]] = {
    "levels": (int, "a number"),
    "required": (bool, "true or false"),
    "options": (list, "a list"),
}
"""Key of a question -> its type; the others are texts."""


def questions_of(given: Any) -> tuple[Question, ...]:
    """Questions from JSON or YAML types. Raises `InputError` that names the question, the key, and what would be right."""
    if not isinstance(given, Sequence) or isinstance(given, str):
        raise InputError(f"questions are {given!r}; write a list, one question an entry")
    found = tuple(_question(entry, at) for at, entry in enumerate(given, 1))
    check_questions(found)
    return found


def _question(entry: Any, at: int) -> Question:
    if not isinstance(entry, Mapping):
        raise InputError(f"question {at} is {entry!r}; write name, kind and what else it needs")
    known = {entry.name for entry in fields(Question)}
    where = f"question {entry.get('name', at)!r}"
    if unknown := sorted(str(key) for key in entry if key not in known):
        raise InputError(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(sorted(known))}")
    if missing := [key for key in ("name", "kind") if key not in entry]:
        raise InputError(f"{where}: {missing[0]} is missing")
    for key, value in entry.items():
        kind, words = _KINDS.get(key, (str, "a text"))
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{where}: {key} is {value!r}; it must be {words}")
    options = entry.get("options", [])
    if not all(isinstance(option, str) for option in options):
        raise InputError(
            f"{where}: options are {options!r}; each must be a text, in quotes if it looks like something else"
        )
    of = {"of": "reply"} if entry["kind"] == "spans" else {}
    return Question(**{**of, **entry, "options": tuple(options)})


def check_questions(questions: Sequence[Question], *, kind: str = "") -> None:
    """Raise `InputError` for questions that do not go together. `kind`: of the project."""
    require(
        len(questions) <= MOST_QUESTIONS,
        f"there are {len(questions)} questions; {MOST_QUESTIONS} are the most",
    )
    names = [question.name for question in questions]
    twice = next((name for name in names if names.count(name) > 1), "")
    require(not twice, f"two questions are named {twice!r}; give each its own name")
    if kind == "clip" and any(question.kind == "spans" for question in questions):
        raise InputError("clips have no text to mark; leave the question of kind spans out")


def for_page(questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Questions as the labelling page is told of them: every key, and the wording."""
    return [
        {
            "name": entry.name,
            "kind": entry.kind,
            "wording": entry.wording,
            "of": entry.of,
            "levels": entry.levels,
            "options": list(entry.options),
            "required": entry.required,
        }
        for entry in questions
    ]


def read_yaml(text: str) -> tuple[Question, ...]:
    """Questions as YAML; `InputError` with the line for what cannot be read."""
    try:
        given = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f"line {error.problem_mark.line + 1}: "
        raise InputError(f"questions: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"questions: not YAML ({error})") from None
    return questions_of(given if given is not None else [])


def write_yaml(questions: Sequence[Question]) -> str:
    """Questions as YAML that `read_yaml` reads; nothing for no question."""
    if not questions:
        return ""
    return yaml.safe_dump(
        [question.to_json() for question in questions], sort_keys=False, allow_unicode=True, width=100
    )
