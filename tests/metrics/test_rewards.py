"""The judge as a reward function: the calls TRL makes, what is judged in them, and a run of TRL's own trainer."""

import pytest

from tests.support.broken_judge import BrokenJudge
from trl_pper import CodingTask, FunctionTests, Judge, StdioTests, pass_rate_reward
from trl_pper.demo import MODEL
from trl_pper.demo.tasks import demo_tasks
from trl_pper.tasks.task import StdioCase, task_rows

DOUBLE = CodingTask(
    task_id="double",
    prompt="def double(x):\n",
    tests=FunctionTests(entry_point="double", code="assert double(2) == 4\nassert double(0) == 0"),
)
AREA = CodingTask(
    task_id="area",
    prompt="def area(r):\n",
    tests=FunctionTests(
        entry_point="area", code="assert area(0) == 0\nassert area(1) == math.pi", setup="import math"
    ),
    preamble="import math",
)


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def columns(*tasks: CodingTask) -> dict[str, list]:
    """The arguments TRL makes of the rows of some tasks, a row for each completion."""
    rows = task_rows(tasks)
    named = {name: [row[name] for row in rows] for name in rows[0] if name != "prompt"}
    return {
        "prompts": [task.prompt for task in tasks],
        "trainer_state": None,
        "completion_ids": [[1]] * len(tasks),
        **named,
    }


def test_each_completion_is_rewarded_by_the_tests_of_its_row(judge):
    given = columns(DOUBLE, AREA, DOUBLE, AREA, DOUBLE)
    written = ["    return 2 * x", "    return 0", "    return x + 2", "    return math.pi * r * r", "I cannot."]
    assert pass_rate_reward(judge)(completions=written, **given) == [1.0, 0.5, 0.5, 1.0, 0.0]


def test_of_messages_the_last_of_the_assistant_is_judged(judge):
    chat = [{"role": "user", "content": "Write double(x)."}]
    right, wrong = (f"```python\ndef double(x):\n    return {body}\n```" for body in ("2 * x", "1"))
    completions = [
        [{"role": "assistant", "content": f"Sure:\n{right}"}],
        [
            {"role": "assistant", "content": wrong, "tool_calls": []},
            {"role": "tool", "content": right},
            {"role": "assistant", "content": [{"type": "text", "text": right}]},
        ],
        [{"role": "assistant", "content": right}, {"role": "assistant", "content": wrong}],
        [{"role": "assistant", "content": None}],
        [],
    ]
    given = columns(*[CodingTask(task_id="double", prompt=chat, tests=DOUBLE.tests)] * 5)
    assert pass_rate_reward(judge)(completions=completions, environments=None, **given) == [1.0, 1.0, 0.0, 0.0, 0.0]


def test_a_row_without_an_id_is_judged_by_its_tests(judge):
    given = columns(DOUBLE, AREA)
    del given["task_id"]
    written = ["    return 2 * x", "    return math.pi * r"]
    assert pass_rate_reward(judge)(completions=written, **given) == [1.0, 1.0]


def test_what_has_no_tests_or_was_not_judged_has_no_reward(judge):
    code = "import no_such_module\nassert f() == f()"
    declined = CodingTask(task_id="lacking", prompt="def f():\n", tests=FunctionTests(entry_point="f", code=code))
    given = columns(DOUBLE, DOUBLE, declined)
    given["tests"][0] = None
    logged = {}
    rewards = pass_rate_reward(judge)(
        completions=["2", "    return 2 * x", "    return object()"],
        log_extra=logged.__setitem__, log_metric=logged.__setitem__, **given,
    )  # fmt: skip
    assert rewards == [None, 1.0, None]
    assert logged["accepted"] == 1.0
    assert logged["verdict"] == ["", "2 of 2 tests", "0 of 1 tests, unsupported"]


def test_no_test_is_quoted_in_the_log(judge):
    logged = {}
    pass_rate_reward(judge)(completions=["    return 4"], log_extra=logged.__setitem__, **columns(DOUBLE))
    assert logged == {"verdict": ["1 of 2 tests, wrong_answer"]}


