"""A server that fails: what is tried again, what is not, and what the error says."""

import re
import time

import pytest

from tests.support.openai_server import Fault, source_of
from trl_pper import ServerSource


@pytest.mark.parametrize(
    "fault",
    [Fault(status=429), Fault(status=408), Fault(status=500), Fault(status=503), Fault(cut=True)],
    ids=["429", "408", "500", "503", "cut"],
)
def test_what_may_pass_is_tried_again(server, tasks, fault):
    unharmed = list(source_of(server).generate(tasks))
    server.asked.clear()
    server.faults[tasks[1].prompt] = [fault, fault]
    source = source_of(server)
    assert list(source.generate(tasks)) == unharmed
    assert sorted(server.prompts()) == sorted(
        [tasks[0].prompt, *[tasks[1].prompt] * 3, tasks[2].prompt, tasks[3].prompt]
    )
    assert (source.usage.requests, source.usage.retries, source.usage.programs) == (6, 2, 8)


def test_a_reply_that_comes_too_late_is_asked_for_again(server, tasks):
    server.faults[tasks[0].prompt] = [Fault(late_seconds=60.0)]
    source = source_of(server, timeout_seconds=1.0)
    assert len(*source.generate(tasks[:1])) == 2
    while server.at_work > 1:
        time.sleep(0.01)
    # The server is still at the late reply, for which nobody waited.
    assert server.at_work == 1
    assert source.usage.retries == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
def test_what_will_not_pass_is_an_error_at_once(server, tasks, status):
    server.faults[tasks[0].prompt] = [Fault(status=status)]
    with pytest.raises(ConnectionError, match=rf"completions: status {status} for task 'add-1': .*injected.*\. [A-Z]"):
        list(source_of(server, concurrency=1).generate(tasks))
    assert len(server.asked) == 1


def test_the_last_error_names_address_status_task_and_what_to_do(server, tasks):
    server.faults[tasks[2].prompt] = [Fault(status=429)] * 9
    programs = source_of(server, max_retries=2).generate(tasks)
    assert [len(next(programs)) for _ in range(2)] == [2, 2]
    with pytest.raises(ConnectionError) as caught:
        next(programs)
    assert re.fullmatch(
        rf"{server.address}/completions: status 429 for task 'add-3' \(sent 3 times\): .*injected.*"
        r"Lower concurrency or requests_per_minute, or raise max_retries\..*start again.*",
        str(caught.value),
    )
    assert server.prompts().count(tasks[2].prompt) == 3


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1:9/v1", r"no reply \(ConnectError: .*\) for task 'add-1' \(sent 2 times\)\."),
        ("http://127.0.0.1:{port}", r"status 404 for task 'add-1'.*Check base_url"),
    ],
)
def test_a_wrong_address_is_an_error_that_names_it(server, tasks, address, said):
    address = address.format(port=server.server_port)
    source = ServerSource(address, model="m", max_retries=1, backoff_seconds=0.001)
    with pytest.raises(ConnectionError, match=rf"^{address}/completions: {said}"):
        next(source.generate(tasks))


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (b"<html>", "is not a JSON object; got '<html>'. Check base_url"),
        (b"[]", "is not a JSON object"),
        ({"error": "no such model"}, "holds no list of choices; got .*no such model"),
        ({"choices": [{"index": 0}]}, "holds a choice without text or message"),
        ({"choices": ["x"]}, "holds a choice without text or message"),
        ({"choices": [{"message": {"content": 3}}]}, "holds content that is neither text nor a list of parts; got 3"),
        ({"choices": [{"message": {"content": ["x"]}}]}, "holds content that is neither text nor a list of parts"),
        ({"choices": [{"message": {"content": [{"type": "text"}]}}]}, "holds content that is neither text nor a list"),
    ],
)
def test_a_reply_of_another_kind_is_an_error(server, tasks, reply, said):
    server.edit = lambda _: reply
    with pytest.raises(ValueError, match=rf"the reply for task 'add-1' {said}"):
        next(source_of(server).generate(tasks))
    assert server.prompts().count(tasks[0].prompt) == 1


def test_a_pause_the_server_asks_for_is_waited_for(server, tasks):
    server.faults[tasks[0].prompt] = [Fault(status=429, headers={"Retry-After": "0.4"})]
    started = time.monotonic()
    list(source_of(server).generate(tasks[:1]))
    assert time.monotonic() - started >= 0.4


def test_a_pause_of_hours_is_an_error_that_says_so(server, tasks):
    server.faults[tasks[0].prompt] = [Fault(status=429, headers={"Retry-After": "7200"})]
    with pytest.raises(ConnectionError, match=r"status 429 .*; it asks to wait 7200 s"):
        next(source_of(server).generate(tasks))


def test_the_rate_limit_spaces_requests_out(server, tasks):
    started = time.monotonic()
    list(source_of(server, requests_per_minute=600).generate(tasks))
    assert time.monotonic() - started >= 0.3
