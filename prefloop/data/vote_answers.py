"""Votes and the answers they are about, where those stand in a file of their own."""

from dataclasses import replace
from pathlib import Path

from prefloop.data import fields
from prefloop.data.read import read_rows
from prefloop.data.rows import MISSING, BadRow, Row, RowError
from prefloop.data.vote_columns import ALIASES, by_lower
from prefloop.data.vote_rows import key_of, model_name, prompt_in, word_of
from prefloop.data.votes import VoteFile
from prefloop.errors import InputError
from prefloop.records import Prompt


def with_answers(file: VoteFile, outputs: str | Path, *, split: str = "train") -> VoteFile:
    """The votes with the texts of a file of answers: rows of a prompt (`prompt_id`, or its text), a model and its completion.

    Raises `InputError` if an answer that was voted on is not in it, or is in it twice with different texts.
    """
    answers: dict[tuple[str, str], str] = {}
    prompts: dict[str, Prompt] = {}
    for row in read_rows(outputs, split=split):
        if isinstance(row, BadRow):
            raise InputError(str(row))
        try:
            key, model, prompt, text = _answer(row)
        except RowError as error:
            raise InputError(str(error.at(row.origin))) from None
        if answers.setdefault((key, model), text) != text:
            raise InputError(
                f"{row.origin}: {model} answered prompt {key!r:.60} before with another text; keep one of them"
            )
        prompts[key] = prompt
    missing = [
        f"{vote.origin}: {model} on prompt {vote.prompt_id!r:.60}"
        for vote in file.votes
        for model in vote.models
        if (vote.prompt_id, model) not in answers
    ]
    if missing:
        raise InputError(
            f"{outputs}: has no answer for {len(missing)} of {2 * len(file.votes)} in {file.source}, the first is {missing[0]}; "
            "add them, or leave such votes out"
        )
    votes = tuple(
        replace(
            vote,
            prompt=prompts[vote.prompt_id],
            texts=(answers[vote.prompt_id, vote.models[0]], answers[vote.prompt_id, vote.models[1]]),
        )
        for vote in file.votes
    )
    named = {"completion_a": f"{outputs}", "completion_b": f"{outputs}"}
    return replace(file, votes=votes, columns={**file.columns, **named})


def _answer(row: Row) -> tuple[str, str, Prompt, str]:
    """Prompt key, model, prompt and text of a row of answers."""
    named = by_lower(row.values)

    def of(*columns: str) -> str:
        column = next((named[name] for name in columns if name in named), "")
        if not column:
            raise RowError(columns[0], MISSING, f"there is no column of {', '.join(columns)}", "add it")
        return column

    model = model_name(row, of("model", "generator", "model_id"))
    text = fields.as_text(
        fields.required(row, of("completion", "output", "response", "answer")), "completion"
    )
    prompt = prompt_in(row, next((named[name] for name in ALIASES["prompt"] if name in named), None))
    key = word_of(row, next((named[name] for name in ALIASES["prompt_id"] if name in named), None))
    return key or key_of(prompt), model, prompt, text
