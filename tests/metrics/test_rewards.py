"""The judge as a reward function: the calls TRL makes, what is judged in them, and a run of TRL's own trainer."""

import asyncio
import concurrent.futures
import dataclasses
import multiprocessing
import threading

import pytest
from trl.trainer.utils import get_callable_name, is_async_callable

from tests.support.broken_judge import BrokenJudge
from trl_pper import CodingTask, FunctionTests, Judge, Outcome, StdioTests, Verdict, pass_rate_reward
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
    assert (logged["pass_rate"], logged["accepted"], logged["solved"]) == (1.0, 1.0, 1.0)
    assert (logged["outcomes/passed"], logged["outcomes/unsupported"]) == (0.5, 0.5)
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
    assert {name: value for name, value in logged.items() if value} == {"outcomes/sandbox_error": 1.0}
    assert not {"pass_rate", "accepted", "solved"} & logged.keys()


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
    logged = {}
    for rows in (0, 2):
        given = dict(prompts=["p"] * rows, completions=["c"] * rows, tests=[None] * rows)
        assert pass_rate_reward(judge)(**given, log_metric=logged.__setitem__) == [None] * rows
    assert logged == {}


HALF, ALL, NONE, NO_PYTHON = "    return x + 2", "    return 2 * x", "    return 7", "    return 2 *"


def test_credit_is_partial_or_full(judge):
    given = dict(columns(*[DOUBLE] * 4), completions=[HALF, ALL, NONE, NO_PYTHON])
    assert pass_rate_reward(judge)(**given) == [0.5, 1.0, 0.0, 0.0]
    assert pass_rate_reward(judge, credit="full")(**given) == [0.0, 1.0, 0.0, 0.0]


def test_a_program_that_compiles_earns_a_bonus(judge):
    given = dict(columns(*[DOUBLE] * 5), completions=[HALF, ALL, NONE, NO_PYTHON, ""])
    assert pass_rate_reward(judge, compile_bonus=0.25)(**given) == [0.75, 1.25, 0.25, 0.0, 0.0]
    assert pass_rate_reward(judge, credit="full", compile_bonus=0.25)(**given) == [0.25, 1.25, 0.25, 0.0, 0.0]


class Timed(BrokenJudge):
    """Passes every program, but "fails", and takes as many seconds as the program says."""

    def __init__(self):
        super().__init__()

        def judge(task, program):
            outcome = Outcome.WRONG_ANSWER if "fails" in program else Outcome.PASSED
            return Verdict.uniform(outcome, 2, cpu_seconds=float(program.split()[-1]))

        for slot in self._dispatcher.slots:
            slot.judge = judge


def test_the_fastest_passing_program_of_a_task_earns_most():
    tasks = [dataclasses.replace(DOUBLE, prompt=f"Write {n}.", task_id=f"t{n}") for n in range(3)]
    asked = [tasks[0], tasks[0], tasks[0], tasks[1], tasks[1], tasks[2], tasks[0], tasks[2]]
    written = ["takes 0.2", "takes 0.1", "fails 0.01", "takes 4", "takes 1", "fails 1", "takes 0.4", "fails 0"]
    given = dict(columns(*asked), completions=written)
    for credit in ("partial", "full"):
        rewards = pass_rate_reward(Timed(), credit=credit, cpu_time_bonus=0.4)(**given)
        assert rewards == pytest.approx([1.2, 1.4, 0.0, 1.1, 1.4, 0.0, 1.1, 0.0])
    # Below a millisecond all programs are equally fast.
    given = dict(columns(*[tasks[0]] * 3), completions=["a 0", "b 0.0005", "c 0.002"])
    assert pass_rate_reward(Timed(), cpu_time_bonus=1.0)(**given) == pytest.approx([2.0, 2.0, 1.5])


def test_a_measured_time_separates_a_slow_program(judge):
    slow = "    for n in range(3_000_000): x + n\n    return 2 * x"
    first, second = pass_rate_reward(judge, cpu_time_bonus=1.0)(completions=[slow, ALL], **columns(DOUBLE, DOUBLE))
    assert second == 2.0
    assert 1.0 < first < 1.5


def test_no_bonus_makes_a_reward_of_what_was_not_judged():
    reward = pass_rate_reward(BrokenJudge(), credit="full", compile_bonus=1.0, cpu_time_bonus=1.0)
    assert reward(completions=[ALL] * 2, **columns(DOUBLE, DOUBLE)) == [None, None]


