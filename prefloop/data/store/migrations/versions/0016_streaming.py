"""The answers of a live chat are shown while they are written, and can be stopped."""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None

NEW = {"partial": (sa.JSON(), sa.text("'[]'")), "stopping": (sa.Boolean(), sa.false())}


def upgrade() -> None:
    with op.batch_alter_table("chat_turn") as batch:
        for name, (kind, default) in NEW.items():
            batch.add_column(sa.Column(name, kind, nullable=False, server_default=default))
    with op.batch_alter_table("chat_turn") as batch:
        for name in NEW:
            batch.alter_column(name, server_default=None)


def downgrade() -> None:
    """Answers are shown when they are complete."""
    with op.batch_alter_table("chat_turn") as batch:
        for name in NEW:
            batch.drop_column(name)
