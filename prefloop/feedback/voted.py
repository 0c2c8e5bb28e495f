"""Votes from files in the shape that ratings and win rates read: as if they had been judged in a store."""

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from prefloop.data import check_split, has_splits
from prefloop.data.vote_answers import with_answers
from prefloop.data.vote_rows import Vote
from prefloop.data.votes import VoteFile, read_votes
from prefloop.errors import InputError
from prefloop.feedback.judged import JudgedItem
from prefloop.feedback.ratings.uncertainty import Clustering


def read_vote_files(
    names: Sequence[str],
    *,
    split: str = "train",
    columns: Sequence[str] = (),
    skip_bad: bool = False,
    outputs: str = "",
) -> list[VoteFile]:
    """Files of votes, as `read_votes` reads each, with the answers of the file `outputs` where one is named."""
    if not any(map(has_splits, names)):
        check_split(names[0], split)
    files = [read_votes(name, split=split, columns=columns, skip_bad=skip_bad) for name in names]
    return [with_answers(file, outputs) for file in files] if outputs else files


def votes_where(votes: Sequence[Vote], field: str, wanted: Sequence[str], *, setting: str) -> Sequence[Vote]:
    """Votes whose field is one of those wanted, all if none are. Raises `InputError` for a value that no vote has."""
    known = sorted({getattr(vote, field) for vote in votes} - {""})
    for value in wanted:
        _check_said(votes, field, f"{setting} has {value!r}")
        if value not in known:
            near = difflib.get_close_matches(value, known, n=3, cutoff=0)
            raise InputError(f"{setting} has {value!r}, which no vote has; the nearest are {', '.join(near)}")
    return [vote for vote in votes if not wanted or getattr(vote, field) in wanted]


def votes_by(votes: Sequence[Vote], field: str) -> dict[str, list[JudgedItem]]:
    """The votes of each value of a field, as judgements; nothing for an empty field. Raises `InputError` for a field that no vote has."""
    if field:
        _check_said(votes, field, f"by is {field}")
    values = sorted({getattr(vote, field) for vote in votes}) if field else ()
    return {
        f"{field} {value or '(not said)'}": judged_votes(
            [vote for vote in votes if getattr(vote, field) == value]
        )
        for value in values
    }


def _check_said(votes: Sequence[Vote], field: str, given: str) -> None:
    """Raise `InputError` for a setting about a field that no vote has."""
    if not any(getattr(vote, field) for vote in votes):
        raise InputError(
            f"{given}, but no column says the {field}; name it with --columns {field}=COLUMN, or leave the setting out"
        )


def possible_clusters(judged: Sequence[JudgedItem], wanted: Clustering) -> tuple[Clustering, str]:
    """What of `wanted` the votes of files can be kept together by, and why where it is less. Raises `InputError` if no vote names its judge."""
    if wanted in ("annotator", "both") and not any(one.annotator for one in judged):
        raise InputError(
            f"clusters is {wanted}, and no column says who judged; name it with --columns judge=COLUMN, or take prompt"
        )
    if len({one.prompt_id for one in judged}) < len({one.judgement for one in judged}):
        return wanted, ""
    without: dict[Clustering, Clustering] = {"prompt": "vote", "both": "annotator"}
    if wanted not in without:
        return wanted, ""
    return without[wanted], "no two votes are on one prompt, so each vote stands for itself"


def judged_votes(votes: Sequence[Vote]) -> list[JudgedItem]:
    """One judgement a vote, in their order; of a soft preference two, each with its probability as weight, of which the likelier is counted.

    Votes of one prompt share its number, whatever file they are from; one without a prompt has a number of its own.
    """
    judged: list[JudgedItem] = []
    for at, (vote, prompt) in enumerate(zip(votes, _prompt_numbers(votes), strict=True)):
        item = _judgement(at, at, vote, prompt)
        if vote.p_first in (0.0, 0.5, 1.0):
            judged.append(item)
        else:
            judged += [
                replace(item, choice=choice, weight=weight, counted=choice == vote.choice)
                for choice, weight in (("a", vote.p_first), ("b", 1 - vote.p_first))
            ]
    return judged


def votes_on_pairs(votes: Sequence[Vote]) -> list[JudgedItem]:
    """The votes as judgements of shared pairs, for agreement: those on the same two answers, whichever of them was asked first, are of one item.

    The same two answers are those of the same models to the same prompt, in the same turn, with the same texts. Where one judge votes on them
    several times, the judges' first votes are of one item, their second ones of another. Of a soft preference the likelier side is taken.
    Raises `InputError` if a vote names no judge.
    """
    judged: list[JudgedItem] = []
    items: dict[tuple[object, ...], int] = {}
    first_shown: dict[int, tuple[str, str]] = {}
    times: Counter[tuple[object, ...]] = Counter()
    for at, (vote, prompt) in enumerate(zip(votes, _prompt_numbers(votes), strict=True)):
        if not vote.judge:
            raise InputError(
                f"{vote.origin}: the vote names no judge, so agreement cannot be computed; name the column with columns judge=COLUMN"
            )
        answers = tuple(zip(vote.models, vote.texts, strict=True))
        pair = (prompt, vote.turn, *sorted(answers))
        times[pair, vote.judge] += 1
        item = items.setdefault((pair, times[pair, vote.judge]), len(items))
        judgement = _judgement(at, item, vote, prompt)
        if first_shown.setdefault(item, answers[0]) != answers[0]:
            judgement = replace(
                judgement,
                choice={"a": "b", "b": "a"}.get(vote.choice, vote.choice),
                models=vote.models[::-1],
                completions=vote.texts[::-1],
                order_shown=(1, 0),
            )
        judged.append(judgement)
    return judged


def _prompt_numbers(votes: Sequence[Vote]) -> list[int]:
    """A number for each vote's prompt."""
    numbers: dict[str, int] = {}
    keys = (f"prompt {vote.prompt_id}" if vote.prompt_id else f"vote {at}" for at, vote in enumerate(votes))
    return [numbers.setdefault(key, len(numbers)) for key in keys]


def _judgement(at: int, item: int, vote: Vote, prompt: int) -> JudgedItem:
    return JudgedItem(
        judgement=at,
        item=item,
        kind="pair",
        round=0,
        prompt_id=prompt,
        prompt=vote.prompt,
        completions=vote.texts,
        models=vote.models,
        annotator=vote.judge,
        annotator_kind="",
        choice=vote.choice,
        ranking=(),
        strength=0,
        order_shown=(0, 1),
        duration_ms=0,
    )
