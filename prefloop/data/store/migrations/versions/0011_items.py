"""Items can be archived and kept for some people; answers have notes: sent back, disputed, settled."""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("task") as batch:
        batch.add_column(sa.Column("archived", sa.Boolean(), nullable=False, server_default=sa.false()))
        batch.add_column(sa.Column("audience", sa.Text(), nullable=False, server_default=""))
    with op.batch_alter_table("task") as batch:
        for name in ("archived", "audience"):
            batch.alter_column(name, server_default=None)
    op.create_table(
        "account_tag",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column(
            "account_id",
            sa.Integer(),
            sa.ForeignKey("account.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("tag", sa.Text(), nullable=False),
        sa.UniqueConstraint("account_id", "tag"),
    )
    op.create_table(
        "note",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("assignment_id", sa.Integer(), sa.ForeignKey("assignment.id"), nullable=False, index=True),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=True, index=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('sent_back', 'revised', 'dispute', 'settled')", name="kind"),
    )


def downgrade() -> None:
    """Archived items are asked again where they have free places; items kept for some people are asked of everybody."""
    op.drop_table("note")
    op.drop_table("account_tag")
    op.execute("UPDATE task SET open = (taken < overlap) WHERE archived")
    with op.batch_alter_table("task") as batch:
        for name in ("archived", "audience"):
            batch.drop_column(name)
