"""Programs from an OpenAI-compatible server (vLLM, llama.cpp, hosted APIs), one request a task.

Enters: tasks. Leaves: the choices of the server's reply, with log-probabilities where it sends them and None where
it does not. Nothing is retried: an error names the address and the status, and the collector keeps what came before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import httpx2 as httpx

from trl_pper.generation.source import GeneratedProgram
from trl_pper.task import CodingTask

if TYPE_CHECKING:
    from trl_pper.generation.local_model import LocalModel


class ServerSource:
    """Programs from `/completions` (text prompts) or `/chat/completions` (chat prompts).

    Args:
        base_url: Address up to the version, for instance `http://localhost:8000/v1`.
        model: The model's name on the server.
        num_programs: How many programs to ask for per task.
        max_completion_length: Longest completion, in tokens.
        temperature: Sampling temperature; ignored by servers that run beam search.
        extra_body: Further request fields, for instance `{"use_beam_search": True}` for vLLM.
        api_key: Sent as a bearer token.
        timeout_seconds: Longest wait for one reply.

    Raises:
        ValueError: `num_programs` or `max_completion_length` is below 1.

    Examples:
        >>> ServerSource("http://localhost:8000/v1", model="teacher", num_programs=3).num_programs
        3
    """

    uses_student = False

    def __init__(
        self,
        base_url: str,
        *,
        model: str,
        num_programs: int = 3,
        max_completion_length: int = 256,
        temperature: float = 0.8,
        extra_body: Mapping[str, Any] | None = None,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
    ) -> None:
        for name, value in {"num_programs": num_programs, "max_completion_length": max_completion_length}.items():
            if value < 1:
                raise ValueError(f"{name}: must be at least 1; got {value}")
        self.base_url = base_url.rstrip("/")
        self.model = model
        self.num_programs = num_programs
        self.max_completion_length = max_completion_length
        self.temperature = temperature
        self.extra_body = dict(extra_body or {})
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._timeout_seconds = timeout_seconds

    def identity(self, *, student: LocalModel | None = None) -> dict[str, Any]:
        """Return what is asked of which model; where the server runs plays no role."""
        return {
            "source": type(self).__name__,
            "model": self.model,
            "num_programs": self.num_programs,
            "max_completion_length": self.max_completion_length,
            "temperature": self.temperature,
            "extra_body": self.extra_body,
        }

    def generate(
        self, tasks: Sequence[CodingTask], *, student: LocalModel | None = None
    ) -> Iterator[list[GeneratedProgram]]:
        """Yield the server's programs for each task.

        Raises:
            ConnectionError: The server could not be reached or answered with an error status.
            ValueError: The reply is not an OpenAI-style completion.
        """
        with httpx.Client(headers=self._headers, timeout=self._timeout_seconds) as client:
            for task in tasks:
                yield [self._parse(choice) for choice in self._request(client, task)]

    def _request(self, client: httpx.Client, task: CodingTask) -> list[Mapping[str, Any]]:
        text = isinstance(task.prompt, str)
        url = f"{self.base_url}/{'completions' if text else 'chat/completions'}"
        body = {
            "model": self.model,
            "n": self.num_programs,
            "max_tokens": self.max_completion_length,
            "temperature": self.temperature,
            **({"prompt": task.prompt, "logprobs": 1} if text else {"messages": task.prompt, "logprobs": True}),
            **self.extra_body,
        }
        try:
            response = client.post(url, json=body)
        except httpx.HTTPError as error:
            raise ConnectionError(f"{url}: no reply for task {task.task_id!r} ({error})") from error
        if response.status_code != 200:
            detail = response.text[:300]
            raise ConnectionError(f"{url}: status {response.status_code} for task {task.task_id!r}: {detail}")
        choices = response.json().get("choices")
        if not isinstance(choices, list) or not choices:
            raise ValueError(f"{url}: the reply for task {task.task_id!r} holds no choices")
        return choices

    def _parse(self, choice: Mapping[str, Any]) -> GeneratedProgram:
        text = choice["text"] if "text" in choice else choice["message"]["content"]
        logprobs = choice.get("logprobs") or {}
        tokens = logprobs.get("token_logprobs") or [entry["logprob"] for entry in logprobs.get("content") or []]
        known = bool(tokens) and all(token is not None for token in tokens)
        return GeneratedProgram(
            completion=text or "",
            # Servers round: a sum just above zero is a probability of one.
            logprob=min(sum(tokens), 0.0) if known else None,
            num_tokens=len(tokens) if known else None,
            source=self.model,
        )
