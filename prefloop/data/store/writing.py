"""Writing prompts, checkpoints, annotators, completions and items. Every function works within the session it is given, and adding what
is there already adds nothing and returns it."""

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import combinations
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.orm import Session

from prefloop.addresses import without_passwords
from prefloop.data.store import models
from prefloop.data.store.values import (
    ANNOTATOR_KINDS,
    PAIR_STRATEGIES,
    AddedItems,
    AnnotatorKind,
    Conflict,
    ItemKind,
    PairStrategy,
)
from prefloop.errors import InputError
from prefloop.records import Completion, Prompt

CHUNK = 5000
"""Values in one IN (...); both databases allow at least 32,000 parameters in a statement."""
INT64 = 2**63
SIZES: Mapping[str, tuple[int, int]] = {"pair": (2, 2), "rank": (2, 1000), "single": (1, 1)}
"""Kind of item -> fewest and most completions."""


def now() -> datetime:
    """This moment, in UTC."""
    return datetime.now(UTC)


def sha256(value: Any) -> str:
    """Hash of a value of JSON types, keys sorted."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def json_safe(value: Any) -> Any:
    """The value as JSON types, without passwords of addresses. Numbers that are not finite, which JSON and PostgreSQL do not know, become
    their names: "nan", "inf"."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [
            json_safe(inner) for inner in (sorted(value) if isinstance(value, set | frozenset) else value)
        ]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, str):
        return without_passwords(value)
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def insert_new(
    session: Session, table: type[models.Base], rows: Sequence[Mapping[str, Any]], unique: Sequence[str]
) -> None:
    """Insert rows, passing over those whose unique key is there already."""
    if not rows:
        return
    dialects = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
    statement = dialects[session.get_bind().dialect.name](table.__table__)
    session.connection().execute(statement.on_conflict_do_nothing(index_elements=list(unique)), list(rows))


def chunks(values: Sequence[Any]) -> Iterable[Sequence[Any]]:
    """Cut into pieces that fit into one statement."""
    return (values[start : start + CHUNK] for start in range(0, len(values), CHUNK))


def add_prompts(
    session: Session, prompts: Sequence[Prompt], *, tags: Sequence[str], origin: str
) -> list[int]:
    """Ids of the prompts, in their order."""
    hashes = [prompt.sha256 for prompt in prompts]
    new = dict(zip(hashes, prompts, strict=True))
    moment = now()
    insert_new(
        session,
        models.PromptRow,
        [
            {
                "sha256": key,
                "content": prompt.to_json(),
                "tags": list(tags),
                "origin": origin,
                "created_at": moment,
            }
            for key, prompt in new.items()
        ],
        ["sha256"],
    )
    ids: dict[str, int] = {}
    for chunk in chunks(list(new)):
        found = session.execute(
            select(models.PromptRow.sha256, models.PromptRow.id).where(models.PromptRow.sha256.in_(chunk))
        )
        ids.update((key, id) for key, id in found)
    return [ids[key] for key in hashes]


def add_checkpoint(
    session: Session,
    name: str,
    *,
    kind: str,
    weights_sha256: str,
    stage: str,
    step: int,
    parent: int | None,
    training_run: int | None,
) -> int:
    """Id of a checkpoint. Without a hash of its weights it is taken to be the newest one of that name; its kind is that of the first time."""
    if not name:
        raise InputError("a checkpoint's name is empty; give its folder or its name on the hub")
    table = models.CheckpointRow
    same = select(table).where(table.name == name).order_by(table.id.desc()).limit(1)
    if weights_sha256:
        same = same.where(table.weights_sha256 == weights_sha256)
    known = session.scalars(same).one_or_none()
    if known is None:
        row = {
            "name": name,
            "kind": kind,
            "weights_sha256": weights_sha256,
            "stage": stage,
            "step": step,
            "parent_id": parent,
            "training_run_id": training_run,
            "created_at": now(),
        }
        insert_new(session, table, [row], ["name", "weights_sha256"])
        known = session.scalars(same).one()
    # What one command did not know about it, a later one may.
    session.execute(
        update(table)
        .where(table.id == known.id)
        .values(
            stage=known.stage or stage,
            step=known.step or step,
            parent_id=parent if known.parent_id is None else known.parent_id,
            training_run_id=training_run if known.training_run_id is None else known.training_run_id,
        )
    )
    return known.id


