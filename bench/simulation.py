"""`python -m bench.simulation`: what a cluster could do, and what gives way first, from the costs measured on 2 cores.

A discrete-event simulation of one saga: each part takes what waits, up to a batch, and uses a core of its machine, then
one of Postgres and one of Kafka. A turn costs a fixed time and a time for each order, and comes no sooner than a pause
after the last. The three follow from three measured points: 100 and 500 orders a second, and as many as go.
`tests/unit/test_bench_simulation.py` compares the simulation with points that it was not made from.

What it assumes, and cannot be measured on one machine: that Postgres and Kafka use more cores as well as these two,
that the network takes no time (see `bench/delay.py`), and that orders are of many products.
"""

import json
import math
import statistics
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import simpy

MEASURED = Path(__file__).with_name("measured.json")
SAGA = (
    *("orders api", "orders relay", "inventory consumer", "inventory relay", "payments consumer", "payments worker"),
    *("payments relay", "orders consumer", "orders relay", "inventory consumer"),
)
"""The parts in the order in which they handle an order. It is CONFIRMED after `orders consumer`."""
CONFIRMED = SAGA.index("orders consumer")
PARTS = tuple(dict.fromkeys(SAGA))
VISITS = {part: SAGA.count(part) for part in PARTS}
KAFKA = [part for part in PARTS if part.endswith(("relay", "consumer"))]
FULL = 0.85
"""A machine that is busier than this is what its processes wait for."""
STOCK_LOCK = "stock lock"
"""Transactions of inventory take turns, in all of its processes (`inventory/consumer.py`)."""
PACE_SECONDS = {"relay": 0.005, "consumer": 0.002, "worker": 0.02, "api": 0.001}
"""The shortest time between two turns, by the settings. An API has none: its value is the time of a turn.

The measured time may be longer.
"""
BATCH = {"relay": 2000, "consumer": 500, "worker": 256, "api": 128}
Process = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Cost:
    """CPU seconds of a turn: fixed, and for each order in it."""

    turn: float
    order: float

    def of(self, orders: int) -> float:
        return self.turn + orders * self.order


@dataclass(frozen=True)
class Costs:
    """The costs of each part: its own, and in Postgres and Kafka for it."""

    own: Mapping[str, Cost]
    postgres: Mapping[str, Cost]
    kafka: Cost
    generator: float
    """CPU seconds of the load generator per order."""
    pace: Mapping[str, float]
    """Seconds between two turns of a part, at least."""
    commit: float
    """Seconds until a transaction is on disk."""
    idle: float
    """Cores that all of it uses while nobody orders."""


@dataclass(frozen=True)
class Cluster:
    """Where everything runs. `cores` of each machine; `copies` of each part; one machine for what has none."""

    cores: Mapping[str, int]
    machine: Mapping[str, str] = field(default_factory=dict)
    copies: Mapping[str, int] = field(default_factory=dict)

    def where(self, name: str) -> str:
        return self.machine.get(name, "all")


@dataclass(frozen=True)
class Outcome:
    """What a simulated run did: orders a second, seconds until CONFIRMED, CPU seconds per order, and what was busy."""

    per_second: float
    latencies: list[float]
    cpu: float
    busy: Mapping[str, float]
    """The busy share of each machine, and of the processes of each part."""
    narrow: str
    """The part whose processes are busiest, or what these wait for: a machine, or the lock of the stock."""


