"""Run one round: write programs, judge them, keep them, and meet the other processes."""
