"""Pairs that a store could ask about, and making items of those that were chosen."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from prefloop.data.store import Store, models
from prefloop.errors import InputError
from prefloop.feedback.judged import JudgedItem, checkpoint_names, read_judged, votes_of
from prefloop.feedback.ratings import fit, pair_likelihood
from prefloop.feedback.select.acquisition import (
    Floats,
    conflict,
    disagreement,
    most_informative,
    ranked,
    uncertainty,
)
from prefloop.feedback.select.choose import ChosenPair
from prefloop.feedback.select.scores import Key

PREFERS = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""Choice -> how much it speaks for slot 0."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CandidatePair:
    """Two different completions of one prompt."""

    completions: tuple[int, int]
    """Ids; the first will be slot 0."""
    prompt: str
    """SHA-256."""
    texts: tuple[str, str]
    """SHA-256 of each text."""
    models: tuple[str, str]
    """Who wrote them."""

    @property
    def key(self) -> str:
        """What it holds, in any store and order."""
        return " ".join((self.prompt, *sorted(self.texts)))

    @property
    def scored(self) -> tuple[Key, Key]:
        """Its completions as files of scores name them."""
        return (self.prompt, self.texts[0]), (self.prompt, self.texts[1])


def candidates(store: Store, *, checkpoints: Sequence[int] = ()) -> list[CandidatePair]:
    """Pairs of different texts by these checkpoints (all, if none is named) that no item asks about yet. Each pair of texts once."""
    with store.database.read() as session:
        names, asked = checkpoint_names(session), _asked(session)
        table = models.CompletionRow
        statement = (
            select(table.id, table.text_sha256, table.checkpoint_id, models.PromptRow.sha256)
            .join(models.PromptRow)
            .order_by(table.prompt_id, table.checkpoint_id, table.seed, table.sample_index, table.id)
        )
        if checkpoints:
            statement = statement.where(table.checkpoint_id.in_(checkpoints))
        by_prompt: dict[str, dict[str, tuple[int, str]]] = defaultdict(dict)
        for id, text, checkpoint, prompt in session.execute(statement):
            by_prompt[prompt].setdefault(text, (id, names[checkpoint]))
    found = [
        CandidatePair(completions=(a, b), prompt=prompt, texts=(one, other), models=(by_a, by_b))
        for prompt, members in by_prompt.items()
        for (one, (a, by_a)), (other, (b, by_b)) in combinations(members.items(), 2)
    ]
    return [item for item in found if item.key not in asked]


def _asked(session: Session, round: int | None = None) -> set[str]:
    """Keys of the pairs that are items, of one round or of any."""
    item, slot, completion = models.ItemRow, models.ItemCompletionRow, models.CompletionRow
    statement = (
        select(item.id, models.PromptRow.sha256, completion.text_sha256)
        .join(models.PromptRow, models.PromptRow.id == item.prompt_id)
        .join(slot, slot.item_id == item.id)
        .join(completion, completion.id == slot.completion_id)
        .where(item.kind == "pair")
    )
    if round is not None:
        statement = statement.where(item.round == round)
    texts: dict[tuple[int, str], list[str]] = defaultdict(list)
    for id, prompt, text in session.execute(statement):
        texts[id, prompt].append(text)
    return {" ".join((prompt, *sorted(pair))) for (_, prompt), pair in texts.items()}


def by_disagreement(offered: Sequence[CandidatePair], scores: Mapping[Key, Sequence[float]]) -> list[int]:
    """Places, those first that an ensemble's members disagree on most. `InputError` for a completion without scores, or a single member."""
    first, second = _scores(offered, scores)
    if len(first) < 2:
        raise InputError(
            "the scores come from one scorer, but disagreement needs several; name more than one in `prefloop data score`"
        )
    return ranked(disagreement(first, second), [pair.key for pair in offered])


def by_margin(offered: Sequence[CandidatePair], scores: Mapping[Key, Sequence[float]]) -> list[int]:
    """Places, those first whose margin is nearest to 0; of several scorers their mean margin."""
    first, second = _scores(offered, scores)
    return ranked(uncertainty((first - second).mean(axis=0)), [pair.key for pair in offered])


def _scores(offered: Sequence[CandidatePair], scores: Mapping[Key, Sequence[float]]) -> tuple[Floats, Floats]:
    """`[members, pairs]` of the first and of the second completions."""
    missing = sum(key not in scores for pair in offered for key in pair.scored)
    if missing:
        raise InputError(
            f"{missing} of {2 * len(offered)} completions have no scores in the file; run `prefloop data score` on the same store and checkpoints"
        )
    sides = (np.array([scores[pair.scored[side]] for pair in offered]).T for side in (0, 1))
    first, second = sides
    return first, second


