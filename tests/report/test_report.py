"""The report: one file, no request leaves it, hostile program text stays text, figures are honest."""

import base64
import gzip
import hashlib
import json
import re

import pytest

from trl_pper import Experience, ReplayBuffer
from trl_pper.cli.commands import main
from trl_pper.report.history import find_run, history_of
from trl_pper.report.page import write_report

HOSTILE = "</script><img src=x onerror=alert(1)>\x00\u202e\r\n<!-- '\"`${x}"


def experience(i: int, **fields) -> Experience:
    defaults = dict(
        task_id=f"task-{i}", prompt="p", completion="c", program=f"print({i})", pass_rate=i % 3 / 2,
        outcomes=("passed", "wrong_answer"), logprob=-float(i + 1), num_tokens=10,
    )  # fmt: skip
    return Experience(**{**defaults, **fields})


def filled(count: int = 30, **settings) -> ReplayBuffer:
    buffer = ReplayBuffer(**settings)
    buffer.add(experience(i, task_id=f"task-{i // 3}") for i in range(count))
    return buffer


def report(tmp_path, buffer, **options) -> str:
    write_report(tmp_path / "deep" / "report.html", buffer, **options)
    return (tmp_path / "deep" / "report.html").read_text(encoding="utf-8")


def unpacked(page: str) -> dict:
    """Return what the page's script will unpack."""
    (packed,) = re.findall(r'<script type="application/gzip" id="data">([A-Za-z0-9+/=]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_what_models_and_users_write_is_text(tmp_path):
    buffer = ReplayBuffer()
    names = {name: f"{HOSTILE}{name}" for name in ("task_id", "program", "prompt", "source", "scorer", "settings")}
    buffer.add([experience(0, **names)])
    page = report(tmp_path, buffer, title=HOSTILE, facts={HOSTILE: HOSTILE})
    assert page.count("</script>") == 2
    assert "<img" not in page
    assert "<!--" not in page
    assert not set("\x00\u202e\r") & set(page)
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;⟨U+0000⟩⟨U+202E⟩⟨U+000D⟩" in page
    assert "<title>⟨U+DCFF⟩</title>" in report(tmp_path, buffer, title="\udcff")
    data = unpacked(page)
    assert data["programs"][0]["text"] == names["program"]
    assert data["tasks"][0]["name"] == names["task_id"]
    assert data["tasks"][0]["prompt"] == names["prompt"]


def test_nothing_is_fetched_and_only_its_own_script_may_run(tmp_path):
    page = report(tmp_path, filled(), history=history_of(evaluations=[(0, {"eval_accuracy": 0.2})]))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert not re.findall(r"\sstyle=|\son\w+=|@import|https?:", page.replace(policy, ""))
    assert re.findall(r'(?:src|href)="(?!#)([^"]*)"', page) == []


def test_charts_have_names_and_say_in_words_what_they_show(tmp_path):
    page = report(tmp_path, filled(), history=history_of(evaluations=[(0, {"eval_accuracy": 0.2})]))
    charts = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(charts) == 6
    names = re.findall(r'\sid="([^"]*)"', page)
    assert len(names) == len(set(names))
    for chart in charts:
        labels = re.search(r'role="img" aria-labelledby="([^"]*)"', chart)[1].split()
        assert all(f'id="{label}"' in chart for label in labels)
        assert set(re.findall(r'(?:url\(|href=")#([^)"]*)', chart)) <= set(names)
        assert "var(--" in chart


def test_truncated_programs_are_counted_and_marked(tmp_path):
    buffer = filled(4)
    assert "cut off before their end" not in report(tmp_path, buffer)
    buffer.add([experience(9, truncated=True)])
    page = report(tmp_path, buffer)
    assert "truncated programs, cut off before their end" in page
    assert "20.0 %" in page
    assert [one["truncated"] for one in unpacked(page)["programs"]] == [False] * 4 + [True]


def test_the_buffer_decides_the_page(tmp_path):
    first, again = report(tmp_path, filled()), report(tmp_path, filled())
    assert first == again
    assert report(tmp_path, filled(31)) != first


def test_slow_tasks_are_named_where_their_time_is_known(tmp_path):
    page = report(tmp_path, filled())
    assert "Slowest tasks" not in page
    timed = ReplayBuffer()
    timed.add([experience(0, task_id=f"<b>{HOSTILE}", cpu_seconds=0.125)])
    page = report(tmp_path, timed)
    section = page.partition('<section id="slowest"')[2].partition("</section>")[0]
    assert "0.12" in section
    assert "&lt;b&gt;&lt;/script&gt;" in section
    assert "<b>" not in section


def test_first_and_last_scores_on_held_out_tasks_are_compared(tmp_path):
    scores = [(0, {"eval_accuracy": 0.2, "eval_pass@3": 0.5}), (2, {"eval_accuracy": 0.5, "eval_pass@3": 0.4})]
    page = report(tmp_path, filled(), history=history_of(evaluations=scores))
    assert "tasks solved by the first program" in page
    assert re.search(r'class="number up">\+30.0 points', page)
    assert "tasks solved by any of 3 programs" in page
    assert re.search(r'class="number down">-10.0 points', page)
    assert "Held-out tasks" not in report(tmp_path, filled())


def test_unknown_possibility_and_nothing_to_draw_are_said(tmp_path):
    buffer = ReplayBuffer(priority="filter")
    buffer.add([experience(0, logprob=None, num_tokens=None, outcomes=())])
    page = report(tmp_path, buffer)
    assert "Programs of unknown possibility stand apart: 1." in page
    assert "<dt>effective sample size of the draw</dt><dd>none</dd>" in page
    assert "Nothing can be drawn" in page
    assert "No task has both a failed and a passing program." in page
    (program,) = unpacked(page)["programs"]
    assert (program["possibility"], program["draw"], program["worst"], program["outcomes"]) == (None, None, -1, "")


def test_every_program_has_its_outcomes_in_order(tmp_path):
    buffer = ReplayBuffer()
    outcomes = ("wrong_answer", "passed", "timeout", "passed")
    buffer.add([experience(0, outcomes=outcomes), experience(1, outcomes=("passed",) * 600)])
    data = unpacked(report(tmp_path, buffer))
    few, many = data["programs"]
    assert [data["outcomes"]["abcdefghij".index(letter)] for letter in few["outcomes"]] == list(outcomes)
    assert data["outcomes"][few["worst"]] == "timeout"
    assert (len(many["outcomes"]), many["tests"]) == (500, 600)


def test_a_page_holds_as_many_programs_as_asked_for_and_says_so(tmp_path):
    buffer = ReplayBuffer()
    buffer.add(
        experience(i, task_id=f"t{i % 50}", program="a " * 10_000 + str(i), outcomes=("passed",)) for i in range(300)
    )
    page = report(tmp_path, buffer, programs=40)
    shown = unpacked(page)["programs"]
    assert len(shown) == 40
    assert "40 of 300 programs can be read here:" in " ".join(page.split())
    assert (len(shown[0]["text"]), shown[0]["more"]) == (8000, 12_001)
    # Of the likeliest many, and others too.
    likeliest = sorted(buffer.p2values())[-20]
    assert 5 <= sum(one["p2value"] >= likeliest - 1e-4 for one in shown) < 40
    assert len(page) < 300_000
    none = report(tmp_path, buffer, programs=0)
    assert unpacked(none)["programs"] == unpacked(none)["near_misses"] == []
    assert "No program is embedded in this page" in none


def test_near_misses_stand_in_a_page_of_any_number_of_programs(tmp_path):
    buffer = ReplayBuffer()
    buffer.add(experience(i, task_id="t", program=f"x = {i}", pass_rate=float(i == 7)) for i in range(50))
    data = unpacked(report(tmp_path, buffer, programs=3))
    pair = data["near_misses"][0]
    assert data["programs"][pair["passing"]]["text"] == "x = 7"
    assert data["programs"][pair["failed"]]["pass_rate"] == 0
    assert pair["rows"] == [["~", ["x = ", data["programs"][pair["failed"]]["text"][4:]], ["x = ", "7"]]]


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(ValueError, match="buffer: must hold at least one judged program"):
        write_report(tmp_path / "report.html", ReplayBuffer())
    with pytest.raises(ValueError, match="programs: must be at least 0; got -1"):
        write_report(tmp_path / "report.html", filled(), programs=-1)
    assert not (tmp_path / "report.html").exists()


def test_png_files_are_written_where_asked_for(tmp_path, capsys):
    filled().save(tmp_path / "buffer.parquet")
    command = ["report", str(tmp_path / "buffer.parquet"), "--output", str(tmp_path / "report.html")]
    assert main([*command, "--png", str(tmp_path / "png"), "--title", "Mine", "--programs", "5"]) == 0
    assert {file.name for file in (tmp_path / "png").iterdir()} == {
        "possibility.png", "draw.png", "coverage.png", "outcomes.png", "pairs.png",
    }  # fmt: skip
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in (tmp_path / "png").iterdir())
    page = (tmp_path / "report.html").read_text()
    assert "<title>Mine</title>" in page
    assert len(unpacked(page)["programs"]) == 5
    assert "report of 30 programs in" in capsys.readouterr().out


