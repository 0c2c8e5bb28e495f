"""The labelling studio: projects, tasks, leases, what else was said, accounts, sessions, tokens, invitations and the audit log."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FROZEN = ("judgement_detail", "audit_event")
"""Rows of these are never changed and never deleted."""
TABLES = (
    "project",
    "task",
    "assignment",
    "judgement_detail",
    "account",
    "web_session",
    "api_token",
    "invitation",
    "audit_event",
)
"""In the order in which they are made; each refers to earlier ones only."""


def upgrade() -> None:
    _create_asking()
    _create_people()
    _create_triggers()


def downgrade() -> None:
    """What only the studio knows goes; judgements stay."""
    for table in reversed(TABLES):
        op.drop_table(table)  # and its triggers


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


def _truth(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean(), nullable=False)


def _moment(name: str, *, nullable: bool = False, index: bool = False) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable, index=index)


def _refers(
    name: str, table: str, *, nullable: bool = False, index: bool = True, goes_with: bool = False
) -> sa.Column[int]:
    """A column that refers to the id of another table; `goes_with`: the row goes when that one goes."""
    key = sa.ForeignKey(f"{table}.id", ondelete="CASCADE" if goes_with else None)
    return sa.Column(name, sa.Integer(), key, nullable=nullable, index=index)


def _one_of(column: str, *words: str) -> sa.CheckConstraint:
    return sa.CheckConstraint(f"{column} IN ({', '.join(repr(word) for word in words)})", name=column)


def _create_asking() -> None:
    op.create_table(
        "project",
        _id(),
        _text("name"),
        _word("kind", 16),
        _text("guidelines"),
        _integer("overlap"),
        _integer("lease_seconds"),
        _integer("strength_levels"),
        _truth("allow_tie"),
        _truth("allow_both_bad"),
        _json("flags"),
        _json("scales"),
        _word("render", 16),
        _float("gold_share"),
        _word("state", 16),
        _moment("created_at"),
        sa.UniqueConstraint("name"),
        _one_of("kind", "pair", "rank", "rate", "binary", "edit", "clip", "chat"),
        _one_of("state", "open", "paused", "closed"),
    )
    op.create_table(
        "task",
        _id(),
        _refers("project_id", "project", index=False),
        _refers("item_id", "item"),
        _float("queue"),
        _integer("position"),
        _integer("overlap"),
        _integer("taken"),
        _truth("open"),
        _word("gold", 16),
        sa.UniqueConstraint("project_id", "item_id"),
        sa.CheckConstraint("taken >= 0 AND taken <= overlap", name="taken"),
    )
    op.create_index("ix_task_queue", "task", ["project_id", "gold", "open", "queue", "taken", "position"])
    op.create_table(
        "assignment",
        _id(),
        _word("token", 32),
        _refers("task_id", "task", index=False),
        _refers("annotator_id", "annotator"),
        _word("state", 16),
        _json("order_shown"),
        _moment("leased_at"),
        _moment("expires_at"),
        _moment("finished_at", nullable=True),
        _refers("judgement_id", "judgement", nullable=True),
        _json("draft"),
        sa.UniqueConstraint("token"),
        sa.UniqueConstraint("task_id", "annotator_id"),
        _one_of("state", "leased", "submitted", "skipped", "expired", "returned", "surplus"),
    )
    op.create_index("ix_assignment_state_expires_at", "assignment", ["state", "expires_at"])
    op.create_table(
        "judgement_detail",
        sa.Column(
            "judgement_id",
            sa.Integer(),
            sa.ForeignKey("judgement.id"),
            primary_key=True,
            autoincrement=False,
        ),
        _refers("assignment_id", "assignment", nullable=True),
        _text("rationale"),
        _json("flags"),
        _json("ratings"),
        _text("edited"),
        _refers("edit_judgement_id", "judgement", nullable=True),
    )


def _create_people() -> None:
    op.create_table(
        "account",
        _id(),
        _refers("annotator_id", "annotator", index=False),
        _text("login"),
        _text("password_hash"),
        _word("role", 16),
        _truth("active"),
        _json("settings"),
        _moment("created_at"),
        sa.UniqueConstraint("annotator_id"),
        sa.UniqueConstraint("login"),
        _one_of("role", "admin", "annotator"),
    )
    op.create_table(
        "web_session",
        _id(),
        _word("token_sha256", 64),
        _word("csrf", 64),
        _refers("account_id", "account", goes_with=True),
        _moment("created_at"),
        _moment("expires_at"),
        sa.UniqueConstraint("token_sha256"),
    )
    op.create_table(
        "api_token",
        _id(),
        _text("name"),
        _word("prefix", 16),
        _word("token_sha256", 64),
        _refers("account_id", "account", goes_with=True),
        _json("scopes"),
        _moment("created_at"),
        _moment("expires_at", nullable=True),
        sa.UniqueConstraint("token_sha256"),
    )
    op.create_table(
        "invitation",
        _id(),
        _word("token_sha256", 64),
        _word("role", 16),
        _truth("setup"),
        _moment("created_at"),
        _moment("expires_at"),
        _moment("used_at", nullable=True),
        sa.UniqueConstraint("token_sha256"),
        _one_of("role", "admin", "annotator"),
    )
    op.create_table(
        "audit_event",
        _id(),
        _moment("at", index=True),
        _refers("annotator_id", "annotator", nullable=True),
        _word("action", 32),
        _word("entity", 32),
        _integer("entity_id"),
        _json("detail"),
    )


def _create_triggers() -> None:
    """Let the database itself refuse what would rewrite history, as for judgements."""
    dialect = op.get_bind().dialect.name
    for table in FROZEN:
        for action in ("UPDATE", "DELETE", *(("TRUNCATE",) if dialect == "postgresql" else ())):
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
