"""Votes between two models from files: who was compared with whom, who won, on which prompt, by whom.

Read are tables with a column for each model and one for the winner (the arenas' and crowds' files), AlpacaEval's annotations (`preference`
from 1 to 2), FastChat's pair judgements (two games, the answers swapped in the second), and one-hot winners. Which column says what is decided
once for a file, from its columns; every row must then say it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

from prefloop.data.read import read_rows
from prefloop.data.rows import BadRow, Row, RowError
from prefloop.data.vote_columns import column_map, columns_of, holds_votes, outcome_columns
from prefloop.data.vote_rows import Vote, vote_of
from prefloop.errors import InputError

_ROWS_LOOKED_AT = 100
_SHOWN = 20


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
    found = columns_of(str(source), good, seen, mapped)
    votes: list[Vote] = []
    bad: list[BadRow] = []
    names: dict[tuple[str, str], str] = {}
    for row in chain(first, rows):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            votes.append(vote_of(row, found, names))
        except RowError as error:
            bad.append(error.at(row.origin))
    if (bad and not skip_bad) or not votes:
        raise InputError(_told(str(source), bad, len(bad) + len(votes)))
    used = {*found.roles.values(), *found.ids, *found.one_hot, *found.games}
    return VoteFile(
        source=str(source),
        votes=tuple(votes),
        bad=tuple(bad),
        columns=found.roles | outcome_columns(found),
        unused_columns=tuple(column for column in seen if column not in used),
    )


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
