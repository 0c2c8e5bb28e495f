"""Votes to an arena: a leaderboard of all of them, and one of each round or part where that is asked for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from prefloop.errors import InputError
from prefloop.evaluation.arena import Arena, arena_page, leaderboard_table, rounds_table, win_rate_table
from prefloop.evaluation.json_files import encode, write_json
from prefloop.feedback.against_baseline import win_rates_against
from prefloop.feedback.judged import JudgedItem, summary_of, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard, pair_weights

Key = TypeVar("Key")
Rate = Callable[[Sequence[JudgedItem]], tuple[Leaderboard, Mapping[str, int]]]
"""Judgements to their leaderboard, and those it could not use, by reason."""


def rate(
    judged: Sequence[JudgedItem],
    *,
    style: bool = False,
    balance: bool = False,
    fit: Callable[..., Leaderboard] = leaderboard,
) -> tuple[Leaderboard, Mapping[str, int]]:
    """The leaderboard of judgements, and those it could not use, by reason.

    Args:
        judged: Judgements of two models' answers or more.
        style: Rate at equal style.
        balance: Let every pair of models count equally, however often it was compared.
        fit: Votes and rankings to a leaderboard: `leaderboard` with its settings.

    Raises:
        InputError: There is nothing to rate.
    """
    read = votes_of(judged, style=style)
    votes = read.votes
    if balance:
        votes = replace(votes, weight=votes.weight * pair_weights(votes))
    board = fit(votes, read.rankings)
    left_out = dict(read.left_out)
    if board.method != "plackett_luce" and len(read.rankings):
        left_out["ranking, which only plackett_luce reads"] = len(read.rankings)
    return board, left_out


def make_arena(
    judged: Sequence[JudgedItem],
    rate: Rate,
    *,
    each_round: bool = False,
    parts: Mapping[str, Sequence[JudgedItem]] | None = None,
    baseline: str = "",
) -> tuple[Arena, list[str]]:
    """The arena, and why a round or part has no leaderboard, a line each."""
    whole, left_out = rate(judged)
    at = sorted({one.round for one in judged}) if each_round else ()
    rounds, without = _boards({number: [one for one in judged if one.round == number] for number in at}, rate)
    boards, partless = _boards(parts or {}, rate)
    arena = Arena(
        whole=whole,
        rounds=rounds,
        left_out=left_out,
        baseline=baseline,
        win_rates=win_rates_against(judged, baseline) if baseline else {},
        parts=boards,
    )
    problems = [f"round {number}: {reason}" for number, reason in without.items()]
    return arena, problems + [f"{name}: {reason}" for name, reason in partless.items()]


def _boards(
    judged: Mapping[Key, Sequence[JudgedItem]], rate: Rate
) -> tuple[dict[Key, Leaderboard], dict[Key, InputError]]:
    """The leaderboard of each, or the reason why there is none."""
    boards, without = {}, {}
    for key, those in judged.items():
        try:
            boards[key], _ = rate(those)
        except InputError as error:
            without[key] = error
    return boards, without


def arena_text(arena: Arena) -> str:
    """All tables of an arena, as a terminal shows them."""
    blocks = [
        leaderboard_table(arena.whole),
        *(f"round {number}\n{leaderboard_table(board)}" for number, board in arena.rounds.items()),
        *(f"{name}\n{leaderboard_table(board)}" for name, board in arena.parts.items()),
    ]
    if len(arena.rounds) > 1:
        blocks.append(rounds_table(arena))
    if arena.win_rates:
        blocks.append(win_rate_table(arena))
    text = "\n\n".join(blocks)
    left_out = f"\njudgements that compare no two models: {summary_of(arena.left_out)}"
    return text + left_out if arena.left_out else text


def write_arena(arena: Arena, folder: Path) -> None:
    """Write arena.json and arena.html. Raises `InputError` for a folder that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "arena.json", encode(arena))
        (folder / "arena.html").write_text(arena_page(arena), encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"out is {str(folder)!r}, which cannot be written ({error}); name a folder"
        ) from error
