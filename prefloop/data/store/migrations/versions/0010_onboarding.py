"""Guidelines keep their versions and who has read them; practice, qualification, and who may go on in a project. Nobody is paused yet."""

import hashlib
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OF_PROJECTS = {
    "qualify_items": (sa.Integer(), "0"),
    "qualify_share": (sa.Float(), "0.8"),
    "gold_floor": (sa.Float(), "0"),
    "gold_window": (sa.Integer(), "10"),
    "least_seconds": (sa.Float(), "0"),
}
OF_TASKS = {"stage": sa.String(16), "gold_note": sa.Text()}
TABLES = ("guideline_version", "guideline_reading", "standing")


def upgrade() -> None:
    with op.batch_alter_table("project") as batch:
        for name, (kind, default) in OF_PROJECTS.items():
            batch.add_column(sa.Column(name, kind, nullable=False, server_default=default))
        batch.create_check_constraint(
            op.f("ck_project_gold_floor"), "gold_window >= 1 AND gold_floor >= 0 AND gold_floor <= 1"
        )
    with op.batch_alter_table("project") as batch:
        for name in OF_PROJECTS:
            batch.alter_column(name, server_default=None)
    with op.batch_alter_table("task") as batch:
        for name, kind in OF_TASKS.items():
            batch.add_column(sa.Column(name, kind, nullable=False, server_default=""))
        batch.create_check_constraint(op.f("ck_task_stage"), "stage IN ('', 'practice', 'qualification')")
    with op.batch_alter_table("task") as batch:
        for name in OF_TASKS:
            batch.alter_column(name, server_default=None)
    op.create_index("ix_task_stage", "task", ["project_id", "stage"])
    op.create_table(
        "guideline_version",
        sa.Column("project_id", sa.Integer(), _project(), primary_key=True, autoincrement=False),
        sa.Column("version", sa.String(12), primary_key=True),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "guideline_reading",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), _project(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=False, index=True),
        sa.Column("version", sa.String(12), nullable=False),
        sa.Column("at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("project_id", "annotator_id", "version"),
    )
    op.create_table(
        "standing",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("project_id", sa.Integer(), _project(), nullable=False),
        sa.Column("annotator_id", sa.Integer(), sa.ForeignKey("annotator.id"), nullable=False, index=True),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("qualified", sa.Boolean(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("gold_since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("project_id", "annotator_id"),
        sa.CheckConstraint("state IN ('working', 'paused', 'failed')", name="state"),
    )
    _keep_guidelines()


def _project() -> sa.ForeignKey:
    return sa.ForeignKey("project.id", ondelete="CASCADE")


def _keep_guidelines() -> None:
    """The guidelines of projects that are there, under the version that judgements keep: the beginning of their hash."""
    connection = op.get_bind()
    table = sa.table(
        "guideline_version", *(sa.column(name) for name in ("project_id", "version", "text", "created_at"))
    )
    now = datetime.now(UTC)
    if connection.dialect.name == "sqlite":
        now = now.replace(tzinfo=None)
    rows = connection.execute(sa.text("SELECT id, guidelines FROM project WHERE guidelines != ''")).all()
    for id, text in rows:
        plain = text.replace("\ue0000", "\0").replace("\ue0001", "\ue000")
        version = hashlib.sha256(plain.encode()).hexdigest()[:12]
        connection.execute(table.insert().values(project_id=id, version=version, text=text, created_at=now))


def downgrade() -> None:
    """Practice and qualification become known answers like the others; who was paused works again."""
    for table in reversed(TABLES):
        op.drop_table(table)
    op.drop_index("ix_task_stage", "task")
    with op.batch_alter_table("task") as batch:
        batch.drop_constraint(op.f("ck_task_stage"), type_="check")
        for name in OF_TASKS:
            batch.drop_column(name)
    with op.batch_alter_table("project") as batch:
        batch.drop_constraint(op.f("ck_project_gold_floor"), type_="check")
        for name in OF_PROJECTS:
            batch.drop_column(name)
