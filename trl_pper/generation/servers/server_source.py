"""Request programs from OpenAI-compatible servers (vLLM, llama.cpp, hosted APIs), for several tasks at once.

Programs have log-probabilities if the server sends them. The source stores nothing: a collector with a journal keeps
the programs received before an error, and requests the rest when it is started again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

import httpx2 as httpx

from trl_pper.generation.servers.endpoint import AcceptedFields, Endpoint, Pace
from trl_pper.generation.servers.pool import EndpointPool
from trl_pper.generation.servers.replies import Usage, read_choices, read_program, read_usage
from trl_pper.generation.source import (
    GeneratedProgram,
    ProgramSource,
    check_above_zero,
    check_at_least_one,
    check_not_negative,
    settings_json,
    tell_written,
)
from trl_pper.tasks.task import CodingTask, checked_stop

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


logger = logging.getLogger(__name__)


class ServerSource(ProgramSource):
    """A source of programs that asks OpenAI-compatible servers of one model.

    Text prompts go to `/completions`, chat messages to `/chat/completions`. Each request goes to the server with the
    fewest requests in flight. A server that fails after all retries is left out for the rest of a generation.

    Args:
        base_url: Address up to the version, for instance `http://localhost:8000/v1`, or the addresses of several
            servers that serve the same model.
        model: The model's name on the servers.
        num_programs: Number of programs per task. If the server sends fewer, the rest is requested again.
        max_completion_length: Longest completion, in tokens.
        temperature: Sampling temperature; ignored by servers that run beam search.
        top_p: Probability mass to sample from (nucleus sampling); None for the server's default.
        stop: Texts that end a completion. The stops of the task apply as well, except with `chat`.
        seed: Seed sent with each request, for servers that can repeat a sample; such a server writes the same programs
            in each round. The seed also decides the jitter of waits.
        chat: Whether to send a text prompt to `/chat/completions` as a user's message; most hosted models accept chat
            messages only.
        extra_body: Further request fields, for instance `{"use_beam_search": True}` for vLLM. A field with the value
            None is removed from the request. Put no secrets here: the fields are stored with each program.
        api_key: Key, sent as a bearer token.
        api_key_env: Name of the environment variable that holds the key, so that the key is in no file.
        concurrency: Number of tasks to request programs for at the same time, of all servers together.
        requests_per_minute: Highest rate of requests to each server, including retries; None for no limit.
        max_retries: How often a request is sent again after 429, 5xx, a broken connection or no reply in time.
        backoff_seconds: Wait before the first retry; it doubles with each further retry, with jitter. A longer wait
            that the server asks for by `Retry-After` is respected.
        timeout_seconds: Longest wait for a whole reply.

    Raises:
        ValueError: A count is below 1, a number is negative, an address or the key is invalid, there is no address or
            the same twice, or both `api_key` and `api_key_env` are given.

    Examples:
        >>> ServerSource("http://localhost:8000/v1", model="teacher", num_programs=3, concurrency=8)
        ServerSource('http://localhost:8000/v1', model='teacher')
        >>> ServerSource(["http://localhost:8000/v1", "http://localhost:8001/v1"], model="teacher")
        ServerSource(['http://localhost:8000/v1', 'http://localhost:8001/v1'], model='teacher')
    """

    uses_student = False

    def __init__(
        self,
        base_url: str | Sequence[str],
        *,
        model: str,
        num_programs: int = 3,
        max_completion_length: int = 256,
        temperature: float = 0.8,
        top_p: float | None = None,
        stop: Sequence[str] = (),
        seed: int | None = None,
        chat: bool = False,
        extra_body: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        api_key_env: str | None = None,
        concurrency: int = 8,
        requests_per_minute: float | None = None,
        max_retries: int = 5,
        backoff_seconds: float = 1.0,
        timeout_seconds: float = 600.0,
    ) -> None:
        check_at_least_one(
            num_programs=num_programs, max_completion_length=max_completion_length, concurrency=concurrency
        )
        check_above_zero(requests_per_minute=requests_per_minute, timeout_seconds=timeout_seconds)
        check_not_negative(max_retries=max_retries, backoff_seconds=backoff_seconds, temperature=temperature)
        self.addresses = _checked_addresses(base_url)
        self.model = model
        self.num_programs = num_programs
        self.max_completion_length = max_completion_length
        self.temperature = temperature
        self.top_p = top_p
        self.stop = checked_stop(stop)
        self.seed = seed
        self.chat = chat
        self.extra_body = dict(extra_body or {})
        self.concurrency = concurrency
        self.requests_per_minute = requests_per_minute
        self.max_retries = max_retries
        self.backoff_seconds = backoff_seconds
        self.timeout_seconds = timeout_seconds
        self._api_key = _checked_key(api_key, api_key_env)
        self._usage, self._usage_lock = Usage(), threading.Lock()
        # Kept from one generation to the next: asking for a refused field again costs a request.
        self._accepted = [AcceptedFields(address) for address in self.addresses]

    def __repr__(self) -> str:
        given = self.addresses[0] if len(self.addresses) == 1 else list(self.addresses)
        return f"{type(self).__name__}({given!r}, model={self.model!r})"

    @property
    def usage(self) -> Usage:
        """The sum over all requests until now."""
        return self._usage

    @property
    def settings(self) -> dict[str, Any]:
        """The options that decide which programs are requested, as plain values."""
        # Addresses, key and rate do not change the programs. A server may move between two runs, or get company.
        return {
            "method": "server",
            "model": self.model,
            "num_programs": self.num_programs,
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": list(self.stop),
            "seed": self.seed,
            "chat": self.chat,
            "extra_body": self.extra_body,
        }

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return everything that is known to decide the programs: the settings."""
        return self.settings

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the servers' programs for each task, in order, while programs for further tasks are requested.

        A task without any program gets an empty list and a warning.

        Args:
            tasks: The tasks to write programs for.
            student: Unused.

        Raises:
            ConnectionError: A server answered with an error that will not pass, or the last server could not be
                reached, or answered with an error, after all retries.
            ValueError: A reply is not an OpenAI-style completion.
        """
        pool = EndpointPool([self._endpoint(accepted) for accepted in self._accepted])

        async def write(task: CodingTask) -> list[GeneratedProgram]:
            return await self._write(pool, task)

        yield from in_order(tasks, write, concurrency=self.concurrency, close=pool.close)

    def _endpoint(self, accepted: AcceptedFields) -> Endpoint:
        pace = Pace(
            requests_per_minute=self.requests_per_minute,
            backoff_seconds=self.backoff_seconds,
            seed=self.seed or 0,
        )
        return Endpoint(
            accepted.address,
            accepted=accepted,
            api_key=self._api_key,
            timeout_seconds=self.timeout_seconds,
            max_retries=self.max_retries,
            pace=pace,
            count=self._count,
        )

    async def _write(self, pool: EndpointPool, task: CodingTask) -> list[GeneratedProgram]:
        programs: list[GeneratedProgram] = []
        settings = settings_json(self.settings)
        stops = self._stops(task)
        path = "chat/completions" if self.chat or not isinstance(task.prompt, str) else "completions"
        # Enough requests for a server that sends a single program each time; the limit ends the loop with a server
        # that sends nothing.
        for _ in range(self.num_programs):
            missing = self.num_programs - len(programs)
            body = self._body(task, missing, place=len(programs))
            endpoint, reply = await pool.post(path, body, task_id=task.task_id)
            try:
                choices = read_choices(reply, most=missing)
            except ValueError as error:
                said = endpoint.without_key(str(error))
                raise ValueError(f"{endpoint.base_url}: the reply for task {task.task_id!r} {said}") from None
            self._count(read_usage(reply, choices))
            programs += [read_program(choice, source=self.model, stops=stops, settings=settings) for choice in choices]
            tell_written(len(choices) / self.num_programs)
            if len(programs) == self.num_programs:
                return programs
        self._count(Usage(missing=self.num_programs - len(programs)))
        sent = f"sent {len(programs)} of {self.num_programs} programs for task {task.task_id!r}"
        logger.warning("%s: %s", endpoint.base_url, sent)
        return programs

    def _stops(self, task: CodingTask) -> list[str]:
        # A task's stops are for a prompt that is continued as text; the answer to a message may begin with a stop.
        answers = self.chat and isinstance(task.prompt, str)
        return list(dict.fromkeys([*self.stop, *(() if answers else task.stop)]))

    def _body(self, task: CodingTask, wanted: int, *, place: int) -> dict[str, Any]:
        """Return the body of a request for `wanted` programs of a task that has `place` programs already."""
        if not isinstance(task.prompt, str):
            asked: dict[str, Any] = {"messages": task.prompt, "logprobs": True}
        elif self.chat:
            asked = {"messages": [{"role": "user", "content": task.prompt}], "logprobs": True}
        else:
            asked = {"prompt": task.prompt, "logprobs": 1}
        asked |= {
            "model": self.model,
            "n": wanted,
            "max_tokens": self.max_completion_length,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "stop": self._stops(task) or None,
            # With the same seed a second request for the task would bring the same programs.
            "seed": None if self.seed is None else self.seed + place,
            **self.extra_body,
        }
        return {name: value for name, value in asked.items() if value is not None}

    def _count(self, more: Usage) -> None:
        # Several `generate` may run at once, each with an event loop in a thread of its own.
        with self._usage_lock:
            self._usage += more


def _checked_addresses(base_url: str | Sequence[str]) -> tuple[str, ...]:
    given = [base_url] if isinstance(base_url, str) else base_url
    # Not every iterable: the addresses of a set have no order.
    if not isinstance(given, list | tuple) or not all(isinstance(address, str) for address in given):
        raise ValueError(f"base_url: an address or a list of addresses is required; got {type(base_url).__name__}")
    if not given:
        raise ValueError("base_url: at least one address is required; got an empty list")
    addresses = tuple(map(_checked_address, given))
    for place, address in enumerate(addresses):
        # Equal in another spelling too: httpx writes hosts in lower case, and leaves the usual ports out.
        if httpx.URL(address) in map(httpx.URL, addresses[:place]):
            raise ValueError(f"base_url: every address must be another; got {address!r} twice. Leave one out")
    return addresses


def _checked_address(base_url: str) -> str:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url: an address such as http://localhost:8000/v1 is required ({error})") from None
    if url.userinfo or url.query:
        # The address may contain a secret, which must not appear in errors and logs.
        raise ValueError("base_url: must hold no user, password or query; pass a key as api_key or api_key_env")
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(f"base_url: an address such as http://localhost:8000/v1 is required; got {base_url!r}")
    return base_url.rstrip("/")


def _checked_key(api_key: str | None, api_key_env: str | None) -> str | None:
    if api_key is not None and api_key_env is not None:
        raise ValueError("api_key, api_key_env: must not be given together; pass the key or the name of its variable")
    name = "api_key" if api_key_env is None else f"api_key_env: {api_key_env}"
    if api_key_env is not None:
        api_key = os.environ.get(api_key_env)
        if not api_key:
            raise ValueError(f"{name}: this environment variable is not set; export it, or leave api_key_env out")
    if api_key is None:
        return None
    # Files and shells leave a line break at the end.
    key = api_key.strip()
    if not key or not all("!" <= character <= "~" for character in key):
        raise ValueError(f"{name}: printable ASCII without spaces is required; the key is not shown here")
    return key


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    items: Iterable[Item],
    work: Callable[[Item], Awaitable[Result]],
    *,
    concurrency: int,
    close: Callable[[], Awaitable[None]] | None = None,
) -> Iterator[Result]:
    """Run coroutines concurrently, and yield their results in the order of the items.

    The coroutines run in a thread, so that they go on while the caller uses a result. Closing the iterator early
    cancels them.

    Args:
        items: The items to work on.
        work: Coroutine function that is called with an item, in the event loop.
        concurrency: Number of coroutines that run at once. At most as many finished results wait to be yielded.
        close: Coroutine function that is called in the event loop at the end.

    Raises:
        Exception: An error of `work`, after the results of earlier items; later work is cancelled.
    """
    with _loop_in_thread() as loop:
        gate, failed = asyncio.Semaphore(concurrency), asyncio.Event()

        async def gated(item: Item) -> Result:
            async with gate:
                if failed.is_set():
                    # The consumer has not met the error of the earlier item yet: start nothing more.
                    raise asyncio.CancelledError
                try:
                    return await work(item)
                except Exception:
                    failed.set()
                    raise

        waiting: deque[Future[Result]] = deque()
        try:
            for item in items:
                # A slow first item must not let results of any number of later items pile up.
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
    # A daemon, so that a process can end without waiting for replies.
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
