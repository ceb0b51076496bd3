"""Measures, apart from the tests: `make bench` writes `results/bench.md`."""
