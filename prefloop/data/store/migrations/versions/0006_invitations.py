"""Invitation links that serve many people, for projects, with a limit, and that can be revoked."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

OLD, NEW = ("admin", "annotator", "adjudicator"), ("admin", "annotator", "adjudicator", "manager")
"""Roles that a link gives, before and after."""


def upgrade() -> None:
    with op.batch_alter_table("invitation") as batch:
        batch.add_column(sa.Column("note", sa.Text(), nullable=False, server_default=""))
        batch.add_column(sa.Column("uses", sa.Integer(), nullable=False, server_default="0"))
        batch.add_column(sa.Column("most_uses", sa.Integer(), nullable=False, server_default="1"))
        batch.add_column(sa.Column("revoked_at", sa.DateTime(timezone=True), nullable=True))
    op.execute("UPDATE invitation SET uses = 1 WHERE used_at IS NOT NULL")
    _set_roles(NEW)
    with op.batch_alter_table("invitation") as batch:
        for name in ("note", "uses", "most_uses"):
            batch.alter_column(name, server_default=None)
        batch.create_check_constraint(op.f("ck_invitation_uses"), "uses >= 0 AND uses <= most_uses")
    op.create_table(
        "invitation_project",
        *(
            sa.Column(
                f"{table}_id",
                sa.Integer(),
                sa.ForeignKey(f"{table}.id", ondelete="CASCADE"),
                primary_key=True,
                autoincrement=False,
            )
            for table in ("invitation", "project")
        ),
    )


def downgrade() -> None:
    """Before, a link gave an account once, and no project: those that would give more than that are gone."""
    op.drop_table("invitation_project")
    op.execute("DELETE FROM invitation WHERE revoked_at IS NOT NULL OR most_uses > 1 OR role = 'manager'")
    with op.batch_alter_table("invitation") as batch:
        batch.drop_constraint(op.f("ck_invitation_uses"), type_="check")
    _set_roles(OLD)
    with op.batch_alter_table("invitation") as batch:
        for name in ("note", "uses", "most_uses", "revoked_at"):
            batch.drop_column(name)


def _set_roles(roles: tuple[str, ...]) -> None:
    """Which roles the database allows."""
    name = op.f("ck_invitation_role")
    with op.batch_alter_table("invitation") as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f"role IN ({', '.join(repr(role) for role in roles)})")
