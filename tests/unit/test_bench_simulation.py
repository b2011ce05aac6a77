"""The simulation of a cluster: compared with what was measured, and with what can be computed by hand."""

import json
from dataclasses import replace

import pytest

from bench import simulation
from bench.simulation import KAFKA, ONE_MACHINE, PARTS, SAGA, Cluster, Cost, Costs, Simulation, checked, costs

MEASURED = json.loads(simulation.MEASURED.read_text())
FREE = Cost(0.0, 0.0)
ONLY_OWN = Costs(
    own=dict.fromkeys(PARTS, Cost(0.001, 0.0005)),
    postgres=dict.fromkeys(PARTS, FREE),
    kafka=FREE,
    generator=0.0,
    pace=dict.fromkeys(PARTS, 0.0),
    commit=0.002,
    idle=0.0,
)


@pytest.mark.parametrize(("name", "measured", "simulated"), checked(MEASURED))
def test_the_simulation_agrees_with_a_measured_point(name: str, measured: float, simulated: float) -> None:
    assert simulated == pytest.approx(measured, rel=0.3), name


def test_one_order_takes_the_sum_of_its_steps() -> None:
    outcome = Simulation(ONLY_OWN, Cluster({"all": 64})).open_loop(1, 0.9)
    until_confirmed = SAGA[: simulation.CONFIRMED + 1]
    commits = [part for part in until_confirmed if not part.endswith("relay")]
    assert outcome.latencies == [pytest.approx(0.0015 * len(until_confirmed) + 0.002 * len(commits))]


def test_all_orders_end_and_their_cpu_is_the_sum_of_the_costs() -> None:
    single = replace(ONLY_OWN, own=dict.fromkeys(PARTS, Cost(0.0, 0.001)))
    outcome = Simulation(single, ONE_MACHINE).closed_loop(8, 500)
    assert len(outcome.latencies) == 500
    assert outcome.cpu == pytest.approx(0.001 * len(SAGA), rel=0.1)
    assert outcome.per_second == pytest.approx(2 / (0.001 * len(SAGA)), rel=0.1)  # two cores are busy all the time


def test_a_slow_part_is_named_and_a_second_process_relieves_it() -> None:
    slow = replace(ONLY_OWN, own={**ONLY_OWN.own, "payments worker": Cost(0.0, 0.01)})
    cluster = Cluster({"all": 64})
    outcome = Simulation(slow, cluster).saturated(100, 3)
    assert outcome.narrow == "payments worker"
    what, wider = simulation.relieved(cluster, outcome.narrow)
    assert what == "2 processes"
    assert Simulation(slow, wider).saturated(100, 3).per_second > 1.3 * outcome.per_second


def test_a_full_machine_is_named_and_not_the_part_that_waits_for_it() -> None:
    outcome = Simulation(ONLY_OWN, Cluster({"all": 1})).saturated(100, 2)
    assert outcome.narrow == "all"


def test_a_full_postgres_is_divided_by_service() -> None:
    what, wider = simulation.relieved(simulation.spread(), "postgres")
    assert what == "a Postgres for each service"
    assert "postgres" not in wider.cores
    assert wider.where("payments postgres") == "postgres of payments"


def test_the_costs_of_the_last_point_are_those_that_were_measured() -> None:
    many = MEASURED["parts"][-1]
    found = costs(MEASURED)
    for part in PARTS:
        assert found.own[part].order * simulation.VISITS[part] * 1e6 == pytest.approx(many["own_us"][part], rel=0.15)
    kafka = found.kafka.order * sum(simulation.VISITS[part] for part in KAFKA)
    assert kafka * 1e6 < many["own_us"]["kafka"]  # without what it uses while nobody orders


def test_more_processes_do_not_help_where_transactions_take_turns() -> None:
    slow = replace(ONLY_OWN, postgres={**ONLY_OWN.postgres, "inventory consumer": Cost(0.0, 0.01)})
    cluster = Cluster({"all": 64}, copies={"inventory consumer": 4})
    outcome = Simulation(slow, cluster).saturated(100, 3)
    assert outcome.narrow == simulation.STOCK_LOCK
    assert simulation.relieved(cluster, outcome.narrow)[1] == cluster
    assert outcome.per_second < 1 / 0.01
