"""`trl-pper evaluate` as it is typed: every source, groups, refusals, a restart, and two processes that equal one."""

import itertools
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import trl_pper.judge.host.slot
from tests.support.openai_server import Fault
from trl_pper import FunctionTests, load_tasks
from trl_pper.cli.commands import main
from trl_pper.files import read_rows

ROOT = Path(__file__).parents[2]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tasks, make_model, tokenizer):
    """Tasks and a model."""
    folder = tmp_path_factory.mktemp("evaluate")
    write(folder / "tasks.jsonl", [task.to_row() for task in tasks])
    make_model().save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder


@pytest.fixture
def evaluate(folder, tmp_path):
    """Run the command, and return its exit code, its scores and its verdicts."""

    def run(*options, tasks=folder / "tasks.jsonl"):
        code = main(["evaluate", "--tasks", str(tasks), "--output", str(tmp_path / "scores.json"), "--verdicts",
                     str(tmp_path / "deep" / "verdicts.jsonl"), "--workers", "1", *map(str, options)])  # fmt: skip
        if code:
            return code, None, None
        return code, json.loads((tmp_path / "scores.json").read_text()), read(tmp_path / "deep" / "verdicts.jsonl")

    return run


@pytest.fixture
def programs(tmp_path):
    """Programs for the four tasks: all right, partly right, none right, and one that is not code."""
    rows = [
        {"task_id": "add-1", "completions": ["    return x + 1\n"] * 3},
        {"task_id": "add-2", "completions": ["    return x or 2\n", "    return x + 2\n", "    return (\n"]},
        {"task_id": "add-3", "completions": ["    return 9\n"] * 3},
        {"task_id": "add-4", "completions": ["I cannot.", "    return x + 4\n", "    return x + 4\n"]},
    ]
    return write(tmp_path / "programs.jsonl", rows)


def test_one_program_a_task_is_the_most_probable_one(evaluate, folder, tmp_path, capsys):
    code, scores, rows = evaluate("--model", folder / "model", "--max_completion_length", 5)
    assert code == 0
    assert scores["programs"]["decoding"] == "greedy"
    assert scores["programs"]["settings"] == {
        "method": "beam search", "num_beams": 1, "max_completion_length": 5, "length_penalty": 1.0,
    }  # fmt: skip
    figures = scores["figures"]
    assert (figures["tasks"], figures["programs"], figures["unjudged"]) == (4, 4, 0)
    assert figures["accuracy"] == figures["pass@1"] == figures["solved@1"]
    assert "pass@10" not in figures
    assert (scores["by_difficulty"], scores["by_source"], scores["processes"]) == ({}, {}, 1)
    assert scores["judge"]["limits"]["cpu_seconds"] == 10.0
    assert set(scores["versions"]) == {"python", "trl_pper", "torch", "transformers", "accelerate"}
    assert scores["seconds"]["total"] > scores["seconds"]["generate"] > 0
    assert [row["task_id"] for row in rows] == ["add-1", "add-2", "add-3", "add-4"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "scores.json"]
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["verdicts.jsonl"]
    said = capsys.readouterr().out
    assert "all tasks: 4 tasks, 4 programs (0 not judged" in said
    assert 'decoding greedy {"method": "beam search"' in said


@pytest.mark.parametrize(
    ("options", "decoding", "expected"),
    [
        (["--n", 3], "nucleus", {"num_programs": 3, "temperature": 0.8, "top_p": 0.95, "seed": 0}),
        (["--n", 2, "--temperature", 0.3, "--sampling_seed", 5], "nucleus", {"temperature": 0.3, "seed": 5}),
        (["--temperature", 0.2], "nucleus", {"num_programs": 1, "temperature": 0.2}),
        (["--top_p", 0.5], "nucleus", {"num_programs": 1, "top_p": 0.5}),
        (["--n", 2, "--decoding", "beam"], "beam", {"num_beams": 2}),
        (["--n", 2, "--num_beam_groups", 2], "beam", {"num_beams": 2, "num_beam_groups": 2}),
    ],
)
def test_options_decide_how_programs_are_written_and_scores_say(evaluate, folder, options, decoding, expected):
    code, scores, rows = evaluate("--model", folder / "model", "--max_completion_length", 3, *options)
    assert code == 0
    assert scores["programs"]["decoding"] == decoding
    settings = scores["programs"]["settings"]
    assert settings.items() >= expected.items()
    n = settings.get("num_programs", settings.get("num_beams"))
    assert scores["figures"]["programs"] == len(rows) == 4 * n
    assert [row["index"] for row in rows] == list(range(n)) * 4


