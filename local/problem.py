"""An error for the person at the terminal: one line that says what to do, never a traceback."""


class Problem(Exception):
    """The stack cannot do what was requested. The text is the whole message."""
