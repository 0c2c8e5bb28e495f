"""`prefloop arena`."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefloop.configs.arena import ArenaConfig
from prefloop.data.store import Filters, Store
from prefloop.errors import InputError
from prefloop.evaluation.arena import Arena, arena_page, leaderboard_table, rounds_table, win_rate_table
from prefloop.evaluation.json_files import encode, write_json
from prefloop.feedback.against_baseline import win_rates_against
from prefloop.feedback.judged import JudgedItem, read_judged, summary_of, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard, pair_weights


def arena(config: ArenaConfig) -> None:
    """Rate, print the leaderboards, and write them as JSON and as a page where that is asked for."""
    with Store.open(config.store, create=False) as store:
        filters = Filters(annotators=config.annotators, rounds=config.rounds)
        judged = read_judged(store, filters, kinds=config.kinds)
    whole, left_out = _board(config, judged)
    rounds = {}
    for at in sorted({each.round for each in judged}) if config.each_round else ():
        try:
            rounds[at], _ = _board(config, [each for each in judged if each.round == at])
        except InputError as error:
            print(f"round {at}: {error}")
    against = win_rates_against(judged, config.baseline) if config.baseline else {}
    found = Arena(whole=whole, rounds=rounds, left_out=left_out, baseline=config.baseline, win_rates=against)
    print(leaderboard_table(whole))
    for at, board in rounds.items():
        print(f"\nround {at}\n{leaderboard_table(board)}")
    if len(rounds) > 1:
        print(f"\n{rounds_table(found)}")
    if against:
        print(f"\n{win_rate_table(found)}")
    if left_out:
        print(f"judgements that compare no two models: {summary_of(left_out)}")
    if config.out:
        folder = Path(config.out)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(folder / "arena.json", encode(found))
            (folder / "arena.html").write_text(arena_page(found), encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"out is {config.out!r}, which cannot be written ({error}); name a folder"
            ) from error
        print(f"wrote {folder / 'arena.html'} and {folder / 'arena.json'}")


def _board(config: ArenaConfig, judged: Sequence[JudgedItem]) -> tuple[Leaderboard, dict[str, int]]:
    read = votes_of(judged, style=config.style)
    votes = replace(read.votes, weight=pair_weights(read.votes)) if config.balance else read.votes
    left_out = dict(read.left_out)
    if config.method != "plackett_luce" and len(read.rankings):
        left_out["ranking, which only plackett_luce reads"] = len(read.rankings)
    board = leaderboard(
        votes,
        read.rankings,
        method=config.method,
        intervals=config.intervals,
        clusters=config.clusters,
        anchor=config.anchor,
        prior=config.prior,
        resamples=config.resamples,
        seed=config.seed,
    )
    return board, left_out
