"""Tickets: once, soon, from the same origin, and never a way round the credential behind them."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from everywire.access.hooks import Hooks
from everywire.access.identity import NOBODY, Action, AuthRequest, Identity, Terms
from everywire.access.rules import Rules
from everywire.access.tickets import Tickets, is_ticket
from everywire.brokers.memory import MemoryBroker
from everywire.core import codes
from everywire.core.errors import BrokerBusy, EverywireError
from everywire.core.limits import Limits
from tests.access.proofs import Desk, Said, bearer, token

APP = "https://app.example"
ANN = Identity(user="ann", kind="token", credential=b"c")


def shows(ticket: str, origin: str = APP, **more: Any) -> AuthRequest:
    return AuthRequest(query={"ticket": ticket}, origin=origin, **more)


async def refusal(desk: Desk, request: AuthRequest) -> EverywireError:
    error = await desk.finds(request)
    assert isinstance(error, EverywireError)
    return error


async def test_a_ticket_stands_for_who_asked_for_it() -> None:
    identity = Identity(
        user="ann",
        kind="token",
        may_all=True,
        info=b'{"name":"Ann"}',
        expires_s=1_700_000_900.0,
        issued_s=1_699_999_000.0,
        token_id="t1",
        channels=("news", "room"),
        terms={"room": Terms(info=b"1", data=b"[2]", join_leave=False), "news": Terms()},
        grants={Action.READ: ("a*",), Action.PUBLISH: ()},
        claims={"sub": "ann", "deep": {"x": [1, None, "é"]}},
        credential=b"\x00\xffc",
    )
    tickets = Tickets(MemoryBroker().store)
    found = await tickets.redeem(await tickets.issue(identity, APP), APP)
    for name in Identity.__slots__:
        if name not in ("kind", "__weakref__"):
            assert getattr(found, name) == getattr(identity, name), name
    assert found.kind == "ticket"
    assert found.key == identity.key, "what was decided of the credential counts for the ticket"


async def test_a_ticket_is_good_for_one_use() -> None:
    desk = Desk()
    ticket = await desk.tickets.issue(ANN, APP)
    found = await desk.finds(shows(ticket))
    assert isinstance(found, Identity)
    assert found.user == "ann"
    for _ in range(3):
        assert (await refusal(desk, shows(ticket))).code is codes.UNAUTHORIZED


async def test_of_many_who_show_one_ticket_at_once_one_wins(caplog: Any) -> None:
    for hooks in (None, Hooks(authenticate=silent)):
        desk = Desk(hooks=hooks)
        ticket = await desk.tickets.issue(ANN, APP)
        found = await asyncio.gather(*(desk.finds(shows(ticket)) for _ in range(20)))
        assert [answer.user for answer in found if isinstance(answer, Identity)] == ["ann"]
        assert {answer.code for answer in found if isinstance(answer, EverywireError)} == {codes.UNAUTHORIZED}
        # Nor is it remembered that it was good.
        assert (await refusal(desk, shows(ticket))).code is codes.UNAUTHORIZED
    assert "unknown, used or too old" in caplog.text
    assert ticket not in caplog.text


async def silent(request: AuthRequest) -> None:
    await asyncio.sleep(0)


async def test_a_ticket_runs_out() -> None:
    desk = Desk()
    in_time, too_late = [await desk.tickets.issue(ANN, APP) for _ in range(2)]
    desk.clock.passes(29)
    assert isinstance(await desk.finds(shows(in_time)), Identity)
    desk.clock.passes(2)
    assert (await refusal(desk, shows(too_late))).code is codes.UNAUTHORIZED


@pytest.mark.parametrize("origin", ["https://evil.example", "", "null", "http://app.example", f"{APP}:8443"])
async def test_a_ticket_is_good_from_its_own_origin_only(origin: str, caplog: Any) -> None:
    desk = Desk()
    ticket = await desk.tickets.issue(ANN, APP)
    assert (await refusal(desk, shows(ticket, origin))).code is codes.UNAUTHORIZED
    assert "'ann'" in caplog.text
    assert repr(origin) in caplog.text
    assert ticket not in caplog.text
    assert (await refusal(desk, shows(ticket))).code is codes.UNAUTHORIZED, "it has leaked, so it is used up"


async def test_origins_are_compared_as_browsers_write_them() -> None:
    desk = Desk()
    for given, shown in (("HTTPS://App.Example", APP), ("", ""), ("null", "null")):
        assert isinstance(await desk.finds(shows(await desk.tickets.issue(ANN, given), shown)), Identity)


async def test_a_ticket_counts_wherever_a_token_may_stand() -> None:
    desk = Desk()
    for request in (
        lambda text: shows(text),
        lambda text: bearer(text, origin=APP),
        lambda text: bearer(text, origin=APP, is_token_in_query=True),
        lambda text: AuthRequest(headers={"authorization": f"Bearer {text}"}, origin=APP),
    ):
        found = await desk.finds(request(await desk.tickets.issue(ANN, APP)))
        assert isinstance(found, Identity)
        assert found.user == "ann"


async def test_a_session_that_began_with_a_ticket_goes_on_with_a_token() -> None:
    desk = Desk()
    request = shows(await desk.tickets.issue(ANN, APP))
    assert isinstance(await desk.finds(request), Identity)
    refreshed = await desk.finds(replace(request, token=token(sub="ann", jti="new")))
    assert isinstance(refreshed, Identity)
    assert refreshed.token_id == "new"
    # A token that is in the URL as well does not get round the ticket.
    both = replace(request, token=token(sub="ann"), is_token_in_query=True)
    assert (await refusal(desk, both)).code is codes.UNAUTHORIZED


@pytest.mark.parametrize(
    "text", ["", "t.", "t.x", "x", "t." + "a" * 42, "t." + "a" * 43, "t." + "é" * 43, "t\n"]
)
async def test_what_is_no_ticket_is_refused(text: str) -> None:
    assert (await refusal(Desk(), shows(text))).code is codes.UNAUTHORIZED
    # Not even the API key beside it helps: what was shown is what is judged.
    desk = Desk(Rules(api_keys={"k": "sesame"}))
    assert (await refusal(desk, shows(text, headers={"x-api-key": "sesame"}))).code is codes.UNAUTHORIZED


async def test_tickets_cannot_be_guessed_nor_read_from_the_store() -> None:
    broker = MemoryBroker()
    tickets = Tickets(broker.store)
    given = {await tickets.issue(ANN, APP) for _ in range(100)}
    assert len(given) == 100
    for ticket in given:
        assert is_ticket(ticket)
        assert len(ticket) == 2 + 43, "256 random bits"
        assert all(ticket not in key and ticket[2:] not in key for key in broker.store._values)


async def test_nobody_gets_no_ticket_and_a_ticket_buys_none() -> None:
    desk = Desk()
    with pytest.raises(EverywireError) as caught:
        await desk.tickets.issue(NOBODY, APP)
    assert caught.value.code is codes.UNAUTHORIZED
    found = await desk.finds(shows(await desk.tickets.issue(ANN, APP)))
    assert isinstance(found, Identity)
    with pytest.raises(EverywireError) as caught:
        await desk.tickets.issue(found, APP)
    assert caught.value.code is codes.PERMISSION_DENIED, "it would renew itself for ever"


async def test_a_ticket_outlives_neither_the_credential_nor_its_user() -> None:
    desk = Desk()
    ann = desk.knows(bearer(token(sub="ann", jti="t1", exp=desk.clock.unix() + 10)))
    assert isinstance(ann, Identity)
    tickets = [await desk.tickets.issue(ann, APP) for _ in range(4)]
    found = await desk.finds(shows(tickets.pop()))
    assert isinstance(found, Identity)
    assert found.expires_s == ann.expires_s
    await desk.revocations.block_user("ann")
    assert (await refusal(desk, shows(tickets.pop()))).code is codes.PERMISSION_DENIED
    await desk.revocations.unblock_user("ann")
    await desk.revocations.revoke_token("t1")
    assert (await refusal(desk, shows(tickets.pop()))).code is codes.PERMISSION_DENIED
    desk.clock.passes(10)
    ticket = await desk.tickets.issue(Identity(user="bob", kind="token", expires_s=desk.clock.unix()), APP)
    assert (await refusal(desk, shows(ticket))).code is codes.TOKEN_EXPIRED


async def test_a_ticket_that_is_redeemed_while_its_user_is_blocked_is_refused() -> None:
    desk = Desk(is_alone=False)
    ticket = await desk.tickets.issue(ANN, APP)
    said = Said()
    desk.authority.authenticate(shows(ticket), said)
    await desk.revocations.block_user("ann")
    while not said:
        await asyncio.sleep(0)
    assert said.one.code is codes.PERMISSION_DENIED


async def test_a_forgotten_user_does_not_lose_a_ticket_that_is_being_judged() -> None:
    asked = 0

    async def ask(request: AuthRequest) -> None:
        nonlocal asked
        asked += 1
        if asked == 1:
            desk.authority.forget("ann")

    desk = Desk(hooks=Hooks(authenticate=ask))
    found = await desk.finds(shows(await desk.tickets.issue(ANN, APP)))
    assert isinstance(found, Identity)
    assert asked == 2


async def test_a_full_store_is_told_as_such() -> None:
    tickets = Tickets(MemoryBroker(Limits(max_stored_keys=2)).store)
    await tickets.issue(ANN, APP)
    await tickets.issue(ANN, APP)
    with pytest.raises(BrokerBusy):
        await tickets.issue(ANN, APP)


async def test_what_cannot_be_written_is_an_error_and_no_half_ticket(caplog: Any) -> None:
    tickets = Tickets(MemoryBroker().store)
    for identity in (
        Identity(user="ann", kind="hook", claims={"x": object()}),
        Identity(user="ann", kind="hook", info=b"\xff"),
    ):
        with pytest.raises(EverywireError) as caught:
            await tickets.issue(identity, APP)
        assert caught.value.code is codes.INTERNAL
    assert "gets no ticket" in caplog.text


@pytest.mark.parametrize("value", [b"", b"{}", b"[]", b'{"origin":1}', b"\xff", b"[" * 100_000])
async def test_a_damaged_store_lets_nobody_in(value: bytes) -> None:
    desk = Desk()
    ticket = await desk.tickets.issue(ANN, APP)
    ((key, _),) = desk.broker.store._values.items()  # type: ignore[attr-defined]
    await desk.broker.store.put(key, value, 30)
    assert (await refusal(desk, shows(ticket))).code is codes.UNAUTHORIZED
    ticket = await desk.tickets.issue(ANN, APP)
    bad = b'{"origin":"https://app.example","credential":"","user":"ann","grants":{"fly":["*"]}}'
    key = next(key for key in desk.broker.store._values if key != "")  # type: ignore[attr-defined]
    await desk.broker.store.put(key, bad, 30)
    assert (await refusal(desk, shows(ticket))).code is codes.UNAUTHORIZED


async def test_without_tickets_none_is_taken() -> None:
    desk = Desk()
    desk.authority._prover._tickets = None
    assert (await refusal(desk, shows("t." + "a" * 43))).code is codes.UNAUTHORIZED
