"""A server that cannot start says so to its host, which otherwise would serve an application without one."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from everywire import Everywire
from everywire.asgi.application import AsgiApplication
from everywire.core.errors import SettingsError
from everywire.core.limits import Limits


class Life:
    def __init__(self, error: Exception) -> None:
        self.error = error

    async def start(self) -> None:
        raise self.error

    async def close(self) -> None:
        raise AssertionError("this was never started")


async def told(error: Exception) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    app = AsgiApplication(lambda exchange: None, Life(error), Limits())
    try:
        await app({"type": "lifespan"}, receive, send)
    except ValueError:
        sent.append({"type": "raised"})
    return sent


async def test_an_application_whose_lifespan_was_forgotten_says_so() -> None:
    wire = Everywire(dev=True, is_loopback=True)
    transport = httpx.ASGITransport(app=wire.asgi)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        for path in ("/channels/news", "/connection/websocket", "/nothing"):
            answer = await client.get(path)
            assert answer.status_code == 503, path
            assert "wire.lifespan()" in answer.json()["error"]["message"]
            assert answer.headers["retry-after"]
        assert (await client.get("/readyz")).text == "not started\n"


async def test_what_an_operator_can_mend_is_told_without_a_traceback() -> None:
    (failed,) = await told(SettingsError("name a broker"))
    assert failed == {"type": "lifespan.startup.failed", "message": "everywire: name a broker"}


@pytest.mark.parametrize("text", ["", "something internal"])
async def test_what_was_not_foreseen_is_told_and_raised(text: str) -> None:
    failed, raised = await told(ValueError(text))
    assert failed == {"type": "lifespan.startup.failed", "message": "everywire: ValueError"}
    assert raised == {"type": "raised"}
