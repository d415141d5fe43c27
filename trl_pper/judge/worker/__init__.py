"""Run tests and programs inside the jail."""
