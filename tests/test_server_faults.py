"""A server that fails: what is tried again, what is not, what stays, and where the key never shows."""

import datetime
import json
import logging
import re
import time
import traceback

import pytest
from openai_server import Fault, serve

from trl_pper import BeamSampleCollector, Judge, ReplayBuffer, ServerSource
from trl_pper.cli import main
from trl_pper.generation.pace import Pace, retry_after_seconds

KEY = "sk-never-to-be-seen"


@pytest.fixture
def server(make_model, tokenizer):
    with serve(make_model().eval(), tokenizer) as server:
        yield server


def source_of(server, **options):
    defaults = {"model": "tiny", "num_programs": 2, "max_completion_length": 4, "backoff_seconds": 0.001, "seed": 0}
    return ServerSource(server.address, **{**defaults, **options})


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
    server.faults[tasks[0].prompt] = [Fault(late_seconds=3.0)]
    source = source_of(server, timeout_seconds=1.0)
    started = time.monotonic()
    assert len(*source.generate(tasks[:1])) == 2
    assert time.monotonic() - started < 2.9
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
        ("http://127.0.0.1:{port}", r"status 404 for task 'add-1'.*base_url ends before"),
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


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("3", 3.0), ("0.5", 0.5), ("-1", 0.0), ("soon", None), ("", None), ("nan", None), ("inf", None),
        ("Wed, 21 Oct 2026 07:28:10 GMT", 10.0), ("Wed, 21 Oct 2026 07:27:00 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:10 -0000", 10.0),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date(header, seconds):
    now = datetime.datetime(2026, 10, 21, 7, 28, tzinfo=datetime.UTC)
    assert retry_after_seconds(header, now=now) == seconds


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.now += seconds


