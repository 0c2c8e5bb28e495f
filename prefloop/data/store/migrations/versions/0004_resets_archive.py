"""Links that reset a password, projects that are archived or deleted, and no password of a database in the settings of past runs."""

import json

import sqlalchemy as sa
from alembic import op

from prefloop.addresses import without_passwords

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

OLD, NEW = ("open", "paused", "closed"), ("open", "paused", "closed", "archived", "deleted")
"""States of a project, before and after."""


def upgrade() -> None:
    op.create_table(
        "password_reset",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("token_sha256", sa.String(64), nullable=False),
        sa.Column(
            "account_id",
            sa.Integer(),
            sa.ForeignKey("account.id", ondelete="CASCADE"),
            nullable=False,
            index=True,
        ),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("token_sha256"),
    )
    _set_states(NEW)
    _mask_settings()


def downgrade() -> None:
    """Judgements stay; archived and deleted projects are closed."""
    op.drop_table("password_reset")
    op.execute("UPDATE project SET state = 'closed' WHERE state IN ('archived', 'deleted')")
    _set_states(OLD)


def _set_states(states: tuple[str, ...]) -> None:
    """Which states the database allows. SQLite changes a check by rebuilding the table; this one has no triggers."""
    name = op.f("ck_project_state")
    with op.batch_alter_table("project") as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f"state IN ({', '.join(repr(state) for state in states)})")


def _mask_settings() -> None:
    """Older versions kept the store's address with its password among the settings of a run."""
    runs = sa.table("training_run", sa.column("id", sa.Integer()), sa.column("config", sa.JSON()))
    connection = op.get_bind()
    for id, config in connection.execute(sa.select(runs.c.id, runs.c.config)).all():
        text = config if isinstance(config, str) else json.dumps(config)
        masked = without_passwords(text)
        if masked != text:
            value = masked if isinstance(config, str) else json.loads(masked)
            connection.execute(sa.update(runs).where(runs.c.id == id).values(config=value))
