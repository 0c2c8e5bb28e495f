"""Images of prompts and answers, by the hash of their bytes. A text holds their mark; nothing refers to a row, so that one can be erased."""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "image",
        sa.Column("sha256", sa.String(64), primary_key=True),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("width", sa.Integer(), nullable=False),
        sa.Column("height", sa.Integer(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.CheckConstraint("kind IN ('image/jpeg', 'image/png')", name="kind"),
    )
    # A judgement is about exactly these pixels.
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE TRIGGER refuse_update_of_image BEFORE UPDATE ON image FOR EACH STATEMENT EXECUTE FUNCTION prefloop_refuse()"
        )
    else:
        op.execute(
            "CREATE TRIGGER refuse_update_of_image BEFORE UPDATE ON image BEGIN SELECT RAISE(ABORT, "
            "'UPDATE of image is refused: what was judged stays; add another image'); END"
        )


def downgrade() -> None:
    """The images are gone; their marks stay in the texts."""
    op.drop_table("image")