def costs(measured: Mapping[str, Any]) -> Costs:
    """The costs that follow from the measured points: idle, 100 a second, 200, 500, 1000, and as many as go."""
    idle, few, _, middle, _, many = measured["parts"]

    def us(point: Mapping[str, Any], kind: str, name: str) -> float:
        """CPU microseconds per order, without those of an idle process."""
        rest = float(idle[kind].get(name, 0.0)) / float(point["per_second"])
        return max(0.0, float(point[kind].get(name, 0.0)) - rest)

    def cost(kind: str, name: str, visits: float, turns: float) -> Cost:
        """`turns` are those of one order when there are few. When there are many, an order costs no turn."""
        low, high = us(few, kind, name), us(many, kind, name)
        return Cost(max(0.0, low - high) / turns / 1e6, high / visits / 1e6)

    def turns(part: str) -> float:
        """The turns of a part for one order when there are few: one for each visit, or as many as its pause allows."""
        rate: float = few["per_second"]
        return min(VISITS[part], 1 / PACE_SECONDS[part.split()[1]] / rate)

    def pace(part: str) -> float:
        """The pause that explains how much less the turns cost at 500 orders a second."""
        low, mean, high = (us(point, "own_us", part) for point in (few, middle, many))
        setting = PACE_SECONDS[part.split()[1]]
        if not high < mean < low or turns(part) < VISITS[part]:
            return setting
        return max(setting, (low - high) / (mean - high) / VISITS[part] / float(middle["per_second"]))

    records = sum(VISITS[part] for part in KAFKA)
    common = cost("postgres_us", "postgres itself", sum(VISITS.values()), sum(VISITS.values()))
    behind = {}
    for part in PARTS:
        own = cost("postgres_us", part, VISITS[part], turns(part))
        behind[part] = Cost(own.turn + common.turn, own.order + common.order)
    return Costs(
        own={part: cost("own_us", part, VISITS[part], turns(part)) for part in PARTS},
        postgres=behind,
        kafka=cost("own_us", "kafka", records, records),
        generator=us(many, "own_us", "generator") / 1e6,
        pace={part: pace(part) for part in PARTS},
        commit=measured["commit_ms"] / 1e3,
        idle=sum(used for name, used in idle["own_us"].items() if name != "generator") / 1e6,
    )


