"""Votes from files in the shape that ratings and win rates read: as if they had been judged in a store."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from prefloop.data.votes import Vote
from prefloop.errors import InputError
from prefloop.feedback.judged import JudgedItem


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
    Raises `InputError` where a vote names no judge.
    """
    judged: list[JudgedItem] = []
    items: dict[tuple[object, ...], int] = {}
    first_shown: dict[int, tuple[str, str]] = {}
    times: Counter[tuple[object, ...]] = Counter()
    for at, (vote, prompt) in enumerate(zip(votes, _prompt_numbers(votes), strict=True)):
        if not vote.judge:
            raise InputError(
                f"{vote.origin}: the vote names no judge, so there is nobody to agree; name the column with columns judge=COLUMN"
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