def test_a_run_is_found_by_its_folder_and_by_its_checkpoint(tmp_path, make_model, tokenizer, tasks):
    from trl_pper import DatasetSource, PPERConfig, PPERTrainer
    from trl_pper.rounds.collector import BeamSampleCollector

    rows = [{"task_id": task.task_id, "completion": f"    return x + {n}\n"} for task in tasks for n in (1, 2)]
    trainer = PPERTrainer(
        model=make_model(),
        args=PPERConfig(
            output_dir=str(tmp_path / "run"), use_cpu=True, bf16=False, report_to=[], disable_tqdm=True, num_beams=2,
            max_completion_length=6, max_length=128, per_device_train_batch_size=4, steps_per_round=1,
            num_train_epochs=2, save_strategy="epoch", eval_strategy="epoch", judge_workers=1,
            judge_memory_bytes=2**30, gradient_checkpointing=False,
        ),
        train_dataset=tasks,
        eval_dataset={"one": tasks[:2], "two": tasks[2:]},
        processing_class=tokenizer,
        callbacks=[BeamSampleCollector(source=DatasetSource(rows, name="teacher"))],
    )  # fmt: skip
    with trainer.judge:
        trainer.train()
    (tmp_path / "run" / "checkpoint-2" / "rng_state.pth").unlink()
    killed, run = find_run(tmp_path / "run" / "checkpoint-2"), find_run(tmp_path / "run")
    assert run.path == tmp_path / "run" / "checkpoint-1"
    assert [len(one.history.rounds) for one in (run, killed)] == [1, 2]
    assert [one.rounds_trained for one in killed.history.evaluations] == [1, 2]
    assert set(killed.history.scores()) >= {"accuracy of one", "accuracy of two", "pass@2 of one"}
    logged = [report.pass_rate for report in trainer.collector.reports]
    assert [figures["pass_rate"] for figures in killed.history.rounds] == logged
    page = report(tmp_path, killed.buffer, history=killed.history)
    assert "Round by round</h3>" in page
    assert "tasks solved by the first program, two" in page


@pytest.mark.filterwarnings("ignore:.*killed while writing")
def test_where_nothing_is_found_it_says_what_was_looked_for(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "a folder with _pper/buffer.parquet or a complete checkpoint" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "none.parquet")]) == 2
    assert "none.parquet" in capsys.readouterr().err
    checkpoint = tmp_path / "checkpoint-1"
    filled().save(checkpoint / "_pper" / "buffer.parquet")
    assert find_run(checkpoint).history.rounds == ()
    (checkpoint / "trainer_state.json").write_text("{}")
    with pytest.raises(ValueError, match=r"trainer_state.json: must be the state of a Trainer .*log_history"):
        find_run(checkpoint)
