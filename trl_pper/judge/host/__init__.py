"""Judge programs from the host: hand them to workers, and read verdicts from the answers.

The host is the caller's own process, such as a trainer. It starts workers by exec, holds the expected answers, and
never runs a line of a program. It knows the wire, and nothing of the worker's code. In reading order:

- `dispatcher`: hand the programs of jobs to slots, and break jobs off
- `slot`: judge one program at a time, replace workers that died, remember verdicts
- `function`: judge a program by test code, the host's part
- `stdio`: judge a program by its output
- `compare`: decide whether an output is the expected one
- `worker`: start a worker process, send it requests, end it, read how a candidate ended
- `system`: the system calls of the host, on Linux and elsewhere
"""
