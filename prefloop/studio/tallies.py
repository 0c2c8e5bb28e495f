"""Sums that the database keeps while people work, so that how far a project is costs the same however much was answered.

Triggers add a row to `tally` for whatever changes a sum (migration 0021). Adding changes no row that is there, so people never wait for each other there;
whoever reads the sums, and finds many rows behind them, folds these into one each.
"""

from collections import Counter
from collections.abc import Collection

from sqlalchemy import delete, func, insert, select
from sqlalchemy.orm import Session

from prefloop.data.store import studio_models

LOOSE = 1000
"""Rows beyond one for each sum, from which on they are folded."""
AT_ONCE = 50_000
"""Rows that are folded in one transaction."""
_Tally = studio_models.TallyRow


def of_projects(session: Session, projects: Collection[int]) -> tuple[dict[int, dict[str, int]], int]:
    """Project -> sum by name: `items`, `wanted`, `full`, `gold` of its items, `submitted`, `surplus`, `skipped` of answers to them; and how many rows are loose."""
    rows = session.execute(
        select(
            _Tally.project_id,
            _Tally.what,
            func.sum(_Tally.n),
            func.count(),
            func.count(_Tally.annotator_id.distinct()),
        )
        .where(_Tally.project_id.in_(projects))
        .group_by(_Tally.project_id, _Tally.what)
    )
    found: dict[int, dict[str, int]] = {project: {} for project in projects}
    loose = 0
    for project, what, count, behind, annotators in rows:
        assert project is not None
        found[project][what] = int(count)
        loose += behind - max(1, annotators)  # what is counted of items has no annotator, and one row
    return found, loose


def of_people(session: Session) -> tuple[dict[int, int], int]:
    """Annotator -> judgements, of whoever made any; and how many rows are loose."""
    rows = session.execute(
        select(_Tally.annotator_id, func.sum(_Tally.n), func.count())
        .where(_Tally.project_id.is_(None), _Tally.what == "judgements")
        .group_by(_Tally.annotator_id)
    ).all()
    return {annotator: int(count) for annotator, count, _ in rows if annotator is not None}, sum(
        rows - 1 for _, _, rows in rows
    )


def fold(session: Session) -> int:
    """Put the oldest rows of each sum into one; how many there were. What others add meanwhile stays as it is."""
    oldest = select(_Tally.id).order_by(_Tally.id).limit(AT_ONCE)
    gone = session.execute(
        delete(_Tally)
        .where(_Tally.id.in_(oldest))
        .returning(_Tally.project_id, _Tally.annotator_id, _Tally.what, _Tally.n),
        execution_options={"synchronize_session": False},
    ).all()
    sums: Counter[tuple[int | None, int | None, str]] = Counter()
    for project, annotator, what, count in gone:
        sums[project, annotator, what] += count
    kept = [
        {"project_id": project, "annotator_id": annotator, "what": what, "n": count}
        for (project, annotator, what), count in sums.items()
        if count
    ]
    if kept:
        session.execute(insert(_Tally), kept)
    return len(gone)
