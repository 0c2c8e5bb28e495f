"""The preference store: prompts, completions, judgements, exports, checkpoints and the runs between them, in SQLite or PostgreSQL.

Every method is one transaction: it is written whole or not at all, and once it has returned, its rows survive a crash.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.exc import IntegrityError

from prefloop.data.formats import FormatName
from prefloop.data.images import Image
from prefloop.data.store import as_records, datasets, exporting, judging, models, runs, selecting, writing
from prefloop.data.store import images as store_images
from prefloop.data.store.database import Database, open_database
from prefloop.data.store.values import (
    AddedItems,
    AggregatedLabel,
    AnnotatorKind,
    Conflict,
    DatasetVersion,
    Export,
    ExportKind,
    Filters,
    Item,
    ItemKind,
    Judgement,
    PairStrategy,
    Part,
    Selection,
    Source,
)
from prefloop.data.write import ImagesAs, SplitDraft, Written
from prefloop.errors import InputError
from prefloop.records import Comparison, Completion, Prompt, Ranking


class Store:
    """An open preference store; use it as a context manager.

        with Store.open("prefloop.db") as store:
            policy = store.add_checkpoint("runs/sft/final", weights_sha256=...)
            store.add_completions(completions, policy)
            store.add_pairs(strategy="random", seed=0)

    Threads may share one; a process that was forked opens its own. A store that was made by the `with` statement is gone again if an error
    ends it before anything was written.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, where: str | Path, *, create: bool = True) -> "Store":
        """Open the store in a SQLite file or at a `postgresql://` URL and bring its tables up to date.

        `create=False` is for commands that only read: a store that is not there is then an `InputError` instead of a new, empty one.
        Raises `InputError` for a path or URL that cannot be used, a file that is damaged or another program's, a missing driver, and a
        store that a newer prefloop wrote.
        """
        return cls(open_database(where, create=create))

    def close(self) -> None:
        """Close its connections."""
        self._database.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is not None and self._database.made:
                with suppress(InputError):  # the error that is on its way says more
                    self._database.unmake()
        finally:
            self.close()

    @property
    def label(self) -> str:
        """The file, or the URL without its password."""
        return self._database.label

    @property
    def address(self) -> str:
        """What opens the same store again: the file, or the URL with its password. For settings; messages take `label`."""
        return self._database.address

    @property
    def database(self) -> Database:
        """The database itself, for modules of this package."""
        return self._database

    @property
    def folder(self) -> Path:
        """Folder of a SQLite store, else the working folder: where relative checkpoint names are looked for."""
        return Path(self.label).parent if self._database.dialect == "sqlite" else Path()

    def name_of(self, given: str) -> str:
        """What a model is called here: a path inside the project relative to it, so that a project can be moved; anything else as given."""
        path = Path(given)
        if not path.exists():
            return given
        root, resolved = self.folder.resolve(), path.resolve()
        return str(resolved.relative_to(root)) if resolved.is_relative_to(root) else str(resolved)

    # Texts and models

    def add_prompts(
        self, prompts: Sequence[Prompt], *, tags: Sequence[str] = (), origin: str = ""
    ) -> list[int]:
        """Add prompts that are not there yet; ids of all, in their order. Tags and origin are those of the first time."""
        with self._database.write(bulk=True) as session:
            return writing.add_prompts(session, prompts, tags=tags, origin=origin)

    def add_images(self, images: Iterable[Image], records: Iterable[object] = ()) -> None:
        """Keep images whose marks stand in texts. Raises `InputError` where one that the records show is neither among them nor in the store."""
        with self._database.write(bulk=True) as session:
            store_images.add_shown(session, images, records)

    def image(self, sha256: str) -> Image:
        """The image that a mark names. Raises `InputError` if the store has none of that hash."""
        with self._database.read() as session:
            return store_images.find(session, sha256)

    def erase_image(self, sha256: str) -> int:
        """Erase an image for good, everywhere it is shown; how many texts hold its mark, which stays. Raises `InputError` for one that is not there."""
        with self._database.write(bulk=True) as session:
            return store_images.erase(session, sha256)

    def prompts(self, *, part: Part = "all", heldout: float = 0.1) -> list[Prompt]:
        """All prompts, or those of one part, oldest first."""
        with self._database.read() as session:
            return [prompt for _, prompt in selecting.prompts(session, part=part, heldout=heldout)]

    def add_checkpoint(
        self,
        name: str,
        *,
        kind: str = "policy",
        weights_sha256: str = "",
        stage: str = "",
        step: int = 0,
        parent: int | None = None,
    ) -> int:
        """Id of a model (`kind`: policy, reward_model, critic, human, ...), added if it is not there.

        A model is its name and its weights: a folder trained again is another row. Without the hash it is the newest one of that name.
        Its kind is that of the first time: a reward model that a run starts from stays one.
        What a training run writes is added by `add_run_checkpoint` and `finish_training_run`.
        """
        with self._database.write(bulk=True) as session:
            return writing.add_checkpoint(
                session,
                name,
                kind=kind,
                weights_sha256=weights_sha256,
                stage=stage,
                step=step,
                parent=parent,
                training_run=None,
            )

    def find_checkpoint(self, given: str | int) -> int:
        """Id of the checkpoint that a user names by id, name, path or beginning of its weights' hash; `InputError` lists near names."""
        with self._database.read() as session:
            return runs.find_checkpoint(session, given, self.folder).id

    def add_completions(self, completions: Sequence[Completion], checkpoint: int) -> list[int]:
        """Add what a checkpoint answered, with its prompts; ids in their order. What is there already stays as it is.

        Raises `InputError` if a completion's `policy` is not the checkpoint's name.
        """
        with self._database.write(bulk=True) as session:
            return writing.add_completions(session, completions, checkpoint)

    def completions(
        self, checkpoints: Sequence[int] = (), *, part: Part = "all", heldout: float = 0.1
    ) -> list[Completion]:
        """Completions (of these checkpoints, if any are named; of one part's prompts), oldest first."""
        with self._database.read() as session:
            return selecting.completions(session, checkpoints, part=part, heldout=heldout)

    # Items and judgements

    def add_items(
        self,
        groups: Sequence[Sequence[int]],
        *,
        kind: ItemKind = "pair",
        strategy: str = "given",
        round: int = 0,
    ) -> list[int]:
        """Make an item of each group of completion ids; ids in their order. The same completions in the same round are the same item.

        Raises `InputError` for a group of different prompts, of one text twice, or of the wrong size for its kind.
        """
        with self._database.write(bulk=True) as session:
            ids, _ = writing.add_items(session, groups, kind=kind, strategy=strategy, round=round)
            return ids

    def add_pairs(
        self,
        *,
        strategy: PairStrategy = "all",
        seed: int = 0,
        round: int = 0,
        checkpoints: Sequence[int] = (),
        prompts: Sequence[int] | None = None,
    ) -> AddedItems:
        """Pair the completions of each prompt (of these checkpoints and prompt ids, if given).

        `all` makes every pair of different texts, `random` one of them, drawn by the seed, the round and the prompt's content.
        """
        with self._database.write(bulk=True) as session:
            return writing.add_pairs(
                session, strategy=strategy, seed=seed, round=round, checkpoints=checkpoints, prompts=prompts
            )

    def add_annotator(
        self, name: str, *, kind: AnnotatorKind = "human", settings: Mapping[str, Any] | None = None
    ) -> int:
        """Id of an annotator, added if not there. `Conflict` if the name is there with another kind or other settings."""
        with self._database.write(bulk=True) as session:
            return writing.add_annotator(session, name, kind=kind, settings=settings or {})

    def items(self, ids: Sequence[int] | None = None) -> list[Item]:
        """Items by id, in that order; all of them, oldest first, if none are named."""
        with self._database.read() as session:
            if ids is None:
                ids = session.scalars(select(models.ItemRow.id).order_by(models.ItemRow.id)).all()
            return judging.items(session, ids)

    def open_items(self, annotator: int, *, rounds: Sequence[int] = (), limit: int = 0) -> list[Item]:
        """Items that an annotator has not judged, oldest first; at most `limit` unless it is 0."""
        with self._database.read() as session:
            return judging.open_items(session, annotator, rounds=rounds, limit=limit)

    def add_judgement(self, judgement: Judgement) -> int:
        """Add one judgement; see `add_judgements`."""
        return self.add_judgements([judgement])[0]

    def add_judgements(self, judgements: Sequence[Judgement]) -> list[int]:
        """Add judgements, all or none; ids in their order. Sent again with the same idempotency keys they change nothing.

        Raises `InputError` for one that makes no sense; `Conflict` if its key was used for another judgement, or the annotator has judged
        the item already and `supersedes` does not name that judgement.
        """
        try:
            with self._database.write() as session:
                return judging.add_judgements(session, judgements)
        except IntegrityError as error:
            # On PostgreSQL another connection can have written the same between our look and our insert. Looking again finds it.
            collision = error
        try:
            with self._database.write() as session:
                return judging.add_judgements(session, judgements)
        except IntegrityError:
            raise Conflict(
                "these judgements keep colliding with those of another process; send them again"
            ) from collision

    def comparisons(self, filters: Filters | None = None) -> Selection[Comparison]:
        """Who was preferred to whom, in the order it was judged, with counts of the judgements that name no better one."""
        with self._database.read() as session:
            return as_records.compare(selecting.judged(session, filters or Filters()), self.label)

    def rankings(self, filters: Filters | None = None) -> Selection[Ranking]:
        """Completions ranked best first, in the order it was judged, with counts of the judgements that give no such order."""
        with self._database.read() as session:
            return as_records.rank(selecting.judged(session, filters or Filters()), self.label)

    # Exports and training runs

    def export(
        self,
        kind: ExportKind,
        filters: Filters | None = None,
        path: str | Path | None = None,
        *,
        skip_bad: bool = False,
    ) -> Export:
        """Fix a data set by its content hash, remember the rows it is made of, and write it to `path` as JSON lines if given.

        The same data with the same filters is the same export. `skip_bad` leaves out, and counts, what has an empty completion, which
        files do not hold. Raises `InputError`, and leaves no trace, if there is nothing to export or the file cannot be written.
        """
        file = None if path is None else Path(path)
        given = filters or Filters()
        with exporting.Taken(kind, given.to_json(), self.label) as taken:
            with self._database.read() as session:
                taken.read(session, given, file, skip_bad=skip_bad)
            with self._database.write(bulk=True) as session:
                return taken.fix(session)

    def export_aggregated(
        self,
        filters: Mapping[str, Any],
        pairs: Sequence[AggregatedLabel],
        left_out: Mapping[str, int],
        path: str | Path | None = None,
    ) -> Export:
        """The same for comparisons that several judgements each were made into; `filters` say by what, too."""
        file = None if path is None else Path(path)
        with exporting.Taken("comparisons", filters, self.label) as taken:
            taken.left_out.update(left_out)
            with self._database.read() as session:
                taken.read_aggregated(session, pairs, file)
            with self._database.write(bulk=True) as session:
                return taken.fix(session, pairs)

    def exported(self, export: int, *, erased: bool = False) -> tuple[as_records.JudgedRecord | Prompt, ...]:
        """The records of an export as they were when it was made, whatever has been judged since; checked against its hash. `erased`: also of
        one of which words were erased, with the gaps."""
        with self._database.read() as session:
            return exporting.exported(session, export, self.label, erased=erased)

    def write_exported(
        self, export: int, path: str | Path, *, format: FormatName | None = None, images: ImagesAs = "folder"
    ) -> list[Written]:
        """Write the records of an export to `path`, or to two files where chats and plain texts are among them, one record in memory at a time.

        `format` and `images` as in `prefloop.data.write_jsonl`; errors are those of it and of `exported`, and then nothing is written.
        """
        with (
            self._database.read() as session,
            SplitDraft(
                path, format=format, image=partial(store_images.find, session), images=images
            ) as draft,
        ):
            for record in exporting.each_exported(session, export, self.label):
                draft.add(record)
            return draft.write()

    # Dataset versions

    def save_dataset(
        self,
        name: str,
        export: int,
        *,
        chosen: Mapping[str, Any],
        note: str = "",
        annotator: int | None = None,
    ) -> tuple[DatasetVersion, bool]:
        """Save an export as the next version of a name; whether it is new: the newest version stays it where that is the same export.

        Raises `InputError` for a name that cannot be one, or that holds records of another kind.
        """

        def work() -> tuple[DatasetVersion, bool]:
            with self._database.write(bulk=True) as session:
                return datasets.save(
                    session, name, export, self.label, chosen=chosen, note=note, annotator=annotator
                )

        try:
            return work()
        except IntegrityError:  # on PostgreSQL another connection can have saved the next version meanwhile
            return work()

    def dataset(self, given: str) -> DatasetVersion:
        """The version that `NAME@3` names, or the newest of `NAME`; `InputError` with near names for one that is not there."""
        with self._database.read() as session:
            return datasets.find(session, given)

    def datasets(self, name: str = "") -> list[DatasetVersion]:
        """All dataset versions, or those of one name, by name and number."""
        with self._database.read() as session:
            return datasets.versions(session, name)

    def training_run_config(self, id: int) -> Mapping[str, Any]:
        """The settings of a run, as JSON types."""
        with self._database.read() as session:
            return session.get_one(models.TrainingRunRow, id).config

    def begin_training_run(
        self,
        stage: str,
        *,
        config: Mapping[str, Any],
        start: int | None = None,
        models_read: Mapping[str, int] | None = None,
        exports: Sequence[int] = (),
        sources: Sequence[Source] = (),
        folder: str = "",
        resume: bool = False,
    ) -> int:
        """Write down that a run begins, and everything it reads; its id.

        `start` is the checkpoint whose weights it goes on from; `models_read` names the others by role (reference, reward_model, ...).
        With `resume`, the newest unfinished run of this stage and folder goes on instead, if there is one.
        """
        with self._database.write() as session:
            return runs.begin(
                session,
                stage,
                config=config,
                roles={**({} if start is None else {runs.START: start}), **(models_read or {})},
                exports=exports,
                sources=sources,
                folder=folder,
                resume=resume,
            )

    def add_run_checkpoint(
        self, run: int, checkpoint: str, *, weights_sha256: str, kind: str = "policy", step: int = 0
    ) -> int:
        """Id of a checkpoint that a run saved on its way."""
        with self._database.write(bulk=True) as session:
            return runs.add_run_checkpoint(
                session, run, checkpoint=checkpoint, weights_sha256=weights_sha256, kind=kind, step=step
            )

    def finish_training_run(
        self,
        run: int,
        checkpoint: str,
        *,
        weights_sha256: str,
        kind: str = "policy",
        step: int = 0,
        metrics: Mapping[str, Any] | None = None,
    ) -> int:
        """Write down that a run has ended, its metrics and the model it made; id of that checkpoint."""
        with self._database.write(bulk=True) as session:
            return runs.finish(
                session,
                run,
                checkpoint=checkpoint,
                weights_sha256=weights_sha256,
                kind=kind,
                step=step,
                metrics=metrics or {},
            )

    def stop_training_run(self, run: int, status: runs.Stopped, reason: str) -> None:
        """Write down that a run stopped before its end."""
        with self._database.write() as session:
            runs.stop(session, run, status, reason)

    def counts(self) -> dict[str, int]:
        """Rows of every table."""
        with self._database.read() as session:
            return {
                table.name: session.scalar(select(func.count()).select_from(table)) or 0
                for table in models.Base.metadata.sorted_tables
            }
