"""Subscriptions: who gets one, what is told with it, and in which order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from copy import copy
from typing import Any

import pytest

from everywire.access.hooks import Caller, Hooks, SubscribeDecision
from everywire.access.identity import Action, Identity
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, Forbidden
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.core.publication import Draft
from everywire.core.settings import ChannelSettings, SettingsTable, Window
from everywire.sessions.commands import info_text
from everywire.testing.delayed_broker import Faults
from tests.sessions.driving import Client, World

LATE = Faults(max_delay_s=0.05)


# -- the reply ---------------------------------------------------------------------------


async def test_a_subscription_begins_at_the_head() -> None:
    async with World() as world:
        world.publish("open", 1, 2)
        client = await world.connected()
        result = await client.subscribe("open")
        assert result == {"recoverable": True, "positioned": True, "epoch": result["epoch"], "offset": 2}
        world.publish("open", 3)
        await world.settle()
        assert client.data("open") == [3]
        [push] = client.pushed("open")
        assert push["pub"]["offset"] == 3 and push["pub"]["data"] == 3


async def test_a_channel_that_was_never_published_to_stands_at_nothing() -> None:
    async with World() as world:
        client = await world.connected()
        result = await client.subscribe("open")
        assert "offset" not in result and result["epoch"]
        world.publish("open", "first")
        await world.settle()
        assert client.data("open") == ["first"]


async def test_several_subscriptions_of_one_message_are_answered_in_one_write() -> None:
    async with World() as world:
        client = await world.connected()
        world.publish("open-1", "x")
        client.send_commands(
            *({"id": n, "subscribe": {"channel": f"open-{n}", "recover": True}} for n in range(2, 10)),
            {"id": 10, "subscribe": {"channel": "open-1", "recover": True}},
        )
        assert [len(write) for write in client.writes] == [1, 9]
        assert client.data("open-1") == ["x"]


async def test_a_publication_of_the_same_message_comes_after_the_reply() -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "publish": {"channel": "open", "data": "mine"}},
        )
        await world.settle()
        assert [next(key for key in one if key != "id") for one in client.told[1:]] == [
            "subscribe", "publish", "push",
        ]  # fmt: skip
        assert client.data("open") == ["mine"]


@pytest.mark.parametrize("late", [None, LATE], ids=["near", "far"])
async def test_recovery_gives_what_was_missed_in_the_reply(late: Faults | None) -> None:
    async with World(delayed=late) as world:
        client = await world.connected()
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        await world.settle(1)
        world.publish("open", 1, 2)
        await world.settle(1)
        epoch, offset = client.positions["open"]
        client.cut()
        world.publish("open", 3, 4)
        await world.settle(1)
        again = await world.connected()
        again.positions = {"open": (epoch, offset)}
        again.send_commands(
            {"id": 2, "subscribe": {"channel": "open", "recover": True, "epoch": epoch, "offset": offset}}
        )
        await world.settle(1)
        result = again.answer(2)["subscribe"]
        assert result["recovered"] is True and result["was_recovering"] is True
        assert result["offset"] == offset and result["epoch"] == epoch
        assert [pub["data"] for pub in result["publications"]] == [3, 4]
        world.publish("open", 5)
        await world.settle(2)
        assert again.data("open") == [3, 4, 5]


async def test_recovery_with_nothing_new_says_so() -> None:
    async with World() as world:
        world.publish("open", 1)
        client = await world.connected()
        first = await client.subscribe("open")
        client.cut()
        again = await world.connected()
        result = await again.subscribe("open", recover=True, epoch=first["epoch"], offset=1)
        assert result == {
            "recoverable": True, "positioned": True, "epoch": first["epoch"], "offset": 1,
            "recovered": True, "was_recovering": True,
        }  # fmt: skip


async def test_an_empty_epoch_is_any() -> None:
    async with World() as world:
        world.publish("open", 1, 2, 3)
        client = await world.connected()
        result = await client.subscribe("open", recover=True, offset=1)
        assert [pub["data"] for pub in result["publications"]] == [2, 3]
        assert result["epoch"]


def small_window() -> SettingsTable:
    return SettingsTable((), ChannelSettings(Window(max_publications=5)))


@pytest.mark.parametrize(
    "position",
    [
        {"offset": 1},
        {"offset": 1, "epoch": "*"},
        {"offset": 7, "epoch": "another"},
        {"offset": 99},
        {"offset": 0},
        {"offset": 2**60},
    ],
    ids=["trimmed", "trimmed-epoch", "another epoch", "beyond", "the beginning", "huge"],
)
@pytest.mark.parametrize("flag", [0, 1, 2, 3])
async def test_a_position_that_is_gone_is_told(position: dict[str, Any], flag: int) -> None:
    async with World(table=small_window()) as world:
        world.publish("open", *range(1, 11))
        client = await world.connected()
        epoch = (await client.subscribe("open"))["epoch"]
        await client.ask("unsubscribe", {"channel": "open"})
        if position.get("epoch") == "*":
            position = position | {"epoch": epoch}
        reply = await client.ask("subscribe", {"channel": "open", "recover": True, "flag": flag} | position)
        if flag & 2:
            assert reply["error"]["code"] == 112
            assert client.subscribed == set()
        else:
            assert reply["subscribe"] == {
                "recoverable": True, "positioned": True, "epoch": epoch, "offset": 10, "was_recovering": True,
            }  # fmt: skip
            world.publish("open", 11)
            await world.settle()
            assert client.data("open") == [11]


async def test_the_beginning_can_be_asked_for_while_it_is_kept() -> None:
    async with World() as world:
        world.publish("open", 1, 2)
        client = await world.connected()
        result = await client.subscribe("open", recover=True)
        assert result["recovered"] is True
        assert [pub["data"] for pub in result["publications"]] == [1, 2]


async def test_a_channel_that_began_anew_has_another_beginning() -> None:
    async with World() as world:
        world.publish("open", 1, 2, 3)
        world.broker.log.keep("open", Window(), 100, lambda _: None, anew=True)
        client = await world.connected()
        result = await client.subscribe("open", recover=True)
        assert result["recovered"] is True and result["offset"] == 3 and "publications" not in result
        await client.ask("unsubscribe", {"channel": "open"})
        client.positions.clear()
        world.publish("open", 4, 5)
        result = await client.subscribe("open", recover=True)
        assert [pub["offset"] for pub in result["publications"]] == [4, 5]
        world.publish("open", 6)
        await world.settle()
        assert client.data("open") == [4, 5, 6]


async def test_what_does_not_fit_the_reply_follows_it() -> None:
    async with World() as world:
        world.publish("open", *range(1, 701))
        client = await world.connected()
        result = await client.subscribe("open", recover=True)
        assert result["recovered"] is True
        assert len(result["publications"]) == 300
        world.publish("open", 701)
        await world.settle()
        assert client.data("open") == list(range(1, 702))


async def test_a_reply_is_bounded_in_bytes() -> None:
    async with World() as world:
        for n in range(20):
            world.publish_bytes("open", b'"%d%s"' % (n, b"x" * 30_000))
        client = await world.connected()
        result = await client.subscribe("open", recover=True)
        assert 1 <= len(result["publications"]) <= 9
        await world.settle()
        assert len(client.data("open")) == 20


async def test_events_tags_and_other_data_than_json_arrive() -> None:
    async with World() as world:
        client = await world.connected()
        await client.subscribe("open")
        world.hub.publish(Draft("open", b"\x00\xff", "image/png", "shown", {"a": "b"}), lambda _: None)
        await world.settle()
        live = client.pushed("open")[0]["pub"]
        await client.ask("unsubscribe", {"channel": "open"})
        client.positions.clear()
        result = await client.subscribe("open", recover=True)
        assert result["publications"] == [live]
        assert live["data"] == {"data_base64": "AP8=", "content_type": "image/png"}
        assert live["tags"] == {"a": "b", "event": "shown"}


# -- who gets none ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"channel": "closed"}, 103),
        ({"channel": "open", "type": 1}, 108),
        ({"channel": "open", "tf": {"op": "eq"}}, 107),
        ({"channel": "no name"}, 107),
        ({"channel": "open/a"}, 107),
        ({"channel": "o" * 256}, 107),
        ({"channel": "open*"}, 107),
        ({"channel": "open", "token": "nonsense"}, 103),
    ],
)
async def test_what_cannot_be_subscribed_to_is_an_error(request_: dict[str, Any], code: int) -> None:
    async with World() as world:
        client = await world.connected()
        reply = await client.ask("subscribe", request_)
        assert reply["error"]["code"] == code
        assert reply["error"]["message"] and "temporary" not in reply["error"]
        assert not client.session.subscriptions and not world.presence.entered
        assert world.hub.statistics()["readers"] == 0


async def test_wishes_that_are_not_granted_are_ignored() -> None:
    async with World() as world:
        client = await world.connected()
        result = await client.subscribe("open", delta="fossil", flag=1, positioned=True, recoverable=True)
        assert set(result) == {"recoverable", "positioned", "epoch"}


async def test_twice_is_an_error() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", channels=["user-side"]))
        await client.subscribe("open")
        client.asked.clear()
        assert (await client.ask("subscribe", {"channel": "open"}))["error"]["code"] == 105
        assert (await client.ask("subscribe", {"channel": "user-side"}))["error"]["code"] == 105
        world.publish("open", 1)
        await world.settle()
        assert client.data("open") == [1]


async def test_a_session_has_only_so_many_channels() -> None:
    async with World(limits=Limits(max_session_channels=2)) as world:
        client = await world.connected()
        await client.subscribe("open-1")
        await client.subscribe("open-2")
        assert (await client.ask("subscribe", {"channel": "open-3"}))["error"]["code"] == 106
        await client.ask("unsubscribe", {"channel": "open-1"})
        await client.subscribe("open-3")


async def test_a_broker_that_is_away_is_a_temporary_error() -> None:
    async with World(delayed=Faults(failed=1.0)) as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "subscribe": {"channel": "open-2", "recover": True}},
        )
        await world.settle(1)
        for number in (2, 3):
            error = client.answer(number)["error"]
            assert error["temporary"] is True
        assert not client.session.subscriptions


# -- unsubscribe ----------------------------------------------------------------------------


async def test_nothing_follows_an_unsubscribe_reply() -> None:
    async with World() as world:
        client = await world.connected()
        await client.subscribe("open")
        world.publish("open", 1)
        client.send_commands({"id": 2, "unsubscribe": {"channel": "open"}})
        assert client.told[-1] == {"id": 2, "unsubscribe": {}}
        world.publish("open", 2)
        await world.settle()
        assert client.data("open") == []
        assert not world.presence.entered
        assert world.hub.statistics()["readers"] == 0


async def test_unsubscribe_succeeds_always() -> None:
    async with World() as world:
        client = await world.connected()
        assert await client.ask("unsubscribe", {"channel": "open"}) == {"id": 1001, "unsubscribe": {}}
        assert (await client.ask("unsubscribe", {"channel": "no name"}))["error"]["code"] == 107


async def test_one_message_may_subscribe_and_unsubscribe() -> None:
    async with World() as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "unsubscribe": {"channel": "open"}},
            {"id": 4, "subscribe": {"channel": "open"}},
        )
        assert [one["id"] for one in client.told] == [1, 2, 3, 4]
        world.publish("open", 1)
        await world.settle()
        assert client.data("open") == [1]
        assert world.hub.statistics()["readers"] == 1


class Slow:
    """A subscribe hook that answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.gates: list[asyncio.Event] = []

    async def __call__(self, caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        gate = asyncio.Event()
        self.asked.append(channel)
        self.gates.append(gate)
        await gate.wait()
        return None

    async def answer(self, world: World) -> None:
        self.gates.pop(0).set()
        await world.settle()


async def test_commands_about_one_channel_keep_their_order_while_the_application_is_asked() -> None:
    slow = Slow()
    async with World(hooks=Hooks(subscribe=slow)) as world:
        client = await world.connected()
        client.send_commands(
            {"id": 2, "subscribe": {"channel": "open"}},
            {"id": 3, "unsubscribe": {"channel": "open"}},
            {"id": 4, "subscribe": {"channel": "open"}},
            {"id": 5, "subscribe": {"channel": "open"}},
            {"id": 6, "ping": {}},
            {"id": 7, "subscribe": {"channel": "open-2"}},
        )
        await world.settle()
        assert [one["id"] for one in client.told] == [1, 6], "others do not wait for it"
        assert slow.asked == ["open", "open-2"]
        await slow.answer(world)
        assert [one["id"] for one in client.told] == [1, 6, 2, 3]
        assert slow.asked == ["open", "open-2", "open"]
        await slow.answer(world)
        await slow.answer(world)
        assert [one["id"] for one in client.told] == [1, 6, 2, 3, 7, 4, 5]
        assert client.answer(5)["error"]["code"] == 105
        world.publish("open", 1)
        await world.settle()
        assert client.data("open") == [1]
        assert client.session.is_idle


async def test_what_waits_for_a_subscription_is_bounded() -> None:
    slow = Slow()
    async with World(hooks=Hooks(subscribe=slow), limits=Limits(max_pending_commands=5)) as world:
        client = await world.connected()
        client.send_commands(*({"id": n, "subscribe": {"channel": "open"}} for n in range(2, 12)))
        await world.settle()
        assert client.errors() == [111] * 5
        assert all(one["error"]["temporary"] for one in client.told if "error" in one)
        await slow.answer(world)
        assert client.errors() == [111] * 5 + [105] * 4


async def test_a_session_that_ends_while_the_application_is_asked_is_left_alone() -> None:
    slow = Slow()
    async with World(hooks=Hooks(subscribe=slow)) as world:
        client = await world.connected()
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        await world.settle()
        client.cut()
        await slow.answer(world)
        assert len(client.told) == 1 and not world.presence.entered
        assert world.hub.statistics()["readers"] == 0


async def test_a_subscription_that_is_ended_while_it_is_made_is_refused() -> None:
    slow = Slow()
    async with World(hooks=Hooks(subscribe=slow)) as world:
        client = await world.connected(token=world.token("ann"))
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        await world.settle()
        await world.registry.unsubscribe("ann", "open")
        await slow.answer(world)
        assert client.answer(2)["error"]["code"] == 103
        assert client.of("unsubscribe") == [] and not world.presence.entered


# -- the application ---------------------------------------------------------------------------


def deciding(decide: Callable[[str, bytes | None], SubscribeDecision | None]) -> Hooks:
    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        return decide(channel, data)

    return Hooks(subscribe=subscribe)


async def test_the_application_gives_data_and_what_others_see() -> None:
    hooks = deciding(lambda channel, data: SubscribeDecision(data=data, info=b'{"in":\n"room"}'))
    async with World(hooks=hooks) as world:
        client = await world.connected(token=world.token("ann", info={"n": "Ann"}))
        result = await client.subscribe("open", data={"a": 1})
        assert result["data"] == {"a": 1}
        [info] = world.presence.entered.values()
        assert json.loads(info_text(info)) == {
            "user": "ann",
            "client": client.session.client,
            "conn_info": {"n": "Ann"},
            "chan_info": {"in": "room"},
        }
        await client.ask("publish", {"channel": "open", "data": 1})
        assert client.pushed("open")[0]["pub"]["info"]["chan_info"] == {"in": "room"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(Forbidden("no"), 103), (EverywireError("x", code=codes.UNKNOWN_CHANNEL), 102), (ValueError(), 100)],
)
async def test_the_application_may_refuse(error: Exception, code: int) -> None:
    def decide(channel: str, data: bytes | None) -> SubscribeDecision:
        raise copy(error)  # one that is raised keeps all that it passed

    async with World(hooks=deciding(decide)) as world:
        client = await world.connected()
        assert (await client.ask("subscribe", {"channel": "open"}))["error"]["code"] == code
        assert not client.session.subscriptions


