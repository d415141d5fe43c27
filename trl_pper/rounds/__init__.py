"""Run a round on all processes: generate programs, judge them, and store them in the buffer.

- `collector`: collect the programs of a round, before each epoch of a training run
- `share`: divide tasks among processes, and judge the programs of this process's tasks
- `overlap`: generate programs and judge them at the same time
- `repair`: build experiences that answer a failed program with a right one
- `journal`: write judged programs to disk as they come, and read them after a restart
- `processes`: wait for all processes of a run, and learn of a failure in any of them
- `collection_report`: compute the scores of a collection
- `labels`: compare the labels of a preference set with the verdicts on its programs
- `display`: show progress and log lines
- `program_table`: show tables of programs
- `evaluation`: evaluate a model on tasks
- `revise`: judge or score the programs of a buffer again
"""
