"""The registry: who is found, and what is done to them on every node."""

from __future__ import annotations

import asyncio
import logging
import sys
from typing import Any

import pytest

from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import NOBODY, Identity
from everywire.access.revocations import Revocations
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import BadRequest, BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.testing.broker_driving import RecordingSink
from tests.sessions.cluster import Cluster, Guest


async def test_visitors_are_found_by_user_client_and_session() -> None:
    async with Cluster() as cluster:
        registry = cluster["a"].registry
        ann = Guest("ann", "c1", "secret-1")
        tab = Guest("ann", "c2", "secret-2")
        reader = Guest("ann")
        nobody = Guest("", "c3", "secret-3")
        plain = Guest()
        for one in (ann, tab, reader, nobody, plain):
            registry.enter(one)
        assert set(registry.of_user("ann")) == {ann, tab, reader}
        assert registry.of_user("") == registry.of_user("bob") == ()
        assert registry.by_client("c2") is tab and registry.by_client("c9") is None
        assert registry.by_session("secret-3") is nobody and registry.by_session("secret-9") is None
        assert registry.by_session("") is None and registry.by_client("") is None
        assert registry.statistics() == {"visitors": 5, "sessions": 3, "users": 1}
        for one in (ann, tab, reader, nobody, plain):
            registry.leave(one)
        assert registry.statistics() == {"visitors": 0, "sessions": 0, "users": 0}
        assert registry.of_user("ann") == () and registry.by_session("secret-1") is None


async def test_requests_that_share_a_session_are_both_found() -> None:
    async with Cluster() as cluster:
        registry = cluster["a"].registry
        held, commands = Guest("ann", "c1", "s"), Guest("ann", "c1", "s")
        registry.enter(held)
        registry.enter(commands)
        assert registry.by_session("s") is commands
        registry.leave(commands)
        assert registry.by_session("s") is held is registry.by_client("c1")
        registry.enter(held)  # once more changes nothing
        registry.leave(held)
        assert registry.by_session("s") is None
        assert registry.statistics()["sessions"] == registry.statistics()["users"] == 0


async def test_a_visitor_is_found_under_its_new_user() -> None:
    async with Cluster() as cluster:
        registry = cluster["a"].registry
        guest = Guest("", "c1", "s")
        registry.enter(guest)
        for user in ("ann", "bob", "bob", ""):
            old, guest.identity = guest.identity, Identity(user=user) if user else NOBODY
            registry.moved(guest, old)
            assert registry.of_user("ann") == ((guest,) if user == "ann" else ())
            assert registry.of_user("bob") == ((guest,) if user == "bob" else ())
        registry.leave(guest)
        assert registry.statistics() == {"visitors": 0, "sessions": 0, "users": 0}


async def test_a_plain_reader_that_is_nobody_costs_nothing() -> None:
    async with Cluster() as cluster:
        registry = cluster["a"].registry
        guest = Guest()
        before = sys.getallocatedblocks()
        for _ in range(10_000):
            registry.enter(guest)
        assert sys.getallocatedblocks() - before < 1_000


async def test_a_user_is_disconnected_on_every_node_and_forgotten_first() -> None:
    order: list[Any] = []
    async with Cluster("ab", forget=order.append) as cluster:
        guests = {name: Guest("ann", f"c-{name}", f"s-{name}") for name in "ab"}
        reader, bob = Guest("ann"), Guest("bob", "c9", "s9")
        for name, guest in guests.items():
            cluster[name].registry.enter(guest)
            guest.done = order
        cluster["b"].registry.enter(reader)
        cluster["b"].registry.enter(bob)
        await cluster["a"].registry.disconnect("ann", reason="enough")
        assert order == ["ann", ("disconnect", 3503, "enough")]  # here at once
        await cluster.pass_time(0.1)
        assert order[2:] == ["ann", ("disconnect", 3503, "enough")]
        assert reader.done == [("disconnect", 3503, "enough")]
        assert not bob.done


