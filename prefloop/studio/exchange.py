"""Files into projects and judgements out of them, with a manifest; backups. With or without a server."""

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Unpack

from sqlalchemy.orm import Session

from prefloop import __version__
from prefloop.configs.common import HELDOUT, Selecting
from prefloop.data import Images, each_record, load_records
from prefloop.data.formats import FormatName, Record
from prefloop.data.hashing import content_hash
from prefloop.data.images import Image
from prefloop.data.importing import HUMAN
from prefloop.data.load import HowRead, Loaded
from prefloop.data.store import Filters, judging, writing
from prefloop.data.store import images as store_images
from prefloop.data.store.database import HEAD
from prefloop.data.store.values import ExportKind, ItemKind, Part
from prefloop.data.write import ImagesAs
from prefloop.errors import InputError
from prefloop.feedback.datasets import take
from prefloop.records import (
    Comparison,
    Completion,
    Conversation,
    Demonstration,
    Label,
    Prompt,
    Ranking,
    Score,
    Steps,
)
from prefloop.studio import audit, projects
from prefloop.studio.service import Studio
from prefloop.studio.values import GOLD_SHARE, ITEM_KIND, Project, ProjectSettings, Stage

MANIFEST = 1
"""Version of the manifest's fields."""
ENDINGS = (
    *(
        f"{ending}{packed}"
        for ending in (".jsonl", ".json", ".csv", ".tsv")
        for packed in ("", ".gz", ".zst")
    ),
    ".parquet",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportedItems:
    """What an import made."""

    rows: int
    """Records read."""
    project: int
    bad: int
    """Rows left out because they cannot be used."""
    items: int
    """Items found in the file."""
    new: int
    """Of them, new in the project."""
    known: int
    """Items whose answer is known."""
    left_out: int
    """Groups with too few different texts to be compared."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Group:
    """Completions of one prompt that make an item."""

    prompt: Prompt
    texts: tuple[str, ...]
    right: str
    """What the file says of it, where that can be a known answer: the better text, or `good` or `bad`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportOptions:
    """What the items of an import are."""

    author: str = HUMAN
    """Who wrote the completions."""
    gold: bool = False
    """Whether what the file says is the known answer."""
    stage: Stage = ""
    """Whether known answers are practice or qualification."""
    round: int = 0
    """Round of the loop."""
    by: int | None = None
    """The person who imports."""


def import_file(
    studio: Studio,
    project: int,
    source: str | Path,
    options: ImportOptions = ImportOptions(),
    *,
    skip_bad: bool = False,
    limit: int = 0,
    files: bool = True,
    **reading: Unpack[HowRead],
) -> ImportedItems:
    """Put what a file's completions ask into a project. Importing the file again adds nothing.

    Any format of `data import` with completions: of comparisons and rankings the completions are taken, to be judged again; completions by
    themselves are grouped by prompt where the project compares. Judgements are not imported here: that is `data import`. `files`: whether the
    file may name images beside it.
    """
    with Images(files=files) as images:
        loaded = load_records(source, skip_bad=skip_bad, limit=limit, images=images, **reading)
        return import_loaded(studio, studio.project(project), loaded, options, images=images)


def import_loaded(
    studio: Studio,
    into: Project | ProjectSettings,
    loaded: Loaded[Record],
    options: ImportOptions = ImportOptions(),
    *,
    images: Iterable[Image] = (),
) -> ImportedItems:
    """Put records' completions into a project that is there, perhaps with new settings, or into a new one: all of it or nothing.

    `images`: those whose marks the records hold.
    """
    source, settings = loaded.summary.source, into.settings if isinstance(into, Project) else into
    gold, stage, by = options.gold, options.stage, options.by
    if settings.kind == "chat":
        raise InputError(
            f"project {settings.name!r} is a chat: its items are made as people talk; import into another project"
        )
    kind = ITEM_KIND[settings.kind]
    groups, left_out = _grouped(_texts(loaded), kind)
    if not groups:
        raise InputError(
            f"{source}: it has no items to judge; project {settings.name!r} needs {_NEEDS[kind]}"
        )
    if gold and not any(group.right for group in groups):
        raise InputError(f"{source}: rows of format {loaded.summary.format} contain no known answers")

    def work(session: Session) -> tuple[Project, int, int, int]:
        now = studio.clock()
        project = into if isinstance(into, Project) else projects.create(session, settings, now=now, by=by)
        project = projects.change(session, project.id, settings, now=now, by=by)
        store_images.add_shown(session, images, loaded.records)
        items, right = _write(session, groups, kind, author=options.author, round=options.round)
        known = {item: choice for item, choice in right.items() if choice} if gold else {}
        begun = _asks_for(project.settings, stage, len(known))
        if begun != project.settings:
            project = projects.change(session, project.id, begun, now=now, by=by)
        new = projects.add_tasks(session, project, items, gold=known, stage=stage, random=studio.random)
        audit.write(
            session,
            now=now,
            annotator=by,
            action="import",
            entity="project",
            id=project.id,
            detail={"rows": len(loaded.records), "new": new, "gold": len(known)}
            | ({"stage": stage} if stage else {}),
        )
        return project, len(set(items)), new, len(known)

    project, items, new, known = studio.write_twice(work, bulk=True)
    return ImportedItems(
        project=project.id,
        rows=len(loaded.records),
        bad=len(loaded.summary.bad),
        items=items,
        new=new,
        known=known,
        left_out=left_out,
    )


def _asks_for(settings: ProjectSettings, stage: Stage, known: int) -> ProjectSettings:
    """Settings under which items whose answer is known are asked at all, where the project asked for none yet."""
    if known and not stage and not settings.gold_share:
        return replace(settings, gold_share=GOLD_SHARE)
    if known and stage == "qualification" and not settings.qualify_items:
        return replace(settings, qualify_items=min(known, 1000))
    return settings


_NEEDS = {
    "pair": "prompts with two different completions",
    "rank": "prompts with two or more different completions",
    "single": "prompts with completions",
}


def import_bytes(
    studio: Studio,
    project: int,
    content: bytes,
    name: str,
    options: ImportOptions,
    **reading: Unpack[HowRead],
) -> ImportedItems:
    """`import_file` of an upload."""
    if not name.lower().endswith(ENDINGS):
        raise InputError(f"{name}: the name must end in {', '.join(ENDINGS)}, which says how it is read")
    with tempfile.TemporaryDirectory(prefix="prefloop-") as folder:
        path = Path(folder) / Path(name).name
        path.write_bytes(content)
        try:
            return import_file(studio, project, path, options, skip_bad=True, files=False, **reading)
        except InputError as error:
            # Where the server keeps uploads is nobody's business, and the page has fields instead of flags.
            message = str(error).replace(f"{folder}/", "")
            raise type(error)(re.sub(r"--data\.(columns|format)\b", r"\1", message)) from None


def _texts(loaded: Loaded[Record]) -> Iterable[tuple[Prompt, tuple[str, ...], str]]:
    """Prompt, completions and what is said of them, for every record that has completions."""
    for record in loaded.records:
        if isinstance(record, Comparison):
            yield record.prompt, (record.chosen, record.rejected), record.chosen
        elif isinstance(record, Ranking):
            yield record.prompt, record.completions, ""
        elif isinstance(record, Label):
            yield record.prompt, (record.completion,), "good" if record.good else "bad"
        elif isinstance(record, Score | Steps | Demonstration):
            yield record.prompt, (record.completion,), ""
        elif isinstance(record, Conversation):
            for place, turn in enumerate(record.messages):
                if turn.role == "assistant" and place:
                    yield Prompt(content=record.messages[:place]), (turn.content,), ""


def items_in(loaded: Loaded[Record], kind: ItemKind) -> tuple[list[tuple[str, tuple[str, ...]]], int]:
    """The items that records make, as the prompt's last text and the completions, and how many prompts have too few different ones."""
    groups, left_out = _grouped(_texts(loaded), kind)
    shown = [
        (
            group.prompt.content if isinstance(group.prompt.content, str) else group.prompt.content[-1].shown,
            group.texts,
        )
        for group in groups
    ]
    return shown, left_out


def _grouped(
    records: Iterable[tuple[Prompt, tuple[str, ...], str]], kind: ItemKind
) -> tuple[list[_Group], int]:
    """The items in records, and how many groups had too few different texts."""
    groups: list[_Group] = []
    alone: dict[Prompt, list[str]] = {}
    left_out = 0
    for prompt, given, right in records:
        texts = tuple(dict.fromkeys(given))
        if kind == "single":
            groups += [
                _Group(prompt=prompt, texts=(text,), right=right if right in ("good", "bad") else "")
                for text in texts
            ]
        elif len(given) == 1:
            alone.setdefault(prompt, []).append(given[0])
        elif len(texts) < 2:
            left_out += 1
        else:
            groups += _compared(prompt, texts, kind, right)
    for prompt, given in alone.items():
        texts = tuple(dict.fromkeys(given))
        if len(texts) < 2:
            left_out += 1
        else:
            groups += _compared(prompt, texts, kind, "")
    return groups, left_out


def _compared(prompt: Prompt, texts: tuple[str, ...], kind: ItemKind, right: str) -> list[_Group]:
    if kind == "rank":
        return [_Group(prompt=prompt, texts=texts, right="")]
    return [_Group(prompt=prompt, texts=pair, right=right) for pair in combinations(texts, 2)]


def _write(
    session: Session, groups: Sequence[_Group], kind: ItemKind, *, author: str, round: int
) -> tuple[list[int], dict[int, str]]:
    """Write the groups as items; their ids, and what is known to be right of each, in slots."""
    distinct = list(dict.fromkeys((group.prompt, text) for group in groups for text in group.texts))
    checkpoint = writing.add_checkpoint(
        session,
        author,
        kind=HUMAN if author == HUMAN else "policy",
        weights_sha256="",
        stage="",
        step=0,
        parent=None,
        training_run=None,
    )
    completions = [
        Completion(
            prompt=prompt,
            text=text,
            policy=author,
            logprob=0.0,
            tokens=0,
            ended=True,
            temperature=0.0,
            top_p=1.0,
            top_k=0,
            seed=0,
            index=0,
        )
        for prompt, text in distinct
    ]
    ids = dict(zip(distinct, writing.add_completions(session, completions, checkpoint), strict=True))
    # Slots by the hash of the text: the order in the file, better one first, tells nothing then.
    ordered = [sorted(group.texts, key=_hash) for group in groups]
    items, _ = writing.add_items(
        session,
        [[ids[group.prompt, text] for text in texts] for group, texts in zip(groups, ordered, strict=True)],
        kind=kind,
        strategy="import",
        round=round,
    )
    slots = {item.id: item.completions for item in judging.items(session, list(dict.fromkeys(items)))}
    right: dict[int, str] = {}
    for group, item in zip(groups, items, strict=True):
        if kind == "pair" and group.right:
            right[item] = "ab"[slots[item].index(group.right)]
        elif kind == "single":
            right[item] = group.right
    return items, right


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """Which prompts' records are written: of all, those trained on, or those held out."""

    part: Part = "all"
    heldout: float = HELDOUT
    """Share of prompts that is held out."""


def export_files(
    studio: Studio,
    kind: ExportKind,
    path: str | Path,
    *,
    chosen: Selecting | None = None,
    split: Split = Split(),
    format: FormatName | None = None,
    skip_bad: bool = False,
    images: ImagesAs = "folder",
    by: int | None = None,
) -> list[dict[str, Any]]:
    """Write what was said to a file in the field's format, and beside it `FILE.manifest.json`; the manifest.

    Chats and plain texts do not go into one file: where there are both, there are two files, NAME-chat and NAME-text, each with its manifest.

    The export is fixed in the store by its content hash, so the manifest's `export` leads back to every judgement in it, and reading the file
    gives records of that hash again (`verify`).
    """
    target = Path(path)
    chosen = chosen or Selecting()
    part, heldout = split.part, split.heldout
    made = take(studio.store, kind, chosen, part=part, heldout=heldout, skip_bad=skip_bad)
    aggregate = {} if chosen.aggregate == "each" else {"aggregate": chosen.aggregate}
    written = studio.store.write_exported(made.id, target, format=format, images=images)
    manifests = []
    for file in written:
        manifest = {
            "manifest": MANIFEST,
            "prefloop": __version__,
            "schema": HEAD,
            "export": made.id,
            **aggregate,
            "kind": kind,
            "file": file.path.name,
            "format": file.format,
            "filters": Filters.of(chosen, part=part, heldout=heldout).to_json(),
            "rows": file.rows,
            "left_out": dict(made.left_out),
            # Of everything; what is read of one file of two, or of demonstrations written as messages, has another hash.
            "content_sha256": made.sha256,
            "read_sha256": _read_again(file.path),
            "file_sha256": _file_hash(file.path),
            "created_at": studio.clock().isoformat(timespec="seconds"),
        }
        _replace(manifest_of(file.path), json.dumps(manifest, indent=1, ensure_ascii=False).encode() + b"\n")
        manifests.append(manifest)
    with studio.write() as session:
        audit.write(
            session,
            now=studio.clock(),
            annotator=by,
            action="export",
            entity="export",
            id=made.id,
            detail={"kind": kind, "rows": sum(file.rows for file in written), **aggregate},
        )
    return manifests


def manifest_of(path: Path) -> Path:
    """Where the manifest of an exported file stands."""
    return path.with_name(f"{path.name}.manifest.json")


def verify(path: str | Path) -> dict[str, Any]:
    """The manifest of an exported file, checked: the file's bytes and the records read from it. `InputError` says what differs."""
    target = Path(path)
    try:
        manifest = json.loads(manifest_of(target).read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{manifest_of(target)}: cannot be read ({error}); export the file again") from error
    if _file_hash(target) != manifest["file_sha256"]:
        raise InputError(f"{target}: is not the file that its manifest describes; export it again")
    read = _read_again(target)
    expected = manifest.get("read_sha256", manifest["content_sha256"])  # the former is in newer manifests
    if read != expected:
        raise InputError(
            f"{target}: reads as records of hash {read[:12]}, not {expected[:12]} as when it was written"
        )
    return manifest


def export_download(
    studio: Studio,
    project: int,
    kind: ExportKind,
    folder: str | Path,
    *,
    adjudicated: bool = False,
    by: int | None,
) -> tuple[Path, list[dict[str, Any]]]:
    """`export_files` of one project into an empty folder, for a download: the file, and its manifest. Of two files it is an archive of them and their
    manifests."""
    asked: Project = studio.project(project)
    path = Path(folder) / f"{kind}-{project}.jsonl"
    chosen = Selecting(projects=(asked.settings.name,), adjudicated=adjudicated)
    try:
        manifests = export_files(studio, kind, path, chosen=chosen, skip_bad=True, images="inline", by=by)
    except InputError as error:
        raise type(error)(str(error).replace(f"{folder}/", "")) from None
    if len(manifests) == 1:
        return path, manifests
    files = sorted(Path(folder).iterdir())
    archive = path.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in files:
            packed.write(file, file.name)
    return archive, manifests


def _read_again(path: Path) -> str:
    """Content hash of the records that a file gives, one of them in memory at a time."""
    with Images() as images:
        return content_hash(each_record(path, images=images))


def _file_hash(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another folder") from error
