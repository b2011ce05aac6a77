"""What a service exports: both formats, exemplars, and the lag of its event loop."""

import asyncio
import time
import tomllib
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from shared import metrics
from shared.process import lag
from shared.process.configuration import Settings
from shared.web import application
from tests.builders import eventually
from tests.conftest import ROOT

TRACE = "0af7651916cd43dd8448eb211c80319c"


async def test_metrics_are_plain_text_unless_openmetrics_is_asked_for(aiohttp_client: Any) -> None:
    client = await aiohttp_client(application.create())
    for headers in ({}, {"Accept": "*/*"}, {"Accept": "text/html"}):
        answer = await client.get("/metrics", headers=headers)
        assert answer.content_type == "text/plain"
        assert any(family.name == "parked_events" for family in plain(await answer.text()))


async def test_openmetrics_has_the_trace_of_a_sampled_request(aiohttp_client: Any) -> None:
    metrics.observe_request("/exemplars", "GET", 200, 0.0042, TRACE)
    metrics.observe_request("/exemplars", "GET", 200, 0.3)
    client = await aiohttp_client(application.create())
    answer = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert answer.content_type == "application/openmetrics-text"
    found = [
        (sample.labels["le"], sample.exemplar.labels)
        for family in openmetrics(await answer.text())
        for sample in family.samples
        if sample.labels.get("http_route") == "/exemplars" and sample.exemplar
    ]
    assert found == [("0.005", {"trace_id": TRACE})]


async def test_a_request_is_measured_by_route_method_and_status(aiohttp_client: Any) -> None:
    client = await aiohttp_client(application.create())
    labels = {"http_route": "/healthz", "http_request_method": "GET", "http_response_status_code": "200"}
    before = read("http_server_request_duration_seconds_count", labels)
    await client.get("/healthz")
    assert read("http_server_request_duration_seconds_count", labels) == before + 1


async def test_a_blocked_event_loop_shows_in_its_lag() -> None:
    before = read("event_loop_lag_seconds_sum")
    stop = asyncio.Event()
    measuring = asyncio.create_task(lag.run(stop))
    await asyncio.sleep(0)
    time.sleep(1.0)  # noqa: ASYNC251 - the block is what is measured

    async def measured() -> bool:
        return read("event_loop_lag_seconds_sum") > before

    await eventually(measured)
    stop.set()
    await measuring
    assert read("event_loop_lag_seconds_sum") - before > 0.4


def test_the_release_is_the_version_of_the_project() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert Settings.model_fields["release"].default == version
    metrics.set_build(version)
    assert [s.value for s in metrics.BUILD.collect()[0].samples if s.labels["version"] == version] == [1]


def read(name: str, labels: dict[str, str] | None = None) -> float:
    return REGISTRY.get_sample_value(name, labels or {}) or 0.0
