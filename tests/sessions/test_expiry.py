"""Credentials that run out or are taken back, and new ones that are brought."""

from __future__ import annotations

import asyncio
from copy import copy
from typing import Any

import pytest

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.core import codes
from everywire.core.errors import BrokerError, EverywireError
from tests.sessions.driving import Client, World


def ends(client: Client) -> int | None:
    return None if client.end is None else client.end[0]


# -- the connection ---------------------------------------------------------------------


async def test_it_is_told_beforehand_and_ends_after_its_grace() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100))
        await world.settle(84)
        assert client.of("refresh") == []
        await world.settle(2)
        [told] = client.of("refresh")
        assert told["expires"] is True and 13 <= told["ttl"] <= 15
        await world.settle(36)
        assert client.end is None
        await world.settle(5)
        assert ends(client) == 3005
        assert len(client.of("refresh")) == 1


async def test_a_new_token_is_taken_without_losing_the_position() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100))
        await client.subscribe("user-x")
        await world.settle(95)
        client.told.clear()
        before = client.session.identity
        reply = await client.ask("refresh", {"token": world.token("ann", 200, info=7)})
        assert reply["refresh"] == {
            "client": client.session.client, "version": "1.2.3", "expires": True, "ttl": 200,
        }  # fmt: skip
        assert client.session.identity is not before and client.session.identity.user == "ann"
        world.publish("user-x", 1)
        await world.settle(100)
        assert client.end is None and client.data("user-x") == [1]
        await world.settle(90)
        assert len(client.of("refresh")) == 2, "the reply, and that it is about to run out again"
        await world.settle(60)
        assert ends(client) == 3005


async def test_a_token_without_an_end_ends_the_worry() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100))
        reply = await client.ask("refresh", {"token": world.token("ann")})
        assert set(reply["refresh"]) == {"client", "version"}
        await world.settle(300)
        assert client.end is None


async def test_an_end_that_is_too_far_for_the_protocol_is_told_as_the_last() -> None:
    """A time in milliseconds, for instance: the Protobuf form has 32 bits for what is left."""
    async with World() as world:
        client = await world.connected(token=world.token("ann", 1.7e12))
        assert client.of("connect")[0]["ttl"] == 2**31 - 1
        await world.settle(300)
        assert client.end is None


async def test_a_refresh_within_the_grace_is_in_time() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 50))
        await world.settle(70)
        assert "refresh" in await client.ask("refresh", {"token": world.token("ann", 100)})
        await world.settle(60)
        assert client.end is None


@pytest.mark.parametrize(
    ("user", "lasts_s", "broken", "code"),
    [("ann", -10, "", 3005), ("eve", 100, "", 3500), ("", 100, "", 3500), ("ann", 100, "x", 3500)],
    ids=["expired", "another user's", "nobody's", "broken"],
)
async def test_a_token_that_will_not_do_ends_it(user: str, lasts_s: float, broken: str, code: int) -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100))
        client.send_commands({"id": 2, "refresh": {"token": world.token(user, lasts_s) + broken}})
        await world.settle()
        assert ends(client) == code


async def test_a_user_that_is_another_now_is_found_so() -> None:
    async def refresh(caller: Caller, token: str) -> Identity | None:
        return Identity(user="ann", token_id=token)

    async with World(hooks=Hooks(refresh=refresh)) as world:
        client = await world.connected(token=world.token("ann", 100))
        reply = await client.ask("refresh", {"token": "whatever"})
        assert set(reply["refresh"]) == {"client", "version"}
        assert client.session.identity.token_id == "whatever"
        assert world.registry.of_user("ann") == (client.session,)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (EverywireError(code=codes.TOKEN_EXPIRED), 3005),
        (EverywireError(code=codes.UNAUTHORIZED), 3500),
        (EverywireError(code=codes.PERMISSION_DENIED), 3507),
        (EverywireError(code=codes.DISCONNECTED), 3503),
        (ValueError(), 100),
        (BrokerError("away"), 124),
    ],
)
async def test_the_application_may_refuse_a_token(error: Exception, code: int) -> None:
    async def refresh(caller: Caller, token: str) -> Identity | None:
        raise copy(error)  # one that is raised keeps all that it passed

    async with World(hooks=Hooks(refresh=refresh)) as world:
        client = await world.connected(token=world.token("ann", 100))
        client.send_commands({"id": 2, "refresh": {"token": "whatever"}})
        await world.settle()
        if code >= 3000:
            assert ends(client) == code
        else:
            assert client.answer(2)["error"]["code"] == code
            assert client.answer(2)["error"]["temporary"] is True
            assert client.end is None


async def test_an_application_may_leave_a_token_to_be_judged() -> None:
    async def refresh(caller: Caller, token: str) -> Identity | None:
        return None

    async with World(hooks=Hooks(refresh=refresh)) as world:
        client = await world.connected(token=world.token("ann", 100))
        assert (await client.ask("refresh", {"token": world.token("ann", 70)}))["refresh"]["ttl"] == 70


