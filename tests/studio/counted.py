"""How far a project is, counted row by row: what the sums that the database keeps must be."""

from collections import Counter

from sqlalchemy import select

from prefloop.data.store import Store, models, studio_models
from prefloop.studio.values import ProjectProgress


def counted(store: Store, project: int) -> ProjectProgress:
    """A project's progress, from all its items and assignments."""
    with store.database.read() as session:
        tasks = session.scalars(
            select(studio_models.TaskRow).where(studio_models.TaskRow.project_id == project)
        ).all()
        given: dict[int, Counter[str]] = {task.id: Counter() for task in tasks}
        for row in session.scalars(select(studio_models.AssignmentRow)):
            if row.task_id in given:
                given[row.task_id][row.state] += 1
        plain = [task for task in tasks if not task.archived and not task.gold]
        states = sum((given[task.id] for task in plain), Counter[str]())
        return ProjectProgress(
            items=len(plain),
            wanted=sum(task.overlap for task in plain),
            submitted=states["submitted"],
            leased=states["leased"],
            surplus=states["surplus"],
            skipped=states["skipped"],
            done=sum(given[task.id]["submitted"] >= task.overlap for task in plain),
            gold=sum(bool(task.gold) and not task.archived for task in tasks),
        )


def judgements_of(store: Store) -> dict[int, int]:
    """Annotator -> judgements."""
    with store.database.read() as session:
        return dict(Counter(session.scalars(select(models.JudgementRow.annotator_id))))
