"""The auth service's settings. The defaults fit the stack of `make up`; the administrator's password has no default."""

from typing import Annotated

from pydantic import Field, SecretStr

from shared.process import configuration

VISITOR_SECONDS = 3600


class Settings(configuration.Settings):
    """The common settings, how long tokens are valid, and how many wrong passwords cause no wait."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8083
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://auth_user@127.0.0.1:5433/quickbite"
    )
    admin_password: Annotated[SecretStr, Field(min_length=8)]
    """The password of the user `admin`. The service creates that user, and sets this password, when it starts."""
    access_token_seconds: Annotated[int, Field(ge=10, le=86_400)] = 900
    """How long an access token is valid."""
    refresh_token_seconds: Annotated[int, Field(ge=60, le=366 * 86_400)] = 30 * 86_400
    """How long a refresh token is valid. Its use returns a new one."""
    key_lead_seconds: Annotated[int, Field(ge=0, le=86_400)] = 30
    """How long a new key is published before it signs: longer than a service needs to fetch it."""
    visitors: bool = False
    """True: anybody gets a token of a visitor without a login. Registration is public anyway."""
    hashes_at_once: Annotated[int, Field(ge=1, le=64)] = 1
    """How many passwords are hashed at the same time. Each takes 19 MiB and 30 ms of a core."""
    free_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """After so many wrong passwords for an account from one address, the next try must wait, longer each time."""
    free_failures_per_account: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """After so many for an account from all addresses, each next try for it must wait.

    It is high, so that one address alone cannot lock the owner out.
    """
    free_failures_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    """After so many from an address for all accounts, each next try from it must wait."""

    @property
    def visitor_seconds(self) -> int:
        """How long the token of a visitor is valid. 0: there are no visitors."""
        return VISITOR_SECONDS if self.visitors else 0
