"""Functions for events of Socket.IO, behind real servers, asked by python-socketio's own client."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import msgspec
import pytest
import socketio

import everywire
from everywire import (
    ConnectDecision,
    ConnectionRefused,
    Everywire,
    Identity,
    Refused,
    Session,
    SocketSession,
    SocketSettings,
)
from everywire.core.errors import BadRequest, EverywireError, LimitExceeded, SettingsError
from everywire.core.limits import Limits
from tests.handlers.conftest import Serve
from tests.handlers.socketio_talking import client, refusal
from tests.serving import serving, until

TRANSPORTS = [("websocket",), ("polling",), ("polling", "websocket")]


class Move(msgspec.Struct):
    column: int
    picture: bytes = b""


# -- events and acknowledgements -----------------------------------------------------------------


@pytest.mark.parametrize("transports", TRANSPORTS, ids="+".join)
async def test_events_come_and_are_acknowledged(serve: Serve, transports: tuple[str, ...]) -> None:
    async with serve() as site:
        sio = site.wire.socketio

        @sio.on("nothing")
        async def nothing(session: SocketSession) -> None:
            session.emit("heard")

        @sio.on("one")
        def one(session: SocketSession, value: Any) -> Any:
            return value

        @sio.on("several")
        async def several(session: SocketSession, *values: Any) -> tuple[Any, ...]:
            session.emit("heard", values)
            return values

        @sio.event
        async def named(session: SocketSession, first: Any, second: Any = "default") -> list[Any]:
            return [first, second]

        async with client(site, transports=transports) as ann:
            await ann.emit("nothing")
            await ann.hears("heard")
            assert ann.heard == [("heard",)]
            for value in (7, "text", b"\x00\xff", {"deep": [b"bytes", {"x": None}]}, [1, 2], "x" * 300_000):
                assert await ann.call("one", value) == value
            assert await ann.call("several", (1, b"2", {"three": b"3"})) == (1, b"2", {"three": b"3"})
            assert (await ann.hears("heard", 2))[-1] == (1, b"2", {"three": b"3"})
            assert await ann.call("several") is None
            assert await ann.call("named", "a") == ["a", "default"]
            assert await ann.call("named", ("a", "b", "too much")) == ["a", "b"]


async def test_arguments_are_checked_and_errors_are_acknowledged(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    async with serve() as site:
        sio = site.wire.socketio

        @sio.on("move")
        async def move(session: SocketSession, data: Move, *more: Any) -> Any:
            return {"column": data.column, "picture": data.picture, "more": more}

        @sio.on("refuses")
        async def refuses(session: SocketSession) -> None:
            raise Refused("not today", code=1234)

        @sio.on("fails")
        def fails(session: SocketSession) -> None:
            raise RuntimeError("a secret")

        @sio.on("struct")
        async def struct(session: SocketSession) -> Move:
            return Move(3, b"x")

        @sio.on("unsendable")
        async def unsendable(session: SocketSession) -> Any:
            return object()

        async with client(site) as ann:
            found = await ann.call("move", ({"column": 2, "picture": b"p"}, 3))
            assert found == {"column": 2, "picture": b"p", "more": [3]}
            wrong = await ann.call("move", {"column": "two"})
            assert wrong["error"]["code"] == 107 and "$.column" in wrong["error"]["message"]
            assert (await ann.call("move"))["error"]["code"] == 107
            assert (await ann.call("refuses"))["error"] == {
                "code": 1234, "name": "refused", "message": "not today"
            }  # fmt: skip
            assert await ann.call("struct") == {"column": 3, "picture": b"x"}
            for event in ("fails", "unsendable"):
                error = (await ann.call(event))["error"]
                assert error["code"] == 100 and "secret" not in error["message"]
            assert "a secret" in caplog.text
            caplog.clear()


async def test_events_keep_their_order_unless_told_otherwise(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio
        gate = asyncio.Event()
        order: list[str] = []

        @sio.on("slow")
        async def slow(session: SocketSession) -> None:
            order.append("slow begins")
            await gate.wait()
            order.append("slow ends")

        @sio.on("next")
        def next_one(session: SocketSession) -> None:
            order.append("next")

        @sio.on("aside", concurrency=2)
        async def aside(session: SocketSession) -> None:
            order.append("aside")

        @sio.on("keyed", key=lambda session, document: document)
        async def keyed(session: SocketSession, document: str) -> None:
            order.append(document)
            await gate.wait()

        async with client(site) as ann, client(site) as bob:
            for event, data in (("slow", None), ("next", None), ("keyed", "a"), ("keyed", "b"),
                                ("keyed", "a"), ("aside", None)):  # fmt: skip
                await ann.emit(event, data)
            await until(lambda: "aside" in order)
            assert order == ["slow begins", "a", "b", "aside"]
            await bob.call("next")
            gate.set()
            await until(lambda: order.count("a") == 2 and order.count("next") == 2)
            assert order.index("slow ends") < order.index("next", order.index("next") + 1)


async def test_synchronous_functions_run_in_threads_and_may_do_everything(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio
        threads: set[int] = set()

        @sio.on("work")
        def work(session: SocketSession, text: str) -> dict[str, Any]:
            threads.add(threading.get_ident())
            session.join("room")
            session.emit("mine", text)
            sio.emit("ours", (text, 2), to="room")
            everywire.publish("room", {"published": text})
            found = session.call("question", text, timeout_s=10).result()
            rooms = sio.rooms(session.sid).result()
            session.leave("room")
            return {"answer": found, "rooms": rooms, "left": session.rooms()}

        @sio.on("impatient")
        def impatient(session: SocketSession) -> str:
            with pytest.raises(TimeoutError):
                session.call("unanswered", timeout_s=0.05)
            return "timed out"

        async with client(site) as ann:

            async def question(text: str) -> tuple[str, bytes]:
                return text.upper(), b"!"

            async def unanswered() -> None:
                await asyncio.sleep(1)

            ann.io.on("question", question)
            ann.io.on("unanswered", unanswered)
            found = await ann.call("work", "hey")
            assert found == {"answer": ["HEY", b"!"], "rooms": ["room"], "left": []}
            assert await ann.hears("mine") == ["hey"]
            assert await ann.hears("ours") == [("hey", 2)]
            assert await ann.hears("message") == [{"published": "hey"}]
            assert await ann.call("impatient") == "timed out"
            assert threading.get_ident() not in threads


async def test_a_function_for_every_event_gets_its_name(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio

        @sio.on("known")
        async def known(session: SocketSession) -> str:
            return "known"

        @sio.on("*")
        async def any_event(session: SocketSession, event: str, *args: Any) -> list[Any]:
            return [event, *args]

        async with client(site) as ann:
            assert await ann.call("known") == "known"
            assert await ann.call("unknown", (1, 2)) == ["unknown", 1, 2]
            assert await ann.call("subscribe", "news") == ["subscribe", "news"]


async def test_what_has_no_function_is_a_call(serve: Serve) -> None:
    async with serve() as site:

        @site.wire.rpc("add")
        async def add(session: Session, data: list[int]) -> int:
            assert session.transport == "socketio"
            return sum(data)

        async with client(site) as ann:
            assert await ann.call("add", [1, 2]) == 3
            assert (await ann.call("add", "x"))["error"]["code"] == 107


# -- coming and going -------------------------------------------------------------------------------


async def test_connect_knows_who_comes_and_may_refuse(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio
        gone: list[tuple[str, str, Any]] = []

        @sio.event
        async def connect(session: SocketSession, auth: Any) -> bool | None:
            assert session.request.headers["x-tab"] == "7"
            session.memo["auth"] = auth
            if auth == {"why": True}:
                raise ConnectionRefused("wrong password", {"tries": 2})
            if auth == {"no": True}:
                return False
            session.emit("welcome", session.carrier)
            await session.join("hall")
            return None

        @sio.event
        def disconnect(session: SocketSession, reason: str) -> None:
            gone.append((session.sid, reason, session.memo["auth"]))

        headers = {"X-Tab": "7"}
        told = await refusal(site, auth={"why": True}, headers=headers)
        assert told == {"message": "wrong password", "data": {"tries": 2}}
        told = await refusal(site, auth={"no": True}, headers=headers)
        assert told == {"message": "the application does not let you in"}
        assert not gone
        async with client(site, auth={"name": "ann"}, headers=headers) as ann:
            assert await ann.hears("welcome") == ["websocket"]
            sid = ann.sid
            assert await sio.rooms(sid) == ["hall"]
            session = sio.session(sid)
            assert session is not None and session == sio.session(sid) and not session.is_over
            assert sio.session(sid, namespace="/other") is None
        await until(lambda: gone)
        # This client closes its WebSocket before it has said what it wanted to.
        assert gone == [(sid, "transport close", {"name": "ann"})]
        assert session.is_over and sio.session(sid) is None


async def test_the_server_ends_clients(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio
        reasons: list[str] = []

        @sio.event
        async def disconnect(session: SocketSession, reason: str) -> None:
            reasons.append(reason)

        @sio.on("leave")
        async def leave(session: SocketSession) -> None:
            session.disconnect()

        async with client(site) as ann, client(site) as bob, client(site) as eve:
            await ann.emit("leave")
            await sio.disconnect(bob.sid)
            session = sio.session(eve.sid)
            assert session is not None
            session.disconnect(4500, "out")
            for one in (ann, bob, eve):
                await until(lambda one=one: one.reasons)
            assert eve.told("everywire:ended")[0]["reason"] == "out"
        await until(lambda: len(reasons) == 3)
        assert set(reasons) == {"server disconnect"}


async def test_tokens_and_hooks_are_those_of_every_wire(serve: Serve) -> None:
    async with serve(dev=False) as site:
        sio, wire = site.wire.socketio, site.wire

        @wire.authenticate
        async def authenticate(request: Any) -> Identity | None:
            return Identity(user=request.token, claims={"role": "x"}) if request.token else None

        @wire.authorize
        async def authorize(identity: Identity, action: Any, channel: str) -> bool:
            return channel == f"of:{identity.user}"

        @wire.on_connect
        async def connected(session: Session, data: Any) -> Any:
            if not session.user:
                raise Refused("sign in", code=101)
            return ConnectDecision()

        @sio.on("who")
        async def who(session: SocketSession) -> Any:
            return [session.user, session.claims["role"], session.identity.user]

        told = await refusal(site)
        assert told == {"message": "sign in", "data": {"code": 101, "name": "unauthorized"}}
        async with client(site, auth={"token": "ann"}) as ann:
            assert await ann.call("who") == ["ann", "x", "ann"]
            assert (await ann.call("subscribe", "of:bob"))["error"]["code"] == 103
            joined = await ann.call("subscribe", "of:ann")
            assert joined["channel"] == "of:ann"
            await wire.publish("of:ann", {"n": 1}, event="tick")
            assert await ann.hears("tick") == [{"n": 1}]
            await wire.block("ann")
            await until(lambda: ann.reasons)


# -- rooms ---------------------------------------------------------------------------------------------


async def test_rooms_are_channels(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio

        @sio.on("join")
        async def join(session: SocketSession, room: str) -> list[str]:
            await session.join(room)
            return session.rooms()

        @sio.on("leave")
        async def leave(session: SocketSession, room: str) -> list[str]:
            session.leave(room)
            return session.rooms()

        @sio.on("chat")
        async def chat(session: SocketSession, text: str) -> None:
            await session.to("lobby").emit("said", {"text": text})

        @sio.on("shout")
        async def shout(session: SocketSession, text: str) -> None:
            session.broadcast.emit("shouted", text)

        async with client(site) as ann, client(site) as bob, client(site) as eve:
            for one in (ann, bob):
                assert await one.call("join", "lobby") == ["lobby"]
            await ann.emit("chat", "hello")
            assert await bob.hears("said") == [{"text": "hello"}]
            page = (await site.http.get("/channels/lobby")).json()
            (kept,) = page["publications"]
            assert (kept["event"], kept["data"]) == ("said", {"text": "hello"})
            await site.http.post("/channels/lobby", content=b'{"from": "a wire"}')
            assert await ann.hears("message") == [{"from": "a wire"}]
            await eve.emit("shout", "hey")
            for one in (ann, bob):
                assert await one.hears("shouted") == ["hey"]
            await sio.enter_room(eve.sid, "lobby")
            await sio.emit("several", (1, b"\x01"), to=["lobby", "empty"], skip=ann.sid)
            for one in (bob, eve):
                assert await one.hears("several") == [(1, b"\x01")]
            await sio.emit("direct", 1, to=bob.sid)
            await sio.emit("not to bob", 1, room="lobby", skip=[bob.sid, sio.session(eve.sid)])
            await sio.emit("nobody", to=[])
            await sio.emit("not in the lobby", except_room="lobby")
            assert await bob.call("leave", "lobby") == []
            await sio.close_room("lobby")
            await sio.emit("all")
            for one in (ann, bob, eve):
                await one.hears("all")
            assert [one for one in bob.heard if one[0] in ("direct", "not to bob")] == [("direct", 1)]
            for one, missed in ((ann, "said"), (ann, "several"), (eve, "shouted"), (eve, "not to bob")):
                assert not one.told(missed), (one.heard, missed)
            assert ann.told("not to bob") and not ann.told("direct")
            assert not any(one.told("nobody") or one.told("not in the lobby") for one in (ann, bob, eve))
            assert await sio.rooms(ann.sid) == []
            await sio.leave_room(ann.sid, "never was there")


async def test_volatile_events_are_in_no_log(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio
        async with client(site) as ann:
            await sio.enter_room(ann.sid, "room")
            await sio.emit("soft", 1, volatile=True)
            await sio.to("room").emit("soft", 2, volatile=True)
            session = sio.session(ann.sid)
            assert session is not None
            assert await session.emit("soft", 3, volatile=True) is True
            assert await ann.hears("soft", 3) == [1, 2, 3]
            assert (await site.http.get("/channels/room")).json()["publications"] == []


async def test_namespaces_are_worlds_of_their_own(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio
        admin = sio.namespace("/admin")

        @admin.event
        async def connect(session: SocketSession, auth: Any) -> None:
            await session.join("room")
            session.emit("hello", session.namespace)

        @sio.on("who", namespace="/admin")
        async def who(session: SocketSession) -> str:
            return session.namespace

        async with client(site, namespaces=("/", "/admin")) as ann:
            assert await ann.hears("hello") == ["/admin"]
            assert await ann.call("who", namespace="/admin") == "/admin"
            await sio.enter_room(ann.sid, "room")
            await admin.emit("inside", 1, to="room")
            assert await ann.hears("inside") == [1]
            sid = ann.io.get_sid("/admin")
            assert sid != ann.sid
            assert await admin.rooms(sid) == ["room"] == await sio.rooms(sid, namespace="/admin")
            await admin.disconnect(sid)
            await until(lambda: ann.reasons)
            await sio.emit("outside", 2, to="room")
            await ann.hears("outside")
        assert await refusal(site, namespaces=("/unknown",)) == {"message": "Invalid namespace"}


# -- asking clients ----------------------------------------------------------------------------------------


async def test_clients_are_asked_and_answer(serve: Serve) -> None:
    async with serve() as site:
        sio = site.wire.socketio

        @sio.on("ask me")
        async def ask(session: SocketSession) -> Any:
            return await session.call("question", (1, b"2"))

        async with client(site) as ann:

            async def question(*values: Any) -> Any:
                return {"got": list(values)}

            ann.io.on("question", question)
            assert await ann.call("ask me") == {"got": [1, b"2"]}
            assert await sio.call("question", "x", to=ann.sid) == {"got": ["x"]}

            async def never() -> None:
                await asyncio.sleep(60)

            ann.io.on("silence", never)
            with pytest.raises(TimeoutError):
                await sio.call("silence", to=ann.sid, timeout_s=0.05)
            waiting = asyncio.ensure_future(sio.call("silence", to=ann.sid))
            await asyncio.sleep(0.05)
            await sio.disconnect(ann.sid)
            with pytest.raises(EverywireError):
                await waiting
            with pytest.raises(EverywireError):
                await sio.call("question", to=ann.sid)


# -- what cannot be -----------------------------------------------------------------------------------------


async def test_what_cannot_be_sent_is_said_at_once(serve: Serve) -> None:
    async with serve(limits=Limits(max_socket_rooms=1)) as site:
        sio = site.wire.socketio
        async with client(site) as ann:
            session = sio.session(ann.sid)
            assert session is not None
            for event, data in (("connect", 1), ("x", object())):
                with pytest.raises(BadRequest):
                    await sio.emit(event, data)
                with pytest.raises(BadRequest):
                    session.emit(event, data)
            with pytest.raises(BadRequest):
                session.join("x" * 300)
            await session.join("one")
            with pytest.raises(LimitExceeded):
                await session.join("two")
            with pytest.raises(ValueError, match="no code"):
                session.disconnect(2)
            assert await ann.call("subscribe", "two") == {
                "error": {"code": 106, "name": "limit_exceeded", "message": "a socket is in at most 1 rooms"}
            }
        assert await session.emit("late") is False
        with pytest.raises(EverywireError):
            await session.join("late")


def test_functions_that_cannot_be_are_refused_where_they_are_written() -> None:
    sio = Everywire().socketio

    @sio.event
    async def connect(session: SocketSession) -> None: ...

    for event, function in (
        ("connect", lambda session: None),  # a second one
        ("disconnect", lambda session, reason, more: None),
        ("connect_error", lambda session: None),
        ("typed", eval("lambda session, *, wanted: None")),
    ):
        with pytest.raises(SettingsError):
            sio.on(event, function)

    async def unknown(session: SocketSession, data: socketio.AsyncClient) -> None: ...

    with pytest.raises(SettingsError, match="AsyncClient"):
        sio.on("unknown", unknown)
    for name in ("admin", "/a,b", "/a?b", "/" + "x" * 300, ""):
        with pytest.raises(SettingsError):
            sio.namespace(name)
    with pytest.raises(SettingsError):
        sio.on("x", concurrency=0)
    with pytest.raises(EverywireError, match="not served"):
        sio.emit("x")


async def test_it_can_be_switched_off_and_set(certificate: tuple[str, str]) -> None:
    async with serving("own", certificate, socketio=None) as site:
        assert (await site.http.get("/socket.io/?EIO=4&transport=polling")).status_code == 404
        with pytest.raises(EverywireError, match="not served"):
            site.wire.socketio.emit("x")
    wanted = {"max_payload": 100, "ping_interval_s": 7}
    for given in (SocketSettings(**wanted), wanted):
        async with serving("own", certificate, socketio=given) as site:
            for path in ("/socket.io/", "/socket.io"):
                opened = (await site.http.get(f"{path}?EIO=4&transport=polling")).text
                assert '"maxPayload":100' in opened and '"pingInterval":7000' in opened
    for wrong in ({"parser": "xml"}, {"ping_interval_s": 0}, {"recovery_window_s": -1}, {"unknown": 1}):
        with pytest.raises(SettingsError):
            Everywire(socketio=wrong)
