"""The keys of the labelling page: one table for the page, its help, the settings and the documentation."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

PAIRS = ("pair", "clip", "chat")
TEXTS = ("pair", "chat", "rank", "best_worst", "rate", "binary", "edit")
ALL = (*PAIRS, "rank", "best_worst", "rate", "binary", "edit")


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """A key and what it does."""

    key: str
    """As the browser names it (`KeyboardEvent.key`), with `Shift+` before it where that is held."""
    says: str
    kinds: tuple[str, ...] = ALL
    """Kinds of project it works in."""


KEYS: Mapping[str, Key] = {
    "first": Key(key="1", says="the first is better; again: how much", kinds=PAIRS),
    "second": Key(key="2", says="the second is better; again: how much", kinds=PAIRS),
    "first_much": Key(key="Shift+ArrowLeft", says="the first is much better", kinds=PAIRS),
    "second_much": Key(key="Shift+ArrowRight", says="the second is much better", kinds=PAIRS),
    "left": Key(key="ArrowLeft", says="towards the first", kinds=PAIRS),
    "right": Key(key="ArrowRight", says="towards the second", kinds=PAIRS),
    "tie": Key(key="3", says="equally good", kinds=PAIRS),
    "both_bad": Key(key="0", says="all of them are bad", kinds=(*PAIRS, "rank", "best_worst")),
    "cant_tell": Key(key="4", says="cannot tell", kinds=("clip",)),
    "play": Key(key="p", says="play both clips from the beginning, or stop", kinds=("clip",)),
    "good": Key(key="1", says="good", kinds=("binary",)),
    "bad": Key(key="2", says="bad", kinds=("binary",)),
    "fine": Key(key="1", says="good as it is", kinds=("edit",)),
    "submit": Key(key="Enter", says="submit"),
    "skip": Key(key="s", says="skip"),
    "undo": Key(key="u", says="undo the last answer"),
    "flags": Key(key="f", says="flags, then a digit"),
    "rationale": Key(key="r", says="say why"),
    "edit": Key(key="e", says="write a better reply", kinds=("pair", "chat", "edit")),
    "diff": Key(key="d", says="show what differs", kinds=("pair", "chat")),
    "written": Key(key="w", says="show the raw text", kinds=TEXTS),
    "mark": Key(
        key="m", says="mark a part: arrows choose it, with Shift more of it, Enter its label", kinds=TEXTS
    ),
    "new_chat": Key(key="n", says="start a new conversation", kinds=("chat",)),
    "guidelines": Key(key="g", says="guidelines"),
    "help": Key(key="?", says="these keys"),
}
"""Name -> key. Digits in `rank` place the reply that has the focus; in `rate` they answer the scale that has it."""


def usual(direction: str) -> dict[str, str]:
    """Name -> key. Where one reads from right to left the first response is on the right, and so is its arrow."""
    turned = {"ArrowLeft": "ArrowRight", "ArrowRight": "ArrowLeft"} if direction == "rtl" else {}
    arrow = re.compile("|".join(turned) or "(?!)")
    return {name: arrow.sub(lambda match: turned[match.group()], key.key) for name, key in KEYS.items()}
