"""The payments service's settings. The defaults fit the stack of `make up`."""

from typing import Annotated

from pydantic import Field, SecretStr

from shared.process import configuration

Ratio = Annotated[float, Field(ge=0, le=1)]


class Settings(configuration.Settings):
    """The common settings, limits for calls to the provider, and the behaviour of the simulated provider."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8082
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://payments_user@127.0.0.1:5433/quickbite"
    )
    calls_at_once: Annotated[int, Field(ge=1, le=2000)] = 256
    """The most calls to the provider at the same time."""
    call_seconds: Annotated[float, Field(gt=0, le=60)] = 3.0
    """How long the provider may take to answer. After that the outcome is unknown, and the call is repeated."""
    worker_pace_seconds: Annotated[float, Field(ge=0, le=1)] = 0.02
    """The least time between the starts of two turns of the worker that calls the provider."""

    provider_database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://provider_user@127.0.0.1:5433/quickbite"
    )
    """The database with the ledger of the simulated provider, with a role of its own."""
    provider_database_password: SecretStr = SecretStr("")
    """The password of the role in `PROVIDER_DATABASE_URL`, if that has none."""
    provider_limit_cents: Annotated[int, Field(ge=0)] = 50_000
    """The simulated provider declines every amount above this."""
    provider_decline_ratio: Ratio = 0.0
    """The simulated provider declines this share of the charges, by chance."""
    provider_slow_seconds: Annotated[float, Field(ge=0, le=60)] = 0.0
    """The simulated provider takes so much longer for each call."""
    provider_timeout_after_charge_ratio: Ratio = 0.0
    """The simulated provider never answers this share of the calls, although it does what they ask for."""
    provider_error_after_charge_ratio: Ratio = 0.0
    """The simulated provider answers this share of the calls with an error, although it does what they ask for."""
    provider_double_ratio: Ratio = 0.0
    """This share of the calls reaches the simulated provider twice at the same time."""
    provider_seed: int | None = None
    """With a seed, the faults of the simulated provider are the same in every run."""

    @property
    def provider_database(self) -> str:
        """`PROVIDER_DATABASE_URL` with its password, or with the file that has it."""
        name = "provider_database_password"
        return configuration.with_secret(self.provider_database_url, name, self.provider_database_password)
