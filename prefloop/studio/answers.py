"""Answers in the words of the page (places, as they were shown) and judgements in those of the store (slots): one into the other, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.orm import Session

from prefloop.data.store import models, studio_models
from prefloop.data.store.values import Choice, Conflict, Judgement
from prefloop.errors import InputError
from prefloop.studio import question_answers
from prefloop.studio.values import Answer, Project

PLACES: Mapping[str, int] = {"first": 0, "second": 1}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "pair": ("first", "second", "tie", "both_bad"),
    "chat": ("first", "second", "tie", "both_bad"),
    "clip": ("first", "second", "tie", "both_bad", "cant_tell"),
    "rank": ("ranking", "best", "both_bad"),
    "best_worst": ("ranking", "both_bad"),
    "rate": ("rated",),
    "binary": ("good", "bad"),
    "edit": ("edited", "good"),
}
"""Kind of project -> what can be said. Of a reply to edit, `good` means that nothing needs to be better."""
_OTHERS: Mapping[str, Choice] = {
    "tie": "tie",
    "both_bad": "both_bad",
    "cant_tell": "cant_tell",
    "ranking": "ranking",
    "best": "best",
    "good": "good",
    "bad": "bad",
    "rated": "rated",
    "edited": "edited",
}
"""Choices that mean the same in places and in slots."""


def judgement(
    project: Project, row: studio_models.AssignmentRow, answer: Answer, *, key: str, item: int, version: str
) -> Judgement:
    """An answer in places as a judgement in slots; `InputError` if the project does not ask for such an answer.

    `version`: of the guidelines that it was given under.
    """
    settings, order = project.settings, row.order_shown
    allowed = [
        choice
        for choice in _CHOICES[settings.kind]
        if (settings.allow_tie or choice != "tie") and (settings.allow_both_bad or choice != "both_bad")
    ]
    if answer.choice not in allowed:
        raise InputError(f"choice is {answer.choice!r}; here it must be one of {', '.join(allowed)}")
    sided = answer.choice in PLACES
    most = settings.strength_levels if sided else 0
    if not 0 <= answer.strength <= most:
        raise InputError(f"strength is {answer.strength}; with {answer.choice} it must be 0 to {most}")
    if answer.ranking and answer.choice not in ("ranking", "best"):
        raise InputError("ranking is only for the choices `ranking` and `best`")
    if any(not 0 <= place < len(order) for group in answer.ranking for place in group):
        raise InputError(f"ranking is {answer.ranking}; places go from 0 to {len(order) - 1}")
    if settings.kind == "best_worst" and answer.choice == "ranking":
        _check_best_worst(answer.ranking, len(order))
    _check_ratings(project, answer)
    unknown = [flag for flag in answer.flags if flag not in settings.flags]
    if unknown or len(set(answer.flags)) != len(answer.flags):
        raise InputError(f"flags must be of {', '.join(settings.flags) or 'none'}, each once")
    if answer.choice == "edited" and not answer.edited.strip():
        raise InputError("edited is empty; write the better reply, or say that this one is good")
    _check_side(answer)
    choice: Choice = _OTHERS.get(answer.choice, "a")
    if sided and order[PLACES[answer.choice]] != 0:
        choice = "b"
    return plain_judgement(
        row,
        choice=choice,
        key=key,
        item=item,
        strength=answer.strength,
        duration_ms=answer.duration_ms,
        version=version,
        ranking=tuple(tuple(sorted(order[place] for place in group)) for group in answer.ranking),
    )


def _check_best_worst(ranking: Sequence[Sequence[int]], count: int) -> None:
    """One best, one worst, and all others together between them."""
    places = sorted(place for group in ranking for place in group)
    sizes = [len(group) for group in ranking]
    wanted = [1, 1] if count == 2 else [1, count - 2, 1]
    if places != list(range(count)) or sizes != wanted:
        raise InputError(
            f"ranking is {[list(group) for group in ranking]}; it must be the best place, all others, and the worst, for example "
            f"{[[0], list(range(1, count - 1)), [count - 1]] if count > 2 else [[0], [1]]}"
        )


def in_place(choice: str, order: Sequence[int]) -> str:
    """A choice in slots as the page says it."""
    if choice in ("a", "b"):
        return ("first", "second")[order.index("ab".index(choice))]
    return choice


def _check_side(answer: Answer) -> None:
    """A better reply belongs to the one it was written from, and that one must be the one chosen."""
    source, choice = answer.edited_from, answer.choice
    if source and not answer.edited.strip():
        raise InputError(f"edited_from is {source}, and edited is empty; leave both out, or write a reply")
    if not answer.edited.strip():
        return
    if choice not in (*PLACES, "edited"):
        raise InputError(f"a better reply is written from the better one shown; with {choice} there is none")
    if source and source != ("first" if choice == "edited" else choice):
        raise InputError(
            f"edited was written from the {source} reply, and choice is {choice}; choose {source}, or leave edited out"
        )


def same_text(one: str, other: str) -> bool:
    """Whether two replies differ in nothing but line ends and the space around them: a field on a page changes these by itself."""
    plain = [text.replace("\r\n", "\n").replace("\r", "\n").strip() for text in (one, other)]
    return plain[0] == plain[1]


def sound_draft(draft: Mapping[str, Any], completions: Sequence[str]) -> dict[str, Any]:
    """A draft without rewrites that are none: of a reply that is not shown, or the same as one that is.

    `edits` has them by the side they were written from. An `edited` beside a side belongs to that side.
    """
    sound = {name: value for name, value in draft.items() if name not in ("edited", "edits")}
    edits = dict(draft.get("edits", {}))
    if draft.get("edited"):
        edits.setdefault(draft["choice"] if draft.get("choice") in PLACES else "first", draft["edited"])
    edits = {
        side: text
        for side, text in edits.items()
        if PLACES.get(side, len(completions)) < len(completions)
        and text.strip()
        and not any(same_text(text, shown) for shown in completions)
    }
    return sound | ({"edits": edits} if edits else {})


def _check_ratings(project: Project, answer: Answer) -> None:
    scales = {scale.name: scale.levels for scale in project.settings.scales}
    if answer.choice != "rated":
        if answer.ratings:
            raise InputError("ratings are only for the choice `rated`")
        return
    if set(answer.ratings) != set(scales):
        raise InputError(f"ratings must be of {', '.join(scales)}, all of them")
    for name, level in answer.ratings.items():
        if not 1 <= level <= scales[name]:
            raise InputError(f"rating of {name} is {level}; it must be 1 to {scales[name]}")


def plain_judgement(
    row: studio_models.AssignmentRow,
    *,
    choice: Choice,
    key: str,
    item: int,
    strength: int,
    duration_ms: int,
    version: str,
    ranking: tuple[tuple[int, ...], ...] = (),
) -> Judgement:
    if not 8 <= len(key) <= 100:
        raise InputError("the idempotency key must have 8 to 100 characters, for example a UUID")
    return Judgement(
        item=item,
        annotator=row.annotator_id,
        choice=choice,
        order_shown=tuple(row.order_shown),
        ranking=ranking,
        strength=strength,
        duration_ms=duration_ms,
        guideline_version=version,
        # Within the assignment, so that nobody can use up, or find out, somebody else's keys.
        idempotency_key=f"studio {row.token} {key}",
    )


def same(session: Session, known: models.JudgementRow, judgement: Judgement, answer: Answer) -> None:
    """`Conflict` unless the stored judgement is what is sent again."""
    detail = session.get_one(studio_models.JudgementDetailRow, known.id)
    stored = (
        known.choice,
        known.ranking,
        known.strength,
        known.duration_ms,
        detail.rationale,
        detail.flags,
        detail.ratings,
        detail.edited,
    )
    sent = (
        judgement.choice,
        [list(group) for group in judgement.ranking],
        judgement.strength,
        judgement.duration_ms,
        answer.rationale,
        list(answer.flags),
        dict(answer.ratings),
        answer.edited if answer.edited.strip() else "",
    )
    if stored != sent or not question_answers.same(session, known.id, judgement.order_shown, answer):
        raise Conflict("this idempotency key was used for another answer; use a new one")


def as_draft(
    before: models.JudgementRow, detail: studio_models.JudgementDetailRow | None, order: Sequence[int]
) -> dict[str, Any]:
    """An answer as the page would have kept it unfinished, in places, so that undoing a slip does not lose what was typed."""
    place = {slot: index for index, slot in enumerate(order)}
    draft: dict[str, Any] = {}
    if before.choice in ("a", "b"):
        draft["choice"] = "first" if place["ab".index(before.choice)] == 0 else "second"
        draft["strength"] = before.strength
    elif before.choice != "skip":
        draft["choice"] = before.choice
    if before.ranking:
        draft["ranking"] = [sorted(place[slot] for slot in group) for group in before.ranking]
    if detail is not None:
        draft |= {
            name: value
            for name, value in (
                ("rationale", detail.rationale),
                ("flags", detail.flags),
                ("ratings", detail.ratings),
                ("edited", detail.edited),
            )
            if value
        }
    return draft
