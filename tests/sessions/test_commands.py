"""What a connected client asks for: publish, presence, history, rpc, send, ping."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from everywire.access.hooks import Caller, Hooks, Lane
from everywire.access.identity import Action
from everywire.codecs.centrifuge import protobuf_form
from everywire.codecs.centrifuge.schema import CLASSES
from everywire.core import codes
from everywire.core.errors import BrokerError, EverywireError, Forbidden
from everywire.core.limits import Limits
from everywire.core.publication import Draft
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.sessions.dialects import WEBSOCKET_PROTOBUF
from everywire.testing.delayed_broker import Faults
from tests.sessions.driving import Client, World

# -- publish -----------------------------------------------------------------------------


async def test_what_a_client_publishes_says_who_it_was() -> None:
    async with World() as world:
        reader = await world.connected()
        await reader.subscribe("open")
        writer = await world.connected(token=world.token("ann", info={"n": "Ann"}))
        assert await writer.ask("publish", {"channel": "open", "data": {"text": "hé\nllo"}}) == {
            "id": 1002, "publish": {},
        }  # fmt: skip
        [push] = reader.pushed("open")
        assert push["pub"]["data"] == {"text": "hé\nllo"}
        assert push["pub"]["info"] == {
            "user": "ann", "client": writer.session.client, "conn_info": {"n": "Ann"},
        }  # fmt: skip


async def test_nobody_has_a_name_all_the_same() -> None:
    async with World() as world:
        client = await world.connected()
        await client.subscribe("open")
        await client.ask("publish", {"channel": "open", "data": 1})
        info = client.pushed("open")[0]["pub"]["info"]
        assert info == {"user": "", "client": client.session.client}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "closed", "data": 1}, 103),
        ({"channel": "no name", "data": 1}, 107),
        ({"channel": "open"}, 107),
        ({"channel": "open", "data": 1, "type": 1}, 108),
        ({"channel": "open", "data": 1, "key": "k"}, 108),
        ({"channel": "open", "data": "x" * 2000}, 120),
    ],
)
async def test_what_cannot_be_published_is_an_error(request_: dict[str, Any], code: int) -> None:
    async with World(limits=Limits(max_body_bytes=1000)) as world:
        client = await world.connected()
        assert (await client.ask("publish", request_))["error"]["code"] == code
        assert world.hub.counters.publications == 0


async def test_the_application_may_change_or_refuse_a_publication() -> None:
    async def publish(caller: Caller, draft: Draft) -> Draft | None:
        await asyncio.sleep(0)
        if b"bad" in draft.data:
            raise Forbidden("mind your words")
        return draft._replace(data=draft.data.upper())

    async with World(hooks=Hooks(publish=publish)) as world:
        client = await world.connected()
        await client.subscribe("open")
        client.send_commands(
            {"id": 2, "publish": {"channel": "open", "data": "a"}},
            {"id": 3, "publish": {"channel": "open", "data": "bad"}},
            {"id": 4, "publish": {"channel": "open", "data": "b"}},
            {"id": 5, "ping": {}},
        )
        await world.settle()
        assert client.data("open") == ["A", "B"]
        assert client.answer(3)["error"] == {"code": 103, "message": "mind your words"}
        ids = [one["id"] for one in client.told if "id" in one]
        assert ids.index(5) < ids.index(2), "control traffic waits for nobody"
        assert client.session.is_idle and not client.session.pending_bytes


async def test_a_store_that_is_behind_pauses_its_publisher() -> None:
    limits = Limits(max_unfinished_appends=2)
    async with World(delayed=Faults(max_delay_s=0.1), limits=limits) as world:
        client = await world.connected()
        for number in range(2, 12):
            client.send_commands({"id": number, "publish": {"channel": "open", "data": number}})
        assert client.is_paused and client.waiting and not client.session.backlog
        await world.settle(5)
        assert not client.is_paused
        assert [one["id"] for one in client.told] == list(range(1, 12))
        assert client.errors() == []


async def test_who_cannot_be_paused_is_told_that_the_store_is_behind() -> None:
    limits = Limits(max_unfinished_appends=2)
    async with World(delayed=Faults(max_delay_s=0.1), limits=limits) as world:
        client = await world.connected(can_pause=False)
        for number in range(2, 22):
            client.send_commands({"id": number, "publish": {"channel": "open", "data": number}})
        await world.settle(5)
        assert client.end is None
        assert [one["id"] for one in client.told] == list(range(1, 22))


async def test_a_protobuf_client_may_publish_anything() -> None:
    async with World() as world:
        reader = await world.connected()
        await reader.subscribe("open")
        client = world.client(dialect=WEBSOCKET_PROTOBUF)
        client._read = lambda framed: None  # type: ignore[method-assign]
        client.session.receive_bytes(_protobuf("connect", id=1))
        for number, data in enumerate((b'{"a": 1}', b"\x00\xff", b""), 2):
            request = {"channel": "open", "data": data}
            client.session.receive_bytes(_protobuf("publish", id=number, **request))
        await world.settle()
        assert reader.data("open") == [
            {"a": 1},
            {"data_base64": "AP8=", "content_type": "application/octet-stream"},
        ]
        assert client.end is None


def _protobuf(method: str, id: int, **request: Any) -> bytes:
    message = CLASSES["Command"](id=id, **{method: request})
    return protobuf_form.delimited(message.SerializeToString())


# -- presence ----------------------------------------------------------------------------------


async def test_presence_is_told() -> None:
    async with World() as world:
        first = await world.connected(token=world.token("ann", info=1))
        second = await world.connected(token=world.token("ann"))
        for client in (first, second):
            await client.subscribe("open")
        reply = await second.ask("presence", {"channel": "open"})
        assert reply["presence"]["presence"] == {
            first.session.client: {"user": "ann", "client": first.session.client, "conn_info": 1},
            second.session.client: {"user": "ann", "client": second.session.client},
        }
        stats = await second.ask("presence_stats", {"channel": "open"})
        assert stats["presence_stats"] == {"num_clients": 2, "num_users": 1}
        empty = await second.ask("presence", {"channel": "open-2"})
        assert empty["presence"] == {"presence": {}}
        none = await second.ask("presence_stats", {"channel": "open-2"})
        assert none["presence_stats"] == {"num_clients": 0, "num_users": 0}


@pytest.mark.parametrize("method", ["presence", "presence_stats"])
async def test_presence_has_its_own_permission(method: str) -> None:
    async with World(public={Action.READ: ["*"]}) as world:
        client = await world.connected()
        assert (await client.ask(method, {"channel": "open"}))["error"]["code"] == 103
        assert (await client.ask(method, {"channel": "no name"}))["error"]["code"] == 107


@pytest.mark.parametrize("method", ["presence", "presence_stats"])
async def test_presence_that_cannot_be_read_is_a_temporary_error(method: str) -> None:
    async with World() as world:
        client = await world.connected()
        world.presence.error = BrokerError("away")
        error = (await client.ask(method, {"channel": "open"}))["error"]
        assert error["temporary"] is True and client.session.is_idle


async def test_who_goes_while_presence_is_read_is_left_alone() -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands({"id": 2, "presence": {"channel": "open"}})
        client.cut()
        await world.settle()
        assert len(client.told) == 1


# -- history --------------------------------------------------------------------------------------


async def history(client: Client, **request: Any) -> tuple[list[int], int]:
    reply = await client.ask("history", {"channel": "open", **request}, within_s=0.3)
    assert "error" not in reply, reply
    result = reply["history"]
    assert result["epoch"]
    return [pub["offset"] for pub in result["publications"]], result["offset"]


def window(count: int) -> SettingsTable:
    return SettingsTable((), ChannelSettings(Window(max_publications=count)))


@pytest.mark.parametrize("late", [None, Faults(max_delay_s=0.02)], ids=["near", "far"])
async def test_history_from_either_end(late: Faults | None) -> None:
    async with World(table=window(5), delayed=late) as world:
        world.publish("open", *range(1, 11))
        await world.settle(0.5)
        client = await world.connected()
        assert await history(client) == ([], 10)
        assert await history(client, limit=0) == ([], 10)
        assert await history(client, limit=-1) == ([6, 7, 8, 9, 10], 10)
        assert await history(client, limit=2) == ([6, 7], 10)
        assert await history(client, limit=99) == ([6, 7, 8, 9, 10], 10)
        assert await history(client, limit=2, reverse=True) == ([10, 9], 10)
        assert await history(client, limit=-1, reverse=True) == ([10, 9, 8, 7, 6], 10)
        assert await history(client, limit=2, since={"offset": 7}) == ([8, 9], 10)
        assert await history(client, limit=-1, since={"offset": 5}) == ([6, 7, 8, 9, 10], 10)
        assert await history(client, limit=-1, since={"offset": 10}) == ([], 10)
        assert await history(client, limit=2, since={"offset": 9}, reverse=True) == ([8, 7], 10)
        assert await history(client, limit=-1, since={"offset": 8}, reverse=True) == ([7, 6], 10)
        assert await history(client, limit=-1, since={"offset": 11}, reverse=True) == ([10, 9, 8, 7, 6], 10)


@pytest.mark.parametrize(
    "since",
    [
        {"offset": 4},
        {"offset": 0},
        {"offset": 11},
        {"offset": 7, "epoch": "another"},
        {"offset": 6, "reverse": True},
        {"offset": 3, "reverse": True},
        {"offset": 12, "reverse": True},
    ],
)
async def test_history_that_is_gone_is_told(since: dict[str, Any]) -> None:
    async with World(table=window(5)) as world:
        world.publish("open", *range(1, 11))
        client = await world.connected()
        request = {"reverse": since.pop("reverse", False), "since": since, "limit": -1}
        reply = await client.ask("history", {"channel": "open", **request})
        assert reply["error"]["code"] == 112


async def test_history_of_an_empty_channel() -> None:
    async with World() as world:
        client = await world.connected()
        for request in (
            {}, {"limit": -1}, {"limit": 3, "reverse": True}, {"limit": 3, "since": {}},
            {"limit": 3, "since": {"offset": 1}, "reverse": True},
        ):  # fmt: skip
            assert await history(client, **request) == ([], 0)


async def test_history_from_the_first_publication() -> None:
    async with World() as world:
        world.publish("open", 1, 2)
        client = await world.connected()
        assert await history(client, limit=-1, since={"offset": 0}) == ([1, 2], 2)
        assert await history(client, limit=-1, since={"offset": 1}, reverse=True) == ([], 2)


async def test_history_in_hundreds_of_pages() -> None:
    """Each page stood on the one before it: a large channel read backwards ended the connection (1011)."""
    async with World(limits=Limits(max_page_bytes=200)) as world:
        for _ in range(300):
            world.publish("open", "x" * 200)
        client = await world.connected()
        assert await history(client, limit=-1, reverse=True) == ([300], 300)


async def test_history_is_bounded_in_number_and_bytes() -> None:
    limits = Limits(max_history_publications=10, max_page_bytes=1000)
    async with World(limits=limits) as world:
        world.publish("open", *range(1, 31))
        client = await world.connected()
        assert await history(client, limit=-1) == (list(range(1, 11)), 30)
        assert await history(client, limit=-1, reverse=True) == (list(range(30, 20, -1)), 30)
        for _ in range(10):
            world.publish("open", "x" * 300)
        assert await history(client, limit=-1, since={"offset": 30}) == ([31, 32, 33], 40)
        assert await history(client, limit=-1, reverse=True) == ([40, 39, 38], 40)


async def test_history_has_tags_info_and_time() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        await client.ask("publish", {"channel": "open", "data": [1]})
        reply = await client.ask("history", {"channel": "open", "limit": 1})
        [pub] = reply["history"]["publications"]
        assert pub["info"] == {"user": "ann", "client": client.session.client}
        assert (pub["data"], pub["offset"]) == ([1], 1) and pub["time"] > 0


async def test_history_needs_permission() -> None:
    async with World() as world:
        client = await world.connected()
        assert (await client.ask("history", {"channel": "closed"}))["error"]["code"] == 103
        assert (await client.ask("history", {"channel": "no name"}))["error"]["code"] == 107


async def test_history_of_a_broker_that_is_away() -> None:
    async with World(delayed=Faults(failed=1.0)) as world:
        client = await world.connected()
        reply = await client.ask("history", {"channel": "open", "limit": 1}, within_s=0.3)
        assert reply["error"]["temporary"] is True


# -- rpc and send --------------------------------------------------------------------------------------


class Handlers:
    """Calls and messages that are done when the test says so."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.ended: list[str] = []
        self.cancelled: list[str] = []
        self.gates: dict[str, asyncio.Event] = {}
        self.lanes: dict[str, Lane] = {}

    def gate(self, name: str) -> asyncio.Event:
        return self.gates.setdefault(name, asyncio.Event())

    async def work(self, name: str) -> None:
        self.begun.append(name)
        try:
            await self.gate(name).wait()
        except asyncio.CancelledError:
            self.cancelled.append(name)
            raise
        self.ended.append(name)

    async def rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        if method == "echo":
            return data
        if method == "nothing":
            return b""
        if method == "broken":
            raise ValueError("a secret")
        if method == "gone":
            raise EverywireError("no such method", code=codes.METHOD_NOT_FOUND)
        if method == "out":
            raise EverywireError("out", code=codes.DISCONNECTED)
        await self.work(f"{method} {data.decode()}")
        return b'"done"'

    async def message(self, caller: Caller, data: bytes) -> None:
        await self.work(f"message {data.decode()}")

    def lane(self, caller: Caller, method: str, data: bytes) -> Lane:
        return self.lanes.get(method, Lane())

    @property
    def hooks(self) -> Hooks:
        return Hooks(rpc=self.rpc, message=self.message, lane=self.lane)


