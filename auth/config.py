"""The auth service's settings; the defaults work beside `make up`; the administrator's password has none."""

from typing import Annotated

from pydantic import Field, SecretStr

from shared.process import configuration as config


class Settings(config.Settings):
    """What all services need, how long tokens live, and how much guessing is tolerated."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8083
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://auth_user:auth@127.0.0.1:5433/quickbite"
    )
    admin_password: Annotated[SecretStr, Field(min_length=8)]
    """What the user `admin` logs in with. The service makes that user, and sets this password, whenever it starts."""
    access_token_seconds: Annotated[int, Field(ge=10, le=86_400)] = 900
    refresh_token_seconds: Annotated[int, Field(ge=60, le=366 * 86_400)] = 30 * 86_400
    key_lead_seconds: Annotated[int, Field(ge=0, le=86_400)] = 30
    """How long a new key is published before it signs: longer than every service needs to fetch it."""
    hashes_at_once: Annotated[int, Field(ge=1, le=64)] = 1
    """Passwords hashed at the same time; each takes 19 MiB and 30 ms of a core."""
    free_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    """Wrong passwords for an account from one address before the next try has to wait, longer each time."""
    free_failures_per_account: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    """The same from all addresses together: so many that one address alone does not lock the owner out."""
    free_failures_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 100
