"""One connection of Engine.IO, with carriers that do what they are told: order, back-pressure, heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.access.identity import AuthRequest
from everywire.access.quotas import FREE
from everywire.codecs.engineio.payload_v4 import decode_payload
from everywire.core.codes import Code
from everywire.core.limits import Limits
from everywire.core.wheel import Wheel
from everywire.sockets.engine import Engine
from everywire.sockets.engine_options import EngineOptions
from everywire.sockets.engine_parts import NOBODY, WebSocketListener
from everywire.sockets.link import PING_TIMEOUT, Packets

OPTIONS = EngineOptions(ping_interval_s=25.0, ping_timeout_s=20.0)
LIMITS = Limits(max_write_bytes=200, max_session_queue_bytes=400)


class Home:
    """The table of connections: a clock by hand, and what it was told."""

    def __init__(self, options: EngineOptions = OPTIONS) -> None:
        self.now_s = 1000.0
        self.wheel = Wheel(0.05, self.now_s)
        hub = SimpleNamespace(deadlines=self.wheel, time=lambda: self.now_s)
        self.shared: Any = SimpleNamespace(hub=hub, limits=LIMITS)
        self.options = options
        self.reasons: list[str] = []
        self.words: list[bytes] = []
        self.upgrades: list[bool] = []

    def forget(self, engine: Engine, reason: str) -> None:
        """Note the end."""
        self.reasons.append(reason)

    def leave_word(self, sid: str, payload: bytes) -> None:
        """Note the last words."""
        self.words.append(payload)

    def note_upgrade(self, is_done: bool) -> None:
        """Note how an upgrade went."""
        self.upgrades.append(is_done)

    def pass_s(self, time_s: float) -> None:
        """Let time pass, in ticks."""
        end_s = self.now_s + time_s
        while self.now_s < end_s - 1e-9:
            self.now_s = min(self.now_s + 0.05, end_s)
            self.wheel.advance(self.now_s)


class Poll:
    """A poll; ``answer`` is what it was answered."""

    is_text = False

    def __init__(self, max_packets: int = 1000) -> None:
        self.max_packets = max_packets
        self.answers: list[bytes] = []
        self.is_refused = False

    def answer(self, payload: bytes, *, binary: bool = False) -> None:
        """Note the answer."""
        assert not self.answers
        self.answers.append(payload)

    def refuse(self) -> None:
        """Note it."""
        self.is_refused = True

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note nothing."""


class Post:
    """A POST; ``answers`` says how it ended."""

    def __init__(self) -> None:
        self.answers: list[str] = []

    def accept(self) -> None:
        """Note it."""
        self.answers.append("ok")

    def refuse(self) -> None:
        """Note it."""
        self.answers.append("refused")


class AsPackets:
    """The framing of the socket below."""

    def frame(self, payload: Packets) -> Packets:
        """Return the packets."""
        return payload


class Socket:
    """A WebSocket that takes so many packets until it is emptied."""

    framing = AsPackets()

    def __init__(self, room: int = 1000) -> None:
        self.listener: WebSocketListener = NOBODY
        self.room = room
        self.taken: list[bytes] = []
        self.is_reading = True
        self.closed: list[int] = []

    @property
    def send(self) -> Callable[[Any], int]:
        """Write, as a reader does that the hub knows not to be stalled."""

        def send(framed: Packets) -> int:
            self.write(framed)
            return len(framed)

        return send

    def write(self, framed: Packets, /) -> None:
        """Take packets."""
        self.taken += [data for _, data in framed]
        if len(self.taken) >= self.room:
            self.listener.socket_stalled()

    def empty(self, room: int) -> None:
        """Take so many more."""
        self.room = len(self.taken) + room
        self.listener.socket_writable()

    def close(self, code: int, reason: str) -> None:
        """Note it."""
        self.closed.append(code)

    def note(self, messages_out: int, code: Code | None) -> None:
        """Note nothing."""

    def pause_reading(self) -> None:
        """Note it."""
        self.is_reading = False

    def resume_reading(self) -> None:
        """Note it."""
        self.is_reading = True


