"""A campaign of drawn faults: `python -m tests.faults --cases 1000 --seed 0`."""
