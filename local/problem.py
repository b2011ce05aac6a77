"""What went wrong, for the person at the terminal: one line that says what to do about it, never a traceback."""


class Problem(Exception):
    """The stack cannot do what it was asked; the text is the whole message."""
