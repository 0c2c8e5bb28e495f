"""What the admin's pages show: rounds of the loop, annotators, where people disagree."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import aliased

from prefloop.data.store import judging, models, studio_models
from prefloop.marks import in_words
from prefloop.records import Prompt
from prefloop.studio import adjudicate, newest
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound, Project

_Task, _Assignment, _Judgement = studio_models.TaskRow, studio_models.AssignmentRow, models.JudgementRow


@dataclass(frozen=True, kw_only=True, slots=True)
class LoopRound:
    """One turn of the loop."""

    number: int
    policies: tuple[str, ...]
    """Whose completions were compared."""
    items: int
    strategies: Mapping[str, int]
    judgements: Mapping[str, int]
    """Kind of annotator -> how many."""
    runs: tuple["RunOnJudgements", ...]
    """What was trained on judgements of this round."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOnJudgements:
    """A run that read judgements."""

    id: int
    stage: str
    status: str
    folder: str
    checkpoint: str
    """What it made; empty while it has made nothing."""
    metrics: Mapping[str, Any]
    report: str
    """The report of its project, where there is one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Disagreement:
    """An item that people judged differently."""

    item: int
    prompt: Prompt
    completions: tuple[str, ...]
    said: Mapping[str, int]
    """Choice, in slots -> how many."""
    rationales: tuple[str, ...]


def excerpt(text: object, length: int = 160) -> str:
    """The beginning of a text (of a prompt: of its last turn) on one line."""
    if isinstance(text, Prompt):
        text = text.content if isinstance(text.content, str) else text.content[-1].shown
    line = " ".join(in_words(str(text)).split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def rounds(studio: Studio) -> list[LoopRound]:
    """Every turn of the loop: what was sampled, asked, judged and trained."""
    item, slot, completion = models.ItemRow, models.ItemCompletionRow, models.CompletionRow
    with studio.read() as session:
        strategies: dict[int, dict[str, int]] = {}
        for number, strategy, count in session.execute(
            select(item.round, item.strategy, func.count()).group_by(item.round, item.strategy)
        ):
            strategies.setdefault(number, {})[strategy] = count
        policies: dict[int, list[str]] = {}
        for number, name in session.execute(
            select(item.round, models.CheckpointRow.name)
            .join(slot, slot.item_id == item.id)
            .join(completion, completion.id == slot.completion_id)
            .join(models.CheckpointRow, models.CheckpointRow.id == completion.checkpoint_id)
            .distinct()
            .order_by(models.CheckpointRow.name)
        ):
            policies.setdefault(number, []).append(name)
        later = aliased(_Judgement)
        counts: dict[int, dict[str, int]] = {}
        for number, kind, count in session.execute(
            select(item.round, models.AnnotatorRow.kind, func.count())
            .join(_Judgement, _Judgement.item_id == item.id)
            .join(models.AnnotatorRow, models.AnnotatorRow.id == _Judgement.annotator_id)
            .outerjoin(later, later.supersedes_id == _Judgement.id)
            .where(later.id.is_(None), _Judgement.choice != "withdrawn")
            .group_by(item.round, models.AnnotatorRow.kind)
        ):
            counts.setdefault(number, {})[kind] = count
        member, link, run = models.ExportJudgementRow, models.TrainingRunExportRow, models.TrainingRunRow
        trained: dict[int, list[RunOnJudgements]] = {}
        made = dict(
            session.execute(
                select(models.CheckpointRow.training_run_id, models.CheckpointRow.name)
                .where(models.CheckpointRow.training_run_id.is_not(None))
                .order_by(models.CheckpointRow.id)
            ).all()
        )
        for number, row in session.execute(
            select(func.max(item.round), run)
            .join(link, link.training_run_id == run.id)
            .join(member, member.export_id == link.export_id)
            .join(_Judgement, _Judgement.id == member.judgement_id)
            .join(item, item.id == _Judgement.item_id)
            .group_by(run.id)
            .order_by(run.id)
        ):
            trained.setdefault(number, []).append(
                RunOnJudgements(
                    id=row.id,
                    stage=row.stage,
                    status=row.status,
                    folder=row.folder,
                    checkpoint=made.get(row.id, ""),
                    metrics={
                        name: value for name, value in row.metrics.items() if isinstance(value, int | float)
                    },
                    report=_report(studio.store.folder, row.folder),
                )
            )
    return [
        LoopRound(
            number=number,
            policies=tuple(policies.get(number, ())),
            items=sum(strategies[number].values()),
            strategies=strategies[number],
            judgements=counts.get(number, {}),
            runs=tuple(trained.get(number, ())),
        )
        for number in sorted(strategies)
    ]


def _report(store: Path, folder: str) -> str:
    """Where the report of a run's project is, as a path to open."""
    for place in ((store / folder).parent, store) if folder else (store,):
        if (place / "report.html").is_file():
            return str(place / "report.html")
    return ""


def report_of(studio: Studio, run: int) -> Path:
    """The report of a training run's project. Raises `NotFound` if there is none."""
    with studio.read() as session:
        row = session.get(models.TrainingRunRow, run)
        report = "" if row is None else _report(studio.store.folder, row.folder)
    if not report:
        raise NotFound("this run has no report yet; `prefloop report` makes one")
    return Path(report)


def disagreements(studio: Studio, project: Project, limit: int = 30) -> list[Disagreement]:
    """Items that people judged differently, the most divided first, of those answered lately."""
    lately = select(newest.answered(project.id).subquery().c.task_id)
    with studio.read() as session:
        answers = adjudicate.said_of(session, project.id, _Task.id.in_(lately))
        counts = {item: Counter(answer.choice for answer in given) for item, given in answers.items()}
        divided = sorted(
            (item for item, count in counts.items() if len(count) > 1),
            key=lambda item: (max(counts[item].values()) / counts[item].total(), item),
        )[:limit]
        items = judging.items(session, divided)
    return [
        Disagreement(
            item=item.id,
            prompt=item.prompt,
            completions=item.completions,
            said=dict(counts[item.id].most_common()),
            rationales=tuple(answer.rationale for answer in answers[item.id] if answer.rationale),
        )
        for item in items
    ]


def clip_of(studio: Studio, token: str, annotator: int, place: int) -> str:
    """The file of a clip, by the place where somebody's own page shows it."""
    with studio.read() as session:
        row = session.execute(
            select(_Assignment.order_shown, _Task.item_id)
            .join(_Task, _Task.id == _Assignment.task_id)
            .where(_Assignment.token == token, _Assignment.annotator_id == annotator)
        ).one_or_none()
        if row is None or place >= len(row.order_shown):
            raise NotFound("you have no such clip")
        (item,) = judging.items(session, [row.item_id])
        return item.completions[row.order_shown[place]].strip()
