"""Votes between two models from files: who was compared with whom, who won, on which prompt, by whom.

Read are tables with a column for each model and one for the winner (the arenas' and crowds' files), AlpacaEval's annotations (`preference`
from 1 to 2), FastChat's pair judgements (two games, the answers swapped in the second), and one-hot winners. Which column says what is decided
once for a file, from its columns; every row must then say it.
"""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from prefloop.data import fields
from prefloop.data import messages as chats
from prefloop.data.detect import read_columns
from prefloop.data.read import read_rows
from prefloop.data.rows import BadRow, Row, RowError, show
from prefloop.errors import InputError
from prefloop.records import Message, Prompt

VoteChoice = Literal["a", "b", "tie", "both_bad"]

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

FIRST = {
    "a",
    "x",
    "1st",
    "first",
    "left",
    "model_a",
    "model_x",
    "model_1",
    "model1",
    "left_model",
    "model_left",
}
FIRST |= {"leftvote", "response_a", "answer_a", "output_1", "generator_1", "system_a", "player_a", "a_wins"}
FIRST |= {"[[a]]", "a>b", "completion_a", "assistant_a", "model a", "response a", "answer a", "assistant a"}
SECOND = {"b", "y", "2nd", "second", "right", "model_b", "model_y", "model_2", "model2", "right_model"}
SECOND |= {"model_right", "rightvote", "response_b", "answer_b", "output_2", "generator_2", "system_b"}
SECOND |= {"player_b", "b_wins", "[[b]]", "b>a", "completion_b", "assistant_b", "model b", "response b"}
SECOND |= {"answer b", "assistant b"}
TIE = {"tie", "tied", "draw", "equal", "same", "tievote", "[[c]]", "a=b", "tie (inconsistent)"}
TIE |= {"both_good", "both good", "bothgood", "tie (bothgood)", "tie (both good)"}
BOTH_BAD = {"both_bad", "both bad", "bothbad", "bothbad_vote", "tie (bothbad)", "tie (both bad)"}

_ROWS_LOOKED_AT = 100
_SHOWN = 20
_RIGHT = "write model_a, model_b, tie or both_bad, or the winning model's name"


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """One judgement between two models' answers."""

    models: tuple[str, str]
    choice: VoteChoice
    p_first: float
    """How likely the first one's answer is the better one: 1, 0 or ½, or between them where a judge gave a soft preference."""
    prompt_id: str
    """What tells prompts apart; empty if the file does not say, and the vote then has a prompt of its own."""
    judge: str
    turn: str
    language: str
    prompt: Prompt
    """Its content; an empty text where the file does not hold it."""
    texts: tuple[str, str]
    """The answers; empty if the file does not hold them."""
    origin: str


@dataclass(frozen=True, kw_only=True, slots=True)
class VoteFile:
    """The votes of a file, and what became of its rows: `read == len(votes) + len(bad)`."""

    source: str
    votes: tuple[Vote, ...]
    bad: tuple[BadRow, ...]
    columns: Mapping[str, str]
    """What a vote says -> the column it was read from."""
    unused_columns: tuple[str, ...]

    @property
    def has_texts(self) -> bool:
        """Whether the file holds the answers."""
        return "completion_a" in self.columns

    @property
    def facts(self) -> dict[str, int]:
        """Counts of what the votes are about."""
        return {
            "votes": len(self.votes),
            "models": len({name for vote in self.votes for name in vote.models}),
            "prompts": len({vote.prompt_id for vote in self.votes if vote.prompt_id}),
            "judges": len({vote.judge for vote in self.votes if vote.judge}),
            "ties": sum(vote.choice == "tie" for vote in self.votes),
            "both bad": sum(vote.choice == "both_bad" for vote in self.votes),
            "soft preferences": sum(vote.p_first not in (0.0, 0.5, 1.0) for vote in self.votes),
        }

    def to_json(self) -> dict[str, Any]:
        """What was found, as JSON types; not the votes themselves."""
        return {
            "source": self.source,
            "format": "votes",
            "facts": self.facts,
            "columns": dict(self.columns),
            "bad": [row.to_json() for row in self.bad],
            "unused_columns": list(self.unused_columns),
        }

    def __str__(self) -> str:
        models = self.facts["models"]
        parts = [f"{self.source}: {len(self.votes)} votes between {models} models"]
        parts.append(", ".join(f"{role} from {column}" for role, column in self.columns.items()))
        if self.bad:
            places = [row.origin.removeprefix(f"{self.source}:") for row in self.bad[:_SHOWN]]
            more = [f"and {len(self.bad) - _SHOWN} more"] if len(self.bad) > _SHOWN else []
            parts.append(f"{len(self.bad)} bad rows left out: {', '.join([*places, *more])}")
        if self.unused_columns:
            parts.append(f"columns not used: {', '.join(self.unused_columns)}")
        return ". ".join(parts) + "."


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


