"""Verifiable rewards (arXiv:2411.15124): a completion is right or wrong, by what a column of its prompt's row says."""

import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal, InvalidOperation
from functools import cache
from typing import Any

import regex

from prefloop.configs.functions import shown
from prefloop.configs.verifiers import VerifierConfig, read_verifier
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.verifiers.sandbox import check_sandbox, run_program

log = logging.getLogger(__name__)

MATCH_SECONDS = 1.0
"""A pattern that takes longer on one completion has found nothing: some patterns take exponential time on the right text."""

_NUMBER = regex.compile(r"(?<![\w.])[-+\N{MINUS SIGN}]?\$?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d+)?")
_FENCED = regex.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", regex.DOTALL | regex.MULTILINE)


class Verifier:
    """A scorer without a model: `right` for completions that are right, `wrong` for all others."""

    def __init__(self, config: VerifierConfig) -> None:
        """Raises `InputError` if programs are to run and this machine cannot confine them."""
        self.config = config
        self._slow = 0
        if config.kind == "code":
            check_sandbox(config)

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> list[float]:
        """One score a completion. Raises `InputError` for a prompt whose row has no such column, or one that cannot be used."""
        wanted = [self._wanted(prompt) for prompt in prompts]
        if self.config.kind == "code":
            with ThreadPoolExecutor(self.config.workers) as pool:
                found = list(pool.map(self._passes, prompts, completions, wanted))
        else:
            found = [
                self._is_right(text, expected) for text, expected in zip(completions, wanted, strict=True)
            ]
        return [self.config.right if right else self.config.wrong for right in found]

    def _wanted(self, prompt: Prompt) -> Any:
        column = self.config.column
        if prompt.columns.get(column) is None:
            has = (
                ", ".join(prompt.columns)
                or "no columns; they are read from files of prompts, not from a store"
            )
            raise InputError(
                f"verifier {self.config.kind}:{column}: the prompt {shown(prompt.to_json())} has no {column!r} (it has {has})"
            )
        problem = problem_with(self.config, prompt.columns[column])
        if problem:
            raise InputError(
                f"verifier {self.config.kind}:{column}: {problem} (prompt {shown(prompt.to_json())})"
            )
        return prompt.columns[column]

    def _is_right(self, text: str, wanted: Any) -> bool:
        if self.config.kind == "regex":
            flags = regex.IGNORECASE if self.config.ignore_case else 0
            pattern = _compiled(wanted, flags)
            return bool(self._within_time(lambda: pattern.search(text, timeout=MATCH_SECONDS)))
        answer = self._answer(text)
        if answer is None:
            return False
        if self.config.kind == "number":
            number = last_number(answer)
            return number is not None and number == last_number(_text(wanted))
        alike = [_text(answer) for answer in (wanted if isinstance(wanted, list) else [wanted])]
        return self._same(answer) in map(self._same, alike)

    def _same(self, text: str) -> str:
        """What is compared: white space counts as one space, and none at the ends."""
        text = " ".join(text.split())
        return text.casefold() if self.config.ignore_case else text

    def _answer(self, text: str) -> str | None:
        """The part of a completion that is looked at; None where `extract` finds none."""
        if not self.config.extract:
            return text
        pattern = _compiled(self.config.extract, 0)
        matches = self._within_time(lambda: list(pattern.finditer(text, timeout=MATCH_SECONDS)))
        if not matches:
            return None
        return matches[-1].group(1) if pattern.groups else matches[-1].group()

    def _within_time(self, search: Callable[[], Any]) -> Any:
        """What a search finds; None if it takes too long."""
        try:
            return search()
        except TimeoutError:
            self._slow += 1
            if self._slow == 1:
                log.warning(
                    "a regular expression took more than %g s on a completion, which counts as wrong; make the pattern simpler (no repeats inside repeats)",
                    MATCH_SECONDS,
                )
            return None

    def _passes(self, prompt: Prompt, text: str, wanted: Any) -> bool:
        answer = self._answer(text)
        if answer is None:
            return False
        program = answer if self.config.extract or self.config.with_prompt else code_in(answer)
        if self.config.with_prompt:
            program = _prompt_text(prompt) + program
        if _is_cases(wanted):
            return all(self._case(program, case) for case in wanted)
        tests = "\n".join(wanted) if isinstance(wanted, list) else wanted
        return run_program(program, tests, self.config).passed

    def _case(self, program: str, case: Mapping[str, str]) -> bool:
        ran = run_program(program, "", self.config, given=case["input"], may_exit=True)
        return ran.passed and _lines(ran.output) == _lines(case["output"])


def problem_with(config: VerifierConfig, value: Any) -> str:
    """Why a column's value cannot be verified against, and what would be right; empty if it can."""
    what = f"{config.column} is {shown(value)}"
    match config.kind:
        case "exact":
            answers = value if isinstance(value, list) else [value]
            fits = bool(answers) and all(isinstance(item, str | int | float) for item in answers)
            return "" if fits else f"{what}; write text, a number, or a list of them"
        case "number":
            one = isinstance(value, str | int | float) and not isinstance(value, bool)
            return "" if one and last_number(_text(value)) is not None else f"{what}, which holds no number"
        case "regex":
            if not isinstance(value, str) or not value:
                return f"{what}; write a regular expression"
            try:
                _compiled(value, 0)
            except regex.error as error:
                return f"{what}, which is not a regular expression ({error})"
            return ""
        case "code":
            listed = (
                isinstance(value, list) and bool(value) and all(isinstance(answer, str) for answer in value)
            )
            if (isinstance(value, str) and value.strip()) or listed or _is_cases(value):
                return ""
            return f'{what}; write Python tests (text or a list of texts), or a list of {{"input": ..., "output": ...}}'


def last_number(text: str) -> Decimal | None:
    """The last number in a text, `1,234.5` and `$3` among them; None if there is none."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    plain = found[-1].replace(",", "").replace("$", "").replace("\N{MINUS SIGN}", "-")
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def code_in(text: str) -> str:
    """The last fenced block of a completion, or all of it where it has none."""
    blocks = _FENCED.findall(text)
    return blocks[-1] if blocks else text


def open_verifier(name: str) -> Verifier:
    """The verifier of a name, as `configs.verifiers` has them. Raises `InputError`."""
    return Verifier(read_verifier(name))


@cache
def _compiled(pattern: str, flags: int) -> Any:
    return regex.compile(pattern, flags)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _lines(text: str) -> list[str]:
    """An output as programs are judged by it: spaces at the ends of lines and empty last lines do not count."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _is_cases(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(
            isinstance(case, Mapping)
            and isinstance(case.get("input"), str)
            and isinstance(case.get("output"), str)
            for case in value
        )
    )


def _prompt_text(prompt: Prompt) -> str:
    return prompt.content if isinstance(prompt.content, str) else prompt.content[-1].content
