"""A process that lost the others ends in time, also where the store that they share is gone without a word."""

import threading
import time
from typing import Any, cast

import pytest

from prefloop.errors import PeerLost
from prefloop.runtime import waits
from prefloop.runtime.waits import Waits


class Silent:
    """A store behind a cable that was pulled: nothing comes back, and no error either."""

    def __init__(self) -> None:
        self.for_ever = threading.Event()

    def set(self, key: str, value: str) -> None: ...

    def check(self, keys: list[str]) -> bool:
        self.for_ever.wait(60)
        return False


@pytest.mark.parametrize(("rank", "named"), [(0, "processes 1 on b, 2 on b"), (1, "process 0 on a")])
def test_a_store_that_does_not_answer_is_not_waited_for(
    rank: int, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waits, "GRACE", 0.1)
    store = Silent()
    watch = Waits(cast(Any, store), rank=rank, hosts=["a", "b", "b"], minutes=0.3)
    began = time.monotonic()
    with (
        pytest.raises(PeerLost, match=f"^{named} of 3 did not come within 0.3 minutes") as caught,
        watch.waiting(),
    ):
        raise RuntimeError("Timed out waiting 18000ms for recv operation to complete")
    watch.speak()
    watch.close()
    assert time.monotonic() - began < 5
    assert caught.value.speaks
    store.for_ever.set()