async def test_the_application_may_end_the_connection() -> None:
    def decide(channel: str, data: bytes | None) -> SubscribeDecision:
        raise EverywireError("out", code=codes.REFUSED)

    async with World(hooks=deciding(decide)) as world:
        client = await world.connected()
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        await world.settle()
        assert client.end == (3507, "out")


class Board:
    """An application's state, and its snapshot that takes its time."""

    def __init__(self) -> None:
        self.state: list[int] = []
        self.gate = asyncio.Event()
        self.made = 0

    async def snapshot(self, caller: Caller, channel: str) -> bytes:
        self.made += 1
        await self.gate.wait()
        return json.dumps(self.state).encode()


async def test_a_snapshot_comes_with_its_position_and_then_only_what_is_newer() -> None:
    board = Board()
    hooks = deciding(lambda channel, data: SubscribeDecision(snapshot=board.snapshot, data=b"1"))
    async with World(hooks=hooks) as world:
        def change(n: int) -> None:
            board.state.append(n)
            world.publish("open", n)

        change(1)
        client = await world.connected()
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        await world.settle()
        change(2)
        await world.settle()
        assert len(client.told) == 1
        board.gate.set()
        await world.settle()
        change(3)
        await world.settle()
        result = client.answer(2)["subscribe"]
        assert result["has_snapshot"] is True and result["data"] == [1, 2]
        assert result["offset"] == 1, "the position was read before the snapshot was made"
        assert client.data("open") == [2, 3]