def test_figures_count_completions_tasks_and_outcomes(judge):
    third = dataclasses.replace(DOUBLE, task_id="third", prompt="def double(x): # again\n")
    logged = {}
    pass_rate_reward(judge, compile_bonus=1.0)(
        completions=[ALL, HALF, NONE, "    return math.pi * r", NO_PYTHON],
        log_metric=logged.__setitem__, **columns(DOUBLE, DOUBLE, DOUBLE, AREA, third),
    )  # fmt: skip
    assert logged.pop("pass_rate") == pytest.approx((1 + 0.5 + 0 + 1 + 0) / 5)
    assert logged.pop("accepted") == 2 / 5
    assert logged.pop("solved") == 2 / 3
    assert set(logged) == {f"outcomes/{outcome}" for outcome in Outcome}
    assert {name: value for name, value in logged.items() if value} == {
        "outcomes/passed": 0.4, "outcomes/wrong_answer": 0.4, "outcomes/syntax_error": 0.2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"credit": "half"}, "credit: must be one of partial, full; got 'half'"),
        ({"compile_bonus": -0.1}, "compile_bonus: must be a finite number of at least 0; got -0.1"),
        ({"compile_bonus": True}, "compile_bonus: must be a finite number"),
        ({"cpu_time_bonus": float("nan")}, "cpu_time_bonus: must be a finite number of at least 0; got nan"),
        ({"cpu_time_bonus": "1"}, "cpu_time_bonus: must be a finite number of at least 0; got '1'"),
    ],
)
def test_options_out_of_range_are_refused(judge, options, said):
    with pytest.raises(ValueError, match=f"^{said}"):
        pass_rate_reward(judge, **options)


def test_a_coroutine_function_rewards_alike_and_holds_up_nobody():
    given = dict(columns(*[DOUBLE] * 2), completions=["takes 1", "fails 1"])
    started = threading.Event()

    class Slow(Timed):
        def run_pairs(self, pairs, **options):
            assert started.wait(30)
            return super().run_pairs(pairs, **options)

    reward, logged = pass_rate_reward(Slow(), asynchronous=True, cpu_time_bonus=0.5), {}
    assert is_async_callable(reward)
    assert not is_async_callable(pass_rate_reward(Slow()))
    assert get_callable_name(reward) == get_callable_name(pass_rate_reward(Slow())) == "pass_rate_reward"

    async def other():
        started.set()

    async def both():
        # The other one is reached only if the first does not wait in the loop's thread.
        return await asyncio.gather(reward(**given, log_metric=logged.__setitem__), other())

    assert asyncio.run(both())[0] == [1.5, 0.0]
    assert logged["accepted"] == 0.5


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_copy_in_another_process_has_a_judge_of_its_own(judge, asynchronous):
    reward = pass_rate_reward(judge, tasks=[DOUBLE], compile_bonus=0.5, asynchronous=asynchronous)
    given = dict(prompts=[DOUBLE.prompt] * 2, completions=[ALL, NO_PYTHON], task_id=["double"] * 2)
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        # It imports the package first.
        assert pool.submit(called, reward, given).result(110) == [1.5, 0.0]
    # The judge of this process goes on.
    assert called(reward, given) == [1.5, 0.0]


def called(reward, given):
    """The rewards of a function, which is closed with its judge at the end."""
    found = reward(**given)
    found = asyncio.run(found) if asyncio.iscoroutine(found) else found
    reward.judge.close()
    return found


SMALL = dict(
    max_steps=2, per_device_train_batch_size=16, num_generations=4, max_completion_length=64, logging_steps=1,
    report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, save_strategy="no",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("asynchronous", [False, True])
def test_grpo_learns_by_it_beside_an_asynchronous_reward(judge, tmp_path, asynchronous):
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
        reward_funcs=[pass_rate_reward(judge, asynchronous=asynchronous), length],
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
        assert entry["accepted"] <= entry["solved"] <= 1
        assert entry["pass_rate"] == pytest.approx(entry["rewards/pass_rate_reward/mean"])
        assert sum(entry[f"outcomes/{outcome}"] for outcome in Outcome) == pytest.approx(1)
        assert 0 < entry["rewards/length/mean"] < 1
    assert any(not weights.equal(before[name]) for name, weights in trainer.model.named_parameters())
