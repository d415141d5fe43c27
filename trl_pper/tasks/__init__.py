"""Describe coding tasks and their tests, and read them from benchmark files.

- `task`: the task, its tests and their native row, as frozen dataclasses
- `syntax`: parse source text, list the names that it defines, and drop prose and trials from it
- `tests`: find, count, mark and drop the tests in test code
- `separable`: decide whether tests can run in another process than the program and mean the same
- `scopes`: the names of test code, the kinds of their values, and what expressions share
- `formats`: read the rows of published benchmarks, one module for each format
- `loading`: load tasks from a file, a folder, the Hub or rows in memory, and write them
- `mixture`: mix data sets in given proportions
- `chat`: turn text prompts into chat messages
"""
