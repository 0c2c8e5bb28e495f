"""What `prefloop label select` chooses from: the pairs that could be asked, and the order in which a strategy would ask them."""

from collections.abc import Callable, Sequence

from prefloop.data.store import Store
from prefloop.errors import InputError
from prefloop.feedback.select import stored
from prefloop.feedback.select.scores import read_scores
from prefloop.feedback.select.stored import CandidatePair

Offer = tuple[list[CandidatePair], list[int]]
"""Pairs, and places among them, the strategy's best first."""


def offer(
    store: Store,
    strategy: str,
    *,
    checkpoints: Sequence[str] = (),
    round: int = 0,
    count: int,
    scores: str = "",
    prior: float = 0.01,
) -> Offer:
    """The pairs that could be asked, and places among them, the strategy's best first. Raises `InputError` if there is none.

    Args:
        store: Where completions and judgements are.
        strategy: `uniform`, `disagreement`, `margin`, `information` or `conflict`.
        checkpoints: Names of the policies whose completions are paired; none means all.
        round: Round that the pairs are asked in.
        count: Pairs that will be asked.
        scores: File of `prefloop data score`, for `disagreement` and `margin`.
        prior: Precision of the prior on the models' ratings, for `information`.
    """
    if strategy == "conflict":
        return _conflicts(store, round)
    orders: dict[str, Callable[[list[CandidatePair]], list[int]]] = {
        "uniform": lambda offered: [],
        "disagreement": lambda offered: stored.by_disagreement(offered, read_scores(scores)),
        "margin": lambda offered: stored.by_margin(offered, read_scores(scores)),
        # As many more as the uniform draw may take of them.
        "information": lambda offered: stored.by_information(store, offered, 2 * count, prior=prior),
    }
    offered = stored.candidates(store, checkpoints=[store.find_checkpoint(name) for name in checkpoints])
    if not offered:
        raise InputError(
            f"{store.label}: no two different completions of a prompt are left to ask about; draw more with `prefloop sample`"
        )
    return offered, orders[strategy](offered)


def _conflicts(store: Store, round: int) -> Offer:
    offered, order = stored.conflicts(store, round=round)
    if not offered:
        raise InputError(
            f"{store.label}: every pair that both people and an AI judge have judged is in round {round} already, or there is none; "
            "let `prefloop label judge` judge the pairs that people judged, and name a new round"
        )
    return offered, order
