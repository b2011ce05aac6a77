"""The products service's settings. The defaults fit the stack of `make up`."""

from typing import Annotated

from pydantic import Field

from shared.process import configuration


class Settings(configuration.Settings):
    """The common settings."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8085
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://products_user@127.0.0.1:5433/quickbite"
    )
