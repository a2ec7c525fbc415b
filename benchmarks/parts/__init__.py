"""The parts of the benchmark: each has ``measure(bench, address)``."""