class Simulation:
    """One run. Orders are numbers; a queue in front of each step of the saga holds those that wait for it."""

    def __init__(self, found: Costs, cluster: Cluster, *, others: float = 0.0) -> None:
        self._costs, self._cluster = found, cluster
        self._env = simpy.Environment()
        self._cores = {name: simpy.Resource(self._env, count) for name, count in cluster.cores.items()}
        self._used: dict[str, float] = dict.fromkeys((*cluster.cores, *PARTS, STOCK_LOCK), 0.0)
        self._stock = simpy.Resource(self._env, 1)
        self._waiting: dict[str, list[tuple[int, int]]] = {part: [] for part in PARTS}
        self._wake: dict[str, list[simpy.Event]] = {part: [] for part in PARTS}
        self._began: dict[int, float] = {}
        self._ended: dict[int, float] = {}
        self._followed: dict[int, simpy.Event] = {}
        self._accepted: dict[int, Callable[[], object]] = {}
        for part in PARTS:
            for _ in range(cluster.copies.get(part, 1)):
                self._env.process(self._part(part))
        for name in cluster.cores:
            self._env.process(self._always(name, found.idle / len(cluster.cores)))
            self._env.process(self._always(name, others, is_ours=False))

    def open_loop(self, per_second: float, seconds: float) -> Outcome:
        """Orders that arrive on schedule; the outcome is of those that end in this time."""
        self._env.process(self._arrivals(per_second))
        self._env.run(seconds)
        return self._outcome(seconds)

    def closed_loop(self, clients: int, orders: int) -> Outcome:
        """As many clients, each with one request at a time, until all orders are CONFIRMED."""
        left = iter(range(orders))
        for _ in range(clients):
            self._env.process(self._client(left))
        while len(self._ended) < orders:
            self._env.step()
        return self._outcome(self._env.now)

    def saturated(self, clients: int, seconds: float) -> Outcome:
        """As many clients, for a time. Each orders again when its order is CONFIRMED."""
        left = iter(range(10**9))
        for _ in range(clients):
            self._env.process(self._follower(left))
        self._env.run(seconds)
        return self._outcome(seconds)

    def _outcome(self, seconds: float) -> Outcome:
        cluster = self._cluster
        busy = {name: self._used[name] / seconds / count for name, count in cluster.cores.items()}
        busy |= {part: self._used[part] / seconds / cluster.copies.get(part, 1) for part in PARTS}
        done = max(1, len(self._ended))
        times = [ended - self._began[number] for number, ended in self._ended.items()]
        cpu = sum(self._used[name] for name in cluster.cores) / done - self._costs.generator
        busy[STOCK_LOCK] = self._used[STOCK_LOCK] / seconds
        return Outcome(len(self._ended) / seconds, times, cpu, busy, self._narrow(busy))

    def _narrow(self, busy: Mapping[str, float]) -> str:
        part = max(PARTS, key=lambda name: busy[name])
        service = part.split()[0]
        machines = {
            self._cluster.where(name) for name in (part, f"{service} postgres", *(["kafka"] if part in KAFKA else []))
        }
        if part == "inventory consumer":
            machines.add(STOCK_LOCK)
        worst = max(machines, key=lambda name: busy[name])
        return worst if busy[worst] > FULL else part

    def _arrivals(self, per_second: float) -> Process:
        number = 0
        while True:
            self._env.process(self._request(number, lambda: None))
            number += 1
            yield self._env.timeout(1 / per_second)

    def _client(self, left: Any) -> Process:
        for number in left:
            answered = self._env.event()
            yield from self._request(number, answered.succeed)
            yield answered

    def _follower(self, left: Any) -> Process:
        for number in left:
            self._followed[number] = self._env.event()
            yield from self._request(number, lambda: None)
            yield self._followed[number]

    def _request(self, number: int, answered: Callable[[], object]) -> Process:
        self._began[number] = self._env.now
        self._accepted[number] = answered
        yield from self._use(self._cluster.where("generator"), self._costs.generator)
        self._hand_over(0, [number])

    def _hand_over(self, step: int, numbers: list[int]) -> None:
        if step < len(SAGA):
            part = SAGA[step]
            self._waiting[part] += [(step, number) for number in numbers]
            while self._wake[part]:
                self._wake[part].pop().succeed()

    def _part(self, part: str) -> Process:
        """The turns of one process of a part, one after the other."""
        service, kind = part.split()
        own, behind = self._costs.own[part], self._costs.postgres[part]
        while True:
            if not self._waiting[part]:
                self._wake[part].append(self._env.event())
                yield self._wake[part][-1]
                continue
            started, most = self._env.now, BATCH[kind]
            batch, self._waiting[part] = self._waiting[part][:most], self._waiting[part][most:]
            yield from self._use(self._cluster.where(part), own.of(len(batch)))
            transaction = self._transaction(f"{service} postgres", behind.of(len(batch)), commits=kind != "relay")
            yield from self._in_turn(transaction) if part == "inventory consumer" else transaction
            if kind in {"relay", "consumer"}:
                yield from self._use(self._cluster.where("kafka"), self._costs.kafka.of(len(batch)))
            self._used[part] += self._env.now - started
            self._finish(batch)
            yield self._env.timeout(max(0.0, started + self._costs.pace[part] - self._env.now))

    def _transaction(self, postgres: str, seconds: float, *, commits: bool) -> Process:
        yield from self._use(self._cluster.where(postgres), seconds)
        if commits:
            yield self._env.timeout(self._costs.commit)

    def _in_turn(self, transaction: Process) -> Process:
        with self._stock.request() as lock:
            yield lock
            started = self._env.now
            yield from transaction
            self._used[STOCK_LOCK] += self._env.now - started

    def _finish(self, batch: list[tuple[int, int]]) -> None:
        for step in sorted({step for step, _ in batch}):
            numbers = [number for at, number in batch if at == step]
            for number in numbers if step == 0 else ():
                self._accepted.pop(number)()
            if step == CONFIRMED:
                self._ended.update(dict.fromkeys(numbers, self._env.now))
                for number in numbers if self._followed else ():
                    self._followed.pop(number).succeed()
            self._hand_over(step + 1, numbers)

    def _use(self, machine: str, seconds: float) -> Process:
        with self._cores[machine].request() as core:
            yield core
            yield self._env.timeout(seconds)
            self._used[machine] += seconds

    def _always(self, machine: str, cores: float, *, is_ours: bool = True) -> Process:
        """What runs all the time: timers, polls and empty turns, or other programs."""
        while True:
            yield from self._use(machine, 0.01 * cores)
            self._used[machine] -= 0.0 if is_ours else 0.01 * cores
            yield self._env.timeout(max(0.0, 0.01 * (1 - cores)))


