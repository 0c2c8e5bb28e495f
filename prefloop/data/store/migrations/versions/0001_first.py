"""The first schema: prompts, checkpoints, completions, items, judgements, exports and training runs.

A migration repeats the tables as they were at its time instead of importing the models, which move on.
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

FROZEN = ("judgement", "export", "export_judgement", "export_prompt")
"""Rows of these are never changed and never deleted."""
NEVER_UPDATED = ("completion", "item_completion")
"""Rows of these are never changed: a judgement is about exactly that text."""
TABLES = (
    "prompt",
    "annotator",
    "training_run",
    "checkpoint",
    "completion",
    "item",
    "item_completion",
    "judgement",
    "export",
    "export_judgement",
    "export_prompt",
    "training_run_model",
    "training_run_export",
    "training_run_source",
)
"""In the order in which they are made; each refers to earlier ones only."""


def upgrade() -> None:
    _create_texts_and_models()
    _create_judgements()
    _create_exports()
    _create_run_inputs()
    _create_triggers()


def downgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    for table in reversed(TABLES):
        op.drop_table(table)  # and its triggers
    if postgresql:
        op.execute("DROP FUNCTION prefloop_refuse()")


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), primary_key=True)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text(), nullable=False)


def _word(name: str, length: int) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False)


def _integer(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), nullable=False)


def _float(name: str) -> sa.Column[float]:
    return sa.Column(name, sa.Float(), nullable=False)


def _moment(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _refers(
    name: str, table: str, *, nullable: bool = False, index: bool = True, key: bool = False
) -> sa.Column[int]:
    """A column that refers to the id of another table."""
    return sa.Column(
        name, sa.Integer(), sa.ForeignKey(f"{table}.id"), nullable=nullable, index=index, primary_key=key
    )


def _create_texts_and_models() -> None:
    op.create_table(
        "prompt",
        _id(),
        _word("sha256", 64),
        _json("content"),
        _json("tags"),
        _text("origin"),
        _moment("created_at"),
        sa.UniqueConstraint("sha256"),
    )
    op.create_table(
        "annotator",
        _id(),
        _text("name"),
        _word("kind", 16),
        _json("settings"),
        _moment("created_at"),
        sa.UniqueConstraint("name"),
        sa.CheckConstraint("kind IN ('human', 'ai', 'simulated')", name="kind"),
    )
    op.create_table(
        "training_run",
        _id(),
        _text("stage"),
        _text("folder"),
        _word("status", 16),
        _text("reason"),
        _json("config"),
        _json("metrics"),
        _text("version"),
        _moment("started_at"),
        _moment("finished_at", nullable=True),
        sa.CheckConstraint("status IN ('running', 'finished', 'interrupted', 'failed')", name="status"),
    )
    op.create_table(
        "checkpoint",
        _id(),
        _text("name"),
        _word("weights_sha256", 64),
        _word("kind", 32),
        _text("stage"),
        _integer("step"),
        _refers("parent_id", "checkpoint", nullable=True),
        _refers("training_run_id", "training_run", nullable=True),
        _moment("created_at"),
        sa.UniqueConstraint("name", "weights_sha256"),
    )
    sample = (
        "prompt_id",
        "checkpoint_id",
        "seed",
        "sample_index",
        "temperature",
        "top_p",
        "top_k",
        "text_sha256",
    )
    op.create_table(
        "completion",
        _id(),
        _refers("prompt_id", "prompt", index=False),
        _refers("checkpoint_id", "checkpoint"),
        _text("text"),
        _word("text_sha256", 64),
        _float("logprob"),
        _integer("tokens"),
        sa.Column("ended", sa.Boolean(), nullable=False),
        _float("temperature"),
        _float("top_p"),
        _integer("top_k"),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        _integer("sample_index"),
        _moment("created_at"),
        sa.UniqueConstraint(*sample, name="uq_completion_sample"),
    )


def _create_judgements() -> None:
    op.create_table(
        "item",
        _id(),
        _word("key", 64),
        _refers("prompt_id", "prompt"),
        _word("kind", 16),
        _text("strategy"),
        sa.Column("round", sa.Integer(), nullable=False, index=True),
        _moment("created_at"),
        sa.UniqueConstraint("key"),
    )
    op.create_table(
        "item_completion",
        _refers("item_id", "item", index=False, key=True),
        sa.Column("slot", sa.Integer(), primary_key=True, autoincrement=False),
        _refers("completion_id", "completion"),
        sa.UniqueConstraint("item_id", "completion_id"),
    )
    op.create_table(
        "judgement",
        _id(),
        _refers("item_id", "item", index=False),
        _refers("annotator_id", "annotator"),
        _json("order_shown"),
        _word("choice", 16),
        _integer("strength"),
        _float("margin"),
        _json("ranking"),
        sa.Column("duration_ms", sa.BigInteger(), nullable=False),
        _text("guideline_version"),
        _text("idempotency_key"),
        sa.Column("supersedes_id", sa.Integer(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False, index=True),
        sa.UniqueConstraint("id", "item_id", "annotator_id"),
        sa.UniqueConstraint("idempotency_key"),
        sa.UniqueConstraint("supersedes_id"),
        sa.ForeignKeyConstraint(
            ["supersedes_id", "item_id", "annotator_id"],
            ["judgement.id", "judgement.item_id", "judgement.annotator_id"],
        ),
    )
    first = sa.text("supersedes_id IS NULL")
    op.create_index(
        "uq_judgement_first",
        "judgement",
        ["item_id", "annotator_id"],
        unique=True,
        sqlite_where=first,
        postgresql_where=first,
    )


def _create_exports() -> None:
    op.create_table(
        "export",
        _id(),
        _word("key", 64),
        _word("kind", 32),
        _json("filters"),
        _word("sha256", 64),
        _integer("rows"),
        _json("left_out"),
        _moment("created_at"),
        sa.UniqueConstraint("key"),
    )
    for member in ("judgement", "prompt"):
        op.create_table(
            f"export_{member}",
            _refers("export_id", "export", index=False, key=True),
            sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
            _refers(f"{member}_id", member),
            sa.UniqueConstraint("export_id", f"{member}_id"),
        )


def _create_run_inputs() -> None:
    op.create_table(
        "training_run_model",
        _refers("training_run_id", "training_run", index=False, key=True),
        sa.Column("role", sa.Text(), primary_key=True),
        _refers("checkpoint_id", "checkpoint"),
    )
    op.create_table(
        "training_run_export",
        _refers("training_run_id", "training_run", index=False, key=True),
        _refers("export_id", "export", key=True),
    )
    op.create_table(
        "training_run_source",
        _refers("training_run_id", "training_run", index=False, key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        _text("name"),
        _word("sha256", 64),
        _integer("rows"),
        _text("role"),
    )


def _create_triggers() -> None:
    """Let the database itself refuse what would rewrite history, whoever asks and through whatever program."""
    dialect = op.get_bind().dialect.name
    refused = [(table, action) for table in FROZEN for action in ("UPDATE", "DELETE")]
    refused += [(table, "UPDATE") for table in NEVER_UPDATED]
    if dialect == "postgresql":
        refused += [(table, "TRUNCATE") for table in FROZEN]
        op.execute(
            "CREATE FUNCTION prefloop_refuse() RETURNS trigger LANGUAGE plpgsql AS "
            "$$BEGIN RAISE EXCEPTION '% of % is refused: what was said stays; add a row that supersedes it', "
            "TG_OP, TG_TABLE_NAME; END$$"
        )
    for table, action in refused:
        name = f"refuse_{action.lower()}_of_{table}"
        if dialect == "postgresql":
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {action} ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION prefloop_refuse()"
            )
        else:
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {action} ON {table} BEGIN SELECT RAISE(ABORT, "
                f"'{action} of {table} is refused: what was said stays; add a row that supersedes it'); END"
            )
