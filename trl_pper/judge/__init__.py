"""The execution engine: runs untrusted programs on their tests and says how each test ended.

`Judge.run` is the way in. One file per purpose, by where it runs:

- the host: `pool`, `batch` and `cache` share programs out; `worker` is its end of a worker process, by the `means` of
  its system; `function` and `stdio` are its part of the two kinds of tests; `compare` and `endings` read what came
  out; `limits` says what is bounded, `selftest` whether it is, and `ladder` which isolation level that makes;
- the worker: `zygote` forks the rest; `confinement` locks it in, by `namespaces`, `landlock`, `seccomp` and what
  `kernel` offers, or `separation` where Linux is not; `process` serves both; `scratch` is where programs write;
- the referee, trusted: `referee`, `testplan`, `conversation`, `allowance`, `handles`, `callbacks`;
- the candidate, not trusted: `candidate`, `program`, `script`, `calls`;
- between host and worker: `control`;
- between referee and candidate: `channel`, `codec` with its `encoder`, `decoder`, `writers`, `readers` and
  `codec_rules`, `instances`, `write_back`, `raised`, `cpu_clock`.
"""

from trl_pper.judge.ladder import ISOLATION_LEVELS, IsolationUnavailable
from trl_pper.judge.limits import Limits
from trl_pper.judge.pool import Judge

__all__ = ["ISOLATION_LEVELS", "IsolationUnavailable", "Judge", "Limits"]
