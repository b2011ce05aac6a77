"""The commonest passwords, which nobody may choose.

The list is that of Django 5.2.19 (`common-passwords.txt.gz`, BSD licence): the 19,640 commonest of the passwords that
were published, by Royce Williams from Have I Been Pwned. Those shorter than 8 characters are left out, because nobody
can choose them.
"""

from functools import cache
from pathlib import Path

SHA256 = "603d63b66e02928da1b63c877cccf161e7b7494895f6cd9d27535057f7f55c75"
FILE = Path(__file__).parent / "common-passwords.txt"


def is_common(password: str) -> bool:
    """True for one of the commonest passwords, in capitals or not."""
    return password.casefold() in _common()


@cache
def _common() -> frozenset[str]:
    return frozenset(FILE.read_text().splitlines())