async def test_a_call_is_answered() -> None:
    async with World(hooks=Handlers().hooks) as world:
        client = await world.connected()
        reply = await client.ask("rpc", {"method": "echo", "data": {"a": [1, None]}})
        assert reply["rpc"] == {"data": {"a": [1, None]}}
        assert (await client.ask("rpc", {"method": "nothing"}))["rpc"] == {}
        assert (await client.ask("rpc", {"method": "echo"}))["rpc"] == {}


async def test_a_call_that_fails_is_an_error() -> None:
    async with World(hooks=Handlers().hooks) as world:
        client = await world.connected()
        error = (await client.ask("rpc", {"method": "broken"}))["error"]
        assert (error["code"], error["temporary"]) == (100, True) and "secret" not in error["message"]
        assert (await client.ask("rpc", {"method": "gone"}))["error"] == {
            "code": 104, "message": "no such method",
        }  # fmt: skip
        client.send_commands({"id": 5, "rpc": {"method": "out"}})
        await world.settle()
        assert client.end == (3503, "out")


async def test_a_call_that_takes_too_long_is_an_error() -> None:
    async with World(hooks=Handlers().hooks, limits=Limits(call_timeout_s=0.01)) as world:
        client = await world.connected()
        client.send_commands({"id": 2, "rpc": {"method": "slow", "data": 1}})
        for _ in range(200):
            await asyncio.sleep(0.005)
            if client.errors():
                break
        assert client.errors() == [100]


