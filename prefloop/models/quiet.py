"""What the libraries underneath tell each other is not shown: progress bars of loading, deprecations of names that they call."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from transformers.utils import logging as transformers_logging

_AMONG_THEMSELVES = (FutureWarning, DeprecationWarning, PendingDeprecationWarning)


def hush() -> None:
    """From now on no progress bars of loading and saving, and no notes of transformers' log."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # PEFT imports it where it is installed, and it asks for a faster kernel of 4-bit products.
    logging.getLogger("bitsandbytes.backends").setLevel(logging.ERROR)


@contextmanager
def quiet() -> Iterator[None]:
    """Around a call into transformers or PEFT. Their errors pass, and so do warnings of other kinds."""
    hush()
    with warnings.catch_warnings():
        for kind in _AMONG_THEMSELVES:
            warnings.simplefilter("ignore", kind)
        warnings.filterwarnings(
            "ignore", message="fan_in_fan_out"
        )  # GPT-2's transposed layers: PEFT sets what is right
        yield
