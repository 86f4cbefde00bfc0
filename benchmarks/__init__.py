"""Speed side by side with others: `python -m benchmarks.<name>` prints a table and asserts nothing."""
