"""Where a stage's records are read from: files, data sets, the store or a saved version of it, with a hash of their content."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from prefloop.configs.adapters import adapter_of, base_named
from prefloop.configs.common import STORE, Compute, Data, RunSettings, in_store, require_selects
from prefloop.configs.copies import here, keep_copy
from prefloop.configs.model_names import model_name
from prefloop.data import (
    content_hash,
    has_splits,
    how,
)
from prefloop.data.load import Loaded
from prefloop.data.store import Source, Store
from prefloop.data.store.values import DatasetVersion, ExportKind
from prefloop.errors import InputError
from prefloop.feedback.datasets import take
from prefloop.models.weights import check_name
from prefloop.runtime.checkpoint import Content
from prefloop.runtime.sending import bring
from prefloop.runtime.world import World, start_world
from prefloop.text import load_tokenizer
from prefloop.text.encode import Tally

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """Where data came from, for the run's log and for the store."""

    sources: tuple[Source, ...]
    exports: tuple[int, ...]
    sha256: str
    """Of all records read, trained on and held out."""
    summary: str
    rows: int = 0
    """Rows read, good or bad; of a store the records of the export."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Why rows or records are not used, and how many."""
    truncated: int = 0
    """Records that were cut to the budgets."""
    version: str = ""
    """The dataset version that it is, as `NAME@3`; empty for anything else."""

    def as_tokens(self, encoded: Tally, train: int, heldout: int) -> "Read":
        """The same with what became of the records once they were tokens, and how they were parted."""
        counts = {"over the token budgets": len(encoded.dropped), "not encodable": len(encoded.bad)}
        return replace(
            self,
            summary=f"{self.summary} As tokens: {encoded.describe()}. Train {train}, held out {heldout}.",
            left_out={**self.left_out, **positive(counts)},
            truncated=len(encoded.truncated),
        )

    @property
    def content(self) -> Content:
        """For the fingerprint of a run that reads it."""
        names = ", ".join(source.name for source in self.sources) or STORE
        return Content(what=f"the data of {names}", sha256=self.sha256)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reader:
    """What a stage reads with."""

    tokenizer: PreTrainedTokenizerBase
    store: str
    """The project's."""
    world: World


def open_reader(run: RunSettings, compute: Compute, model: str) -> Reader:
    """The processes, the tokenizer of this model, and the project's store."""
    world = start_world(compute.device, wait_minutes=compute.wait_minutes)
    bring_models(world, model)
    tokenizer = load_tokenizer(model, trust_remote_code=compute.trust_remote_code)
    return Reader(tokenizer=tokenizer, store=store_of(run.out, run.store), world=world)


def bring_models(world: World, *names: str) -> None:
    """See to it that every machine has the models of these names that are folders or files of process 0; of adapters their bases too.

    Collective: all processes call it. A hub model is left to each machine. Raises `InputError` where there is no such model, or no room for a copy.
    """
    if world.size == 1:
        return
    found = world.on_main(lambda: [place for name in names if name for place in _places(name)])
    bring(world, *(path for path, _ in found))
    for path, alias in found:
        if alias and here(path) != path:
            keep_copy(alias, Path(here(path)))


def _places(name: str) -> list[tuple[str, str]]:
    """Where a model's files are, and by what other name an adapter's settings call its base."""
    adapter = adapter_of(name)
    if adapter is not None:
        folder = str(adapter.folder)
        base = [
            (path, base_named(adapter.settings) if path == adapter.base else alias)
            for path, alias in _places(adapter.base)
        ]
        given = name if Path(name).expanduser().exists() else name.partition("+")[0].strip()
        return [(given if Path(given).expanduser().exists() else folder, ""), *base]
    check_name(name)
    place = model_name(name)
    return [(name if place.gguf else place.source, "")] if Path(place.source).expanduser().exists() else []


def another(data: Data, source: str) -> Data:
    """The same settings for a second source; a split is said of the first, and of this one only where it has any."""
    splits = has_splits(source) or not data.source
    return replace(data, source=source, split=data.split if splits else "train")