async def test_one_client_or_session_of_a_user_is_disconnected_and_some_are_spared() -> None:
    async with Cluster("ab") as cluster:
        guests = [Guest("ann", f"c{number}", f"s{number}") for number in range(6)]
        nobody = Guest("", "n1", "sn")
        for guest in [*guests, nobody]:
            cluster["b"].registry.enter(guest)
        registry = cluster["a"].registry
        await registry.disconnect("ann", client="c0")
        await registry.disconnect("ann", session="s1")
        await registry.disconnect("bob", client="c2")  # not bob's
        await registry.disconnect("ann", client="c3", session="s2")  # not the same
        await registry.disconnect("", client="n1", code=codes.FORCE_RECONNECT)
        await cluster.pass_time(0.1)
        assert [len(guest.done) for guest in guests] == [1, 1, 0, 0, 0, 0]
        assert nobody.done == [("disconnect", 3011, codes.FORCE_RECONNECT.sentence)]
        await registry.disconnect("ann", whitelist=["c2", "c5"])
        await cluster.pass_time(0.1)
        assert [len(guest.done) for guest in guests] == [2, 2, 0, 1, 1, 0]
        with pytest.raises(BadRequest):
            await registry.disconnect("")


async def test_an_application_may_use_codes_of_its_own() -> None:
    async with Cluster() as cluster:
        guest = Guest("ann", "c1")
        cluster["a"].registry.enter(guest)
        await cluster["a"].registry.disconnect("ann", code=Code(4321, "mine", 0, "my reason"))
        assert guest.done == [("disconnect", 4321, "my reason")]
        for number in (1000, 2500, 5000):
            with pytest.raises(BadRequest):
                await cluster["a"].registry.disconnect("ann", code=Code(number, "", 0, ""))
        with pytest.raises(BadRequest):
            await cluster["a"].registry.unsubscribe("ann", "room", code=codes.DISCONNECTED)


async def test_subscriptions_end_and_begin_on_every_node() -> None:
    async with Cluster("ab") as cluster:
        session, reader, other = (
            Guest("ann", "c1", "s1", ["room", "hall"]),
            Guest("ann", channels=["room"]),
            Guest("ann", channels=["hall"]),
        )
        for one in (session, reader, other):
            cluster["b"].registry.enter(one)
        registry = cluster["a"].registry
        await registry.unsubscribe("ann", "room")
        await cluster.pass_time(0.1)
        assert session.done == reader.done == [("unsubscribe", "room", 2000)]
        assert not other.done
        decision = SubscribeDecision(info=b'{"a":1}', data=b"[2]", expires_s=1e9, join_leave=True)
        await registry.subscribe("ann", "new", decision, since=Place("epoch", 7))
        await registry.subscribe("ann", "plain", client="c1")
        await registry.refresh("ann", session="s1", expires_s=5.0)
        await registry.refresh("ann")
        await cluster.pass_time(0.1)
        assert session.done[1:] == [
            ("subscribe", "new", decision, Place("epoch", 7)),
            ("subscribe", "plain", SubscribeDecision(), None),
            ("refresh", 5.0),
            ("refresh", None),
        ]
        assert not other.done  # a plain reader can be given nothing


async def test_commands_are_forwarded_to_the_node_that_has_the_session() -> None:
    async with Cluster("ab") as cluster:
        guest = Guest("ann", "c1", "s1")
        cluster["b"].registry.enter(guest)
        a, b = cluster["a"].registry, cluster["b"].registry
        assert await a.forward("b", "s1", b"\x00one")
        assert await b.forward("b", "s1", b"two")
        assert guest.done == [("receive", b"\x00one"), ("receive", b"two")]
        assert not await a.forward("b", "s2", b"x")
        assert not await a.forward("a", "s1", b"x")
        with pytest.raises(EverywireError) as caught:
            await a.forward("nowhere", "s1", b"x")
        assert caught.value.code is codes.UNKNOWN_CHANNEL
        cluster.kill("b")
        with pytest.raises(BrokerError):  # its lease has not run out yet
            await a.forward("b", "s1", b"x")
        await asyncio.sleep(0)
        await cluster.pass_time(cluster.limits.node_ttl_s + 1, step_s=1)
        with pytest.raises(EverywireError) as caught:
            await a.forward("b", "s1", b"x")
        assert caught.value.code is codes.UNKNOWN_CHANNEL


