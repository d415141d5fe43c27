"""A host that dies without a word while a program of its judge sleeps, which leaves its number in the file argv[1]."""

import os
import sys
import threading
import time

from tests.judge.elsewhere.plugin import prepare

prepare()

from trl_pper import CodingTask, Judge, StdioTests  # noqa: E402
from trl_pper.tasks.task import StdioCase  # noqa: E402

PROGRAM = "import os, time\nopen(input(), 'w').write(f'{os.getpid()}.')\ntime.sleep(600)"
task = CodingTask(task_id="t", prompt="p", tests=StdioTests(cases=(StdioCase(input=sys.argv[1], output=""),)))
judge = Judge(workers=1)
threading.Thread(target=judge.run, args=([(task, [PROGRAM])],), daemon=True).start()
while not os.path.exists(sys.argv[1]) or not open(sys.argv[1]).read().endswith("."):
    time.sleep(0.01)
print(*judge.processes(), flush=True)
os._exit(0)
