"""How far a run is: a bar on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

from tqdm import tqdm

QUIET_SECONDS = 30.0
"""Between plain lines, where standard error is not a terminal."""


_watchers: list[Callable[["Progress"], None]] = []


@contextmanager
def watched(watch: Callable[["Progress"], None]) -> Iterator[None]:
    """Show progress by other means: `watch` is called as it begins, whenever more is done, and as it ends. Bars and plain lines are not drawn."""
    _watchers.append(watch)
    try:
        yield
    finally:
        _watchers.remove(watch)


class Progress:
    """Steps done of `total`, with the rate, the time left and the numbers that matter for the stage."""

    def __init__(
        self,
        *,
        stage: str,
        start: int,
        total: int,
        headline: Sequence[str],
        shown: bool,
        unit: str = "step",
        stream: TextIO | None = None,
    ) -> None:
        """Nothing is drawn before `begin`. The first two of `headline` that are known are shown; `unit` is what is counted.

        `shown` is off on all processes but one.
        """
        self._stream = stream or sys.stderr
        self._stage, self._start, self._total, self._done = stage, start, total, start
        self._headline = headline
        self._numbers: dict[str, float] = {}
        self._began = self._last_line = time.monotonic()
        self._shown = shown
        self._unit = unit
        self._bar: tqdm | None = None

    def begin(self) -> None:
        """Start the clock, and draw the bar on a terminal."""
        self._began = self._last_line = time.monotonic()
        self._tell()
        if self._shown and not _watchers and self._stream.isatty():
            self._bar = tqdm(
                desc=self._stage,
                initial=self._start,
                total=self._total,
                unit=self._unit,
                file=self._stream,
                dynamic_ncols=True,
            )

    def numbers(self, metrics: Mapping[str, float]) -> None:
        """Take the headline numbers from a step's metrics."""
        known = self._numbers | {name: metrics[name] for name in self._headline if name in metrics}
        self._numbers = {name: known[name] for name in self._headline if name in known}
        if self._bar is not None:
            self._bar.set_postfix(
                {name: f"{value:.4g}" for name, value in self._shown_numbers()}, refresh=False
            )

    def _shown_numbers(self) -> list[tuple[str, float]]:
        return list(self._numbers.items())[:2]

    def advance(self, count: int = 1) -> None:
        """So many more are done."""
        self._done += count
        self._tell()
        if self._bar is not None:
            self._bar.update(count)
        elif (
            self._shown
            and not _watchers
            and (self._done == self._total or time.monotonic() - self._last_line >= QUIET_SECONDS)
        ):
            self._last_line = time.monotonic()
            self.write(self.line())

    def follow(self, *, processes: int) -> Callable[[int], None]:
        """A callback for work that says how much of it this process has done so far; the others are taken to be about as fast."""
        before = 0

        def advance(done: int) -> None:
            nonlocal before
            self.advance((done - before) * processes)
            before = done

        return advance

    def line(self) -> str:
        """`sft 120/1000 (12%), 3.2 steps/s, 4:35 left, loss 2.31, accuracy 0.52`."""
        seconds = time.monotonic() - self._began
        rate = (self._done - self._start) / seconds if seconds > 0 else 0.0
        left = tqdm.format_interval((self._total - self._done) / rate) if rate > 0 else "?"
        numbers = "".join(f", {name} {value:.4g}" for name, value in self._shown_numbers())
        share = 100 * self._done // max(1, self._total)
        return f"{self._stage} {self._done}/{self._total} ({share}%), {rate:.3g} {self._unit}s/s, {left} left{numbers}"

    def write(self, text: str) -> None:
        """Print a line without tearing the bar."""
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        elif self._shown:
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar on the screen."""
        if self._bar is not None:
            self._bar.close()
        self._tell()

    def _tell(self) -> None:
        for watch in _watchers if self._shown else ():
            watch(self)

    @property
    def share(self) -> float:
        """How much of it is done, from 0 to 1."""
        return self._done / max(1, self._total)
