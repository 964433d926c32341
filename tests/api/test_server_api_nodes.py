"""The server API and sessions over several nodes, each a whole server on real sockets, over one store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from everywire.testing.shared_broker import SharedStore
from tests.api.calling import Api, api
from tests.serving import until
from tests.talking import CONNECT, over_http_stream


@asynccontextmanager
async def nodes(**options: Any) -> AsyncIterator[tuple[Api, Api, SharedStore]]:
    store = SharedStore()
    async with AsyncExitStack() as stack:
        a = await stack.enter_async_context(api(broker=store.node("a"), **options))
        b = await stack.enter_async_context(api(broker=store.node("b"), **options))
        yield a, b, store


async def test_what_one_node_is_told_happens_on_the_other() -> None:
    async with nodes() as (a, b, _), b.session("ann", "room") as talk, b.session("bob", "room") as bob:
        await a.call("publish", channel="room", data=1)
        assert (await talk.next())["push"]["pub"]["data"] == 1
        await until(lambda: len(a.wire.hub.broker.leases._far._groups.get("room", ())) == 2)  # type: ignore[attr-defined]
        presence = (await a.call("presence", channel="room"))["presence"]
        assert presence.keys() == {talk.client, bob.client}
        await a.call("subscribe", user="ann", channel="hall")
        assert (await talk.next())["push"]["channel"] == "hall"
        assert (await a.call("channels"))["channels"] == {
            "room": {"num_clients": 2}, "hall": {"num_clients": 1}
        }  # fmt: skip
        infos = {node["uid"]: node for node in (await a.call("info"))["nodes"]}
        assert [infos[uid]["num_clients"] for uid in "ab"] == [0, 2]
        async with a.session("cid", "room"):
            assert (await a.call("channels", pattern="r*"))["channels"] == {"room": {"num_clients": 3}}
        await a.call("unsubscribe", user="ann", channel="hall")
        assert (await talk.next())["push"]["unsubscribe"]["code"] == 2000
        await a.call("block_user", user="ann")
        assert (await talk.ended()).code == 3507
        await a.call("disconnect", user="bob")
        assert (await bob.next())["push"]["pub"]["data"] == 1
        assert (await bob.ended()).code == 3503


async def test_commands_reach_their_session_by_any_node() -> None:
    async with nodes() as (a, b, store), over_http_stream(b.site, CONNECT) as talk:
        await talk.connected()
        assert talk.node == "b"
        command = '{"id":7,"rpc":{"method":"echo","data":{"by":"a"}}}'

        async def emulate(node: str, session: str) -> int:
            body = {"node": node, "session": session, "data": command}
            return (await a.site.http.post("/emulation", json=body)).status_code

        assert await emulate("b", talk.session) == 204
        assert (await talk.next())["rpc"]["data"] == {"by": "a"}
        assert await emulate("b", "somebody else's") == 204
        assert await emulate("nowhere", talk.session) == 404
        assert talk.replies.empty()
        store.kill("b")
        assert await emulate("b", talk.session) == 503
        assert (await a.call("info"))["silent"] == ["b"]


async def test_channels_of_a_pattern_that_nobody_could_mean_are_refused_everywhere() -> None:
    async with nodes() as (a, b, _):
        for wrong in (b"{}", b"[]", b'{"v":1}', b'{"v":1,"pattern":7}'):
            answers, silent = await a.wire._assembly.shared.registry.nodes.ask_all("api.channels", wrong)
            assert not answers and sorted(silent) == ["a", "b"]
        assert (await b.call("channels"))["channels"] == {}
