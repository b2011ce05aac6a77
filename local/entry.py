"""Who reaches the gateway, and the password that it takes to open it to others."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

DEFAULT_PASSWORD = "password"
LIMITS = ("REQUESTS_PER_SECOND", "LOGINS_PER_SECOND", "CONSOLE_LOGINS_PER_MINUTE", "REQUESTS_AT_ONCE", "CONNECTIONS")
NO_LIMITS = dict.fromkeys(LIMITS, "60000")
"""For tests and benchmarks, because all their requests come from one address."""
LEAST = 12
EASY = frozenset(
    (
        *("passwordpassword", "password1234", "password12345", "password123456", "password123!", "mypassword123"),
        *("123456789012", "1234567890123", "12345678901234", "123456789123", "1q2w3e4r5t6y", "1qaz2wsx3edc"),
        *("qwertyuiop12", "qwertyuiop123", "qwertyuiop[]", "qwerty123456", "abcdefghijkl", "abc123456789"),
        *("administrator", "administrator1", "admin1234567", "admin12345678", "admin_password", "adminpassword"),
        *("quickbite1234", "quickbite123!", "quickbitequickbite", "changemechangeme", "changeme1234", "changeme123!"),
        *("letmeinletmein", "letmein12345", "welcome12345", "welcome123456", "iloveyou1234", "trustno1trustno1"),
    )
)
"""Passwords of 12 characters and more that are tried first, in small letters."""


@dataclass(frozen=True)
class Entry:
    """TLS is on the address `host`, with the files `certificate` and `key`, or with a certificate of the gateway's own.

    Plain HTTP is on loopback only. `proxies` are networks, separated by commas, whose X-Forwarded-For is believed. The
    `limits` are per address.
    """

    host: str = "127.0.0.1"
    certificate: str = ""
    key: str = ""
    proxies: str = ""
    limits: Mapping[str, str] = field(default_factory=lambda: NO_LIMITS)

    @property
    def values(self) -> dict[str, str]:
        """The values of the gateway's template. Raises `ValueError` if a network cannot be read."""
        trusted = networks(self.proxies)
        return {
            **self.limits,
            "REAL_IP": " ".join(f"set_real_ip_from {one};" for one in trusted),
            "TRUSTED": " ".join(f"{one} 1;" for one in trusted),
        }


ONLY_HERE = Entry()


def networks(text: str) -> list[str]:
    """The networks in a text, separated by commas. Raises `ValueError`."""
    return [str(ip_network(one.strip())) for one in text.split(",") if one.strip()]


def complaint(host: str, password: str) -> str | None:
    """A sentence for the operator, if a gateway at `host` is too easy to enter with this administrator's password."""
    if ip_address(host).is_loopback or not is_easy(password):
        return None
    return (
        f"GATEWAY_HOST={host} lets others reach the gateway, and ADMIN_PASSWORD is easy to guess: "
        f"set ADMIN_PASSWORD to {LEAST} characters or more that nobody would try."
    )


def is_easy(password: str) -> bool:
    """True if a guesser finds the password soon."""
    return len(password) < LEAST or len(set(password)) < LEAST // 2 or password.lower() in EASY
