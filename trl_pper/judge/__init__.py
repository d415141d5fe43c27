"""The execution engine: runs untrusted programs on their tests and says how each test ended.

`Judge.run` is the way in. One file per purpose: `pool` (sharing out), `worker` and `zygote` (the two ends of a worker
process), `function` and `stdio` (the host's part of the two kinds of tests), `referee`, `conversation` and `testplan` (test
code, trusted), `candidate` (the program, untrusted), `confinement`, `limits`, `codec`, `channel`, `compare`, `selftest`.
"""

from trl_pper.judge.limits import Limits
from trl_pper.judge.pool import IsolationUnavailable, Judge

__all__ = ["IsolationUnavailable", "Judge", "Limits"]
