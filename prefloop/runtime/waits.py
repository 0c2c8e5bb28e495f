"""Waiting for the other processes: with a deadline, and with the name of the one that does not come.

While a process waits for more than a moment it says so in the store that the processes share. Where a wait fails, or ends by its deadline, the
processes that are waiting too are known by it, and the others are the missing ones.
"""

import contextlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import timedelta
from typing import TypeVar

from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from prefloop.errors import PeerLost
from prefloop.runtime.machines import Peer, launcher

T = TypeVar("T")

MOMENT = 0.5
"""Seconds after which a wait is told to the others."""
GRACE = 4.0
"""Seconds that a process which lost another one gives the rest to say that they are waiting."""

_OF_PEERS = re.compile(
    r"timed? ?out|connection|closed by peer|broken pipe|gloo|nccl|socket|recv|tcpstore|store", re.IGNORECASE
)
"""What an error of a collective says when it is about another process."""


class Waits:
    """Counts this process's collectives, and finds out who is missing when one fails."""

    def __init__(self, store: Store, *, rank: int, hosts: Sequence[str], minutes: float) -> None:
        """`hosts` are the machines of all processes, by rank."""
        self._store, self._rank, self._minutes = store, rank, minutes
        self._hosts, self._size = hosts, len(hosts)
        self._count = 0
        self._since = 0.0
        """When the collective that this process is in began; 0 while it is in none."""
        self._told = 0
        self._end = threading.Event()
        self._teller = threading.Thread(target=self._tell, name="prefloop-waits", daemon=True)
        self._teller.start()

    def _tell(self) -> None:
        while not self._end.wait(MOMENT / 2):
            count, since = self._count, self._since
            if since and count != self._told and time.monotonic() - since > MOMENT:
                with contextlib.suppress(RuntimeError):  # the wait itself will say that the store is gone
                    self._store.set(_key(self._rank), str(count))
                self._told = count

    def close(self) -> None:
        """Stop telling. Before the process group ends, and before Python does."""
        self._end.set()
        self._teller.join(GRACE)

    def speak(self) -> None:
        """This process is about to say what was wrong, and end: the others need not."""
        _in_time(lambda: self._store.set(_SPOKEN, "1"), None)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Around a collective.

        Raises:
            PeerLost: Another process is gone or did not come in time; names it.
        """
        self._count += 1
        self._since = time.monotonic()
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, PeerLost) or not _OF_PEERS.search(str(error)):
                raise
            raise self._lost(error) from error
        finally:
            self._since = 0.0

    def _lost(self, error: RuntimeError) -> PeerLost:
        in_time = not re.search(r"timed? ?out", str(error), re.IGNORECASE)
        missing = _in_time(self._missing, self._without_store(), seconds=2 * GRACE)
        names = _named(missing, self._hosts)
        if in_time:
            message = f"{names} of {self._size} ended while the others waited; its error is above, if it printed one"
        else:
            message = f"{names} of {self._size} did not come within {self._minutes:g} minutes (compute.wait_minutes)"
        speakers = [rank for rank in range(self._size) if rank not in missing]
        return PeerLost(message, speaks=bool(speakers) and speakers[0] == self._rank and not self._spoken())

    def _spoken(self) -> bool:
        return _in_time(lambda: self._store.check([_SPOKEN]), False)

    def _without_store(self) -> list[int]:
        """Who is missing where the store does not answer. It is kept by process 0, or beside it, which is gone or has given up as well."""
        return [0] if self._rank else list(range(1, self._size))

    def _missing(self) -> list[int]:
        """The processes that are not in this collective, nor past it."""
        others = [rank for rank in range(self._size) if rank != self._rank]
        missing: list[int] = []
        try:
            self._store.set(_key(self._rank), str(self._count))
            end = time.monotonic() + GRACE
            while True:
                missing = [rank for rank in others if self._reached(rank) < self._count]
                if not missing or time.monotonic() > end:
                    return missing
                time.sleep(0.1)
        except RuntimeError:
            return missing or self._without_store()

    def _reached(self, rank: int) -> int:
        key = _key(rank)
        return int(self._store.get(key)) if self._store.check([key]) else 0


def meet(minutes: float) -> tuple[Store, int, list[Peer]]:
    """The store that the processes share, this one's rank and what all say of themselves, by rank, once all have come.

    Raises:
        PeerLost: Some did not come in time; names them.
    """
    patience = timedelta(minutes=minutes)
    try:
        store, rank, size = next(iter(rendezvous("env://", timeout=patience)))
    except RuntimeError as error:
        joined = re.search(r"(\d+)/(\d+) clients joined", str(error))
        who = f"{joined[1]} of {joined[2]} processes" if joined else "not all processes"
        line = (str(error).strip().splitlines() or [""])[0]
        raise PeerLost(
            f"{who} came within {minutes:g} minutes (compute.wait_minutes): {line}; start them all, and together",
            speaks=True,
        ) from error
    store.set_timeout(patience)
    shared = PrefixStore("prefloop", store)
    leads = rank == 0 or os.environ.get("LOCAL_RANK", "0") == "0"
    several = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    own = Peer(host=socket.gethostname(), leads=leads, launcher=launcher() if leads and several else "")
    shared.set(f"here/{rank}", json.dumps(asdict(own)))
    end = time.monotonic() + patience.total_seconds()
    while missing := [other for other in range(size) if not shared.check([f"here/{other}"])]:
        if time.monotonic() > end:
            came = {_peer(shared, other).host for other in range(size) if other not in missing}
            where = f"; the others are on {', '.join(sorted(came))}" if len(came) > 1 else ""
            raise PeerLost(
                f"{_named(missing)} of {size} did not come within {minutes:g} minutes (compute.wait_minutes){where}; start them all, and together",
                speaks=min(set(range(size)) - set(missing)) == rank,
            )
        time.sleep(0.05)
    return store, rank, [_peer(shared, other) for other in range(size)]


def _peer(store: Store, rank: int) -> Peer:
    return Peer(**json.loads(store.get(f"here/{rank}")))


def _in_time(ask: Callable[[], T], otherwise: T, *, seconds: float = 0.0) -> T:
    """What the store answers. PyTorch's waits for ever where the network is gone without a word, so it is asked from a thread that may be left behind."""
    heard: list[T] = []

    def work() -> None:
        with contextlib.suppress(RuntimeError):
            heard.append(ask())

    thread = threading.Thread(target=work, name="prefloop-asks", daemon=True)
    thread.start()
    thread.join(seconds or GRACE)
    return heard[0] if heard else otherwise


_SPOKEN = "spoken"


def _key(rank: int) -> str:
    return f"waits/{rank}"


def _named(ranks: list[int], hosts: Sequence[str] = ()) -> str:
    """The processes, with their machines if there are several."""
    if not ranks:
        return "one process"
    several = len(set(hosts)) > 1
    names = [f"{rank} on {hosts[rank]}" if several else str(rank) for rank in ranks]
    return f"process{'es' if ranks[1:] else ''} {', '.join(names)}"


def guarded(waits: "Waits | None", work: Callable[[], T]) -> T:
    """Do a collective; with `waits`, errors of other processes are one line."""
    if waits is None:
        return work()
    with waits.waiting():
        return work()
