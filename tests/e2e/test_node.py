"""Node's clients: npm's `ws` and `eventsource`, and `fetch`."""

from __future__ import annotations

from tests.e2e.conftest import NODE, Server, run_node


async def test_all_of_them_see_the_same(server: Server) -> None:
    result = await run_node(NODE / "clients.mjs", server.url, authority=server.authority)
    rest = [{"bytes": [0, 10, 13, 255]}, [1, 2], None, "by envelope", "last"]
    expected = [{"text": "a\nb\u2028c ä 𝄞"}, *rest]
    for name, seen in result["seen"].items():
        # 3.5 was sent over a socket of its own, so it may stand anywhere.
        assert [data for data in seen if data != 3.5] == expected, name
        assert seen.count(3.5) == 1
    assert len({str(seen) for seen in result["seen"].values()}) == 1
    async with server.client() as client:
        page = (await client.get("/channels/node", params={"after": result["position"]})).json()
    assert [row["data"] for row in page["publications"]] == ["last"]
