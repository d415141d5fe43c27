"""Run tests and programs inside the jail: the zygote, the referee and the candidate.

The modules know `jail` and `wire`, and nothing of the host's code. In reading order:

- `zygote`: fork referees and candidates as siblings, kill them, clean up
- `scratch`: the folder that programs may write to, emptied between programs
- `referee`: run the tests of a task, once for each program
- `plan`: rewrite test code so that each test is counted and its end is seen
- `conversation`: the referee's side of the talk with a candidate
- `handles`: stand-ins in the referee for objects of the program
- `candidate`: set up the process of a program, then run it in one of two ways
- `calls`: answer the referee's requests, for function tests
- `script`: run the program once for each input, for stdio tests
- `program`: compile and run the source text, and describe its errors
"""
