"""The commands of docs/collecting.md are commands: they parse, and they run on a tiny model."""

import json
import shlex
from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from tests.support.pages import DOCS, blocks
from trl_pper import ReplayBuffer
from trl_pper.cli.commands import main, parse


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command of the page, those of `accelerate launch` too."""
    return [
        shlex.split(line, comments=True)
        for block in blocks(page, "bash")
        for line in block.replace("\\\n", " ").splitlines()
        if line.startswith(("trl-pper", "accelerate"))
    ]


def test_every_command_of_the_page_has_known_options():
    commands = commands_of(DOCS / "collecting.md")
    assert len(commands) == 12
    for words in commands:
        command = words[words.index("trl_pper.cli") + 1 :] if words[0] == "accelerate" else words[1:]
        if command[0] != "train" and "..." not in command:
            parse(command)


@pytest.mark.slow
@pytest.mark.runs("docs/collecting.md")
def test_the_commands_of_the_page_run(page, tmp_path, monkeypatch, make_model, tokenizer, tasks, server):
    monkeypatch.chdir(tmp_path)
    rows = "".join(json.dumps(task.to_row()) + "\n" for task in tasks)
    Path("tasks.jsonl").write_text(rows)
    Path("held-out.jsonl").write_text(rows)
    written = [{"task_id": task.task_id, "completion": "    return x\n"} for task in tasks]
    Path("completions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in written))
    pairs = [{"prompt": task.prompt, "chosen": "    return 0\n", "rejected": f"    return x + {place}\n"}
             for place, task in enumerate(tasks, start=1)]  # fmt: skip
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    make_model().save_pretrained("model")
    tokenizer.save_pretrained("model")
    stands_for = {
        "Qwen/Qwen2.5-Coder-1.5B": "model", "openai-community/gpt2-xl": "model", "640": "100",
        "http://localhost:8000/v1": server.address,
    }  # fmt: skip
    small = ["--max_completion_length", "4"]
    for words in commands_of(page):
        if words[0] == "accelerate":
            continue  # tests/rounds/test_collect_processes.py
        command = [stands_for.get(word, word) for word in words[1:]]
        if command[0] == "collect" and "..." in command:
            place = command.index("...")
            command[place : place + 1] = ["--tasks", "tasks.jsonl", "--model", "model", "--batch_size", "1"]
            for index in range(4):
                assert main([*command, *small, "--shard_index", str(index), "--workers", "1"]) == 0
        elif command[0] == "collect":
            assert main([*command, *small, "--workers", "1"]) == 0
        elif command[0] == "merge":
            files = sorted(map(str, Path().glob("buffer-*-of-00004.parquet")))
            assert len(files) == 4
            assert main(["merge", *files, *command[2:]]) == 0
        elif command[0] == "train":
            extra = [
                "--use_cpu",
                "True",
                "--bf16",
                "False",
                "--max_steps",
                "1",
                "--report_to",
                "none",
                "--num_beams",
                "2",
            ]
            assert main([*command, *small, *extra]) == 0
            assert json.loads(Path("outputs/run/eval_results.json").read_text())["eval_tasks"] == 4.0
        else:
            assert main(command) == 0
    assert {one.scorer for one in ReplayBuffer.load("scored.parquet")} == {"model"}
    # Every pair of the set is the wrong way round, and none of the cleaned one is.
    chosen = parquet.read_table("cleaned.parquet")["chosen"].to_pylist()
    assert chosen == [f"    return x + {place}\n" for place in range(1, len(tasks) + 1)]
