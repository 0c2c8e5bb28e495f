"""A chat project can tell people which models answered, once they have voted."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("project") as batch:
        batch.add_column(sa.Column("reveal", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("project") as batch:
        batch.alter_column("reveal", server_default=None)


def downgrade() -> None:
    """Nobody is told the models any more."""
    with op.batch_alter_table("project") as batch:
        batch.drop_column("reveal")
