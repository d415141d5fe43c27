"""The demo: a tiny embedded model, the family of tasks it was made for, and the run that improves it."""
