"""Projects ask further questions, of which spans are marked in replies; best-worst choices; verdicts of a judge, shown to some."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

KINDS = ("pair", "rank", "rate", "binary", "edit", "clip", "chat")
OF_PROJECTS = {
    "questions": (sa.JSON(), "[]"),
    "suggest_from": (sa.Text(), ""),
    "suggest_share": (sa.Float(), "0"),
}
FROZEN = ("question_answer", "span")
"""Tables whose rows are only ever added."""


def upgrade() -> None:
    with op.batch_alter_table("project") as batch:
        for name, (kind, default) in OF_PROJECTS.items():
            batch.add_column(sa.Column(name, kind, nullable=False, server_default=default))
    with op.batch_alter_table("project") as batch:
        for name in OF_PROJECTS:
            batch.alter_column(name, server_default=None)
    _set_kinds((*KINDS, "best_worst"))
    op.create_table(
        "question_answer",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("judgement_id", sa.Integer(), sa.ForeignKey("judgement.id"), nullable=False),
        _completion(nullable=True),
        sa.Column("question", sa.String(40), nullable=False),
        sa.Column("value", sa.JSON(), nullable=False),
        sa.UniqueConstraint("judgement_id", "question", "completion_id"),
    )
    op.create_table(
        "span",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("judgement_id", sa.Integer(), sa.ForeignKey("judgement.id"), nullable=False, index=True),
        _completion(nullable=False),
        sa.Column("question", sa.String(40), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("stop", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("comment", sa.Text(), nullable=False),
        sa.CheckConstraint("start >= 0 AND stop > start", name="part"),
    )
    op.create_table(
        "suggestion",
        sa.Column(
            "assignment_id",
            sa.Integer(),
            sa.ForeignKey("assignment.id"),
            primary_key=True,
            autoincrement=False,
        ),
        sa.Column("judgement_id", sa.Integer(), sa.ForeignKey("judgement.id"), nullable=False, index=True),
        sa.Column("shown", sa.Boolean(), nullable=False),
    )
    _create_triggers()


def _completion(*, nullable: bool) -> sa.Column[int]:
    return sa.Column(
        "completion_id", sa.Integer(), sa.ForeignKey("completion.id"), nullable=nullable, index=True
    )


def _set_kinds(kinds: tuple[str, ...]) -> None:
    """Which kinds the database allows. SQLite changes a check by rebuilding the table; this one has no triggers."""
    name = op.f("ck_project_kind")
    with op.batch_alter_table("project") as batch:
        batch.drop_constraint(name, type_="check")
        batch.create_check_constraint(name, f"kind IN ({', '.join(repr(kind) for kind in kinds)})")


def _create_triggers() -> None:
    """Let the database itself refuse what would rewrite history, as for judgements."""
    dialect = op.get_bind().dialect.name
    for table in FROZEN:
        for action in ("UPDATE", "DELETE", *(("TRUNCATE",) if dialect == "postgresql" else ())):
            name = f"refuse_{action.lower()}_of_{table}"
            if dialect == "postgresql":
                op.execute(
                    f"CREATE TRIGGER {name} BEFORE {action} ON {table} "
                    "FOR EACH STATEMENT EXECUTE FUNCTION prefloop_refuse()"
                )
            else:
                op.execute(
                    f"CREATE TRIGGER {name} BEFORE {action} ON {table} BEGIN SELECT RAISE(ABORT, "
                    f"'{action} of {table} is refused: what was said stays; add a row that supersedes it'); END"
                )


def downgrade() -> None:
    """Answers to further questions and marked spans are lost; best-worst projects become rankings, which their judgements are."""
    for table in ("suggestion", "span", "question_answer"):
        op.drop_table(table)  # and its triggers
    op.execute("UPDATE project SET kind = 'rank' WHERE kind = 'best_worst'")
    _set_kinds(KINDS)
    with op.batch_alter_table("project") as batch:
        for name in OF_PROJECTS:
            batch.drop_column(name)
