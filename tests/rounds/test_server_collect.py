"""Collecting from a server: what a restart asks for, the options of the command, and a key that shows nowhere."""

import json
import logging
import re
import traceback

import pytest

from tests.support.openai_server import Fault, source_of
from trl_pper import BeamSampleCollector, Judge, ReplayBuffer, ServerSource
from trl_pper.cli.commands import main

KEY = "sk-never-to-be-seen"


def test_a_restarted_collection_asks_for_what_its_journal_lacks(server, tasks, tmp_path):
    def collect(**options):
        with Judge(workers=1) as judge:
            source = source_of(server, concurrency=2, max_retries=1, **options)
            collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks, journal_folder=tmp_path)
            collection = collector.attach(ReplayBuffer())
            return collector.collect(), collection.buffer

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


def test_collect_asks_a_server_with_its_options(server, tasks, task_file, capsys, monkeypatch):
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


@pytest.mark.parametrize("place", ["line", "file"])
def test_collect_asks_several_servers(servers, task_file, place, capsys):
    addresses = [server.address for server in servers]
    for server in servers:
        server.late_seconds = 0.1
    if place == "line":
        command = collect_command(servers[0], task_file, "--server", *addresses)
    else:
        path = task_file.with_name("options.yaml")
        path.write_text(f"server: [{', '.join(addresses)}]\n")
        command = [*collect_command(servers[0], task_file), "--config", str(path)]
        where = command.index("--server")
        del command[where : where + 2]
    assert main(command) == 0
    assert [len(server.asked) for server in servers] == [2, 2]
    assert "tiny: 4 requests (0 retries)" in capsys.readouterr().out


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
        (
            ["--server", "http://a/v1", "http://a/v1"],
            "base_url: every address must be another; got",
        ),
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
    assert "--concurrency: belongs to --server; got it with --programs" in capsys.readouterr().err


@pytest.mark.parametrize("given", ["api_key", "api_key_env"])
def test_the_key_is_sent_and_shows_nowhere(server, tasks, tmp_path, monkeypatch, caplog, given):
    monkeypatch.setenv("TINY_KEY", f"{KEY}\n")
    caplog.set_level(logging.DEBUG)
    server.key = KEY
    source = source_of(server, concurrency=1, max_retries=0, **{given: KEY if given == "api_key" else "TINY_KEY"})
    server.faults[tasks[1].prompt] = [Fault(status=500)]
    with Judge(workers=1) as judge:
        collector = BeamSampleCollector(source=source, judge=judge, tasks=tasks, journal_folder=tmp_path)
        collector.attach(ReplayBuffer())
        with pytest.raises(ConnectionError):
            collector.collect()
    journal = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(journal) == 1
    assert KEY.encode() not in journal[0].read_bytes()
    # This server repeats the key it was given in its error.
    server.key = "another"
    with pytest.raises(ConnectionError, match=r"status 401 .*Bearer \[key\]") as caught:
        list(source.generate(tasks))
    for reply in ({"error": f"no such key: {KEY}"}, f"no such key: {KEY}"):
        server.key, server.edit = KEY, lambda _, reply=reply: reply
        with pytest.raises(ValueError, match=r"no such key: \[key\]"):
            list(source.generate(tasks[:1]))
    shown = [
        "".join(traceback.format_exception(caught.value)), repr(source), str(source.identity()), caplog.text,
        str(source.usage),
    ]  # fmt: skip
    assert len(caplog.text) > 0
    assert not [text for text in shown if KEY in text]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_key": KEY, "api_key_env": "TINY_KEY"}, "must not be given together"),
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
def test_unusable_addresses_and_those_with_secrets_are_refused(address):
    with pytest.raises(ValueError, match="base_url: ") as caught:
        ServerSource(address, model="m")
    assert KEY not in str(caught.value)