async def test_a_client_that_recovered_needs_no_snapshot() -> None:
    board = Board()
    board.gate.set()
    hooks = deciding(lambda channel, data: SubscribeDecision(snapshot=board.snapshot))
    async with World(hooks=hooks, table=small_window()) as world:
        world.publish("open", 1, 2)
        client = await world.connected()
        result = await client.subscribe("open", recover=True, offset=1)
        assert [pub["data"] for pub in result["publications"]] == [2] and board.made == 0
        assert "has_snapshot" not in result
        await client.ask("unsubscribe", {"channel": "open"})
        world.publish("open", *range(20))
        result = await client.subscribe("open", recover=True, offset=1)
        assert result["has_snapshot"] is True and board.made == 1


async def test_a_snapshot_that_fails_fails_the_subscription() -> None:
    async def snapshot(caller: Caller, channel: str) -> bytes:
        raise ValueError("boom")

    hooks = deciding(lambda channel, data: SubscribeDecision(snapshot=snapshot))
    async with World(hooks=hooks) as world:
        client = await world.connected()
        error = (await client.ask("subscribe", {"channel": "open"}))["error"]
        assert (error["code"], error["temporary"]) == (100, True)
        assert not client.session.subscriptions


# -- subscription tokens -------------------------------------------------------------------------


