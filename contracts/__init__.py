"""The shop's events, one model each: the only thing that the services share about each other.

Fields are only ever added, and a reader ignores what it does not know; another meaning is another type.
"""
