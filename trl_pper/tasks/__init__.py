"""Benchmark files to coding tasks: one module for each format, all of them read by `load_tasks`.

- `humaneval`, `mbpp`, `apps`, `code_contests`, `open_r1`, `live_code_bench` each turn a row into a `CodingTask`;
- `evalplus`, `cases`, `prompts`, `test_code` and `fields` are what they share;
- `chat` turns tasks into chat prompts;
- `recognise` tells the format from the columns, `origin` finds the rows, `loading` puts it all together.
"""

from trl_pper.formats.chat import ChatParts, as_chat
from trl_pper.formats.humaneval import humaneval_task
from trl_pper.formats.loading import load_tasks, match_task_id
from trl_pper.formats.recognise import FORMATS
from trl_pper.formats.test_code import infer_entry_point
from trl_pper.row_file import read_rows

__all__ = [
    "FORMATS",
    "ChatParts",
    "as_chat",
    "humaneval_task",
    "infer_entry_point",
    "load_tasks",
    "match_task_id",
    "read_rows",
]
