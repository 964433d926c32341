"""The page about Socket.IO, block for block as it stands, with the client of python-socketio."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.handlers.socketio_talking import client, refusal
from tests.handlers.test_document import module_of
from tests.serving import serving_wire

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
