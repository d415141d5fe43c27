"""Writing on the nodes of a Ray cluster: three nodes of one CPU, in real processes of Ray, on this machine.

The tests are skipped where Ray is not installed, but for `make test-ray`, which promises it.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.support.cluster_sources import (
    NODE,
    Counting,
    Deaf,
    Endless,
    Failing,
    OldWriter,
    Other,
    Skipping,
    Stalling,
    eventually,
    start_cluster,
)
from trl_pper import (
    BeamSearchSource,
    ClusterSource,
    ClusterUnavailable,
    CodingTask,
    FunctionTests,
    NucleusSource,
    ReplayBuffer,
    StdioCase,
    StdioTests,
    load_tasks,
)
from trl_pper.cli.commands import main
from trl_pper.generation.cluster import writers
from trl_pper.generation.local_model import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def cluster():
    with start_cluster(nodes=3) as cluster:
        yield cluster


def numbered(count):
    tests = FunctionTests(code="assert f() == 1", entry_point="f")
    return [CodingTask(task_id=f"task {n}", prompt=f"prompt {n}", tests=tests) for n in range(count)]


def completions(source, tasks):
    return [[one.completion for one in programs] for programs in source.generate(tasks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, make_model, tokenizer, tasks):
    """A model on disk, and tasks."""
    folder = tmp_path_factory.mktemp("cluster")
    make_model(seed=0).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    rows = [task.to_row() | {"task_id": f"{task.task_id} {n}"} for n in range(4) for task in tasks]
    (folder / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"build": "model"}, "build: must be a function"),
        ({"build": Counting, "address": ""}, "address: must be None"),
        ({"build": Counting, "wait_seconds": 0}, "wait_seconds: must be a number of seconds above 0"),
        ({"build": Counting, "wait_seconds": float("nan")}, "wait_seconds: must be a number of seconds above 0"),
    ],
)
def test_arguments_out_of_range_are_refused(cluster, arguments, message):
    with pytest.raises(ValueError, match=message):
        ClusterSource(**arguments)


def test_every_node_writes_and_the_order_is_kept(cluster):
    with ClusterSource(functools.partial(Counting, seconds=0.2), cluster.address) as source:
        assert source.batch_size == 2
        tasks = numbered(41)
        found = completions(source, tasks)
        assert [one[0].split(" by ")[0] for one in found] == [task.task_id for task in tasks]
        # Whole batches, each by one process.
        pairs = [{text.split(" by ")[1] for text in (*found[n], *found[min(n + 1, 40)])} for n in range(0, 41, 2)]
        assert all(len(pair) == 1 for pair in pairs)
        assert len(set.union(*pairs)) == 3
        assert completions(source, []) == []
        assert len(completions(source, tasks[:1])) == 1


@pytest.mark.parametrize("kind", [BeamSearchSource, NucleusSource])
def test_programs_are_those_of_one_machine(cluster, folder, kind):
    def build(kind=kind, path=str(folder / "model")):
        return kind(*load_model(path), max_completion_length=6, batch_size=3)

    tasks = load_tasks(folder / "tasks.jsonl")
    local = build()
    with ClusterSource(build, cluster.address) as source:
        for round_index in (0, 1):
            there, here = source.for_round(round_index), local.for_round(round_index)
            assert list(there.generate(tasks)) == list(here.generate(tasks))
            assert there.identity() == here.identity()
        source.check(tasks)


def test_an_error_comes_behind_the_programs_before(cluster):
    with ClusterSource(functools.partial(Failing, at="task 9"), cluster.address) as source:
        found = []
        with pytest.raises(ValueError, match="task 9 cannot be written"):
            found.extend(source.generate(numbered(40)))
        assert len(found) == 8
        with pytest.raises(ValueError, match="task 9 cannot be asked"):
            source.check(numbered(10))
        # The writers go on.
        assert len(completions(source, numbered(8))) == 8


def test_a_lost_process_costs_its_batches_only(cluster, tmp_path, caplog):
    build = functools.partial(Counting, seconds=0.1, ends_once=str(tmp_path / "ended"))
    with ClusterSource(build, cluster.address) as source:
        tasks = numbered(30)
        assert [one[0].split(" by ")[0] for one in completions(source, tasks)] == [task.task_id for task in tasks]
    assert (tmp_path / "ended").exists()
    assert "its tasks are written elsewhere" in caplog.text


def test_a_batch_that_ends_every_process_is_named(cluster):
    with ClusterSource(functools.partial(Counting, ends="task 5"), cluster.address) as source:
        found = []
        with pytest.raises(ClusterUnavailable, match=r"task 4, task 5 was lost with the nodes .*smaller batch size"):
            found.extend(source.generate(numbered(6)))
        assert len(found) == 4


def test_a_lost_node_is_left_and_a_new_one_used(cluster):
    node = cluster.add_node(**NODE)
    with ClusterSource(functools.partial(Counting, seconds=0.3), cluster.address) as source:
        assert len(source.nodes) == 4
        # More tasks than can be written before the new node joins.
        tasks, found, writers = numbered(2000), [], set()
        for programs in source.generate(tasks):
            task_id, writer = programs[0].completion.split(" by ")
            found.append(task_id)
            writers.add(writer)
            if len(found) == 6:
                cluster.remove_node(node)
            if len(found) == 20:
                node = cluster.add_node(**NODE)
            if len(writers) == 5:
                break
        assert found == [task.task_id for task in tasks[: len(found)]]
        assert len(writers) == 5
    cluster.remove_node(node)


def test_an_unfit_node_is_named(cluster, monkeypatch):
    def build():
        raise OSError("no such model")

    with pytest.raises(ClusterUnavailable, match=r"node \S+ \(\w+\) cannot write: OSError: no such model"):
        ClusterSource(build, cluster.address)
    with pytest.raises(ClusterUnavailable, match="has another model than"):
        ClusterSource(Other, cluster.address)
    monkeypatch.setattr(writers, "NodeWriter", OldWriter)
    with pytest.raises(ClusterUnavailable, match=r"has trl-pper 0\.0\.1, and this process"):
        ClusterSource(Counting, cluster.address)


def living_actors():
    """The number of actors on the cluster that are alive or wait for a place."""
    from ray._private.state import actors

    return sum(one["State"] != "DEAD" for one in actors().values())


def test_all_lines_of_an_error_are_told(cluster):
    def build():
        raise OSError("there is no model of that name\nIf it is private, pass a token")

    with pytest.raises(ClusterUnavailable, match=r"cannot write: OSError: there is no model .* name If it is private"):
        ClusterSource(build, cluster.address)


def test_a_function_that_cannot_be_sent_is_refused(cluster):
    lock = threading.Lock()

    def build():
        with lock:
            return Counting()

    with pytest.raises(ValueError, match=r"^build: must be a function that can be pickled.*lock") as caught:
        ClusterSource(build, cluster.address)
    assert "\n" not in str(caught.value)


def test_a_process_that_ends_as_it_loads_is_no_endless_wait(cluster, caplog):
    with pytest.raises(ClusterUnavailable, match=r"its process ended 3 times while it loaded the source.*memory"):
        ClusterSource(functools.partial(os._exit, 1), cluster.address)
    assert "was lost while it loaded its source" in caplog.text


@pytest.mark.parametrize(
    ("locked", "kind", "message"),
    [(True, ValueError, "a lock is in it"), (False, ConnectionError, r"the server is down\. Start it again")],
)
def test_an_error_that_cannot_be_pickled_is_still_told(cluster, caplog, locked, kind, message):
    with ClusterSource(functools.partial(Deaf, locked), cluster.address) as source:
        with pytest.raises(kind, match=message):
            list(source.generate(numbered(4)))
    assert "was lost" not in caplog.text


def test_too_few_lists_are_an_error_of_their_batch(cluster):
    with ClusterSource(Skipping, cluster.address) as source:
        found = []
        with pytest.raises(ValueError, match="one list of programs for each task; Skipping yielded 1 for the 2 tasks"):
            found.extend(source.generate(numbered(8)))
        assert len(found) == 2


def test_a_comparison_stays_with_the_caller(cluster):
    lock = threading.Lock()
    tests = StdioTests(cases=(StdioCase(input="1", output="1"),), compare=lambda *_: lock.locked())
    tasks = [CodingTask(task_id=f"task {n}", prompt="p", tests=tests) for n in range(3)]
    with ClusterSource(Counting, cluster.address) as source:
        source.check(tasks)
        assert len(completions(source, tasks)) == 3


def test_what_failed_to_open_leaves_no_actor(cluster, monkeypatch):
    assert eventually(lambda: living_actors() == 0)
    with pytest.raises(ClusterUnavailable) as refused:
        ClusterSource(Other, cluster.address)
    assert eventually(lambda: living_actors() == 0)

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(writers.Writers, "_welcome", interrupted)
    with pytest.raises(KeyboardInterrupt) as stopped:
        ClusterSource(Counting, cluster.address)
    assert eventually(lambda: living_actors() == 0)
    # They hold all that was made until here.
    del refused, stopped


def test_a_closed_source_starts_anew(cluster):
    source = ClusterSource(Counting, cluster.address)
    left = source.generate(numbered(9))
    next(left)
    source.close()
    assert source.nodes == []
    assert len(list(left)) == 8
    source.close()
    assert eventually(lambda: living_actors() == 0)


def test_a_lost_batch_is_never_behind_one_far_ahead(cluster, caplog):
    tasks = numbered(60)
    with ClusterSource(Stalling, cluster.address) as source:
        first = source._writers.ready[0]
        found = []
        for [program] in source.generate(tasks):
            found.append(program.completion.split(" by ")[0])
            if len(found) == 6:
                # It has the next batch, and one beyond those that two writers may begin before that is there.
                source._writers._refusals[first.key] = ClusterUnavailable("as if the node were gone")
                threading.Timer(2.0, source._connection.kill, [first.actor]).start()
        assert found == [task.task_id for task in tasks]
        assert len(source.nodes) == 2
    assert "its tasks are written elsewhere" in caplog.text


def test_nodes_that_come_back_are_waited_for_anew(cluster, monkeypatch):
    with ClusterSource(Counting, cluster.address, wait_seconds=10.0) as source:
        found = source.generate(numbered(200))
        next(found)
        for writer in source._writers.ready:
            source._connection.kill(writer.actor)
        with monkeypatch.context() as without:
            without.setattr(writers.Connection, "nodes", lambda _: [])
            with pytest.raises(ClusterUnavailable, match="no node of the cluster had room"):
                list(found)
        assert len(completions(source, numbered(8))) == 8


def test_writers_on_gpus_are_not_replaced_by_others(cluster, monkeypatch):
    node = cluster.add_node(**NODE, num_gpus=2)
    with ClusterSource(Counting, cluster.address, wait_seconds=5.0) as source:
        assert len(source.nodes) == 2
        assert len(set(source.nodes)) == 1
        found = source.generate(numbered(4000))
        next(found)
        cluster.remove_node(node)
        with pytest.raises(ClusterUnavailable, match="Each needs a GPU"):
            list(found)
        assert source.nodes == []


def test_without_room_the_wait_ends(cluster, monkeypatch):
    start = writers.Connection.start_actor

    def with_gpu(*given, **named):
        return start(*given, **named | {"gpus": 1})

    monkeypatch.setattr(writers.Connection, "start_actor", with_gpu)
    with pytest.raises(ClusterUnavailable, match=r"no node of the cluster had room for a writer within 3 s"):
        ClusterSource(Counting, cluster.address, wait_seconds=3.0)


def test_a_generator_may_be_left_half_read(cluster):
    with ClusterSource(functools.partial(Counting, seconds=0.1), cluster.address) as source:
        for _ in zip(range(3), source.generate(numbered(20)), strict=False):
            pass
        assert len(completions(source, numbered(20))) == 20


def collect(folder, output, *options):
    return main(["collect", "--tasks", str(folder / "tasks.jsonl"), "--model", str(folder / "model"), "--output",
                 str(output), "--workers", "1", "--max_completion_length", "5", "--batch_size", "3",
                 *map(str, options)])  # fmt: skip


def experiences(path):
    return [(one.key, one.completion, one.logprob, one.pass_rate, one.outcomes) for one in ReplayBuffer.load(path)]


def test_a_collection_equals_that_of_one_machine(cluster, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    assert collect(folder, tmp_path / "one.parquet") == 0
    # A folder is named as this process sees it.
    assert collect(Path("."), tmp_path / "many.parquet", "--cluster", cluster.address) == 0
    alone, together = capsys.readouterr().out.split("3 writers, on ")
    # How the prompts are put, which the nodes know, is said as on one machine.
    assert "text prompts are continued" in alone
    assert "text prompts are continued" in together
    assert experiences(tmp_path / "one.parquet") == experiences(tmp_path / "many.parquet")


def test_a_killed_collection_goes_on_where_it_was(cluster, folder, tmp_path):
    command = [sys.executable, "-m", "tests.support.cluster_sources", cluster.address, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    run = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    lines = tmp_path / "written"
    until = time.monotonic() + 90
    while not (lines.exists() and lines.read_text().count("\n") >= 12) and time.monotonic() < until:
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    before = lines.read_text().split("\n")[:-1]
    assert 12 <= len(before) < 60
    assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0
    after = lines.read_text().split("\n")[:-1]
    twice = len(after) - len(set(after))
    # At most the batches ahead: four for each of three writers, of two tasks.
    assert twice <= 24
    assert len(set(after)) == 60
    buffer = ReplayBuffer.load(tmp_path / "buffer.parquet")
    assert [one.task_id for one in buffer] == [f"task {n}" for n in range(60)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--num_shards", 2, "--shard_index", 0), "--num_shards: a cluster divides the tasks by itself"),
        (("--judge_cluster", "auto"), "--judge_cluster: programs are judged where --cluster says"),
        (("--decoding", "beam", "--temperature", 0.5), "--temperature: belongs to --decoding nucleus"),
    ],
)
def test_options_that_contradict_a_cluster_are_refused(folder, tmp_path, options, message, capsys):
    assert collect(folder, tmp_path / "no.parquet", "--cluster", "auto", *options) == 2
    assert message in capsys.readouterr().err


def test_an_endless_load_is_waited_for_only_where_it_has_a_place(cluster):
    with ClusterSource(Endless, cluster.address, wait_seconds=1.0) as source:
        assert len(source.nodes) == 3
