"""Projects limit how many answers a person gives, in a day and in all. Those that are there have no limit."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

COLUMNS = ("daily_quota", "quota")


def upgrade() -> None:
    with op.batch_alter_table("project") as batch:
        for name in COLUMNS:
            batch.add_column(sa.Column(name, sa.Integer(), nullable=False, server_default="0"))
        batch.create_check_constraint(op.f("ck_project_quotas"), "daily_quota >= 0 AND quota >= 0")
    with op.batch_alter_table("project") as batch:
        for name in COLUMNS:
            batch.alter_column(name, server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("project") as batch:
        batch.drop_constraint(op.f("ck_project_quotas"), type_="check")
        for name in COLUMNS:
            batch.drop_column(name)