def by_information(store: Store, offered: Sequence[CandidatePair], count: int, *, prior: float) -> list[int]:
    """Places of the pairs that would tell most about the ratings of the models behind them, the earlier ones taken as labelled.

    From the Bradley-Terry fit of all votes in the store; models that have none are known by the prior alone. A pair by one model says nothing of
    ratings and is not named. At most `count`.
    """
    try:
        votes = votes_of(read_judged(store)).votes
    except InputError:  # nobody has compared two models yet
        votes = None
    known = list(votes.names) if votes is not None else []
    names = [*known, *sorted({name for pair in offered for name in pair.models} - set(known))]
    place = {name: at for at, name in enumerate(names)}
    precision, strengths = prior * np.eye(len(names)), np.zeros(len(names))
    if votes is not None and len(votes):
        found = fit(pair_likelihood(votes), prior=prior)
        precision[: len(known), : len(known)] = found.curvature[: len(known), : len(known)]
        strengths[: len(known)] = found.strengths
    usable = [at for at, pair in enumerate(offered) if pair.models[0] != pair.models[1]]
    usable.sort(key=lambda at: offered[at].key)  # of pairs that tell the same, not the first in the store
    rows = np.zeros((len(usable), len(names)))
    for row, at in enumerate(usable):
        rows[row, place[offered[at].models[0]]] += 1
        rows[row, place[offered[at].models[1]]] -= 1
    return [usable[row] for row in most_informative(rows, precision, strengths, count)] if usable else []


def conflicts(store: Store, *, round: int) -> tuple[list[CandidatePair], list[int]]:
    """Pairs that both people and an AI judge have judged, and their places in order of conflict, as far as there is any.

    Everybody who is no AI counts as people. The pairs are to be asked again in `round`; those that are items of it already are left out.
    """
    pairs: dict[int, dict[bool, list[float]]] = defaultdict(lambda: {False: [], True: []})
    shown: dict[int, JudgedItem] = {}
    for judgement in read_judged(store):
        if judgement.kind == "pair" and judgement.choice in PREFERS:
            pairs[judgement.item][judgement.annotator_kind == "ai"].append(PREFERS[judgement.choice])
            shown[judgement.item] = judgement
    both = [item for item, choices in pairs.items() if choices[False] and choices[True]]
    with store.database.read() as session:
        asked = _asked(session, round)
        offered = [item for item in _items(session, both, shown) if item[1].key not in asked]
    people = np.array([float(np.mean(pairs[item][False])) for item, _ in offered], np.float64)
    judge = np.array([float(np.mean(pairs[item][True])) for item, _ in offered], np.float64)
    worth = conflict(people, judge)
    found = [pair for _, pair in offered]
    order = ranked(worth, [pair.key for pair in found])
    return found, [at for at in order if worth[at] > 0]


def _items(
    session: Session, ids: Iterable[int], shown: Mapping[int, JudgedItem]
) -> list[tuple[int, CandidatePair]]:
    """Items as candidates; a pair that was asked in several rounds once, the newest."""
    slot = models.ItemCompletionRow
    found: dict[str, tuple[int, CandidatePair]] = {}
    for id in sorted(ids):
        a, b = session.scalars(select(slot.completion_id).where(slot.item_id == id).order_by(slot.slot)).all()
        item = shown[id]
        candidate = CandidatePair(
            completions=(a, b),
            prompt=item.prompt.sha256,
            texts=(text_sha256(item.completions[0]), text_sha256(item.completions[1])),
            models=(item.models[0], item.models[1]),
        )
        found[candidate.key] = (id, candidate)
    return list(found.values())


def text_sha256(text: str) -> str:
    """As the store has it."""
    return hashlib.sha256(text.encode()).hexdigest()


def add(
    store: Store, offered: Sequence[CandidatePair], chosen: Sequence[ChosenPair], *, round: int
) -> list[int]:
    """Make items of those chosen, each with its strategy; ids in the order of `chosen`."""
    ids: dict[int, int] = {}
    for strategy in dict.fromkeys(pair.strategy for pair in chosen):
        places = [pair.place for pair in chosen if pair.strategy == strategy]
        made = store.add_items(
            [offered[at].completions for at in places], kind="pair", strategy=strategy, round=round
        )
        ids.update(zip(places, made, strict=True))
    return [ids[pair.place] for pair in chosen]
