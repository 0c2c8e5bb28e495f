"""Calls of environments: many at a time, each with a time limit, coroutines and plain functions alike."""

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

Call = Callable[[], Any]


class Caller:
    """Runs calls on an event loop in a thread of its own, which lives as long as the process: clients that are bound to a loop stay usable.

    A plain function that takes too long cannot be ended: its thread is left behind, and does not keep the process alive.
    """

    def __init__(self, *, parallel: int, seconds: float) -> None:
        self._parallel, self._seconds = parallel, seconds
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True, name="environments").start()

    def all(self, calls: Sequence[Call]) -> list[Any]:
        """What each call returned, or the exception that it raised; a `TimeoutError` for one that took too long."""
        return asyncio.run_coroutine_threadsafe(self._all(calls), self._loop).result()

    async def _all(self, calls: Sequence[Call]) -> list[Any]:
        turns = asyncio.Semaphore(self._parallel)
        return await asyncio.gather(*(self._one(call, turns) for call in calls), return_exceptions=True)

    async def _one(self, call: Call, turns: asyncio.Semaphore) -> Any:
        async with turns:
            return await asyncio.wait_for(_result(call), self._seconds)


async def _result(call: Call) -> Any:
    function = getattr(call, "func", call)
    found = call() if inspect.iscoroutinefunction(function) else await in_thread(call)
    return await found if inspect.isawaitable(found) else found


def in_thread(call: Call) -> Awaitable[Any]:
    """The result of a plain function that runs in a thread of its own."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Any] = loop.create_future()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        if not future.done():  # it may have been given up
            set_it(value)

    def work() -> None:
        try:
            result = call()
        except BaseException as error:  # StopIteration cannot be set on a future; nothing else is lost
            problem = RuntimeError(str(error)) if isinstance(error, StopIteration) else error
            loop.call_soon_threadsafe(tell, future.set_exception, problem)
        else:
            loop.call_soon_threadsafe(tell, future.set_result, result)

    threading.Thread(target=work, daemon=True).start()
    return future
