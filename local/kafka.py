"""One real Kafka broker (KRaft, broker and controller in one process) on loopback, ready within about a second."""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from contracts.access import of_client
from local import ports
from local.distribution import Distribution, with_passwords, write_properties, write_secret
from local.files import complete_folder
from local.process import Program


class Kafka:
    """A broker on `port` and its controller on the next port, with all files below `root`.

    `cache` is the folder with the files that all brokers of one clone share. A new broker copies a formatted data
    folder from it. `passwords` returns those of its users, the super user first. Without it, everybody may do all.
    """

    name = "kafka"
    host = ports.LOOPBACK

    def __init__(
        self,
        root: Path,
        port: int,
        *,
        cache: Path,
        heap: str = "256m",
        settings: Mapping[str, str] | None = None,
        passwords: Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        self.root, self.ports = root.resolve(), (port, port + 1)
        self._server = f"{self.host}:{port}"
        self._distribution = Distribution(cache)
        self._passwords, self._heap, self._settings = passwords, heap, settings or {}
        self._properties = self.root / "server.properties"

    def prepare(self) -> None:
        """Write the configuration, and create the data folder if it does not exist. Raises `Problem`."""
        self._distribution.prepare()
        data = self.root / "data"
        if not data.exists():
            with complete_folder(data) as fresh:
                shutil.copytree(self._distribution.formatted, fresh, dirs_exist_ok=True)
        guarded = with_passwords(self._passwords()) if self._passwords else {}
        write_properties(self._properties, data, self.ports[0], {**guarded, **self._settings})

    def program(self) -> Program:
        command = self._distribution.command("kafka.Kafka", self._properties, heap=self._heap)
        return Program(self.name, command, stop_seconds=20)

    def is_ready(self) -> bool:
        """True if the port accepts connections. The broker opens it only when it is ready."""
        return ports.is_answering(self.ports[0])

    def tool(self, class_name: str, *arguments: str, user: str = "") -> list[str]:
        """The command that runs one of Kafka's tools, such as `org.apache.kafka.tools.TopicCommand`, as a user."""
        login = []
        if self._passwords:
            file = self.root / f"{user}.properties"
            write_secret(file, of_client(user, self._passwords()[user]))
            login = ["--command-config", str(file)]
        server = ("--bootstrap-server", self._server)
        return self._distribution.command(class_name, *server, *login, *arguments, heap="128m")
