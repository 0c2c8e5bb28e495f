"""The arena: anonymous models answer what people type, and their votes rate the models, in categories and controlled for style."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from prefloop.data.store import Filters, models, studio_models
from prefloop.errors import InputError
from prefloop.feedback.judged import JudgedItem, read_judged, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard
from prefloop.records import Prompt
from prefloop.studio.access import GUEST
from prefloop.studio.named_models import names_a_model
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
    left_out: Mapping[str, int]
    """Why votes do not count -> how many there are."""


def board_of(
    studio: Studio, project: str, *, category: str = "everything", controlled: bool = False
) -> ArenaBoard:
    """The models of a project by its votes. `controlled`: for length and style of the replies. Raises `InputError` for an unknown category."""
    if category not in CATEGORIES:
        raise InputError(f"category is {category!r}; it must be one of {', '.join(CATEGORIES)}")
    judged, left_out = _counted(studio, project)
    counts = {name: sum(fits(vote.prompt) for vote in judged) for name, fits in CATEGORIES.items()}
    found, why = _rated([vote for vote in judged if CATEGORIES[category](vote.prompt)], controlled)
    ends = [
        end
        for row in (found.ratings if found else ())
        for end in (row.rating.low, row.rating.high, row.rating.value)
        if math.isfinite(end)
    ]
    return ArenaBoard(
        board=found,
        why_none=why,
        low=min(ends, default=0.0),
        high=max(ends, default=1.0),
        counts=counts,
        left_out=left_out,
    )


def _counted(studio: Studio, project: str) -> tuple[list[JudgedItem], dict[str, int]]:
    """The votes that count, and how many do not, by reason."""
    table = studio_models.AccountRow
    with studio.read() as session:
        blocked = set(
            session.scalars(
                select(models.AnnotatorRow.name)
                .join(table, table.annotator_id == models.AnnotatorRow.id)
                .where(table.role == GUEST, ~table.active)
            )
        )
    count, left_out = [], {"a conversation that names a model": 0, "a visitor who is blocked": 0}
    for vote in read_judged(studio.store, Filters(projects=(project,), kinds=("human",))):
        if vote.annotator in blocked:
            left_out["a visitor who is blocked"] += 1
        elif names_a_model(vote):
            left_out["a conversation that names a model"] += 1
        else:
            count.append(vote)
    return count, {reason: votes for reason, votes in left_out.items() if votes}


def _rated(judged: Sequence[JudgedItem], controlled: bool) -> tuple[Leaderboard | None, str]:
    try:
        return leaderboard(votes_of(judged, style=controlled).votes), ""
    except InputError as error:
        return None, str(error)
