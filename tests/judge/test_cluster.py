"""Judging on the nodes of a Ray cluster: three nodes of one CPU, in real processes of Ray, on this machine.

The tests are skipped where Ray is not installed, but for `make test-ray`, which promises it.
"""

from __future__ import annotations

import concurrent.futures
import json
import pickle
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from tests.support.cluster_sources import NODE, eventually, require_ray, start_cluster
from tests.support.pages import blocks, commands
from tests.support.unfit_nodes import BareNode, OldNode, WeakNode
from trl_pper import (
    ClusterUnavailable,
    CodingTask,
    FunctionTests,
    IsolationUnavailable,
    Judge,
    Limits,
    Outcome,
    PPERConfig,
    RayJudge,
    StdioTests,
    amplify_tasks,
)
from trl_pper.cli.commands import main, parse
from trl_pper.cli.train_options import train_options
from trl_pper.cluster import ClusterNode, Connection
from trl_pper.judge.cluster import nodes
from trl_pper.judge.cluster.node import KeptTasks
from trl_pper.tasks.task import StdioCase
from trl_pper.training.parts import build_judge

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMITS = Limits(cpu_seconds=1.0)
ADD_ONE = "def add(x): return x + 1"
SLEEPY = "import time\ntime.sleep(1.0)\n" + ADD_ONE


def task_adding(step: int) -> CodingTask:
    tests = FunctionTests(code=f"assert add(1) == {1 + step}\nassert add(2) == {2 + step}", entry_point="add")
    return CodingTask(task_id=f"add {step}", prompt="p", tests=tests)


def fresh_task(name: str, *, length: int = 0) -> CodingTask:
    """A task with tests that no node has seen, of at least that length."""
    code = f"name = {name!r}  #{'.' * length}\nassert add(1) == 2\nassert add(2) == 3"
    return CodingTask(task_id=name, prompt="p", tests=FunctionTests(code=code, entry_point="add"))


def stdio_task(name: str, **tests) -> CodingTask:
    cases = (StdioCase(input="1 2", output="3"), StdioCase(input="5 5", output="10"))
    return CodingTask(task_id=name, prompt="p", tests=StdioTests(cases=cases, **tests))


@pytest.fixture(scope="module")
def ray():
    return require_ray()


@pytest.fixture(scope="module")
def cluster():
    with start_cluster(nodes=3) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def handler(cluster):
    # That of the cluster's own processes, which it starts from here.
    return signal.getsignal(signal.SIGTERM)


@pytest.fixture(scope="module")
def judge(cluster, handler):
    with RayJudge(cluster.address, limits=LIMITS) as judge:
        yield judge


