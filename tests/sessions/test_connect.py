"""The connect command: who may come, and what they are told."""

from __future__ import annotations

import asyncio
import json
from copy import copy
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import AuthRequest, Identity
from everywire.codecs.centrifuge.messages import ConnectRequest, SubscribeRequest
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, Forbidden, LimitExceeded
from everywire.core.limits import Limits
from everywire.sessions.commands import info_text
from everywire.sessions.completing import complete_request
from tests.sessions.driving import Client, World


async def test_whoever_connects_is_told_client_version_and_rhythm() -> None:
    async with World() as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {"name": "js", "unknown": 1}})
        [reply] = client.told
        assert reply["id"] == 1
        result = reply["connect"]
        assert UUID(result["client"]).version == 4
        assert {**result, "client": ""} == {"client": "", "version": "1.2.3", "ping": 25, "pong": True}
        assert world.registry.by_client(result["client"]) is client.session
        assert world.quotas.inside == 1


@pytest.mark.parametrize(
    "command",
    [
        {"id": 1, "subscribe": {"channel": "open"}},
        {"id": 1, "ping": {}},
        {"send": {"data": 1}},
        {},
        {"connect": {}},
        {"id": 1},
    ],
)
async def test_anything_before_connect_ends_it(command: dict[str, Any]) -> None:
    async with World() as world:
        client = world.client()
        client.send_commands(command)
        assert client.end is not None and client.end[0] == 3501
        assert client.told == []


@pytest.mark.parametrize(
    "command",
    [
        {"id": 2, "connect": {}},
        {"id": 2},
        {"subscribe": {"channel": "open"}},
        {"rpc": {"method": "x"}},
        {"id": 2, "unknown": {}},
        {"id": 2, "subscribe": {}},
        {"id": 2, "publish": {"channel": "", "data": 1}},
        {"id": 2, "unsubscribe": {}},
        {"id": 2, "presence": {}},
        {"id": 2, "presence_stats": {}},
        {"id": 2, "history": {}},
        {"id": 2, "refresh": {}},
        {"id": 2, "sub_refresh": {"channel": "open"}},
    ],
)
async def test_what_the_protocol_does_not_allow_ends_it(command: dict[str, Any]) -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands(command)
        assert client.end is not None and client.end[0] == 3501
        assert len(client.told) == 1


@pytest.mark.parametrize("text", [b"", b"\n\n", b"nonsense", b'{"id":1', b"\xff", b'{"id":"one"}', b"[]"])
async def test_what_is_no_command_ends_it(text: bytes) -> None:
    async with World() as world:
        client = await world.connected()
        client.send_text(text)
        assert client.end is not None and client.end[0] == 3501


async def test_too_many_commands_in_one_message_end_it() -> None:
    async with World(limits=Limits(max_batch_commands=3)) as world:
        client = await world.connected()
        client.send_commands(*({"id": n, "ping": {}} for n in (2, 3, 4)))
        assert client.end is None
        client.send_commands(*({"id": n, "ping": {}} for n in (5, 6, 7, 8)))
        assert client.end is not None and client.end[0] == 3501


async def test_who_never_connects_is_sent_away() -> None:
    async with World() as world:
        client = world.client()
        await world.settle(14.5)
        assert client.end is None
        await world.settle(1)
        assert client.end is not None and client.end[0] == 3502


async def test_who_connected_is_not_sent_away() -> None:
    async with World() as world:
        client = world.client()
        await world.settle(14.5)
        client.send_commands({"id": 1, "connect": {}})
        await world.settle(2)
        assert client.end is None


# -- credentials -----------------------------------------------------------------------


async def test_a_token_says_who_it_is() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 600, info={"name": "Ann"}))
        [result] = client.of("connect")
        assert (result["expires"], result["ttl"]) == (True, 600)
        assert client.session.identity.user == "ann"
        assert world.registry.of_user("ann") == (client.session,)


async def test_a_token_without_an_end_has_no_expiry() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        assert not {"expires", "ttl"} & set(client.of("connect")[0])


async def test_a_credential_that_the_client_cannot_renew_has_no_expiry_to_tell() -> None:
    async with World() as world:
        request = AuthRequest(transport="websocket", token=world.token("ann", 600))
        client = await world.connected(request=request)
        assert client.session.identity.user == "ann"
        assert "expires" not in client.of("connect")[0]