async def test_a_token_opens_a_channel() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        token = world.token("ann", 100, channel="closed", info={"r": 1}, data={"d": 2})
        result = await client.subscribe("closed", token=token)
        assert (result["expires"], result["ttl"], result["data"]) == (True, 100, {"d": 2})
        world.publish("closed", 1)
        await world.settle()
        assert client.data("closed") == [1]


@pytest.mark.parametrize(
    ("user", "claims", "code"),
    [
        ("ann", {"channel": "closed", "exp": 1}, 109),
        ("ann", {}, 103),
        ("eve", {"channel": "closed"}, 3500),
        ("ann", {"channel": "other"}, 3500),
        ("ann", {"channel": "closed", "client": "another"}, 3500),
    ],
    ids=["expired", "none at all", "other user's", "other channel's", "other client's"],
)
async def test_a_token_that_does_not_fit_opens_nothing(user: str, claims: Any, code: int) -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        client.send_commands(
            {"id": 2, "subscribe": {"channel": "closed", "token": world.token(user, **claims)}}
        )
        await world.settle()
        if code >= 3000:
            assert client.end is not None and client.end[0] == code
        else:
            assert client.errors() == [code]


# -- what the hub ends -----------------------------------------------------------------------------


async def test_a_reader_that_missed_something_subscribes_again() -> None:
    async with World(table=small_window()) as world:
        client = await world.connected(room=10_000)
        await client.subscribe("open")
        world.publish("open", 1)
        await world.settle()
        client.room = 1
        world.publish("open", 2)
        await world.settle()
        assert client.session.is_stalled
        for n in range(3, 30):
            world.publish("open", n)
            await world.settle()
        client.drain()
        await world.settle(1)
        assert client.of("unsubscribe") == [{"code": 2500, "reason": codes.SUBSCRIPTION_GAP.sentence}]
        assert client.end is None and not world.presence.entered
        epoch, offset = client.positions["open"]
        client.positions.clear()
        result = await client.subscribe("open", recover=True, epoch=epoch, offset=offset)
        assert result["was_recovering"] is True and "recovered" not in result
        world.publish("open", 30)
        await world.settle()
        assert client.data("open")[-1] == 30


