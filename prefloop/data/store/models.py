"""The tables of the preference store.

They are what one pass of the loop writes. Tables that only a labelling server needs (projects, leases, sessions, audit) join them by
key in later migrations; nothing here has to be rewritten for that. Three rules hold everywhere:

- what somebody said is never changed: the database itself refuses to update or delete a judgement or an export, or to change a
  completion or an item's completions (triggers, in the migrations). A correction is a new judgement that supersedes the old one;
- a unique key stands on everything that is written twice when a command is run again, so a second run adds nothing;
- text may hold any character, NUL included, on every database.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ESCAPE = "\ue000"
"""Written as itself and `1`; NUL, which PostgreSQL cannot hold in text, is written as it and `0`."""


class AnyText(TypeDecorator[str]):
    """Text that may hold any character. A byte-level tokenizer can decode to NUL, so completions do."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or ("\0" not in value and ESCAPE not in value):
            return value
        return value.replace(ESCAPE, ESCAPE + "1").replace("\0", ESCAPE + "0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or ESCAPE not in value:
            return value
        return value.replace(ESCAPE + "0", "\0").replace(ESCAPE + "1", ESCAPE)


class UtcTime(TypeDecorator[datetime]):
    """A moment, always aware and in UTC; SQLite keeps no time zone of its own."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        assert value.tzinfo is not None, "a moment in the store needs a time zone"
        utc = value.astimezone(UTC)
        return utc.replace(tzinfo=None) if dialect.name == "sqlite" else utc

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    """Every table of the store."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # `JSON` and not `JSONB`: only the former keeps \u0000 and the order of keys on PostgreSQL.
    type_annotation_map = {str: AnyText(), datetime: UtcTime(), Any: JSON(), float: Float()}  # noqa: RUF012


class PromptRow(Base):
    """What completions answer. Its part (train or held out) is a function of `sha256`, never stored."""

    __tablename__ = "prompt"

    id: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    content: Mapped[Any]
    """`records.Prompt.to_json()`."""
    tags: Mapped[Any]
    """A list of words."""
    origin: Mapped[str]
    created_at: Mapped[datetime]


class ImageRow(Base):
    """An image whose mark stands in texts. Nothing refers to its row, so that one can be erased."""

    __tablename__ = "image"
    __table_args__ = (CheckConstraint("kind IN ('image/jpeg', 'image/png')", name="kind"),)

    sha256: Mapped[str] = mapped_column(String(64), primary_key=True)
    """Of `content`."""
    kind: Mapped[str] = mapped_column(String(16))
    width: Mapped[int]
    height: Mapped[int]
    content: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime]


