"""People without an account: visitors of a public arena, and participants of studies on recruiting platforms."""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None

VISITORS = {
    "visitor_messages": "30",
    "visitor_chats": "20",
    "visitor_tokens": "200000",
    "visitor_length": "2000",
}
"""New columns of projects, and what those that are there have."""


def upgrade() -> None:
    with op.batch_alter_table("project") as batch:
        for name, default in VISITORS.items():
            batch.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default=default))
    with op.batch_alter_table("project") as batch:
        for name in VISITORS:
            batch.alter_column(name, server_default=None)
    _allow("project", "access", "members", "everyone", "public")
    _allow("account", "role", "admin", "annotator", "adjudicator", "guest")
    op.create_table(
        "study",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "project_id",
            sa.Integer(),
            sa.ForeignKey("project.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("token", sa.String(32), nullable=False, unique=True),
        sa.Column("platform", sa.String(16), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        sa.Column("code", sa.Text(), nullable=False),
        sa.Column("open", sa.Boolean(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("platform IN ('prolific', 'mturk')", name="platform"),
        sa.CheckConstraint("places >= 1", name="places"),
    )
    op.create_table(
        "participant",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("study_id", sa.Integer(), sa.ForeignKey("study.id", ondelete="CASCADE"), nullable=False),
        sa.Column(
            "account_id",
            sa.Integer(),
            sa.ForeignKey("account.id", ondelete="CASCADE"),
            nullable=False,
            unique=True,
        ),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("completed_at", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("study_id", "name"),
    )


def downgrade() -> None:
    """Who was a guest is shut out; what they said stays."""
    op.drop_table("participant")
    op.drop_table("study")
    op.execute("DELETE FROM web_session WHERE account_id IN (SELECT id FROM account WHERE role = 'guest')")
    op.execute("UPDATE account SET role = 'annotator', active = false WHERE role = 'guest'")
    op.execute("UPDATE project SET access = 'members' WHERE access = 'public'")
    _allow("account", "role", "admin", "annotator", "adjudicator")
    _allow("project", "access", "members", "everyone")
    with op.batch_alter_table("project") as batch:
        for name in VISITORS:
            batch.drop_column(name)


def _allow(table: str, column: str, *values: str) -> None:
    """Which values the database allows."""
    name = op.f(f"ck_{table}_{column}")
    with op.batch_alter_table(table) as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f"{column} IN ({', '.join(repr(value) for value in values)})")
