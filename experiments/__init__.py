"""Command lines: one file, one experiment, its command and its result in the docstring."""
