"""The shipping service's settings. The defaults fit the stack of `make up`."""

from typing import Annotated

from pydantic import Field, SecretStr

from shared.process import configuration


class Settings(configuration.Settings):
    """The common settings, the partitions and replicas of a new topic, and Kafka's super user, who creates it."""

    port: Annotated[int, Field(ge=0, le=65535)] = 8088
    database_url: Annotated[str, Field(pattern=r"^postgres(ql)?://")] = (
        "postgresql://shipping_user:shipping@127.0.0.1:5433/quickbite"
    )
    topic_partitions: Annotated[int, Field(ge=1, le=1000)] = 4
    topic_replication: Annotated[int, Field(ge=1, le=10)] = 1
    kafka_admin_username: str = ""
    kafka_admin_password: SecretStr = SecretStr("")
