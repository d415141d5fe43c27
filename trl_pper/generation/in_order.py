"""Coroutines at work at once, their results in the order of what they work on.

Enters: items and what to do with one. Leaves: results, in the order of the items. Few run at once, and few results
wait to be taken. The work goes on in a thread with an event loop while whoever takes the results does something else;
leaving early cancels it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    *,
    concurrency: int,
    close: Callable[[], Awaitable[None]] | None = None,
) -> Iterator[Result]:
    """Yield the result of each item, in order.

    Args:
        items: What to work on.
        work: Does it, in the event loop.
        concurrency: How many are worked on at once. At most as many results again wait behind an unfinished one.
        close: Awaited in the event loop at the end.

    Raises:
        Exception: What `work` raises, after the results of earlier items; later work is cancelled.
    """
    with _loop_in_thread() as loop:
        gate, failed = asyncio.Semaphore(concurrency), asyncio.Event()

        async def gated(item: Item) -> Result:
            async with gate:
                if failed.is_set():
                    # Its turn came before whoever takes the results could see the error of an earlier one.
                    raise asyncio.CancelledError
                try:
                    return await work(item)
                except Exception:
                    failed.set()
                    raise

        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                if len(waiting) == 2 * concurrency:
                    yield waiting.popleft().result()
                waiting.append(asyncio.run_coroutine_threadsafe(gated(item), loop))
            while waiting:
                yield waiting.popleft().result()
        finally:
            asyncio.run_coroutine_threadsafe(_end(close), loop).result()


@contextlib.contextmanager
def _loop_in_thread() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    # A daemon: a process that ends waits for no reply.
    thread = threading.Thread(target=loop.run_forever, name="programs", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _end(close: Callable[[], Coroutine[Any, Any, None] | Awaitable[None]] | None) -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    if close is not None:
        await close()
    await asyncio.get_running_loop().shutdown_asyncgens()
