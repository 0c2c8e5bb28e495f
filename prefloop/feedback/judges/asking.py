"""Many questions to a model, several at a time: answers kept as they come, failures counted by kind, an early end where the budget is spent."""

from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TypeVar

from prefloop.feedback.judges.model import CallFailed, OverBudget
from prefloop.feedback.judges.verdicts import Unreadable

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")
MOST_PROBLEMS = 5


@dataclass(slots=True)
class Failures:
    """What gave no answer. Nothing is guessed for it."""

    unreadable: int = 0
    """Replies that hold nothing that can be read, after a reminder where there is one."""
    failed: int = 0
    """Questions that got no answer."""
    problems: list[str] = field(default_factory=list)
    """The first few reasons."""
    stopped: str = ""
    """Why asking ended early; empty if it did not."""

    @property
    def why(self) -> str:
        """Why nothing, or not all, was answered."""
        return self.stopped or "; ".join(self.problems) or "no reply"

    def note(self, name: str, error: Unreadable | CallFailed) -> None:
        """Count one."""
        self.unreadable += isinstance(error, Unreadable)
        self.failed += isinstance(error, CallFailed)
        if len(self.problems) < MOST_PROBLEMS:
            self.problems.append(f"{name}: {error}")


def ask_all(
    asked: Iterable[Asked],
    ask: Callable[[Asked], Answer],
    keep: Callable[[Asked, Answer], None],
    *,
    failures: Failures,
    name: Callable[[Asked], str],
    workers: int,
) -> None:
    """Ask `workers` at a time, and hand each answer to `keep` as soon as it is there (from this thread), so that a crash loses those under
    way only. Ends early, and says so in `failures`, where the budget is spent; other errors end it."""
    waiting = iter(asked)
    running: dict[Future[Answer], Asked] = {}
    with ThreadPoolExecutor(max_workers=workers) as pool:
        try:
            while True:
                while (
                    not failures.stopped
                    and len(running) < workers
                    and (one := next(waiting, None)) is not None
                ):
                    running[pool.submit(ask, one)] = one
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    one = running.pop(done)
                    try:
                        answer = done.result()
                    except (Unreadable, CallFailed) as error:
                        failures.note(name(one), error)
                    except OverBudget as error:
                        failures.stopped = str(error)
                    else:
                        keep(one, answer)
        finally:
            for future in running:
                future.cancel()
