"""What must hold at step 0, before the first update, where policy = reference = the policy that sampled.

Dropout left on, a temperature used on one side, a mask moved by one token, adapters left on in the reference: each trains without an error
and shows here first. Every run compares and stops.
"""

import math
from collections.abc import Callable, Mapping

from prefloop.errors import InputError


def _log_two(**_: float) -> float:
    """-log σ(0), whatever the loss's settings are: label smoothing mixes two equal terms."""
    return math.log(2)


EXPECTED_AT_START: Mapping[str, Callable[..., float]] = {
    "dpo": _log_two,
    "ratio": lambda: 1.0,
    "kl": lambda: 0.0,
}
"""Mean loss (or quantity) at step 0, as a function of the loss's settings by keyword."""


def expected_at_start(name: str, **settings: float) -> float:
    """The value at policy = reference, for example `expected_at_start("dpo", beta=0.1, label_smoothing=0.0)`."""
    return EXPECTED_AT_START[name](**settings)


def check_start(name: str, observed: float, expected: float, tolerance: float, *, way_out: str) -> None:
    """Stop a run whose policy does not give the log-probabilities it is compared with.

    Args:
        name: What is compared.
        observed: Its value in this run.
        expected: Its value where nothing is wrong.
        tolerance: How far float noise may take it.
        way_out: What the user can change, as a clause.

    Raises:
        InputError: `observed` is not within `tolerance` of `expected`; NaN never is.
    """
    if not abs(observed - expected) <= tolerance:
        raise InputError(
            f"step 0: {name} is {observed:.6g}, but before the first update it must be {expected:.6g} (within {tolerance:g}): "
            f"the policy does not give the log-probabilities it is compared with; {way_out}"
        )
