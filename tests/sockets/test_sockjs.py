"""The life of a SockJS session: one receiver at a time, what waits, how it ends, and whose it is."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from everywire.access.identity import NOBODY, AuthRequest, Identity
from everywire.access.quotas import Quotas
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError, LimitExceeded
from everywire.core.limits import Limits
from everywire.core.wheel import Wheel
from everywire.sockets.link import FORCED, TRANSPORT_CLOSE
from everywire.sockets.sockjs import SockJsSession
from everywire.sockets.sockjs_link import ELEMENTS, Opening, SockJsLink, SockJsOptions
from everywire.sockets.sockjs_table import SockJsTable

ANOTHER: Final = b'c[2010,"Another connection still open"]'
INTERRUPTED: Final = b'c[1002,"Connection interrupted"]'


class Clock:
    """The part of a hub that a session needs, turned by hand."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.deadlines = Wheel(0.25, self.now_s)

    def time(self) -> float:
        return self.now_s

    def pass_s(self, seconds: float) -> None:
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s = min(self.now_s + 0.25, end_s)
            self.deadlines.advance(self.now_s)


@dataclass
class Told:
    """What speaks over a link, and what it heard."""

    link: SockJsLink
    heard: list[str] = field(default_factory=list)
    on_message: Callable[[bytes], None] | None = None

    def message(self, data: bytes, binary: bool) -> None:
        assert not binary
        self.heard.append(data.decode())
        if self.on_message is not None:
            self.on_message(data)

    def stalled(self) -> None:
        assert self.link.is_stalled
        self.heard.append("stalled")

    def writable(self) -> None:
        assert not self.link.is_stalled
        self.heard.append("writable")

    def moved(self) -> None:
        raise AssertionError("a SockJS session never moves")

    def gone(self, reason: str) -> None:
        self.heard.append(f"gone: {reason}")

    def drain(self, retry_ms: int) -> None:
        self.heard.append("drain")


class Stream:
    """A receiver that streams, as far as a test lets it."""

    is_poll = False

    def __init__(self) -> None:
        self.session: SockJsSession | None = None
        self.frames: list[bytes] = []
        self.is_stalled = self.is_over = self.is_cut = False
        self.stalls_at: int | None = None

    def tell(self, frame: bytes) -> None:
        assert not self.is_over
        self.frames.append(frame)

    def take(self, elements: bytes) -> None:
        assert not self.is_over and not self.is_stalled
        self.frames.append(b"a[%b]" % elements)
        if self.stalls_at is not None and len(self.frames) >= self.stalls_at:
            self.stall()

    def stall(self) -> None:
        assert self.session is not None
        self.is_stalled = True
        self.session.receiver_stalled(self)

    def drained(self) -> None:
        assert self.session is not None
        self.is_stalled = False
        self.stalls_at = None
        self.session.receiver_writable(self)

    def end(self) -> None:
        """Be full, as a streamed answer is at its limit."""
        assert self.session is not None
        self.is_over = True
        self.session.detached(self)

    def finish(self) -> None:
        self.is_over = True

    def abort(self) -> None:
        self.is_over = self.is_cut = True

    def note(self, messages_out: int, code: Code | None) -> None:
        pass


