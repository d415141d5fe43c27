"""More tests for tasks that have few, from a reference solution that is trusted to be right.

`tasks.amplify_tasks` is the way in. New inputs are changed copies of those that a task's tests have: `calls` and
`layout` read them from test code and from input texts; `shape`, `rules` and `predicates` say what they have in common;
`mutate` changes them and `proposals` holds the new ones; `answers` asks the reference, and `literals` writes values
down. `exposure` says which programs the new tests find out, and `command` is the `trl-pper amplify` command.
"""

from __future__ import annotations
