"""Large stores: how far projects are, and how much people judged, is kept as sums; one's own answers and a project's newest are found by an index."""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

COUNTED = "('submitted', 'skipped', 'surplus')"
"""States of assignments that are counted."""
FILL = (
    "INSERT INTO tally (project_id, annotator_id, what, n) SELECT NULL, annotator_id, 'judgements', count(*) FROM judgement GROUP BY annotator_id",
    f"INSERT INTO tally (project_id, annotator_id, what, n) SELECT task.project_id, annotator_id, state, count(*) FROM assignment "
    f"JOIN task ON task.id = task_id WHERE state IN {COUNTED} AND gold = '' AND NOT archived GROUP BY 1, 2, 3",
    *(
        f"INSERT INTO tally (project_id, annotator_id, what, n) SELECT project_id, NULL, '{what}', {count} FROM task "
        f"WHERE {true} GROUP BY project_id"
        for what, count, true in (
            ("items", "count(*)", "gold = '' AND NOT archived"),
            ("wanted", "sum(overlap)", "gold = '' AND NOT archived"),
            ("full", "count(*)", "gold = '' AND NOT archived AND taken >= overlap"),
            ("gold", "count(*)", "gold <> '' AND NOT archived"),
        )
    ),
)
"""What the sums are where they have not been kept."""


def _of_task(row: str, *, one: str, zero: str) -> list[tuple[str, str]]:
    """What a task adds to each sum, as SQL."""
    plain = f"NOT {row}.archived AND {row}.gold = ''"
    return [
        ("items", f"CASE WHEN {plain} THEN {one} ELSE {zero} END"),
        ("wanted", f"CASE WHEN {plain} THEN {row}.overlap ELSE {zero} END"),
        ("full", f"CASE WHEN {plain} AND {row}.taken >= {row}.overlap THEN {one} ELSE {zero} END"),
        ("gold", f"CASE WHEN NOT {row}.archived AND {row}.gold <> '' THEN {one} ELSE {zero} END"),
    ]


def _add_task(after: str, before: str) -> str:
    """Add what a task adds more than it did. `NEW`, `OLD`, or empty for none."""
    of = after or before
    sums = []
    for at, (what, _) in enumerate(_of_task(of, one="1", zero="0")):
        terms = [
            f"{sign}({_of_task(row, one='1', zero='0')[at][1]})"
            for sign, row in (("+", after), ("-", before))
            if row
        ]
        sums.append(f"SELECT '{what}' AS what, {' '.join(terms)} AS n")
    return (
        f"INSERT INTO tally (project_id, annotator_id, what, n) SELECT {of}.project_id, NULL, what, n "
        f"FROM ({' UNION ALL '.join(sums)}) AS sums WHERE n <> 0"
    )


_PLAIN = "(NOT {row}.archived AND {row}.gold = '')"
# What was answered to a task counts with it: not while it is archived.
_ANSWERS_OF_TASK = (
    f"INSERT INTO tally (project_id, annotator_id, what, n) SELECT NEW.project_id, annotator_id, state, "
    f"CASE WHEN {_PLAIN.format(row='NEW')} THEN 1 ELSE -1 END FROM assignment WHERE task_id = NEW.id AND state IN {COUNTED} "
    f"AND {_PLAIN.format(row='NEW')} <> {_PLAIN.format(row='OLD')}"
)


def _add_assignment(row: str, sign: str) -> str:
    return (
        f"INSERT INTO tally (project_id, annotator_id, what, n) SELECT project_id, {row}.annotator_id, {row}.state, {sign}1 FROM task "
        f"WHERE id = {row}.task_id AND gold = '' AND NOT archived AND {row}.state IN {COUNTED}"
    )


_CHANGED = (
    "OLD.overlap <> NEW.overlap OR OLD.archived <> NEW.archived OR OLD.gold <> NEW.gold "
    "OR (OLD.taken >= OLD.overlap) <> (NEW.taken >= NEW.overlap)"
)
_MOVED = f"OLD.state <> NEW.state AND (OLD.state IN {COUNTED} OR NEW.state IN {COUNTED})"
_TRIGGERS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    # name, table, when, which rows, what is done
    ("insert_task", "task", "INSERT", "", (_add_task("NEW", ""),)),
    ("update_task", "task", "UPDATE", _CHANGED, (_add_task("NEW", "OLD"), _ANSWERS_OF_TASK)),
    ("delete_task", "task", "DELETE", "", (_add_task("", "OLD"),)),
    ("insert_assignment", "assignment", "INSERT", f"NEW.state IN {COUNTED}", (_add_assignment("NEW", "+"),)),
    (
        "update_assignment",
        "assignment",
        "UPDATE",
        _MOVED,
        (_add_assignment("OLD", "-"), _add_assignment("NEW", "+")),
    ),
    ("delete_assignment", "assignment", "DELETE", f"OLD.state IN {COUNTED}", (_add_assignment("OLD", "-"),)),
    (
        "insert_judgement",
        "judgement",
        "INSERT",
        "",
        (
            "INSERT INTO tally (project_id, annotator_id, what, n) VALUES (NULL, NEW.annotator_id, 'judgements', 1)",
        ),
    ),
)


def upgrade() -> None:
    op.create_table(
        "tally",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), primary_key=True),
        sa.Column("project_id", sa.Integer(), nullable=True),
        sa.Column("annotator_id", sa.Integer(), nullable=True),
        sa.Column("what", sa.String(16), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
    )
    op.create_index("ix_tally_project_id", "tally", ["project_id"])
    for statement in FILL:
        op.execute(statement)
    answered = sa.text("judgement_id IS NOT NULL")
    for name, first in (("ix_assignment_history", "annotator_id"), ("ix_assignment_newest", "project_id")):
        columns = [first, "finished_at", "id"]
        op.create_index(name, "assignment", columns, sqlite_where=answered, postgresql_where=answered)
    postgresql = op.get_bind().dialect.name == "postgresql"
    for name, table, event, rows, done in _TRIGGERS:
        when = f"WHEN ({rows}) " if rows else ""
        body = "; ".join(done)
        if postgresql:
            op.execute(
                f"CREATE FUNCTION prefloop_tally_{name}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body}; RETURN NULL; END $$"
            )
            op.execute(
                f"CREATE TRIGGER tally_{name} AFTER {event} ON {table} FOR EACH ROW {when}EXECUTE FUNCTION prefloop_tally_{name}()"
            )
        else:
            op.execute(f"CREATE TRIGGER tally_{name} AFTER {event} ON {table} {when}BEGIN {body}; END")


def downgrade() -> None:
    postgresql = op.get_bind().dialect.name == "postgresql"
    for name, table, *_ in _TRIGGERS:
        op.execute(f"DROP TRIGGER tally_{name}{f' ON {table}' if postgresql else ''}")
        if postgresql:
            op.execute(f"DROP FUNCTION prefloop_tally_{name}()")
    for name in ("ix_assignment_newest", "ix_assignment_history"):
        op.drop_index(name, "assignment")
    op.drop_table("tally")
