"""Judgements: what is open to an annotator, and adding what they say. Nothing here changes or deletes a row."""

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from typing import Any

from sqlalchemy import Select, bindparam, case, insert, select
from sqlalchemy.orm import Session

from prefloop.data.store import models
from prefloop.data.store.values import CHOICES, Conflict, Item, ItemKind, Judgement
from prefloop.data.store.writing import chunks, now
from prefloop.errors import InputError
from prefloop.records import Message, Prompt

FIELDS: tuple[str, ...] = (
    "item_id",
    "annotator_id",
    "choice",
    "order_shown",
    "ranking",
    "strength",
    "margin",
    "duration_ms",
    "guideline_version",
    "supersedes_id",
    "idempotency_key",
)
"""What makes two requests with one idempotency key the same."""
ALLOWED: Mapping[str, tuple[str, ...]] = {
    "pair": ("a", "b", "tie", "both_bad", "cant_tell"),
    "rank": ("ranking", "best", "both_bad"),
    "single": ("good", "bad", "rated", "edited"),
}
"""Kind of item -> what can be said of it, beside `skip` and `withdrawn`."""


_KINDS: Mapping[str, ItemKind] = {"pair": "pair", "rank": "rank", "single": "single"}


def prompt_of(content: Any) -> Prompt:
    """A prompt from its stored content."""
    if isinstance(content, str):
        return Prompt(content=content)
    return Prompt(content=tuple(Message.from_json(message) for message in content))


def open_items(session: Session, annotator: int, *, rounds: Sequence[int], limit: int) -> list[Item]:
    """Items that the annotator has not judged, oldest first."""
    _known_annotators(session, [annotator])
    table = models.ItemRow
    judged = select(models.JudgementRow.id).where(
        models.JudgementRow.item_id == table.id, models.JudgementRow.annotator_id == annotator
    )
    statement = select(table.id).where(~judged.exists()).order_by(table.id)
    if rounds:
        statement = statement.where(table.round.in_(rounds))
    if limit:
        statement = statement.limit(limit)
    return items(session, session.scalars(statement).all())


def items(session: Session, ids: Sequence[int]) -> list[Item]:
    """The items with these ids, in their order."""
    found: dict[int, Item] = {}
    for chunk in chunks(ids):
        for id, rows in groupby(session.execute(_of_items(), {"items": chunk}).all(), key=lambda row: row[0]):
            slots = list(rows)
            _, text, kind, round, content = slots[0]
            found[id] = Item(
                id=id,
                kind=_KINDS[kind],
                prompt=prompt_of(content),
                completions=(text, *(row[1] for row in slots[1:])),
                round=round,
            )
    missing = [id for id in ids if id not in found]
    if missing:
        raise InputError(f"item {missing[0]} is not in the store; add it first")
    return [found[id] for id in ids]


@cache
def _of_items() -> Select[int, str, str, int, Any]:
    """The completions of items in the order of their slots; beside the first one, what the item is."""
    table, slot = models.ItemRow, models.ItemCompletionRow
    return (
        select(
            table.id,
            models.CompletionRow.text,
            table.kind,
            table.round,
            case((slot.slot == 0, models.PromptRow.content)),
        )
        .join(slot, slot.item_id == table.id)
        .join(models.CompletionRow, models.CompletionRow.id == slot.completion_id)
        .join(models.PromptRow, models.PromptRow.id == table.prompt_id)
        .where(table.id.in_(bindparam("items", expanding=True)))
        .order_by(table.id, slot.slot)
    )


