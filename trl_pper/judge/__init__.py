"""Run untrusted programs on their tests, and say how each test ended."""
