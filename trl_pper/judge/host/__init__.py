"""Share programs out to workers, and read verdicts from their answers."""
