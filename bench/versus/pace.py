"""A step a line: the parent writes `go`, the worker does one step and answers with a line of JSON. Standard library only."""

import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO


class Pace:
    """A worker's end. Whatever the worker's libraries print goes to standard error."""

    def __init__(self, finish: Callable[[], object] | None = None) -> None:
        """`finish` is called before the clock is read, where work goes on after the call that began it, as on a GPU."""
        self._finish = finish
        self._answers: TextIO = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def ready(self, **facts: Any) -> None:
        """Everything is loaded."""
        self._answer(facts)

    @contextmanager
    def step(self) -> Iterator[dict[str, Any]]:
        """Wait for the parent, then time what is done inside; it may add to the answer. Exits where the parent wants no more."""
        if sys.stdin.readline() != "go\n":
            self._answer({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024})
            os._exit(0)
        answer: dict[str, Any] = {}
        processor, began = _processor_seconds(), time.perf_counter()
        yield answer
        if self._finish:
            self._finish()
        answer["seconds"] = time.perf_counter() - began
        answer["processor_seconds"] = _processor_seconds() - processor
        self._answer(answer)

    def _answer(self, answer: dict[str, Any]) -> None:
        self._answers.write(json.dumps(answer) + "\n")
        self._answers.flush()


def _processor_seconds() -> float:
    """Of this process and of those that it started and that have ended, a compiler for example."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime
