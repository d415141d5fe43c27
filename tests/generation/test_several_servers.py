"""Several servers of one model: who is asked, who is left out, and what holds for each of them alone."""

import logging
import re
import time

import pytest

from tests.support.openai_server import Fault, source_of
from trl_pper import CodingTask, ServerSource

#: Nothing listens on the port "discard".
DEAD = "http://127.0.0.1:9/v1"


@pytest.fixture
def many(tasks):
    """Return 24 tasks of different prompts."""
    return [CodingTask(task_id=f"t{n}", prompt=f"{n}\n{tasks[0].prompt}", tests=tasks[0].tests) for n in range(24)]


def warnings(caplog):
    return [record.message for record in caplog.records if record.levelno == logging.WARNING]


def with_dead(*addresses, **options):
    defaults = {"num_programs": 2, "max_completion_length": 4, "backoff_seconds": 0.001, "seed": 0, "max_retries": 1}
    return ServerSource(addresses, model="tiny", **{**defaults, **options})


def test_the_faster_server_gets_more_of_the_tasks(servers, many):
    slow, fast = servers
    alone = list(source_of(fast).generate(many))
    fast.asked.clear()
    slow.late_seconds = 0.3
    source = source_of(slow, fast, concurrency=4)
    assert list(source.generate(many)) == alone
    assert 2 <= len(slow.asked) < len(fast.asked) / 2
    assert len(slow.asked) + len(fast.asked) == len(many)


def test_equally_busy_servers_are_asked_in_their_order(servers, many):
    first, second = servers
    for server in servers:
        server.late_seconds = 0.1
    list(source_of(first, second, concurrency=4).generate(many[:4]))
    assert (len(first.asked), len(second.asked)) == (2, 2)
    list(source_of(first, second, concurrency=1).generate(many[4:7]))
    assert (len(first.asked), len(second.asked)) == (5, 2)


def test_concurrency_counts_the_tasks_of_all_servers(servers, many):
    for server in servers:
        server.late_seconds = 0.3
    started = time.monotonic()
    list(source_of(*servers, concurrency=2).generate(many[:4]))
    assert time.monotonic() - started >= 0.6


def test_one_address_or_a_list_of_it_is_the_same(server, tasks):
    one, listed = (ServerSource(given, model="tiny") for given in (server.address, [f"{server.address}/"]))
    assert (one.addresses, repr(one)) == (listed.addresses, repr(listed))
    assert repr(one) == f"ServerSource({server.address!r}, model='tiny')"


def test_addresses_decide_no_programs_and_show_in_the_repr():
    one, two = ServerSource("http://a/v1", model="m"), ServerSource(["http://a/v1", "http://b/v1"], model="m")
    assert one.identity() == two.identity()
    assert "http" not in str(two.settings)
    assert repr(two) == "ServerSource(['http://a/v1', 'http://b/v1'], model='m')"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "at least one address is required; got an empty list"),
        (["http://a/v1", "http://b/v1", "http://a/v1/"], "every address must be another; got 'http://a/v1' twice"),
        (["http://a/v1", "http://A:80/v1"], "every address must be another; got 'http://A:80/v1' twice"),
        (["http://a/v1", "a/v1"], "an address such as http://localhost:8000/v1 is required; got 'a/v1'"),
        (["http://a/v1", None], "an address or a list of addresses is required; got list"),
        (None, "an address or a list of addresses is required; got NoneType"),
        ({"http://a/v1"}, "an address or a list of addresses is required; got set"),
    ],
)
def test_every_address_is_checked_at_the_door(given, said):
    with pytest.raises(ValueError, match=f"^base_url: {re.escape(said)}"):
        ServerSource(given, model="m")


@pytest.mark.parametrize("place", [0, 1])
def test_a_server_dead_from_the_start_is_left_out(server, many, caplog, place):
    alone = list(source_of(server).generate(many))
    addresses = [server.address]
    addresses.insert(place, DEAD)
    source = with_dead(*addresses, concurrency=4)
    assert list(source.generate(many)) == alone
    (warning,) = warnings(caplog)
    assert warning.startswith(
        f"{DEAD}: is left out from now on; requests go to {server.address}: {DEAD}/completions: "
    )
    assert "no reply (ConnectError: " in warning
    assert "(sent 2 times)" in warning
    # The tasks that met it, two at most, were sent twice in vain; the third time they are a retry, too.
    assert 26 <= source.usage.requests <= 28
    assert source.usage.retries == source.usage.requests - len(many)


def test_a_left_out_server_is_tried_again_in_the_next_generation(servers, many, caplog):
    first, second = servers
    first.dies_after = 0
    source = source_of(first, second, max_retries=0)
    list(source.generate(many[:4]))
    assert len(first.asked) == 0
    first.dies_after = None
    list(source.generate(many[4:]))
    assert len(first.asked) > 0
    assert len(warnings(caplog)) == 1


def test_a_server_that_dies_in_the_middle_costs_nothing(servers, many, caplog):
    first, second = servers
    alone = list(source_of(second).generate(many))
    second.asked.clear()
    first.dies_after = 5
    first.late_seconds = second.late_seconds = 0.02
    assert list(source_of(first, second, concurrency=4, max_retries=1).generate(many)) == alone
    assert len(first.asked) == 5
    assert sorted({*first.prompts(), *second.prompts()}) == sorted(task.prompt for task in many)
    assert len(second.asked) >= len(many) - 5
    (warning,) = warnings(caplog)
    assert f"{first.address}: is left out from now on; requests go to {second.address}: " in warning


@pytest.mark.parametrize("fault", [Fault(status=503), Fault(status=429, headers={"Retry-After": "7200"})])
def test_a_server_that_keeps_failing_is_left_out(servers, many, caplog, fault):
    first, second = servers
    first.faults[many[0].prompt] = [fault] * 3
    source = source_of(first, second, concurrency=1, max_retries=2)
    assert [len(programs) for programs in source.generate(many[:3])] == [2, 2, 2]
    assert set(first.prompts()) == {many[0].prompt}
    assert second.prompts() == [task.prompt for task in many[:3]]
    (warning,) = warnings(caplog)
    assert f"status {fault.status} for task 't0'" in warning


def test_requests_under_way_leave_a_left_out_server(servers, many, caplog):
    first, second = servers
    first.faults[many[0].prompt] = [Fault(status=503)] * 3
    # Its first try ends when the other task has tried three times.
    first.faults[many[2].prompt] = [Fault(status=503, late_seconds=0.8)] * 3
    second.late_seconds = 0.1
    programs = source_of(first, second, concurrency=4, max_retries=2).generate(many[:4])
    assert [len(one) for one in programs] == [2] * 4
    assert [first.prompts().count(many[n].prompt) for n in (0, 2)] == [3, 1]
    assert second.prompts().count(many[2].prompt) == 1
    assert len(warnings(caplog)) == 1


def test_replies_under_way_at_a_left_out_server_are_used(servers, many):
    first, second = servers
    first.faults[many[0].prompt] = [Fault(status=503)]
    first.faults[many[2].prompt] = [Fault(late_seconds=0.5)]
    second.late_seconds = 0.1
    source = source_of(first, second, concurrency=4, max_retries=0)
    assert [len(one) for one in source.generate(many[:4])] == [2] * 4
    assert many[2].prompt in first.prompts()
    assert many[2].prompt not in second.prompts()
    assert (source.usage.requests, source.usage.retries) == (5, 1)


def test_servers_that_all_fail_end_the_generation(servers, many, caplog):
    for server in servers:
        server.dies_after = 3
    first, second = servers
    programs = source_of(first, second, concurrency=2, max_retries=1).generate(many)
    with pytest.raises(ConnectionError) as caught:
        list(programs)
    (warning,) = warnings(caplog)
    left_out, last = servers if warning.startswith(first.address) else reversed(servers)
    assert re.fullmatch(
        rf"{last.address}/completions: no reply \(.*\) for task 't\d+' \(sent 2 times\); no other server is left: "
        rf"{left_out.address} failed before\. Raise timeout_seconds .*start again.*",
        str(caught.value),
    )


def test_what_was_written_before_all_servers_failed_is_yielded(servers, many):
    for server in servers:
        server.dies_after = 3
    written = []
    with pytest.raises(ConnectionError):
        written.extend(map(len, source_of(*servers, concurrency=2, max_retries=0).generate(many)))
    # Six were answered; one of them may be behind the task that failed.
    assert written in ([2] * 5, [2] * 6)


@pytest.mark.parametrize("status", [400, 401, 404])
def test_an_error_of_the_request_is_put_to_no_other_server(servers, many, caplog, status):
    first, second = servers
    first.faults[many[0].prompt] = [Fault(status=status)]
    with pytest.raises(ConnectionError, match=rf"^{first.address}/completions: status {status} for task 't0'"):
        list(source_of(first, second, concurrency=1).generate(many[:1]))
    assert (len(first.asked), len(second.asked), warnings(caplog)) == (1, 0, [])


def test_a_pause_that_a_server_asks_for_holds_it_alone(servers, many):
    first, second = servers
    first.faults[many[0].prompt] = [Fault(status=429, headers={"Retry-After": "1"})]
    replies = []
    for server, name in zip(servers, ("first", "second"), strict=True):
        server.edit = lambda reply, name=name: replies.append(name) or reply
    started = time.monotonic()
    programs = source_of(first, second, concurrency=2).generate(many[:4])
    assert [len(one) for one in programs] == [2] * 4
    assert time.monotonic() - started >= 1.0
    assert replies == ["second"] * 3 + ["first"]


def test_the_rate_limit_holds_for_each_server(servers, many):
    started = time.monotonic()
    list(source_of(*servers, requests_per_minute=300, concurrency=8).generate(many[:8]))
    passed = time.monotonic() - started
    # Four requests to each, 0.2 s apart; a limit of both together would take 1.4 s.
    assert [len(server.asked) for server in servers] == [4, 4]
    assert passed >= 0.6


def test_refused_fields_are_remembered_for_each_server(servers, many, caplog):
    first, second = servers
    first.refuses = {"logprobs": "logprobs is not supported"}
    second.most_stops = 4
    for server in servers:
        server.late_seconds = 0.02
    source = source_of(first, second, concurrency=2, stop=["@1", "@2", "@3", "@4", "@5"])
    for _ in range(2):
        assert [len(programs) for programs in source.generate(many)] == [2] * len(many)
    assert min(len(first.asked), len(second.asked)) > 2
    assert ["logprobs" in body for _, body in first.asked].count(True) == 1
    assert {len(body["stop"]) for _, body in first.asked} == {5}
    assert all("logprobs" in body for _, body in second.asked)
    assert [len(body["stop"]) for _, body in second.asked].count(5) == 1
    first_said, second_said = sorted(warnings(caplog), key=lambda text: not text.startswith(first.address))
    assert first_said.startswith(f"{first.address}: refuses the field logprobs, which is sent no more: ")
    assert second_said.startswith(f"{second.address}: requests have 4 stops from now on: ")


def test_errors_in_a_reply_name_the_server_that_sent_it(servers, many, caplog):
    first, second = servers
    second.late_seconds = 0.2
    second.edit = lambda _: {"error": "no such model"}
    with pytest.raises(ValueError, match=rf"^{second.address}: the reply for task 't1' holds no list of choices"):
        list(source_of(first, second, concurrency=2).generate(many[:2]))
    first.most_choices = 0
    assert list(source_of(first, second, concurrency=1).generate(many[:1])) == [[]]
    (warning,) = warnings(caplog)
    assert warning == f"{first.address}: sent 0 of 2 programs for task 't0'"
