"""Benchmarks: each is a command that measures two ways in one run, prints their ratio, and ends with an audit."""
