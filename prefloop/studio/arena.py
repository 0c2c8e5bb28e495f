"""The arena: anonymous models answer what people type, and their votes rate the models, in categories and controlled for style."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from prefloop.data.store import Filters
from prefloop.errors import InputError
from prefloop.feedback.judged import JudgedItem, read_judged, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard
from prefloop.records import Prompt
from prefloop.studio.service import Studio

LONG = 500
"""Characters of a long message."""
_CODE = re.compile(
    r"```|\b(def|class|function|import|SELECT|python|javascript|html|sql|regex|compile)\b", re.I
)
_MATHS = re.compile(
    r"\d\s*[-+*/^=]\s*\d|\\(frac|sum|int)|\b(equation|integral|probability|prove|solve)\b", re.I
)


def _last(prompt: Prompt) -> str:
    content = prompt.content
    return content if isinstance(content, str) else content[-1].content


def _turns(prompt: Prompt) -> int:
    content = prompt.content
    return 1 if isinstance(content, str) else sum(message.role == "user" for message in content)


CATEGORIES: Mapping[str, Callable[[Prompt], bool]] = {
    "everything": lambda prompt: True,
    "first messages": lambda prompt: _turns(prompt) == 1,
    "later messages": lambda prompt: _turns(prompt) > 1,
    "code": lambda prompt: _CODE.search(_last(prompt)) is not None,
    "mathematics": lambda prompt: _MATHS.search(_last(prompt)) is not None,
    "long messages": lambda prompt: len(_last(prompt)) >= LONG,
}
"""Name -> whether a prompt belongs to it, by its words: quick, the same every time, and coarse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ArenaBoard:
    """A leaderboard, and the ends of its axis."""

    board: Leaderboard | None
    why_none: str
    low: float
    high: float
    counts: Mapping[str, int]
    """Category -> votes."""


def board_of(
    studio: Studio, project: str, *, category: str = "everything", controlled: bool = False
) -> ArenaBoard:
    """The models of a project by its votes. `controlled`: for length and style of the replies. Raises `InputError` for an unknown category."""
    if category not in CATEGORIES:
        raise InputError(f"category is {category!r}; it must be one of {', '.join(CATEGORIES)}")
    judged = read_judged(studio.store, Filters(projects=(project,), kinds=("human",)))
    counts = {name: sum(fits(vote.prompt) for vote in judged) for name, fits in CATEGORIES.items()}
    found, why = _rated([vote for vote in judged if CATEGORIES[category](vote.prompt)], controlled)
    ends = [
        end
        for row in (found.ratings if found else ())
        for end in (row.rating.low, row.rating.high, row.rating.value)
        if math.isfinite(end)
    ]
    return ArenaBoard(
        board=found, why_none=why, low=min(ends, default=0.0), high=max(ends, default=1.0), counts=counts
    )


def _rated(judged: Sequence[JudgedItem], controlled: bool) -> tuple[Leaderboard | None, str]:
    try:
        return leaderboard(votes_of(judged, style=controlled).votes), ""
    except InputError as error:
        return None, str(error)