def from_files(data: Data, load: Callable[..., Loaded[R]], **options: Any) -> tuple[Loaded[R], Read]:
    """The records of a file, a folder or a data set. Raises `InputError` where the source is a store, or is selected from like one."""
    if not data.source:
        raise InputError("data.source is empty; name a file, a folder or a data set")
    if in_store(data.source):
        raise InputError(
            f"data.source is `{data.source}`, but a store holds no such records; name a file, a folder or a data set"
        )
    for name, value in data.select.stated.items():
        shown = ", ".join(map(str, value)) if isinstance(value, tuple) else value
        raise InputError(
            f"data.select.{name} is {shown}, but {data.source} is not the store, where judgements are known; leave it out, or read data.source store"
        )
    loaded = load(data.source, skip_bad=data.skip_bad, limit=data.limit, **how(data), **options)
    digest = content_hash(loaded.records)
    source = Source(name=data.source, sha256=digest, rows=len(loaded.records))
    left_out = {"bad rows": len(loaded.summary.bad), "beyond data.limit": loaded.summary.beyond_limit}
    return loaded, Read(
        sources=(source,),
        exports=(),
        sha256=digest,
        summary=str(loaded.summary),
        rows=loaded.summary.read,
        left_out=positive(left_out),
    )


def positive(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts without those that are 0."""
    return {name: count for name, count in counts.items() if count}


def from_store(kind: ExportKind, store: str, data: Data) -> tuple[list[Any], Read]:
    """The records of a kind that pass `data.select`, or those of the dataset version that the source names."""
    with Store.open(store, create=False) as opened:
        if data.source == STORE:
            require_selects(data.select, kind, prefix="data.select.")
            export, version = take(opened, kind, data.select, skip_bad=data.skip_bad), ""
        else:
            saved = dataset_version(opened, data, kind)
            export, version = saved.export, saved.label
        records, where = opened.exported(export.id), opened.label
    used = list(records[: data.limit] if data.limit else records)
    left_out = ", ".join(f"{count} {reason}" for reason, count in export.left_out.items() if count)
    summary = (
        f"{where}: {export.rows} {kind} ({called(version)}export {export.id}, sha256 {export.sha256[:12]})"
    )
    summary += f"; not {kind}: {left_out}" if left_out else ""
    summary += f"; {len(records) - len(used)} beyond data.limit" if len(used) < len(records) else ""
    counts = {**export.left_out, "beyond data.limit": len(records) - len(used)}
    return used, Read(
        sources=(),
        exports=(export.id,),
        sha256=content_hash(used),
        summary=summary + ".",
        rows=export.rows,
        left_out=positive(counts),
        version=version,
    )


def called(version: str) -> str:
    """A dataset version before the export that it is, in a summary; nothing if it is none."""
    return f"dataset {version}, " if version else ""


def read_records(
    kind: ExportKind, data: Data, store: str, load: Callable[..., Loaded[R]]
) -> tuple[Sequence[R], Read]:
    """Records of a kind, from where the source says."""
    if in_store(data.source):
        return from_store(kind, store, data)
    loaded, read = from_files(data, load)
    return loaded.records, read


def dataset_version(store: Store, data: Data, kind: str = "") -> DatasetVersion:
    """The dataset version that the source names, of records of this kind."""
    version = store.dataset(data.source.partition(":")[2])
    if kind and version.export.kind != kind:
        raise InputError(
            f"data.source is {data.source}, but dataset {version.label} holds {version.export.kind}, and {kind} are needed here; "
            f"save some with `prefloop data save NAME --kind {kind}`"
        )
    for name in data.select.stated:
        raise InputError(
            f"data.select.{name} is set, but data.source is {data.source}, which was selected when it was saved; leave it out, or read data.source store"
        )
    return version


def store_of(out: str, store: str) -> str:
    """The project's store: as configured, else `prefloop.db` beside the run folder."""
    return store or str(Path(out).resolve().parent / "prefloop.db")
