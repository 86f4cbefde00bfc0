"""Speed side by side with others: `python -m experiments.benchmarks.<name>` prints a table and asserts nothing."""
