"""Say what is to be programmed, and which tests a program has to pass."""
