"""The page of one annotator: how far their answers can be trusted, with intervals, and what they answered last."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from prefloop.data.store import Filters, models, studio_models
from prefloop.errors import InputError
from prefloop.feedback.agreement import AnnotatorFigures, PairChoice, Share, agreement_matrix, figures
from prefloop.feedback.judged import JudgedItem, pair_labels, read_judged
from prefloop.studio.newest import OF_ONE
from prefloop.studio.service import Studio
from prefloop.studio.values import NotFound


@dataclass(frozen=True, kw_only=True, slots=True)
class WithOther:
    """Somebody who judged the same pairs."""

    name: str
    agreement: Share
    kappa: float
    """Cohen's; NaN if it has no meaning."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OneAnnotator:
    """What the page shows."""

    name: str
    """The pseudonym."""
    login: str
    """Empty for who has no account (any more)."""
    kind: str
    since: datetime
    figures: AnnotatorFigures | None
    """Over the pairs among their newest `OF_ONE` judgements; None if there is none."""
    others: tuple[WithOther, ...]
    """Most common pairs first."""
    last: tuple[JudgedItem, ...]
    """Newest first."""


def one_annotator(studio: Studio, name: str, *, most: int = 20) -> OneAnnotator:
    """Everything about an annotator, by pseudonym. Raises `NotFound`."""
    account = studio_models.AccountRow
    with studio.read() as session:
        row = session.execute(
            select(models.AnnotatorRow, account.login)
            .outerjoin(account, account.annotator_id == models.AnnotatorRow.id)
            .where(models.AnnotatorRow.name == name)
        ).one_or_none()
        if row is None:
            raise NotFound("there is no such annotator")
        annotator, login = row
        kind, since = annotator.kind, annotator.created_at
        gold = dict(
            session.execute(
                select(studio_models.TaskRow.item_id, studio_models.TaskRow.gold).where(
                    studio_models.TaskRow.gold != "", studio_models.TaskRow.stage == ""
                )
            ).all()
        )
        judgement = models.JudgementRow
        lately = (
            select(judgement.item_id)
            .where(judgement.annotator_id == annotator.id)
            .order_by(judgement.id.desc())
            .limit(OF_ONE)
        )
    judged = read_judged(studio.store, Filters(), judgement.item_id.in_(lately))
    found, others = _figures(judged, gold, name)
    own = [judgement for judgement in judged if judgement.annotator == name]
    return OneAnnotator(
        name=name,
        login=login or "",
        kind=kind,
        since=since,
        figures=found,
        others=others,
        last=tuple(own[::-1][:most]),
    )


def _figures(
    judged: list[JudgedItem], gold: dict[int, str], name: str
) -> tuple[AnnotatorFigures | None, tuple[WithOther, ...]]:
    try:
        table = pair_labels(judged)
    except InputError:
        return None, ()
    names = list(table.labels.annotators)
    if name not in names:
        return None, ()
    answers = [
        PairChoice(
            annotator=cell.annotator,
            item=cell.item,
            choice=cell.choice,
            left="ab"[cell.order_shown[0]],
            seconds=cell.duration_ms / 1000,
        )
        for cells in table.judged
        for cell in cells
        if cell is not None
    ]
    mine = names.index(name)
    shares, kappas, common = agreement_matrix(table.labels)
    others = [
        WithOther(
            name=str(other),
            agreement=Share.of(round(float(shares[mine, at]) * int(common[mine, at])), int(common[mine, at])),
            kappa=float(kappas[mine, at]),
        )
        for at, other in enumerate(names)
        if at != mine and common[mine, at]
    ]
    return figures(answers, table.labels, gold=gold)[mine], tuple(
        sorted(others, key=lambda other: (-other.agreement.n, other.name))
    )
