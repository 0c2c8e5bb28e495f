"""`prefloop arena`."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from prefloop.configs.arena import ArenaConfig
from prefloop.data.store import Filters, Store
from prefloop.data.votes import VoteFile
from prefloop.errors import InputError
from prefloop.evaluation.rate import arena_text, make_arena, rate, write_arena
from prefloop.feedback.judged import JudgedItem, read_judged
from prefloop.feedback.ratings import Resampling, leaderboard
from prefloop.feedback.ratings.uncertainty import Clustering
from prefloop.feedback.voted import (
    judged_votes,
    possible_clusters,
    read_vote_files,
    votes_by,
    votes_where,
)


def arena(config: ArenaConfig) -> None:
    """Rate, print the leaderboards, and write them as JSON and as a page where that is asked for."""
    judged, parts, clusters = (_of_files if config.files else _of_store)(config)
    fit = partial(
        leaderboard,
        method=config.method,
        intervals=config.intervals,
        clusters=clusters,
        anchor=config.anchor,
        prior=config.prior,
        resampling=Resampling(resamples=config.resamples, seed=config.seed),
    )
    found, problems = make_arena(
        judged,
        partial(rate, style=config.style, balance=config.balance, fit=fit),
        each_round=config.each_round,
        parts=parts,
        baseline=config.baseline,
    )
    print("\n".join([*problems, arena_text(found)]))
    if config.out:
        folder = Path(config.out)
        write_arena(found, folder)
        print(f"wrote {folder / 'arena.html'} and {folder / 'arena.json'}")


Read = tuple[list[JudgedItem], Mapping[str, Sequence[JudgedItem]], Clustering]
"""Judgements, those of each part that is asked for, and which are kept together."""


def _of_store(config: ArenaConfig) -> Read:
    with Store.open(config.store, create=False) as store:
        filters = Filters(annotators=config.annotators, rounds=config.rounds)
        return read_judged(store, filters, kinds=config.kinds), {}, config.clusters


def _check_texts(files: Sequence[VoteFile], *, wanted: bool) -> None:
    """Raise `InputError` where answers are wanted that the files do not hold."""
    if wanted and not all(file.has_texts for file in files):
        raise InputError(
            "style is true, and the files do not hold the answers; name a file of them with --outputs"
        )


def _of_files(config: ArenaConfig) -> Read:
    files = read_vote_files(
        config.files,
        split=config.split,
        columns=config.columns,
        skip_bad=config.skip_bad,
        outputs=config.outputs,
    )
    for file in files:
        print(file)
        for row in file.bad:
            print(f"  {row}")
    _check_texts(files, wanted=config.style)
    votes = [vote for file in files for vote in file.votes]
    votes = votes_where(votes, "turn", config.turns, setting="turns")
    votes = votes_where(votes, "language", config.languages, setting="languages")
    votes = votes_where(votes, "judge", config.annotators, setting="annotators")
    soft = sum(vote.p_first not in (0.0, 0.5, 1.0) for vote in votes)
    if soft:
        print(f"soft preferences, each taken as two votes weighted by its probability: {soft}")
    judged = judged_votes(votes)
    clusters, why = possible_clusters(judged, config.clusters)
    if why:
        print(why)
    return judged, votes_by(votes, config.by), clusters