async def test_what_cannot_be_understood_is_ignored_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Cluster("ab") as cluster:
        guest = Guest("ann", "c1", "s1")
        cluster["b"].registry.enter(guest)
        broadcast = cluster["a"].broker.control.broadcast
        for payload in (
            b"",
            b"\xff",
            b'{"v":1}',
            b'{"v":2,"order":{"do":"disconnect","whose":{"user":"ann"},"code":3503}}',
            b'{"v":1,"order":{"do":"promote","whose":{"user":"ann"}}}',
            b'{"v":1,"order":{"do":"disconnect","whose":{"user":"ann"},"code":17}}',
            b'{"v":1,"order":{"do":"unsubscribe","whose":{"user":"ann"},"channel":"x","code":"many"}}',
            b'{"v":1,"order":{"do":"subscribe","whose":{"user":"ann"},"channel":"a b"}}',
            b'{"v":1,"order":{"do":"subscribe","whose":{"user":"ann"},"channel":""}}',
            b'{"v":1,"order":{"do":"subscribe","whose":{"user":"ann"},"channel":"x","epoch":"e","offset":-1}}',
            b"[" * 100_000,
        ):
            await broadcast("orders", payload)
        await cluster.pass_time(0.1)
        assert not guest.done
        assert caplog.text.count("of node a") == 11
        await broadcast("a topic of the future", b"?")
        with pytest.raises(EverywireError):
            await cluster["a"].broker.control.ask("b", "forward", b'{"v":7,"session":"","data":""}', 1)
        assert "s1" not in caplog.text


async def test_session_ids_do_not_travel() -> None:
    async with Cluster("ab") as cluster:
        sink = RecordingSink()
        await cluster.store.node("spy").start(sink)
        await cluster["a"].registry.disconnect("ann", session="very-secret")
        await cluster.pass_time(0.1)
        assert sink.broadcasts and all(b"very-secret" not in payload for _, payload, _ in sink.broadcasts)


async def test_whoever_is_revoked_is_ended_on_every_node() -> None:
    async with Cluster("ab") as cluster:
        revocations = {name: Revocations(node.broker) for name, node in cluster.nodes.items()}
        for name, node in cluster.nodes.items():
            node.hub.on_broadcast("revocations", revocations[name].heard)
            node.registry.follow(revocations[name])

        def token(user: str, token_id: str = "", issued_s: float = 100.0) -> Guest:
            identity = Identity(user=user, kind="token", token_id=token_id, issued_s=issued_s)
            guest = Guest(client=f"{user}-{token_id}-{issued_s}", identity=identity)
            cluster["b"].registry.enter(guest)
            return guest

        one, two, old, new, bob = (
            token("ann", "t1"), token("", "t2"), token("cid"), token("cid", issued_s=300), token("bob")
        )  # fmt: skip
        a = revocations["a"]
        await a.revoke_token("t1")
        await a.revoke_token("t2")
        await a.invalidate_user_tokens("cid", 200)
        await a.block_user("bob")
        await cluster.pass_time(0.1)
        for guest in (one, two, old):
            assert guest.done[0][:2] == ("disconnect", codes.FORCE_RECONNECT.number)
        assert bob.done[0][:2] == ("disconnect", codes.REFUSED.number)
        assert not new.done


async def test_all_nodes_are_asked_and_who_is_silent_is_told() -> None:
    async with Cluster("abc", limits=Limits(node_answer_timeout_s=0.05)) as cluster:
        for name in "ab":

            async def answer(payload: bytes, node: str, name: str = name) -> bytes:
                return name.encode() + payload

            cluster[name].hub.on_ask("who", answer)

        async def hang(payload: bytes, node: str) -> bytes:
            await asyncio.Event().wait()
            return b""

        cluster["c"].hub.on_ask("who", hang)
        nodes = cluster["a"].registry.nodes
        assert await nodes.names() == ["a", "b", "c"]
        found = await nodes.ask_all("who", b"?")
        assert (found.answers, found.silent) == ({"a": b"a?", "b": b"b?"}, ["c"])
        cluster.kill("b")
        found = await nodes.ask_all("who", b"?")
        assert (found.answers, found.silent) == ({"a": b"a?"}, ["b", "c"])
        with pytest.raises(ValueError):
            cluster["c"].hub.on_ask("who", hang)


async def test_a_node_that_was_closed_or_killed_is_no_longer_one() -> None:
    async with Cluster("abc") as cluster:
        nodes = cluster["a"].registry.nodes
        await cluster.nodes.pop("b").registry.close()
        assert await nodes.names() == ["a", "c"]
        await cluster.pass_time(60)
        assert await nodes.names() == ["a", "c"]
        cluster.kill("c")
        await cluster.pass_time(cluster.limits.node_ttl_s + 1)
        assert await nodes.names() == ["a"]
