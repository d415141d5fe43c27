"""Write programs for tasks, and say how probable each one is."""
