"""Evaluate programs of a file by inspect-ai and the scorer of the example; inspect's mock model answers with them.

    python tests/support/inspect_run.py TASKS PROGRAMS SAMPLES LOGS

Runs in the environment of `make test-neighbours`, with `examples/neighbours` on the path. The last line of the output
is JSON: each metric by its reducer, and the scores of each task.
"""

import collections
import json
import sys
from pathlib import Path

import inspect_ai
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_tasks import coding_tasks

from trl_pper import load_tasks


def main(tasks: str, programs: str, samples: int, logs: str) -> None:
    rows = [json.loads(line) for line in Path(programs).read_text().splitlines()]
    asked = {task.task_id: task.prompt for task in load_tasks(tasks)}
    left = collections.defaultdict(list)
    for row in rows:
        left[asked[row["task_id"]]].append(row["completion"])

    def write(messages, tools, tool_choice, config):
        output = ModelOutput.from_content(model="mockllm", content=left[messages[-1].text].pop(0))
        # Otherwise inspect counts tokens, with a vocabulary from the network.
        output.usage = ModelUsage()
        return output

    (log,) = inspect_ai.eval(
        coding_tasks(tasks, samples=samples, chat=False),
        model=get_model("mockllm/model", custom_outputs=write),
        log_dir=logs,
        display="none",
    )
    assert log.status == "success", log.error
    found = collections.defaultdict(dict)
    for score in log.results.scores:
        found[score.reducer or "mean"][score.name] = {name: one.value for name, one in score.metrics.items()}
    scores = collections.defaultdict(list)
    for sample in log.samples:
        scores[sample.id].append(sample.scores["judge_scorer"].value)
    print(json.dumps({"figures": found, "tasks": scores}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