async def test_an_expired_token_is_an_error_that_asks_for_another() -> None:
    async with World() as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {"token": world.token("ann", -10)}})
        assert client.told[0]["error"]["code"] == 109
        assert client.end is None, "clients close it by themselves"
        assert world.registry.statistics()["sessions"] == 0


async def test_a_broken_token_ends_it_for_good() -> None:
    async with World() as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {"token": world.token("ann") + "x"}})
        assert client.end is not None and client.end[0] == 3500
        assert client.told == []


async def test_after_a_refusal_nothing_more_is_taken() -> None:
    async with World() as world:
        client = world.client()
        client.send_commands(
            {"id": 1, "connect": {"token": world.token("ann", -10)}},
            {"id": 2, "subscribe": {"channel": "open"}},
        )
        assert [one["id"] for one in client.told] == [1], "what came with it is void"
        assert client.end is None
        client.send_commands({"id": 3, "connect": {"token": world.token("ann", 10)}})
        assert client.end is not None and client.end[0] == 3501


async def test_who_stays_after_a_refusal_is_sent_away() -> None:
    async with World() as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {"token": world.token("ann", -10)}})
        await world.settle(16)
        assert client.end is not None and client.end[0] == 3502


async def test_too_many_connections_end_it() -> None:
    async with World() as world:
        world.quotas.error = LimitExceeded("too many")
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        assert client.end == (3504, "too many")


async def test_a_connection_that_is_gone_makes_room() -> None:
    async with World() as world:
        first = await world.connected()
        second = await world.connected()
        third = await world.connected()
        first.cut()
        second.session.disconnect(codes.DISCONNECTED)
        assert world.quotas.inside == 1
        third.session.drain(1000)
        assert world.quotas.inside == 0
        assert third.end is not None and third.end[0] == 3001
        assert world.registry.statistics()["sessions"] == 0


# -- what the connect command completes ---------------------------------------------------


def test_a_connect_command_completes_what_the_request_brought() -> None:
    carried = AuthRequest(headers={"x-trace": "1"}, token="old", peer="192.0.2.7")
    request = ConnectRequest(
        token="new", name="js", version="5", headers={"X-Trace": "2", "X-Tenant": "acme", "Cookie": "a=b"}
    )
    found = complete_request(carried, request)
    assert dict(found.headers) == {"x-trace": "1", "x-tenant": "acme"}
    assert (found.token, found.name, found.version, found.peer) == ("new", "js", "5", "192.0.2.7")
    assert complete_request(carried, ConnectRequest()).token == "old"


@pytest.mark.parametrize(
    "name",
    ["Cookie", "ORIGIN", "host", "X-Forwarded-For", "x-forwarded-user", "Sec-Fetch-Site", "x-real-ip",
     "Forwarded", "Remote-User", "X-Remote-User", "x-auth-request-email", "Proxy-Authorization"],
)  # fmt: skip
def test_a_page_cannot_make_up_what_browsers_and_proxies_vouch_for(name: str) -> None:
    found = complete_request(AuthRequest(), ConnectRequest(headers={name: "forged"}))
    assert not found.headers


@pytest.mark.parametrize(
    "request_",
    [
        ConnectRequest(headers={f"x-{n}": "" for n in range(33)}),
        ConnectRequest(headers={"x": "y" * 20_000}),
        ConnectRequest(subs={str(n): SubscribeRequest() for n in range(10_001)}),
        ConnectRequest(name="n" * 65),
        ConnectRequest(version="n" * 65),
    ],
)
def test_too_much_of_it_is_refused(request_: ConnectRequest) -> None:
    with pytest.raises(BadRequest):
        complete_request(AuthRequest(), request_)


async def test_an_api_key_may_come_in_an_emulated_header() -> None:
    async with World() as world:
        world.rules._keys[b"the key"] = replace(Identity(user="ops"), kind="key", may_all=True)
        client = await world.connected(connect={"headers": {"X-API-Key": "the key"}})
        assert client.session.identity.user == "ops"


# -- the application ------------------------------------------------------------------------


class Application:
    """A connect hook that waits until it is told to go on."""

    def __init__(self, decision: ConnectDecision | EverywireError | None = None) -> None:
        self.may_go_on = asyncio.Event()
        self.decision = decision
        self.asked: list[tuple[str, AuthRequest]] = []
        self.goodbyes: list[tuple[str, int | None]] = []

    async def connect(self, caller: Caller, request: AuthRequest) -> ConnectDecision | None:
        self.asked.append((caller.client, request))
        await self.may_go_on.wait()
        if isinstance(self.decision, EverywireError):
            raise self.decision
        return self.decision

    async def disconnect(self, caller: Caller, code: codes.Code | None) -> None:
        self.goodbyes.append((caller.client, None if code is None else code.number))

    @property
    def hooks(self) -> Hooks:
        return Hooks(connect=self.connect, disconnect=self.disconnect)


