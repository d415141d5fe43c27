"""The code of docs/other-trainers.md runs: a buffer becomes the data of each trainer, and each of them trains."""

import re
from importlib.metadata import version

import datasets
import pytest
import trl

from tests.support.pages import DOCS, blocks, commands
from trl_pper import Experience, ReplayBuffer
from trl_pper.cli.commands import main
from trl_pper.tasks.loading import write_tasks

#: No GPU here, one step, no tracker; everything else is the text of the page.
SMALL = (
    "max_steps=1, per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, "
    "save_strategy='no'"
)


@pytest.fixture
def folder(tmp_path, monkeypatch, make_model, tokenizer, tasks):
    """The model, the tasks and the two buffers that the page names."""
    make_model().save_pretrained(tmp_path / "me" / "base")
    tokenizer.save_pretrained(tmp_path / "me" / "base")
    write_tasks(tmp_path / "tasks.jsonl", tasks)
    for name in ("buffer", "chats"):
        buffer = ReplayBuffer()
        buffer.add(
            Experience(
                task_id=task.task_id,
                prompt=task.prompt if name == "buffer" else [{"role": "user", "content": task.prompt}],
                # To messages a model answers with the whole function.
                completion=f"{task.prompt if name == 'chats' else ''}    return {text}\n",
                program=f"{task.prompt}    return {text}\n",
                pass_rate=rate,
            )
            for place, task in enumerate(tasks, start=1)
            for text, rate in ((f"x + {place}", 1.0), ("x + 0", 1 / 3), ("0", 1 / 3), ("None", 0.0))
        )
        buffer.save(tmp_path / f"{name}.parquet")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    return tmp_path


def small(code: str) -> str:
    # Programs of the buffer have up to 20 tokens: longer ones are not replayed.
    code = re.sub(r'(Config\(output_dir="[^"]*")', rf"\1, {SMALL}", code)
    return code.replace("GRPOConfig(", "GRPOConfig(num_generations=4, max_completion_length=24, ")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.runs("docs/other-trainers.md")
def test_the_code_of_the_page_runs(page, folder, tasks, capsys):
    names: dict = {}
    trained = []
    for code in blocks(page, "python"):
        assert len([line for line in code.splitlines() if line and "import" not in line]) <= 7
        names.pop("trainer", None)
        exec(compile(small(code), page, "exec"), names)
        if "trainer" in names:
            assert names["trainer"].state.global_step == 1
            trained.append(type(names["trainer"]).__name__)
    assert trained == [f"{name}Trainer" for name in ("SFT", "DPO", "ORPO", "KTO", "Reward", "GRPO", "ReplayGRPO")]
    rows = datasets.Dataset.from_parquet("rl.parquet", cache_dir=folder).to_list()
    answers = datasets.Dataset.from_parquet("sft.parquet", cache_dir=folder).to_list()
    assert [message["role"] for message in answers[0]["messages"]] == ["user", "assistant"]
    with names["judge"]:
        for row, answer in zip(rows, answers, strict=True):
            truth = row["reward_model"]["ground_truth"]
            given = dict(data_source=row["data_source"], ground_truth=truth, extra_info=row["extra_info"])
            assert names["compute_score"](solution_str=answer["completion"][0]["content"], **given) == 1.0
            assert names["compute_score"](solution_str="    return None\n", **given) == 0.0
    for command in commands(page):
        assert main(command) == 0
    assert "KTOConfig(desirable_weight=3.5, undesirable_weight=1)" in capsys.readouterr().out


def test_the_page_says_where_this_trl_has_its_trainers():
    text = (DOCS / "other-trainers.md").read_text()
    assert f"where TRL {version('trl').rpartition('.')[0]} has it" in text
    rows = re.findall(r"^\|[^|]*\| (`\w+Trainer`[^|]*) \| `(trl[.\w]*)`[^|]* \|", text, flags=re.MULTILINE)
    assert len(rows) == 5
    for trainers, place in rows:
        for name in re.findall(r"`(\w+)`", trainers):
            assert hasattr(trl, name) == (place == "trl")
