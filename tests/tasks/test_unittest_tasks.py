"""ClassEval and BigCodeBench: tests in classes of unittest, and libraries that may be missing."""

import pytest

from tests.support.benchmark_rows import ROWS
from trl_pper import Judge, as_chat, load_tasks
from trl_pper.generation.extraction import extract
from trl_pper.tasks.tests import count_tests

CLASSEVAL, BIG_CODE_BENCH = ROWS["classeval"][0], ROWS["big_code_bench"][0]


@pytest.fixture(scope="module")
def judge():
    with Judge(workers=1) as judge:
        yield judge


def verdict(judge, row, program=None):
    [task] = load_tasks([row])
    return judge.run([(task, [task.reference if program is None else program])])[0][0]


def test_a_classeval_prompt_holds_the_skeleton():
    [task] = load_tasks([CLASSEVAL])
    assert task.prompt == (
        f"\nQUESTION:\nComplete the class Circle.\n\n{CLASSEVAL['skeleton']}\nUse Call-Based format\n\nANSWER:\n"
    ).replace('"""\n\nUse', '"""\nUse')
    assert (task.task_id, task.entry_point, task.preamble) == ("ClassEval_0", "Circle", "import math\n")
    assert task.reference == "import math\n" + CLASSEVAL["solution_code"]
    [chat] = as_chat([task])
    said = chat.prompt[-1]["content"]
    assert said.startswith("Write the class `Circle` in Python")
    assert CLASSEVAL["skeleton"].strip() in said


def test_a_reply_with_the_class_is_the_program(judge):
    [task] = as_chat(load_tasks([CLASSEVAL]))
    reply = f"Here it is:\n```python\n{CLASSEVAL['solution_code']}```\nIt uses pi."
    found = extract(reply, prompt=task.prompt, entry_point=task.entry_point)
    assert judge.run([(task, [found.program])])[0][0].accepted


def test_a_big_code_bench_prompt_is_code_to_complete(judge):
    [task] = load_tasks([BIG_CODE_BENCH])
    assert task.prompt == BIG_CODE_BENCH["complete_prompt"]
    assert task.preamble == "import math\nLIMIT = 9\n"
    completion = "    return -1 if x > LIMIT else math.sqrt(x)\n"
    found = extract(completion, prompt=task.prompt, entry_point=task.entry_point)
    assert judge.run([(task, [found.program])])[0][0].accepted
    [chat] = as_chat([task])
    # The prompt begins with the same code.
    assert chat.preamble == task.preamble


MISSING = "the tests need the module no_such_library, which is not installed here"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"libs": "['math', 'no_such_library']"}, MISSING),
        ({"libs": ["no_such_library"]}, MISSING),
        (
            {"code_prompt": "from no_such_library.part import name\ndef task_func(x):\n"},
            "the task's preamble fails by itself: ModuleNotFoundError: No module named 'no_such_library' (line 1)",
        ),
        ({"test": "import no_such_library\n" + BIG_CODE_BENCH["test"]}, MISSING),
    ],
)
def test_a_task_whose_library_is_missing_is_unsupported(judge, change, message):
    judged = verdict(judge, {**BIG_CODE_BENCH, **change}, "def task_func(x): return x")
    assert judged.pass_rate is None
    assert judged.message == message


def test_a_class_whose_library_is_missing_is_unsupported(judge):
    judged = verdict(judge, {**CLASSEVAL, "import_statement": ["import math", "from no_such_library import x"]})
    assert (judged.pass_rate, "no_such_library" in judged.message) == (None, True)


def test_libraries_do_not_replace_names_of_programs(judge):
    row = {**BIG_CODE_BENCH, "libs": "['numpy', 'datetime']"}
    program = (
        "from datetime import datetime\nnumpy = 3\ndef task_func(x): return (numpy, datetime.now())[0] and LIMIT and"
    )
    assert verdict(judge, row, program + " (-1 if x > 9 else 2)").accepted


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({**CLASSEVAL, "test": "class A:\n    pass"}, "test"),
        ({**CLASSEVAL, "test": "class A("}, "test"),
        ({**CLASSEVAL, "class_name": "a b"}, "class_name"),
        ({**CLASSEVAL, "import_statement": "import math"}, "import_statement"),
        ({**BIG_CODE_BENCH, "libs": "math"}, "libs"),
        ({**BIG_CODE_BENCH, "entry_point": "f()"}, "entry_point"),
    ],
)
def test_a_malformed_row_names_its_field(row, field):
    with pytest.raises(ValueError, match=f"row 1: {field}: "):
        load_tasks([row])


#: Rejected here, with the reason: the test expects the name of its author's computer; the sandbox lets nothing become
#: read-only.
KNOWN = {"ClassEval_48": "LAPTOP", "ClassEval_50": "write_json"}
#: Tasks that need libraries which need not be installed.
NEEDS = {
    "ClassEval_28": "pandas",
    "ClassEval_34": "docx",
    "ClassEval_38": "openpyxl",
    "ClassEval_44": "gensim",
    "ClassEval_52": "nltk",
}


@pytest.mark.slow
def test_references_of_classeval_pass(shared):
    tasks = load_tasks(shared("classeval/classeval.dev.jsonl"))
    assert (len(tasks), sum(count_tests(task.tests.code) for task in tasks)) == (50, 1099)
    with Judge() as judge:
        verdicts = judge.run([(task, [task.reference]) for task in tasks])
    failed = {task.task_id: one for task, [one] in zip(tasks, verdicts, strict=True) if not one.accepted}
    assert set(KNOWN) <= set(failed) <= set(KNOWN) | set(NEEDS)
    for name, one in failed.items():
        assert (KNOWN | NEEDS)[name] in one.message
        assert (one.pass_rate is None) == (name in NEEDS)
