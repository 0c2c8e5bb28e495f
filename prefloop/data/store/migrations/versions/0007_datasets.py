"""Exports of aggregated comparisons, and dataset versions: exports that were saved under a name."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

TABLES = ("export_pair", "dataset_version")


def upgrade() -> None:
    op.create_table(
        "export_pair",
        sa.Column("export_id", sa.Integer(), sa.ForeignKey("export.id"), primary_key=True),
        sa.Column("position", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("item_id", sa.Integer(), sa.ForeignKey("item.id"), nullable=False, index=True),
        sa.Column("choice", sa.String(1), nullable=False),
        sa.Column("p_soft", sa.Float(), nullable=False),
        sa.CheckConstraint("choice IN ('a', 'b')", name="choice"),
    )
    op.create_table(
        "dataset_version",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("export_id", sa.Integer(), sa.ForeignKey("export.id"), nullable=False, index=True),
        sa.Column("chosen", sa.JSON(), nullable=False),
        sa.Column("changes", sa.JSON(), nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=True, index=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("name", "version"),
    )
    _create_triggers()


def downgrade() -> None:
    """Exports stay, but those that aggregate can no longer be read."""
    for table in reversed(TABLES):
        op.drop_table(table)  # and its triggers


def _create_triggers() -> None:
    """Rows of both are never changed and never deleted, as the exports that they belong to."""
    dialect = op.get_bind().dialect.name
    for table in TABLES:
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
