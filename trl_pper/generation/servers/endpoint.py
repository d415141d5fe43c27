"""Send requests to an OpenAI-compatible server with retries, a rate limit and the fields that it takes.

Errors that may be temporary (429, 5xx, a broken or refused connection, no reply in time) are retried; others (400,
401, 404) are raised at once. Errors name the address, the status and the task, and never contain the key.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import functools
import logging
import random
import re
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx2 as httpx

from trl_pper.generation.servers.replies import Usage

logger = logging.getLogger(__name__)

#: Longest pause that a server may ask for; a quota that returns tomorrow is an error, not a reason to hang.
_LONGEST_PAUSE_SECONDS = 600.0

_LATER = "Check that the server runs, and start again: with a journal only missing programs are requested"
_REMEDIES = {
    400: "The server rejects this request; change the option that it names, or remove a field by extra_body",
    401: "Pass the key as api_key, or name the environment variable that holds it as api_key_env",
    403: "Pass a key that may use this model",
    404: "Check base_url (the part before /completions; it mostly ends in /v1) and the name of the model",
    422: "The server rejects this request; change the option that it names, or remove a field by extra_body",
    429: f"Lower concurrency or requests_per_minute, or raise max_retries. {_LATER}",
}


class RequestFailed(ConnectionError):
    """An error that a request ended with, after its retries if it had any.

    Args:
        problem: What failed where, without the remedy.
        remedy: What to do about it.
        status: The HTTP status; None if there was no reply.
        detail: The text of the server's reply.
        may_pass: Whether the request may succeed later, or at another server.
    """

    def __init__(
        self, problem: str, remedy: str, *, status: int | None = None, detail: str = "", may_pass: bool = False
    ) -> None:
        super().__init__(f"{problem}. {remedy}")
        self.problem = problem
        self.remedy = remedy
        self.status = status
        self.detail = detail
        self.may_pass = may_pass


#: Largest number of stops that OpenAI's servers accept.
_FEW_STOPS = 4


class AcceptedFields:
    """The optional fields of a request that a server takes, as far as its errors have told.

    Args:
        address: The server's address, for warnings.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._refused: set[str] = set()
        self._most_stops: int | None = None

    def fit(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return a request without the fields and values that the server refuses."""
        taken = {name: value for name, value in body.items() if name == "n" or name not in self._refused}
        if "n" in self._refused:
            taken["n"] = 1
        if isinstance(taken.get("stop"), list):
            taken["stop"] = taken["stop"][: self._most_stops]
        return taken

    def learn(self, error: RequestFailed, body: Mapping[str, Any]) -> bool:
        """Note the field that an error is about; False if the request cannot do without it.

        Args:
            error: The server's error.
            body: The request that it answers.
        """
        field = _refused_field(error, body)
        if field is None:
            return False
        if field == "stop" and isinstance(body["stop"], list) and len(body["stop"]) > _FEW_STOPS:
            if self._most_stops is None:
                logger.warning("%s: requests have %d stops from now on: %s", self.address, _FEW_STOPS, error.detail)
            self._most_stops = _FEW_STOPS
            return True
        if field not in self._refused:
            logger.warning("%s: refuses the field %s, which is sent no more: %s", self.address, field, error.detail)
        # Without stops in the request completions only get longer: they are cut at the stops after they arrive.
        self._refused.add(field)
        return True


def _refused_field(error: RequestFailed, body: Mapping[str, Any]) -> str | None:
    """Return the optional field that the server refused, according to its message; None if it is another field."""
    if error.status not in (400, 422):
        return None
    if "logprobs" in body and "logprobs" in error.detail:
        return "logprobs"
    if "stop" in body and re.search(r"\bstop\b", error.detail):
        return "stop"
    # llama.cpp, in versions without `n`: "Only one completion choice is allowed".
    if body.get("n", 1) > 1 and re.search(r"\bn\b|completion choice", error.detail):
        return "n"
    return None


class Endpoint:
    """A client of a server, with a timeout and a number of retries.

    Args:
        base_url: Address up to the version.
        accepted: The fields that the server takes; requests add to it.
        api_key: Key, sent as a bearer token; it appears in no message.
        timeout_seconds: Longest wait for a whole reply.
        max_retries: How often a request is sent again.
        pace: The rate limit that requests wait for.
        count: Function called with the usage of each request.
    """

    def __init__(
        self,
        base_url: str,
        *,
        accepted: AcceptedFields,
        api_key: str | None,
        timeout_seconds: float,
        max_retries: int,
        pace: Pace,
        count: Callable[[Usage], None],
    ) -> None:
        self.base_url = base_url
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
        #: Number of requests that are sent, or wait to be sent.
        self.in_flight = 0
        #: The error for which the server is left out; its requests end with it before they are sent again.
        self.failure: RequestFailed | None = None
        self._accepted = accepted
        self._api_key = api_key
        self._pace = pace
        self._count = count
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        limits = httpx.Limits(max_connections=None)
        # `_send` limits the whole request: a timeout of the client would apply to each piece of a reply.
        self._client = httpx.AsyncClient(headers=headers, timeout=None, limits=limits, verify=_certificates())

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def post(self, path: str, body: Mapping[str, Any], *, task_id: str, resent: bool = False) -> dict[str, Any]:
        """Send a request until it is answered or retries run out, without the optional fields that the server refuses.

        Args:
            path: Path below the base address.
            body: The request, sent as JSON.
            task_id: The task, named in errors; it decides the jitter of the waits.
            resent: Whether another server was sent the request before.

        Returns:
            The JSON object of the reply.

        Raises:
            RequestFailed: The server answered with a permanent error; with a temporary error, or not at all, to the
                last retry too; or it asked for a pause above ten minutes.
            ValueError: The reply is no JSON object.
        """
        self.in_flight += 1
        try:
            while True:
                sent = self._accepted.fit(body)
                try:
                    return await self._post(f"{self.base_url}/{path}", sent, task_id=task_id, resent=resent)
                except RequestFailed as error:
                    if not self._accepted.learn(error, sent):
                        raise
        finally:
            self.in_flight -= 1

    async def _post(self, url: str, body: Mapping[str, Any], *, task_id: str, resent: bool) -> dict[str, Any]:
        for retry in range(self.max_retries + 1):
            await self._pace.turn()
            if self.failure is not None:
                raise self.failure
            self._count(Usage(requests=1, retries=int(resent or retry > 0)))
            response, problem = await self._send(url, body)
            if response is not None and response.status_code == 200:
                return self._json_object(response, url, task_id)
            where = f"{url}: {problem} for task {task_id!r}"
            pause = None if response is None else retry_after_seconds(response.headers.get("Retry-After"))
            may_pass = response is None or _may_pass(response.status_code)
            if not may_pass or retry == self.max_retries or (pause or 0.0) > _LONGEST_PAUSE_SECONDS:
                break
            logger.info("%s; retry %d of %d", where, retry + 1, self.max_retries)
            # The server's pause holds for all of its requests: without it the others would be refused, too.
            if pause is not None:
                self._pace.hold(pause)
            await self._pace.back_off(task_id, retry)
        tries = f" (sent {retry + 1} times)" if retry else ""
        if response is None:
            remedy = f"Raise timeout_seconds if replies take longer. {_LATER}"
            raise RequestFailed(f"{where}{tries}", remedy, may_pass=True)
        detail = self.without_key(response.text)[:500]
        waits = f"; it asks to wait {pause:.0f} s" if pause else ""
        raise RequestFailed(
            f"{where}{tries}: {detail}{waits}",
            _REMEDIES.get(response.status_code, _LATER),
            status=response.status_code,
            detail=detail,
            may_pass=may_pass,
        )

    async def _send(self, url: str, body: Mapping[str, Any]) -> tuple[httpx.Response | None, str]:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._client.post(url, json=body)
        except TimeoutError:
            return None, f"no reply within {self.timeout_seconds:g} s"
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            # The request itself is invalid, so that a retry would fail in the same way.
            problem = f"{url}: the request cannot be sent ({self.without_key(str(error))})"
            raise RequestFailed(problem, "Check base_url and the key") from None
        except (httpx.TransportError, httpx.DecodingError) as error:
            return None, f"no reply ({type(error).__name__}: {self.without_key(str(error))})"
        return response, f"status {response.status_code}"

    def _json_object(self, response: httpx.Response, url: str, task_id: str) -> dict[str, Any]:
        try:
            reply = response.json()
        except ValueError:
            reply = None
        if not isinstance(reply, dict):
            raise ValueError(
                f"{url}: the reply for task {task_id!r} is not a JSON object; got "
                f"{self.without_key(response.text)[:100]!r}. Check base_url: something other than an "
                "OpenAI-compatible server may answer there"
            )
        return reply

    def without_key(self, text: str) -> str:
        """Return a server's text with the key replaced."""
        # Some servers repeat the key in their error messages.
        return text.replace(self._api_key, "[key]") if self._api_key else text


@functools.cache
def _certificates() -> ssl.SSLContext:
    """Return the certificates that servers are verified with."""
    # Loading them takes a tenth of a second, and every `Endpoint` needs them.
    return httpx.create_ssl_context()


def _may_pass(status: int) -> bool:
    # 408: the server timed out while it waited for the request. 501: it does not implement the request at all.
    return status in (408, 429) or (status >= 500 and status != 501)


#: Longest wait before a retry.
_LONGEST_BACKOFF_SECONDS = 60.0


class Pace:
    """A rate limit with pauses and waits before retries, shared by all requests to a server.

    It belongs to a single event loop and is not thread-safe.

    Args:
        requests_per_minute: Highest rate, evenly spaced; None for no limit.
        backoff_seconds: Wait before the first retry; it doubles with each further retry, up to a minute.
        seed: Seed of the jitter; the waits of two runs are the same.
        clock: Function that returns the time in seconds.
        sleep: Coroutine function that waits for a number of seconds.
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
        # Several requests may wake at the same moment: the first takes it, and the others wait for the next.
        while (wait := self._free_at - self._clock()) > 0:
            await self._sleep(wait)
        self._free_at = self._clock() + self.interval_seconds

    def hold(self, seconds: float) -> None:
        """Send no request for a number of seconds, since the server asked for a pause."""
        self._free_at = max(self._free_at, self._clock() + seconds)

    async def back_off(self, name: str, retry: int) -> None:
        """Wait before a retry, for 50 to 100 % of `backoff_seconds * 2**retry`, up to a minute.

        Args:
            name: The task of the request.
            retry: Number of the retry, from 0.
        """
        longest = min(self.backoff_seconds * 2**retry, _LONGEST_BACKOFF_SECONDS)
        # Jitter spreads requests that failed together. A generator for each name and retry makes a wait independent of
        # the other requests under way.
        await self._sleep(longest * random.Random(f"{self.seed}/{name}/{retry}").uniform(0.5, 1.0))


def retry_after_seconds(header: str | None, *, now: datetime.datetime | None = None) -> float | None:
    """Return the wait that a `Retry-After` header asks for, in seconds or by a date (RFC 9110, section 10.2.3).

    Args:
        header: The value of the header.
        now: The present time; by default the time of the machine.

    Returns:
        Seconds, at least 0; None without a header, or if it holds neither a number nor a date.

    Examples:
        >>> retry_after_seconds("2")
        2.0
        >>> retry_after_seconds("soon") is None
        True
    """
    if header is None:
        return None
    try:
        # The standard has whole seconds only, but servers send decimals.
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
