"""The utility that a user names: the toy world's, a fitted judge's, or a Python function."""

from functools import wraps
from pathlib import Path

from prefloop.configs.copies import here
from prefloop.configs.functions import call, find_function, number_in
from prefloop.configs.verifiers import is_verifier
from prefloop.errors import InputError
from prefloop.feedback.gold import SentimentJudge, ToyJudge
from prefloop.feedback.simulate import Utility
from prefloop.records import Prompt
from prefloop.verifiers import open_verifier

TOY = "toy"


def find_gold(name: str) -> Utility | None:
    """The utility of this name, as `find_utility` has it; None where none is named."""
    return find_utility(name) if name else None


def find_utility(name: str) -> Utility:
    """`toy`, the folder of a fitted judge, a verifier (`exact:COLUMN`), or `module:function` for a function of (prompt, completion) that gives a number.

    Raises `InputError` if there is no such judge or function; the utility does where the function raises, or gives anything but a number.
    """
    if name == TOY:
        return ToyJudge().utility
    if Path(here(name)).is_dir():
        return SentimentJudge.load(here(name)).utility
    if ":" not in name:
        raise InputError(
            f"utility is {name!r}; it must be {TOY}, the folder of a fitted judge, or module:function for a function of (prompt, completion)"
        )
    if is_verifier(name):
        verifier = open_verifier(name)
        return lambda prompt, completion: verifier([prompt], [completion])[0]
    function = find_function(name, what="utility")

    @wraps(function)
    def utility(prompt: Prompt, completion: str) -> float:
        value = call(function, prompt, completion, what=f"utility {name}")
        return number_in(value, what=f"utility {name}", where=f"completion {completion[:60]!r}")

    return utility


def is_log_odds(name: str) -> bool:
    """Whether the utility's sign means something by itself: a fitted judge's is the log-odds that a text is positive."""
    return Path(here(name)).is_dir()
