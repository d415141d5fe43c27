"""The judge as a scorer of inspect-ai: any tasks that trl_pper reads, any model that inspect asks.

    inspect eval examples/neighbours/inspect_tasks.py -T tasks=HumanEval.jsonl.gz --model openai/gpt-5-mini

With `-T samples=10` the scores are the means, and pass@k of `accepted` by inspect's own estimate. A program that could
not be judged has no score, rather than a score of zero.
"""

import asyncio
import functools
import json

from inspect_ai import Epochs, Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageSystem, ChatMessageUser
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from trl_pper import CodingTask, Judge, as_chat, extract_program, load_tasks

ROLES = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
the_judge = functools.cache(Judge)  # its workers end with the process


@scorer(metrics={"accepted": [mean(), stderr()], "pass_rate": [mean(), stderr()]})
def judge_scorer(isolation: str = "auto") -> Scorer:
    """Score a program by its tests: whether it passes all of them, and which share."""

    async def score(state: TaskState, target: Target) -> Score:
        coding_task = CodingTask.from_row(json.loads(state.metadata["task"]))
        asked = {"prompt": coding_task.prompt, "entry_point": coding_task.entry_point}
        program = extract_program(state.output.completion, **asked)
        judged = the_judge(isolation=isolation).submit(coding_task, [program])
        (verdict,) = await asyncio.wrap_future(judged)
        if verdict.pass_rate is None:
            return Score.unscored(reason="not judged", answer=program, explanation=verdict.message)
        rates = {"accepted": float(verdict.pass_rate == 1.0), "pass_rate": verdict.pass_rate}
        return Score(value=rates, answer=program, explanation=verdict.message)

    return score


@task
def coding_tasks(tasks: str, samples: int = 1, chat: bool = True, isolation: str = "auto") -> Task:
    """Ask for programs in chat messages, or with chat=false have text prompts continued, and judge them."""
    read = load_tasks(tasks)
    dataset = [as_sample(one) for one in (as_chat(read) if chat else read)]
    # Over the samples of a task the mean of `accepted` is pass@1; yours: other k of pass@k.
    reducers = ["mean", *(f"pass_at_{k}" for k in (2, 10, 100) if k <= samples)]
    return Task(
        dataset=MemoryDataset(dataset),
        solver=generate(),
        scorer=judge_scorer(isolation),
        epochs=Epochs(samples, reducers) if samples > 1 else None,
    )


def as_sample(one: CodingTask) -> Sample:
    prompt = one.prompt
    asked = prompt if isinstance(prompt, str) else [ROLES[each["role"]](content=each["content"]) for each in prompt]
    # The task travels as text, prompt and tests together, since logs and samples hold plain data alone.
    return Sample(input=asked, id=one.task_id, metadata={"task": json.dumps(one.to_row())})