async def test_without_handlers_nothing_is_taken() -> None:
    async with World() as world:
        client = await world.connected()
        assert (await client.ask("rpc", {"method": "x"}))["error"]["code"] == 108
        client.send_commands({"send": {"data": 1}})
        assert client.end is not None and client.end[0] == 3508


async def test_handlers_run_in_order_and_hold_up_nothing_else() -> None:
    handlers = Handlers()
    async with World(hooks=handlers.hooks) as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "rpc": {"method": "a", "data": 1}},
            {"send": {"data": 2}},
            {"id": 3, "rpc": {"method": "a", "data": 3}},
            {"id": 4, "subscribe": {"channel": "open"}},
            {"id": 5, "ping": {}},
        )
        await world.settle()
        assert handlers.begun == ["a 1"]
        assert [one["id"] for one in client.told if "id" in one] == [1, 4, 5]
        handlers.gate("a 1").set()
        await world.settle()
        assert handlers.begun == ["a 1", "message 2"] and client.answer(2)["rpc"] == {"data": "done"}
        handlers.gate("message 2").set()
        handlers.gate("a 3").set()
        await world.settle()
        assert handlers.ended == ["a 1", "message 2", "a 3"]
        assert client.session.lanes is not None and client.session.lanes.busy == 0
        assert len(world.shared.tasks) == 0


