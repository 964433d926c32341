"""The server HTTP API over real HTTP: every method, and every way to call it wrong."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from typing import Any

import pytest

from everywire.access.hooks import Hooks
from everywire.core import codes
from everywire.core.limits import Limits
from tests.api.calling import KEY, NOW_S, Api, api, token
from tests.serving import DEADLINE_S, until
from tests.talking import CONNECT, over_http_stream, over_websocket

METHODS = (
    *("publish", "broadcast", "subscribe", "unsubscribe", "disconnect", "refresh", "presence", "info", "rpc"),
    *("presence_stats", "history", "history_remove", "channels", "block_user", "unblock_user"),
    *("revoke_token", "invalidate_user_tokens"),
)


async def history(api: Api, channel: str) -> list[Any]:
    return [one["data"] for one in (await api.call("history", channel=channel, limit=-1))["publications"]]


# -- publishing ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_what_is_published_reaches_readers_of_every_kind(host: str) -> None:
    async with api(host) as one, one.session("ann", "news") as talk:
        result = await one.call("publish", channel="news", data={"a": [1, None]}, tags={"k": "v"})
        assert result == {"offset": 1, "epoch": result["epoch"]}
        pub = (await talk.next())["push"]["pub"]
        assert (pub["data"], pub["tags"], pub["offset"]) == ({"a": [1, None]}, {"k": "v"}, 1)
        polled = (await one.site.http.get("/channels/news?after=earliest")).json()["publications"]
        assert polled[0]["data"] == {"a": [1, None]}


async def test_data_may_be_any_json_or_base64() -> None:
    async with api() as one:
        values: tuple[Any, ...] = (None, False, 0, "", [], {})
        for data in values:
            await one.call("publish", channel="a", data=data)
        await one.call("publish", channel="a", b64data=base64.b64encode(b'{"in": "base64"}').decode())
        await one.call("publish", channel="a", b64data=base64.b64encode(b"\xff\x00").decode())
        binary = {"data_base64": "/wA=", "content_type": "application/octet-stream"}
        assert await history(one, "a") == [None, False, 0, "", [], {}, {"in": "base64"}, binary]


async def test_an_event_name_is_a_tag() -> None:
    async with api() as one:
        await one.call("publish", channel="a", data=1, tags={"event": "tick", "k": "v"})
        found = (await one.call("history", channel="a", limit=1))["publications"][0]
        assert found["tags"] == {"event": "tick", "k": "v"}
        polled = (await one.site.http.get("/channels/a?after=earliest")).json()["publications"][0]
        assert (polled["event"], polled["tags"]) == ("tick", {"k": "v"})


async def test_a_publication_under_a_key_stands_once_per_channel() -> None:
    async with api() as one:
        first = await one.call("publish", channel="a", data=1, idempotency_key="k")
        assert await one.call("publish", channel="a", data=1, idempotency_key="k") == first
        assert (await one.fails("publish", channel="a", data=2, idempotency_key="k"))[0] == 121
        await one.call("broadcast", channels=["a", "b"], data=1, idempotency_key="k")
        assert await history(one, "a") == [1]
        assert await history(one, "b") == [1]
        answer = await one.site.http.post(
            "/channels/a", json=1, headers={"x-api-key": KEY, "idempotency-key": "k"}
        )
        assert answer.status_code == 200  # the same publisher by another way


async def test_fields_that_make_no_difference_are_accepted() -> None:
    async with api() as one:
        ignored = {"skip_history": True, "delta": True, "unknown": {"deep": 1}, "version_epoch": "x"}
        assert (await one.call("publish", channel="a", data=1, **ignored))["offset"] == 1
        nulls = {"tags": None, "idempotency_key": None, "b64data": None, "version": None}
        await one.call("publish", channel="a", data=None, **nulls)
        assert await history(one, "a") == [1, None]


@pytest.mark.parametrize(
    "request_",
    [
        {"data": 1},
        {"channel": "a"},
        {"channel": "a b", "data": 1},
        {"channel": "a", "b64data": "%"},
        {"channel": "a", "data": 1, "tags": {"k": 1}},
        {"channel": "a", "data": 1, "tags": {"k": "x" * 500}},
        {"channel": "a", "data": 1, "tags": {"event": "gap"}},
        {"channel": "a", "data": 1, "idempotency_key": "x" * 300},
        {"channel": "a", "data": 1, "idempotency_key": "ü"},
        {"channel": 7, "data": 1},
    ],
)
async def test_a_wrong_publication_is_error_107(request_: dict[str, Any]) -> None:
    async with api() as one:
        assert (await one.fails("publish", **request_))[0] == 107
        assert await history(one, "a") == []


async def test_versions_are_refused_rather_than_ignored() -> None:
    async with api() as one:
        assert (await one.fails("publish", channel="a", data=1, version=5))[0] == 108


async def test_a_broadcast_answers_for_each_channel_in_order() -> None:
    async with api(limits=Limits(max_api_commands=400)) as one:
        names = ["b", "not a name", "a", "b"]
        responses = (await one.call("broadcast", channels=names, data={"x": 1}))["responses"]
        assert [one.get("result", {}).get("offset") for one in responses] == [1, None, 1, 2]
        assert responses[1]["error"]["code"] == 107
        many = [f"c{number}" for number in range(400)]
        responses = (await one.call("broadcast", channels=many, data=1))["responses"]
        assert all(one["result"]["offset"] for one in responses) and len(responses) == 400
        assert (await one.fails("broadcast", channels=[*many, "d"], data=1))[0] == 107
        assert (await one.fails("broadcast", channels=[], data=1))[0] == 107
        assert (await one.fails("broadcast", channels=["a"]))[0] == 107


# -- connections ---------------------------------------------------------------------------


async def test_a_user_is_subscribed_and_unsubscribed() -> None:
    async with api() as one, one.session("ann") as talk, one.session("bob") as other:
        epoch = (await one.call("publish", channel="room", data=1))["epoch"]
        await one.call("publish", channel="room", data=2)
        await one.call(
            "subscribe",
            user="ann",
            channel="room",
            info={"role": "host"},
            data={"hello": 1},
            recover_since={"offset": 1, "epoch": epoch},
        )
        push = (await talk.next())["push"]
        assert push["channel"] == "room" and push["subscribe"]["data"] == {"hello": 1}
        assert (await talk.next())["push"]["pub"]["data"] == 2
        presence = (await one.call("presence", channel="room"))["presence"]
        assert presence == {
            talk.client: {"user": "ann", "client": talk.client, "chan_info": {"role": "host"}}
        }
        await one.call("unsubscribe", user="ann", channel="room")
        assert (await talk.next())["push"]["unsubscribe"]["code"] == 2000
        await one.call("subscribe", user="ann", channel="hall", client=talk.client, session="wrong")
        await one.call("subscribe", user="bob", channel="hall", client=talk.client)
        await one.call("subscribe", user="bob", channel="cafe", b64data=base64.b64encode(b"[1]").decode())
        push = (await other.next())["push"]
        assert push["channel"] == "cafe" and push["subscribe"]["data"] == [1]
        assert talk.replies.empty()
        for wrong in ({"user": "ann"}, {"channel": "x"}, {"user": "ann", "channel": "x", "b64info": "e30"}):
            assert (await one.fails("subscribe", **wrong))[0] == 107
        assert (await one.fails("unsubscribe", user="ann"))[0] == 107


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_a_user_is_disconnected_on_every_transport(host: str) -> None:
    async with api(host) as one, one.session("ann", "room") as talk, one.session("bob", "room") as bob:
        stream = over_http_stream(one.site, {"id": 1, "connect": {"token": token("ann")}})
        headers = {"Authorization": f"Bearer {token('ann')}"}
        async with stream as emulated:
            await emulated.connected()
            held = asyncio.create_task(
                one.site.http.get("/channels/room?transport=long-poll&wait=60", headers=headers)
            )
            await until(lambda: one.wire.hub.subscribers("room") == 3)
            await one.call("disconnect", user="ann")
            for ended in (await talk.ended(), await emulated.ended()):
                assert (ended.code, ended.reason) == (3503, codes.DISCONNECTED.sentence)
            async with asyncio.timeout(DEADLINE_S):
                assert (await held).status_code >= 400
        assert bob.replies.empty()
        await one.call("publish", channel="room", data=1)
        assert (await bob.next())["push"]["pub"]["data"] == 1


async def test_a_disconnect_has_a_code_a_reason_and_a_whitelist() -> None:
    async with api() as one, one.session("ann") as first, one.session("ann") as second:
        disconnect = {"code": 4242, "reason": "bye"}
        await one.call("disconnect", user="ann", whitelist=[second.client], disconnect=disconnect)
        ended = await first.ended()
        assert (ended.code, ended.reason) == (4242, "bye")
        await one.call("disconnect", user="ann", client="other")
        await one.call("disconnect", user="ann", client=second.client, disconnect={"reason": "you, too"})
        ended = await second.ended()
        assert (ended.code, ended.reason) == (3503, "you, too")
        assert (await one.fails("disconnect", user="ann", disconnect={"code": 17}))[0] == 107
        assert (await one.fails("disconnect", user="ann", whitelist=["x"] * 1_001))[0] == 107
        assert (await one.fails("disconnect"))[0] == 107
        async with one.session() as nobody:
            await one.call("disconnect", user="", client=nobody.client)
            assert (await nobody.ended()).code == 3503


async def test_a_connection_is_refreshed_or_expired() -> None:
    async with api() as one, one.session("ann", exp=NOW_S * 2) as talk:
        await one.call("refresh", user="ann", expire_at=NOW_S * 3)
        refresh = (await talk.next())["push"]["refresh"]
        assert refresh["expires"] is True and refresh["ttl"] > NOW_S * 0.5
        await one.call("refresh", user="ann", client=talk.client)
        assert "refresh" in (await talk.next())["push"]
        await one.call("refresh", user="ann", expired=True)
        assert (await talk.ended()).code == 3005


# -- presence and history --------------------------------------------------------------------


async def test_presence_and_its_statistics() -> None:
    async with (
        api(limits=Limits(max_presence_members=2)) as one,
        one.session("ann", "room", info={"name": "Ann"}) as first,
        one.session("ann", "room") as second,
    ):
        assert await one.call("presence", channel="nowhere") == {"presence": {}}
        assert await one.call("presence_stats", channel="nowhere") == {"num_clients": 0, "num_users": 0}
        presence = (await one.call("presence", channel="room"))["presence"]
        assert presence[first.client]["conn_info"] == {"name": "Ann"}
        assert presence[second.client] == {"user": "ann", "client": second.client}
        assert await one.call("presence_stats", channel="room") == {"num_clients": 2, "num_users": 1}
        async with one.session("", "room"):
            result = await one.call("presence", channel="room")
            assert len(result["presence"]) == 2
            assert (result["is_cut"], result["num_clients"], result["num_users"]) == (True, 3, 2)
        for method in ("presence", "presence_stats", "history", "history_remove"):
            assert (await one.fails(method))[0] == 107


async def test_history_from_either_end_and_its_removal() -> None:
    async with api() as one:
        epoch = ""
        for number in range(1, 6):
            epoch = (await one.call("publish", channel="a", data=number))["epoch"]
        at_end = {"offset": 5, "epoch": epoch}
        assert await one.call("history", channel="a") == {"publications": [], **at_end}

        async def numbers(**request: Any) -> list[int]:
            result = await one.call("history", channel="a", **request)
            assert (result["offset"], result["epoch"]) == (5, epoch)
            return [one["data"] for one in result["publications"]]

        assert await numbers(limit=-1) == [1, 2, 3, 4, 5]
        assert await numbers(limit=2) == [1, 2]
        assert await numbers(limit=2, reverse=True) == [5, 4]
        assert await numbers(limit=2, since={"offset": 2, "epoch": epoch}) == [3, 4]
        assert await numbers(limit=2, since={"offset": 4, "epoch": epoch}, reverse=True) == [3, 2]
        assert (await one.fails("history", channel="a", limit=1, since={"offset": 9, "epoch": epoch}))[
            0
        ] == 112
        assert (await one.fails("history", channel="a", limit=1, since={"offset": 1, "epoch": "?"}))[0] == 112
        assert await one.call("history_remove", channel="a") == {}
        assert await one.call("history", channel="a", limit=-1) == {"publications": [], **at_end}
        assert (await one.call("publish", channel="a", data=6))["offset"] == 6


# -- nodes -----------------------------------------------------------------------------------


async def test_channels_that_are_read_by_pattern() -> None:
    async with api(limits=Limits(max_listed_channels=3)) as one:
        assert await one.call("channels") == {"channels": {}}
        async with one.session("ann", "a:1", "a:2"), one.session("bob", "a:1"):
            found = (await one.call("channels"))["channels"]
            assert found == {"a:1": {"num_clients": 2}, "a:2": {"num_clients": 1}}
            assert (await one.call("channels", pattern="*1"))["channels"] == {"a:1": {"num_clients": 2}}
            assert set((await one.call("channels", pattern="a:[12]"))["channels"]) == {"a:1", "a:2"}
            assert (await one.call("channels", pattern="b*")) == {"channels": {}}
            assert (await one.fails("channels", pattern="x" * 300))[0] == 107
            async with one.session("cid", "b", "c"):
                result = await one.call("channels")
                assert len(result["channels"]) == 3 and result["is_cut"] is True


async def test_info_says_how_the_nodes_are() -> None:
    async with api() as one, one.session("ann", "a", "b"), one.session("", "a"):
        (node,) = (await one.call("info"))["nodes"]
        assert node["uid"] and node["name"] and isinstance(node["version"], str)
        counted = [node[f"num_{what}"] for what in ("clients", "users", "channels", "subs")]
        assert counted == [2, 1, 2, 3]
        assert node["uptime"] >= 0 and node["process"]["rss"] > 1_000_000
        assert node["metrics"]["items"]["presence_members"] == 3


async def test_a_node_that_does_not_answer_is_named() -> None:
    async with api() as one, one.session("ann", "a"):
        broker = one.wire.hub.broker
        await broker.leases.put("/nodes", "silent", b"{}", 60)
        result = await one.call("channels")
        assert result == {"channels": {"a": {"num_clients": 1}}, "silent": ["silent"]}
        result = await one.call("info")
        assert len(result["nodes"]) == 1 and result["silent"] == ["silent"]


# -- the application ---------------------------------------------------------------------------


async def test_the_application_is_called() -> None:
    async with api() as one:
        assert await one.call("rpc", method="echo", params={"x": 1}) == {"data": {"x": 1}}
        assert await one.call("rpc", method="echo") == {"data": None}
        caller, method, data = one.calls[0]
        assert (caller.identity.user, caller.transport, method, data) == ("ops", "api", "echo", b'{"x":1}')
        assert await one.fails("rpc", method="refuse") == (103, "not you")
        assert await one.fails("rpc", method="own") == (1234, "my error")
        for method in ("raises", "nonsense"):
            code, message = await one.fails("rpc", method=method)
            assert code == 100 and "secret" not in message


async def test_without_an_application_there_is_nothing_to_call() -> None:
    async with api(hooks=Hooks()) as one:
        assert (await one.fails("rpc", method="echo"))[0] == 104


# -- revocations ---------------------------------------------------------------------------------


async def refused(one: Api, connect: dict[str, Any]) -> int:
    """Try to connect; return the code of the refusal, 0 if there is none."""
    async with over_websocket(one.site, {"id": 1, "connect": connect}) as talk:
        told = await talk.next()
        return int(told.get("error", {}).get("code", 0))


async def test_a_blocked_user_is_out_at_once_and_stays_out() -> None:
    async with api() as one, one.session("ann") as talk, one.session("bob") as bob:
        await one.call("block_user", user="ann")
        assert (await talk.ended()).code == codes.REFUSED.number
        assert await refused(one, {"token": token("ann")}) == 103
        await one.call("unblock_user", user="ann")
        assert await refused(one, {"token": token("ann")}) == 0
        await one.call("block_user", user="ann", expire_at=1)  # over already
        assert await refused(one, {"token": token("ann")}) == 0
        assert bob.replies.empty()
        for method in ("block_user", "unblock_user"):
            assert (await one.fails(method))[0] == 107


async def test_revoked_tokens_count_no_more() -> None:
    async with (
        api() as one,
        one.session("ann", jti="t1") as first,
        one.session("ann", jti="t2") as second,
        one.session("bob", iat=NOW_S) as old,
        one.session("bob", iat=NOW_S + 100) as new,
    ):
        await one.call("revoke_token", uid="t1")
        assert (await first.ended()).code == codes.FORCE_RECONNECT.number
        await one.call("invalidate_user_tokens", user="bob", issued_before=NOW_S + 50)
        assert (await old.ended()).code == codes.FORCE_RECONNECT.number
        assert second.replies.empty() and new.replies.empty()
        assert await refused(one, {"token": token("ann", jti="t1")}) == 103
        assert await refused(one, {"token": token("bob", iat=NOW_S)}) == 103
        assert await refused(one, {"token": token("bob", iat=NOW_S + 60)}) == 0
        assert (await one.fails("revoke_token"))[0] == 107
        assert (await one.fails("invalidate_user_tokens"))[0] == 107
        assert (await one.fails("invalidate_user_tokens", user="bob", channel="x"))[0] == 108


# -- batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("parallel", [False, True])
async def test_a_batch_is_answered_in_order_without_an_envelope(parallel: bool) -> None:
    async with api() as one:
        commands: list[Any] = [{"publish": {"channel": "a", "data": number}} for number in range(50)]
        commands += [
            {"history": {"channel": "b", "limit": 1}},
            {"publish": {"channel": "a"}},
            {"nonsense": {}},
            {"batch": {"commands": []}},
            {},
            {"info": {}, "channels": {}},
            {"presence_stats": {"channel": "a"}},
        ]
        response = await one.post("batch", {"commands": commands, "parallel": parallel})
        assert set(response.json()) == {"replies"}
        replies = response.json()["replies"]
        assert [reply["publish"]["offset"] for reply in replies[:50]] == list(range(1, 51))
        assert replies[50]["history"]["publications"] == []
        assert [reply["error"]["code"] for reply in replies[51:56]] == [107, 104, 104, 107, 107]
        assert replies[56] == {"presence_stats": {"num_clients": 0, "num_users": 0}}
        assert await history(one, "a") == list(range(50))


async def test_commands_of_a_parallel_batch_do_not_wait_for_one_another() -> None:
    meeting = asyncio.Barrier(2)

    async def rpc(*_: Any) -> bytes:
        await meeting.wait()
        return b"1"

    async with api(hooks=Hooks(rpc=rpc), limits=Limits(api_timeout_s=DEADLINE_S)) as one:
        commands = [{"rpc": {"method": "meet"}}] * 2
        replies = (await one.post("batch", {"commands": commands, "parallel": True})).json()["replies"]
        assert replies == [{"rpc": {"data": 1}}] * 2


async def test_joins_and_leaves_are_the_callers_choice() -> None:
    async with api() as one, one.session("ann") as talk:
        for channel, override, is_told in (
            ("a", {"force_push_join_leave": {"value": True}}, True),
            ("b", {"join_leave": {"value": False}, "force_push_join_leave": {"value": True}}, False),
        ):
            await one.call("subscribe", user="ann", channel=channel, override=override)
            assert "subscribe" in (await talk.next())["push"]
            async with one.session("bob", channel) as bob:
                if is_told:
                    join = (await talk.next())["push"]
                    assert (join["channel"], join["join"]["info"]["client"]) == (channel, bob.client)
                await one.call("publish", channel=channel, data=1)
                assert (await talk.next())["push"]["pub"]["data"] == 1


async def test_a_batch_is_bounded() -> None:
    async with api(limits=Limits(max_api_commands=3)) as one:
        command = {"publish": {"channel": "a", "data": 1}}
        assert (await one.fails("batch", commands=[command] * 4))[0] == 107
        assert (await one.fails("batch", commands=7))[0] == 107
        assert (await one.post("batch", {})).json() == {"replies": []}
        assert await history(one, "a") == []


# -- who may call, and how -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {"x_api_key": KEY},
        {"x_api_key": "", "authorization": f"apikey {KEY}"},
        {"x_api_key": "", "authorization": f"ApiKey  {KEY}"},
        {"x_api_key": "", "authorization": f"Bearer {KEY}"},
    ],
)
async def test_a_key_opens_the_api(headers: dict[str, str]) -> None:
    async with api() as one:
        response = await one.post("presence", {"channel": "a"}, **headers)
        assert (response.status_code, response.json()) == (200, {"result": {"presence": {}}})


@pytest.mark.parametrize("method", [*METHODS, "batch", "nonsense"])
async def test_without_a_good_key_nothing_is_open(method: str) -> None:
    async with api() as one:
        for headers in (
            {"x_api_key": ""},
            {"x_api_key": "wrong"},
            {"x_api_key": "", "authorization": f"Basic {KEY}"},
            {"x_api_key": "", "authorization": "apikey"},
            {"x_api_key": "", "authorization": f"Bearer {token('ann')}"},
        ):
            response = await one.post(method, {"channel": "a", "data": 1}, **headers)
            assert (response.status_code, response.content) == (401, b"")
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_in_the_url_is_refused_and_says_so() -> None:
    async with api() as one:
        response = await one.post(f"info?api_key={KEY}", x_api_key="")
        assert (response.status_code, response.content) == (401, b"")
        assert "X-API-Key" in response.headers["www-authenticate"]


async def test_in_development_this_machine_needs_no_key() -> None:
    async with api(dev=True) as one:
        assert (await one.post("info", x_api_key="")).status_code == 200
        assert (await one.post("info", x_api_key="wrong")).status_code == 401
        through_proxy = await one.post("info", x_api_key="", forwarded="for=192.0.2.1")
        assert through_proxy.status_code == 401


async def test_pages_of_other_sites_are_refused() -> None:
    async with api(dev=True) as one:
        publish = {"channel": "a", "data": 1}
        evil = "evil.example"
        for headers in ({"origin": f"https://{evil}"}, {"sec_fetch_site": "cross-site"}, {"host": evil}):
            response = await one.post("publish", publish, x_api_key="", **headers)
            assert response.status_code == 403
        assert await history(one, "a") == []


async def test_what_is_no_json_object_is_400_and_other_methods_are_405() -> None:
    async with api() as one:
        for body in (b"", b"{", b"[]", b"null", b"\xff", b"1", b'{"a":1} x', b"[" * 100_000):
            assert (await one.post("publish", body)).status_code == 400
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            response = await one.site.http.request(method, "/api/info", headers={"x-api-key": KEY})
            assert response.status_code == 405 and response.headers["allow"] == "POST"
        assert (await one.post("publish", b"x" * 2_000_000)).status_code == 413


@pytest.mark.parametrize(
    ("method", "request_", "status", "code"),
    [
        ("nonsense", {}, 404, 104),
        ("publish", {"channel": "a"}, 400, 107),
        ("publish", {"channel": "a", "data": 1, "version": 1}, 400, 108),
        ("history", {"channel": "a", "limit": 1, "since": {"offset": 9, "epoch": "?"}}, 416, 112),
        ("rpc", {"method": "raises"}, 500, 100),
        ("rpc", {"method": "refuse"}, 403, 103),
        ("rpc", {"method": "own"}, 500, 1234),
    ],
)
async def test_errors_may_be_http_statuses(method: str, request_: Any, status: int, code: int) -> None:
    async with api() as one:
        assert (await one.fails(method, **request_))[0] == code
        response = await one.post(method, request_, x_centrifugo_error_mode="transport")
        assert response.status_code == status
        assert response.json()["code"] == code and set(response.json()) == {"code", "message"}
        response = await one.post("info", x_centrifugo_error_mode="transport")
        assert response.status_code == 200


async def test_what_takes_too_long_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def rpc(*_: Any) -> bytes:
        await asyncio.Event().wait()
        return b""

    async with api(hooks=Hooks(rpc=rpc), limits=Limits(api_timeout_s=0.05)) as one:
        assert (await one.fails("rpc", method="x"))[0] == 124
        response = await one.post("rpc", {"method": "x"}, x_centrifugo_error_mode="transport")
        assert response.status_code == 503


async def test_what_was_begun_is_done_though_its_caller_has_gone() -> None:
    going = asyncio.Event()
    done = asyncio.Event()

    async def rpc(*_: Any) -> bytes:
        going.set()
        await asyncio.sleep(0.2)
        done.set()
        return b"1"

    async with api(hooks=Hooks(rpc=rpc)) as one:
        _, writer = await one.site.connect()
        body = json.dumps({"method": "x"}).encode()
        head = f"POST /api/rpc HTTP/1.1\r\nHost: {one.site.authority}\r\nX-API-Key: {KEY}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        async with asyncio.timeout(DEADLINE_S):
            await going.wait()
            writer.close()
            await done.wait()


async def test_keys_and_sessions_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with api() as one, over_http_stream(one.site, CONNECT) as talk:
        await talk.connected()
        assert talk.session
        await one.call("disconnect", user="", session=talk.session)
        assert (await talk.ended()).code == 3503
        await one.post("info", x_api_key="not-quite-the-key")
        assert talk.session not in caplog.text
        assert "not-quite-the-key" not in caplog.text and KEY not in caplog.text
