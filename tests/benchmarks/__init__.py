"""Speed and memory beside peers and the limit of the machine: `python -m tests.benchmarks`."""
