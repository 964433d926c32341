"""PyPI's `cent` against the server API, sync and async: every method but those of the commercial part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import cent
import pytest

from everywire.core import codes
from tests.api.calling import KEY, NOW_S, Api, api, token
from tests.talking import over_websocket

Send = Callable[[str, cent.CentRequest[Any]], Awaitable[Any]]


@asynccontextmanager
async def client(one: Api, kind: str, key: str = KEY) -> AsyncIterator[Send]:
    """Make a client of the library; the synchronous one works in a thread."""
    url = f"{one.site.url}/api"
    if kind == "async":
        library = cent.AsyncClient(url, key)

        async def send(method: str, request: cent.CentRequest[Any]) -> Any:
            return await getattr(library, method)(request)

        try:
            yield send
        finally:
            await library.close()
    else:
        blocking = cent.Client(url, key)

        async def send_blocking(method: str, request: cent.CentRequest[Any]) -> Any:
            return await asyncio.to_thread(getattr(blocking, method), request)

        try:
            yield send_blocking
        finally:
            blocking.close()


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_publications(kind: str) -> None:
    async with api() as one, client(one, kind) as send:
        result = await send(
            "publish",
            cent.PublishRequest(
                channel="a",
                data={"x": 1},
                tags={"k": "v"},
                idempotency_key="one",
                skip_history=False,
                b64data=None,
            ),
        )
        assert isinstance(result, cent.PublishResult)
        assert result.offset == 1 and result.epoch
        again = cent.PublishRequest(channel="a", data={"x": 1}, tags={"k": "v"}, idempotency_key="one")
        assert (await send("publish", again)).offset == 1
        broadcast = await send("broadcast", cent.BroadcastRequest(channels=["a", "b", "?"], data=[2]))
        assert [response.result and response.result.offset for response in broadcast.responses] == [
            2,
            1,
            None,
        ]
        assert broadcast.responses[2].error.code == 107

        history = await send("history", cent.HistoryRequest(channel="a", limit=10))
        assert [(one.offset, one.data, one.tags) for one in history.publications] == [
            (1, {"x": 1}, {"k": "v"}),
            (2, [2], None),
        ]
        assert (history.offset, history.epoch) == (2, result.epoch)
        since = cent.StreamPosition(offset=1, epoch=result.epoch)
        page = await send("history", cent.HistoryRequest(channel="a", limit=1, since=since))
        assert [one.offset for one in page.publications] == [2]
        page = await send("history", cent.HistoryRequest(channel="a", limit=1, reverse=True))
        assert [one.offset for one in page.publications] == [2]
        removed = await send("history_remove", cent.HistoryRemoveRequest(channel="a"))
        assert isinstance(removed, cent.HistoryRemoveResult)
        page = await send("history", cent.HistoryRequest(channel="a", limit=-1))
        assert (page.publications, page.offset) == ([], 2)
        with pytest.raises(cent.CentApiResponseError) as caught:
            await send("history", cent.HistoryRequest(channel="a", limit=1, since=since))
        assert caught.value.code == 112


async def test_connections(kind: str) -> None:
    async with api() as one, client(one, kind) as send, one.session("ann", exp=NOW_S * 2) as talk:
        await send(
            "subscribe",
            cent.SubscribeRequest(
                user="ann",
                channel="room",
                client=talk.client,
                info={"role": "host"},
                data={"hello": 1},
                recover_since=cent.StreamPosition(),
                override=cent.ChannelOptionsOverride(
                    join_leave=cent.BoolValue(value=True), force_recovery=cent.BoolValue(value=True)
                ),
            ),
        )
        assert (await talk.next())["push"]["subscribe"]["data"] == {"hello": 1}
        presence = (await send("presence", cent.PresenceRequest(channel="room"))).presence
        assert (presence[talk.client].user, presence[talk.client].chan_info) == ("ann", {"role": "host"})
        stats = await send("presence_stats", cent.PresenceStatsRequest(channel="room"))
        assert (stats.num_clients, stats.num_users) == (1, 1)
        channels = await send("channels", cent.ChannelsRequest(pattern="ro*"))
        assert {name: found.num_clients for name, found in channels.channels.items()} == {"room": 1}
        assert (await send("channels", cent.ChannelsRequest())).channels.keys() == {"room"}
        (node,) = (await send("info", cent.InfoRequest())).nodes
        assert (node.num_clients, node.num_subs, node.num_users, node.num_channels) == (1, 1, 1, 1)
        assert node.uid and node.name and node.process.rss > 0 and node.metrics.items

        await send("unsubscribe", cent.UnsubscribeRequest(user="ann", channel="room"))
        assert (await talk.next())["push"]["unsubscribe"]["code"] == 2000
        await send("refresh", cent.RefreshRequest(user="ann", expire_at=NOW_S * 3))
        assert (await talk.next())["push"]["refresh"]["expires"] is True
        ending = cent.Disconnect(code=4001, reason="enough")
        await send("disconnect", cent.DisconnectRequest(user="ann", whitelist=["x"], disconnect=ending))
        ended = await talk.ended()
        assert (ended.code, ended.reason) == (4001, "enough")
        async with one.session("ann") as second:
            await send("refresh", cent.RefreshRequest(user="ann", client=second.client, expired=True))
            assert (await second.ended()).code == 3005


async def test_revocations(kind: str) -> None:
    async with api() as one, client(one, kind) as send:

        async def is_refused(**claims: Any) -> bool:
            connect = {"id": 1, "connect": {"token": token("ann", **claims)}}
            async with over_websocket(one.site, connect) as talk:
                return "error" in await talk.next()

        async with one.session("ann") as talk:
            assert isinstance(
                await send("block_user", cent.BlockUserRequest(user="ann")), cent.BlockUserResult
            )
            assert (await talk.ended()).code == codes.REFUSED.number
        assert await is_refused()
        await send("unblock_user", cent.UnblockUserRequest(user="ann"))
        assert not await is_refused(jti="one")
        await send("revoke_token", cent.RevokeTokenRequest(uid="one", expire_at=NOW_S * 2))
        assert await is_refused(jti="one")
        await send(
            "invalidate_user_tokens", cent.InvalidateUserTokensRequest(user="ann", issued_before=NOW_S)
        )
        assert await is_refused(iat=NOW_S - 1)
        assert not await is_refused(iat=NOW_S + 1)


async def test_batches(kind: str) -> None:
    async with api() as one, client(one, kind) as send:
        requests: list[Any] = [
            cent.PublishRequest(channel="a", data=1),
            cent.BroadcastRequest(channels=["a", "b"], data=2),
            cent.HistoryRequest(channel="a", limit=10),
            cent.ChannelsRequest(),
            cent.InfoRequest(),
            cent.PresenceRequest(channel="a"),
            cent.UnsubscribeRequest(user="ann", channel="a"),
        ]
        replies = (await send("batch", cent.BatchRequest(requests=requests))).replies
        assert replies[0].offset == 1
        assert [response.result.offset for response in replies[1].responses] == [2, 1]
        assert [publication.data for publication in replies[2].publications] == [1, 2]
        assert (replies[3].channels, replies[5].presence) == ({}, {})
        parallel = cent.BatchRequest(requests=requests[:1] * 20, parallel=True)
        assert len((await send("batch", parallel)).replies) == 20


async def test_errors(kind: str) -> None:
    async with api() as one:
        async with client(one, kind, "wrong") as send:
            with pytest.raises(cent.CentUnauthorizedError):
                await send("info", cent.InfoRequest())
        async with client(one, kind) as send:
            with pytest.raises(cent.CentApiResponseError) as caught:
                await send("publish", cent.PublishRequest(channel="", data=1))
            assert caught.value.code == 107 and "channel" in caught.value.message
            # What is in the reference's commercial part alone is told to be unknown.
            with pytest.raises(cent.CentApiResponseError) as caught:
                await send("connections", cent.ConnectionsRequest(user="ann", expression=""))
            assert caught.value.code == 104


def test_no_method_of_the_library_is_left_out() -> None:
    called = set()
    names = {name for name in dir(cent.Client) if not name.startswith("_")} - {"close"}
    with open(__file__, encoding="utf-8") as file:
        text = file.read()
    called = {name for name in names if f'"{name}"' in text}
    commercial = {
        *("delete_user_status", "get_user_status", "update_user_status", "cancel_push"),
        *("send_push_notification", "update_push_status", "user_topic_list", "user_topic_update"),
        *("device_list", "device_register", "device_remove", "device_topic_list", "device_topic_update"),
        "device_update",
    }
    assert names - commercial - called == set()
