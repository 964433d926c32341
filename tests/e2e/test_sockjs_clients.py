"""npm's `sockjs-client` against the server: over each of its transports, in Node and in Chromium."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.e2e.conftest import BROWSER, run_node
from tests.e2e.interop import SECRET, interop
from tests.e2e.sockjs_app import Services, sockjs_services
from tests.e2e.test_browser import chromium
from tests.e2e.test_socketio_clients import free_port

pytestmark = pytest.mark.xdist_group("busy")

IN_NODE: Final = ("websocket", "xhr-streaming", "eventsource", "xhr-polling")
FROM_ELSEWHERE: Final = (*IN_NODE, "iframe-eventsource", "iframe-htmlfile", "iframe-xhr-polling")
AT_HOME: Final = ("htmlfile", "jsonp-polling")
"""The first opens from the own origin only. The other is let in by no other site: scripts name no origin."""
LEAST_CHECKS: Final = 14
LEAST_SESSION_CHECKS: Final = 45

Checks = list[dict[str, Any]]
Case = dict[str, Any]


def case(transport: str, **more: Any) -> Case:
    return {"transport": transport, "name": transport, **more}


def judge(cases: list[Case], results: dict[str, Checks], least: int = LEAST_CHECKS) -> None:
    assert set(results) == {one["name"] for one in cases}
    for name, checks in results.items():
        failed = [f"{check['name']}: {check.get('detail')}" for check in checks if not check["ok"]]
        last = next((check["name"] for check in reversed(checks) if check["ok"]), "nothing")
        assert not failed, f"{name}: {failed}; the last that went well: {last}"
        assert len(checks) >= least, (name, [check["name"] for check in checks])


async def run_cases(services: Services, cases: list[Case], script: Path, port: int = 0) -> dict[str, Any]:
    given = [one | {"base": await services.cable(one["name"])} for one in cases]
    results: dict[str, Any] = await run_node(script, json.dumps({"cases": given, "port": port}))
    return results


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_every_transport_in_node(host: str) -> None:
    cases = [case(transport) for transport in IN_NODE]
    async with sockjs_services(host) as services:
        judge(cases, await run_cases(services, cases, BROWSER / "sockjs_node.mjs"))


async def test_every_transport_in_chromium() -> None:
    """From a page of another site whose origin is listed; one that is not gets in by none of them."""
    chromium()
    port = await free_port()
    cases = [*map(case, FROM_ELSEWHERE), *(case(transport, own=True) for transport in AT_HOME)]
    async with sockjs_services(allowed_origins=[f"http://localhost:{port}"]) as services:
        results = await run_cases(services, cases, BROWSER / "sockjs_page.mjs", port)
    assert results.pop("foreign") == dict.fromkeys(FROM_ELSEWHERE, "refused")
    judge(cases, results)


async def test_the_session_protocol_over_every_transport() -> None:
    """npm's `centrifuge` over SockJS: all that it does, recovery after cuts included."""
    async with interop(resets=True) as server:
        cases = [
            {
                "transport": "sockjs",
                "protocol": "json",
                "inner": inner,
                "base": await server.cable(f"user-sockjs{inner}-json"),
            }
            for inner in IN_NODE
        ]
        given = {"secret": SECRET, "cases": cases}
        results = await run_node(BROWSER / "centrifuge_node.mjs", json.dumps(given))
    judge([case(inner) for inner in IN_NODE], results, LEAST_SESSION_CHECKS)
