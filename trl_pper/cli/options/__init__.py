"""Read options from YAML files and command lines, and show them."""