async def test_a_server_side_reader_that_missed_something_comes_again() -> None:
    async with World(table=small_window()) as world:
        client = await world.connected(token=world.token("ann", channels=["side"]), room=10_000)
        client.room = 1
        world.publish("side", 0)
        await world.settle()
        for n in range(1, 30):
            world.publish("side", n)
            await world.settle()
        client.drain()
        await world.settle(1)
        assert client.end is not None and client.end[0] == 3010


async def test_a_reader_that_takes_nothing_is_given_up() -> None:
    async with World() as world:
        client = await world.connected(room=10_000)
        await client.subscribe("open-1")
        await client.subscribe("open-2")
        client.room = 1
        world.publish("open-1", 1)
        world.publish("open-2", 1)
        await world.settle(200)
        assert client.end is not None and client.end[0] == 3008, "it may come back"
        assert world.hub.statistics()["readers_stalled"] == 0


# -- by the server ------------------------------------------------------------------------------------


async def test_the_server_may_end_a_subscription() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", channels=["side"]))
        await client.subscribe("open")
        await world.registry.unsubscribe("ann", "open")
        await world.registry.unsubscribe("ann", "side")
        assert client.of("unsubscribe") == [{"code": 2000, "reason": codes.UNSUBSCRIBED.sentence}] * 2
        world.publish("open", 1)
        world.publish("side", 1)
        await world.settle()
        assert client.data("open") == client.data("side") == []
        assert not client.session.subscriptions and not world.presence.entered
        client.session.unsubscribe("never", codes.UNSUBSCRIBED)
        assert len(client.of("unsubscribe")) == 2