def busy_node(judge: RayJudge):
    """The node that judges something, or None."""
    return next((node for node in judge._nodes.ready if node.calls), None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": ""}, "address: must be None"),
        ({"address": 6379}, "address: must be None"),
        ({"workers_per_node": 0}, "workers_per_node: must be a whole number"),
        ({"workers_per_node": True}, "workers_per_node: must be a whole number"),
        ({"isolation": "prison"}, "isolation: must be 'auto' or one of"),
        ({"shared_tests": "never"}, "shared_tests: must be"),
        ({"seed": -1}, "seed: must be a whole number"),
        ({"cache_size": -1}, "cache_size: must be a whole number"),
        ({"wait_seconds": 0}, "wait_seconds: must be a number of seconds above 0"),
        ({"wait_seconds": float("nan")}, "wait_seconds: must be a number of seconds above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        RayJudge(**arguments)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'trl-pper\[ray\]'"):
        RayJudge()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1"])
def test_a_port_that_is_closed_is_refused_at_once(ray, address):
    started = time.monotonic()
    with pytest.raises(ClusterUnavailable, match=r"does not answer.*ray start --head"):
        RayJudge(address)
    assert time.monotonic() < started + 5


def test_no_running_cluster_names_the_way_to_start_one(ray, monkeypatch):
    def init(**_):
        raise ConnectionError("no Ray instance")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(ClusterUnavailable, match=r"got 'auto'.*ray start --head"):
        RayJudge()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(ClusterUnavailable, match=r"127\.0\.0\.1:1.*does not answer"):
        RayJudge()


@pytest.mark.parametrize("address", ["host", "host:port", "ray://", "[::1"])
def test_a_malformed_address_is_refused(ray, address):
    with pytest.raises(ValueError, match="address: must be"):
        Connection(address).open()


def test_kept_tasks_equal_a_naive_twin():
    kept, twin, draw, dropped, alone = KeptTasks(100), {}, random.Random(0), 0, 0
    for step in range(500):
        name, size = draw.randrange(12), draw.choice([0, 10, 40, 150])
        if draw.random() < 0.5:
            found = kept.get(name)
            assert found == (twin[name][0] if name in twin else None)
            if name in twin:
                twin[name] = twin.pop(name)
        else:
            kept.put(name, step, size)
            twin.pop(name, None)
            twin[name] = (step, size)
            while sum(size for _, size in twin.values()) > 100 and len(twin) > 1:
                del twin[next(iter(twin))]
                dropped += 1
            alone += size == 150 and list(twin) == [name]
        assert len(kept) == len(twin)
    assert min(dropped, alone) > 10


def test_cpus_are_shared_among_the_processes_of_a_run(judge, monkeypatch):
    node = ClusterNode(node_id="n", name="n", cpus=8)
    for size, workers in [("1", 8), ("3", 2), ("16", 1)]:
        monkeypatch.setenv("WORLD_SIZE", size)
        assert judge._nodes._settings(node).workers == workers


def is_sum(given: str, printed: str, expected: str) -> bool:
    return sum(map(int, given.split())) == int(printed)


EVERY_KIND = [
    (task_adding(1), [ADD_ONE, "def add(x): return 2", "def add(x): return y", "def add(", "", ADD_ONE]),
    (
        replace(task_adding(2), cpu_seconds=0.3),
        ["def add(x):\n    while True: pass", "x = [0] * 10**12", "raise SystemExit(3)"],
    ),
    (stdio_task("tokens"), ["print(sum(map(int, input().split())))", "print(3)", "1 / 0", "import os; os._exit(0)"]),
    (stdio_task("function", compare=is_sum), ["print(sum(map(int, input().split())))", "print(3)"]),
    (
        stdio_task("checker", checker="def check(input, output, expected): return output == expected + '!'"),
        ["print(str(sum(map(int, input().split()))) + '!')", "print(3)"],
    ),
    (stdio_task("other language", checker="int main() {}", checker_language="cpp"), ["print(3)"]),
    (
        CodingTask(
            task_id="unittest",
            prompt="p",
            tests=FunctionTests(
                code="import unittest\nclass T(unittest.TestCase):\n"
                "    def test_a(self): self.assertEqual(add(1), 2)\n"
                "    def test_b(self): self.assertEqual(add(1), 3)\n"
            ),
        ),
        [ADD_ONE, "def add(x): return 3"],
    ),
    (replace(task_adding(3), task_id="preamble", preamble="step = 3"), ["def add(x): return x + step"]),
    (replace(task_adding(3), task_id="bad preamble", preamble="1 / 0"), [ADD_ONE]),
    (replace(task_adding(1), task_id="no programs"), []),
]


def comparable(verdicts):
    return [[replace(verdict, cpu_seconds=0.0) for verdict in row] for row in verdicts]


def test_verdicts_equal_those_of_a_local_judge(judge):
    found = judge.run(EVERY_KIND)
    with Judge(workers=1, limits=LIMITS) as local:
        assert comparable(found) == comparable(local.run(EVERY_KIND))
    outcomes = {outcome for row in found for verdict in row for outcome in verdict.outcomes}
    assert {
        Outcome.PASSED,
        Outcome.TIMEOUT,
        Outcome.UNSUPPORTED,
        Outcome.SYNTAX_ERROR,
        Outcome.MEMORY_LIMIT,
    } <= outcomes


def test_every_way_to_judge_gives_the_same_verdicts(judge):
    jobs = EVERY_KIND[:1] + EVERY_KIND[2:5]
    expected = comparable(judge.run(jobs))
    assert comparable(judge.stream(iter(jobs))) == expected
    assert comparable(judge.submit(*job).result() for job in jobs) == expected
    pairs = [(task, program) for task, programs in jobs for program in programs]
    placed = []
    verdicts = judge.run_pairs(pairs, on_judged=lambda places, found: placed.extend(places))
    assert comparable([verdicts]) == [[verdict for row in expected for verdict in row]]
    assert sorted(placed) == list(range(len(pairs)))


@pytest.mark.parametrize(
    "call",
    [
        lambda judge: judge.submit("task", []),
        lambda judge: judge.submit(task_adding(1), ADD_ONE),
        lambda judge: judge.submit(task_adding(1), [None]),
        lambda judge: judge.run([task_adding(1)]),
        lambda judge: judge.run_pairs([(task_adding(1), 1)]),
        lambda judge: list(judge.stream([(task_adding(1), [1])])),
    ],
)
def test_bad_input_is_refused_as_by_a_local_judge(judge, call):
    messages = []
    for one in (judge, Judge(workers=1)):
        with pytest.raises(TypeError) as error:
            call(one)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


def test_there_may_be_nothing_to_judge(judge):
    assert judge.run([]) == list(judge.stream([])) == judge.run_pairs([]) == []
    assert judge.run([(task_adding(1), [])]) == [[]]


def test_a_pickled_judge_is_a_new_one_on_the_same_cluster(judge):
    with pickle.loads(pickle.dumps(judge)) as copied:
        assert copied is not judge
        assert (copied.limits, copied.isolation) == (LIMITS, judge.isolation)
        [[verdict]] = copied.run([(task_adding(1), [ADD_ONE])])
        assert verdict.accepted
    [[verdict]] = judge.run([(task_adding(1), [ADD_ONE])])
    assert verdict.accepted


def test_equal_programs_are_judged_once(judge):
    telling = "import time\nraise ValueError(time.time_ns())"
    [first] = judge.run([(fresh_task("once"), [telling, ADD_ONE, telling])])
    [again] = judge.run([(fresh_task("once"), [telling])])
    assert first[0].message == first[2].message == again[0].message
    assert [verdict.passed for verdict in first] == [0, 2, 0]


def test_a_timeout_is_never_remembered(judge):
    known = len(judge.cache)
    task = fresh_task("timeout")
    [[verdict]] = judge.run([(task, ["while True: pass"])])
    assert Outcome.TIMEOUT in verdict.outcomes
    assert len(judge.cache) == known
    assert judge.run([(task, [ADD_ONE])])[0][0].accepted
    assert len(judge.cache) == known + 1


def unpacked(judge):
    import ray

    return ray.get([node.actor.unpacked.remote() for node in judge._nodes.ready])


def test_a_small_task_is_not_stored_at_all(judge):
    before, kept = unpacked(judge), len(judge._dispatcher._put)
    [[verdict]] = judge.run([(fresh_task("small", length=2**15), [ADD_ONE])])
    assert verdict.accepted
    assert unpacked(judge) == before
    assert len(judge._dispatcher._put) == kept


def test_a_large_task_crosses_to_a_node_once(judge):
    before, task = unpacked(judge), fresh_task("crossing", length=2**16)
    jobs = [(replace(task, task_id=f"call {n}", prompt="p" * n), [f"{ADD_ONE}  # {n}"]) for n in range(1, 25)]
    assert all(verdict.accepted for [verdict] in judge.run(jobs))
    crossed = [now - then for now, then in zip(unpacked(judge), before, strict=True)]
    assert sum(crossed) >= 2
    assert max(crossed) == 1


def test_calls_in_flight_are_bounded_on_every_node(judge, monkeypatch):
    dispatcher, send, in_flight = judge._dispatcher, judge._dispatcher._send, []

    def recorded(work, node):
        send(work, node)
        in_flight.append({node.name: len(node.calls) for node in judge._nodes.ready})

    monkeypatch.setattr(dispatcher, "_send", recorded)
    task = fresh_task("bounded")
    futures = [judge.submit(task, [f"import time\ntime.sleep(0.1)\n{ADD_ONE}  # {n}"]) for n in range(24)]
    assert all(future.result()[0].accepted for future in futures)
    assert len(in_flight) == 24
    # Twice the workers of each of the three nodes, and no node is left out.
    assert max(sum(calls.values()) for calls in in_flight) == 6
    assert {max(calls.values()) for calls in in_flight} <= {1, 2}


def test_a_deadline_leaves_programs_not_run(judge):
    started = time.monotonic()
    verdicts = judge.run([(fresh_task(f"deadline {n}"), [SLEEPY]) for n in range(12)], deadline_seconds=0.5)
    assert time.monotonic() < started + 10
    assert {outcome for [verdict] in verdicts for outcome in verdict.outcomes} == {Outcome.NOT_RUN}
    assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted


def test_a_future_that_waits_can_be_cancelled(judge):
    futures = [judge.submit(fresh_task(f"cancelled {n}"), [SLEEPY]) for n in range(9)]
    assert futures[-1].cancel()
    assert [future.result()[0].passed for future in futures[:-1]] == [2] * 8


def test_callbacks_may_judge_and_may_fail(judge):
    found = threading.Event()

    def judge_again(future):
        assert judge.run([(task_adding(2), ["def add(x): return x + 2"])])[0][0].accepted
        found.set()
        raise SystemExit("of the callback")

    judge.submit(fresh_task("callback"), [ADD_ONE]).add_done_callback(judge_again)
    assert found.wait(20)
    assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted


def test_many_threads_may_judge_at_once(judge):
    with concurrent.futures.ThreadPoolExecutor(6) as threads:
        rows = [threads.submit(judge.run, [(fresh_task(f"thread {n}"), [ADD_ONE, ""])]) for n in range(12)]
        assert [[verdict.pass_rate for verdict in row.result()[0]] for row in rows] == [[1.0, 0.0]] * 12


def test_a_comparison_that_cannot_be_sent_is_refused(judge):
    lock = threading.Lock()
    future = judge.submit(stdio_task("unsent", compare=lambda *_: lock.locked()), ["print(3)"])
    with pytest.raises(ValueError, match=r"compare: a function must be picklable.*unsent"):
        future.result()
    assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted


def fail_to_load():
    raise ModuleNotFoundError("No module named 'checkers'")


class Absent:
    """A comparison of a module that the nodes do not have."""

    def __call__(self, given: str, printed: str, expected: str) -> bool:
        return True

    def __reduce__(self):
        return fail_to_load, ()


def test_a_comparison_that_a_node_lacks_costs_no_node(judge):
    ready = list(judge._nodes.ready)
    future = judge.submit(stdio_task("absent", compare=Absent()), ["print(3)"])
    with pytest.raises(Exception, match="No module named 'checkers'"):
        future.result()
    assert judge.run([(task_adding(1), [ADD_ONE])])[0][0].accepted
    assert judge._nodes.ready == ready


def test_the_report_names_the_level_of_every_node(judge):
    report = judge.report()
    levels = {name: level for name, level in report.items() if name.startswith("isolation of ")}
    assert levels == {f"isolation of {node.name}": node.isolation for node in judge._nodes.ready}
    assert len(levels) == 3
    with Judge(workers=1, isolation=judge.isolation) as local:
        assert {name: held for name, held in report.items() if name not in levels} == local.report()


def test_the_handler_of_sigterm_stays(judge, handler):
    assert signal.getsignal(signal.SIGTERM) is handler
    assert judge.processes() == []


@pytest.mark.parametrize(
    ("actor", "error", "reason"),
    [
        (WeakNode, IsolationUnavailable, "namespaces: this kernel has none"),
        (OldNode, ClusterUnavailable, "has trl-pper 0.0.1"),
        (BareNode, ClusterUnavailable, "No module named 'numpy'"),
    ],
)
def test_an_unfit_node_is_refused_by_name(judge, cluster, monkeypatch, actor, error, reason):
    monkeypatch.setattr(nodes, "NodeJudge", actor)
    with pytest.raises(error) as refused:
        RayJudge(cluster.address, isolation="namespaces")
    for node in judge._nodes.ready:
        assert f"node {node.name}" in str(refused.value)
    assert reason in str(refused.value)


def test_a_weaker_node_that_joins_is_left_out(ray, judge, cluster, monkeypatch, caplog):
    if judge.isolation != "namespaces":
        pytest.skip("this machine has no level above the one of a weak node")
    with RayJudge(cluster.address, limits=LIMITS) as own:
        monkeypatch.setattr(nodes, "NodeJudge", WeakNode)
        lost = own._nodes.ready[0]
        ray.kill(lost.actor)
        # Lost and judged elsewhere; then the node's new actor is tried.
        assert all(own.run([(fresh_task(f"weak {n}"), [ADD_ONE])])[0][0].accepted for n in range(3))
        assert eventually(lambda: own.run([(fresh_task("weak"), [ADD_ONE])]) and own._nodes.refusals)
        assert own.workers == 2
    message = f"node {lost.name}: its isolation level 'landlock' is below that of the first nodes, 'namespaces'"
    assert message in caplog.messages


def test_a_node_that_joins_judges_and_may_be_lost(judge, cluster):
    joined = cluster.add_node(**NODE)
    assert eventually(lambda: judge.run([(fresh_task("joined"), [ADD_ONE])])[0][0].accepted and judge.workers == 4)
    (node,) = (one for one in judge._nodes.ready if one.node.node_id == joined.node_id)
    futures = [judge.submit(fresh_task(f"lost {n}"), [SLEEPY, ADD_ONE]) for n in range(10)]
    assert eventually(lambda: len(node.calls) == 2)
    cluster.remove_node(joined, allow_graceful=False)
    assert [[verdict.passed for verdict in future.result(60)] for future in futures] == [[2, 2]] * 10
    assert node not in judge._nodes.ready
    assert judge.workers == 3


def test_programs_lost_twice_have_no_pass_rate(ray, judge):
    known, task = len(judge.cache), fresh_task("lost twice")
    future = judge.submit(task, [SLEEPY])
    lost = []
    for _ in range(2):
        assert eventually(lambda: busy_node(judge) not in (None, *lost))
        lost.append(busy_node(judge))
        ray.kill(lost[-1].actor)
    [verdict] = future.result(60)
    assert lost[0].name != lost[1].name
    assert verdict.pass_rate is None
    assert set(verdict.outcomes) == {Outcome.SANDBOX_ERROR}
    assert verdict.message == f"lost with the nodes {lost[0].name} and {lost[1].name}"
    assert len(judge.cache) == known
    # Both nodes are alive, and get new actors.
    assert judge.run([(task, [SLEEPY])])[0][0].accepted
    assert eventually(lambda: judge.workers == 3)


def test_without_a_node_judging_ends_and_nothing_is_lost(judge, monkeypatch):
    kept, alone = fresh_task("kept"), fresh_task("alone")
    assert judge.run([(kept, [ADD_ONE])])[0][0].accepted
    dispatcher = judge._dispatcher
    with monkeypatch.context() as gone:
        gone.setattr(dispatcher, "wait_seconds", 1.0)
        gone.setattr(dispatcher._connection, "nodes", list)
        # Answered from memory, though in the end no node is there.
        assert eventually(lambda: judge.run([(kept, [ADD_ONE])])[0][0].accepted and judge._nodes.ready == [])
        first, second = judge.submit(kept, [ADD_ONE]), judge.submit(alone, [ADD_ONE])
        with pytest.raises(ClusterUnavailable, match=r"no node of the cluster.*what was judged so far is kept"):
            second.result(30)
        assert first.result(0)[0].accepted
    assert judge.run([(alone, [ADD_ONE])])[0][0].accepted
    assert eventually(lambda: judge.workers == 3)


def test_an_abort_settles_every_future(judge):
    futures = [judge.submit(fresh_task(f"aborted {n}"), [SLEEPY]) for n in range(9)]
    assert eventually(lambda: busy_node(judge) is not None)
    started = time.monotonic()
    judge.abort()
    assert time.monotonic() < started + 5
    assert {outcome for future in futures for outcome in future.result(20)[0].outcomes} == {Outcome.NOT_RUN}
    assert judge.run([(task_adding(1), [ADD_ONE, f"{ADD_ONE}  # new actors"])])[0][1].accepted


def test_tasks_are_amplified_with_a_judge_of_a_cluster(judge):
    tests = FunctionTests(code="assert add(2) == 3\nassert add(9) == 10", entry_point="add")
    task = CodingTask(task_id="add", prompt="p", tests=tests, reference=ADD_ONE)
    (amplified,) = amplify_tasks([task], judge, new_tests=3)
    assert (amplified.added_tests, amplified.reason) == (3, "")


@pytest.fixture
def files(tmp_path):
    tasks = [task_adding(1), task_adding(2)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(task.to_row()) + "\n" for task in tasks))
    rows = [{"task_id": task.task_id, "program": ADD_ONE} for task in tasks]
    (tmp_path / "programs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


@pytest.mark.runs("docs/scaling.md")
def test_the_code_of_the_page_runs(judge, cluster, files, page, monkeypatch, capsys, make_model, tokenizer):
    monkeypatch.chdir(files)
    make_model(seed=0).save_pretrained("model")
    tokenizer.save_pretrained("model")
    (files / "run.yaml").write_text("model_name_or_path: m\ntasks: tasks.jsonl\noutput_dir: run\nuse_cpu: true\n")
    train, here, collect = commands(page)
    options = train_options([*train[1:], "--bf16", "false"])
    assert options.configurations()[1].judge_cluster == "auto"
    assert main(here) == 0
    assert "1 accepted" in capsys.readouterr().out
    # The script for Slurm, which is not here, has the same command.
    assert f'trl-pper {" ".join(here[:-1])} "$head:6379"\n' in page.read_text()
    there = (files / "verdicts.jsonl").read_text()
    assert main(["judge", *here[1:-2], "--workers", "1"]) == 0
    assert (files / "verdicts.jsonl").read_text() == there
    assert main([*(part.replace("MODEL", "model") for part in collect), "--max_completion_length", "4"]) == 0
    capsys.readouterr()
    judging, collecting = blocks(page, "python")
    exec(compile(judging, page, "exec"), {})
    said = capsys.readouterr().out
    assert [node.name for node in judge._nodes.ready if node.name not in said] == []
    collecting = collecting.replace("Qwen/Qwen2.5-Coder-7B-Instruct", str(files / "model")).replace("cuda", "cpu")
    found = {"tasks": [task_adding(1), task_adding(2)]}
    exec(compile(collecting.replace("=10)", "=10, max_completion_length=4)"), page, "exec"), found)
    assert {one.task_id for one in found["buffer"]} == {"add 1", "add 2"}


def test_every_judging_command_takes_the_option(tmp_path):
    tasks = ["--tasks", "tasks.jsonl", "--output", "x.parquet", "--judge_cluster", "auto"]
    for command in ("judge", "collect", "evaluate"):
        assert parse([command, *tasks]).judge_cluster == "auto"
    with pytest.raises(ValueError, match="judge_cluster"):
        parse(["amplify", *tasks])
    for wrong in ("", 3, True):
        with pytest.raises(ValueError, match="judge_cluster: must be None, 'auto'"):
            PPERConfig(str(tmp_path), use_cpu=True, bf16=False, judge_cluster=wrong)


def test_a_configuration_decides_where_to_judge(cluster, tmp_path):
    options = {"use_cpu": True, "bf16": False, "judge_workers": 2, "judge_cpu_seconds": 0.5}
    with build_judge(PPERConfig(str(tmp_path), judge_cluster=cluster.address, **options)) as judge:
        assert isinstance(judge, RayJudge)
        assert judge.workers == 6
        assert judge.limits.cpu_seconds == 0.5
    assert type(build_judge(PPERConfig(str(tmp_path), **options))) is Judge


def test_a_cluster_on_this_machine_starts_in_silence(ray):
    code = (
        "from trl_pper import CodingTask, FunctionTests, RayJudge\n"
        "task = CodingTask(task_id='t', prompt='p', tests=FunctionTests(code='assert add(1) == 2'))\n"
        "with RayJudge('local', workers_per_node=1) as judge:\n"
        f"    print(judge.run([(task, [{ADD_ONE!r}])])[0][0].pass_rate)\n"
    )
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=100)
    assert (ran.stdout, ran.stderr, ran.returncode) == ("1.0\n", "", 0)
