"""Revocations: at once where they are told, soon where that was lost, and gone when they run out."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.access.identity import Action, Identity
from everywire.access.revocations import Revocation, Revocations
from everywire.access.rules import Rules
from everywire.brokers.memory import MemoryBroker
from everywire.core import codes
from everywire.core.errors import BadRequest, BrokerError, EverywireError
from everywire.core.limits import Limits
from everywire.testing.shared_broker import SharedStore
from tests.access.proofs import NOW_S, Clock, Desk, Node, Said, bearer, token, turns

OPEN = Rules(public={Action.READ: ["open"]}, api_keys={"ann": "sesame"})


def is_shut_out(answer: Any) -> bool:
    return isinstance(answer, EverywireError) and answer.code is codes.PERMISSION_DENIED


def lone(clock: Clock | None = None, **more: Any) -> Revocations:
    clock = clock or Clock()
    limits = more.pop("limits", Limits())
    return Revocations(MemoryBroker(limits, clock_ms=clock.unix_ms), limits, clock.unix, is_alone=True)


def ann(**more: Any) -> Identity:
    return Identity(**{"user": "ann", "kind": "token", **more})


async def test_a_blocked_user_is_shut_out_until_let_in_again() -> None:
    desk = Desk(OPEN)
    text = token(sub="ann")
    known = desk.knows(bearer(text))
    assert isinstance(known, Identity)
    assert desk.authority.is_current(known)
    await desk.revocations.block_user("ann")
    assert is_shut_out(desk.knows(bearer(text)))
    assert is_shut_out(desk.knows(bearer(token(sub="ann", jti="another"))))
    assert not desk.authority.is_current(known)
    assert desk.authority.is_revoked(known)
    assert is_shut_out(desk.decides(known, Action.READ, "open")), "not even what is open to anyone"
    bob = desk.knows(bearer(token(sub="bob")))
    assert isinstance(bob, Identity)
    assert desk.decides(bob, Action.READ, "open") is None
    await desk.revocations.unblock_user("ann")
    assert isinstance(desk.knows(bearer(text)), Identity)
    assert desk.decides(known, Action.READ, "open") is None


async def test_a_block_may_have_an_end() -> None:
    desk = Desk()
    await desk.revocations.block_user("ann", desk.clock.unix() + 60)
    assert is_shut_out(desk.knows(bearer(token(sub="ann"))))
    desk.clock.passes(59)
    assert is_shut_out(desk.knows(bearer(token(sub="ann"))))
    desk.clock.passes(1)
    assert isinstance(desk.knows(bearer(token(sub="ann"))), Identity)
    await desk.revocations.block_user("ann", desk.clock.unix() - 1)
    assert isinstance(desk.knows(bearer(token(sub="ann"))), Identity)


async def test_one_token_is_revoked_by_its_id() -> None:
    desk = Desk()
    await desk.revocations.revoke_token("t1")
    assert is_shut_out(desk.knows(bearer(token(sub="ann", jti="t1"))))
    assert isinstance(desk.knows(bearer(token(sub="ann", jti="t2"))), Identity)
    assert isinstance(desk.knows(bearer(token(sub="ann"))), Identity)
    assert is_shut_out(desk.knows(bearer(token(jti="t1")))), "also one without a user"
    with pytest.raises(BadRequest):
        await desk.revocations.revoke_token("")


async def test_a_token_is_revoked_though_it_is_remembered_as_good() -> None:
    desk = Desk()
    request = bearer(token(sub="ann", jti="t1"))
    known = desk.knows(request)
    assert isinstance(known, Identity)
    await desk.revocations.revoke_token("t1")
    assert is_shut_out(desk.knows(request))
    assert not desk.authority.is_current(known)


async def test_all_tokens_of_a_user_so_far() -> None:
    desk = Desk()
    now_s = desk.clock.unix()
    await desk.revocations.invalidate_user_tokens("ann", now_s)
    assert is_shut_out(desk.knows(bearer(token(sub="ann", iat=now_s - 1))))
    assert is_shut_out(desk.knows(bearer(token(sub="ann")))), "it does not say when it was issued"
    assert isinstance(desk.knows(bearer(token(sub="ann", iat=now_s))), Identity)
    assert isinstance(desk.knows(bearer(token(sub="bob", iat=1))), Identity)
    await desk.revocations.invalidate_user_tokens("ann", now_s - 1_000)
    assert is_shut_out(desk.knows(bearer(token(sub="ann", iat=now_s - 1)))), (
        "an earlier date takes nothing back"
    )
    desk.clock.passes(10)
    await desk.revocations.invalidate_user_tokens("ann")
    assert is_shut_out(desk.knows(bearer(token(sub="ann", iat=now_s + 9))))


@pytest.mark.parametrize(
    ("kind", "issued_s", "is_revoked"),
    [
        ("token", None, True),
        ("cookie", None, True),
        ("ticket", None, True),
        ("hook", None, False),
        ("hook", NOW_S - 1, True),
        ("token", NOW_S + 1, False),
        ("key", NOW_S - 1, False),
    ],
)
async def test_whose_tokens_are_invalid(kind: str, issued_s: float | None, is_revoked: bool) -> None:
    revocations = lone()
    await revocations.invalidate_user_tokens("ann", NOW_S)
    assert revocations.is_revoked(ann(kind=kind, issued_s=issued_s)) is is_revoked


async def test_a_key_is_no_user() -> None:
    desk = Desk(OPEN)
    await desk.revocations.block_user("ann")
    key = desk.knows(bearer("sesame"))
    assert isinstance(key, Identity)
    assert desk.decides(key, Action.DELETE, "any") is None


async def test_who_listens_hears_it_once_it_is_in_force() -> None:
    revocations = lone()
    heard: list[Revocation] = []

    def listen(revocation: Revocation) -> None:
        assert revocations.is_revoked(ann(token_id="t1")) is bool(revocation.until_s)
        heard.append(revocation)

    revocations.listen(listen)
    await revocations.block_user("ann", NOW_S + 5)
    await revocations.unblock_user("ann")
    await revocations.revoke_token("t1")
    await revocations.invalidate_user_tokens("ann", NOW_S)
    assert [(one.kind, one.subject) for one in heard] == [
        ("user", "ann"),
        ("user", "ann"),
        ("token", "t1"),
        ("tokens", "ann"),
    ]


@given(st.binary(max_size=100) | st.just(b"[" * 100_000) | st.just(b'["fly","ann",1e12]'))
def test_what_is_heard_may_be_anything(payload: bytes) -> None:
    revocations = lone()
    revocations.heard(payload, "n1")
    assert not revocations.is_revoked(ann())


async def test_memory_is_bounded_and_what_it_lost_is_read_from_the_store() -> None:
    limits = Limits(max_revocations=100, max_stored_keys=10_000)
    desk = Desk(limits=limits)
    for number in range(1_000):
        await desk.revocations.block_user(f"u{number}")
    assert len(desk.revocations._known) <= 100
    assert is_shut_out(await desk.finds(bearer(token(sub="u999"))))
    assert is_shut_out(await desk.finds(bearer(token(sub="u0"))))
    assert isinstance(await desk.finds(bearer(token(sub="ann"))), Identity)


async def test_what_has_run_out_makes_room_first() -> None:
    clock = Clock()
    revocations = lone(clock, limits=Limits(max_revocations=10))
    for number in range(9):
        await revocations.block_user(f"u{number}", clock.unix() + 1)
    await revocations.block_user("ann")
    clock.passes(2)
    await revocations.block_user("bob")
    assert revocations.is_revoked(ann())
    assert not revocations.must_load(ann()), "nothing was lost"


# -- several nodes ---------------------------------------------------------------------


class Cluster:
    """Nodes over one store."""

    def __init__(self, lost: float = 0.0) -> None:
        self.clock = Clock()
        self.shared = SharedStore(lost=lost, clock_ms=self.clock.unix_ms)

    async def desk(self, name: str, **more: Any) -> Desk:
        broker = self.shared.node(name)
        desk = Desk(OPEN, broker=broker, clock=self.clock, is_alone=False, **more)
        await broker.start(Node(desk.revocations))
        return desk


async def test_every_node_hears_of_it_at_once() -> None:
    cluster = Cluster()
    here, there = await cluster.desk("n1"), await cluster.desk("n2")
    known = await there.finds(bearer(token(sub="ann")))
    assert isinstance(known, Identity)
    await here.revocations.block_user("ann")
    assert there.authority.is_revoked(known)
    assert is_shut_out(await there.finds(bearer(token(sub="ann"))))
    await here.revocations.unblock_user("ann")
    assert isinstance(await there.finds(bearer(token(sub="ann"))), Identity)


async def test_a_node_that_was_not_there_reads_the_store() -> None:
    cluster = Cluster()
    here = await cluster.desk("n1")
    await here.revocations.block_user("ann")
    await here.revocations.revoke_token("t1")
    await here.revocations.invalidate_user_tokens("bob", NOW_S)
    there = await cluster.desk("n2")
    for text in (
        token(sub="ann"),
        token(sub="cyd", jti="t1"),
        token(sub="bob", iat=NOW_S - 1),
        token(jti="t1"),
    ):
        assert is_shut_out(await there.finds(bearer(text)))
    assert isinstance(await there.finds(bearer(token(sub="bob", iat=NOW_S + 1))), Identity)
    assert isinstance(await there.finds(bearer(token(sub="cyd", jti="t2"))), Identity)
    cluster.clock.passes(31)
    assert is_shut_out(await there.finds(bearer(token(sub="ann"))))


async def test_where_the_broadcast_was_lost_it_counts_within_thirty_seconds() -> None:
    cluster = Cluster(lost=1.0)
    here, there = await cluster.desk("n1"), await cluster.desk("n2")
    text = token(sub="ann")
    assert isinstance(await there.finds(bearer(text)), Identity)
    await here.revocations.block_user("ann")
    assert isinstance(there.knows(bearer(text)), Identity), "what is remembered counts, but not for long"
    cluster.clock.passes(30)
    assert is_shut_out(await there.finds(bearer(text)))
    await here.revocations.unblock_user("ann")
    assert is_shut_out(there.knows(bearer(text))), "and who is shut out reads no store meanwhile"
    cluster.clock.passes(30)
    assert isinstance(await there.finds(bearer(text)), Identity)


async def test_a_block_that_is_being_stored_is_not_lost_to_a_reader_of_the_store() -> None:
    cluster = Cluster()
    desk = await cluster.desk("n1")
    gate = asyncio.Event()
    put = desk.broker.store.put

    async def slow(key: str, value: bytes, ttl_s: float) -> None:
        await gate.wait()
        await put(key, value, ttl_s)

    desk.broker.store.put = slow  # type: ignore[method-assign]
    blocking = asyncio.ensure_future(desk.revocations.block_user("ann"))
    await turns()
    for _ in range(2):
        assert is_shut_out(await desk.finds(bearer(token(sub="ann"))))
        cluster.clock.passes(31)
    gate.set()
    await blocking
    assert is_shut_out(await desk.finds(bearer(token(sub="ann"))))


@pytest.mark.parametrize("is_blocked", [True, False])
async def test_what_was_read_before_it_was_told_is_not_believed(is_blocked: bool) -> None:
    cluster = Cluster()
    here, there = await cluster.desk("n1"), await cluster.desk("n2")
    if not is_blocked:
        await here.revocations.block_user("ann")
        there.revocations._known.clear()  # as if it had just started
    gate = asyncio.Event()
    get = there.broker.store.get

    async def slow(key: str) -> bytes | None:
        value = await get(key)
        await gate.wait()
        return value

    there.broker.store.get = slow  # type: ignore[method-assign]
    said = Said()
    there.authority.authenticate(bearer(token(sub="ann")), said)
    await turns()
    if is_blocked:
        await here.revocations.block_user("ann")
    else:
        await here.revocations.unblock_user("ann")
    gate.set()
    await turns(30)
    assert is_shut_out(said.one) is is_blocked
    assert is_shut_out(await there.finds(bearer(token(sub="ann")))) is is_blocked


async def test_what_was_read_is_read_again_when_something_was_told_meanwhile() -> None:
    cluster = Cluster()
    here, there = await cluster.desk("n1"), await cluster.desk("n2")
    await here.revocations.block_user("ann")
    get = there.broker.store.get

    async def slow(key: str) -> bytes | None:
        value = await get(key)
        if value is not None:
            await here.revocations.unblock_user("ann")
        return value

    there.broker.store.get = slow  # type: ignore[method-assign]
    await there.revocations.load(ann())
    assert not there.revocations.is_revoked(ann())


async def test_a_store_that_fails_lets_nobody_in_and_is_told_to_who_revokes() -> None:
    cluster = Cluster()
    desk = await cluster.desk("n1")
    known = await desk.finds(bearer(token(sub="ann")))
    assert isinstance(known, Identity)
    cluster.shared.kill("n1")
    answer = await desk.finds(bearer(token(sub="bob")))
    assert isinstance(answer, BrokerError)
    with pytest.raises(BrokerError):
        await desk.revocations.block_user("ann")
    assert desk.authority.is_revoked(known), "here it counts nevertheless"


async def test_a_damaged_store_is_passed_over(caplog: Any) -> None:
    cluster = Cluster()
    desk = await cluster.desk("n1")
    await desk.revocations.block_user("ann")
    store = cluster.shared.far.store
    (key,) = list(store._values)
    await store.put(key, b"{", 60)
    await desk.revocations.load(ann())
    assert desk.revocations.is_revoked(ann()), "what is known stays"
    assert "no revocation" in caplog.text
