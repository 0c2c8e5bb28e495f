"""Scorers: what says how good a completion is. A reward model, an AI judge and a user's Python function all look the same from here."""

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

from prefloop.configs.functions import call, find_function, numbers_in, shown
from prefloop.configs.verifiers import is_verifier
from prefloop.records import Prompt
from prefloop.rollout.rollout import Rollout
from prefloop.verifiers import open_verifier


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
    """A user's reward function, named `module:function`, or a verifier (`exact:COLUMN`); modules in the current folder are found too.
    Its results are checked at every call.

    Raises `InputError` that says which part of `spec` is wrong: not of that form, no such module, no such function, not callable.
    """
    if is_verifier(spec):
        return open_verifier(spec)
    return checked(cast(Scorer, find_function(spec, what="reward function")), name=spec)


def checked(scorer: Scorer, *, name: str) -> Scorer:
    """The same scorer, whose result is refused unless it is one finite number for every completion.

    Raises `InputError` naming the scorer, and for a single bad value its index, the start of its prompt, and the value; what the scorer
    raises itself is one too, with its line. 0.0 is a number like others.
    """

    def scores(prompts: Sequence[Prompt], completions: Sequence[str]) -> Sequence[float]:
        what = f"reward function {name}"
        result = call(scorer, prompts, completions, what=what)
        return numbers_in(
            result,
            len(completions),
            what=what,
            unit="completion",
            where=lambda index: f"item {index} (prompt {shown(prompts[index].to_json())})",
        )

    return scores
