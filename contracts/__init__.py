"""The shop's events, one model each: the only thing that the services share about each other.

Fields are only added, never changed or removed. A reader ignores fields that it does not know. Another meaning needs
another event type.
"""
