"""Sessions are known by their browser, and signing in can ask for a second factor."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

TABLES = {"recovery_code": "code_sha256", "second_step": "token_sha256"}
"""Tables of what opens a door once, and the column that has its hash."""
ACCOUNT = {
    "totp_secret": (sa.Text(), ""),
    "totp_step": (sa.Integer(), "0"),
    "totp_failures": (sa.Integer(), "0"),
}
"""New columns of accounts: type, and what those that are there have."""


def upgrade() -> None:
    with op.batch_alter_table("web_session") as batch:
        batch.add_column(sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True))
        batch.add_column(sa.Column("browser", sa.String(60), nullable=False, server_default=""))
    op.execute("UPDATE web_session SET seen_at = created_at")
    with op.batch_alter_table("web_session") as batch:
        batch.alter_column("seen_at", nullable=False)
        batch.alter_column("browser", server_default=None)
    with op.batch_alter_table("account") as batch:
        for name, (kind, default) in ACCOUNT.items():
            batch.add_column(sa.Column(name, kind, nullable=False, server_default=default))
        batch.add_column(sa.Column("totp_blocked_until", sa.DateTime(timezone=True), nullable=True))
    with op.batch_alter_table("account") as batch:
        for name in ACCOUNT:
            batch.alter_column(name, server_default=None)
    for table, hashed in TABLES.items():
        op.create_table(
            table,
            sa.Column("id", sa.Integer(), primary_key=True),
            sa.Column(
                "account_id",
                sa.Integer(),
                sa.ForeignKey("account.id", ondelete="CASCADE"),
                nullable=False,
                index=True,
            ),
            sa.Column(hashed, sa.String(64), nullable=False),
            *(
                [sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False)]
                if table == "second_step"
                else []
            ),
            sa.UniqueConstraint(hashed),
        )


def downgrade() -> None:
    """Before, a password was enough: who had a second factor signs in by password alone."""
    for table in TABLES:
        op.drop_table(table)
    with op.batch_alter_table("account") as batch:
        for name in (*ACCOUNT, "totp_blocked_until"):
            batch.drop_column(name)
    with op.batch_alter_table("web_session") as batch:
        batch.drop_column("seen_at")
        batch.drop_column("browser")
