"""The orders service's settings. The defaults fit the stack of `make up`."""

from collections.abc import Callable, Collection
from typing import Annotated

from pydantic import Field, FilePath, SecretStr

from shared.process import configuration
from shared.process.secret import Words


class Settings(configuration.Settings):
    """The common settings, and how long an order may stay open."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8080
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://orders_user@127.0.0.1:5433/quickbite"
    )
    relay_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.05
    """One wait here makes larger batches in all later steps. Their cost depends on turns, not on events."""
    require_token: bool = True
    """False lets anybody who reaches this port act for any user. Only for a port on loopback."""
    loopback_secret: SecretStr = SecretStr("")
    """With `REQUIRE_TOKEN=false` and this secret, a request without a token needs it as `X-Loopback-Secret`.

    A proxy that listens on loopback adds it, where others than this machine reach the port too.
    """
    loopback_secret_file: FilePath | None = None
    """A file with this secret instead. While it is rotated, the file has the new one, a space, and the former one."""
    order_deadline_seconds: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    """An order that is open for longer is cancelled with `deadline_passed`."""
    max_open_orders: Annotated[int, Field(ge=1, le=10_000_000)] = 500_000
    """With so many PENDING orders, new ones are refused. In an outage of Kafka they all wait in the outbox."""
    max_database_gigabytes: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """With a larger database, new orders are refused, before the disk is full. 0: no limit.

    Set it to about 80 % of the disk of Postgres.
    """
    canary_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.0
    """Place an order of the shop's own so often, and measure whether it ends. 0: never."""
    sweep_seconds: Annotated[float, Field(gt=0, le=60)] = 1.0
    """How often the sweeper looks for orders past their deadline."""

    def loopback_secrets(self) -> Callable[[], Collection[str] | None]:
        """Returns the secrets of which a request without a token needs one, or None if it needs none."""
        if self.loopback_secret_file:
            return Words(self.loopback_secret_file)
        given = self.loopback_secret.get_secret_value()
        return lambda: (given,) if given else None