async def test_commands_behind_connect_wait_for_its_answer_and_keep_their_order() -> None:
    app = Application(ConnectDecision(data=b'{"hello": 1}'))
    async with World(hooks=app.hooks) as world:
        client = world.client()
        client.send_commands(
            {"id": 1, "connect": {"data": {"a": 1}}},
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "ping": {}},
        )
        client.send_commands({"id": 4, "publish": {"channel": "open", "data": 1}})
        await world.settle(1)
        assert client.told == []
        assert client.is_paused, "no more is brought than fits one message"
        app.may_go_on.set()
        await world.settle()
        assert [one["id"] for one in client.told if "id" in one] == [1, 2, 3, 4]
        assert client.of("connect")[0]["data"] == {"hello": 1}
        assert client.data("open") == [1]
        assert not client.is_paused
        [(told, request)] = app.asked
        assert told == client.session.client
        assert request.data == b'{"a": 1}'


async def test_the_application_may_refuse() -> None:
    app = Application(Forbidden("not you"))
    app.may_go_on.set()
    async with World(hooks=app.hooks) as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        await world.settle()
        assert client.told == [{"id": 1, "error": {"code": 103, "message": "not you"}}]
        client.cut()
        await world.settle()
        assert app.goodbyes == [], "it never was here"


async def test_the_application_may_refuse_for_good() -> None:
    app = Application(EverywireError("go", code=codes.REFUSED))
    app.may_go_on.set()
    async with World(hooks=app.hooks) as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        await world.settle()
        assert client.end == (3507, "go")


async def test_the_application_may_know_better_who_it_is() -> None:
    app = Application(ConnectDecision(identity=Identity(user="bob", info=b'{"n":"Bob"}')))
    app.may_go_on.set()
    async with World(hooks=app.hooks) as world:
        client = await world.connected(token=world.token("ann"))
        assert [one.client for one in world.registry.of_user("bob")] == [client.session.client]
        assert not world.registry.of_user("ann")


@pytest.mark.parametrize("fault", [ValueError("secret"), RuntimeError()])
async def test_an_application_that_fails_is_a_temporary_error(fault: Exception) -> None:
    async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision | None:
        raise copy(fault)  # one that is raised keeps all that it passed

    async with World(hooks=Hooks(connect=connect)) as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        await world.settle()
        error = client.told[0]["error"]
        assert (error["code"], error["temporary"]) == (100, True)
        assert "secret" not in error["message"]


async def test_an_application_that_takes_too_long_is_a_temporary_error() -> None:
    app = Application()
    async with World(hooks=app.hooks, limits=Limits(hook_timeout_s=0.01)) as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        for _ in range(200):
            await asyncio.sleep(0.005)
            if client.told:
                break
        assert client.told[0]["error"]["code"] == 100


async def test_every_hello_has_one_goodbye() -> None:
    app = Application()
    app.may_go_on.set()
    async with World(hooks=app.hooks) as world:
        cut = await world.connected()
        ended = await world.connected()
        cut.cut()
        ended.session.disconnect(codes.DISCONNECTED)
        ended.cut()
        await world.settle()
        assert app.goodbyes == [(cut.session.client, None), (ended.session.client, 3503)]


async def test_who_goes_while_the_application_is_asked_has_a_goodbye_too() -> None:
    app = Application()
    async with World(hooks=app.hooks) as world:
        client = world.client()
        client.send_commands({"id": 1, "connect": {}})
        await world.settle()
        client.cut()
        await world.settle()
        assert app.goodbyes == []
        app.may_go_on.set()
        await world.settle()
        assert [code for _, code in app.goodbyes] == [None]
        assert client.told == [] and world.quotas.inside == 0
        assert world.registry.statistics()["sessions"] == 0


# -- server-side subscriptions -----------------------------------------------------------------