class Noting:
    """An upper that notes what it hears, and checks that it is told each thing once."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.is_stalled = engine.is_stalled
        self.heard: list[bytes] = []
        self.reasons: list[str] = []
        self.moves = 0

    def message(self, data: bytes, binary: bool) -> None:
        """Note a message."""
        assert not self.reasons
        self.heard.append(data)

    def stalled(self) -> None:
        """Hear what was not known."""
        assert not self.is_stalled
        assert self.engine.is_stalled
        self.is_stalled = True

    def writable(self) -> None:
        """Hear what was not known."""
        assert self.is_stalled
        assert not self.engine.is_stalled
        self.is_stalled = False

    def moved(self) -> None:
        """Look at the new carrier."""
        self.moves += 1
        self.is_stalled = self.engine.is_stalled

    def gone(self, reason: str) -> None:
        """Note the end."""
        self.reasons.append(reason)

    def drain(self, retry_ms: int) -> None:
        """Say goodbye."""
        self.engine.post(texts("bye"))


def texts(*words: str) -> Packets:
    """Return messages."""
    return [(False, b"4" + word.encode()) for word in words]


def begun(home: Home, socket: Socket | None = None, *, protocol: int = 4) -> tuple[Engine, Noting]:
    """Return a connection with an upper."""
    engine = Engine(home, "here.sid", AuthRequest(), protocol, FREE, socket)
    upper = Noting(engine)
    engine.begin_with(upper)
    return engine, upper


async def turns() -> None:
    """Let the loop turn."""
    for _ in range(3):
        await asyncio.sleep(0)


# -- order --------------------------------------------------------------------------

ACTIONS = st.lists(
    st.sampled_from(
        ["post", "post two", "write", "poll", "small poll", "turn", "probe", "ready", "full", "empty"]
    ),
    max_size=60,
)


@given(ACTIONS)
def test_whatever_carries_it_nothing_is_lost_doubled_or_out_of_order(actions: Sequence[str]) -> None:
    asyncio.run(_carry(actions))


async def _carry(actions: Sequence[str]) -> None:
    home = Home()
    engine, upper = begun(home)
    polls: list[Poll] = []
    socket = Socket()
    said: list[bytes] = []

    def words(count: int) -> Packets:
        found = texts(*[f"{len(said) + number}" for number in range(count)])
        said.extend(data for _, data in found)
        return found

    def has_poll() -> bool:
        return bool(polls) and not polls[-1].answers

    for action in actions:
        is_up = upper.moves > 0
        if action == "post":
            engine.post(words(1))
        elif action == "post two":
            engine.post(words(2))
        elif action == "write" and not upper.is_stalled:
            engine.send(words(1)) if len(said) % 2 else engine.write(words(1))
        elif action in ("poll", "small poll") and not has_poll() and not is_up:
            polls.append(Poll(1000 if action == "poll" else 2))
            engine.take_poll(polls[-1])
        elif action == "turn":
            await turns()
        elif action == "probe" and socket.listener is NOBODY:
            engine.take_socket(socket)
            socket.listener.socket_message(b"2probe", False)
        elif action == "ready" and socket.taken == [b"3probe"] and not is_up:
            # The client lets its poll be answered before it says that it is ready.
            await turns()
            assert not has_poll()
            socket.listener.socket_message(b"5", False)
            assert upper.moves == 1
        elif action == "full" and is_up:
            socket.room = 0
        elif action == "empty" and is_up:
            socket.empty(3)
        assert not home.reasons
    while engine.queued_bytes:
        if upper.moves:
            socket.empty(1000)
        else:
            if not has_poll():
                polls.append(Poll())
                engine.take_poll(polls[-1])
            await turns()
    await turns()
    by_polls = [packet for poll in polls for answer in poll.answers for packet in answer.split(b"\x1e")]
    assert [packet for packet in by_polls if packet != b"6"] + socket.taken[1:] == said


# -- back-pressure ---------------------------------------------------------------------


async def test_readers_are_stalled_between_polls_and_when_an_answer_is_full() -> None:
    engine, upper = begun(Home())
    assert upper.is_stalled
    poll = Poll()
    engine.take_poll(poll)
    assert not upper.is_stalled
    engine.write(texts("x" * 60))
    assert not upper.is_stalled
    engine.write(texts("y" * 60))
    assert upper.is_stalled
    await turns()
    assert poll.answers == [b"4" + b"x" * 60 + b"\x1e4" + b"y" * 60]
    assert upper.is_stalled
    engine.take_poll(Poll())
    assert not upper.is_stalled


async def test_what_is_posted_while_the_socket_is_full_goes_first() -> None:
    socket = Socket(room=1)
    engine, upper = begun(Home(), socket)
    engine.post(texts("a"))
    assert upper.is_stalled
    engine.post(texts("b"))
    engine.post(texts("c"))
    assert socket.taken == [b"4a"]
    assert engine.queued_bytes > 0
    socket.empty(10)
    assert socket.taken == [b"4a", b"4b", b"4c"]
    assert not upper.is_stalled
    assert engine.queued_bytes == 0


async def test_a_socket_that_is_owed_much_is_heard_no_more() -> None:
    socket = Socket(room=1)
    engine, _ = begun(Home(), socket)
    engine.post(texts("a"))
    while socket.is_reading:
        engine.post(texts("x" * 50))
        assert engine.queued_bytes < 600
    socket.empty(100)
    assert socket.is_reading


async def test_the_upper_can_hold_a_payload() -> None:
    home = Home()
    engine, upper = begun(home)

    class Holding(Noting):
        def message(self, data: bytes, binary: bool) -> None:
            super().message(data, binary)
            self.engine.pause_reading()

    engine.upper = upper = Holding(engine)
    post = Post()
    assert engine.begin_post(post)
    engine.take_post(b"4a\x1e4b\x1e4c", post, binary=False)
    for heard in ([b"a"], [b"a", b"b"], [b"a", b"b", b"c"]):
        await turns()
        assert (upper.heard, post.answers) == (heard, [])
        engine.resume_reading()
    await turns()
    assert post.answers == ["ok"]
    assert engine.begin_post(Post())


async def test_holding_lasts_over_an_upgrade() -> None:
    engine, _ = begun(Home())
    engine.pause_reading()
    socket = Socket()
    engine.take_socket(socket)
    socket.listener.socket_message(b"2probe", False)
    socket.listener.socket_message(b"5", False)
    assert not socket.is_reading
    engine.resume_reading()
    assert socket.is_reading


async def test_a_long_payload_lets_others_have_their_turn() -> None:
    engine, upper = begun(Home())
    post = Post()
    engine.begin_post(post)
    engine.take_post(b"\x1e".join([b"4x"] * 1000), post, binary=False)
    assert 0 < len(upper.heard) < 1000
    assert post.answers == []
    while not post.answers:
        await asyncio.sleep(0)
    assert len(upper.heard) == 1000


@pytest.mark.parametrize(("payload", "answer"), [(b"4a\x1e1\x1e4b", "ok"), (b"4a\x1e0\x1e4b", "refused")])
async def test_an_end_in_the_middle_of_a_payload(payload: bytes, answer: str) -> None:
    engine, upper = begun(Home())
    post = Post()
    engine.begin_post(post)
    engine.take_post(payload, post, binary=False)
    await turns()
    assert upper.heard == [b"a"]
    assert post.answers == [answer]
    assert len(upper.reasons) == 1


async def test_a_slow_client_is_told_nothing_of_what_it_did_not_read() -> None:
    home = Home()
    engine, upper = begun(home)
    while not engine.is_ended:
        engine.post(texts("x" * 50))
    assert upper.reasons == home.reasons == ["slow"]
    assert home.words == [b"1"]


# -- heartbeat ---------------------------------------------------------------------------


def pings_of(socket: Socket) -> int:
    """Return how many pings a socket has taken."""
    return socket.taken.count(b"2")


async def test_a_ping_follows_the_answer_to_the_last_one_by_the_interval() -> None:
    home, socket = Home(), Socket()
    begun(home, socket)
    home.pass_s(19.8)
    assert pings_of(socket) == 0
    home.pass_s(5.3)
    assert pings_of(socket) == 1
    for number in range(2, 5):
        home.pass_s(15.0)
        socket.listener.socket_message(b"3", False)
        home.pass_s(24.8)
        assert pings_of(socket) == number - 1
        home.pass_s(0.3)
        assert pings_of(socket) == number
    assert home.reasons == []


async def test_first_pings_of_a_crowd_are_spread() -> None:
    home = Home()
    sockets = [Socket() for _ in range(50)]
    for socket in sockets:
        begun(home, socket)
    home.pass_s(22.5)
    assert 0 < sum(map(pings_of, sockets)) < 50


async def test_silence_ends_it_after_the_time_out() -> None:
    home, socket = Home(), Socket()
    engine, upper = begun(home, socket)
    while not pings_of(socket):
        home.pass_s(0.05)
    home.pass_s(19.9)
    assert not engine.is_overdue
    home.now_s += 0.11  # the wheel has not turned yet
    assert engine.is_overdue
    home.pass_s(0.2)
    assert upper.reasons == [PING_TIMEOUT]
    assert home.wheel.is_empty


async def test_nobody_is_missed_whose_answer_could_not_be_heard() -> None:
    home, socket = Home(), Socket()
    engine, upper = begun(home, socket)
    engine.pause_reading()
    home.pass_s(100)
    assert pings_of(socket) == 1
    engine.resume_reading()
    socket.listener.socket_message(b"3", False)
    home.pass_s(25.1)
    assert pings_of(socket) == 2
    socket.room = 0
    engine.post(texts("full"))
    home.pass_s(100)
    assert upper.reasons == []
    socket.empty(10)
    home.pass_s(20.2)
    assert upper.reasons == [PING_TIMEOUT]


async def test_a_post_that_takes_long_is_no_silence() -> None:
    home = Home()
    engine, upper = begun(home)
    post = Post()
    assert engine.begin_post(post)
    home.pass_s(60)
    engine.take_post(b"3", post, binary=False)
    assert post.answers == ["ok"]
    assert upper.reasons == []


async def test_a_poll_that_never_comes_is_silence() -> None:
    home = Home()
    _, upper = begun(home)
    home.pass_s(45.2)
    assert upper.reasons == [PING_TIMEOUT]


async def test_an_interval_shorter_than_the_time_out_is_kept() -> None:
    home, socket = Home(EngineOptions(ping_interval_s=0.3, ping_timeout_s=60.0)), Socket()
    begun(home, socket)
    for number in range(1, 20):
        home.pass_s(0.35)
        assert pings_of(socket) == number
        socket.listener.socket_message(b"3", False)


async def test_time_that_was_lost_counts_for_nobody() -> None:
    home, socket = Home(), Socket()
    engine, upper = begun(home, socket)
    while not pings_of(socket):
        home.pass_s(0.05)
    home.now_s += 300.0
    assert not engine.is_overdue  # its answer may be waiting unread
    home.wheel.advance(home.now_s)
    assert upper.reasons == []
    home.pass_s(19.5)
    assert upper.reasons == []
    home.pass_s(1.0)
    assert upper.reasons == [PING_TIMEOUT]


async def test_version_3_is_pinged_by_its_client() -> None:
    home, socket = Home(), Socket()
    _, upper = begun(home, socket, protocol=3)
    for _ in range(5):
        home.pass_s(44.9)
        socket.listener.socket_message(b"2x", False)
    assert socket.taken == [b"3x"] * 5
    home.pass_s(45.2)
    assert upper.reasons == [PING_TIMEOUT]
    assert home.wheel.is_empty


# -- the end --------------------------------------------------------------------------------


async def test_a_drain_says_what_the_upper_says_and_closes() -> None:
    home, socket = Home(), Socket()
    engine, upper = begun(home, socket)
    engine.drain(100)
    assert socket.taken == [b"4bye"]
    assert socket.closed == [1012]
    assert len(upper.reasons) == 1
    polled = Home()
    engine, _ = begun(polled)
    engine.drain(100)
    assert [decode_payload(word, max_packets=9)[0].data for word in polled.words] == [b"bye"]
    assert polled.words[0].endswith(b"\x1e1")


async def test_an_upgrade_that_nobody_finishes_is_given_up() -> None:
    home = Home()
    engine, upper = begun(home)
    socket = Socket()
    engine.take_socket(socket)
    socket.listener.socket_message(b"2probe", False)
    first, second = Poll(), Poll()
    engine.take_poll(first)
    await turns()
    assert first.answers == [b"6"]  # at once
    engine.take_poll(second)
    await turns()
    assert second.answers == []
    home.pass_s(0.2)
    await turns()
    assert second.answers == [b"6"]
    home.pass_s(10.0)
    assert socket.closed == [1000]
    assert home.upgrades == [False]
    third = Poll()
    engine.take_poll(third)
    home.pass_s(0.5)
    await turns()
    assert third.answers == []
    engine.post(texts("on"))
    await turns()
    assert third.answers == [b"4on"]
    assert upper.reasons == []
