"""The execution engine: runs untrusted programs on their tests and says how each test ended.

`Judge.run` is the way in. One file per purpose: `pool` shares programs out; `worker` and `zygote` are the two ends of
a worker process; `function` and `stdio` are the host's part of the two kinds of tests; `referee`, `conversation` and
`testplan` run test code, which is trusted; `candidate` runs the program, which is not; `confinement` bounds it;
`codec` and `channel` carry values between them; `compare` and `endings` read what came out; `limits` says what is
bounded and `selftest` whether it is.
"""

from trl_pper.judge.ladder import ISOLATION_LEVELS, IsolationUnavailable
from trl_pper.judge.limits import Limits
from trl_pper.judge.pool import Judge

__all__ = ["ISOLATION_LEVELS", "IsolationUnavailable", "Judge", "Limits"]
