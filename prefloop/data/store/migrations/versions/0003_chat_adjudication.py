"""Live chat with two candidates a turn, adjudication of items on which people disagree, and the role that may do it."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TABLES = ("chat", "chat_turn", "adjudication")
"""In the order in which they are made; each refers to earlier ones only."""
OLD, NEW = ("admin", "annotator"), ("admin", "annotator", "adjudicator")
"""Roles of accounts and invitations, before and after."""


def upgrade() -> None:
    op.create_table(
        "chat",
        _id(),
        sa.Column("token", sa.String(32), nullable=False),
        _refers("project_id", "project"),
        _refers("annotator_id", "annotator"),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("draft", sa.Text(), nullable=False),
        _moment("started_at"),
        sa.UniqueConstraint("token"),
        sa.CheckConstraint("state IN ('open', 'ended')", name="state"),
    )
    op.create_table(
        "chat_turn",
        _id(),
        _refers("chat_id", "chat", index=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("problem", sa.Text(), nullable=False),
        _moment("claimed_until"),
        _refers("assignment_id", "assignment", nullable=True),
        _moment("created_at"),
        sa.UniqueConstraint("chat_id", "position"),
        sa.UniqueConstraint("chat_id", "idempotency_key"),
        sa.CheckConstraint("state IN ('waiting', 'failed', 'asked')", name="state"),
    )
    op.create_table(
        "adjudication",
        sa.Column(
            "judgement_id",
            sa.Integer(),
            sa.ForeignKey("judgement.id"),
            primary_key=True,
            autoincrement=False,
        ),
        _refers("annotator_id", "annotator"),
    )
    _create_triggers()
    _set_roles(NEW)


def downgrade() -> None:
    """Judgements stay; adjudicators become annotators."""
    for table in reversed(TABLES):
        op.drop_table(table)  # and its triggers
    for table in ("account", "invitation"):
        op.execute(f"UPDATE {table} SET role = 'annotator' WHERE role = 'adjudicator'")
    _set_roles(OLD)


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.Integer(), primary_key=True)


def _moment(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=False)


def _refers(name: str, table: str, *, nullable: bool = False, index: bool = True) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), sa.ForeignKey(f"{table}.id"), nullable=nullable, index=index)


def _set_roles(roles: tuple[str, ...]) -> None:
    """Which roles the database allows. SQLite changes a check by rebuilding the table; these two have no triggers."""
    allowed = f"role IN ({', '.join(repr(role) for role in roles)})"
    for table in ("account", "invitation"):
        name = op.f(f"ck_{table}_role")
        with op.batch_alter_table(table) as batch:
            batch.drop_constraint(name, type_="check")
            batch.create_check_constraint(name, allowed)


def _create_triggers() -> None:
    """An adjudication is never changed and never deleted, as the judgement that it marks."""
    dialect = op.get_bind().dialect.name
    for action in ("UPDATE", "DELETE", *(("TRUNCATE",) if dialect == "postgresql" else ())):
        name = f"refuse_{action.lower()}_of_adjudication"
        if dialect == "postgresql":
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {action} ON adjudication "
                "FOR EACH STATEMENT EXECUTE FUNCTION prefloop_refuse()"
            )
        else:
            op.execute(
                f"CREATE TRIGGER {name} BEFORE {action} ON adjudication BEGIN SELECT RAISE(ABORT, "
                f"'{action} of adjudication is refused: what was said stays; add a row that supersedes it'); END"
            )
