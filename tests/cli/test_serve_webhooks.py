"""`everywire serve` with an application that it asks over HTTP, set up by a configuration file alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest
import websockets

from tests.access.application import Answer, Application, application_served
from tests.cli.commands import DEADLINE_S, running

SECRET = "a secret of tokens that is long enough"
KEY = "sesame-sesame"


def answer(kind: str, question: dict[str, Any]) -> Answer:
    """Be an application: who has a cookie is somebody, and what is closed is closed."""
    if kind == "connect":
        return {"result": {"user": "ann", "data": {"hello": "ann"}, "channels": ["inbox:ann"]}}
    if kind == "subscribe" and question["channel"] == "closed":
        return {"error": {"code": 1003, "message": "not this one"}}
    if kind == "subscribe" and question["channel"] == "kicked":
        return {"disconnect": {"code": 4501, "reason": "out"}}
    if kind == "publish" and question["data"] == "bad":
        return {"error": {"code": 1001, "message": "no bad words"}}
    if kind == "publish":
        return {"result": {"data": {"said": question["data"], "by": question["user"]}}}
    return {"result": {"data": {"method": question.get("method")}}}


@pytest.fixture
async def application() -> AsyncIterator[Application]:
    async with application_served() as made:
        made.answer = answer
        yield made


def config(tmp_path: Path, application: Application, more: str = "") -> str:
    path = tmp_path / "everywire.toml"
    kinds = ("connect", "subscribe", "publish", "rpc", "disconnect")
    rows = "".join(f'{kind} = "{application.url}/{kind}"\n' for kind in kinds)
    path.write_text(
        f'[rules]\napi_keys = ["{KEY}"]\nuser_read = ["room:{{user}}"]\n[tokens]\nsecret = "{SECRET}"\n'
        f'[webhooks]\n{rows}headers = ["Cookie"]\nstatic_headers = ["X-Key: letmein"]\n{more}'
    )
    return str(path)


async def test_plain_wires_and_sessions_are_asked_about(application: Application, tmp_path: Path) -> None:
    async with (
        running("--config", config(tmp_path, application)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S, trust_env=False) as client,
    ):
        cookie = {"Cookie": "id=1"}
        posted = await client.post("/channels/news", json="hi", headers=cookie)
        assert posted.status_code == 201
        page = (await client.get("/channels/news", headers=cookie)).json()
        assert [one["data"] for one in page["publications"]] == [{"said": "hi", "by": "ann"}]
        refused = await client.post("/channels/news", json="bad", headers=cookie)
        assert (refused.status_code, refused.json()["error"]["message"]) == (403, "no bad words")
        closed = await client.get("/channels/closed", headers=cookie)
        assert (closed.status_code, closed.json()["error"]["code"]) == (403, 1003)
        kicked = await client.get("/channels/kicked", headers=cookie)
        assert (kicked.status_code, kicked.json()["error"]["code"]) == (403, 4501)
        # An operator is not asked about.
        before = application.counts()
        by_key = await client.post("/channels/news", json="bad", headers={"X-API-Key": KEY})
        assert by_key.status_code == 201 and application.counts() == before

        await talk(server.url.replace("http", "ws"), application)
        text = (await client.get("/metrics")).text
        assert 'everywire_webhooks_asked_total{kind="connect"}' in text
        assert "everywire_webhooks_failed_total 0.0" in text
    assert all(fields["x-key"] == "letmein" for _, _, fields in application.asked)


async def talk(url: str, application: Application) -> None:
    """Be a session."""
    address = f"{url}/connection/websocket"
    async with websockets.connect(address, additional_headers={"Cookie": "id=1"}, proxy=None) as socket:

        async def ask(command: dict[str, Any]) -> dict[str, Any]:
            await socket.send(json.dumps(command))
            while True:
                for line in (await socket.recv()).splitlines():
                    told: dict[str, Any] = json.loads(line)
                    if told.get("id") == command["id"]:
                        return told

        async with asyncio.timeout(DEADLINE_S):
            connected = (await ask({"id": 1, "connect": {}}))["connect"]
            assert connected["data"] == {"hello": "ann"} and list(connected["subs"]) == ["inbox:ann"]
            assert "subscribe" in await ask({"id": 2, "subscribe": {"channel": "news"}})
            error = (await ask({"id": 3, "subscribe": {"channel": "closed"}}))["error"]
            assert (error["code"], error["message"]) == (1003, "not this one")
            error = (await ask({"id": 4, "publish": {"channel": "news", "data": "bad"}}))["error"]
            assert error["code"] == 1001
            assert (await ask({"id": 5, "publish": {"channel": "news", "data": 1}}))["publish"] == {}
            assert (await ask({"id": 6, "rpc": {"method": "m"}}))["rpc"]["data"] == {"method": "m"}
            await socket.send(json.dumps({"id": 7, "subscribe": {"channel": "kicked"}}))
            await socket.wait_closed()
        assert (socket.close_code, socket.close_reason) == (4501, "out")
    async with asyncio.timeout(DEADLINE_S):
        while not application.counts()["disconnect"]:
            await asyncio.sleep(0.01)
    (told,) = (question for kind, question, _ in application.asked if kind == "disconnect")
    assert (told["user"], told["client"], told["code"]) == ("ann", connected["client"], 4501)


async def test_who_brings_a_token_is_known_without_asking(application: Application, tmp_path: Path) -> None:
    async with (
        running("--config", config(tmp_path, application)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S, trust_env=False) as client,
    ):
        token = jwt.encode({"sub": "bob"}, SECRET, "HS256")
        answered = await client.get("/channels/room:bob", headers={"Authorization": f"Bearer {token}"})
        assert answered.status_code == 200
    counts = application.counts()
    assert counts["connect"] == 0 and counts["subscribe"] == 1
    assert application.asked[0][1]["user"] == "bob"


async def test_an_application_that_is_gone_lets_nobody_in(application: Application, tmp_path: Path) -> None:
    application.answer = lambda kind, question: b"HTTP/1.1 500 Oops\r\ncontent-length: 0\r\n\r\n"
    async with (
        running("--config", config(tmp_path, application)) as server,
        httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S, trust_env=False) as client,
    ):
        for _ in range(3):
            answered = await client.get("/channels/news")
            assert (answered.status_code, answered.json()["error"]["code"]) == (500, 100)
        assert "everywire_webhooks_failed_total 3.0" in (await client.get("/metrics")).text
        server.process.terminate()
        _, err = await server.process.communicate()
    assert err.decode().count("the webhook connect failed") == 1
    assert "Traceback" not in err.decode() and "letmein" not in err.decode()
