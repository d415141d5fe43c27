"""Send requests to an OpenAI-compatible server with retries and a rate limit, and read its replies.

Errors that may be temporary (429, 5xx, a broken or refused connection, no reply in time) are retried; others (400,
401, 404) are raised at once. Errors name the address, the status and the task, and never contain the key.
"""

from __future__ import annotations

import asyncio
import datetime
import email.utils
import functools
import logging
import math
import random
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import httpx2 as httpx

from trl_pper.generation.source import GeneratedProgram
from trl_pper.generation.stops import first_stop, goes_on_with, kept_before, token_ends

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


class RequestRefused(ConnectionError):
    """An error status that the server answered with.

    Args:
        message: The message of the exception.
        status: The HTTP status.
        detail: The text of the server's reply.
    """

    def __init__(self, message: str, *, status: int, detail: str) -> None:
        super().__init__(message)
        self.status = status
        self.detail = detail


class Endpoint:
    """A client of a server, with a timeout and a number of retries.

    Args:
        base_url: Address up to the version.
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
        api_key: str | None,
        timeout_seconds: float,
        max_retries: int,
        pace: Pace,
        count: Callable[[Usage], None],
    ) -> None:
        self.base_url = base_url
        self.timeout_seconds = timeout_seconds
        self.max_retries = max_retries
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

    async def post(self, path: str, body: Mapping[str, Any], *, task_id: str) -> dict[str, Any]:
        """Send a request until it is answered or retries run out.

        Args:
            path: Path below the base address.
            body: The request, sent as JSON.
            task_id: The task, named in errors; it decides the jitter of the waits.

        Returns:
            The JSON object of the reply.

        Raises:
            RequestRefused: The server answered with a permanent error, with a temporary error to the last retry too,
                or it asked for a pause above ten minutes.
            ConnectionError: The server did not answer the last retry either.
            ValueError: The reply is no JSON object.
        """
        url = f"{self.base_url}/{path}"
        for retry in range(self.max_retries + 1):
            await self._pace.turn()
            self._count(Usage(requests=1, retries=int(retry > 0)))
            response, problem = await self._send(url, body)
            if response is not None and response.status_code == 200:
                return self._json_object(response, url, task_id)
            where = f"{url}: {problem} for task {task_id!r}"
            pause = None if response is None else retry_after_seconds(response.headers.get("Retry-After"))
            hopeless = response is not None and not _may_pass(response.status_code)
            if hopeless or retry == self.max_retries or (pause or 0.0) > _LONGEST_PAUSE_SECONDS:
                break
            logger.info("%s; retry %d of %d", where, retry + 1, self.max_retries)
            # The server's pause holds for all requests: without it the others would be refused, too.
            if pause is not None:
                self._pace.hold(pause)
            await self._pace.back_off(task_id, retry)
        sent = f" (sent {retry + 1} times)" if retry else ""
        if response is None:
            raise ConnectionError(f"{where}{sent}. Raise timeout_seconds if replies take longer. {_LATER}")
        detail = self.without_key(response.text)[:500]
        waits = f"; it asks to wait {pause:.0f} s" if pause else ""
        remedy = _REMEDIES.get(response.status_code, _LATER)
        raise RequestRefused(f"{where}{sent}: {detail}{waits}. {remedy}", status=response.status_code, detail=detail)

    async def _send(self, url: str, body: Mapping[str, Any]) -> tuple[httpx.Response | None, str]:
        try:
            async with asyncio.timeout(self.timeout_seconds):
                response = await self._client.post(url, json=body)
        except TimeoutError:
            return None, f"no reply within {self.timeout_seconds:g} s"
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError) as error:
            # The request itself is invalid, so that a retry would fail in the same way.
            raise ConnectionError(f"{url}: the request cannot be sent ({self.without_key(str(error))})") from None
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
    """A rate limit with pauses and waits before retries, shared by all requests of a source.

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


#: Servers send this number for a token whose log-probability they do not know.
_UNKNOWN_LOGPROB = -9999.0
#: Servers round: the log-probability of a token with probability 1 may be slightly above 0.
_ROUNDING = 1e-3