@pytest.mark.parametrize("late", [None, LATE], ids=["near", "far"])
async def test_the_server_may_begin_a_subscription(late: Faults | None) -> None:
    async with World(delayed=late) as world:
        world.publish("side", 1)
        await world.settle(1)
        client = await world.connected(token=world.token("ann"))
        await world.registry.subscribe("ann", "side", SubscribeDecision(data=b"[7]"))
        await world.registry.subscribe("ann", "side", SubscribeDecision())
        await world.settle(2)
        [told] = client.of("subscribe")
        assert told["recoverable"] and told["positioned"] and told["epoch"]
        assert (told["offset"], told["data"]) == (1, [7])
        world.publish("side", 2)
        await world.settle(2)
        assert client.data("side") == [2]


@pytest.mark.parametrize("late", [None, LATE], ids=["near", "far"])
async def test_the_server_may_begin_it_after_a_place(late: Faults | None) -> None:
    async with World(delayed=late, table=small_window()) as world:
        world.publish("side", *range(1, 11))
        await world.settle(1)
        client = await world.connected(token=world.token("ann"))
        await client.subscribe("user-x", within_s=1)
        epoch = client.positions["user-x"][0]
        client.session.subscribe("side", SubscribeDecision(), Place(epoch, 7))
        client.session.subscribe("side-2", SubscribeDecision(), Place("another", 7))
        await world.settle(2)
        assert client.data("side") == [8, 9, 10]
        assert "side-2" in client.subscribed


