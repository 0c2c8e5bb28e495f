"""From a judge's reply to a probability. A reply that cannot be read is an error, never a tie."""

import math
import re
from collections.abc import Mapping, Sequence

from prefloop.feedback.judges.model import Reply

LEAST_MASS = 0.1
"""Of the first token's probability that the expected answers must have; a model that puts less on them is answering something else."""
_TAG = re.compile(
    r"\[\[\s*(1\s*>>\s*2|1\s*>\s*2|1\s*=\s*2|2\s*>\s*1|2\s*>>\s*1|1|2|tie|A|B|C)\s*\]\]", re.IGNORECASE
)
_VERDICTS = {
    "1": 1.0, "1>2": 1.0, "1>>2": 1.0, "a": 1.0,
    "2": 0.0, "2>1": 0.0, "2>>1": 0.0, "b": 0.0,
    "tie": 0.5, "1=2": 0.5, "c": 0.5,
}  # fmt: skip


class Unreadable(Exception):
    """A reply holds no verdict."""


def soft_verdict(reply: Reply) -> float:
    """P(first is better) = p(1) / (p(1) + p(2)) from the first token's log-probabilities, `1` and ` 1` counted together.

    (Lee et al. 2023.) Raises `Unreadable` if neither is among the alternatives, or both together are unlikely.
    """
    one, two = _mass(reply.first_token, "1"), _mass(reply.first_token, "2")
    if one + two < LEAST_MASS:
        raise Unreadable(
            f"probability of 1 or 2 as the first token is {one + two:.3f}, reply {reply.text[:80]!r}"
        )
    return one / (one + two)


def tag_verdict(text: str) -> float:
    """1, 0 or ½ from the last verdict in tags: `[[1]]`, `[[2]]`, `[[tie]]`, `[[1>>2]]` and its kin, or A, B, C for them.

    Raises `Unreadable` if there is none.
    """
    found = _TAG.findall(text)
    if not found:
        raise Unreadable(f"no verdict in tags, reply ends {text[-80:]!r}")
    return _VERDICTS[re.sub(r"\s", "", found[-1]).lower()]


def soft_score(reply: Reply, *, best: int = 10) -> float:
    """`expected_score` over the first token's probabilities.

    Where the first token is `1` and a number of two digits could follow, `10` must be a token of its own; models whose tokenizer splits it never
    give it, so take `best` 9 for them. Raises `Unreadable` if no number is likely.
    """
    masses = [_mass(reply.first_token, str(score)) for score in range(1, best + 1)]
    return expected_score(masses, reply=reply.text)


def expected_score(masses: Sequence[float], *, reply: str = "") -> float:
    """The mean of the scores 1, 2, ... by their probabilities, mapped to [-1, 1] (direct RLAIF, arXiv:2309.00267).

    2 (Σ_i i p_i / Σ_i p_i - 1) / (best - 1) - 1, with p_i the probability of answering i and `best` the number of them. Raises `Unreadable`
    where all together have less than `LEAST_MASS`; `reply` is what the model answered instead.
    """
    total, best = sum(masses), len(masses)
    if not total >= LEAST_MASS:
        raise Unreadable(f"probability of a number as the answer is {total:.3f}, reply {reply[:80]!r}")
    mean = sum(score * mass for score, mass in enumerate(masses, 1)) / total
    return 2 * (mean - 1) / (best - 1) - 1


def _mass(first_token: Mapping[str, float], answer: str) -> float:
    return sum(math.exp(logprob) for token, logprob in first_token.items() if token.strip() == answer)