def read_choices(reply: Mapping[str, Any], *, most: int) -> list[Mapping[str, Any]]:
    """Return the choices of a reply, an empty list if it has none.

    Args:
        reply: The JSON object.
        most: Number of choices requested; further choices are ignored.

    Raises:
        ValueError: The reply has no list of choices, or a choice has no text.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list):
        raise ValueError(f"holds no list of choices; got {str(dict(reply))[:200]}")
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not (isinstance(message, dict) or (isinstance(choice, dict) and isinstance(choice.get("text"), str))):
            raise ValueError(f"holds a choice without text or message; got {str(choice)[:200]}")
    return choices[:most]


def read_program(
    choice: Mapping[str, Any], *, source: str, stops: Sequence[str] = (), settings: str = ""
) -> GeneratedProgram:
    """Return the program of a choice, cut before the first stop.

    Args:
        choice: A choice that `read_choices` returned.
        source: The name of the model that wrote it.
        stops: Texts at which a completion ends; the server need not have stopped there.
        settings: How it was generated, for the record.
    """
    message = choice.get("message") or {}
    text = choice["text"] if isinstance(choice.get("text"), str) else message.get("content")
    # Reasoning is no part of the text, but the log-probabilities may cover its tokens.
    reasons = bool(message.get("reasoning_content") or message.get("reasoning"))
    said = choice.get("logprobs")
    logprobs = None if reasons or text is None else _token_logprobs(said)
    text = text or ""
    cut = first_stop(text, stops)
    if cut is None and goes_on_with(text, said, stops):
        cut = len(text)
    if cut is not None:
        ends = token_ends(text, said)
        kept = kept_before(text, cut, ends if logprobs and ends and len(ends) == len(logprobs) else None)
        # An empty completion has no log-probability.
        text, logprobs = kept.text, logprobs[: kept.num_tokens] if logprobs and kept.num_tokens else None
    # Servers of vLLM name the stop that ended a completion; others say "stop" for an end token, too.
    stopped = cut is not None or isinstance(choice.get("stop_reason"), str)
    ended = "length" if choice.get("finish_reason") == "length" else ""
    return GeneratedProgram(
        completion=text,
        logprob=None if logprobs is None else math.fsum(logprobs),
        num_tokens=None if logprobs is None else len(logprobs),
        source=source,
        scorer="" if logprobs is None else source,
        settings=settings,
        finish_reason="stop" if stopped else ended,
    )


def read_usage(reply: Mapping[str, Any], choices: list[Mapping[str, Any]]) -> Usage:
    """Return the usage that a reply reports: its tokens, and how many of its programs reached the longest length."""
    said = reply.get("usage")
    counts = [said.get(name) for name in ("prompt_tokens", "completion_tokens")] if isinstance(said, dict) else []
    known = [count for count in counts if isinstance(count, int)]
    prompt, completion = known if len(known) == 2 else (0, 0)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        uncounted=int(len(known) != 2),
        programs=len(choices),
        cut_off=sum(choice.get("finish_reason") == "length" for choice in choices),
    )


def _token_logprobs(said: Any) -> list[float] | None:
    """Return the log-probability of each token, in nats; None unless the reply has all of them."""
    if not isinstance(said, dict):
        return None
    # Completions have `tokens` and `token_logprobs`, chats have `content`.
    tokens = said.get("tokens")
    values = said.get("token_logprobs")
    if values is None:
        entries = said.get("content")
        values = [e.get("logprob") if isinstance(e, dict) else None for e in entries] if entries else None
    if not isinstance(values, list) or not values or (isinstance(tokens, list) and len(tokens) != len(values)):
        return None
    if not all(_is_logprob(value) for value in values):
        return None
    return [min(value, 0.0) for value in values]


def _is_logprob(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value) and _UNKNOWN_LOGPROB < value <= _ROUNDING


@dataclass(frozen=True, kw_only=True)
class Usage:
    """A record of requests and tokens; usages can be added.

    Args:
        requests: Requests sent, including retries.
        retries: Requests sent again after an error.
        prompt_tokens: Tokens of the prompts, as the server counts them.
        completion_tokens: Tokens of the completions, as the server counts them.
        programs: Programs received.
        cut_off: Programs that ended at the longest length (`finish_reason` "length") before the model had finished.
        missing: Programs requested that the server did not send.
        uncounted: Replies without token counts; if there are any, the sums of tokens are lower bounds.

    Examples:
        >>> (Usage(requests=1, prompt_tokens=3) + Usage(requests=2)).describe()
        '3 requests (0 retries), 3 prompt and 0 completion tokens'
        >>> Usage(prompt_tokens=2_000_000, completion_tokens=500_000).cost(0.15, 0.6)
        0.6
    """

    requests: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    programs: int = 0
    cut_off: int = 0
    missing: int = 0
    uncounted: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{one.name: getattr(self, one.name) + getattr(other, one.name) for one in fields(self)})

    def cost(self, prompt_price: float, completion_price: float) -> float:
        """Return the cost of the tokens, in the currency of the prices.

        Args:
            prompt_price: Price of a million prompt tokens.
            completion_price: Price of a million completion tokens.
        """
        return (self.prompt_tokens * prompt_price + self.completion_tokens * completion_price) / 1e6

    def describe(self, prompt_price: float | None = None, completion_price: float | None = None) -> str:
        """Return a readable line, with the cost if a price is given."""
        least = "at least " if self.uncounted else ""
        line = (
            f"{self.requests} requests ({self.retries} retries), {least}{self.prompt_tokens} prompt and "
            f"{self.completion_tokens} completion tokens"
        )
        if prompt_price is not None or completion_price is not None:
            line += f", cost {least}{self.cost(prompt_price or 0.0, completion_price or 0.0):.4f}"
        if self.cut_off:
            line += f"; {self.cut_off} of {self.programs} programs cut off at the longest length"
        if self.missing:
            line += f"; {self.missing} programs not sent"
        return line
