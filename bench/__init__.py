"""Benchmarks: each is a command that prints a ratio of two ways measured in one run, and closes with an audit."""
