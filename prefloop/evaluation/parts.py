"""Which rows an evaluation measures, why, and what became of the others."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from prefloop.configs.common import in_store
from prefloop.configs.scorers import scorers_named
from prefloop.data.split import opening, split_key
from prefloop.data.store import Node, Store
from prefloop.data.store import lineage as find_lineage
from prefloop.errors import InputError
from prefloop.evaluation.summary import MeasuredData
from prefloop.loop.reading import Read, store_of
from prefloop.models.weights import weights_sha256

Part = Literal["heldout", "train", "all"]


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredPart:
    """The part that is measured."""

    part: Part
    why: str = ""
    """Where it was not asked for."""
    alarm: str = ""
    """Why its numbers may flatter; empty if nothing says so."""


def models_named(policies: Sequence[str], reward_model: str) -> tuple[str, ...]:
    """Every model behind policies and scorers, in order, each once."""
    scorers = scorers_named(reward_model) if reward_model else ()
    of_scorers = [
        name for scorer in scorers if scorer.kind != "function" for name in (scorer.name, scorer.reference)
    ]
    return tuple(dict.fromkeys(name for name in (*policies, *of_scorers) if name))


def choose_part(
    asked: str,
    source: str,
    read: Read,
    prompts: frozenset[str],
    models: Sequence[str],
    store: str,
    *,
    heldout: float,
) -> MeasuredPart:
    """The part that was asked for; of `auto` the held-out one where a run behind a model read the source, else everything.

    `prompts` are the hashes of the source's prompts: a file exported from a store that a run was trained on has some in common. Runs are those in `store` and in the store of the model's own project. A model that a run of prefloop made but no store knows may have
    been trained on anything. A model from elsewhere has never heard of our parts, so holding nine tenths back would protect nothing.
    """
    used = next((use for model in models for use in _uses(model, source, read, prompts, store)), None)
    alarm = ""
    if used is not None and used.heldout < heldout:
        alarm = (
            f"{used.run} trained {used.model} on {source} with data.heldout {used.heldout:g}, so part of what is held out here "
            f"({heldout:g}) was trained on; give --data.heldout {used.heldout:g}"
            if used.heldout
            else f"{used.run} trained {used.model} on all of {source} (data.heldout 0), so nothing in it is unseen"
        )
    if asked != "auto":
        assert asked in ("heldout", "train", "all")
        return MeasuredPart(part=asked, alarm=alarm if asked == "heldout" else "")
    if used is not None:
        return MeasuredPart(
            part="heldout", why=f"{used.run}, behind {used.model}, read {used.what}", alarm=alarm
        )
    unknown = next((model for model in models if _is_unknown(model, store)), None)
    if unknown is not None:
        why = f"no store says what {unknown} was trained on; use --part all if it was not on this"
        return MeasuredPart(part="heldout", why=why)
    return MeasuredPart(part="all", why=f"no run behind {' or '.join(models)} read it")


def measured_data(
    what: str, source: str, read: Read, chosen: MeasuredPart, *, measured: int, known: int
) -> MeasuredData:
    """The counts; `known` are the records of all parts."""
    other = {"heldout": "in the part for training", "train": "held out", "all": "in no part"}[chosen.part]
    rest = known - measured
    return MeasuredData(
        what=what,
        source=source,
        rows=read.rows,
        measured=measured,
        part=chosen.part,
        why=chosen.why,
        left_out={**read.left_out, **({other: rest} if rest else {})},
        truncated=read.truncated,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Use:
    """A run behind a model that read the source."""

    model: str
    run: str
    heldout: float
    what: str


def _uses(model: str, source: str, read: Read, prompts: frozenset[str], store: str) -> Iterator[_Use]:
    for where in _stores(model, store):
        with Store.open(where, create=False) as opened:
            tree = _tree(opened, model)
            for node in tree.walk() if tree else ():
                if node.kind != "training_run":
                    continue
                what = "it" if _reads(node, source, read, opened.folder) else _shares(node, prompts, opened)
                if not what:
                    continue
                number = int(node.name.partition(":")[0])
                config = opened.training_run_config(number)
                share = config.get("data", {}).get("heldout", 0.0)
                yield _Use(model=model, run=f"run {node.name}", heldout=float(share), what=what)


def _reads(run: Node, source: str, read: Read, home: Path) -> bool:
    """Whether a run read this source, by name or by content."""
    if in_store(source):
        return any(child.kind == "export" for child in run.children)
    contents = {place.sha256 for place in read.sources}
    ours = Path(source).resolve()
    return any(
        child.kind == "source"
        and (
            child.name == source
            or child.facts["sha256"] in contents
            or ours in (Path(child.name).resolve(), (home / child.name).resolve())
        )
        for child in run.children
    )


def _shares(run: Node, prompts: frozenset[str], store: Store) -> str:
    """How many of the prompts a run read from the store; empty if none."""
    exports = [int(child.name.partition(":")[0]) for child in run.children if child.kind == "export"]
    seen = {
        opening(split_key(record)).sha256
        for export in exports
        for record in store.exported(export, erased=True)
    }
    shared = len(prompts & seen)
    return f"{shared} of its {len(prompts)} prompts" if shared else ""


def _is_unknown(model: str, store: str) -> bool:
    """Whether a run of prefloop made the model, and no store has heard of it."""
    if not (Path(model).parent / "config.yaml").is_file():
        return False
    for where in _stores(model, store):
        with Store.open(where, create=False) as opened:
            if _tree(opened, model):
                return False
    return True


def _stores(model: str, store: str) -> Iterator[str]:
    """The store given and that of the model's own project, where they exist."""
    own = store_of(str(Path(model).parent), "") if Path(model).is_dir() else store
    for where in dict.fromkeys((store, own)):
        if "://" in where or Path(where).is_file():
            yield where


def _tree(store: Store, model: str) -> Node | None:
    """What made a model, found by its path or, moved or copied, by its weights."""
    try:
        return find_lineage(store, model)
    except InputError:
        pass
    try:
        return find_lineage(store, weights_sha256(model)) if Path(model).is_dir() else None
    except InputError:
        return None
