"""Which examples a step trains on, computed from the step's number alone: a resumed run needs no position to be saved."""

import math

import numpy as np


def steps_in(epochs: float, size: int, batch_size: int) -> int:
    """Steps that `epochs` passes over `size` examples take; the last, smaller batch of a pass is a step too."""
    if size < 1 or batch_size < 1:
        raise ValueError(f"size is {size} and batch_size {batch_size}; both must be 1 or more")
    # The slack keeps 0.1 · 30 = 3.0000000000000004 from becoming 4.
    return max(1, math.ceil(epochs * math.ceil(size / batch_size) - 1e-9))


def batch_of(step: int, *, size: int, batch_size: int, seed: int) -> list[int]:
    """Indices of the examples of `step` (1 is the first): each pass takes all of them once, in an order of its own.

    The batch is that of the whole world; `World.share` deals it out.
    """
    if step < 1:
        raise ValueError(f"step is {step}; the first is 1")
    per_epoch = math.ceil(size / batch_size)
    epoch, position = divmod(step - 1, per_epoch)
    order = np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(size)
    return order[position * batch_size : (position + 1) * batch_size].tolist()