def test_a_sandbox_that_failed_is_no_zero():
    logged = {}
    rewards = pass_rate_reward(BrokenJudge())(
        completions=["    return 2 * x"] * 2, log_metric=logged.__setitem__, **columns(DOUBLE, DOUBLE)
    )
    assert rewards == [None, None]
    assert logged == {}


def test_programs_of_one_task_are_judged_together():
    class Counting(Judge):
        def stream(self, jobs, **options):
            self.jobs = [(task.task_id, len(programs)) for task, programs in jobs]
            return super().stream(jobs, **options)

    judge = Counting(workers=1)
    pass_rate_reward(judge)(completions=["pass"] * 5, **columns(DOUBLE, DOUBLE, AREA, AREA, DOUBLE))
    assert judge.jobs == [("double", 3), ("area", 2)]
    judge.close()


def test_tests_with_a_checker_are_looked_up_by_id(judge):
    cases = (StdioCase(input="12", output="3"),)
    task = CodingTask(
        task_id="divisor",
        prompt="Print a divisor.",
        tests=StdioTests(cases=cases, compare=lambda given, output, expected: int(given) % int(output) == 0),
    )
    reward = pass_rate_reward(judge, tasks=[task, DOUBLE])
    rewards = reward(
        prompts=["Print a divisor."] * 3, completions=["print(4)", "print(5)", "print(1)"],
        task_id=["divisor", "divisor", None], tests=["of another kind"] * 3,
    )  # fmt: skip
    assert rewards == [1.0, 0.0, None]


def test_what_is_missing_is_named(judge):
    with pytest.raises(ValueError, match=r"tests: the data set must have this column; got \['task_id'\]"):
        pass_rate_reward(judge)(prompts=["p"], completions=["c"], task_id=["double"])
    with pytest.raises(ValueError, match=r"task_id: the data set must have this column; got \['answer'\]"):
        pass_rate_reward(judge, tasks=[DOUBLE])(prompts=["p"], completions=["c"], answer=["4"])
    with pytest.raises(ValueError, match="task_id: must name one of the 1 tasks; got 'treble'"):
        pass_rate_reward(judge, tasks=[DOUBLE])(prompts=["p"], completions=["c"], task_id=["treble"])
    with pytest.raises(ValueError, match="tasks: ids must be unique; 'double' is there twice"):
        pass_rate_reward(judge, tasks=[DOUBLE, DOUBLE])


def test_nothing_to_reward_is_no_error(judge):
    assert pass_rate_reward(judge)(prompts=[], completions=[], tests=[]) == []


SMALL = dict(
    max_steps=2, per_device_train_batch_size=16, num_generations=4, max_completion_length=64, logging_steps=1,
    report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, save_strategy="no",
)  # fmt: skip


@pytest.mark.slow
def test_grpo_learns_by_it_beside_an_asynchronous_reward(judge, tmp_path):
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    rows = task_rows(demo_tasks("train")[:8])
    for row in rows[:4]:
        row["tests"] = None
    calls = []

    async def length(completions, tests, **others):
        calls.append((len(completions), sum(one is None for one in tests)))
        return [len(text) / 1000 if one is None else None for text, one in zip(completions, tests, strict=True)]

    trainer = GRPOTrainer(
        model=str(MODEL),
        reward_funcs=[pass_rate_reward(judge), length],
        args=GRPOConfig(output_dir=str(tmp_path), log_completions=False, **SMALL),
        train_dataset=Dataset.from_list(rows),
    )
    before = {name: weights.clone() for name, weights in trainer.model.named_parameters()}
    trainer.train()
    assert sum(n for n, _ in calls) == 32
    # Half of the tasks have no tests, and both steps together take each task once.
    assert sum(n for _, n in calls) == 16
    found = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(found) == 2
    for entry in found:
        assert 0 < entry["rewards/pass_rate_reward/mean"] <= 1
        assert 0 <= entry["accepted"] <= entry["rewards/pass_rate_reward/mean"]
        assert 0 < entry["rewards/length/mean"] < 1
    assert any(not weights.equal(before[name]) for name, weights in trainer.model.named_parameters())