def refuse_votes(rows: Sequence[Row], source: str) -> None:
    """Raise `InputError` for rows that are votes: read as another format they would be prompts, and the votes lost in silence."""
    seen = {column for row in rows for column in row.values}
    if holds_votes(seen) and not {"chosen", "rejected"} <= seen:
        raise InputError(
            f"{source}: holds votes between models (columns {', '.join(sorted(map(str, seen)))}); rate them with "
            f"`prefloop arena {source}`, or put them into a store with `prefloop data import {source}` and train on its comparisons; "
            "or say what else is meant with --data.format"
        )


def source_holds_votes(source: str | Path, *, split: str = "train", columns: Sequence[str] = ()) -> bool:
    """Whether the first rows of a source have the columns of votes."""
    rows = (row for row in read_rows(source, split=split) if isinstance(row, Row))
    seen = {column for row in islice(rows, _ROWS_LOOKED_AT) for column in row.values}
    return holds_votes(seen, column_map(columns) if columns else {})


def read_votes(
    source: str | Path, *, split: str = "train", columns: Sequence[str] = (), skip_bad: bool = False
) -> VoteFile:
    """The votes of a file, a folder or a data set. `columns` says what to read where, as `role=column` words.

    Raises `InputError` for a source that holds no votes, and for bad rows, which it lists; `skip_bad` leaves them out and counts them.
    """
    rows = read_rows(source, split=split)
    first = list(islice(rows, _ROWS_LOOKED_AT))
    good = [row for row in first if isinstance(row, Row)]
    mapped = column_map(columns)
    seen = list(dict.fromkeys(column for row in good for column in row.values))
    if not good:
        if first:
            raise InputError(
                _told(str(source), [row for row in first if isinstance(row, BadRow)], len(first))
            )
        raise InputError(f"{source}: it has no rows")
    found = _columns(str(source), good, seen, mapped)
    votes: list[Vote] = []
    bad: list[BadRow] = []
    names: dict[tuple[str, str], str] = {}
    for row in chain(first, rows):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            votes.append(_vote(row, found, names))
        except RowError as error:
            bad.append(error.at(row.origin))
    if (bad and not skip_bad) or not votes:
        raise InputError(_told(str(source), bad, len(bad) + len(votes)))
    used = {*found.roles.values(), *found.ids, *found.one_hot, *found.games}
    return VoteFile(
        source=str(source),
        votes=tuple(votes),
        bad=tuple(bad),
        columns=found.roles | _outcome_columns(found),
        unused_columns=tuple(column for column in seen if column not in used),
    )


# Columns


@dataclass(frozen=True, kw_only=True, slots=True)
class _Columns:
    """Which column says what."""

    roles: dict[str, str]
    ids: tuple[str, ...] = ()
    """Columns of the models' numbers, where the names stand in others."""
    one_hot: tuple[str, ...] = ()
    games: tuple[str, ...] = ()


def _outcome_columns(found: _Columns) -> dict[str, str]:
    several = found.one_hot or found.games
    return {"winner": " and ".join(several)} if several else {}


def by_lower(columns: Collection[str]) -> dict[str, str]:
    """Columns by their names in lower case."""
    return {str(column).lower(): str(column) for column in columns}


def _has(named: Mapping[str, str], columns: Sequence[str]) -> bool:
    return all(column in named for column in columns)


def _columns(source: str, rows: Sequence[Row], seen: Sequence[str], mapped: Mapping[str, str]) -> _Columns:
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
    return _Columns(roles=roles, ids=ids, one_hot=() if games else one_hot, games=games)


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


# Rows