def by_cookie(expires_in_s: float) -> tuple[Hooks, dict[str, Any]]:
    """Return hooks that know people by a cookie, and what they told."""
    told: dict[str, Any] = {"refreshed": [], "next": None}

    async def authenticate(request: AuthRequest) -> Identity | None:
        return Identity(user="ann", kind="cookie", expires_s=told["world"].unix_s() + expires_in_s)

    async def refresh(caller: Caller, token: str) -> Identity | None:
        told["refreshed"].append(token)
        found: Identity | None = told["next"]
        return found

    return Hooks(authenticate=authenticate, refresh=refresh), told


async def test_who_has_no_token_is_asked_about_and_ends_in_time() -> None:
    hooks, told = by_cookie(100)
    world = World(hooks=hooks)
    told["world"] = world
    async with world:
        client = await world.connected()
        assert "expires" not in client.of("connect")[0]
        await world.settle(99)
        assert told["refreshed"] == [""] and client.end is None
        await world.settle(2)
        assert ends(client) == 3005


async def test_who_has_no_token_may_be_let_go_on() -> None:
    hooks, told = by_cookie(100)
    world = World(hooks=hooks)
    told["world"] = world
    async with world:
        client = await world.connected()
        told["next"] = Identity(user="ann", kind="cookie", expires_s=world.unix_s() + 300)
        await world.settle(290)
        assert client.end is None and told["refreshed"] == ["", ""]
        assert client.of("refresh"), "it is told until when"
        await world.settle(15)
        assert ends(client) == 3005


async def test_the_server_may_say_until_when() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100))
        await world.registry.refresh("ann", expires_s=world.unix_s() + 1000)
        assert client.of("refresh") == [{"expires": True, "ttl": 1000}]
        await world.settle(900)
        assert client.end is None
        await world.registry.refresh("ann", expires_s=None)
        assert client.of("refresh")[-1] == {}
        await world.settle(500)
        assert client.end is None
        await world.registry.refresh("ann", expires_s=world.unix_s() + 10)
        await world.settle(40)
        assert ends(client) == 3005


async def test_who_brought_a_token_once_may_bring_another() -> None:
    async with World() as world:
        request = AuthRequest(transport="websocket", token=world.token("ann", 50))
        client = await world.connected(request=request)
        await client.ask("refresh", {"token": world.token("ann", 30)})
        await world.settle(40)
        assert client.end is None, "it has its grace"
        await world.settle(20)
        assert ends(client) == 3005


async def test_a_short_token_is_told_only_once() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 10))
        await world.settle(34)
        assert client.end is None and client.of("refresh") == []
        await world.settle(3)
        assert ends(client) == 3005


async def test_a_poll_ends_with_its_credential() -> None:
    async with World() as world:
        client = await world.connected(transport="poll", token=world.token("ann", 20))
        await world.settle(19)
        assert client.end is None and len(client.told) == 1, "nothing to wake it up for"
        await world.settle(2)
        assert ends(client) == 3005


# -- subscriptions -----------------------------------------------------------------------------


async def test_a_subscription_token_runs_out_and_is_renewed() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))

        def token(lasts_s: float, **more: Any) -> str:
            return world.token("ann", lasts_s, channel="closed", **more)

        result = await client.subscribe("closed", token=token(50))
        assert (result["expires"], result["ttl"]) == (True, 50)
        await world.settle(70)
        reply = await client.ask("sub_refresh", {"channel": "closed", "token": token(60, info=5)})
        assert reply["sub_refresh"] == {"expires": True, "ttl": 60}
        world.publish("closed", 1)
        await world.settle(80)
        assert client.data("closed") == [1] and "closed" in client.subscribed
        reply = await client.ask("sub_refresh", {"token": token(60)})
        assert reply["sub_refresh"] == {"expires": True, "ttl": 60}, "the channel is the token's"
        await world.settle(90)
        assert client.of("unsubscribe") == [
            {"code": 2501, "reason": codes.SUBSCRIPTION_EXPIRED.sentence}
        ]
        assert client.end is None


@pytest.mark.parametrize(
    ("user", "claims", "code"),
    [
        ("ann", {"channel": "closed", "exp": 1}, 109),
        ("ann", {}, 103),
        ("ann", {"channel": "never"}, 103),
        ("eve", {"channel": "closed"}, 3500),
    ],
    ids=["expired", "none at all", "not subscribed", "another user's"],
)
async def test_a_subscription_token_that_will_not_do(user: str, claims: Any, code: int) -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann"))
        await client.subscribe("closed", token=world.token("ann", 50, channel="closed"))
        channel = claims.get("channel", "closed")
        client.send_commands(
            {"id": 2, "sub_refresh": {"channel": channel, "token": world.token(user, **claims)}}
        )
        await world.settle()
        if code >= 3000:
            assert ends(client) == code
        else:
            assert client.answer(2)["error"]["code"] == code
            assert "closed" in client.subscribed


