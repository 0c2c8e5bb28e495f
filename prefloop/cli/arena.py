"""`prefloop arena`."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from prefloop.configs.arena import ArenaConfig
from prefloop.data.store import Filters, Store
from prefloop.data.vote_answers import with_answers
from prefloop.data.votes import Vote, read_votes
from prefloop.errors import InputError
from prefloop.evaluation.arena import Arena, arena_page, leaderboard_table, rounds_table, win_rate_table
from prefloop.evaluation.json_files import encode, write_json
from prefloop.feedback.against_baseline import win_rates_against
from prefloop.feedback.judged import JudgedItem, read_judged, summary_of, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard, pair_weights
from prefloop.feedback.ratings.uncertainty import Clustering
from prefloop.feedback.voted import judged_votes


def arena(config: ArenaConfig) -> None:
    """Rate, print the leaderboards, and write them as JSON and as a page where that is asked for."""
    if config.files:
        judged, parts = _of_files(config)
        config = replace(config, clusters=_clusters(config, judged))
    else:
        judged, parts = _of_store(config), {}
    whole, left_out = _board(config, judged)
    rounds = {}
    for at in sorted({each.round for each in judged}) if config.each_round else ():
        try:
            rounds[at], _ = _board(config, [each for each in judged if each.round == at])
        except InputError as error:
            print(f"round {at}: {error}")
    boards = {}
    for part, votes in parts.items():
        name = f"{config.by} {part or '(not said)'}"
        try:
            boards[name], _ = _board(config, votes)
        except InputError as error:
            print(f"{name}: {error}")
    against = win_rates_against(judged, config.baseline) if config.baseline else {}
    found = Arena(
        whole=whole,
        rounds=rounds,
        left_out=left_out,
        baseline=config.baseline,
        win_rates=against,
        parts=boards,
    )
    print(leaderboard_table(whole))
    for at, board in rounds.items():
        print(f"\nround {at}\n{leaderboard_table(board)}")
    for part, board in found.parts.items():
        print(f"\n{part}\n{leaderboard_table(board)}")
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


def _of_store(config: ArenaConfig) -> list[JudgedItem]:
    with Store.open(config.store, create=False) as store:
        filters = Filters(annotators=config.annotators, rounds=config.rounds)
        return read_judged(store, filters, kinds=config.kinds)


def _of_files(config: ArenaConfig) -> tuple[list[JudgedItem], dict[str, list[JudgedItem]]]:
    """The votes of the files, and those of each turn, language or judge where that was asked for."""
    votes: list[Vote] = []
    with_texts = True
    for name in config.files:
        file = read_votes(name, split=config.split, columns=config.columns, skip_bad=config.skip_bad)
        if config.outputs:
            file = with_answers(file, config.outputs)
        print(file)
        for row in file.bad:
            print(f"  {row}")
        with_texts = with_texts and file.has_texts
        votes += file.votes
    if config.style and not with_texts:
        raise InputError(
            "style is true, and the files do not hold the answers; name a file of them with --outputs"
        )
    for field, setting, wanted in (
        ("turn", "turns", config.turns),
        ("language", "languages", config.languages),
        ("judge", "annotators", config.annotators),
    ):
        votes = _filtered(votes, field, setting, wanted)
    parts = {}
    if config.by:
        for part in sorted({getattr(vote, config.by) for vote in votes}):
            parts[part] = judged_votes([vote for vote in votes if getattr(vote, config.by) == part])
    soft = sum(vote.p_first not in (0.0, 0.5, 1.0) for vote in votes)
    if soft:
        print(f"soft preferences, each taken as two votes weighted by its probability: {soft}")
    return judged_votes(votes), parts


def _filtered(votes: list[Vote], field: str, setting: str, wanted: Sequence[str]) -> list[Vote]:
    """Votes whose field is one of those wanted, all if none are. Raises `InputError` for a value that no vote has."""
    known = sorted({getattr(vote, field) for vote in votes})
    for value in wanted:
        if value not in known:
            near = difflib.get_close_matches(value, known, n=3, cutoff=0) or ["none"]
            raise InputError(f"{setting} has {value!r}, which no vote is of; there is {', '.join(near)}")
    return [vote for vote in votes if not wanted or getattr(vote, field) in wanted]


def _clusters(config: ArenaConfig, judged: Sequence[JudgedItem]) -> Clustering:
    """What votes of files can be kept together by; says so where they do not name it."""
    prompts = len({each.prompt_id for each in judged}) < len({each.judgement for each in judged})
    judges = any(each.annotator for each in judged)
    if not judges and config.clusters in ("annotator", "both"):
        raise InputError(
            f"clusters is {config.clusters}, and no column says who judged; name it with --columns judge=COLUMN, or take prompt"
        )
    if not prompts and config.clusters in ("prompt", "both"):
        print("no two votes are on one prompt, so each vote stands for itself")
        return "vote" if config.clusters == "prompt" else "annotator"
    return config.clusters


def _board(config: ArenaConfig, judged: Sequence[JudgedItem]) -> tuple[Leaderboard, dict[str, int]]:
    read = votes_of(judged, style=config.style)
    votes = read.votes
    if config.balance:
        votes = replace(votes, weight=votes.weight * pair_weights(votes))
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
