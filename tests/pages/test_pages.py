"""The pages that a newcomer reads run as they stand, and no page has code that no test runs."""

import json
import re
import shutil
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest

import trl_pper
from tests.support.pages import DOCS, ROOT, SMALL_COMMAND, blocks, commands, launched, marked_to_run, small
from trl_pper import CodingTask, Judge, ReplayBuffer
from trl_pper.cli.commands import main
from trl_pper.rounds.collection_report import CollectionReport

MODEL, SMALL_MODEL = "Qwen/Qwen2.5-Coder-0.5B", "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.fixture
def folder(tmp_path, monkeypatch, tokenizer, tasks):
    """A folder in which the model that the pages name is a small one of the same architecture."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=1024, eos_token_id=0, bos_token_id=0, pad_token_id=1,
    )  # fmt: skip
    Qwen2ForCausalLM(config).save_pretrained(tmp_path / MODEL)
    tokenizer.save_pretrained(tmp_path / MODEL)
    monkeypatch.chdir(tmp_path)
    write("tasks.jsonl", [task.to_row() for task in tasks])
    return tmp_path


def write(name: str, rows: list[dict]) -> None:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows))


def execute(page: Path, code: str, names: dict) -> None:
    exec(compile(small(code), page, "exec"), names)


def test_every_page_with_code_is_run_by_a_test():
    pages = list(DOCS.glob("*.md"))
    with_code = {one for one in pages if blocks(one, "python") or blocks(one, "diff") or [*commands(one)]}
    assert len(with_code) > 10
    several_processes = DOCS / "multi-gpu.md"
    assert launched() == [line for block in blocks(several_processes, "bash") for line in block.splitlines()] != []
    run = {ROOT / name for name in marked_to_run() if name.endswith(".md")} | {several_processes}
    assert with_code == run


@pytest.mark.slow
@pytest.mark.runs("docs/getting-started.md")
def test_getting_started(page, folder, capsys):
    (tasks,) = blocks(page, "json")
    Path("tasks.jsonl").write_text(tasks)
    names: dict = {}
    ask, train, on_a_cpu = blocks(page, "python")
    execute(page, ask, names)
    level, *rates = capsys.readouterr().out.split()
    assert (level, rates) == (Judge().isolation, ["1.0", "0.5"])
    execute(page, train, names)
    assert names["trainer"].state.global_step == 2
    assert [entry["eval_tasks"] for entry in names["trainer"].state.log_history if "eval_tasks" in entry] == [2, 2]
    names["trainer"].judge.close()
    (folder / SMALL_MODEL).parent.mkdir()
    shutil.copytree(folder / MODEL, folder / SMALL_MODEL)
    (folder / SMALL_MODEL / "chat_template.jinja").write_text(
        "{% for one in messages %}{{ one.content }}{{ eos_token }}{% endfor %}"
    )
    # `small` sets both already.
    execute(page, re.sub(r"use_cpu=True,\s*bf16=False,", "", on_a_cpu), names)
    assert names["small"].state.global_step == 2
    assert "an answer to the chat messages" in Path("outputs/small/README.md").read_text()
    names["small"].judge.close()
    demo, train, evaluate, report = commands(page)
    assert demo == ["demo"]
    assert main([*train, *SMALL_COMMAND, "--max_completion_length", "8"]) == 0
    assert main([*evaluate, "--max_completion_length", "8", "--workers", "1"]) == 0
    assert {"pass@1", "pass@5"} <= set(re.findall(r"pass@\d", capsys.readouterr().out))
    assert main(report) == 0
    assert "2 tasks" in Path("report.html").read_text()


@pytest.mark.slow
@pytest.mark.runs("docs/from-sfttrainer.md")
def test_from_sfttrainer(page, folder):
    import datasets

    (diff,) = blocks(page, "diff")
    lines = diff.splitlines()
    for removed, trainer in (("+", "SFTTrainer"), ("-", "PPERTrainer")):
        code = "\n".join(line[1:] for line in lines if line[:1] != removed)
        # What SFTConfig knows of that.
        options = code.replace("SFTConfig(", 'SFTConfig("", max_steps=1, ')
        names = {"dataset": datasets.Dataset.from_list([{"prompt": "a", "completion": "b"}] * 8)}
        if trainer == "SFTTrainer":
            code = options.replace('"", ', "").replace(
                'output_dir="outputs/run"', 'output_dir="outputs/run", use_cpu=True, bf16=False, report_to=[]'
            )
            exec(compile(code, page, "exec"), names)
        else:
            execute(page, code, names)
        assert type(names["trainer"]).__name__ == trainer
        assert names["trainer"].state.global_step >= 1
        assert Path("outputs/run/adapter_model.safetensors").is_file()
        Path("outputs/run/adapter_model.safetensors").unlink()


@pytest.mark.runs("docs/concepts.md")
def test_concepts(page, capsys):
    names: dict = {}
    for code, shown in zip(blocks(page, "python"), blocks(page, "text"), strict=True):
        execute(page, code, names)
        assert capsys.readouterr().out == shown


@pytest.mark.runs("docs/judge.md")
def test_the_judge(page):
    judging, *checkers = blocks(page, "python")
    names: dict = {}
    execute(page, judging, names)
    assert len(names["verdict"].outcomes) == 2
    assert len(checkers) == 3
    for code in checkers:
        execute(page, code, names)
        with Judge(workers=1) as judge:
            task = names["CodingTask"](task_id="divisor", prompt="Print a divisor.", tests=names["tests"])
            [[right, wrong]] = judge.run([(task, ["input(); print(4)", "input(); print(5)"])])
        assert (right.pass_rate, wrong.pass_rate) == (1.0, 0.0)


@pytest.mark.runs("docs/sources.md")
def test_sources(page, folder, tasks, local):
    names: dict = {}
    for code in blocks(page, "python"):
        execute(page, code, names)
    asked = [CodingTask(task_id="double", prompt="def double(x):\n", tests=tasks[0].tests)]
    [[program]] = names["written_earlier"].generate(asked)
    assert program.completion == "    return 2 * x"
    names["own"].max_completion_length = 8
    assert [len(programs) for programs in names["own"].generate(tasks[:1], student=local)] == [3]
    scored = names["of_one_model"](ReplayBuffer(), names["Scorer"](local))
    assert len(scored) == 0


@pytest.mark.slow
@pytest.mark.runs("docs/teacher-runs.md")
def test_teacher_runs(page, folder, tasks, server):
    written = [{"task_id": task.task_id, "completion": f"    return x + {n}\n"} for n, task in enumerate(tasks, 1)]
    write("teacher.jsonl", written)
    write("chatty_teacher.jsonl", written)
    names: dict = {}
    file, chatty, alone = blocks(page, "python")
    execute(page, file, names)
    assert names["trainer"].buffer.pass_rates().tolist() == [1.0] * len(tasks)
    execute(page, chatty, names)
    assert names["collector"].learn == "program"
    train_from_file, collect, train_from_buffer, rescore = commands(page)
    few = ["--max_completion_length", "8"]
    assert main([*train_from_file, *SMALL_COMMAND, *few]) == 0
    collect[collect.index("--server") + 1] = server.address
    assert main([*collect, *few, "--workers", "1"]) == 0
    assert len(ReplayBuffer.load("teacher.parquet"))
    assert main([*train_from_buffer, *SMALL_COMMAND, *few]) == 0
    assert main(rescore) == 0
    assert {one.scorer for one in ReplayBuffer.load("scored.parquet")} == {MODEL}
    Path("scored.parquet").rename("teacher.parquet")
    execute(page, alone, names)
    sources = {one.source for one in names["trainer"].buffer}
    assert len(sources) == 2, sources


def test_what_goes_wrong_is_quoted_as_it_is_said():
    import transformers

    text = (DOCS / "troubleshooting.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` \|", text, flags=re.MULTILINE)
    assert len(quoted) == 12
    own = [one for one in (ROOT / "trl_pper").rglob("*.py")]
    upstream = Path(transformers.__file__).with_name("training_args.py")
    # Messages are written in pieces, a line each.
    said = "".join(re.sub(r'"\s*\n\s*f?"', "", one.read_text()) for one in (*own, upstream))
    assert [one for one in quoted if one not in said] == []
    named = set(re.findall(r"`(pper/\w+)`", text))
    assert len(named) > 5
    known = {f"pper/{one.name}" for one in fields(CollectionReport)}
    assert named <= known


def test_every_public_name_is_in_the_reference():
    page = (DOCS / "api.md").read_text().splitlines()
    assert [name for name in trl_pper.__all__ if f"::: trl_pper.{name}" not in page] == []


def test_the_versions_of_the_page_are_those_measured():
    rows = re.findall(r"^\| ([^|]+?) \| ([^|]+?) \| ([^|]+?) \|$", (DOCS / "installing.md").read_text(), re.MULTILINE)
    shown = {name: values for name, *values in rows}
    sets = json.loads((ROOT / "benchmarks/results/versions.json").read_text())["sets"]
    assert [one["versions"] for one in sets] == ["lowest", "latest"]
    for place, one in enumerate(sets):
        assert one["failures"] == []
        found = {name: version.partition("+")[0] for name, version in one["installed"].items()}
        found |= {f"tests {what}": f"{one[what]:,}" for what in ("passed", "failed")}
        found |= {
            f"demo, held-out tasks solved, {when}": f"{100 * one[f'demo_{when}']:.1f} %"
            for when in ("before", "after")
        }
        named = {name: values[place] for name, values in shown.items() if name in found}
        assert len(named) == 12
        assert named == {name: found[name] for name in named}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [one for name in ("metric", "quantization", "report") for one in project["optional-dependencies"][name]]
    for text in (*project["dependencies"], *extras):
        name, bound = re.match(r"([\w-]+)>=([\d.]+)", text).groups()
        if name == "rapidfuzz":
            # It joined after the measurement; the page says what was tried.
            assert f"rapidfuzz {bound}.0" in (DOCS / "installing.md").read_text()
            continue
        # 2.13 is 2.13.0.
        assert f"{sets[0]['installed'][name].partition('+')[0]}.0".startswith(f"{bound}."), text


def test_docs_and_examples_import_from_the_top_only():
    texts = {path: path.read_text() for path in (ROOT / "README.md", *DOCS.rglob("*.md"))}
    texts |= {path: path.read_text() for path in (ROOT / "examples").rglob("*") if path.suffix in {".py", ".ipynb"}}
    found = {path: re.findall(r"(?:from|import) (trl_pper[.\w]*)", text) for path, text in texts.items()}
    assert sum(map(len, found.values())) > 30
    assert {path: names for path, names in found.items() if {*names} - {"trl_pper"}} == {}
