"""What stages took, over several processes."""

import json
from pathlib import Path

import pytest

from prefloop.recipes import clock as module
from prefloop.recipes.clock import Clock
from prefloop.runtime import start_world


class Time:
    """A clock that stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def takes(self, seconds: float, *, stopped: bool = False) -> None:
        """Work of so many seconds, which ends or is interrupted."""
        self.now += seconds
        if stopped:
            raise KeyboardInterrupt


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    return Time(monkeypatch)


def new(folder: Path) -> Clock:
    """A clock as each process of a project makes it."""
    return Clock(folder, start_world("cpu"))


def seconds(clock: Clock) -> dict[str, float]:
    return {each.stage: each.seconds for each in clock.times}


def test_an_interrupted_stage_counts_what_it_took_before(tmp_path: Path, time: Time) -> None:
    first = new(tmp_path)
    first.stage("pretrain", lambda: time.takes(10))
    with pytest.raises(KeyboardInterrupt):
        first.stage("sft", lambda: time.takes(3, stopped=True))
    second = new(tmp_path)
    second.stage("pretrain", lambda: time.takes(0.1))  # finished before: looked at, not done
    second.stage("sft", lambda: time.takes(4))
    assert seconds(second) == {"pretrain": pytest.approx(10), "sft": pytest.approx(7)}
    assert second.seconds == pytest.approx(17)
    third = new(tmp_path)
    third.stage("sft", lambda: time.takes(0.1))
    third.stage("evaluate", lambda: time.takes(5))
    fourth = new(tmp_path)
    fourth.stage("evaluate", lambda: time.takes(6))  # done again from the beginning: not twice as much
    assert seconds(fourth) == {
        "pretrain": pytest.approx(10),
        "sft": pytest.approx(7),
        "evaluate": pytest.approx(6),
    }


def test_a_killed_stage_counts_what_its_checkpoint_knows(tmp_path: Path, time: Time) -> None:
    summary = tmp_path / "summary.json"
    summary.write_text(json.dumps({"seconds": 50.0}))  # of the run: 42 before it was killed, 8 after
    clock = new(tmp_path)
    clock.stage("ppo", lambda: time.takes(8), summary=summary)
    clock.stage("dpo", lambda: time.takes(2), summary=tmp_path / "none.json")
    assert seconds(clock) == {"ppo": pytest.approx(50), "dpo": pytest.approx(2)}


def test_the_most_memory_of_any_process(tmp_path: Path, time: Time, monkeypatch: pytest.MonkeyPatch) -> None:
    for peak, most in ((700.0, 700.0), (300.0, 700.0), (900.0, 900.0)):
        monkeypatch.setattr(module, "peak_rss_mb", lambda peak=peak: peak)
        clock = new(tmp_path)
        assert clock.stage("sft", lambda: "result") == "result"
        assert clock.peak_rss_mb == most
