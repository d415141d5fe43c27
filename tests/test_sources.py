"""Programs from a file and from a server: what is read, what is refused, what stays unknown."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from trl_pper import CodingTask, DatasetSource, FunctionTests, ReplayBuffer, ServerSource
from trl_pper.cli import main
from trl_pper.generation.source import ProgramSource


def test_a_file_of_programs_is_dealt_out_to_its_tasks(tmp_path, tasks):
    file = tmp_path / "programs.jsonl"
    rows = [
        {"task_id": "add-2", "completion": "a"},
        {"task_id": "add-1", "completions": ["b", "c"]},
        {"task_id": "add-2", "program": "d", "logprob": -1.5, "num_tokens": 3},
        {"task_id": "unknown", "completion": "e"},
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = DatasetSource(file)
    assert isinstance(source, ProgramSource)
    assert len(source) == 5
    found = list(source.generate(tasks))
    assert [[one.completion for one in programs] for programs in found] == [["b", "c"], ["a", "d"], [], []]
    assert (found[1][0].logprob, found[1][1].logprob, found[1][1].num_tokens) == (None, -1.5, 3)
    assert found[0][0].source == "programs.jsonl"


def test_mbpp_ids_find_their_task():
    task = CodingTask(task_id="MBPP/2", prompt="p", tests=FunctionTests(code="assert f(1)"))
    ((program,),) = DatasetSource([{"task_id": 2, "completion": "x"}]).generate([task])
    assert program.completion == "x"


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"completion": "x"}, "rows:1: task_id"),
        ({"task_id": "a"}, "rows:1: completion"),
        ({"task_id": "a", "completion": 3}, "rows:1: completion"),
        ({"task_id": "a", "completion": "x", "logprob": -1.0}, "rows:1: logprob"),
        ({"task_id": "a", "completions": ["x", "y"], "logprob": -1.0, "num_tokens": 2}, "rows:1: logprob"),
    ],
)
def test_bad_rows_are_named(row, named):
    with pytest.raises(ValueError, match=named):
        DatasetSource([row])


class Handler(BaseHTTPRequestHandler):
    """An OpenAI-style server that answers with what the test put in `replies` and records what it was asked."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((self.path, self.headers.get("Authorization"), body))
        status, reply = self.server.replies.pop(0)
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        server.seen, server.replies = [], []
        server.address = f"http://127.0.0.1:{server.server_port}/v1"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_text_prompts_go_to_completions_and_bring_log_probabilities(server, tasks):
    server.replies = [
        (200, {"choices": [
            {"text": "x", "logprobs": {"token_logprobs": [-0.5, -0.25]}},
            {"text": "y", "logprobs": None},
            {"text": "z", "logprobs": {"token_logprobs": [None, -0.25]}},
        ]}),
    ]  # fmt: skip
    source = ServerSource(
        server.address, model="m", num_programs=3, api_key="key", extra_body={"use_beam_search": True}
    )
    (programs,) = source.generate(tasks[:1])
    assert [(one.completion, one.logprob, one.num_tokens) for one in programs] == [
        ("x", -0.75, 2), ("y", None, None), ("z", None, None),
    ]  # fmt: skip
    ((path, authorization, body),) = server.seen
    assert (path, authorization) == ("/v1/completions", "Bearer key")
    assert body["prompt"] == tasks[0].prompt
    assert (body["n"], body["use_beam_search"]) == (3, True)


def test_chat_prompts_go_to_chat_completions(server):
    logprobs = {"content": [{"logprob": -1.0}, {"logprob": -2.0}]}
    server.replies = [(200, {"choices": [{"message": {"content": "x"}, "logprobs": logprobs}]})]
    task = CodingTask(task_id="t", prompt=[{"role": "user", "content": "hi"}], tests=FunctionTests(code="assert f(1)"))
    ((program,),) = ServerSource(server.address, model="m").generate([task])
    assert (program.completion, program.logprob, program.num_tokens) == ("x", -3.0, 2)
    assert server.seen[0][0] == "/v1/chat/completions"
    assert server.seen[0][2]["messages"] == task.prompt


def test_an_error_names_address_status_and_task(server, tasks):
    server.replies = [(200, {"choices": [{"text": "x"}]}), (503, {"error": "busy"})]
    programs = ServerSource(server.address, model="m").generate(tasks[:2])
    assert next(programs)[0].completion == "x"
    with pytest.raises(ConnectionError, match=r"status 503 for task 'add-2'.*busy"):
        next(programs)


def test_what_a_failing_server_wrote_before_is_judged_and_kept(server, tasks, tmp_path, capsys):
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    server.replies = [
        (200, {"choices": [{"text": "    return x + 1\n"}]}),
        (200, {"choices": [{"text": "    return 0\n"}]}),
        (500, {"error": "broken"}),
    ]
    buffer = tmp_path / "buffer.parquet"
    command = ["collect", "--tasks", str(tmp_path / "tasks.jsonl"), "--server", server.address]
    assert main([*command, "--output", str(buffer), "--server_model", "m", "--workers", "1"]) == 2
    assert "status 500 for task 'add-3'" in capsys.readouterr().err
    assert [(one.task_id, one.pass_rate) for one in ReplayBuffer.load(buffer)] == [("add-1", 1.0), ("add-2", 1 / 3)]
    # Once the server is back, it is asked for the two tasks that are missing, and no other.
    server.seen.clear()
    server.replies = [(200, {"choices": [{"text": f"    return x + {n}\n"}]}) for n in (3, 4)]
    assert main([*command, "--output", str(buffer), "--server_model", "m", "--workers", "1"]) == 0
    assert [body["prompt"] for _, _, body in server.seen] == [task.prompt for task in tasks[2:]]
    assert ReplayBuffer.load(buffer).pass_rates().tolist() == [1.0, 1 / 3, 1.0, 1.0]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["buffer.parquet", "tasks.jsonl"]


def test_no_server_and_no_choices_are_errors(server, tasks):
    server.replies = [(200, {"choices": []})]
    with pytest.raises(ValueError, match="holds no choices"):
        next(ServerSource(server.address, model="m").generate(tasks))
    with pytest.raises(ConnectionError, match="no reply for task 'add-1'"):
        next(ServerSource("http://127.0.0.1:9/v1", model="m").generate(tasks))


@pytest.mark.parametrize("name", ["num_programs", "max_completion_length"])
def test_counts_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name}: must be at least 1"):
        ServerSource("http://x", model="m", **{name: 0})
