"""Write one self-contained HTML page about a buffer and the run that filled it."""