async def test_a_token_brings_subscriptions() -> None:
    async with World() as world:
        world.publish("news", 1, 2)
        claims = {"channels": ["news"], "subs": {"feed": {"info": {"role": "x"}, "data": {"hi": 1}}}}
        client = await world.connected(token=world.token("ann", **claims))
        subs = client.of("connect")[0]["subs"]
        assert set(subs) == {"news", "feed"}
        assert subs["news"]["offset"] == 2 and subs["news"]["recoverable"] is True
        assert subs["feed"]["data"] == {"hi": 1}
        world.publish("news", 3)
        world.publish("feed", 4)
        await world.settle()
        assert client.data("news") == [3] and client.data("feed") == [4]
        entered = {name: info for (name, _), info in world.presence.entered.items()}
        assert set(entered) == {"news", "feed"}
        assert json.loads(info_text(entered["feed"]))["chan_info"] == {"role": "x"}


async def test_server_side_subscriptions_are_recovered_in_the_connect_reply() -> None:
    async with World() as world:
        world.publish("news", 1)
        token = world.token("ann", channels=["news", "other"])
        client = await world.connected(token=token)
        epoch, offset = client.positions["news"]
        client.cut()
        world.publish("news", 2, 3)
        again = world.client()
        again.positions = {"news": (epoch, offset)}
        wish = {"recover": True, "epoch": epoch, "offset": offset}
        again.send_commands({"id": 1, "connect": {"token": token, "subs": {"news": wish}}})
        subs = again.of("connect")[0]["subs"]
        assert subs["news"]["recovered"] is True and subs["news"]["was_recovering"] is True
        assert subs["news"]["offset"] == offset
        assert again.data("news") == [2, 3]
        assert "recovered" not in subs["other"]
        world.publish("news", 4)
        await world.settle()
        assert again.data("news") == [2, 3, 4]


async def test_a_wish_is_granted_only_where_it_is_permitted() -> None:
    async with World() as world:
        wishes = {"open-a": {}, "closed": {}, "no name!": {}}
        client = await world.connected(connect={"subs": wishes})
        assert set(client.of("connect")[0]["subs"]) == {"open-a"}
        world.publish("open-a", 1)
        world.publish("closed", 2)
        await world.settle()
        assert client.data("open-a") == [1] and client.data("closed") == []


async def test_the_application_names_subscriptions_and_judges_wishes() -> None:
    async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision:
        return ConnectDecision(channels={"mine": SubscribeDecision(data=b"7", info=b'"i"')})

    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        if channel == "open-no":
            raise Forbidden()
        return SubscribeDecision(data=data)

    async with World(hooks=Hooks(connect=connect, subscribe=subscribe)) as world:
        wishes = {"open-a": {"data": [1]}, "open-no": {}}
        client = await world.connected(connect={"subs": wishes})
        subs = client.of("connect")[0]["subs"]
        assert set(subs) == {"mine", "open-a"}
        assert subs["mine"]["data"] == 7 and subs["open-a"]["data"] == [1]


async def test_too_many_channels_at_connect_end_it() -> None:
    async with World(limits=Limits(max_session_channels=3)) as world:
        token = world.token("ann", channels=["a", "b"])
        client = world.client()
        wishes = {"user-1": {}, "user-2": {}}
        client.send_commands({"id": 1, "connect": {"token": token, "subs": wishes}})
        assert client.end is not None and client.end[0] == 3505
        fits = await world.connected(token=token, connect={"subs": {"user-1": {}}})
        assert len(fits.of("connect")[0]["subs"]) == 3


# -- carriers --------------------------------------------------------------------------------


async def test_an_emulated_carrier_is_told_session_and_node() -> None:
    async with World() as world:
        client = await world.connected(transport="http_stream")
        other = await world.connected(transport="http_stream")
        result = client.of("connect")[0]
        assert result["node"] == world.broker.node
        assert len(result["session"]) >= 32 and result["session"] != other.of("connect")[0]["session"]
        assert result["client"] not in result["session"]
        assert world.registry.by_session(result["session"]) is client.session
        assert await world.registry.forward(result["node"], result["session"], b'{"id":9,"ping":{}}')
        assert client.told[-1] == {"id": 9, "ping": {}}


async def one_way(world: World, connect: dict[str, Any]) -> Client:
    client = world.client(transport="uni_sse")
    client.send_text(json.dumps(connect).encode())
    await world.settle()
    return client


async def test_a_one_way_carrier_is_told_by_a_push() -> None:
    async with World() as world:
        world.publish("open-a", 1)
        client = await one_way(world, {"subs": {"open-a": {"recover": True}}})
        [push] = client.told
        result = push["connect"]
        assert result["session"] and "pong" not in result and "node" not in result
        assert result["ping"] == 25
        assert client.data("open-a") == [1]
        world.publish("open-a", 2)
        await world.settle()
        assert client.told[-1]["pub"]["data"] == 2
        client.send_text(b'{"token":"ignored"}')
        client.send_text(b"nonsense")
        assert client.end is None