def test_figures_follow_from_the_rows(evaluate, programs, tasks):
    code, scores, rows = evaluate("--programs", programs, "--k", 2, 1, 3, 2)
    assert code == 0
    assert set(rows[0]) == {
        "task_id", "index", "completion", "program", "extracted", "pass_rate", "passed", "total", "outcomes",
        "message", "run",
    }  # fmt: skip
    assert [(row["task_id"], row["index"]) for row in rows] == [(task.task_id, n) for task in tasks for n in range(3)]
    rates = [row["pass_rate"] for row in rows]
    assert rates == pytest.approx([1, 1, 1, 1 / 3, 1, 0, 0, 0, 0, 0, 1, 1])
    assert rows[1]["program"] == "# add one \ndef f(x):\n    return x + 1\n"
    figures = scores["figures"]
    assert figures["pass_rate"] == pytest.approx(sum(rates) / 12)
    assert figures["accuracy"] == 1 / 4
    assert figures["solved@3"] == 3 / 4
    assert figures["pass@1"] == pytest.approx((1 + 1 / 3 + 0 + 2 / 3) / 4)
    assert figures["pass@2"] == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
    assert figures["pass@3"] == figures["solved@3"]
    assert figures["compile_rate"] == pytest.approx(10 / 12)
    assert figures["without_program"] == 2
    assert figures["standard_errors"]["accuracy"] == pytest.approx(0.25)
    assert [one["accepted"] for one in scores["per_task"]] == [3, 1, 0, 2]
    assert scores["programs"]["decoding"] == "file"


def test_the_verdicts_are_programs_that_can_be_evaluated_again(evaluate, programs, tmp_path):
    _, scores, rows = evaluate("--programs", programs)
    _, again, same = evaluate("--programs", (tmp_path / "deep" / "verdicts.jsonl").rename(tmp_path / "rows.jsonl"))
    assert same == rows
    assert again["figures"] == scores["figures"]


def test_the_first_programs_of_a_file_may_be_enough(evaluate, programs, capsys):
    _, scores, rows = evaluate("--programs", programs, "--n", 2, "--k", 2)
    assert len(rows) == 8
    assert scores["figures"]["solved@2"] == 3 / 4
    assert scores["figures"]["pass@2"] == pytest.approx(3 / 4)
    assert evaluate("--programs", programs, "--n", 2, "--k", 3)[0] == 2
    assert "--k: pass@3 needs at least 3 programs of a task; there are 2" in capsys.readouterr().err
    assert evaluate("--programs", programs, "--n", 4)[0] == 2
    assert "--n: must be in 1..3, the programs the file has of a task; got 4" in capsys.readouterr().err


def test_tasks_are_grouped_by_difficulty_and_source(evaluate, programs, tasks, tmp_path, capsys):
    kinds = [("easy", "apps"), ("hard", "apps"), (None, "mbpp"), ("easy", "mbpp")]
    rows = [
        replace(task, difficulty=difficulty, source=source).to_row()
        for task, (difficulty, source) in zip(tasks, kinds, strict=True)
    ]
    _, scores, _ = evaluate("--programs", programs, "--k", 1, tasks=write(tmp_path / "kinds.jsonl", rows))
    by_difficulty = {name: (one["tasks"], one["solved@3"]) for name, one in scores["by_difficulty"].items()}
    assert by_difficulty == {"easy": (2, 1.0), "hard": (1, 1.0), "no difficulty": (1, 0.0)}
    assert {name: one["pass@1"] for name, one in scores["by_source"].items()} == pytest.approx(
        {"apps": 2 / 3, "mbpp": 1 / 3}
    )
    assert "difficulty no difficulty: 1 task, 3 programs" in capsys.readouterr().out
    _, scores, _ = evaluate("--programs", programs, "--difficulty", "hard", tasks=tmp_path / "kinds.jsonl")
    assert scores["figures"]["tasks"] == 1
    assert scores["figures"]["standard_errors"] == {"accuracy": None, "pass@1": None, "solved@3": None}
    assert (scores["by_difficulty"], scores["tasks"]["difficulty"]) == ({}, ["hard"])


