"""Run test code and programs in the three kinds of processes of a worker: zygote, referee and candidate.

The modules here use the wire and the jail, and never import the host.

- `zygote`: the program of a worker; forks referees and candidates on request of the host
- `scratch`: measure and empty the working directory of programs
- `candidate`: run an untrusted program, as a script or to answer calls
- `program`: compile and run the top level of a program, and describe its exceptions
- `script`: run the program in a child for each stdio test, or run a checker
- `calls`: answer the referee's calls of the program's functions
- `referee`: run separate tests against a series of candidates, and report the outcomes
- `plan`: decide how tests run, and rewrite test code so that each test is recorded separately
- `conversation`: the referee's connection to a candidate, with deadlines and replacement
- `shared`: run tests in one process with the program, and report the outcomes; try a setup alone
- `cases`: run tests that unittest or pytest would collect
- `pytest_names`: the names of pytest that tests use most, where pytest is not installed
"""
