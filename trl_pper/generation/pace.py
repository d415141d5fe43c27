"""When a request may be sent: a rate limit, pauses that the server asks for, and waits that double.

Enters: how often requests may be sent, and what the server says of waiting. Leaves: moments to wait for. All requests
of one source share a pace; it belongs to one event loop and is not for several threads.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import random
import time
from collections.abc import Awaitable, Callable

#: Waits double up to this, in seconds.
_LONGEST_BACKOFF_SECONDS = 60.0


class Pace:
    """What decides when the next request goes out.

    Args:
        requests_per_minute: Highest rate, evenly spaced; None for no limit.
        backoff_seconds: The wait before the first retry; each further one is twice as long, up to a minute.
        seed: Decides the jitter, so that the waits of two runs are the same.
        clock: The time in seconds.
        sleep: Waits.
    """

    def __init__(
        self,
        *,
        requests_per_minute: float | None = None,
        backoff_seconds: float = 1.0,
        seed: int = 0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.interval_seconds = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self.backoff_seconds = backoff_seconds
        self.seed = seed
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    async def turn(self) -> None:
        """Wait until a request may be sent."""
        # Whoever wakes first takes the moment; the others see that it is gone and wait for the next.
        while (wait := self._free_at - self._clock()) > 0:
            await self._sleep(wait)
        self._free_at = self._clock() + self.interval_seconds

    def hold(self, seconds: float) -> None:
        """Let no request go out for so long: the server asked for a pause."""
        self._free_at = max(self._free_at, self._clock() + seconds)

    async def back_off(self, name: str, retry: int) -> None:
        """Wait before a retry: between half of the doubled wait and all of it, so that requests spread out.

        Args:
            name: What is retried. The jitter depends on it and not on what else is under way.
            retry: Which retry, from 0.
        """
        longest = min(self.backoff_seconds * 2**retry, _LONGEST_BACKOFF_SECONDS)
        await self._sleep(longest * random.Random(f"{self.seed}/{name}/{retry}").uniform(0.5, 1.0))


def retry_after_seconds(header: str | None, *, now: datetime.datetime | None = None) -> float | None:
    """Return the wait that a `Retry-After` header asks for (RFC 9110, 10.2.3): seconds, or a date.

    Args:
        header: What the server sent.
        now: The time; that of the machine by default.

    Returns:
        Seconds, at least 0; None without a header, or where it says nothing that is understood.

    Examples:
        >>> retry_after_seconds("2")
        2.0
        >>> retry_after_seconds("soon") is None
        True
    """
    if header is None:
        return None
    try:
        # Decimals are outside the standard, and servers send them.
        seconds = float(header)
    except ValueError:
        try:
            date = email.utils.parsedate_to_datetime(header)
        except ValueError:
            return None
        if date.tzinfo is None:
            date = date.replace(tzinfo=datetime.UTC)
        seconds = (date - (now or datetime.datetime.now(datetime.UTC))).total_seconds()
    return max(seconds, 0.0) if abs(seconds) < float("inf") else None
