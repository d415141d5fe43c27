"""Jobs that an interrupt kept from being submitted."""

import threading

import pytest

from trl_pper import CodingTask, FunctionTests
from trl_pper.judge.host.dispatcher import Dispatcher, Job

TASK = CodingTask(task_id="t", prompt="p", tests=FunctionTests(code="assert f() == 1"))


@pytest.mark.parametrize("programs", [[], ["def f(): return 1"] * 2])
def test_cancelling_settles_what_was_never_submitted(programs):
    job = Job(TASK, programs)
    waiting = threading.Thread(target=Dispatcher([]).cancel, args=([job],), daemon=True)
    waiting.start()
    waiting.join(20)
    assert not waiting.is_alive()
    assert [verdict.pass_rate for verdict in job.future.result(0)] == [None] * len(programs)