def add_judgements(session: Session, judgements: Sequence[Judgement]) -> list[int]:
    """Add judgements; ids in their order. All are written, or none.

    Raises `InputError` for one that makes no sense, `Conflict` for one that another row stands against: its idempotency key was used for
    something else, the annotator has judged the item already and `supersedes` does not name that judgement.
    """
    slots = _slots(session, {judgement.item for judgement in judgements})
    _known_annotators(session, {judgement.annotator for judgement in judgements})
    for judgement in judgements:
        check(judgement, slots)
    rows = [_row(judgement) for judgement in judgements]
    # Before the keys: what another connection writes in between is then found by its key, as the same judgement sent twice, and is
    # not taken for another one.
    current = _current(session, {judgement.item for judgement in judgements})
    before = _by_key(session, [row["idempotency_key"] for row in rows])
    new: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = row["idempotency_key"]
        known = before[key][1] if key in before else new.setdefault(key, row)
        if known != row:
            raise Conflict(
                f"idempotency key {key!r} was used for another judgement of item {known['item_id']}; use a new key"
            )
    _check_chain(list(new.values()), current)
    moment = now()
    ids = {key: id for key, (id, _) in before.items()}
    if new:
        statement = insert(models.JudgementRow).returning(
            models.JudgementRow.id, sort_by_parameter_order=True
        )
        made = session.scalars(statement, [row | {"created_at": moment} for row in new.values()])
        ids |= zip(new, made, strict=True)
    return [ids[row["idempotency_key"]] for row in rows]


def add_checked(
    session: Session, judgement: Judgement, *, kind: ItemKind, size: int, current: int | None
) -> int:
    """Add one judgement, whose id it returns, where the caller has looked already: no row has its idempotency key, its item is of this kind with so
    many completions, and `current` is the annotator's last judgement of it. What another connection writes in between, the database refuses.

    Raises as `add_judgements`, and `IntegrityError` for what was written in between.
    """
    check(judgement, {judgement.item: (kind, size)})
    row = _row(judgement)
    whose = (judgement.item, judgement.annotator)
    _check_chain([row], {} if current is None else {whose: current})
    table = models.JudgementRow
    return session.scalars(insert(table).returning(table.id), row | {"created_at": now()}).one()


def check(judgement: Judgement, slots: Mapping[int, tuple[str, int]]) -> None:
    """Raise `InputError` unless a judgement makes sense. `slots`: item -> its kind and number of completions."""
    if judgement.item not in slots:
        raise InputError(f"item {judgement.item} is not in the store; add it first")
    kind, size = slots[judgement.item]
    where = f"judgement of item {judgement.item}"
    if judgement.choice not in CHOICES:
        raise InputError(f"{where}: choice is {judgement.choice!r}; it must be one of {', '.join(CHOICES)}")
    allowed = (*ALLOWED[kind], "skip", "withdrawn")
    if judgement.choice not in allowed:
        raise InputError(
            f"{where}: choice is {judgement.choice!r}, but of a {kind} it must be one of {', '.join(allowed)}"
        )
    if sorted(judgement.order_shown) != list(range(size)):
        raise InputError(
            f"{where}: order_shown is {list(judgement.order_shown)}; it must hold each slot from 0 to {size - 1} once"
        )
    ranked = [slot for group in judgement.ranking for slot in group]
    if (judgement.choice in ("ranking", "best")) != bool(ranked):
        raise InputError(
            f"{where}: choice is {judgement.choice!r} and ranking is {judgement.ranking}; one goes with the other"
        )
    if judgement.choice == "best" and not (len(ranked) == 1 and ranked[0] in range(size)):
        raise InputError(
            f"{where}: ranking is {judgement.ranking}; with the choice best it must be the one best slot from 0 to {size - 1}"
        )
    if judgement.choice == "ranking" and (
        len(ranked) < 2
        or len(set(ranked)) != len(ranked)
        or not set(ranked) <= set(range(size))
        or not all(judgement.ranking)
    ):
        raise InputError(
            f"{where}: ranking is {judgement.ranking}; it must be groups of two or more different slots "
            f"from 0 to {size - 1}, none empty"
        )
    if not (math.isfinite(judgement.margin) and judgement.margin >= 0):
        raise InputError(f"{where}: margin is {judgement.margin}; it must be 0 (not given) or more")
    if judgement.strength < 0 or judgement.duration_ms < 0:
        raise InputError(
            f"{where}: strength is {judgement.strength} and duration_ms {judgement.duration_ms}; both must be 0 or more"
        )
    if judgement.choice == "withdrawn" and judgement.supersedes is None:
        raise InputError(f"{where}: there is nothing to withdraw; name the judgement in supersedes")
    if not judgement.idempotency_key:
        raise InputError(f"{where}: idempotency_key is empty; leave it out, or give a unique one")