@pytest.mark.parametrize(
    ("lasts_s", "broken", "code"), [(-10, "", 3005), (10, "x", 3500)], ids=["expired", "broken"]
)
async def test_a_one_way_carrier_is_refused_by_an_end(lasts_s: float, broken: str, code: int) -> None:
    async with World() as world:
        client = await one_way(world, {"token": world.token("ann", lasts_s) + broken})
        assert client.end is not None and client.end[0] == code
        assert client.told == []


async def test_a_one_way_carrier_is_told_no_errors() -> None:
    app = Application(EverywireError("later", code=codes.INTERNAL))
    app.may_go_on.set()
    async with World(hooks=app.hooks) as world:
        client = await one_way(world, {})
        assert client.end == (3004, "later")


async def test_a_polling_client_keeps_its_id_with_its_pass() -> None:
    async with World() as world:
        token = world.token("ann", 600)
        first = await world.connected(transport="poll", token=token)
        result = first.of("connect")[0]
        assert "ping" not in result and "pong" not in result
        assert result["ttl"] == 600
        second = await world.connected(
            transport="poll", token=token, connect={"session": result["session"]}
        )
        assert second.of("connect")[0]["client"] == result["client"]
        third = await world.connected(transport="poll", token=token)
        assert third.of("connect")[0]["client"] != result["client"]


async def test_another_users_pass_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    async with World() as world:
        first = await world.connected(transport="poll", token=world.token("ann"))
        shown = first.of("connect")[0]["session"]
        thief = world.client(transport="poll")
        thief.send_commands({"id": 1, "connect": {"token": world.token("eve"), "session": shown}})
        assert thief.errors() == [103]
        assert "'eve'" in caplog.text and shown not in caplog.text
        nobody = world.client(transport="poll")
        nobody.send_commands({"id": 1, "connect": {"session": shown}})
        assert nobody.errors() == [103]


@pytest.mark.parametrize("shown", ["nonsense", "A" * 54, "", "é"])
async def test_a_pass_that_nobody_signed_is_none(shown: str) -> None:
    async with World() as world:
        client = await world.connected(transport="poll", connect={"session": shown})
        assert UUID(client.of("connect")[0]["client"]).version == 4


async def test_a_pass_is_for_polls_alone() -> None:
    async with World() as world:
        first = await world.connected(transport="poll", token=world.token("ann"))
        shown = first.of("connect")[0]
        other = await world.connected(token=world.token("ann"), connect={"session": shown["session"]})
        assert other.of("connect")[0]["client"] != shown["client"]


# -- ticks ------------------------------------------------------------------------------------


async def test_ticks_follow_the_reply_each_on_its_own() -> None:
    async with World() as world:
        client = await world.connected(connect={"ticks": 2})
        assert client.of("tick") == []
        await world.settle(0.4)
        assert client.of("tick") == [{"n": 1}]
        await world.settle(2)
        assert client.of("tick") == [{"n": 1}, {"n": 2}]
        assert [len(write) for write in client.writes] == [1, 1, 1]


async def test_ticks_are_bounded() -> None:
    async with World() as world:
        client = await world.connected(connect={"ticks": 1000})
        await world.settle(3)
        assert [tick["n"] for tick in client.of("tick")] == [1, 2, 3]


async def test_new_polling_clients_are_counted_and_those_that_go_on_are_not() -> None:
    limits = Limits(max_connections_per_address=2)
    async with World(limits=limits) as world:
        request = AuthRequest(transport="poll", peer="192.0.2.1")
        first = await world.connected(transport="poll", request=request)
        shown = {"session": first.of("connect")[0]["session"]}
        await world.connected(transport="poll", request=request)
        for _ in range(3):
            client = await world.connected(transport="poll", request=request, connect=shown)
            assert client.of("connect")[0]["client"] == first.of("connect")[0]["client"]
        refused = world.client(transport="poll", request=request)
        refused.send_commands({"id": 1, "connect": {}})
        await world.settle()
        assert refused.end is not None and refused.end[0] == codes.CONNECTION_LIMIT.number
        elsewhere = replace(request, peer="192.0.2.2")
        await world.connected(transport="poll", request=elsewhere)
