"""The quickstart notebook prints what is stored in it, cell by cell, and a notebook shows the progress of training."""

import json
import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from trl_pper import BeamSampleCollector, DatasetSource, PPERConfig, PPERTrainer

NOTEBOOK = Path(__file__).parents[2] / "examples" / "quickstart.ipynb"
#: Runs the cells in one namespace, as a kernel does, and writes what each of them prints.
KERNEL = """
import contextlib, io, json, sys
printed, names = [], {}
for cell in json.load(sys.stdin):
    with contextlib.redirect_stdout(io.StringIO()) as text:
        exec(compile(cell, "cell", "exec"), names)
    printed.append(text.getvalue())
json.dump(printed, sys.stdout)
"""
#: These print the same on every machine: what a task is, and what the judge says of one program.
EXACT = ("print(tasks[0].prompt)", "with Judge()")


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


def stored(cell: dict) -> str:
    return "".join("".join(output.get("text", "")) for output in cell["outputs"])


def test_the_notebook_is_valid_and_holds_no_path_and_no_secret(cells):
    book = json.loads(NOTEBOOK.read_text())
    assert (book["nbformat"], book["nbformat_minor"]) == (4, 5)
    assert set(book) == {"cells", "metadata", "nbformat", "nbformat_minor"}
    ids = [cell["id"] for cell in book["cells"]]
    assert len(set(ids)) == len(ids)
    kinds = [cell["cell_type"] for cell in book["cells"]]
    assert kinds.count("markdown") >= 5 <= kinds.count("code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert {output["output_type"] for output in outputs} == {"stream", "display_data"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    text = json.dumps([output.get("text", output.get("data")) for output in outputs])
    assert not re.search(r"/(?:home|root|tmp|usr|opt|mnt|Users|work)\b|[A-Z]:\\|hf_|[Tt]oken|Traceback", text)
    assert NOTEBOOK.stat().st_size < 30_000


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.runs("examples/quickstart.ipynb")
def test_the_cells_print_what_is_stored(cells, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", KERNEL], input=json.dumps(["".join(cell["source"]) for cell in cells]),
        capture_output=True, text=True, cwd=tmp_path, timeout=350, env=os.environ,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    compared = 0
    for cell, printed in zip(cells, json.loads(done.stdout), strict=True):
        if any(text in "".join(cell["source"]) for text in EXACT):
            compared += 1
            # The isolation level is that of the machine.
            levels = re.compile(r"isolation level: \w+")
            assert levels.sub("", printed) == levels.sub("", stored(cell))
        if "accuracy" in stored(cell):
            compared += 1
            for line, old in zip(printed.splitlines(), stored(cell).splitlines(), strict=True):
                before, after = map(float, re.findall(r"([\d.]+)%", line))
                assert before < after
                assert old.split()[0] == line.split()[0]
                assert float(re.findall(r"([\d.]+)%", old)[0]) == pytest.approx(before, abs=3)
    assert compared == 3
    assert (tmp_path / "outputs/quickstart/_report.html").is_file()


@pytest.fixture
def display(monkeypatch) -> list[str]:
    """What a notebook would show; IPython itself is not needed for that."""
    shown: list[str] = []

    class Html(str):
        pass

    class Handle:
        def update(self, html: str) -> None:
            shown.append(str(html))

    def show(html: str, display_id: bool = False) -> Handle:
        shown.append(str(html))
        return Handle()

    ipython = types.ModuleType("IPython")
    ipython.display = types.ModuleType("IPython.display")
    ipython.display.HTML, ipython.display.display = Html, show
    for name, module in (("IPython", ipython), ("IPython.display", ipython.display)):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, "transformers.utils.notebook", raising=False)
    return shown


@pytest.mark.parametrize("eval_strategy", ["no", "epoch"])
def test_a_collection_leaves_the_progress_of_a_notebook_whole(
    display, eval_strategy, make_model, tokenizer, tasks, tmp_path
):
    from transformers.trainer_callback import ProgressCallback
    from transformers.utils.notebook import NotebookProgressCallback

    teacher = DatasetSource([{"task_id": task.task_id, "completion": "    return x + 1\n"} for task in tasks])
    trainer = PPERTrainer(
        model=make_model(),
        args=PPERConfig(
            output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to=[], num_beams=1, max_completion_length=4,
            max_length=128, per_device_train_batch_size=2, num_train_epochs=2, steps_per_round=3, logging_steps=3,
            save_strategy="no", judge_workers=1, eval_strategy=eval_strategy, gradient_checkpointing=False,
        ),
        train_dataset=tasks,
        eval_dataset=tasks[:1],
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=teacher)],
    )  # fmt: skip
    trainer.remove_callback(ProgressCallback)
    # As the Trainer does in a notebook: before the callbacks of the user.
    trainer.callback_handler.callbacks.insert(0, NotebookProgressCallback())
    with trainer.judge:
        before = trainer.evaluate()
        trainer.train()
    assert before["eval_accuracy"] == 0.0
    assert len(trainer.collector.reports) == 2
    assert "Accuracy" in display[0]
    assert "[6/6" in display[-1]
    rows = re.findall(r"<td>([\d.]+|No log)</td>", display[-1])
    # A row for each of two logs, or of two evaluations with the figures of judged programs.
    assert ("Accuracy" in display[-1]) == (eval_strategy == "epoch")
    assert rows[0] == ("1" if eval_strategy == "epoch" else "3")
