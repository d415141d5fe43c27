"""Add tests to tasks that have few, with the answers of a reference solution that is trusted to be right.

`tasks.amplify_tasks` is the function to call. It changes copies of known inputs and asks the reference for the
answers:

- `tasks`: amplify tasks, and count the programs that the new tests expose
- `proposals`: propose new inputs for a task, and turn the reference's answers into tests
- `calls`: read the arguments of calls in test code, and write asserts for other arguments
- `layout`: read the input texts of programs as nested values, and write them back
- `shape`: find the types, ranges and lengths that the inputs of a task share
- `rules`: find the rules that inputs follow, such as being sorted
- `mutate`: change known inputs into new inputs of the same shape
- `answers`: run references on inputs inside the judge
"""

from __future__ import annotations
