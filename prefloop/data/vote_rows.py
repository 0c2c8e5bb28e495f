"""What a row of a file of votes says: the models, who won, the prompt and the answers."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from prefloop.data import fields
from prefloop.data import messages as chats
from prefloop.data.rows import Row, RowError, show
from prefloop.data.vote_columns import Columns
from prefloop.records import Message, Prompt

VoteChoice = Literal["a", "b", "tie", "both_bad"]

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


def vote_of(row: Row, found: Columns, names: dict[tuple[str, str], str]) -> Vote:
    """The vote that a row is. `names` keeps the names of numbered models from row to row. Raises `RowError`."""
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


def _outcome(row: Row, found: Columns, models: tuple[str, str]) -> tuple[VoteChoice, float]:
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