class Poll(Stream):
    """A receiver that is answered with one frame, when the test says that the turn is over."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[bytes] = []
        self.full = 1_000

    def tell(self, frame: bytes) -> None:
        if not self.elements and not self.is_over:
            self._answer(frame)

    def take(self, elements: bytes) -> None:
        assert not self.is_over and not self.is_stalled
        self.elements.append(elements)
        if sum(map(len, self.elements)) >= self.full:
            self.stall()

    def finish(self) -> None:
        if self.elements:
            self._answer(b"a[%b]" % b",".join(self.elements))

    def _answer(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.elements = []
        self.is_over = True
        if self.session is not None:
            self.session.detached(self)


class Bench:
    """A table with one session in it."""

    def __init__(self, limits: Limits | None = None, options: SockJsOptions | None = None) -> None:
        self.clock = Clock()
        self.limits = limits or Limits()
        hub: Any = self.clock
        quotas = Quotas(self.limits, self.clock.time)
        self.table = SockJsTable(hub, self.limits, quotas, options or SockJsOptions())
        self.uppers: list[Told] = []
        self.on_accept: Callable[[SockJsLink], None] | None = None

    def accept(self, link: SockJsLink) -> Told:
        upper = Told(link)
        self.uppers.append(upper)
        if self.on_accept is not None:
            self.on_accept(link)
        return upper

    @property
    def upper(self) -> Told:
        return self.uppers[-1]

    def open(
        self, session_id: str = "s", owner: str = "", mark: bytes = b"", peer: str = ""
    ) -> SockJsSession:
        opening = Opening(
            session_id=session_id,
            owner=owner,
            mark=mark,
            request=AuthRequest(peer=peer, headers={"authorization": "secret"}),
            identity=NOBODY,
            transport="xhr",
        )
        return self.table.open(opening, self.accept)

    def attach(self, session: SockJsSession, receiver: Stream) -> Any:
        receiver.session = session
        session.attach(receiver)
        return receiver

    def begin(self) -> tuple[SockJsSession, Stream]:
        """Return a session with a stream that was told that it is open."""
        session = self.open()
        stream: Stream = self.attach(session, Stream())
        assert stream.frames == [b"o"]
        stream.frames.clear()
        return session, stream


def post(session: SockJsSession, *texts: str) -> None:
    session.post([(False, text.encode()) for text in texts])


def receive(session: SockJsSession, *texts: str) -> list[bool]:
    """Send messages as a client does; the list has something once it was answered."""
    answered: list[bool] = []
    session.receive([text.encode() for text in texts], lambda: answered.append(True))
    return answered


# -- receivers -----------------------------------------------------------------------------


def test_a_session_opens_with_its_first_receiver() -> None:
    bench = Bench()
    session = bench.open()
    assert not bench.uppers
    stream = bench.attach(session, Stream())
    assert stream.frames == [b"o"]
    assert len(bench.uppers) == 1 and not session.is_stalled
    post(session, "a", "b")
    post(session, "c")
    assert stream.frames == [b"o", b'a["a","b"]', b'a["c"]']


def test_a_poll_is_over_with_the_first_frame_and_the_next_has_what_came_meanwhile() -> None:
    bench = Bench()
    session = bench.open()
    first = bench.attach(session, Poll())
    assert first.frames == [b"o"] and first.is_over and session.is_stalled
    post(session, "a")
    post(session, "b", "c")
    assert session.queued_bytes > 0
    second = bench.attach(session, Poll())
    assert not session.is_stalled and session.queued_bytes == 0
    post(session, "d")
    second.finish()
    assert second.frames == [b'a["a","b","c","d"]']
    assert session.is_stalled
    assert bench.upper.heard == ["writable", "stalled"]


def test_a_second_receiver_is_told_that_there_is_another() -> None:
    bench = Bench()
    session, stream = bench.begin()
    for other in (Stream(), Poll()):
        bench.attach(session, other)
        assert other.frames == [ANOTHER] and other.is_over
    post(session, "still here")
    assert stream.frames == [b'a["still here"]']
    assert not any(heard.startswith("gone") for heard in bench.upper.heard)


def test_a_receiver_that_is_full_is_followed_by_the_next() -> None:
    bench = Bench()
    session, stream = bench.begin()
    stream.end()
    post(session, "a")
    again = bench.attach(session, Stream())
    post(session, "b")
    assert again.frames == [b'a["a"]', b'a["b"]']
    assert bench.upper.heard == ["stalled", "writable"]


def test_a_receiver_that_breaks_off_takes_the_session_with_it() -> None:
    bench = Bench()
    session, stream = bench.begin()
    session.interrupted(stream)
    assert bench.upper.heard == [f"gone: {TRANSPORT_CLOSE}"]
    for _ in range(2):
        late = bench.attach(session, Poll())
        assert late.frames == [INTERRUPTED]
    bench.clock.pass_s(6)
    assert len(bench.table) == 0


def test_what_a_receiver_that_was_replaced_says_is_not_heard() -> None:
    bench = Bench()
    session, stream = bench.begin()
    stream.end()
    bench.attach(session, Stream())
    heard = list(bench.upper.heard)
    session.interrupted(stream)
    session.detached(stream)
    session.receiver_stalled(stream)
    session.receiver_writable(stream)
    assert bench.upper.heard == heard


# -- waiting -------------------------------------------------------------------------------


def test_while_a_receiver_is_stalled_messages_wait_and_readers_are_told() -> None:
    bench = Bench()
    session, stream = bench.begin()
    stream.stall()
    assert session.is_stalled and bench.upper.heard == ["stalled"]
    post(session, "a")
    with pytest.raises(OSError):
        session.send(ELEMENTS.frame([(False, b"of a reader")]))
    assert stream.frames == []
    stream.drained()
    assert stream.frames == [b'a["a"]']
    assert bench.upper.heard == ["stalled", "writable"]
    framed = ELEMENTS.frame([(False, b"x"), (False, b"y")])
    assert session.send(framed) == len(framed)
    assert stream.frames[-1] == b'a["x","y"]'


def test_what_waits_goes_out_in_pieces_and_in_order() -> None:
    bench = Bench(Limits(max_write_bytes=20))
    session, stream = bench.begin()
    stream.end()
    texts = [str(number) for number in range(40)]
    for text in texts:
        post(session, text)
    again = Stream()
    again.stalls_at = 2
    bench.attach(session, again)
    assert len(again.frames) == 2 and session.is_stalled
    again.drained()
    assert not session.is_stalled and session.queued_bytes == 0
    assert all(len(frame) <= 24 for frame in again.frames)
    assert [text for frame in again.frames for text in json.loads(frame[1:])] == texts


def test_a_full_poll_leaves_the_rest_to_the_next() -> None:
    bench = Bench(Limits(max_write_bytes=300))
    session = bench.open()
    bench.attach(session, Poll())
    texts = ["x" * 290, "y" * 290, "z" * 290]
    for text in texts:
        post(session, text)
    got: list[str] = []
    for _ in range(3):
        poll = Poll()
        poll.full = 290
        bench.attach(session, poll)
        poll.finish()
        got += json.loads(poll.frames[0][1:])
    assert got == texts


def test_a_session_whose_client_takes_nothing_ends_when_too_much_waits() -> None:
    bench = Bench(Limits(max_session_queue_bytes=1_000))
    session, stream = bench.begin()
    stream.stall()
    for _ in range(30):
        post(session, "x" * 100)
    assert session.is_closed and session.queued_bytes == 0
    assert bench.upper.heard[-1] == f"gone: {FORCED}"
    late = bench.attach(session, Poll())
    assert late.frames[0].startswith(b"c[3008,")


# -- the clock -----------------------------------------------------------------------------


def test_a_session_waits_some_seconds_for_its_client() -> None:
    bench = Bench()
    session, stream = bench.begin()
    stream.end()
    bench.clock.pass_s(4.5)
    stream = bench.attach(session, Stream())
    stream.end()
    bench.clock.pass_s(4.5)
    assert len(bench.table) == 1 and bench.upper.heard[-1] == "stalled"
    bench.clock.pass_s(1.5)
    assert len(bench.table) == 0 and bench.upper.heard[-1] == f"gone: {TRANSPORT_CLOSE}"
    assert bench.table.find("s", b"") is None


@pytest.mark.parametrize("delay_s", [None, 1.0])
def test_heartbeats_come_every_so_often(delay_s: float | None) -> None:
    bench = Bench(options=SockJsOptions(heartbeat_s=delay_s))
    _, stream = bench.begin()
    bench.clock.pass_s((delay_s or 25.0) * 3 + 2)
    assert stream.frames[:3] == [b"h"] * 3


def test_a_poll_is_answered_with_the_heartbeat() -> None:
    bench = Bench()
    session = bench.open()
    bench.attach(session, Poll())
    poll = bench.attach(session, Poll())
    bench.clock.pass_s(26)
    assert poll.frames == [b"h"] and poll.is_over
    again = bench.attach(session, Poll())
    post(session, "a")
    again.finish()
    assert again.frames == [b'a["a"]']


def test_a_receiver_that_takes_nothing_is_cut_in_the_end() -> None:
    bench = Bench(Limits(stall_timeout_s=60.0))
    _, stream = bench.begin()
    stream.stall()
    bench.clock.pass_s(50)
    assert not stream.is_cut
    bench.clock.pass_s(40)
    assert stream.is_cut and stream.frames == []
    assert bench.upper.heard[-1] == f"gone: {TRANSPORT_CLOSE}"
    bench.clock.pass_s(6)
    assert len(bench.table) == 0


# -- messages of the client ----------------------------------------------------------------


def test_messages_are_handed_over_in_order_and_answered_at_once() -> None:
    bench = Bench()
    session, _ = bench.begin()
    assert receive(session, "a", "b") == [True]
    assert receive(session) == [True]
    assert receive(session, "c") == [True]
    assert bench.upper.heard == ["a", "b", "c"]


async def test_while_reading_is_paused_sending_waits_for_its_answer() -> None:
    bench = Bench()
    session, _ = bench.begin()
    bench.upper.on_message = lambda data: session.pause_reading() if data == b"b" else None
    first = receive(session, "a", "b", "c")
    second = receive(session, "d")
    empty = receive(session)
    assert bench.upper.heard == ["a", "b"] and not first and not second and not empty
    session.resume_reading()
    assert bench.upper.heard == ["a", "b"], "not within the call"
    await asyncio.sleep(0)
    assert bench.upper.heard == ["a", "b", "c", "d"]
    assert first == second == empty == [True]


def test_a_client_that_sends_on_while_reading_is_paused_is_ended() -> None:
    bench = Bench(Limits(max_pending_bytes=1_000))
    session, stream = bench.begin()
    session.pause_reading()
    answers: Sequence[list[bool]] = [receive(session, *["x"] * 10) for _ in range(10)]
    assert session.is_closed and stream.frames[-1].startswith(b"c[3013,")
    assert all(answers), "nobody is left waiting for an answer"
    assert bench.upper.heard == [f"gone: {FORCED}"]


def test_nothing_is_handed_over_after_the_end() -> None:
    bench = Bench()
    session, _ = bench.begin()
    bench.upper.on_message = lambda data: session.close()
    assert receive(session, "a", "b") == [True]
    assert receive(session, "c") == [True]
    assert bench.upper.heard == ["a", f"gone: {FORCED}"]


# -- closing -------------------------------------------------------------------------------


def test_a_closed_session_says_so_to_whoever_asks_for_a_while() -> None:
    bench = Bench()
    session, stream = bench.begin()
    session.close(Code(3000, "closed", 0, "Go away!"))
    session.close(codes.SLOW)
    assert stream.frames == [b'c[3000,"Go away!"]'] and stream.is_over
    assert bench.upper.heard == [f"gone: {FORCED}"]
    for _ in range(3):
        bench.clock.pass_s(1)
        late = bench.attach(session, Poll())
        assert late.frames == [b'c[3000,"Go away!"]'], "not that another connection is still open"
    bench.clock.pass_s(4)
    assert len(bench.table) == 0


@pytest.mark.parametrize("kind", [Stream, Poll])
def test_what_was_posted_before_the_end_is_told_before_it(kind: type[Stream]) -> None:
    bench = Bench()
    session = bench.open()
    bench.attach(session, Poll())
    post(session, "last words")
    session.close(None, "")
    frames: list[bytes] = []
    for _ in range(3):
        receiver = bench.attach(session, kind())
        frames += receiver.frames
        assert receiver.is_over
    assert frames[:2] == [b'a["last words"]', b'c[1000,"Normal closure"]']


def test_a_poll_that_has_messages_leaves_the_end_to_the_next() -> None:
    bench = Bench()
    session = bench.open()
    bench.attach(session, Poll())
    poll = bench.attach(session, Poll())
    post(session, "a")
    session.close(None, "bye")
    assert poll.frames == [b'a["a"]']
    assert bench.attach(session, Poll()).frames == [b'c[1000,"bye"]']


def test_a_stream_that_is_stalled_is_not_told_the_end_before_what_waits() -> None:
    bench = Bench()
    session, stream = bench.begin()
    stream.stall()
    post(session, "a")
    session.close(None, "bye")
    assert stream.frames == [] and stream.is_over
    assert bench.attach(session, Stream()).frames == [b'a["a"]', b'c[1000,"bye"]']


def test_a_session_may_be_refused_while_it_opens() -> None:
    bench = Bench()
    bench.on_accept = lambda link: link.close(codes.INVALID_TOKEN)
    session = bench.open()
    stream = bench.attach(session, Stream())
    assert [frame[:6] for frame in stream.frames] == [b"o", b"c[3500"]
    assert bench.upper.heard == [f"gone: {FORCED}"]


def test_a_server_that_stops_says_when_to_come_back() -> None:
    bench = Bench()
    session, stream = bench.begin()
    session.drain(1_234)
    assert stream.frames[0].startswith(b"c[3001,") and b"1234 ms" in stream.frames[0]
    assert bench.upper.heard == ["drain", f"gone: {FORCED}"]


# -- whose it is ---------------------------------------------------------------------------


def test_two_owners_of_one_id_have_two_sessions() -> None:
    bench = Bench()
    ann, bob = bench.open("s", "user ann", b"1"), bench.open("s", "user bob", b"2")
    assert ann.sid != bob.sid and "s" not in (ann.sid, bob.sid)
    assert bench.table.find("s", b"1") is ann
    assert bench.table.find("s", b"2") is bob
    assert bench.table.find("s", b"") is None
    assert bench.table.find_owned("s", "user ann", b"3") is ann, "with another credential of hers"
    assert bench.table.find("s", b"3") is ann and bench.table.find("s", b"1") is None
    assert bench.table.find_owned("s", "user eve", b"4") is None
    assert bench.table.find_owned("other", "user ann", b"3") is None
    bench.clock.pass_s(1)
    bench.table.forget(ann)
    assert bench.table.find("s", b"3") is None and bench.table.find("s", b"2") is bob


def test_sessions_without_a_connection_count_and_are_bounded() -> None:
    limits = Limits(max_connections_per_address=2, max_sockjs_sessions=3)
    bench = Bench(limits)
    one, two = (bench.open(name, peer="192.0.2.1") for name in "ab")
    with pytest.raises(LimitExceeded):
        bench.open("c", peer="192.0.2.1")
    one.settle()
    bench.open("d", peer="192.0.2.1")
    with pytest.raises(EverywireError) as refused:
        bench.open("e", peer="192.0.2.2")
    assert refused.value.code is codes.BUSY
    bench.attach(two, Poll())
    bench.clock.pass_s(6)
    assert bench.table.find("b", b"") is None
    bench.open("f", peer="192.0.2.2")


def test_what_was_shown_is_not_kept_once_the_client_is_known() -> None:
    bench = Bench()
    session, _ = bench.begin()
    assert session.request.headers
    session.settle()
    assert not session.request.headers


def test_a_table_that_is_closed_ends_all() -> None:
    bench = Bench()
    session, stream = bench.begin()
    bench.table.close()
    assert len(bench.table) == 0 and session.is_closed and stream.is_over
    assert bench.upper.heard == [f"gone: {FORCED}"]


def test_an_identity_is_the_links() -> None:
    bench = Bench()
    ann = Identity(user="ann", kind="token")
    opening = Opening(
        session_id="s", owner="user ann", mark=b"", request=AuthRequest(), identity=ann, transport="jsonp"
    )
    session = bench.table.open(opening, bench.accept)
    assert session.identity is ann and session.transport == "jsonp" and session.protocol == 0


# -- whatever happens ----------------------------------------------------------------------


class Runs(RuleBasedStateMachine):
    """Receivers of any kind come, stall and end in any order: every message comes once, in order, and after
    the end of a session there is nothing but what was posted before it, and why it ended."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(Limits(max_write_bytes=16))
        self.session = self.bench.open()
        self.receivers: list[Stream] = []
        self.posted: list[str] = []
        self.is_closed = False

    @property
    def current(self) -> Stream | None:
        live = [one for one in self.receivers if not one.is_over]
        assert len(live) <= 1
        return live[0] if live else None

    def told(self) -> list[str]:
        frames = [frame for one in self.receivers for frame in one.frames]
        return [text for frame in frames if frame[:1] == b"a" for text in json.loads(frame[1:])]

    @rule(kind=st.sampled_from([Stream, Poll]), stalls_at=st.none() | st.integers(1, 4))
    def come(self, kind: type[Stream], stalls_at: int | None) -> None:
        receiver = kind()
        if kind is Stream:
            receiver.stalls_at = stalls_at
        else:
            receiver.full = 10
        had = self.current
        self.bench.attach(self.session, receiver)
        if had is not None:
            assert receiver.frames == [ANOTHER] and receiver.is_over
        else:
            self.receivers.append(receiver)

    @rule(count=st.integers(1, 6), is_reader=st.booleans())
    def write(self, count: int, is_reader: bool) -> None:
        texts = [str(len(self.posted) + number) for number in range(count)]
        if is_reader and not self.session.is_stalled:
            framed = ELEMENTS.frame([(False, text.encode()) for text in texts])
            assert self.session.send(framed) == len(framed)
        elif self.session._receiver is None and not self.bench.uppers:
            return  # nobody speaks yet
        else:
            post(self.session, *texts)
        if not self.is_closed:
            self.posted += texts

    @rule()
    def turn(self) -> None:
        if isinstance(self.current, Poll):
            self.current.finish()

    @rule()
    def stall(self) -> None:
        current = self.current
        if current is not None and not isinstance(current, Poll) and not current.is_stalled:
            current.stall()

    @rule()
    def drain(self) -> None:
        current = self.current
        if current is not None and not isinstance(current, Poll) and current.is_stalled:
            current.drained()

    @rule()
    def end(self) -> None:
        current = self.current
        if current is not None and not isinstance(current, Poll) and not current.is_stalled:
            current.end()

    @rule()
    def close(self) -> None:
        if self.bench.uppers:
            self.session.close(None, "bye")
            self.is_closed = True

    @rule(seconds=st.sampled_from([0.25, 2.0]))
    def wait(self, seconds: float) -> None:
        if not self.is_closed and self.current is not None:
            self.bench.clock.pass_s(seconds)

    @invariant()
    def in_order_and_once(self) -> None:
        told = self.told()
        assert told == self.posted[: len(told)]
        kinds = [frame[:1] for one in self.receivers for frame in one.frames]
        assert b"a" not in kinds[kinds.index(b"c") :] if b"c" in kinds else True
        heard = list(self.bench.uppers[0].heard) if self.bench.uppers else []
        moods = [one for one in heard if one in ("stalled", "writable")]
        assert all(one != other for one, other in itertools.pairwise(moods)), "told what it knew"
        if self.is_closed:
            assert self.session.is_closed and heard[-1] == f"gone: {FORCED}"

    def teardown(self) -> None:
        for _ in range(400):
            current = self.current
            if isinstance(current, Poll):
                current.finish()
                if not current.is_over:
                    break
            elif current is not None:
                current.drained()
                break
            else:
                receiver = self.bench.attach(self.session, Poll())
                receiver.finish()
                self.receivers.append(receiver)
                if not receiver.is_over or receiver.frames[-1][:1] == b"c":
                    break
        assert self.told() == self.posted
        if self.is_closed:
            assert self.receivers[-1].frames[-1] == b'c[1000,"bye"]'


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=150)