def run(coroutine):
    """Run a coroutine that waits for nothing but the clock of the test."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


def test_requests_keep_their_distance_and_a_pause_holds_all_of_them():
    clock = Clock()
    pace = Pace(requests_per_minute=120, clock=clock, sleep=clock.sleep)
    sent = []
    for pause in (0, 0, 3.0, 0):
        pace.hold(pause)
        run(pace.turn())
        sent.append(clock.now - 100.0)
    assert sent == [0.0, 0.5, 3.5, 4.0]
    clock.now += 60.0
    run(pace.turn())
    assert clock.now == 164.0  # a quiet minute saves up nothing, and costs nothing


def test_without_a_limit_nobody_waits():
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)
    for _ in range(3):
        run(pace.turn())
    assert clock.slept == []


def test_waits_double_to_a_minute_with_a_seeded_jitter():
    def waits(seed, name="task"):
        clock = Clock()
        pace = Pace(backoff_seconds=2.0, seed=seed, clock=clock, sleep=clock.sleep)
        for retry in range(8):
            run(pace.back_off(name, retry))
        return clock.slept

    longest = [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert all(wait / 2 <= slept <= wait for slept, wait in zip(waits(0), longest, strict=True))
    assert waits(0) == waits(0)
    assert waits(0) != waits(1)
    assert waits(0, "other") != waits(0)


def test_the_rate_limit_spaces_requests_out(server, tasks):
    started = time.monotonic()
    list(source_of(server, requests_per_minute=600).generate(tasks))
    assert time.monotonic() - started >= 0.3


def test_a_restarted_collection_asks_only_for_what_its_journal_lacks(server, tasks, tmp_path):
    def collect(**options):
        with Judge(workers=1) as judge:
            source = source_of(server, concurrency=2, max_retries=1, **options)
            collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks, journal_folder=tmp_path)
            collector.buffer = ReplayBuffer()
            return collector.collect(), collector.buffer

    server.faults[tasks[2].prompt] = [Fault(status=500)] * 2
    with pytest.raises(ConnectionError, match="add-3"):
        collect()
    server.asked.clear()
    # How fast is asked changes nothing of what is written.
    report, buffer = collect(requests_per_minute=6000)
    assert sorted(server.prompts()) == [tasks[2].prompt, tasks[3].prompt]
    assert (report.programs, report.restored) == (8, 4)
    server.asked.clear()
    report, again = collect()
    assert (server.asked, report.restored, again.digest()) == ([], 8, buffer.digest())
    # Other programs are asked for: the journal is of no use to them.
    collect(temperature=0.1)
    assert sorted(server.prompts()) == sorted(task.prompt for task in tasks)


@pytest.fixture
def task_file(tmp_path, tasks):
    path = tmp_path / "tasks.jsonl"
    path.write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    return path


def collect_command(server, task_file, *options):
    return [
        "collect", "--tasks", str(task_file), "--server", server.address, "--server_model", "tiny", "--workers", "1",
        "--output", str(task_file.with_name("buffer.parquet")), "--max_completion_length", "4", *options,
    ]  # fmt: skip


def test_collect_asks_a_server_with_its_options_and_shows_what_it_took(server, tasks, task_file, capsys, monkeypatch):
    monkeypatch.setenv("TINY_KEY", KEY)
    server.key = KEY
    options = [
        "--num_beams", "2", "--concurrency", "2", "--requests_per_minute", "6000", "--temperature", "0.5",
        "--top_p", "0.9", "--stop", "\nclass", "\n#", "--sampling_seed", "3", "--api_key_env", "TINY_KEY", "--chat",
        "--extra_body", '{"use_beam_search": true}', "--prompt_price", "1000", "--completion_price", "2000",
    ]  # fmt: skip
    server.edit = lambda reply: {
        "choices": [{"message": {"content": "    return x + 1\n"}}, {"message": {"content": "    return 0\n"}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 5},
    }
    assert main(collect_command(server, task_file, *options)) == 0
    assert server.most_at_work <= 2
    path, body = server.asked[0]
    assert path == "/v1/chat/completions"
    expected = {
        "n": 2, "temperature": 0.5, "top_p": 0.9, "stop": ["\nclass", "\n#"], "seed": 3, "use_beam_search": True,
    }  # fmt: skip
    assert {name: body[name] for name in expected} == expected
    output = capsys.readouterr().out
    assert "tiny: 4 requests (0 retries), 40 prompt and 20 completion tokens, cost 0.0800" in output


def test_what_a_failing_server_wrote_before_is_judged_and_kept(server, tasks, task_file, capsys):
    server.edit = lambda reply: {"choices": [{"text": "    return x + 1\n"}]}
    server.faults[tasks[2].prompt] = [Fault(status=500)]
    command = collect_command(server, task_file, "--num_beams", "1", "--concurrency", "1", "--max_retries", "0")
    assert main(command) == 2
    shown = capsys.readouterr()
    assert "status 500 for task 'add-3'" in shown.err
    assert "3 requests" in shown.out  # what it took is shown though it failed
    buffer = task_file.with_name("buffer.parquet")
    assert [(one.task_id, one.pass_rate) for one in ReplayBuffer.load(buffer)] == [("add-1", 1.0), ("add-2", 0.0)]
    # Once the server is back, it is asked for the two tasks that are missing, and no other.
    server.asked.clear()
    assert main(command) == 0
    assert server.prompts() == [task.prompt for task in tasks[2:]]
    assert len(ReplayBuffer.load(buffer)) == 4
    assert sorted(path.name for path in task_file.parent.iterdir()) == ["buffer.parquet", "tasks.jsonl"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--extra_body", "{"], "extra_body: a JSON object is required"),
        (["--extra_body", "[]"], "extra_body: a JSON object is required"),
        (["--concurrency", "0"], "concurrency: must be at least 1"),
        (["--api_key_env", "NOT_SET_ANYWHERE"], "api_key_env: NOT_SET_ANYWHERE: this environment variable is not set"),
    ],
)
def test_bad_options_are_refused_before_anything_is_asked(server, task_file, capsys, options, said):
    assert main(collect_command(server, task_file, *options)) == 2
    assert said in capsys.readouterr().err
    assert server.asked == []


def test_options_of_a_server_need_a_server(task_file, capsys):
    command = ["collect", "--tasks", str(task_file), "--programs", str(task_file), "--output", "x.parquet"]
    assert main([*command, "--concurrency", "3"]) == 2
    assert "--concurrency: only a server has it; give --server, or leave it out" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["api_key", "api_key_env"])
def test_the_key_is_sent_and_shows_nowhere(server, tasks, tmp_path, monkeypatch, caplog, given):
    monkeypatch.setenv("TINY_KEY", f"{KEY}\n")
    caplog.set_level(logging.DEBUG)
    server.key = KEY
    source = source_of(server, concurrency=1, max_retries=0, **{given: KEY if given == "api_key" else "TINY_KEY"})
    server.faults[tasks[1].prompt] = [Fault(status=500)]
    with Judge(workers=1) as judge:
        collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks, journal_folder=tmp_path)
        collector.buffer = ReplayBuffer()
        with pytest.raises(ConnectionError):
            collector.collect()
    journal = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(journal) == 1
    assert KEY.encode() not in journal[0].read_bytes()
    # This server repeats the key it was given in its error.
    server.key = "another"
    with pytest.raises(ConnectionError, match=r"status 401 .*Bearer \[key\]") as caught:
        list(source.generate(tasks))
    shown = [
        "".join(traceback.format_exception(caught.value)), repr(source), str(source.identity()), caplog.text,
        str(source.usage),
    ]  # fmt: skip
    assert len(caplog.text) > 0
    assert not [text for text in shown if KEY in text]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": KEY, "api_key_env": "TINY_KEY"}, "give one of them"),
        ({"api_key": f"{KEY} {KEY}"}, "api_key: printable ASCII without spaces is required"),
        ({"api_key": " "}, "api_key: printable ASCII"),
        ({"num_programs": 0}, "num_programs: must be at least 1; got 0"),
        ({"max_completion_length": 0}, "max_completion_length: must be at least 1"),
        ({"concurrency": 0}, "concurrency: must be at least 1"),
        ({"requests_per_minute": 0}, "requests_per_minute: must be above 0; got 0"),
        ({"timeout_seconds": 0.0}, "timeout_seconds: must be above 0"),
        ({"max_retries": -1}, "max_retries: must not be negative; got -1"),
        ({"backoff_seconds": -1.0}, "backoff_seconds: must not be negative"),
        ({"temperature": -0.1}, "temperature: must not be negative"),
        ({"stop": "\n"}, "stop: a list of texts is required"),
    ],
)
def test_options_are_checked_at_the_door(options, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        ServerSource("http://x/v1", model="m", **options)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "address",
    [
        f"http://user:{KEY}@x/v1",
        f"http://x/v1?key={KEY}",
        "localhost:8000/v1",
        "",
        "ftp://x",
        "http:///v1",
        "http://x:y",
    ],
)
def test_addresses_that_cannot_be_asked_or_hold_a_secret_are_refused(address):
    with pytest.raises(ValueError, match="base_url: ") as caught:
        ServerSource(address, model="m")
    assert KEY not in str(caught.value)
