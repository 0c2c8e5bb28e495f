"""The languages of the pages that annotators see.

A catalogue is a gettext file, `locale/LANGUAGE.po`, read when it is first needed. Messages are the English texts: `_("...")` in templates, `t("...")` and
`n("one", "many", count)` in scripts, and those of `SERVER` below, which other modules put together. A place for a value is written {name}.
"""

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from starlette.requests import Request

from prefloop.errors import InputError
from prefloop.studio.accounts import Who
from prefloop.studio.keys import KEYS

HERE = Path(__file__).parent
LANGUAGES: Mapping[str, str] = {
    "en": "English",
    "de": "Deutsch",
    "es": "Español",
    "zh": "中文",
    "ar": "العربية",
}
"""Code -> its own name."""
RIGHT_TO_LEFT = frozenset({"ar"})
TEMPLATES = frozenset(
    {
        *("base", "login", "code", "join", "join_as", "reset", "message"),
        *("queue", "label", "history", "settings", "two_factor", "recovery"),
        *("arena", "study", "complete"),
    }
)
"""Pages in every language; the others are English."""
SCRIPTS = ("label.js", "net.js", "chat.js", "questions.js", "spans.js", "pictures.js", "pages.js")
SERVER = (
    "Your work here is paused.",
    "The managers of the project have been told, and can let you continue.",
    "Too few of your answers to items with a known answer were right.",
    "This project asks for a qualification but has no items for it yet.",
    "You have given all {n} answers that this project asks of you.",
    "You have given today's {n} answers here.",
    "You can continue at midnight UTC.",
    "Thank you.",
    "{n} is better",
    "{n} is much better",
    "{n} is slightly better",
    "{n} is the best",
    "equally good",
    "all of them are bad",
    "cannot tell",
    "good",
    "bad",
    "rewritten",
    "skipped",
)
"""What is put together where nobody's language is known; see `Words.said`."""
_SENTENCE = re.compile(r"(?<=[.!?])\s+")
_STRING = r'"((?:[^"\\]|\\.)*)"'
_MARKED = re.compile(rf"\b(?:_|t)\({_STRING}")
_MARKED_COUNT = re.compile(rf"\bn\({_STRING}, {_STRING}")
_PLACE = re.compile(r"\\\{(\w+)\\\}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalogue:
    """A language's texts."""

    texts: Mapping[str, str] = field(default_factory=dict)
    counted: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Text for one -> the texts for each form of a number, in the order of CLDR: zero, one, two, few, many, other."""


class Words:
    """The texts of one language; called with a message, it gives the text with the values put in."""

    def __init__(self, language: str) -> None:
        self.language = language
        self.direction = "rtl" if language in RIGHT_TO_LEFT else "ltr"
        self._of = catalogue(language)

    def __call__(self, message: str, **values: Any) -> str:
        """A message in this language; in English where there is no text for it."""
        text = self._of.texts.get(message, message)
        return text.format(**values) if values else text

    def said(self, text: str) -> str:
        """What the server put together, sentence by sentence; sentences of people stay as they are."""
        return " ".join(map(self._sentence, _SENTENCE.split(text))) if self._of.texts else text

    def _sentence(self, text: str) -> str:
        if text in self._of.texts:
            return self._of.texts[text]
        for message, pattern in _server_patterns():
            if match := pattern.fullmatch(text):
                return self(message, **match.groupdict())
        return text

    def for_scripts(self) -> str:
        """The texts of scripts as JSON."""
        texts, counted = script_messages()
        return json.dumps(
            {name: self._of.texts[name] for name in texts if name in self._of.texts}
            | {one: self._of.counted[one] for one in counted if one in self._of.counted},
            ensure_ascii=False,
        )


@cache
def words(language: str) -> Words:
    """The texts of a language that `LANGUAGES` names."""
    return Words(language)


def words_of(request: Request, who: Who | None) -> Words:
    """The texts in the language of a person, or else of their browser."""
    setting = who.settings.get("language", "") if who else ""
    return words(choose(setting, request.headers.get("accept-language", "")))


def choose(setting: str, accepted: str) -> str:
    """The language of a person's setting; otherwise the first of `Accept-Language` that there is, by its weights; otherwise English."""
    if setting in LANGUAGES:
        return setting
    weighted: list[tuple[float, str]] = []
    for part in accepted[:500].split(","):
        name, _, weight = part.partition(";q=")
        try:
            weighted.append((float(weight or 1), name.strip().lower().partition("-")[0]))
        except ValueError:
            continue
    liked = sorted((pair for pair in weighted if pair[0] > 0), key=lambda pair: -pair[0])
    return next((name for _, name in liked if name in LANGUAGES), "en")


@cache
def catalogue(language: str) -> Catalogue:
    """A language's catalogue; of English an empty one."""
    return Catalogue() if language == "en" else read_po(HERE / "locale" / f"{language}.po")


def read_po(path: Path) -> Catalogue:
    """A gettext catalogue. Raises `InputError`, with the line, for what it cannot read."""
    texts: dict[str, str] = {}
    counted: dict[str, tuple[str, ...]] = {}
    for entry in _entries(path):
        forms = tuple(text for name, text in entry.items() if name.startswith("msgstr["))
        if forms:
            counted[entry["msgid"]] = forms
        else:
            texts[entry["msgid"]] = entry["msgstr"]
    texts.pop("", "")
    return Catalogue(texts=texts, counted=counted)


def _entries(path: Path) -> list[dict[str, str]]:
    """Keyword -> text of each entry; entries are divided by empty lines."""
    entries: list[dict[str, str]] = [{}]
    keyword = ""
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        if not line.strip():
            entries.append({})
        elif not line.startswith("#"):
            name, _, text = line.partition(" ") if not line.startswith('"') else (keyword, "", line)
            keyword = name
            try:
                entries[-1][keyword] = entries[-1].get(keyword, "") + ast.literal_eval(text)
            except (ValueError, SyntaxError) as error:
                raise InputError(f"{path}:{number}: not a line of a gettext catalogue: {line!r}") from error
    return [entry for entry in entries if entry]


@cache
def _server_patterns() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (message, re.compile(_PLACE.sub(r"(?P<\1>\\S+)", re.escape(message))))
        for message in SERVER
        if "{" in message
    ]


def messages_in(source: str) -> tuple[list[str], list[tuple[str, str]]]:
    """The messages that a template or a script marks, and the pairs for one and for many."""
    return (
        [ast.literal_eval(f'"{text}"') for text in _MARKED.findall(source)],
        [(one, many) for one, many in _MARKED_COUNT.findall(source)],
    )


@cache
def script_messages() -> tuple[list[str], dict[str, str]]:
    """The messages of scripts, with the names of keys; text for one -> text for many."""
    texts, counted = [key.says for key in KEYS.values()], {}
    for name in SCRIPTS:
        found, pairs = messages_in((HERE / "static" / name).read_text("utf-8"))
        texts += found
        counted |= dict(pairs)
    return list(dict.fromkeys(texts)), counted


@cache
def messages() -> tuple[list[str], dict[str, str]]:
    """Every message: of templates, scripts, keys and the server."""
    texts, counted = script_messages()
    for name in sorted(TEMPLATES):
        texts = texts + messages_in((HERE / "templates" / f"{name}.html").read_text("utf-8"))[0]
    return list(dict.fromkeys([*texts, *SERVER])), counted
