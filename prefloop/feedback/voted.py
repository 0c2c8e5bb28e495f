"""Votes from files in the shape that ratings and win rates read: as if they had been judged in a store."""

from collections.abc import Sequence
from dataclasses import replace

from prefloop.data.votes import Vote
from prefloop.feedback.judged import JudgedItem


def judged_votes(votes: Sequence[Vote]) -> list[JudgedItem]:
    """One judgement a vote, in their order; of a soft preference two, each with its probability as weight, of which the likelier is counted.

    Votes of one prompt share its number, whatever file they are from; one without a prompt has a number of its own.
    """
    prompts: dict[str, int] = {}
    judged: list[JudgedItem] = []
    for at, vote in enumerate(votes):
        key = f"prompt {vote.prompt_id}" if vote.prompt_id else f"vote {at}"
        item = JudgedItem(
            judgement=at,
            item=at,
            kind="pair",
            round=0,
            prompt_id=prompts.setdefault(key, len(prompts)),
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
        if vote.p_first in (0.0, 0.5, 1.0):
            judged.append(item)
        else:
            judged += [
                replace(item, choice=choice, weight=weight, counted=choice == vote.choice)
                for choice, weight in (("a", vote.p_first), ("b", 1 - vote.p_first))
            ]
    return judged
