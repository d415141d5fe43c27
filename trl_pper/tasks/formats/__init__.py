"""Read the rows of published benchmarks as tasks; one module for each format."""
