"""The page that says how far labels agree, and which model they favour: the same figures as `label agreement` and `arena` print."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select

from prefloop.data.store import Filters, models, studio_models
from prefloop.errors import InputError
from prefloop.feedback.agreement import (
    MISSING,
    Agreement,
    agreement_matrix,
    krippendorff_alpha,
    noise_ceiling,
    raw_agreement,
)
from prefloop.feedback.judged import JudgedItem, pair_labels, read_judged, votes_of
from prefloop.feedback.ratings import Leaderboard, leaderboard
from prefloop.studio.newest import NEWEST, PEOPLE
from prefloop.studio.service import Studio

STEPS = 5
"""Shades of the heat map; the number stands in every cell."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoAnnotators:
    """Two annotators in the heat map."""

    share: float | None
    """Of their common items, how many they gave the same label; None if they have none."""
    common: int
    shade: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """What the page shows."""

    people: tuple[str, ...]
    cells: tuple[tuple[TwoAnnotators, ...], ...]
    raw: Agreement | None
    alpha: Agreement | None
    ceiling: tuple[float, float] | None
    """The accuracy on such labels that a reward model can be expected to reach, from and to, where two people judged the same items."""
    board: Leaderboard | None
    why_no_board: str
    low: float
    high: float
    """Ends of the leaderboard's axis."""


def quality(studio: Studio, projects: Sequence[str] = ()) -> Quality:
    """Agreement and ratings over the newest judgements in these projects; in the whole store if none is named."""
    judged = read_judged(studio.store, Filters(projects=tuple(projects)), newest=NEWEST)
    people, cells, raw, alpha, ceiling = _agreement(studio, judged)
    board, why = _board(judged)
    ends = [
        end
        for row in (board.ratings if board else ())
        for end in (row.rating.low, row.rating.high, row.rating.value)
        if math.isfinite(end)
    ]
    return Quality(
        people=people,
        cells=cells,
        raw=raw,
        alpha=alpha,
        ceiling=ceiling,
        board=board,
        why_no_board=why,
        low=min(ends, default=0.0),
        high=max(ends, default=1.0),
    )


def _agreement(
    studio: Studio, judged: Sequence[JudgedItem]
) -> tuple[
    tuple[str, ...],
    tuple[tuple[TwoAnnotators, ...], ...],
    Agreement | None,
    Agreement | None,
    tuple[float, float] | None,
]:
    try:
        table = pair_labels(judged)
    except InputError:
        return (), (), None, None, None
    labels = table.labels
    shares, _, common = agreement_matrix(labels)
    known = logins(studio)
    given = (labels.table != MISSING).sum(0)
    shown = sorted(np.argsort(-given, kind="stable")[:PEOPLE].tolist())
    cells = tuple(
        tuple(
            TwoAnnotators(
                share=float(share) if math.isfinite(share) else None,
                common=int(count),
                shade=min(STEPS - 1, int(STEPS * share)) if math.isfinite(share) else 0,
            )
            for share, count in zip(shares[row][shown], common[row][shown], strict=True)
        )
        for row in shown
    )
    raw = raw_agreement(labels, prompts=table.prompts)
    alpha = krippendorff_alpha(labels, prompts=table.prompts, resamples=200)
    sided = raw_agreement(
        labels, ignoring=[labels.categories.index(choice) for choice in ("tie", "both_bad")]
    )
    ceiling = None
    if math.isfinite(sided.value):
        found = noise_ceiling(sided)
        ceiling = (found.at_least, found.at_most)
    those: list[str] = [labels.annotators[at] for at in shown]
    names = tuple(known.get(name, name) for name in those)
    return names, cells, raw, alpha, ceiling


def logins(studio: Studio) -> dict[str, str]:
    """Pseudonym -> login, for admins, who see people by the name they know."""
    account, annotator = studio_models.AccountRow, models.AnnotatorRow
    with studio.read() as session:
        rows = session.execute(
            select(annotator.name, account.login).join(account, account.annotator_id == annotator.id)
        ).all()
    return dict(rows)


def _board(judged: Sequence[JudgedItem]) -> tuple[Leaderboard | None, str]:
    try:
        return leaderboard(votes_of(judged).votes), ""
    except InputError as error:
        return None, str(error)