def test_what_has_no_verdict_is_seen_and_counts_in_no_rate(evaluate, tasks, tmp_path, capsys):
    odd = replace(tasks[3], tests=FunctionTests(entry_point="f", code="import no_such_module\nassert f('a') == 'a'"))
    rows = write(tmp_path / "odd.jsonl", [task.to_row() for task in (*tasks[:3], odd)])
    programs = [
        {"task_id": task_id, "completion": body}
        for task_id, body in [
            ("add-1", "    return x + 1\n"),
            ("add-2", "    return 9\n"),
            ("add-4", "    return x\n"),
        ]
    ]
    code, scores, verdicts = evaluate("--programs", write(tmp_path / "p.jsonl", programs), tasks=rows)
    figures = scores["figures"]
    assert code == 0
    assert (figures["tasks"], figures["programs"], figures["unjudged"]) == (4, 3, 1)
    assert (figures["pass@1"], figures["accuracy"], figures["solved@1"], figures["pass_rate"]) == (0.5, 0.5, 0.5, 0.5)
    assert figures["over_tasks"] == {"accuracy": 2, "pass@1": 2, "solved@1": 2}
    assert verdicts[-1]["pass_rate"] is None
    said = capsys.readouterr().out
    assert "accuracy 0.500 ± 0.500 (of 2 tasks)" in said
    assert "The first program that could not be judged is one for add-4: " in said
    assert "1 of 4 tasks have no program, the first add-3; no rate is over them" in said
    # The journal stays, so that a sandbox that works may judge it without anything being generated.
    assert "run the command again to judge them" in said
    again = evaluate("--programs", tmp_path / "p.jsonl", tasks=rows)[1]
    assert (again["programs"]["restored"], again["figures"]) == (3, figures)


def test_equal_programs_of_a_task_are_judged_once(evaluate, tmp_path, tasks, monkeypatch):
    judged = []
    judge_function = trl_pper.judge.host.slot.judge_function
    monkeypatch.setattr(
        "trl_pper.judge.host.slot.judge_function",
        lambda *given, **options: judged.append(given[1]) or judge_function(*given, **options),
    )
    rows = [{"task_id": task.task_id, "completions": ["    return x + 1\n", "    return 0\n"] * 50} for task in tasks]
    _, scores, verdicts = evaluate("--programs", write(tmp_path / "repeats.jsonl", rows), "--k", 1, 100)
    assert len(judged) == 8
    assert (len(verdicts), scores["figures"]["pass@1"], scores["figures"]["pass@100"]) == (400, 1 / 8, 1 / 4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--model", "m", "--k", "2"], "--k: pass@2 needs at least 2 programs of a task; there are 1. Raise --n"),
        (["--model", "m", "--n", "10", "--k", "1", "100"], "--k: pass@100 needs at least 100 programs"),
        (["--model", "m", "--k", "0"], "--k: must be at least 1; got 0"),
        (["--model", "m", "--n", "0"], "num_beams: must be at least 1; got 0"),
        ([], "--source: exactly one of --model, --server and --programs is required; got none"),
        (["--model", "m", "--decoding", "beam", "--top_p", "0.9"], "--top_p: belongs to --decoding nucleus"),
        (["--server", "http://localhost:1/v1"], "--server_model: required"),
    ],
)
def test_contradictions_are_refused_before_any_work(evaluate, capsys, monkeypatch, options, said):
    monkeypatch.setattr(
        "trl_pper.generation.local_model.load_model", lambda *_, **__: pytest.fail("a model was loaded")
    )
    assert evaluate(*options)[0] == 2
    assert said in capsys.readouterr().err


def test_nothing_to_evaluate_is_refused(evaluate, tmp_path, capsys):
    write(tmp_path / "none.jsonl", [])
    assert evaluate("--programs", tmp_path / "none.jsonl")[0] == 2
    assert "--programs: must hold a program for at least one of the 4 tasks; got none" in capsys.readouterr().err
    assert evaluate("--model", "m", tasks=tmp_path / "none.jsonl")[0] == 2
    assert "none.jsonl" in capsys.readouterr().err


def test_without_an_output_figures_are_shown_and_nothing_stays(folder, programs, tmp_path, capsys):
    (tmp_path / "options.yaml").write_text(f"tasks: {folder / 'tasks.jsonl'}\nk: [1, 3]\nworkers: 1\n")
    assert main(["evaluate", "--config", str(tmp_path / "options.yaml"), "--programs", str(programs)]) == 0
    assert "pass@3 0.750 ± 0.250, solved@3" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["options.yaml", "programs.jsonl"]


def test_a_server_is_asked_for_its_best_program_or_for_samples(evaluate, server, tmp_path, capsys):
    options = ["--server", server.address, "--server_model", "tiny", "--max_completion_length", 4]
    _, scores, _ = evaluate(*options)
    assert {(body["temperature"], body["n"]) for _, body in server.asked} == {(0.0, 1)}
    assert scores["programs"]["decoding"] == "greedy"
    assert "tiny: 4 requests" in capsys.readouterr().out
    server.asked.clear()
    _, scores, rows = evaluate(*options, "--n", 3, "--k", 3, "--sampling_seed", 1)
    assert {(body["temperature"], body["n"]) for _, body in server.asked} == {(0.8, 3)}
    assert (scores["programs"]["decoding"], len(rows)) == ("server", 12)
    assert scores["programs"]["server"] == server.address


