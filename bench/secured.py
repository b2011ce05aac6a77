"""Whole sagas through a Kafka that asks for passwords and has rules, compared with one that accepts everybody."""

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from secrets import token_urlsafe
from typing import Any

import uvloop

from bench import report, saga, servers, shop
from bench.report import Rate
from contracts import topics
from contracts.access import ADMIN, USERS

ORDERS, ROUNDS = 15_000, 5
PARTITIONS = 4


@contextmanager
def _guarded(run: servers.Servers) -> Iterator[tuple[servers.Servers, Mapping[str, str]]]:
    """A second Kafka, and the passwords of its users."""
    passwords = {user: token_urlsafe(32) for user in (ADMIN, *USERS)}
    with servers.another_broker(run, passwords=passwords) as made:
        wanted = topics.Settings(
            **_client(made, ADMIN, passwords),
            topic_partitions=PARTITIONS,
            kafka_acls=True,
        )
        asyncio.run(topics.main(wanted))
        yield made, passwords


def _client(run: servers.Servers, user: str, passwords: Mapping[str, str]) -> dict[str, Any]:
    return {
        "kafka_bootstrap_servers": run.bootstrap,
        "kafka_security_protocol": "SASL_PLAINTEXT",
        "kafka_username": user,
        "kafka_password": passwords[user],
    }


def main(run: servers.Servers) -> None:
    with _guarded(run) as (guarded, passwords):

        def login(service: str) -> dict[str, str]:
            return {name.upper(): value for name, value in _client(guarded, service, passwords).items()}

        ratios = []
        for n in range(ROUNDS):
            rates: dict[str, Rate] = {}
            for name in ("plain", "secured") if n % 2 else ("secured", "plain"):
                database = f"bench_{name}_{n}"
                asyncio.run(run.migrate(database))
                chosen = (run, lambda _: {}) if name == "plain" else (guarded, login)
                with shop.running(chosen[0], database, chosen[1]) as made:
                    done = uvloop.run(saga.finish(made, ORDERS))
                rates[name] = Rate(name, ORDERS, done.seconds, cpu_seconds=done.cpu.total())
            report.show(f"secured: whole sagas, round {n + 1}", *rates.values())
            ratios.append(rates["secured"].per_second / rates["plain"].per_second)
    print(f"  ratios: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    report.ratio("with users and rules, compared with neither (median)", sorted(ratios)[ROUNDS // 2], 0.9, 0.97)
