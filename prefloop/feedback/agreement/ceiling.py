"""The best accuracy that a reward model can have on labels of people who do not agree, from how far they do.

Let an item's next label be for the first side with probability q, and x = |2q - 1|. Two labels of it agree with probability
(1 + x²)/2, and whoever knows q is right on one label with probability (1 + x)/2, which nobody can beat. So the agreement A among those
who name a side gives the mean of x², 2A - 1, and the ceiling is (1 + mean x)/2, about which A says, as x lies in [0, 1],

    A  ≤  ceiling  ≤  (1 + √(2A - 1)) / 2

(x ≥ x² on the left; Jensen's inequality on the right, with equality if all items are equally hard). Annotators are taken as drawn at
random for each item.
"""

import math
from dataclasses import dataclass

from prefloop.feedback.agreement.chance import Agreement


@dataclass(frozen=True, kw_only=True, slots=True)
class NoiseCeiling:
    """Where the ceiling of a reward model's accuracy on single labels lies."""

    at_least: float
    at_most: float
    low: float
    """`at_least` at the lower end of the agreement's 95 % interval."""
    high: float
    """`at_most` at its upper end."""
    items: int
    """Items with two labels or more that name a side."""


def noise_ceiling(agreement: Agreement) -> NoiseCeiling:
    """The ceiling's bounds from raw agreement without ties (`raw_agreement(labels, ignoring=ties)`). NaN without items.

    Agreement below one half is what chance alone makes of a coin; it bounds the ceiling by one half from both sides.
    """
    return NoiseCeiling(
        at_least=_at_least(agreement.value),
        at_most=_at_most(agreement.value),
        low=_at_least(agreement.low),
        high=_at_most(agreement.high),
        items=agreement.items,
    )


def _at_least(agreement: float) -> float:
    return agreement if math.isnan(agreement) else max(0.5, agreement)


def _at_most(agreement: float) -> float:
    return agreement if math.isnan(agreement) else 0.5 * (1 + math.sqrt(max(0.0, 2 * agreement - 1)))
