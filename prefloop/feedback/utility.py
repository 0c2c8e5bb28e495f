"""The utility that a user names: the toy world's, or a Python function."""

from functools import wraps
from numbers import Real

from prefloop.configs.functions import find_function
from prefloop.errors import InputError
from prefloop.feedback.gold import ToyJudge
from prefloop.feedback.simulate import Utility
from prefloop.records import Prompt

TOY = "toy"


def find_utility(name: str) -> Utility:
    """`toy`, or `module:function` for a function of (prompt, completion) that gives a number.

    Raises `InputError` where there is no such function; the utility does where the function gives anything but a number.
    """
    if name == TOY:
        return ToyJudge().utility
    if ":" not in name:
        raise InputError(
            f"utility is {name!r}; it must be {TOY}, or module:function for a function of (prompt, completion)"
        )
    function = find_function(name, what="utility")

    @wraps(function)
    def utility(prompt: Prompt, completion: str) -> float:
        value = function(prompt, completion)
        if not isinstance(value, Real) and getattr(value, "shape", None) != ():
            raise InputError(
                f"utility {name} gave {value!r:.60} of type {type(value).__name__} for completion {completion[:60]!r}; it must be a number"
            )
        return float(value)  # pyright: ignore[reportArgumentType]  a number, or an array without axes

    return utility
