"""Dataset versions over the HTTP API: what was saved, how two differ, and saving another."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from prefloop.configs.common import GOLD_ANSWERED, Aggregate, JudgedBy, Selecting
from prefloop.data.store.datasets import difference
from prefloop.data.store.values import DatasetVersion, ExportKind
from prefloop.feedback.datasets import command_for, save
from prefloop.studio import audit
from prefloop.studio.accounts import Who
from prefloop.studio.api import ERRORS
from prefloop.studio.bodies import Strict, Text
from prefloop.studio.security import admin, studio_of
from prefloop.studio.service import Studio

router = APIRouter(prefix="/api/v1", responses=ERRORS, tags=["datasets"])
Named = Annotated[str, Query(min_length=1, max_length=120, description="NAME@3, or NAME for the newest")]
Words = list[Annotated[Text, Field(max_length=200)]]


class DatasetIn(Strict):
    name: Text = Field(min_length=1, max_length=100)
    kind: ExportKind = "comparisons"
    projects: Words = Field(default=[], max_length=100)
    annotators: Words = Field(default=[], max_length=100)
    judged_by: JudgedBy = "all"
    rounds: list[int] = Field(default=[], max_length=100)
    strategies: Words = Field(default=[], max_length=100)
    since: Text = Field(default="", max_length=40, description="ISO 8601; UTC if it has no time zone")
    adjudicated: bool = False
    aggregate: Aggregate = "each"
    min_agreement: float = Field(default=0.0, ge=0, le=1)
    gold_passed: float = Field(default=0.0, ge=0, le=1)
    gold_answered: int = Field(default=GOLD_ANSWERED, ge=1, le=10_000)
    note: Text = Field(default="", max_length=2000)


class ChangesOut(BaseModel):
    added: int
    removed: int
    changed: int = Field(description="the same item and annotator, with a different label")
    same: int


class DatasetOut(BaseModel):
    dataset: str = Field(description="NAME@3")
    kind: str
    rows: int
    sha256: str
    export: int
    chosen: dict[str, Any] = Field(description="the settings that it was selected by")
    left_out: dict[str, int]
    changes: ChangesOut = Field(description="since the previous version")
    note: str
    made_by: str = Field(description="pseudonym of who saved it; empty for the command line")
    created_at: datetime
    command: str = Field(description="what trains on it")


class SavedOut(BaseModel):
    dataset: DatasetOut
    new: bool = Field(description="false if the newest version is the same")


class DifferenceOut(BaseModel):
    before: DatasetOut
    after: DatasetOut
    changes: ChangesOut


def save_dataset(
    studio: Studio, who: Who, name: str, kind: ExportKind, chosen: Selecting, note: str
) -> tuple[DatasetVersion, bool]:
    """Save a version; one that is new is in the audit log."""
    version, new = save(studio.store, name, kind, chosen, skip_bad=True, note=note, annotator=who.annotator)
    if new:
        with studio.write() as session:
            audit.write(
                session,
                now=studio.clock(),
                annotator=who.annotator,
                action="save",
                entity="dataset",
                id=version.export.id,
                detail={"dataset": version.label, "rows": version.export.rows},
            )
    return version, new


def _out(studio: Studio, version: DatasetVersion) -> DatasetOut:
    return DatasetOut(**version.to_json(), command=command_for(version, studio.store.label))


@router.get("/datasets")
def list_datasets(
    request: Request,
    who: Who = Depends(admin),  # noqa: B008
    name: Annotated[str, Query(max_length=100)] = "",
) -> list[DatasetOut]:
    """Every dataset version, or those of one name, by name and number."""
    studio = studio_of(request)
    return [_out(studio, version) for version in studio.store.datasets(name)]


@router.post("/datasets", status_code=201)
def post_dataset(request: Request, body: DatasetIn, who: Who = Depends(admin)) -> SavedOut:  # noqa: B008
    """Save what was judged as the next version of a dataset; with nothing new it is the newest one."""
    studio = studio_of(request)
    given: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in body.model_dump(exclude={"name", "kind", "note"}).items()
    }
    chosen = Selecting(**given)
    version, new = save_dataset(studio, who, body.name, body.kind, chosen, body.note)
    return SavedOut(dataset=_out(studio, version), new=new)


@router.get("/datasets/difference")
def dataset_difference(
    request: Request,
    before: Named,
    after: Named,
    who: Who = Depends(admin),  # noqa: B008
) -> DifferenceOut:
    """How many records were added, removed and relabelled between two versions."""
    studio = studio_of(request)
    store = studio.store
    old, new = store.dataset(before), store.dataset(after)
    found = difference(
        store.exported(old.export.id, erased=True), store.exported(new.export.id, erased=True)
    ).changes
    return DifferenceOut(
        before=_out(studio, old),
        after=_out(studio, new),
        changes=ChangesOut(added=found.added, removed=found.removed, changed=found.changed, same=found.same),
    )
