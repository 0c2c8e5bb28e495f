import io

import pytest

from prefloop.runtime import progress as module
from prefloop.runtime.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(stream: io.StringIO, *, shown: bool = True, start: int = 0) -> Progress:
    return Progress(
        stage="sft", start=start, total=4, headline=("loss", "accuracy"), shown=shown, stream=stream
    )


def test_plain_lines_where_there_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    stream = io.StringIO()
    progress = make(stream, start=1)
    progress.begin()
    progress.numbers({"loss": 2.5, "other": 1.0})
    clock[0] += 20
    progress.advance()
    assert stream.getvalue() == ""  # not yet 30 seconds
    clock[0] += 20
    progress.numbers({"loss": 1.25, "accuracy": 0.5})
    progress.advance()
    # two steps in 40 seconds, one to go
    line = "sft 3/4 (75%), 0.05 steps/s, 00:20 left, loss 1.25, accuracy 0.5\n"
    assert stream.getvalue() == line
    progress.advance()  # the last one always
    assert stream.getvalue().startswith(line + "sft 4/4 (100%)")


def test_a_bar_on_a_terminal() -> None:
    stream = Terminal()
    progress = make(stream, start=1)
    progress.begin()
    progress.numbers({"loss": 2.5, "accuracy": 0.25, "other": 1.0})
    progress.advance()
    progress.write("a line")
    progress.close()
    shown = stream.getvalue()
    assert "a line\n" in shown
    assert "loss=2.5, accuracy=0.25" in shown
    assert "2/4" in shown
    assert "other" not in shown


def test_other_processes_are_silent() -> None:
    stream = Terminal()
    progress = make(stream, shown=False)
    progress.begin()
    progress.advance()
    progress.write("a line")
    progress.close()
    assert stream.getvalue() == ""


def test_the_first_two_numbers_that_are_known_are_shown() -> None:
    stream = Terminal()
    headline = ("loss", "heldout_loss", "grad_norm")
    progress = Progress(stage="sft", start=0, total=4, headline=headline, shown=True, stream=stream)
    progress.begin()
    progress.numbers({"grad_norm": 0.5, "loss": 2.0})
    assert progress.line().endswith(" left, loss 2, grad_norm 0.5")
    progress.numbers({"heldout_loss": 3.0, "loss": 1.5, "grad_norm": 0.25})
    assert progress.line().endswith(", loss 1.5, heldout_loss 3")
    progress.advance()
    progress.close()
    assert "loss=1.5, heldout_loss=3" in stream.getvalue()


def test_following_work_that_is_shared() -> None:
    stream = io.StringIO()
    progress = Progress(stage="sample", start=2, total=14, headline=(), shown=True, stream=stream)
    progress.begin()
    for _ in range(2):  # two rounds of the same work, each counted from nothing
        follow = progress.follow(processes=2)
        follow(1)
        follow(3)
    assert progress.line().startswith("sample 14/14 (100%)")
