"""Run test code and programs in the three kinds of processes of a worker: zygote, referee and candidate.

The modules here use the wire and the jail, and never import the host.

- `zygote`: the program of a worker; forks referees and candidates on request of the host
- `scratch`: measure and empty the working directory of programs
- `candidate`: run an untrusted program, as a script or to answer calls
- `program`: compile and run the top level of a program, and describe its exceptions
- `script`: run the program once for each input of a stdio test
- `calls`: answer the referee's requests for names, attributes and calls of the program
- `referee`: run test code against a series of candidates, and report the outcomes
- `plan`: rewrite test code so that each test is recorded separately
- `conversation`: the referee's connection to a candidate, with deadlines and replacement
- `handles`: objects of the program, as the test code sees them
"""