async def test_what_the_server_begins_can_be_ended_while_it_is_made() -> None:
    async with World(delayed=LATE) as world:
        client = await world.connected()
        client.session.subscribe("side", SubscribeDecision(), None)
        client.session.unsubscribe("side", codes.UNSUBSCRIBED)
        client.session.subscribe("side", SubscribeDecision(), None)
        await world.settle(2)
        assert len(client.of("subscribe")) == 1
        assert client.of("unsubscribe") == []


async def test_a_client_may_end_what_the_server_began() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", channels=["side"]))
        assert "unsubscribe" in await client.ask("unsubscribe", {"channel": "side"})
        world.publish("side", 1)
        await world.settle()
        assert client.data("side") == []


# -- what is asked again ---------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 1004])
async def test_a_permission_that_is_taken_away_ends_its_subscriptions(number: int) -> None:
    closed: set[str] = set()

    async def authorize(identity: Identity, action: Action, channel: str) -> bool | None:
        if number and channel in closed:
            raise EverywireError(code=Code(number, "application", 403, "not you"))
        return channel not in closed

    async with World(hooks=Hooks(authorize=authorize)) as world:
        client = await world.connected(token=world.token("ann", channels=["side"]))
        for channel in ("a", "b", "c"):
            await client.subscribe(channel)
        await client.subscribe("by-token", token=world.token("ann", channel="by-token"))
        closed.update(("a", "c", "side", "by-token"))
        await world.settle(120)
        assert client.end is None
        assert client.subscribed == {"b", "side", "by-token"}, "what a token opens is not the rules' to close"
        assert [one["code"] for one in client.of("unsubscribe")] == [2000, 2000]


async def test_who_has_joined_is_told_only_to_those_who_may_see_it() -> None:
    async with World(public={Action.READ: ["*"], Action.PRESENCE: ["open*"]}) as world:
        client = await world.connected()
        await client.subscribe("open", join_leave=True)
        await client.subscribe("other", join_leave=True)
        await client.subscribe("open-2")
        assert {name for name, found in world.presence.listeners.items() if found} == {"open"}


async def test_the_application_decides_who_is_told_of_joins() -> None:
    hooks = deciding(lambda channel, data: SubscribeDecision(join_leave=channel.endswith("yes")))
    async with World(hooks=hooks) as world:
        client = await world.connected()
        await client.subscribe("open-yes")
        await client.subscribe("open-no", join_leave=True)
        assert {name for name, found in world.presence.listeners.items() if found} == {"open-yes"}


async def test_joins_and_leaves_are_told() -> None:
    async with World() as world:
        clients: list[Client] = [await world.connected() for _ in range(3)]
        for client in clients:
            await client.subscribe("open", join_leave=True)
        framing = clients[0].framing
        info = next(iter(world.presence.entered.values()))
        before = framing.framed
        world.presence.join("open", info)
        world.presence.left("open", info)
        assert framing.framed == before + 2, "framed once for all"
        for client in clients:
            [joined], [left] = client.of("join"), client.of("leave")
            assert joined == left == {"info": {"user": "", "client": info.client}}
        await clients[0].ask("unsubscribe", {"channel": "open"})
        clients[1].cut()
        world.presence.join("open", info)
        assert [len(client.of("join")) for client in clients] == [1, 1, 2]