async def test_a_permission_of_the_application_runs_out_and_is_asked_for_again() -> None:
    async with World() as world:
        async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision:
            return SubscribeDecision(expires_s=world.unix_s() + 30)

        world.hooks.subscribe = subscribe
        client = await world.connected()
        result = await client.subscribe("open")
        assert "expires" not in result, "the client has nothing to renew it with"
        await world.settle(29)
        assert client.of("unsubscribe") == []
        await world.settle(2)
        assert [one["code"] for one in client.of("unsubscribe")] == [2501]
        position = client.positions["open"]
        world.publish("open", 1)
        await client.subscribe("open", recover=True, epoch=position[0], offset=position[1])
        assert client.data("open") == [1]


async def test_a_permission_that_runs_out_before_it_was_told() -> None:
    gate = asyncio.Event()

    async def snapshot(caller: Caller, channel: str) -> bytes:
        await gate.wait()
        return b"1"

    async with World() as world:
        async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision:
            return SubscribeDecision(expires_s=world.unix_s() + 5, snapshot=snapshot)

        world.hooks.subscribe = subscribe
        client = await world.connected(token=world.token("ann", 20))
        client.send_commands({"id": 2, "subscribe": {"channel": "open"}})
        await world.settle(8)
        assert client.of("unsubscribe") == []
        gate.set()
        await world.settle(1)
        assert [one["code"] for one in client.of("unsubscribe")] == [2501]
        assert client.told.index(client.answer(2)) == 2


async def test_a_server_side_permission_that_runs_out_ends_the_connection() -> None:
    async with World() as world:
        async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision:
            decision = SubscribeDecision(expires_s=world.unix_s() + 30)
            return ConnectDecision(channels={"side": decision})

        world.hooks.connect = connect
        client = await world.connected()
        await world.settle(32)
        assert ends(client) == 3006


# -- what is taken back ------------------------------------------------------------------------------


async def test_who_is_disconnected_is_told_why() -> None:
    async with World() as world:
        clients = [await world.connected(token=world.token("ann")) for _ in range(3)]
        other = await world.connected(token=world.token("bob"))
        await world.registry.disconnect("ann", whitelist=[clients[0].session.client], reason="bye")
        assert [ends(client) for client in (*clients, other)] == [None, 3503, 3503, None]
        assert clients[1].end == (3503, "bye")


async def test_a_new_token_that_allows_less_ends_what_it_does_not_allow() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100, read=["one", "two"]))
        await client.subscribe("one")
        await client.subscribe("two")
        await client.ask("refresh", {"token": world.token("ann", 100, read=["two"])})
        assert client.subscribed == {"two"}
        assert [one["code"] for one in client.of("unsubscribe")] == [2000]
        assert [next(key for key in one if key != "id") for one in client.told[-2:]] == ["refresh", "push"]
        assert client.end is None


async def test_a_revoked_identity_is_sent_to_be_judged_anew() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 1000, jti="j"))
        revoked: list[Identity] = []
        world.authority.is_revoked = lambda identity: identity in revoked  # type: ignore[method-assign]
        revoked.append(client.session.identity)
        await world.settle(100)
        assert ends(client) == 3011


@pytest.mark.parametrize("is_told", [False, True])
async def test_a_wish_that_is_not_permitted_any_more_ends_the_connection(is_told: bool) -> None:
    closed: set[str] = set()

    async def subscribe(caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        return None

    async def authorize(identity: Identity, action: Action, channel: str) -> bool | None:
        return channel not in closed

    hooks = Hooks(authorize=authorize, subscribe=subscribe if is_told else None)
    async with World(hooks=hooks) as world:
        client = await world.connected(connect={"subs": {"a": {}}})
        closed.add("a")
        await world.settle(130)
        assert ends(client) == 3011


async def test_who_was_revoked_while_connecting_does_not_come_in() -> None:
    async with World() as world:
        async def connect(caller: Caller, request: AuthRequest) -> ConnectDecision | None:
            world.authority.is_revoked = lambda identity: True  # type: ignore[method-assign]
            return None

        world.hooks.connect = connect
        client = world.client()
        client.send_commands({"id": 1, "connect": {"token": world.token("ann")}})
        await world.settle()
        assert ends(client) == 3500 and client.told == []
        assert world.quotas.inside == 0


async def test_what_others_see_of_a_client_follows_its_token() -> None:
    async with World() as world:
        client = await world.connected(token=world.token("ann", 100, info={"n": 1}))
        await client.ask("refresh", {"token": world.token("ann", 100, info={"n": 2})})
        await client.subscribe("user-x")
        await client.ask("publish", {"channel": "user-x", "data": 1})
        assert client.pushed("user-x")[0]["pub"]["info"]["conn_info"] == {"n": 2}