async def test_a_handler_may_run_beside_others() -> None:
    handlers = Handlers()
    handlers.lanes = {"two": Lane("two", 2), "keyed": Lane(("keyed", 1))}
    async with World(hooks=handlers.hooks) as world:
        client = await world.connected()
        client.send_commands(
            *({"id": n, "rpc": {"method": "two", "data": n}} for n in (2, 3, 4)),
            *({"id": n, "rpc": {"method": "keyed", "data": n}} for n in (5, 6)),
            {"id": 7, "rpc": {"method": "other", "data": 7}},
        )
        await world.settle()
        assert sorted(handlers.begun) == ["keyed 5", "other 7", "two 2", "two 3"]
        handlers.gate("two 3").set()
        await world.settle()
        assert handlers.begun[-1] == "two 4"


async def test_work_is_cancelled_with_its_connection_if_it_asks_for_that() -> None:
    handlers = Handlers()
    handlers.lanes = {"cancelled": Lane("c", 1, is_cancelled=True), "kept": Lane("k", 1)}
    async with World(hooks=handlers.hooks) as world:
        client = await world.connected()
        client.send_commands(
            *({"id": n, "rpc": {"method": "cancelled", "data": n}} for n in (2, 3)),
            *({"id": n, "rpc": {"method": "kept", "data": n}} for n in (4, 5)),
        )
        await world.settle()
        client.cut()
        await world.settle()
        assert handlers.cancelled == ["cancelled 2"]
        handlers.gate("kept 4").set()
        handlers.gate("kept 5").set()
        await world.settle()
        assert handlers.ended == ["kept 4", "kept 5"]
        assert handlers.begun == ["cancelled 2", "kept 4", "kept 5"]
        assert len(world.shared.tasks) == 0 and len(client.told) == 1