def test_several_servers_are_named_in_the_scores(evaluate, servers):
    addresses = [server.address for server in servers]
    _, scores, _ = evaluate("--server", *addresses, "--server_model", "tiny", "--max_completion_length", 4)
    assert scores["programs"]["server"] == ", ".join(addresses)
    assert sum(len(server.asked) for server in servers) == 4


def test_a_restart_generates_nothing_twice(evaluate, server, tasks, tmp_path, capsys):
    server.edit = lambda reply: {"choices": [{"text": f"    return x + {n}\n"} for n in (1, 2, 3)]}
    options = ["--server", server.address, "--server_model", "tiny", "--n", 3, "--k", 1, 3, "--concurrency", 1,
               "--max_retries", 0, "--max_completion_length", 4]  # fmt: skip
    server.faults[tasks[2].prompt] = [Fault(status=500)]
    assert evaluate(*options)[0] == 2
    assert "status 500 for task 'add-3'" in capsys.readouterr().err
    assert not (tmp_path / "scores.json").exists()
    assert list((tmp_path / "deep").iterdir()) == []
    server.asked.clear()
    code, scores, rows = evaluate(*options)
    assert code == 0
    assert server.prompts() == [task.prompt for task in tasks[2:]]
    assert scores["programs"]["restored"] == 6
    # The rows of an earlier attempt are there, too, and in order.
    assert [(row["task_id"], row["index"]) for row in rows] == [(task.task_id, n) for task in tasks for n in range(3)]
    assert [row["pass_rate"] == 1.0 for row in rows] == [n == task for task in range(4) for n in range(3)]
    assert scores["figures"]["solved@3"] == 3 / 4
    assert not (tmp_path / "scores.json.journal").exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_processes_equal_one(evaluate, folder, tasks, tmp_path):
    options = ["--model", str(folder / "model"), "--num_programs", "3", "--k", "1", "3", "--batch_size", "1",
               "--max_completion_length", "6"]  # fmt: skip
    more = replace(tasks[0], task_id="more", prompt="# more\ndef f(x):\n")
    path = write(tmp_path / "five.jsonl", [task.to_row() for task in (*tasks, more)])
    _, alone, rows = evaluate(*options, tasks=path)
    together, verdicts = tmp_path / "together.json", tmp_path / "together.jsonl"
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "trl_pper.cli",
         "evaluate", "--tasks", str(path), *options, "--output", str(together), "--verdicts", str(verdicts)],
        capture_output=True, text=True, timeout=240, cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    scores = json.loads(together.read_text())
    assert (scores["processes"], alone["processes"]) == (2, 1)
    for name in ("figures", "per_task"):
        assert scores[name] == alone[name]
    assert read(verdicts) == rows
    assert len({row["completion"] for row in rows}) > 5
    # The main process alone speaks, and nothing is left.
    assert done.stdout.count("all tasks: 5 tasks, 15 programs") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "deep", "five.jsonl", "scores.json", "together.json", "together.jsonl",
    ]  # fmt: skip


def test_real_samples_come_out_as_they_were_measured(evaluate, shared, tmp_path):
    """Every twentieth of real samples of eight tasks: pass@k is that of the verdicts measured elsewhere."""
    samples = shared("dumps/codet_humaneval_codegen16B_k100.dev.jsonl.gz")
    dump = [row for _, row in itertools.islice(read_rows(samples), 8)]
    rows = [{"task_id": row["task_id"], "completions": row["completions"][::20]} for row in dump]
    path = shared("humaneval/HumanEval.dev.jsonl.gz")
    wanted = {row["task_id"] for row in dump}
    few = write(tmp_path / "few.jsonl", [task.to_row() for task in load_tasks(path) if task.task_id in wanted])
    _, scores, _ = evaluate("--programs", write(tmp_path / "samples.jsonl", rows), "--k", 1, 5, tasks=few)
    accepted = [sum(map(bool, row["measured_passed"][::20])) for row in dump]
    assert [one["accepted"] for one in scores["per_task"]] == accepted
    assert scores["figures"]["pass@1"] == pytest.approx(sum(accepted) / 5 / len(dump))
    assert 0 < sum(accepted) < 5 * len(dump)
    assert scores["figures"]["pass@5"] == scores["figures"]["solved@5"] == sum(map(bool, accepted)) / len(dump)
