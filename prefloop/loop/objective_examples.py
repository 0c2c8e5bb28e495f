"""Examples with what an objective needs of each before the first step: the reference's log-probabilities, another prompt's completion, the odds of its prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from prefloop.errors import InputError
from prefloop.loop.density_ratio import odds_of, prompt_features
from prefloop.loop.inputs import Examples
from prefloop.loop.reference import Reference
from prefloop.losses.quantities import Needs
from prefloop.records import Comparison, Label, Score
from prefloop.text.groups import Group


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A record as tokens, with what an objective needs of it; None if it does not."""

    group: Group
    labels: tuple[float, ...]
    """What the data says of each completion."""
    reference: Float[Tensor, " _"] | None
    """Reference log-probability of every trained token, completions after one another; None too where the reference is run beside the policy."""
    mismatched: Group | None
    """The prompt with another prompt's completion."""
    mismatched_reference: Float[Tensor, ""] | None
    """The reference's log-probability of that, summed."""
    prompt_odds: float | None
    """p(prompt | good) / p(prompt | bad)."""


def prepare_examples(
    parts: Sequence[Examples[Any]],
    needs: Needs,
    reference: Reference,
    last: Reference | None,
    *,
    keeps: bool,
    loss: str,
) -> list[list[Example]]:
    """The examples of each part, the first being what is trained on.

    Args:
        parts: Records and their tokens.
        needs: Of the objective.
        reference: What the policy is held to.
        last: What a ranking's last completion is held to, if that is another model.
        keeps: Whether the reference's log-probabilities are computed now, or read from the cache.
        loss: The objective's name, for messages.
    """
    groups = [group for part in parts for group in part.groups]
    records = [record for part in parts for record in part.records]
    others = [other for part in parts for other in mismatched(part.groups, loss)] if needs.mismatched else []
    kept = reference.logprobs([*groups, *others]) if keeps else []  # both have the same prompts
    own, of_others = kept[: len(groups)], kept[len(groups) :]
    if last:
        own = _with_last(own, groups, last)
    odds = _prompt_odds(parts, reference) if needs.prompt_odds else []
    made = iter(
        [
            Example(
                group=groups[i],
                labels=labels_of(records[i], groups[i]),
                reference=own[i] if own else None,
                mismatched=others[i] if others else None,
                mismatched_reference=of_others[i].sum() if of_others else None,
                prompt_odds=odds[i] if odds else None,
            )
            for i in range(len(groups))
        ]
    )
    return [[next(made) for _ in part.groups] for part in parts]


def labels_of(record: Any, group: Group) -> tuple[float, ...]:
    """What a record says of each completion: 1 or 0 for good or bad, a score, of a comparison how likely each is the better one, else 0."""
    if isinstance(record, Label):
        return (float(record.good),)
    if isinstance(record, Score):
        return (record.value,)
    if isinstance(record, Comparison):
        return (record.p_soft, 1 - record.p_soft)
    return (0.0,) * len(group.completions)


def mismatched(groups: Sequence[Group], loss: str) -> list[Group]:
    """Each prompt with the completion of the next example that has another prompt, round and round: the same whatever the batches are.

    Raises `InputError` if all have one prompt.
    """
    prompts = [tuple(group.prompt) for group in groups]
    result: list[Group] = []
    following = 0
    for place, prompt in enumerate(prompts):
        following = max(following, place + 1)
        while prompts[following % len(groups)] == prompt:
            following += 1
            if following - place > len(groups):
                raise InputError(
                    f"{loss} needs completions of two prompts or more, to compare them with each other's; all {len(groups)} have one prompt"
                )
        other = groups[following % len(groups)]
        result.append(Group(prompt=prompt, completions=other.completions[:1], masks=other.masks[:1]))
    return result


def _with_last(own: Sequence[Tensor], groups: Sequence[Group], last: Reference) -> list[Tensor]:
    """The reference's log-probabilities, those of each ranking's last completion by the second reference."""
    tails = last.logprobs([group.take([-1]) for group in groups])
    return [torch.cat([row[: len(row) - len(tail)], tail]) for row, tail in zip(own, tails, strict=True)]


def _prompt_odds(parts: Sequence[Examples[Any]], reference: Reference) -> list[float]:
    """p(prompt | good) / p(prompt | bad) of every example, estimated on those trained on, from the states of the model that the run began with."""
    train, *_ = parts
    good = torch.tensor([record.good for record in train.records])
    groups = [group for part in parts for group in part.groups]
    session = reference.session
    features = prompt_features(reference.standing(), groups, tokens=session.tokens, world=session.world)
    return torch.cat(odds_of(features[: len(train)], good, features[len(train) :])).tolist()