ONE_MACHINE = Cluster({"all": 2})
"""What was measured: everything on two cores, load generator included."""
SERVICES = ("orders", "inventory", "payments")


def spread(nodes: int = 4, postgres: int = 8, kafka: int = 4) -> Cluster:
    """A small cluster: a machine for each service's processes, one Postgres, one Kafka, and clients outside."""
    machine = {part: part.split()[0] for part in PARTS} | {f"{service} postgres": "postgres" for service in SERVICES}
    cores = {**dict.fromkeys(SERVICES, nodes), "postgres": postgres, "kafka": kafka, "clients": 64}
    return Cluster(cores, machine | {"kafka": "kafka", "generator": "clients"})


def relieved(cluster: Cluster, narrow: str) -> tuple[str, Cluster]:
    """What to do about the narrowest place, and the cluster after it. The same cluster, if nothing in it helps."""
    if narrow == STOCK_LOCK:
        return "several clusters, each with some of the users and of the stock", cluster
    if narrow == "postgres":
        own = {f"{service} postgres": f"postgres of {service}" for service in SERVICES}
        each = dict.fromkeys(own.values(), cluster.cores["postgres"])
        cores = {name: count for name, count in cluster.cores.items() if name != "postgres"}
        return "a Postgres for each service", replace(cluster, cores=cores | each, machine={**cluster.machine, **own})
    if narrow in cluster.cores:
        count = cluster.cores[narrow] * 2
        what = "a larger machine" if narrow.startswith("postgres") else "more machines"
        return f"{what}: {count} cores", replace(cluster, cores={**cluster.cores, narrow: count})
    count = cluster.copies.get(narrow, 1) * 2
    return f"{count} processes", replace(cluster, copies={**cluster.copies, narrow: count})


def ladder(found: Costs, cluster: Cluster, steps: int, clients: int, seconds: float) -> list[tuple[Outcome, str, str]]:
    """Saturate the cluster, relieve its narrowest place, and so on: outcome, narrowest place, what is done about it."""
    rungs = []
    for _ in range(steps):
        outcome = Simulation(found, cluster).saturated(clients, seconds)
        what, cluster = relieved(cluster, outcome.narrow)
        rungs.append((outcome, outcome.narrow, what))
        if outcome.narrow == STOCK_LOCK:
            break
    return rungs


def checked(measured: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """Points that were measured, and what the simulation says about them: name, measured, simulated."""
    found, points = costs(measured), []
    _, *rates, many = measured["parts"]
    for point in rates:
        run = Simulation(found, ONE_MACHINE, others=point["others"])
        own = sum(used for name, used in point["own_us"].items() if name != "generator")
        simulated = run.open_loop(point["per_second"], 8).cpu * 1e6
        points.append((f"CPU us per order at {point['per_second']:,.0f} a second", own, simulated))
    full = Simulation(found, ONE_MACHINE, others=many["others"]).closed_loop(64, 6_000)
    points.append(("sagas a second, at most", many["per_second"], full.per_second))
    return points


def main() -> None:
    measured = json.loads(MEASURED.read_text())
    print("simulated against measured")
    for name, real, simulated in checked(measured):
        print(f"  {name:<36} {real:8,.0f} measured  {simulated:8,.0f} simulated  ({simulated / real - 1:+.0%})")
    print("\nwhat gives way: a machine of 4 cores for each service, 8 for Postgres, 4 for Kafka")
    for outcome, narrow, what in ladder(costs(measured), spread(), 16, 10_000, 3.0):
        p50 = statistics.median(outcome.latencies) * 1e3 if outcome.latencies else math.nan
        rate = f"{outcome.per_second:8,.0f} a second, p50 {p50:7,.0f} ms"
        print(f"  {rate}: {narrow} ({outcome.busy[narrow]:.0%}) -> {what}")


if __name__ == "__main__":
    main()
