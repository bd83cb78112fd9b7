"""Speed benchmarks, studies and their stored results; every script is run with `python -m benchmarks.<...>`."""