def add_annotator(session: Session, name: str, *, kind: AnnotatorKind, settings: Mapping[str, Any]) -> int:
    """Id of an annotator. The same name with other settings would make old judgements look as if made with the new ones: `Conflict`."""
    if not name:
        raise InputError("an annotator's name is empty; give one")
    if kind not in ANNOTATOR_KINDS:
        raise InputError(f"annotator {name} is of kind {kind!r}; it must be {', '.join(ANNOTATOR_KINDS)}")
    table = models.AnnotatorRow
    row = {"name": name, "kind": kind, "settings": json_safe(settings), "created_at": now()}
    insert_new(session, table, [row], ["name"])
    known = session.scalars(select(table).where(table.name == name)).one()
    if known.kind != kind or known.settings != row["settings"]:
        raise Conflict(
            f"annotator {name} is in the store as {known.kind} with settings {known.settings}, not {kind} with {row['settings']}; "
            "give another name"
        )
    return known.id


def add_completions(session: Session, completions: Sequence[Completion], checkpoint: int) -> list[int]:
    """Ids of the completions, in their order."""
    name = session.scalar(select(models.CheckpointRow.name).where(models.CheckpointRow.id == checkpoint))
    if name is None:
        raise InputError(f"checkpoint {checkpoint} is not in the store; add it first")
    for completion in completions:
        _check_completion(completion, name)
    prompts = add_prompts(session, [completion.prompt for completion in completions], tags=(), origin="")
    moment = now()
    rows = [
        {
            "prompt_id": prompt,
            "checkpoint_id": checkpoint,
            "text": completion.text,
            "text_sha256": hashlib.sha256(completion.text.encode()).hexdigest(),
            "logprob": float(completion.logprob),
            "tokens": completion.tokens,
            "ended": completion.ended,
            "temperature": float(completion.temperature),
            "top_p": float(completion.top_p),
            "top_k": completion.top_k,
            "seed": completion.seed,
            "sample_index": completion.index,
            "created_at": moment,
        }
        for prompt, completion in zip(prompts, completions, strict=True)
    ]
    table = models.CompletionRow
    columns = [table.prompt_id, table.seed, table.sample_index, table.temperature, table.top_p, table.top_k]
    columns.append(table.text_sha256)
    unique = [column.key for column in columns]
    insert_new(session, table, rows, ["checkpoint_id", *unique])
    ids: dict[tuple[Any, ...], int] = {}
    for chunk in chunks(sorted(set(prompts))):
        found = session.execute(
            select(table.id, *columns).where(table.checkpoint_id == checkpoint, table.prompt_id.in_(chunk))
        )
        ids.update((tuple(key), id) for id, *key in found)
    return [ids[tuple(row[column] for column in unique)] for row in rows]


def _check_completion(completion: Completion, name: str) -> None:
    if completion.policy != name:
        raise InputError(
            f"a completion's policy is {completion.policy!r}, but it is added to checkpoint {name!r}; "
            "add it to the checkpoint that wrote it"
        )
    if math.isnan(completion.logprob):
        raise InputError(
            f"completion {completion.text[:40]!r} of {name} has logprob nan; this is a bug in the sampler"
        )
    if not -INT64 <= completion.seed < INT64:
        raise InputError(f"seed is {completion.seed}; the store keeps signed 64-bit integers")


