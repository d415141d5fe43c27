"""Read the rows of published benchmarks as tasks.

Used by every format:

- `fields`: read columns with errors that name them; build tests and prompts from their values
- `test_code`: analyse test code, and write values as Python source

Formats, with their data sets:

- `evalplus`: the test scripts of EvalPlus, which HumanEval+ and MBPP+ share
- `humaneval`: HumanEval, HumanEval+ and LeetCodeDataset
- `mbpp`: MBPP and MBPP+
- `apps`: APPS, from the Hub or from its original folders
- `code_contests`: CodeContests and its copies
- `live_code_bench`: LiveCodeBench
- `open_r1`: open-r1's verifiable coding problems
- `unittest_tasks`: ClassEval and BigCodeBench
"""
