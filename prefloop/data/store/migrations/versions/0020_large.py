"""Large stores: what a request asks for is found by an index, however many rows there are."""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_task_queue", "task")
    op.create_index(
        "ix_task_queue",
        "task",
        ["project_id", "gold", "queue", "taken", "position", "id"],
        sqlite_where=sa.text("open = 1"),
        postgresql_where=sa.text("open"),
    )
    op.create_index("ix_judgement_item_id_annotator_id", "judgement", ["item_id", "annotator_id"])
    op.drop_index("ix_assignment_annotator_id", "assignment")
    with op.batch_alter_table("assignment") as batch:
        batch.add_column(sa.Column("project_id", sa.Integer(), nullable=True))
    op.execute(
        "UPDATE assignment SET project_id = (SELECT task.project_id FROM task WHERE task.id = assignment.task_id)"
    )
    with op.batch_alter_table("assignment") as batch:
        batch.alter_column("project_id", existing_type=sa.Integer(), nullable=False)
    op.create_index("ix_assignment_of", "assignment", ["annotator_id", "project_id", "state"])


def downgrade() -> None:
    op.drop_index("ix_assignment_of", "assignment")
    with op.batch_alter_table("assignment") as batch:
        batch.drop_column("project_id")
    op.create_index("ix_assignment_annotator_id", "assignment", ["annotator_id"])
    op.drop_index("ix_judgement_item_id_annotator_id", "judgement")
    op.drop_index("ix_task_queue", "task")
    op.create_index("ix_task_queue", "task", ["project_id", "gold", "open", "queue", "taken", "position"])