def add_items(
    session: Session,
    groups: Sequence[Sequence[int]],
    *,
    kind: ItemKind,
    strategy: str,
    round: int,
) -> tuple[list[int], int]:
    """Make an item of each group of completion ids, all of one prompt. Returns the items' ids and how many are new."""
    members = sorted({completion for group in groups for completion in group})
    known: dict[int, tuple[int, str]] = {}
    for chunk in chunks(members):
        rows = session.execute(
            select(
                models.CompletionRow.id, models.CompletionRow.prompt_id, models.CompletionRow.text_sha256
            ).where(models.CompletionRow.id.in_(chunk))
        )
        known.update((id, (prompt, text)) for id, prompt, text in rows)
    keys = []
    for group in groups:
        _check_group(group, known, kind)
        keys.append(sha256([kind, round, sorted(group)]))
    before = _items_by_key(session, keys)
    groups_by_key = {key: group for key, group in zip(keys, groups, strict=True) if key not in before}
    moment = now()
    new = [
        {
            "key": key,
            "prompt_id": known[group[0]][0],
            "kind": kind,
            "strategy": strategy,
            "round": round,
            "created_at": moment,
        }
        for key, group in groups_by_key.items()
    ]
    if new:
        session.execute(insert(models.ItemRow), new)
    ids = before | _items_by_key(session, list(groups_by_key))
    slots = [
        {"item_id": ids[key], "slot": slot, "completion_id": completion}
        for key, group in groups_by_key.items()
        for slot, completion in enumerate(group)
    ]
    if slots:
        session.execute(insert(models.ItemCompletionRow), slots)
    return [ids[key] for key in keys], len(new)


def _items_by_key(session: Session, keys: Sequence[str]) -> dict[str, int]:
    ids: dict[str, int] = {}
    for chunk in chunks(keys):
        found = session.execute(
            select(models.ItemRow.key, models.ItemRow.id).where(models.ItemRow.key.in_(chunk))
        )
        ids.update((key, id) for key, id in found)
    return ids


def _check_group(group: Sequence[int], known: Mapping[int, tuple[int, str]], kind: ItemKind) -> None:
    missing = [completion for completion in group if completion not in known]
    if missing:
        raise InputError(f"completion {missing[0]} is not in the store; add it first")
    if kind not in SIZES:
        raise InputError(f"kind of item is {kind!r}; it must be {', '.join(SIZES)}")
    least, most = SIZES[kind]
    if not least <= len(group) <= most:
        raise InputError(
            f"a {kind} has {len(group)} completions; it needs {least if least == most else f'{least} or more'}"
        )
    if len({known[completion][0] for completion in group}) != 1:
        raise InputError(
            f"completions {list(group)} answer different prompts; an item compares answers to one prompt"
        )
    if len({known[completion][1] for completion in group}) != len(group):
        raise InputError(f"completions {list(group)} hold the same text twice; nobody can prefer one of them")


def add_pairs(
    session: Session,
    *,
    strategy: PairStrategy,
    seed: int,
    round: int,
    checkpoints: Sequence[int],
    prompts: Sequence[int] | None,
) -> AddedItems:
    """Pair the stored completions of each prompt: all pairs of different texts, or one of them by `seed`."""
    if strategy not in PAIR_STRATEGIES:
        raise InputError(f"strategy is {strategy!r}; it must be {' or '.join(PAIR_STRATEGIES)}")
    table = models.CompletionRow
    statement = (
        select(table.id, table.text_sha256, table.prompt_id, models.PromptRow.sha256)
        .join(models.PromptRow)
        .order_by(table.prompt_id, table.checkpoint_id, table.seed, table.sample_index, table.id)
    )
    if checkpoints:
        statement = statement.where(table.checkpoint_id.in_(checkpoints))
    wanted = None if prompts is None else set(prompts)
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for id, text, prompt, prompt_sha256 in session.execute(statement):
        if wanted is None or prompt in wanted:
            by_prompt.setdefault(prompt_sha256, []).append((id, text))
    groups: list[tuple[int, int]] = []
    identical = single = 0
    for prompt_sha256, members in by_prompt.items():
        all_pairs = list(combinations(members, 2))
        different = [(a, b) for (a, text_a), (b, text_b) in all_pairs if text_a != text_b]
        identical += len(all_pairs) - len(different)
        single += not different
        if strategy == "random" and different:
            # By the prompt's content and the seed alone, so that other prompts in the store change nothing.
            draw = int(sha256([seed, round, prompt_sha256])[:16], 16)
            different = [different[draw % len(different)]]
        groups += different
    ids, new = add_items(session, groups, kind="pair", strategy=strategy, round=round)
    return AddedItems(ids=tuple(ids), new=new, identical=identical, single=single)
