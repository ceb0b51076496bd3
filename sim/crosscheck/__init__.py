"""Holding a simulation against a replay of the same workload on a real engine."""
