"""What made a model: its checkpoint, the run that wrote it, the labels, files and models that run read, and so on to the beginning."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from prefloop.data.store import models
from prefloop.data.store.datasets import names_of_export
from prefloop.data.store.runs import find_checkpoint
from prefloop.data.store.store import Store

HASH_DIGITS = 12
"""Digits of a hash that are printed; the JSON has all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One thing that a model was made from, and what that was made from in turn."""

    kind: str
    """`checkpoint`, `training_run`, `export`, `annotator`, `source` or `completions`."""
    role: str
    """What it was to the node above: `start`, `reference`, `train`, ...; empty for the topmost."""
    name: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    """What is known of it, as JSON types. A checkpoint that is already in the tree has `repeated` and no children here."""
    children: tuple["Node", ...] = ()

    def render(self) -> str:
        """The tree as indented text, a line for each node."""
        return "\n".join(self._lines("", ""))

    def to_json(self) -> dict[str, Any]:
        """The tree as JSON types."""
        return {
            "kind": self.kind,
            "role": self.role,
            "name": self.name,
            "facts": dict(self.facts),
            "children": [child.to_json() for child in self.children],
        }

    def walk(self) -> Iterator["Node"]:
        """This node and all below it, top to bottom."""
        yield self
        for child in self.children:
            yield from child.walk()

    def _lines(self, first: str, rest: str) -> Iterator[str]:
        role = f"{self.role}: " if self.role else ""
        facts = "; ".join(_fact(name, value) for name, value in self.facts.items() if value not in ("", {}))
        yield f"{first}{role}{self.kind.replace('_', ' ')} {self.name}" + (f" ({facts})" if facts else "")
        for child in self.children:
            last = child is self.children[-1]
            yield from child._lines(rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  "))


def lineage(store: Store, checkpoint: str | int) -> Node:
    """The tree of what made a checkpoint, named by id, name, path or beginning of its weights' hash.

    A checkpoint is expanded once, where it first stands; so the tree ends even where models were made from each other in a circle.
    Raises `InputError`, with near names, for a checkpoint that is not in the store.
    """
    with store.database.read() as session:
        found = find_checkpoint(session, checkpoint, store.folder)
        return _checkpoint(session, found.id, "", set())


def lineage_of_run(store: Store, folder: Path) -> Node | None:
    """The tree of what the newest training run in a folder read; None if the store knows of no run there."""
    run = models.TrainingRunRow
    with store.database.read() as session:
        rows = session.execute(select(run.id, run.folder).where(run.folder != "").order_by(run.id.desc()))
        here = folder.resolve()
        found = next(
            (id for id, own in rows if here in (Path(own).resolve(), (store.folder / own).resolve())), None
        )
        return None if found is None else _training_run(session, found, set())


def _checkpoint(session: Session, id: int, role: str, seen: set[int]) -> Node:
    row = session.get_one(models.CheckpointRow, id)
    facts: dict[str, Any] = {"kind": row.kind, "stage": row.stage}
    if row.stage:
        facts["step"] = row.step
    facts["weights_sha256"] = row.weights_sha256
    if id in seen:
        return Node(kind="checkpoint", role=role, name=row.name, facts=facts | {"repeated": True})
    seen.add(id)
    maker = row
    if row.training_run_id is None and row.weights_sha256:
        # A copy or another path to the same folder: the same weights were made by the same run.
        twin = session.scalars(
            select(models.CheckpointRow)
            .where(
                models.CheckpointRow.weights_sha256 == row.weights_sha256,
                models.CheckpointRow.training_run_id.is_not(None),
            )
            .order_by(models.CheckpointRow.id)
            .limit(1)
        ).one_or_none()
        if twin is not None:
            maker = twin
            facts["same_weights_as"] = twin.name
            seen.add(twin.id)
    children: list[Node] = []
    if maker.training_run_id is not None:
        children.append(_training_run(session, maker.training_run_id, seen))
    elif maker.parent_id is not None:
        children.append(_checkpoint(session, maker.parent_id, "start", seen))
    return Node(kind="checkpoint", role=role, name=row.name, facts=facts, children=tuple(children))


def _training_run(session: Session, id: int, seen: set[int]) -> Node:
    row = session.get_one(models.TrainingRunRow, id)
    facts = {
        "status": row.status,
        "reason": row.reason,
        "folder": row.folder,
        "started": row.started_at.isoformat(timespec="seconds"),
        "finished": "" if row.finished_at is None else row.finished_at.isoformat(timespec="seconds"),
        "version": row.version,
    }
    read = models.TrainingRunModelRow
    roles = session.execute(
        select(read.role, read.checkpoint_id).where(read.training_run_id == id).order_by(read.role)
    )
    # The model that training went on from comes first, whatever the others are called.
    in_order = sorted(roles, key=lambda pair: pair.role != "start")
    children = [_checkpoint(session, checkpoint, role, seen) for role, checkpoint in in_order]
    source = models.TrainingRunSourceRow
    for one in session.scalars(select(source).where(source.training_run_id == id).order_by(source.position)):
        facts_of = {"rows": one.rows, "sha256": one.sha256}
        children.append(Node(kind="source", role=one.role, name=one.name, facts=facts_of))
    link = models.TrainingRunExportRow
    exports = session.scalars(
        select(models.ExportRow)
        .join(link, link.export_id == models.ExportRow.id)
        .where(link.training_run_id == id)
        .order_by(models.ExportRow.id)
    ).all()
    children += [_export(session, export, seen) for export in exports]
    return Node(
        kind="training_run", role="", name=f"{id}: {row.stage}", facts=facts, children=tuple(children)
    )


def _export(session: Session, export: models.ExportRow, seen: set[int]) -> Node:
    facts = {
        "dataset": " ".join(names_of_export(session, export.id)),
        "rows": export.rows,
        "sha256": export.sha256,
        "filters": export.filters,
        "left_out": export.left_out,
    }
    children = [*_annotators(session, export.id), *_policies(session, export.id, seen)]
    return Node(
        kind="export", role="", name=f"{export.id}: {export.kind}", facts=facts, children=tuple(children)
    )


def _annotators(session: Session, export: int) -> list[Node]:
    """Who judged: how often, what they chose, and how often what stood first, which should be half."""
    judgement, member = models.JudgementRow, models.ExportJudgementRow
    rows = session.execute(
        select(models.AnnotatorRow, judgement.choice, judgement.order_shown)
        .join(judgement, judgement.annotator_id == models.AnnotatorRow.id)
        .join(member, member.judgement_id == judgement.id)
        .where(member.export_id == export)
        .order_by(models.AnnotatorRow.id)
    )
    choices: dict[int, dict[str, int]] = {}
    first: dict[int, int] = {}
    who: dict[int, models.AnnotatorRow] = {}
    for annotator, choice, order_shown in rows:
        who[annotator.id] = annotator
        counts = choices.setdefault(annotator.id, {})
        counts[choice] = counts.get(choice, 0) + 1
        if choice in ("a", "b"):
            first[annotator.id] = first.get(annotator.id, 0) + (order_shown[0] == "ab".index(choice))
    nodes = []
    for id, annotator in who.items():
        facts: dict[str, Any] = {
            "kind": annotator.kind,
            "judgements": sum(choices[id].values()),
            "choices": dict(sorted(choices[id].items())),
            "settings": annotator.settings,
        }
        compared = choices[id].get("a", 0) + choices[id].get("b", 0)
        if compared:
            facts["chose_first_shown"] = round(first[id] / compared, 4)
        nodes.append(Node(kind="annotator", role="judged by", name=annotator.name, facts=facts))
    return nodes


def _policies(session: Session, export: int, seen: set[int]) -> list[Node]:
    """The checkpoints whose completions were judged."""
    slot, judgement, member = models.ItemCompletionRow, models.JudgementRow, models.ExportJudgementRow
    rows = session.execute(
        select(models.CompletionRow.checkpoint_id, func.count(models.CompletionRow.id.distinct()))
        .join(slot, slot.completion_id == models.CompletionRow.id)
        .join(judgement, judgement.item_id == slot.item_id)
        .join(member, member.judgement_id == judgement.id)
        .where(member.export_id == export)
        .group_by(models.CompletionRow.checkpoint_id)
        .order_by(models.CompletionRow.checkpoint_id)
    ).all()
    return [
        Node(
            kind="completions",
            role="",
            name=str(count),
            facts={},
            children=(_checkpoint(session, checkpoint, "policy", seen),),
        )
        for checkpoint, count in rows
    ]


def _fact(name: str, value: Any) -> str:
    if name == "repeated":
        return "see above"
    if name.endswith("sha256"):
        return f"{name.removesuffix('_sha256')} {value[:HASH_DIGITS]}"
    if isinstance(value, Mapping):
        value = " ".join(f"{key}={inner}" for key, inner in value.items())
    return f"{name.replace('_', ' ')} {value}"
