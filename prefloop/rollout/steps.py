"""Decode steps of fixed shape, recorded once and replayed: what a GPU needs to be busy with small batches."""

from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Step = Callable[[Tensor, Tensor, int], Tensor]
"""Tokens [n], positions [n] and columns to logits [n, V]."""
Recording = tuple[Callable[[], None], Tensor]
"""What runs the recorded step again, and the tensor it leaves its result in."""

_COLUMNS = 64
"""Columns are rounded up to a multiple of it: so many fewer recordings, so little read in vain."""


class Recorded:
    """A step whose shapes are rounded up to a few, one recording for each; its input stands where the recording reads it.

    Rows and columns beyond those asked for are computed and thrown away. The rows write into slots that nothing runs in, the columns are hidden.
    The step comes with every call: its owner keeps this, and would otherwise live, with its cache, until Python looks for cycles.
    """

    def __init__(
        self,
        slots: int,
        columns: int,
        device: torch.device,
        record: Callable[[Callable[[], Tensor]], Recording],
    ) -> None:
        self._record = record
        self._slots, self._columns = slots, columns
        self._tokens = torch.zeros(slots, dtype=torch.int64, device=device)
        self._positions = torch.zeros(slots, dtype=torch.int64, device=device)
        self._recordings: dict[tuple[int, int], Recording] = {}

    def __call__(
        self, step: Step, tokens: Int64[Tensor, " n"], positions: Int64[Tensor, " n"], columns: int
    ) -> Float[Tensor, "n V"]:
        """The step's result; overwritten by the next call."""
        n = len(tokens)
        rows = min(self._slots, 1 << (n - 1).bit_length())
        width = min(self._columns, -(-columns // _COLUMNS) * _COLUMNS)
        self._tokens[:n] = tokens
        self._positions[:n] = positions
        if (rows, width) not in self._recordings:
            self._recordings[rows, width] = self._record(
                lambda: step(self._tokens[:rows], self._positions[:rows], width)
            )
        replay, logits = self._recordings[rows, width]
        replay()
        return logits[:n]


def record_cuda(step: Callable[[], Tensor]) -> Recording:
    """Record a step's kernels as a CUDA graph. It runs twice beforehand, so that libraries allocate what they keep."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()
    return graph.replay, logits