async def test_more_calls_than_may_wait_are_refused_and_nothing_else() -> None:
    handlers = Handlers()
    async with World(hooks=handlers.hooks, limits=Limits(max_pending_commands=3)) as world:
        client = await world.connected()
        client.send_commands(
            *({"id": n, "rpc": {"method": "a", "data": n}} for n in range(2, 8)), {"id": 8, "ping": {}}
        )
        await world.settle()
        assert client.errors() == [111] * 3
        assert client.told[-1] == {"id": 8, "ping": {}}
        for n in (2, 3, 4):
            handlers.gate(f"a {n}").set()
        await world.settle()
        assert handlers.ended == ["a 2", "a 3", "a 4"]
        assert "rpc" in await client.ask("rpc", {"method": "echo", "data": 1})


async def test_what_waits_is_bounded_in_bytes() -> None:
    handlers = Handlers()
    async with World(hooks=handlers.hooks, limits=Limits(max_pending_bytes=1000)) as world:
        client = await world.connected()
        for n in range(2, 6):
            client.send_commands({"id": n, "rpc": {"method": "a", "data": "x" * 400}})
        await world.settle()
        assert client.errors() == [111] * 2
        handlers.gate(f'a "{"x" * 400}"').set()
        await world.settle()
        assert client.session.pending_bytes == 0


async def test_messages_beyond_what_may_wait_hold_up_their_client() -> None:
    handlers = Handlers()
    async with World(hooks=handlers.hooks, limits=Limits(max_pending_commands=2)) as world:
        client = await world.connected()
        for n in range(10):
            client.send_commands({"send": {"data": n}})
        assert client.is_paused
        await world.settle()
        for n in range(10):
            handlers.gate(f"message {n}").set()
        await world.settle()
        assert handlers.ended == [f"message {n}" for n in range(10)]
        assert not client.is_paused and client.end is None


async def test_who_cannot_be_held_up_is_sent_away() -> None:
    handlers = Handlers()
    limits = Limits(max_pending_commands=2, max_batch_commands=5)
    async with World(hooks=handlers.hooks, limits=limits) as world:
        client = await world.connected(can_pause=False)
        for n in range(20):
            client.send_commands({"send": {"data": n}})
        assert client.end is not None and client.end[0] == 3013


async def test_who_cannot_be_held_up_is_bounded_in_bytes() -> None:
    handlers = Handlers()
    limits = Limits(max_pending_bytes=1000)
    async with World(hooks=handlers.hooks, limits=limits) as world:
        client = await world.connected(can_pause=False)
        for _ in range(20):
            client.send_commands({"send": {"data": "x" * 990}})
        assert client.end is not None and client.end[0] == 3013


async def test_a_ping_is_answered() -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands({"id": 7, "ping": {}})
        assert client.told[-1] == {"id": 7, "ping": {}}


async def test_the_first_request_of_a_command_counts() -> None:
    async with World(hooks=Handlers().hooks) as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "subscribe": {"channel": "open"}, "unsubscribe": {"channel": "open"}},
            {"id": 3, "ping": {}, "send": {"data": 1}},
            {"id": 4, "send": {"data": 1}, "rpc": {"method": "echo"}},
        )
        assert [list(one) for one in client.told[1:]] == [["id", "subscribe"], ["id", "ping"]]
        await world.settle()
        assert json.dumps(client.told[-1]) and client.end is None
