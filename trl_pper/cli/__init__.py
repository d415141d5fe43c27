"""Run the `trl-pper` command."""
