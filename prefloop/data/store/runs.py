"""Training runs: what each read, what it wrote, how it ended."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import insert, select, update
from sqlalchemy.orm import Session

from prefloop import __version__
from prefloop.addresses import without_passwords
from prefloop.data.store import models
from prefloop.data.store.values import Conflict, Source
from prefloop.data.store.writing import add_checkpoint, json_safe, now
from prefloop.errors import InputError

START = "start"
"""Role of the checkpoint whose weights a run goes on from."""
Stopped = Literal["interrupted", "failed"]


def begin(
    session: Session,
    stage: str,
    *,
    config: Mapping[str, Any],
    roles: Mapping[str, int],
    exports: Sequence[int],
    sources: Sequence[Source],
    folder: str,
    resume: bool,
) -> int:
    """Write down that a run begins; `roles` are the checkpoints it reads, by role. A resumed run is the newest unfinished one of its stage and folder, if there is one."""
    table = models.TrainingRunRow
    if resume:
        unfinished = (
            select(table.id)
            .where(table.stage == stage, table.folder == folder, table.status != "finished")
            .order_by(table.id.desc())
            .limit(1)
        )
        known = session.scalar(unfinished)
        if known is not None:
            session.execute(update(table).where(table.id == known).values(status="running", reason=""))
            return known
    _known(session, models.CheckpointRow, roles.values(), "checkpoint")
    _known(session, models.ExportRow, exports, "export")
    run = table(
        stage=stage,
        folder=folder,
        status="running",
        reason="",
        config=json_safe(config),
        metrics={},
        version=__version__,
        started_at=now(),
        finished_at=None,
    )
    session.add(run)
    session.flush()
    read: list[tuple[type[models.Base], list[dict[str, Any]]]] = [
        (models.TrainingRunModelRow, [{"role": role, "checkpoint_id": id} for role, id in roles.items()]),
        (models.TrainingRunExportRow, [{"export_id": id} for id in dict.fromkeys(exports)]),
        (
            models.TrainingRunSourceRow,
            [
                {"position": position, "name": at.name, "sha256": at.sha256, "rows": at.rows, "role": at.role}
                for position, at in enumerate(sources)
            ],
        ),
    ]
    for link, rows in read:
        if rows:
            session.execute(insert(link), [row | {"training_run_id": run.id} for row in rows])
    return run.id


def finish(
    session: Session,
    run: int,
    *,
    checkpoint: str,
    weights_sha256: str,
    kind: str,
    step: int,
    metrics: Mapping[str, Any],
) -> int:
    """Write down that a run has ended and what it made; id of the checkpoint."""
    row = _run(session, run)
    if row.status == "finished":
        raise Conflict(f"training run {run} has finished already; begin another")
    made = add_run_checkpoint(
        session, run, checkpoint=checkpoint, weights_sha256=weights_sha256, kind=kind, step=step
    )
    row.status, row.reason, row.metrics, row.finished_at = "finished", "", json_safe(metrics), now()
    return made


def add_run_checkpoint(
    session: Session, run: int, *, checkpoint: str, weights_sha256: str, kind: str, step: int
) -> int:
    """Write down a checkpoint that a run has saved on its way."""
    row = _run(session, run)
    start = session.scalar(
        select(models.TrainingRunModelRow.checkpoint_id).where(
            models.TrainingRunModelRow.training_run_id == run, models.TrainingRunModelRow.role == START
        )
    )
    return add_checkpoint(
        session,
        checkpoint,
        kind=kind,
        weights_sha256=weights_sha256,
        stage=row.stage,
        step=step,
        parent=start,
        training_run=run,
    )


def stop(session: Session, run: int, status: Stopped, reason: str) -> None:
    """Write down that a run stopped before its end. It can be resumed."""
    row = _run(session, run)
    if row.status == "finished":
        raise Conflict(f"training run {run} has finished; it cannot be marked {status}")
    row.status, row.reason, row.finished_at = status, without_passwords(reason), now()


def find_checkpoint(session: Session, given: str | int, home: Path) -> models.CheckpointRow:
    """The checkpoint that a user names: by id, name, path (from here or from the store's folder `home`), or the first 8 or more digits
    of its weights' hash; the newest one where several fit. `InputError` lists near names."""
    table = models.CheckpointRow
    newest_first = select(table).order_by(table.id.desc())
    if isinstance(given, int):
        found = session.get(table, given)
    else:
        found = session.scalars(newest_first.where(table.name == given).limit(1)).one_or_none()
        if found is None and given.isdecimal():
            found = session.get(table, int(given))
        if found is None and len(given) >= 8 and set(given.lower()) <= set("0123456789abcdef"):
            starts = table.weights_sha256.startswith(given.lower())
            found = session.scalars(newest_first.where(starts).limit(1)).one_or_none()
        if found is None:
            path = Path(given).resolve()
            found = next(
                (
                    row
                    for row in session.scalars(newest_first)
                    if path in (Path(row.name).resolve(), (home / row.name).resolve())
                ),
                None,
            )
    if found is not None:
        return found
    names = list(dict.fromkeys(session.scalars(select(table.name).order_by(table.id.desc()))))
    near = difflib.get_close_matches(str(given), names, n=5, cutoff=0.3) or names[:5]
    if not near:
        raise InputError(
            f"checkpoint {str(given)!r} is not in the store, which has none yet; train or sample first"
        )
    raise InputError(f"checkpoint {str(given)!r} is not in the store; the nearest are {', '.join(near)}")


def _run(session: Session, run: int) -> models.TrainingRunRow:
    row = session.get(models.TrainingRunRow, run)
    if row is None:
        raise InputError(f"training run {run} is not in the store; begin it first")
    return row


def _known(
    session: Session,
    table: type[models.CheckpointRow] | type[models.ExportRow],
    ids: Sequence[int] | Any,
    what: str,
) -> None:
    for id in ids:
        if session.get(table, id) is None:
            raise InputError(f"{what} {id} is not in the store; add it first")
