"""Judgements in words, by the slots of their item: a, b, c, ... whatever side they were shown on."""

from prefloop.data.store import models, studio_models

_WORDS = {
    "tie": "equally good",
    "both_bad": "all of them are bad",
    "cant_tell": "cannot tell",
    "edited": "rewritten",
    "skip": "skipped",
    "withdrawn": "taken back",
}


def slot_name(slot: int) -> str:
    """`a` for the first slot, `b` for the second, and so on; numbers beyond z."""
    return chr(ord("a") + slot) if slot < 26 else str(slot + 1)


def in_slots(judgement: models.JudgementRow, detail: studio_models.JudgementDetailRow | None) -> str:
    """What was said: `a is better (2)`, with the strength where one was asked."""
    if judgement.choice in ("a", "b"):
        return f"{judgement.choice} is better" + (f" ({judgement.strength})" if judgement.strength else "")
    if judgement.choice == "best":
        return f"{slot_name(judgement.ranking[0][0])} is the best"
    if judgement.choice == "ranking":
        return " > ".join(" = ".join(map(slot_name, group)) for group in judgement.ranking)
    if judgement.choice == "rated" and detail is not None:
        return ", ".join(f"{name} {level}" for name, level in detail.ratings.items())
    return _WORDS.get(judgement.choice, judgement.choice)
