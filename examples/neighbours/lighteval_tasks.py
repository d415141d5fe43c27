r"""The judge as a metric of lighteval: any tasks that trl_pper reads, any model that lighteval loads.

    trl-pper export HumanEval.jsonl.gz --to native --prompts chat --output tasks/test.jsonl
    TASKS=tasks SAMPLES=10 lighteval accelerate model_name=Qwen/Qwen2.5-Coder-0.5B-Instruct judged_tasks \
        --custom-tasks examples/neighbours/lighteval_tasks.py

For base models export with `--prompts text`. A program that could not be judged is in no mean.
"""

import functools
import json
import os

import numpy as np
from lighteval.metrics.metrics_sample import SampleLevelComputation, SamplingMetric
from lighteval.metrics.utils.metric_utils import SampleLevelMetric
from lighteval.tasks.lighteval_task import LightevalTaskConfig
from lighteval.tasks.requests import Doc, SamplingMethod

from trl_pper import CodingTask, Judge, count_task, extract_program, pass_at_k

SAMPLES = int(os.environ.get("SAMPLES", "1"))
the_judge = functools.cache(Judge)  # its workers end with the process


class JudgedPrograms(SamplingMetric, SampleLevelComputation):
    """For each task the share of tests that its samples pass (k=None), or their pass@k; NaN without a verdict."""

    def __init__(self, k: int | None) -> None:
        super().__init__()
        self.k = k

    def compute(self, responses: list, docs: list[Doc], **kwargs: object) -> list[float]:
        """Judge the programs of all tasks together; the judge remembers them for the next metric."""
        tasks = [CodingTask.from_row(json.loads(doc.specific["task"])) for doc in docs]
        answers = [response.final_text[:SAMPLES] for response in responses]
        jobs = [
            (task, [extract_program(text, prompt=task.prompt, entry_point=task.entry_point) for text in texts])
            for task, texts in zip(tasks, answers, strict=True)
        ]
        counts = [count_task(verdicts) for verdicts in the_judge().run(jobs)]
        if self.k is None:
            return [one.pass_rate_sum / one.judged if one.judged else np.nan for one in counts]
        return [pass_at_k(one.judged, one.accepted, self.k) if one.judged >= self.k else np.nan for one in counts]

    def num_samples(self) -> int:
        """Return how many samples lighteval is to draw for each task."""
        return SAMPLES


def judged_metric(name: str, k: int | None) -> SampleLevelMetric:
    options = {"higher_is_better": True, "category": SamplingMethod.GENERATIVE, "batched_compute": True}
    return SampleLevelMetric(name, sample_level_fn=JudgedPrograms(k), corpus_level_fn=np.nanmean, **options)


def ask(row: dict, task_name: str) -> Doc:
    native = {name: value for name, value in row.items() if not name.startswith("__")}
    query = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
    return Doc(task_name=task_name, query=query, choices=[""], gold_index=0, specific={"task": json.dumps(native)})


TASKS_TABLE = [
    LightevalTaskConfig(
        name="judged_tasks",
        prompt_function=ask,
        hf_repo=os.environ.get("TASKS", "tasks"),
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        metrics=[judged_metric("pass_rate", None)]
        + [judged_metric(f"pass@{k}", k) for k in (1, 2, 10, 100) if k <= SAMPLES],
        generation_size=512,  # yours: the longest answer, in tokens
    )
]