def _vote(row: Row, found: _Columns, names: dict[tuple[str, str], str]) -> Vote:
    roles = found.roles
    models = (model_name(row, roles["model_a"]), model_name(row, roles["model_b"]))
    for column, model in zip(found.ids, models, strict=False):
        known = names.setdefault(("id", str(row.values.get(column))), model)
        if known != model:
            raise RowError(
                column, show(row.values.get(column)), f"it is {model} here and {known} in an earlier row",
                "give one model one number, or name the columns with --columns",
            )  # fmt: skip
    choice, p_first = _outcome(row, found, models)
    prompt, texts = _said(row, roles)
    key = word_of(row, roles.get("prompt_id")) or key_of(prompt)
    return Vote(
        models=models,
        choice=choice,
        p_first=p_first,
        prompt_id=key,
        judge=word_of(row, roles.get("judge")),
        turn=word_of(row, roles.get("turn")),
        language=word_of(row, roles.get("language")),
        prompt=prompt,
        texts=texts,
        origin=row.origin,
    )


def key_of(prompt: Prompt) -> str:
    """What tells prompts apart where nothing numbers them: the content."""
    if isinstance(prompt.content, str):
        return prompt.content
    return json.dumps(prompt.to_json(), ensure_ascii=False)


def model_name(row: Row, column: str) -> str:
    """The name of a model, which may be a number."""
    value = fields.required(row, column)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise RowError(column, show(value), "it must be a model's name", "write a name or a number")
    return fields.filled(str(value), column, "model's name").strip()


def word_of(row: Row, column: str | None) -> str:
    """A short value as text; lists (FastChat's judge and its prompt) joined, nothing if there is nothing."""
    value = row.values.get(column) if column else None
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return " ".join(str(part) for part in value)
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _outcome(row: Row, found: _Columns, models: tuple[str, str]) -> tuple[VoteChoice, float]:
    if found.games:
        one, two = (_spelled(row, column, models) for column in found.games)
        # The games show the answers in both orders; a judge who changes sides with the order prefers neither (FastChat).
        return one if one[0] == two[0] else ("tie", 0.5)
    if found.one_hot:
        return _one_hot(row, found.one_hot)
    column = found.roles["winner"]
    value = fields.required(row, column)
    if column.lower() == "preference" and (number := _number(value)) is not None:
        return _preference(number, column, value)
    return _spelled(row, column, models)


def _spelled(row: Row, column: str, models: tuple[str, str]) -> tuple[VoteChoice, float]:
    """A winner in words: a side, a model's name, or neither."""
    value = fields.required(row, column)
    spelled = str(value).strip()
    word = spelled.lower()
    meant: set[VoteChoice] = set()
    if word in FIRST:
        meant.add("a")
    if word in SECOND:
        meant.add("b")
    if word in TIE:
        meant.add("tie")
    if word in BOTH_BAD:
        meant.add("both_bad")
    if models[0] != models[1] and word not in ("0", "1", "2"):
        meant |= {"a"} if spelled == models[0] else {"b"} if spelled == models[1] else set()
    if len(meant) > 1:
        raise RowError(
            column, show(value), f"it is a side and a model's name ({' against '.join(models)}), and they differ",
            "write model_a, model_b, tie or both_bad",
        )  # fmt: skip
    if not meant:
        raise RowError(column, show(value), _why_unknown(word, models), _RIGHT)
    (choice,) = meant
    return choice, {"a": 1.0, "b": 0.0}.get(choice, 0.5)


def _why_unknown(word: str, models: tuple[str, str]) -> str:
    if not word:
        return "it names no winner"
    if word in ("0", "1", "2", "true", "false"):
        return "a number may count the sides from 0 or from 1"
    if word in ("neither", "none", "both"):
        return "it may mean a tie, or that both are bad"
    return f"it is neither a side nor {' or '.join(models)}"


def _one_hot(row: Row, columns: Sequence[str]) -> tuple[VoteChoice, float]:
    numbers = [_number(fields.required(row, column)) for column in columns]
    for column, value in zip(columns, numbers, strict=True):
        if value not in (0, 1):
            raise RowError(column, show(row.values[column]), "it must be 0 or 1", "write 1 for what was said")
    if sum(value or 0 for value in numbers) != 1:
        raise RowError(
            " and ".join(columns), ", ".join(show(row.values[column]) for column in columns),
            "one of them must be 1", "write 1 for the winner, or for the tie",
        )  # fmt: skip
    found: VoteChoice = ("a", "b", "tie")[numbers.index(1)]
    return found, {"a": 1.0, "b": 0.0}.get(found, 0.5)


