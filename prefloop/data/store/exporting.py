"""Exports: data sets that are fixed by a content hash and know every judgement they are made of."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from prefloop.data.hashing import content_hash
from prefloop.data.store import event_models, images, models
from prefloop.data.store.as_records import SELECTORS, WHY_NOT, JudgedRecord
from prefloop.data.store.judging import prompt_of
from prefloop.data.store.selecting import JudgedRow, judged, judged_of, prompts
from prefloop.data.store.values import EXPORT_KINDS, AggregatedLabel, Export, ExportKind, Filters, Selection
from prefloop.data.store.writing import insert_new, now, sha256
from prefloop.data.write import split_by_prompts, write_jsonl
from prefloop.errors import InputError
from prefloop.records import Comparison, Prompt


def export(
    session: Session, kind: ExportKind, filters: Filters, path: Path | None, label: str, *, skip_bad: bool
) -> Export:
    """Take a data set from the store and remember what it is made of; also write it to `path` as JSON lines.

    A file that cannot be written takes the export back with it. Files do not hold empty completions; `skip_bad` leaves them out.
    """
    if kind not in EXPORT_KINDS:
        raise InputError(f"kind of export is {kind!r}; it must be one of {', '.join(EXPORT_KINDS)}")
    members, selection = _members(session, kind, filters, label, skip_bad=skip_bad)
    made, _ = _fix(session, kind, filters.to_json(), members, selection, path, label)
    return made


def export_aggregated(
    session: Session,
    filters: Mapping[str, Any],
    pairs: Sequence[AggregatedLabel],
    left_out: Mapping[str, int],
    path: Path | None,
    label: str,
) -> Export:
    """The same for comparisons that several judgements each were made into. `filters` say how, too."""
    members = [judgement for pair in pairs for judgement in pair.judgements]
    of_ids = select(models.JudgementRow.id).where(models.JudgementRow.id.in_(members))
    records = _aggregated_records(pairs, judged_of(session, of_ids))
    selection = Selection(records=tuple(records), left_out=left_out)
    made, new = _fix(session, "comparisons", filters, members, selection, path, label)
    if new:
        session.execute(
            insert(models.ExportPairRow),
            [
                {
                    "export_id": made.id,
                    "position": position,
                    "item_id": pair.item,
                    "choice": pair.choice,
                    "p_soft": pair.p_soft,
                }
                for position, pair in enumerate(pairs)
            ],
        )
    return made


_ASKED = {"comparisons": "pair", "rankings": "rank", "labels": "single", "scores": "single"}
"""Kind of export -> kind of item that its judgements are of."""
_JUDGED = {"pair": "comparisons", "rank": "rankings", "single": "labels or scores"}


def _others(session: Session, kind: ExportKind) -> str:
    """What else the store has judgements of, for those who asked for the wrong kind; empty for nothing."""
    item, judgement = models.ItemRow, models.JudgementRow
    judged = select(item.kind).distinct().join(judgement, judgement.item_id == item.id)
    there = session.scalars(judged.where(item.kind != _ASKED.get(kind)).order_by(item.kind)).all()
    if not there:
        return ""
    return f"; it has judgements of {' and '.join(_JUDGED[kind] for kind in there)}, which `prefer` trains on"


def _fix(
    session: Session,
    kind: ExportKind,
    filters: Mapping[str, Any],
    members: Sequence[int],
    selection: Selection[Any],
    path: Path | None,
    label: str,
) -> tuple[Export, bool]:
    """The export of these records, and whether it is a new one."""
    if not selection.records:
        left_out = ", ".join(f"{reason} {count}" for reason, count in selection.left_out.items()) or "nothing"
        asked, way_out = (f" with {_in_words(filters)}", ", or filter less") if filters else ("", "")
        raise InputError(
            f"{label}: no {kind} to export{asked} (left out: {left_out}){_others(session, kind)}; label first{way_out}"
        )
    digest = content_hash(selection.records)
    row = {
        "key": sha256([kind, filters, digest]),
        "kind": kind,
        "filters": filters,
        "sha256": digest,
        "rows": len(selection.records),
        "left_out": dict(selection.left_out),
        "created_at": now(),
    }
    table = models.ExportRow
    same = select(table).where(table.key == row["key"])
    known = session.scalars(same).one_or_none()
    new = known is None
    if known is None:
        insert_new(session, table, [row], ["key"])
        known = session.scalars(same).one()
        member_table, column = MEMBER_TABLES[kind]
        session.execute(
            insert(member_table),
            [
                {"export_id": known.id, "position": position, column: id}
                for position, id in enumerate(members)
            ],
        )
    files = [] if path is None else split_by_prompts(selection.records, path)
    for file, records in files:
        write_jsonl(records, file, image=partial(images.find, session))
    return export_of(known, files=tuple((str(file), len(records)) for file, records in files)), new


def _in_words(filters: Mapping[str, Any]) -> str:
    """Filters by the names of their settings."""
    return ", ".join(
        f"{'judged_by' if name == 'kinds' else name} {' '.join(map(str, value)) if isinstance(value, list) else value}"
        for name, value in filters.items()
    )


def export_of(row: models.ExportRow, *, files: tuple[tuple[str, int], ...] = ()) -> Export:
    """A row as what callers are given."""
    kind: Any = row.kind
    return Export(
        id=row.id, kind=kind, sha256=row.sha256, rows=row.rows, left_out=dict(row.left_out), files=files
    )


MEMBER_TABLES: dict[str, tuple[type[models.Base], str]] = {
    "prompts": (models.ExportPromptRow, "prompt_id"),
    **dict.fromkeys(
        ("comparisons", "rankings", "labels", "scores", "demonstrations"),
        (models.ExportJudgementRow, "judgement_id"),
    ),
}


def exported(
    session: Session, id: int, label: str, *, erased: bool = False
) -> tuple[JudgedRecord | Prompt, ...]:
    """The records of an export, made again from the rows it is made of and checked against its hash.

    An export of which words were erased later, at a person's request, cannot be made again. `erased`: give it all the same, with the gaps.
    """
    row = session.get(models.ExportRow, id)
    if row is None:
        raise InputError(f"{label}: has no export {id}")
    records: Sequence[JudgedRecord | Prompt]
    if row.kind == "prompts":
        member = models.ExportPromptRow
        found = session.execute(
            select(models.PromptRow.content)
            .join(member, member.prompt_id == models.PromptRow.id)
            .where(member.export_id == id)
            .order_by(member.position)
        )
        records = [prompt_of(content) for (content,) in found]
    else:
        member = models.ExportJudgementRow
        members = select(member.judgement_id).where(member.export_id == id)
        # What was superseded later was current then.
        rows = [replace(row, superseded=False) for row in judged_of(session, members)]
        pairs = _pairs_of(session, id, rows)
        records = _aggregated_records(pairs, rows) if pairs else SELECTORS[row.kind](rows, label).records
    digest = content_hash(records)
    if digest != row.sha256:
        when = _erased_at(session, id)
        if when is not None and erased:
            return tuple(records)
        if when is not None:
            raise InputError(
                f"{label}: words in export {id} were erased on {when:%Y-%m-%d} at a person's request, so it cannot be used again; "
                "export the data again, or save a new version"
            )
        raise InputError(
            f"{label}: export {id} hashes to {digest[:12]}, not {row.sha256[:12]} as when it was made; "
            "the store was changed from outside: restore a backup"
        )
    return tuple(records)


def _erased_at(session: Session, export: int) -> datetime | None:
    """When words of an export were erased; None if none were."""
    for row in session.scalars(select(event_models.ErasureRow).order_by(event_models.ErasureRow.id)):
        if export in row.proof["exports"]:
            return row.at
    return None


def _pairs_of(session: Session, id: int, rows: Sequence[JudgedRow]) -> list[AggregatedLabel]:
    """The comparisons of an export that aggregates; none of another."""
    behind: dict[int, list[int]] = {}
    for row in rows:
        behind.setdefault(row.item, []).append(row.id)
    table = models.ExportPairRow
    found = session.scalars(select(table).where(table.export_id == id).order_by(table.position))
    return [
        AggregatedLabel(
            item=pair.item_id,
            choice="a" if pair.choice == "a" else "b",
            p_soft=pair.p_soft,
            judgements=tuple(behind[pair.item_id]),
        )
        for pair in found
    ]


def _aggregated_records(pairs: Sequence[AggregatedLabel], rows: Sequence[JudgedRow]) -> list[Comparison]:
    """One comparison a pair; of a single judgement it keeps the annotator."""
    of_item = {row.item: row for row in rows}
    records = []
    for pair in pairs:
        row = of_item[pair.item]
        a, b = row.completions
        records.append(
            Comparison(
                prompt=row.prompt,
                chosen=a if pair.choice == "a" else b,
                rejected=b if pair.choice == "a" else a,
                annotator=row.annotator if len(pair.judgements) == 1 else "",
                p_soft=pair.p_soft,
                origin=f"item {pair.item}",
            )
        )
    return records


def _members(
    session: Session, kind: ExportKind, filters: Filters, label: str, *, skip_bad: bool
) -> tuple[list[int], Selection[Any]]:
    """Ids of the rows that an export is made of, and its records."""
    if kind == "prompts":
        if filters.to_json().keys() - {"part", "heldout"}:
            raise InputError(
                f"an export of prompts cannot be filtered by {_in_words(filters.to_json())}; only part applies to prompts"
            )
        found = prompts(session, part=filters.part, heldout=filters.heldout)
        return [id for id, _ in found], Selection(records=tuple(prompt for _, prompt in found), left_out={})
    rows = judged(session, filters)
    members = [row.id for row in rows if not WHY_NOT[kind](row, skip_bad)]
    return members, SELECTORS[kind](rows, label, skip_bad=skip_bad)
