"""Run untrusted programs on their tests, and return a verdict for each program.

Four processes take part:

    host       the caller's process; never forked, never runs a program, holds the expected outputs
    zygote     one for each worker, started by exec and jailed; reads neither programs nor tests, forks the other two
    referee    one for each task, trusted: runs the test code; the program's names are stand-ins in it
    candidate  one for each program, not trusted: runs the program, and answers the referee with plain data

No process that runs a program, nor any ancestor that it was forked from, holds an expected answer, and nothing that a
candidate computes is a verdict. In imports: `host` and `worker` never import each other, both know only `wire`, and
`wire` never executes a value that crosses. In reading order:

- `judge`: the class `Judge`, with the ways to have programs judged
- `verdict`: the outcome of each test, and the pass rate
- `limits`: how much a program may use
- `host`: hand programs to workers, compare outputs, read verdicts
- `worker`: the zygote, the referee and the candidate
- `wire`: the data that crosses between processes
- `jail`: take away what a program may not have
- `levels`: choose the isolation level
- `selftest`: try to break out, and report what holds on this machine
"""
