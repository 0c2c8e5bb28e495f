"""Scorers: what says how good a completion is. A reward model, an AI judge and a user's Python function all look the same from here."""

import math
from collections.abc import Iterable, Sequence
from numbers import Real
from typing import Any, Protocol, cast, runtime_checkable

from prefloop.configs.functions import call, find_function
from prefloop.errors import InputError
from prefloop.records import Prompt
from prefloop.rollout.rollout import Rollout


@runtime_checkable
class Scorer(Protocol):
    """Gives each completion a number, higher is better. Item i of both arguments belongs together; a prompt comes once for each of its
    completions, and a completion is the policy's text alone, without the prompt or the stop token."""

    def __call__(self, prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        """One score for every completion, in their order."""
        ...


def score(scorer: Scorer, rollout: Rollout) -> list[list[float]]:
    """A rollout's scores, by prompt and completion."""
    prompts, completions = rollout.pairs()
    return rollout.by_prompt([float(value) for value in scorer(prompts, completions)])


def load_function(spec: str) -> Scorer:
    """A user's reward function, named `module:function`; modules in the current folder are found too. Its results are checked at every call.

    Raises `InputError` that says which part of `spec` is wrong: not of that form, no such module, no such function, not callable.
    """
    return checked(cast(Scorer, find_function(spec, what="reward function")), name=spec)


def checked(scorer: Scorer, *, name: str) -> Scorer:
    """The same scorer, whose result is refused unless it is one finite number for every completion.

    Raises `InputError` naming the scorer, and for a single bad value its index, the start of its prompt, and the value; what the scorer
    raises itself is one too, with its line. 0.0 is a number like others.
    """

    def scores(prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        result: Any = call(scorer, prompts, completions, what=f"reward function {name}")
        if not isinstance(result, Iterable) or isinstance(result, str | bytes | dict):
            raise InputError(
                f"reward function {name} returned {_short(result)} of type {type(result).__name__}; "
                f"it must return a sequence of {len(completions)} numbers, one for each completion"
            )
        values = list(cast(Iterable[object], result))
        if len(values) != len(completions):
            raise InputError(
                f"reward function {name} returned {len(values)} values for {len(completions)} completions; it must return one for each"
            )
        return [_number(value, name, index, prompts[index]) for index, value in enumerate(values)]

    return scores


def _number(value: object, name: str, index: int, prompt: Prompt) -> float:
    """The value as a finite float, or the error that names it."""
    number = _as_float(value)
    if number is None or not math.isfinite(number):
        kind = "" if isinstance(value, float) else f" of type {type(value).__name__}"
        raise InputError(
            f"reward function {name} returned {_short(value)}{kind} for item {index} (prompt {_short(prompt.to_json())}); "
            "every value must be a finite number"
        )
    return number


def _as_float(value: object) -> float | None:
    """A number, or an array or tensor of one element without axes, as a float; None for anything else, text that reads like one included."""
    if isinstance(value, Real) or getattr(value, "shape", None) == ():
        try:
            return float(cast(Any, value))
        except (TypeError, ValueError, OverflowError):
            return None
    return None


def _short(value: object, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
