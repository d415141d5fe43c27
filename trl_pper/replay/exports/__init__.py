"""Convert a replay buffer to the data sets of other trainers.

- `pairs`: choose pairs of a better and a worse program of the same prompt
- `summary`: count what an export would hold: pairs of each task, their distances, and the balance of the labels
- `trainers`: rows for TRL's trainers, and for verl and rLLM

Truncated completions are in no data set: trainers put an end token behind each completion, which would end these
programs in the middle.
"""
