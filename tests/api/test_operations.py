"""``/livez``, ``/readyz`` and ``/metrics``, over the host that serves them."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client.parser import text_string_to_metric_families

from everywire.access.rules import Rules
from everywire.api.figures import Figure
from everywire.api.host_figures import host_figures
from everywire.api.operations import Operations
from everywire.brokers.base import Health
from everywire.core.limits import Limits
from everywire.transports.exchange import Exchange
from tests.server.driving import Handlers, Site, running

KEY = "a-key-of-some-length"


class Operated(Handlers):
    """The operators' addresses beside the small handlers."""

    def __init__(self) -> None:
        super().__init__()
        self.health = Health(True, "")
        self.operations = Operations(Rules(api_keys={"ops": KEY}), lambda: self.health)

    def __call__(self, exchange: Exchange) -> None:
        if not self.operations.serve(exchange):
            super().__call__(exchange)


@asynccontextmanager
async def operated(**options: object) -> AsyncIterator[tuple[Site, Operated]]:
    handlers = Operated()
    async with running(handlers, **options) as site:  # type: ignore[arg-type]
        handlers.operations.figures.add(lambda: host_figures(site.server))
        yield site, handlers


async def test_livez_and_readyz() -> None:
    async with operated() as (site, handlers):
        for path in ("/livez", "/readyz"):
            response = await site.ask(site.get(path))
            assert (response.status, response.body) == (200, b"ok\n")
            assert response.headers["cache-control"] == "no-store"
            assert (await site.ask(site.get(path, method="HEAD"))).status == 200
            assert (await site.ask(site.get(path, method="POST"))).status == 405
        handlers.health = Health(False, "the store is behind")
        response = await site.ask(site.get("/readyz"))
        assert (response.status, response.body) == (503, b"the store is behind\n")
        assert (await site.ask(site.get("/livez"))).status == 200
        handlers.health = Health(True, "")
        handlers.operations.is_draining = True
        response = await site.ask(site.get("/readyz"))
        assert (response.status, response.body) == (503, b"draining\n")


async def scrape(site: Site) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    response = await site.ask(site.get("/metrics"))
    assert response.status == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }


async def test_metrics() -> None:
    async with operated(limits=Limits(max_head_bytes=1000)) as (site, handlers):
        handlers.operations.figures.add(lambda: [Figure("everywire_things", "Things", 3)])
        stream = await site.connect()
        stream.send(site.get("/stream"))
        await stream.reader.readuntil(b"first ")
        await site.ask(b"nonsense\r\n\r\n")
        await site.ask(site.get("/", "X: " + "x" * 2000))
        await site.ask(site.get("/"))
        found = await scrape(site)
        assert found["everywire_things", ()] == 3
        assert found["everywire_connections_accepted_total", ()] == 5
        assert found["everywire_connections", (("transport", "sse"),)] == 1
        assert found["everywire_requests_total", (("status", "2xx"),)] == 2
        assert found["everywire_requests_total", (("status", "4xx"),)] == 2
        assert found["everywire_refused_total", (("reason", "bad_request"),)] == 1
        assert found["everywire_refused_total", (("reason", "head_too_large"),)] == 1
        assert found["everywire_tls_handshake_failures_total", ()] == 0
        assert found["everywire_log_lines_dropped_total", ()] == 0
        assert found["everywire_loop_turn_seconds_max", ()] >= 0
        again = await scrape(site)
        assert again["everywire_requests_total", (("status", "2xx"),)] == 3
        assert again["everywire_received_bytes_total", ()] >= found["everywire_received_bytes_total", ()]


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ([], 200),
        (["X-Forwarded-For: 203.0.113.5"], 401),
        (["Via: 1.1 proxy"], 401),
        (["X-Forwarded-For: 203.0.113.5", f"Authorization: Bearer {KEY}"], 200),
        (["X-Forwarded-For: 203.0.113.5", f"X-API-Key: {KEY}"], 200),
        (["X-Forwarded-For: 203.0.113.5", "X-API-Key: wrong-key-of-some-length"], 401),
        (["X-API-Key: wrong-key-of-some-length"], 401),
    ],
)
async def test_metrics_are_for_this_machine_or_for_who_has_a_key(fields: list[str], status: int) -> None:
    for trusted in ((), ("127.0.0.1",)):
        async with operated(trusted_proxies=trusted) as (site, _):
            assert (await site.ask(site.get("/metrics", *fields))).status == status


async def test_the_longest_turn_of_the_loop_is_seen() -> None:
    async with operated() as (site, _):
        await scrape(site)
        time.sleep(0.2)  # noqa: ASYNC251 - this is the point
        assert (await scrape(site))["everywire_loop_turn_seconds_max", ()] >= 0.1