def _preference(number: float, column: str, value: object) -> tuple[VoteChoice, float]:
    """AlpacaEval's preference: 1 for the first output, 2 for the second, between them a judge's probability, 0 or 1.5 a draw."""
    if number != 0 and not 1 <= number <= 2:
        raise RowError(
            column, show(value), "a preference goes from 1 (first output) to 2 (second), 0 or 1.5 for a draw",
            "write such a number, or leave out what was not answered",
        )  # fmt: skip
    p_first = 0.5 if number == 0 else 2 - number
    return "tie" if p_first == 0.5 else "a" if p_first > 0.5 else "b", p_first


def _number(value: object) -> float | None:
    """A value as a number, also one written in a CSV cell; None for anything else."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, int | float):
        return None if math.isnan(value) else float(value)
    try:
        number = float(value) if isinstance(value, str) else math.nan
    except ValueError:
        return None
    return None if math.isnan(number) else number


def _said(row: Row, roles: Mapping[str, str]) -> tuple[Prompt, tuple[str, str]]:
    """The prompt and the two answers, as far as the row holds them."""
    prompt = prompt_in(row, roles.get("prompt"))
    if "completion_a" not in roles:
        return prompt, ("", "")
    values = [_as_list(row, roles[role]) for role in ("completion_a", "completion_b")]
    if not all(isinstance(value, list) for value in values):
        return prompt, (_text(values[0], roles["completion_a"]), _text(values[1], roles["completion_b"]))
    turns = int(turn) if (turn := word_of(row, roles.get("turn"))).isdigit() else 0
    dialogues = [
        _dialogue(value, roles[role], turns)
        for value, role in zip(values, ("completion_a", "completion_b"), strict=True)
    ]
    texts = (dialogues[0][-1].content, dialogues[1][-1].content)
    asked = dialogues[0][:-1]
    if (
        asked != dialogues[1][:-1]
    ):  # later turns of two dialogues: what was asked is shared only at the beginning
        asked = tuple(message for message in asked if message.role == "user")[:1]
    return prompt if prompt.content else Prompt(content=asked), texts


def prompt_in(row: Row, column: str | None) -> Prompt:
    """The prompt that a column holds as text, as messages, or as a text for each turn; an empty one where it holds none."""
    value = row.values.get(column) if column else None
    if value is None:
        return Prompt(content="")
    turns = _as_list(row, column or "")
    if isinstance(turns, list) and all(isinstance(turn, str) for turn in turns):
        return Prompt(content="\n\n".join(turns))  # an arena's prompts, a text for each turn
    if isinstance(turns, list):
        return Prompt(content=chats.messages(turns, column or ""))
    return Prompt(content=str(value))


def _as_list(row: Row, column: str) -> Any:
    """A cell's value; the list in it where it holds one as JSON."""
    value = fields.required(row, column)
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        try:
            found = json.loads(value)
        except ValueError:
            return value
        return found if isinstance(found, list) else value
    return value


def _text(value: object, column: str) -> str:
    """An answer; of a list of answers, one a turn, all of them."""
    if isinstance(value, list):
        return "\n\n".join(fields.as_text(part, column) for part in value)
    return fields.as_text(value, column)


def _dialogue(value: list[Any], column: str, turns: int) -> tuple[Message, ...]:
    """A dialogue up to the answer that was judged: that of turn `turns`, or the last one."""
    if value and all(isinstance(part, str) for part in value):
        return tuple(Message(role="assistant", content=part) for part in value)
    turns_said = chats.messages(value, column)
    answers = [at for at, message in enumerate(turns_said) if message.role == "assistant"]
    if not answers:
        raise RowError(
            column,
            f"a dialogue of {len(turns_said)} messages",
            "no turn is the assistant's",
            "add the answer",
        )
    return turns_said[: answers[min(turns or len(answers), len(answers)) - 1] + 1]


def _told(source: str, bad: Sequence[BadRow], read: int) -> str:
    """One line for one bad row; for several a headline, and a line each."""
    way_out = "" if len(bad) >= read else ", or leave such rows out, counted, with --skip_bad"
    if len(bad) == 1:
        return f"{bad[0]} (correct it{way_out})"
    lines = [str(row) for row in bad[:_SHOWN]]
    more = [f"and {len(bad) - _SHOWN} more"] if len(bad) > _SHOWN else []
    return "\n  ".join(
        [f"{source}: {len(bad)} of {read} rows are bad; correct them{way_out}:", *lines, *more]
    )
