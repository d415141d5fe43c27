"""Lock a worker's processes in, and take from a program all rights that it does not need.

- `posix`: helpers of every jail, `Jail`, and `PosixJail`, the jail of the level "processes"
- `linux`: `LinuxJail`, the jail of the levels "namespaces", "landlock", "seccomp" and "rlimits"
- `namespaces`: a file system with only the libraries, and an empty network
- `landlock`: rulesets that limit which files a process may open
- `seccomp`: filters that limit which system calls a process may make
- `kernel`: system calls that the standard library lacks
"""
