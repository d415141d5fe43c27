"""Run untrusted programs on the tests of their tasks, and return a verdict for each program.

- `judge`: `Judge`, the class to use: judge lists or streams of programs in several workers
- `cluster`: `RayJudge`, a judge whose workers are on the nodes of a Ray cluster
- `verdict`: the outcome of each test, and the pass rate of a program
- `limits`: the CPU time, memory, output and files that a program may use
- `levels`: choose the strongest isolation level that holds on this machine
- `selftest`: run hostile programs to find out which guarantees hold
- `host`: the host's side: distribute programs to workers, and read verdicts from their answers
- `wire`: the frames and the codec that carry values between processes
- `jail`: isolation of a worker's processes, for Linux and for other POSIX systems
- `worker`: the code of the zygote, the referee and the candidate

Four kinds of processes take part:

- The host is the caller's process, such as a trainer. It has the programs, the tests and the verdicts. It runs no
  line of a program or of test code, and compares the output of stdio tests, where a task asks for it with the user's
  own checker.
- A zygote is started by exec for each worker, with a clean environment. It enters the jail, then forks the other two
  for the host. It reads neither programs nor tests.
- A referee runs the test code of a task, expected answers included, and no line of the program.
- A candidate runs the program, as a script for stdio tests or to answer the referee's requests for function tests.

The trust boundary runs around the candidate. No process that runs a candidate's code holds an expected answer: inputs
and arguments enter it, plain data and output leave it, and the host or the referee compares. Nothing that a candidate
computes is a verdict; everything that it sends is checked. The packages `host` and `worker` never import each other:
both know only `wire`, the outcomes in `verdict`, and the tasks.

Which guarantees hold depends on the isolation level and on the machine: `Judge.report` measures them.
"""