def _row(judgement: Judgement) -> dict[str, Any]:
    return {
        "item_id": judgement.item,
        "annotator_id": judgement.annotator,
        "choice": judgement.choice,
        "order_shown": list(judgement.order_shown),
        "ranking": [sorted(group) for group in judgement.ranking],
        "strength": judgement.strength,
        "margin": float(judgement.margin),
        "duration_ms": judgement.duration_ms,
        "guideline_version": judgement.guideline_version,
        "supersedes_id": judgement.supersedes,
        "idempotency_key": judgement.idempotency_key,
    }


def _by_key(session: Session, keys: Sequence[str]) -> dict[str, tuple[int, dict[str, Any]]]:
    table = models.JudgementRow
    columns = [getattr(table, field) for field in FIELDS]
    found: dict[str, tuple[int, dict[str, Any]]] = {}
    for chunk in chunks(keys):
        for id, *values in session.execute(
            select(table.id, *columns).where(table.idempotency_key.in_(chunk))
        ):
            row = dict(zip(FIELDS, values, strict=True))
            found[row["idempotency_key"]] = (id, row)
    return found


def _slots(session: Session, ids: Iterable[int]) -> dict[int, tuple[str, int]]:
    found: dict[int, tuple[str, int]] = {}
    for chunk in chunks(sorted(ids)):
        rows = session.execute(
            select(models.ItemRow.id, models.ItemRow.kind, models.ItemCompletionRow.slot)
            .join(models.ItemCompletionRow, models.ItemCompletionRow.item_id == models.ItemRow.id)
            .where(models.ItemRow.id.in_(chunk))
        )
        for id, kind, slot in rows:
            found[id] = (kind, max(slot + 1, found.get(id, (kind, 0))[1]))
    return found


def _known_annotators(session: Session, ids: Iterable[int]) -> None:
    for chunk in chunks(sorted(ids)):
        known = set(session.scalars(select(models.AnnotatorRow.id).where(models.AnnotatorRow.id.in_(chunk))))
        missing = [id for id in chunk if id not in known]
        if missing:
            raise InputError(f"annotator {missing[0]} is not in the store; add them first")


def _current(session: Session, items: Iterable[int]) -> dict[tuple[int, int], int]:
    """(item, annotator) -> the judgement that no other supersedes."""
    table = models.JudgementRow
    current: dict[tuple[int, int], int] = {}
    for chunk in chunks(sorted(items)):
        rows = session.execute(
            select(table.item_id, table.annotator_id, table.id)
            .where(table.item_id.in_(chunk))
            .order_by(table.id)  # a chain's rows are added one after the other, so the last one is current
        )
        current.update(((item, annotator), id) for item, annotator, id in rows)
    return current


def _check_chain(new: Sequence[Mapping[str, Any]], current: Mapping[tuple[int, int], int]) -> None:
    """Each new judgement must be the annotator's first of its item, or supersede their current one."""
    seen: set[tuple[int, int]] = set()
    for row in new:
        whose = (row["item_id"], row["annotator_id"])
        where = f"annotator {whose[1]}, item {whose[0]}"
        if whose in seen:
            raise Conflict(
                f"{where}: judged twice in one request; send the correction by itself, with supersedes"
            )
        seen.add(whose)
        if row["supersedes_id"] == current.get(whose):
            continue
        if whose not in current:
            raise Conflict(
                f"{where}: supersedes is {row['supersedes_id']}, which is not a judgement of this item by this annotator; leave it out"
            )
        raise Conflict(
            f"{where}: judged already, in judgement {current[whose]}; to correct it, supersede that one (supersedes is {row['supersedes_id']})"
        )
