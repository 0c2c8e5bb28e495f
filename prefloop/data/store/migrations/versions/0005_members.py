"""Projects have members. Projects that are there stay open to everybody with an account, so everybody sees what they saw."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    check = op.f("ck_project_access")
    with op.batch_alter_table("project") as batch:
        batch.add_column(sa.Column("access", sa.String(16), nullable=False, server_default="everyone"))
        batch.create_check_constraint(check, "access IN ('members', 'everyone')")
    with op.batch_alter_table("project") as batch:
        batch.alter_column("access", server_default=None)
    op.create_table(
        "membership",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "project_id", sa.Integer(), sa.ForeignKey("project.id", ondelete="CASCADE"), nullable=False
        ),
        sa.Column(
            "account_id",
            sa.Integer(),
            sa.ForeignKey("account.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("project_id", "account_id"),
        sa.CheckConstraint("role IN ('annotator', 'adjudicator', 'manager')", name="role"),
    )


def downgrade() -> None:
    """Before, everybody with an account saw every project: those of members only are archived, so nobody sees what they did not."""
    op.execute("UPDATE project SET state = 'archived' WHERE access = 'members' AND state != 'deleted'")
    op.drop_table("membership")
    with op.batch_alter_table("project") as batch:
        batch.drop_constraint(op.f("ck_project_access"), type_="check")
        batch.drop_column("access")