class TrainingRunRow(Base):
    """One run of a training stage."""

    __tablename__ = "training_run"
    __table_args__ = (
        CheckConstraint("status IN ('running', 'finished', 'interrupted', 'failed')", name="status"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    stage: Mapped[str]
    folder: Mapped[str]
    """Run folder, as it was given; empty if there is none."""
    status: Mapped[str] = mapped_column(String(16))
    reason: Mapped[str]
    """Why it stopped before its end; empty otherwise."""
    config: Mapped[Any]
    metrics: Mapped[Any]
    version: Mapped[str]
    """Version of prefloop that ran it."""
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]


class CheckpointRow(Base):
    """A model: a folder or a name, with the weights it held. `human` stands for people as the authors of text."""

    __tablename__ = "checkpoint"
    __table_args__ = (UniqueConstraint("name", "weights_sha256"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    weights_sha256: Mapped[str] = mapped_column(String(64))
    """Empty if it is not known."""
    kind: Mapped[str] = mapped_column(String(32))
    stage: Mapped[str]
    step: Mapped[int]
    parent_id: Mapped[int | None] = mapped_column(ForeignKey("checkpoint.id"), index=True)
    """The model whose weights this one was made from."""
    training_run_id: Mapped[int | None] = mapped_column(ForeignKey("training_run.id"), index=True)
    """The run that wrote it."""
    created_at: Mapped[datetime]


class CompletionRow(Base):
    """What a checkpoint answered. The same sample drawn again is the same row."""

    __tablename__ = "completion"
    __table_args__ = (
        UniqueConstraint(
            "prompt_id",
            "checkpoint_id",
            "seed",
            "sample_index",
            "temperature",
            "top_p",
            "top_k",
            "text_sha256",
            name="uq_completion_sample",
        ),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"))
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoint.id"), index=True)
    text: Mapped[str]
    text_sha256: Mapped[str] = mapped_column(String(64))
    """In the key, so that samples that differ in something the key does not know (the token limit, the machine) are all kept."""
    logprob: Mapped[float]
    tokens: Mapped[int]
    ended: Mapped[bool]
    temperature: Mapped[float]
    top_p: Mapped[float]
    top_k: Mapped[int]
    seed: Mapped[int] = mapped_column(BigInteger)
    sample_index: Mapped[int]
    created_at: Mapped[datetime]


class AnnotatorRow(Base):
    """Who judges: a person, a model, or a simulation with a known utility."""

    __tablename__ = "annotator"
    __table_args__ = (CheckConstraint("kind IN ('human', 'ai', 'simulated')", name="kind"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str] = mapped_column(String(16))
    settings: Mapped[Any]
    created_at: Mapped[datetime]


class ItemRow(Base):
    """Something to judge: K completions of one prompt, a pair (K = 2), a list to rank, or one by itself."""

    __tablename__ = "item"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    """Hash of kind, round and the set of completions."""
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"), index=True)
    kind: Mapped[str] = mapped_column(String(16))
    """`pair`, `rank`, or `single` for one completion by itself."""
    strategy: Mapped[str]
    """How its completions were picked."""
    round: Mapped[int] = mapped_column(index=True)
    """Which turn of the loop, from 0."""
    created_at: Mapped[datetime]


class ItemCompletionRow(Base):
    """A completion of an item. Slots count from 0; of a pair, slot 0 is `a` and slot 1 is `b`, whatever side they are shown on."""

    __tablename__ = "item_completion"
    __table_args__ = (UniqueConstraint("item_id", "completion_id"),)

    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), primary_key=True)
    slot: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    completion_id: Mapped[int] = mapped_column(ForeignKey("completion.id"), index=True)


class JudgementRow(Base):
    """What an annotator said of an item. Rows are only ever added.

    One annotator's judgements of one item form a chain by `supersedes_id`: the first partial index allows one beginning, the unique key
    one successor each, the composite foreign key no other item or annotator. So exactly one is current.
    """

    __tablename__ = "judgement"
    __table_args__ = (
        UniqueConstraint("id", "item_id", "annotator_id"),
        ForeignKeyConstraint(
            ["supersedes_id", "item_id", "annotator_id"],
            ["judgement.id", "judgement.item_id", "judgement.annotator_id"],
        ),
        Index(
            "uq_judgement_first",
            "item_id",
            "annotator_id",
            unique=True,
            sqlite_where=text("supersedes_id IS NULL"),
            postgresql_where=text("supersedes_id IS NULL"),
        ),
        Index("ix_judgement_item_id_annotator_id", "item_id", "annotator_id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"))
    annotator_id: Mapped[int] = mapped_column(ForeignKey("annotator.id"), index=True)
    order_shown: Mapped[Any]
    """Slots as the annotator saw them, first to last."""
    choice: Mapped[str] = mapped_column(String(16))
    strength: Mapped[int]
    """How strongly, in the levels of the guideline; 0 = not given."""
    margin: Mapped[float]
    """How much better, in units of the reward; 0 = not given."""
    ranking: Mapped[Any]
    """Groups of slots, best group first; slots of one group are tied. Of `best` the one best slot. Empty with another `choice`."""
    duration_ms: Mapped[int] = mapped_column(BigInteger)
    guideline_version: Mapped[str]
    idempotency_key: Mapped[str] = mapped_column(unique=True)
    supersedes_id: Mapped[int | None] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(index=True)


class ExportRow(Base):
    """A data set taken from the store, fixed by its content hash."""

    __tablename__ = "export"

    id: Mapped[int] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(String(64), unique=True)
    """Hash of kind, filters and `sha256`: the same data taken twice is one export."""
    kind: Mapped[str] = mapped_column(String(32))
    filters: Mapped[Any]
    sha256: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int]
    left_out: Mapped[Any]
    """Reason -> how many judgements."""
    created_at: Mapped[datetime]


class ExportJudgementRow(Base):
    """A judgement that an export was made of, in order."""

    __tablename__ = "export_judgement"
    __table_args__ = (UniqueConstraint("export_id", "judgement_id"),)

    export_id: Mapped[int] = mapped_column(ForeignKey("export.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    judgement_id: Mapped[int] = mapped_column(ForeignKey("judgement.id"), index=True)


class ExportPromptRow(Base):
    """A prompt that an export was made of, in order."""

    __tablename__ = "export_prompt"
    __table_args__ = (UniqueConstraint("export_id", "prompt_id"),)

    export_id: Mapped[int] = mapped_column(ForeignKey("export.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    prompt_id: Mapped[int] = mapped_column(ForeignKey("prompt.id"), index=True)


class ExportPairRow(Base):
    """A comparison that an export made of several judgements of a pair, in order. They are in `export_judgement`."""

    __tablename__ = "export_pair"
    __table_args__ = (CheckConstraint("choice IN ('a', 'b')", name="choice"),)

    export_id: Mapped[int] = mapped_column(ForeignKey("export.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    item_id: Mapped[int] = mapped_column(ForeignKey("item.id"), index=True)
    choice: Mapped[str] = mapped_column(String(1))
    p_soft: Mapped[float]


class DatasetVersionRow(Base):
    """An export that was saved under a name. Rows are only ever added."""

    __tablename__ = "dataset_version"
    __table_args__ = (UniqueConstraint("name", "version"),)

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    version: Mapped[int]
    """From 1, of its name."""
    export_id: Mapped[int] = mapped_column(ForeignKey("export.id"), index=True)
    chosen: Mapped[Any]
    """The settings it was asked for with."""
    changes: Mapped[Any]
    """Records `added`, `removed`, `changed` and the `same` as in the version before."""
    note: Mapped[str]
    annotator_id: Mapped[int | None] = mapped_column(ForeignKey("annotator.id"), index=True)
    """Who saved it in the studio; None for the command line."""
    created_at: Mapped[datetime]


class TrainingRunModelRow(Base):
    """A checkpoint that a run read: `start` (the weights it went on from), `reference`, `reward_model`, `critic`, ..."""

    __tablename__ = "training_run_model"

    training_run_id: Mapped[int] = mapped_column(ForeignKey("training_run.id"), primary_key=True)
    role: Mapped[str] = mapped_column(primary_key=True)
    checkpoint_id: Mapped[int] = mapped_column(ForeignKey("checkpoint.id"), index=True)


class TrainingRunExportRow(Base):
    """An export that a run read."""

    __tablename__ = "training_run_export"

    training_run_id: Mapped[int] = mapped_column(ForeignKey("training_run.id"), primary_key=True)
    export_id: Mapped[int] = mapped_column(ForeignKey("export.id"), primary_key=True, index=True)


class TrainingRunSourceRow(Base):
    """Data from outside the store that a run read, by name and content hash."""

    __tablename__ = "training_run_source"

    training_run_id: Mapped[int] = mapped_column(ForeignKey("training_run.id"), primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    sha256: Mapped[str] = mapped_column(String(64))
    rows: Mapped[int]
    role: Mapped[str]
    """What it was read for: `train`, `heldout`, `prompts`, ..."""
