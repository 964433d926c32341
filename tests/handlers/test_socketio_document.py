"""The page about Socket.IO, block for block as it stands, with the client of python-socketio."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest

from everywire import Everywire
from tests.handlers.socketio_talking import client, refusal
from tests.handlers.test_document import module_of
from tests.handlers.test_engineio import client as engine_client
from tests.serving import DEADLINE_S, Site, serving_wire, until

PAGE = Path(__file__).parents[2] / "docs" / "socketio.md"


def blocks() -> list[str]:
    """The blocks of Python on the page."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_the_blocks_are_an_application(host: str, certificate: tuple[str, str], tmp_path: Path) -> None:
    page = module_of("".join(blocks()), tmp_path)
    async with serving_wire(host, page.wire, certificate) as site:
        async with client(site, auth={"name": "ann"}, namespaces=("/", "/game")) as ann:
            async with client(site, auth={"name": "bob"}) as bob:
                assert await ann.call("say", "hello") == "sent"
                assert await bob.hears("said") == [{"by": "ann", "text": "hello"}]
                # A room is a channel, and the other way round.
                (kept,) = (await page.wire.history("lobby")).publications
                assert (kept.event, kept.data) == ("said", {"by": "ann", "text": "hello"})
                await page.wire.publish("lobby", "by any wire")
                assert await ann.hears("message") == ["by any wire"]
                assert (await ann.call("say", 7))["error"]["code"] == 107
            assert await ann.hears("left") == ["bob"]
            assert ann.told("said") == []  # the sender is left out
            game = {"namespace": "/game"}
            moved = await ann.call("move", {"column": 3}, **game)
            assert moved == {"column": 3, "by": ann.io.get_sid("/game")}
            assert (await ann.call("move", {"column": "three"}, **game))["error"]["code"] == 107
            assert await ann.call("jump", 1, **game) == {"unknown": "jump"}
        async with engine_client(site, "engine.io") as plain:
            for message in ("text", b"bytes"):
                await plain.io.send(message)
            await until(lambda: plain.heard == ["text", b"bytes"])
        assert await refusal(site, auth={"banned": True}) == {"message": "not you", "data": {"why": "banned"}}


async def test_events_that_need_no_application(certificate: tuple[str, str], tmp_path: Path) -> None:
    """Those of the page's first block, in JavaScript there."""
    page = module_of(blocks()[0], tmp_path)
    async with serving_wire("own", page.wire, certificate) as site, client(site) as reader:
        begun = await reader.call("subscribe", "news")
        assert begun["channel"] == "news" and begun["position"]
        published = await reader.call("publish", ("news", {"text": "hello"}))
        assert published.keys() == {"offset", "epoch", "position"}
        assert await reader.hears("message") == [{"text": "hello"}]
        assert await reader.call("unsubscribe", "news") == {"channel": "news"}
        again = await reader.call("subscribe", ("news", "earliest"))
        assert await reader.hears("message", 2) == [{"text": "hello"}] * 2, again


async def test_the_example_of_a_chat_runs() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "examples/socketio_chat.py", "0", cwd=PAGE.parents[1], stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            (url,) = json.loads(await process.stderr.readline())["addresses"]
            site = Site("own", Everywire(), url)
            assert await refusal(site) == {"message": "say who you are", "data": {"missing": "name"}}
            async with site.http, client(site, auth={"name": "ann"}) as ann:
                assert "io({ auth: { name } })" in (await site.http.get("/")).text
                async with client(site, auth={"name": "bob"}) as bob:
                    assert await bob.call("say", "hello") == "sent"
                    assert (await bob.call("say", ""))["error"]["code"] == 107
                    assert await ann.hears("said") == [{"by": "bob", "text": "hello"}]
                    assert not bob.told("said")
                    await site.http.post("/channels/lobby", content=b'"from elsewhere"')
                    assert await ann.hears("message") == ["from elsewhere"]
                assert await ann.hears("left") == ["bob"]
                assert ann.told("joined") == ["bob"]
            process.terminate()
            _, err = await process.communicate()
        assert process.returncode == 0 and "Traceback" not in err.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
