"""Which column of a file of votes says what: the two models, the winner, the prompt, the answers, the judge."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from prefloop.data.detect import read_columns
from prefloop.data.rows import Row
from prefloop.errors import InputError

SIDES = (
    ("model_a", "model_b"),
    ("model_x", "model_y"),
    ("model_1", "model_2"),
    ("model1", "model2"),
    ("generator_1", "generator_2"),
    ("model_left", "model_right"),
    ("left_model", "right_model"),
    ("system_a", "system_b"),
    ("player_a", "player_b"),
    ("left", "right"),
)
"""Columns that name the two models, the surest first."""
TEXTS = (
    ("completion_a", "completion_b"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("output_a", "output_b"),
    ("completion_1", "completion_2"),
    ("response_1", "response_2"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
)
"""Columns that hold the two answers, or the two dialogues that end in them."""
ONE_HOT = ("winner_model_a", "winner_model_b", "winner_tie")
GAMES = ("g1_winner", "g2_winner")
ALIASES: Mapping[str, tuple[str, ...]] = {
    "winner": ("winner", "win", "vote", "verdict", "preference"),
    "prompt_id": ("prompt_id", "question_id", "instruction_id"),
    "prompt": ("prompt", "instruction", "question"),
    "judge": ("judge", "annotator", "worker", "judge_id", "annotator_id", "worker_id", "rater", "user_id"),
    "turn": ("turn",),
    "language": ("language", "lang"),
}
"""What a row says -> the columns that say it, the surest first."""
ROLES = ("model_a", "model_b", "completion_a", "completion_b", *ALIASES)
"""What `columns` may name."""


def column_map(given: Sequence[str], roles: Collection[str] = ROLES) -> dict[str, str]:
    """What `columns` says of a file of votes, spelled as in `data.columns`. Raises `InputError` for what is not of that form."""
    return read_columns(
        given, known=roles, setting="columns", example="model_a=left_model,model_b=right_model,winner=vote"
    )


def holds_votes(columns: Collection[str], mapped: Mapping[str, str] | None = None) -> bool:
    """Whether columns are those of votes between two models."""
    mapped, named = mapped or {}, by_lower(columns)
    sides = {"model_a", "model_b"} <= mapped.keys() or any(_has(named, pair) for pair in SIDES)
    outcome = "winner" in mapped or any(name in named for name in ALIASES["winner"])
    return sides and (outcome or _has(named, ONE_HOT[:2]) or _has(named, GAMES))


@dataclass(frozen=True, kw_only=True, slots=True)
class Columns:
    """Which column says what."""

    roles: dict[str, str]
    ids: tuple[str, ...] = ()
    """Columns of the models' numbers, where the names stand in others."""
    one_hot: tuple[str, ...] = ()
    games: tuple[str, ...] = ()


def outcome_columns(found: Columns) -> dict[str, str]:
    """Where the winner is read from, if from more than one column."""
    several = found.one_hot or found.games
    return {"winner": " and ".join(several)} if several else {}


def by_lower(columns: Collection[str]) -> dict[str, str]:
    """Columns by their names in lower case."""
    return {str(column).lower(): str(column) for column in columns}


def _has(named: Mapping[str, str], columns: Sequence[str]) -> bool:
    return all(column in named for column in columns)


def columns_of(source: str, rows: Sequence[Row], seen: Sequence[str], mapped: Mapping[str, str]) -> Columns:
    """The columns of a file, by what the first rows hold and what `mapped` names. Raises `InputError` if they are not those of votes."""
    for role, column in mapped.items():
        if column not in seen:
            raise InputError(
                f"{source}: columns says {role}={column}, but there is no column {column!r}; there are: {', '.join(seen)}"
            )
    if not holds_votes(seen, mapped):
        raise InputError(_no_votes(source, seen))
    named = by_lower(seen)
    roles = dict(mapped)
    for role, aliases in ALIASES.items():
        column = next((named[alias] for alias in aliases if alias in named), "")
        if column and role not in roles:
            roles[role] = column
    ids: tuple[str, ...] = ()
    if not {"model_a", "model_b"} <= mapped.keys():
        pair, ids, shown = _sides(rows, named)
        roles |= {"model_a": pair[0], "model_b": pair[1]}
        roles |= zip(("completion_a", "completion_b"), shown, strict=False)
    for pair in TEXTS:
        if _has(named, pair) and "completion_a" not in roles:
            roles |= {"completion_a": named[pair[0]], "completion_b": named[pair[1]]}
    one_hot = tuple(named[name] for name in ONE_HOT if name in named) if "winner" not in roles else ()
    games = tuple(named[name] for name in GAMES) if _has(named, GAMES) and "winner" not in mapped else ()
    if games:
        roles.pop("winner", None)
    order = {role: at for at, role in enumerate(ROLES)}
    roles = dict(sorted(roles.items(), key=lambda item: order[item[0]]))
    return Columns(roles=roles, ids=ids, one_hot=() if games else one_hot, games=games)


def _sides(
    rows: Sequence[Row], named: Mapping[str, str]
) -> tuple[tuple[str, str], tuple[str, ...], tuple[str, ...]]:
    """The columns of the models' names, of their numbers where those stand apart, and of the answers where `left` and `right` hold them.

    A file that has `left` and `right` beside another pair names the models there (and numbers them in the other), or shows their answers.
    """
    found = [(named[a], named[b]) for a, b in SIDES if a in named and b in named]
    if len(found) == 1 or found[-1] != (named.get("left"), named.get("right")):
        return found[0], (), ()
    ids, sides = found[0], found[-1]
    keys = [
        (row.values.get(one), row.values.get(two))
        for row in rows
        for one, two in zip(ids, sides, strict=True)
    ]
    texts = {(str(a), str(b)) for a, b in keys}
    one_to_one = len(texts) == len({a for a, _ in texts}) == len({b for _, b in texts})
    if one_to_one and any(a != b for a, b in texts):
        return sides, ids, ()
    if {b for _, b in texts} <= {a for a, _ in texts}:
        return sides, (), ()  # the same names, as they were shown
    return ids, (), sides


def _no_votes(source: str, seen: Sequence[str]) -> str:
    scores = {"model", "score"} <= set(seen)
    hint = "; it scores single answers and compares none of them" if scores else ""
    return (
        f"{source}: columns {', '.join(seen) or 'none'} are not those of votes{hint}. Votes need two models "
        f"({', '.join('/'.join(pair) for pair in SIDES)}) and who won (winner, preference, or winner_model_a/winner_model_b); "
        "name other columns with --columns model_a=COLUMN,model_b=COLUMN,winner=COLUMN"
    )
