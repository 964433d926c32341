"""What somebody says who can write to the store, the bus, or a node's socket: anything at all.

No wire may be given what it cannot write, and no task may end over it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sqlite3
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.brokers.canary import Canary
from everywire.brokers.nats.message import Message, State
from everywire.brokers.post import Post
from everywire.brokers.record import pack, unpack
from everywire.brokers.redis.broker import RedisBroker
from everywire.brokers.redis.log import Watch
from everywire.brokers.sqlite.broker import SqliteBroker
from everywire.brokers.sqlite.bus import Bus
from everywire.brokers.sqlite.lane import MAX_DATAGRAM_BYTES
from everywire.core.errors import BrokerError
from everywire.core.position import MAX_OFFSET
from everywire.core.publication import Draft, Publication
from everywire.hub.interfaces import Item
from everywire.sessions.dialects import SSE as SESSION_SSE
from everywire.sessions.dialects import WEBSOCKET_JSON, WEBSOCKET_PROTOBUF
from everywire.sockets.event_encoder import EventEncoder
from everywire.testing.broker_driving import Call, RecordingSink, append, publish, until
from everywire.transports.encoders import ENVELOPE, NDJSON, PAGE, RAW, SSE
from tests.brokers.sqlite_nodes import sqlite_broker

DEEP = b"\x91" * 100_000
"""MessagePack: an array in an array in an array."""

encode = msgspec.msgpack.encode
numbers = st.integers(-(2**63), 2**64 - 1) | st.integers(-3, 3)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["a\nb", "\0", "\r"])
records = st.one_of(
    st.binary(max_size=30),
    st.builds(
        lambda *places: encode(places),
        numbers,
        numbers,
        st.binary(max_size=8) | st.just(b"1"),
        texts,
        st.none() | texts,
        st.none() | st.dictionaries(texts, texts, max_size=2),
        st.none() | st.binary(max_size=8) | st.just(b'{"user":"\xff"}'),
    ),
)
ENCODERS: list[Any] = [
    *SSE, *NDJSON, *ENVELOPE, *RAW, *PAGE, WEBSOCKET_JSON, WEBSOCKET_PROTOBUF, SESSION_SSE,
    EventEncoder("/", ("a",), has_offsets=True),
]  # fmt: skip


def check(publication: Publication) -> None:
    """Every wire can write it."""
    for encoder in ENCODERS:
        encoder.encode([Item("a", publication, "position")], "position")


@given(record=records, offset=numbers)
def test_whatever_is_read_as_a_record_can_be_written_on_every_wire(record: bytes, offset: int) -> None:
    with contextlib.suppress(BrokerError):
        check(unpack(offset, record))


@pytest.mark.parametrize(
    "record",
    [
        b"\x98\x01\x00\xc4\x00\xa0\xc0\xc0\xc0" + DEEP,
        encode([1, 0, b"1", "", "a\ndata: 2"]),
        encode([1, 2**53, b"1"]),
        encode([1, -1, b"1"]),
    ],
    ids=["deep", "two-lines", "late", "early"],
)
def test_what_no_wire_could_write_is_no_record(record: bytes) -> None:
    with pytest.raises(BrokerError, match="offset 7"):
        unpack(7, record)


# -- messages between nodes -----------------------------------------------------------


async def _nowhere(node: str | None, frame: bytes) -> None:
    """Lose a frame."""


@given(frame=st.binary(max_size=40) | st.just(b"\x96\xa1b\xa0\xa0\xc4\x00\xa0" + DEEP))
def test_what_is_no_frame_is_dropped(frame: bytes) -> None:
    post = Post("a", _nowhere)
    post.sink = RecordingSink()
    post.received(frame)


def test_a_message_that_fails_does_not_take_its_link_along(caplog: pytest.LogCaptureFixture) -> None:
    class Sink(RecordingSink):
        def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
            raise ZeroDivisionError

    post = Post("a", _nowhere)
    post.sink = Sink()
    post.received(encode(["b", "other", "topic", b""]))
    assert post.dropped == 1
    assert "topic" in caplog.text


async def test_a_canary_goes_on_whatever_befalls_it() -> None:
    sent = 0

    async def send(token: bytes) -> None:
        nonlocal sent
        sent += 1
        if sent < 3:
            raise UnicodeDecodeError("utf-8", b"\xff", 0, 1, "what the engine said")
        canary.heard(token)

    canary = Canary(send, interval_s=0.001, timeout_s=1.0, missed=lambda reason: None, healed=lambda: None)
    canary.start()
    await until(lambda: canary.health().ready)
    assert canary.lost == 2
    await canary.close()


# -- datagrams --------------------------------------------------------------------------

hints = st.lists(
    st.tuples(
        st.just("a") | texts, texts, numbers, numbers, st.none() | st.lists(records, max_size=3), numbers
    ),
    max_size=3,
).map(encode)


@given(data=st.binary(max_size=40) | hints.map(lambda body: b"h" + body) | st.just(b"h\x91\x97" + DEEP))
def test_what_is_no_datagram_of_ours_is_passed_over(data: bytes) -> None:
    letters: list[bytes] = []
    bus = Bus(
        Path("nowhere"), "n", lambda channel: True, letters.append, lambda id: None, letters.append,
        lambda node: None,
    )  # fmt: skip
    sink = bus.sink = RecordingSink()
    taker = bus._takers.get(data[:1])
    if taker is not None:
        taker(data[1:])
    for hint in sink.hints:
        if hint.publications is not None:
            assert hint.previous in (0, hint.publications[0].offset - 1)
            assert all(0 <= one.offset <= MAX_OFFSET for one in hint.publications)


async def test_a_node_goes_on_after_a_flood_of_anything_at_its_socket(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    sink = RecordingSink()
    async with sqlite_broker(path, sink=sink) as broker:
        broker.log.watch("a")
        first = await publish(broker, "a")
        record = encode([1, 0, b"2"])
        forged = [
            b"", b"x", b"h", b"p", b"m", b"m" + b"\xff" * 8, b"m" + b"\xff" * 40, b"c",
            b"h" + encode([["a", first.epoch, 1, 2**64 - 1, None]]),
            b"h" + encode([["a", first.epoch, 5, 2, [record] * 9]]),
            b"h" + encode([["a", first.epoch, 1, 2, []]]),
            b"h\x91\x97\xa1a\xa0\x00\x00\xc0\x00" + DEEP[: MAX_DATAGRAM_BYTES - 100],
            b"p\x96\xa1b\xa0\xa0\xc4\x00\xa0" + DEEP[: MAX_DATAGRAM_BYTES - 100],
            b"p" + bytes(2 * MAX_DATAGRAM_BYTES + 1),
        ]  # fmt: skip
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as stranger:
            stranger.setblocking(False)
            stranger.connect(str(path.with_name(f"{path.name}-nodes") / f"{broker.node}.socket"))
            for datagram in forged * 20:
                with contextlib.suppress(BlockingIOError):
                    stranger.send(datagram)
                await asyncio.sleep(0)
        assert (await publish(broker, "a")).offset == 2
        await until(lambda: broker.health().ready)


async def ask_heads(broker: SqliteBroker) -> Any:
    call = Call()
    broker.log.heads(("a",), call)
    return await call.result()


async def test_a_store_whose_row_was_damaged_is_an_error_until_it_is_put_right(tmp_path: Path) -> None:
    path = tmp_path / "e.sqlite3"
    async with sqlite_broker(path) as broker:
        first = await publish(broker, "a")
        other = sqlite3.connect(path)
        (row,) = other.execute("select * from meta").fetchall()
        for damage in ("delete from meta", "update meta set serial = x'ff'"):
            other.execute(damage)
            other.commit()
            assert isinstance(await ask_heads(broker), BrokerError)
            other.execute(f"replace into meta values ({','.join('?' * len(row))})", row)
            other.commit()
            async with asyncio.timeout(20):
                while isinstance(found := await ask_heads(broker), BrokerError):
                    await asyncio.sleep(0.05)
            assert found["a"].last == first.offset
        other.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's files")
@pytest.mark.parametrize("is_directory", [False, True])
async def test_what_another_user_puts_in_the_place_of_the_store_is_not_touched(
    tmp_path: Path, is_directory: bool
) -> None:
    directory, other, victim = tmp_path / "state", tmp_path / "other", tmp_path / "victim"
    directory.mkdir()
    other.mkdir()
    victim.write_text("of this user")
    victim.chmod(0o644)
    path = directory / "e.sqlite3"
    async with sqlite_broker(path) as broker:
        first = await publish(broker, "a")
        (other / path.name).symlink_to(victim)
        for made in (other, other / path.name):
            os.chown(made, 12_345, 12_345, follow_symlinks=False)
        mine = tmp_path / "mine"
        if is_directory:
            directory.rename(mine)
            other.rename(directory)
        else:
            path.rename(mine)
            (other / path.name).rename(path)
        with pytest.raises(AssertionError, match="the log store failed"):
            await publish(broker, "a")
        assert victim.read_text() == "of this user" and victim.stat().st_mode & 0o777 == 0o644
        if is_directory:
            directory.rename(other)
            mine.rename(directory)
        else:
            path.unlink()
            mine.rename(path)
        # The file alone has lost its write-ahead log: then its epoch may be another.
        await until(lambda: broker.health().ready)
        async with asyncio.timeout(20):
            while isinstance((await append(broker, Draft("a", b"2")))[0], BrokerError):
                await asyncio.sleep(0.05)
        assert not is_directory or (await publish(broker, "a"))[:2] == (first.epoch, 3)


# -- Redis ------------------------------------------------------------------------------


@given(
    epoch=st.just("1-x") | texts,
    places=st.tuples(numbers, numbers, numbers),
    carried=st.lists(records, max_size=3),
)
def test_a_hint_on_redis_leads_to_nothing_that_cannot_be(
    epoch: str, places: tuple[int, int, int], carried: list[bytes]
) -> None:
    broker = RedisBroker("redis://127.0.0.1:1")
    sink = broker.log.sink = RecordingSink()
    broker._registry._verified = 0
    broker.log.watched["a"] = Watch()
    body = b"".join(struct.pack(">I", len(one)) + one for one in carried)
    line = f"{epoch} {places[0]} {places[1]} {places[2]} n\n".encode()
    broker._heard("everywire:{a}h", line + body)
    for hint in sink.hints:
        assert 0 <= hint.previous < hint.last <= MAX_OFFSET or hint.publications is None
        for publication in hint.publications or ():
            assert hint.previous in (0, hint.publications[0].offset - 1)  # type: ignore[index]
            check(publication)


# -- NATS -------------------------------------------------------------------------------


@given(
    data=st.one_of(
        st.binary(max_size=60),
        st.just(b"\x99\x01\xa0\x01\x00\xc2\x95\xa0\x01\x01\x01\x01\x90\x90" + DEEP),
        st.builds(
            lambda state, kept: encode([1, "w", 1, 0, False, state, kept]),
            st.tuples(texts, numbers, numbers, numbers, numbers),
            st.lists(records, max_size=3),
        ),
    )
)
def test_what_is_read_as_a_message_of_a_channel_has_offsets_that_can_be(data: bytes) -> None:
    with contextlib.suppress(BrokerError):
        message = Message.decode(data)
        assert 0 <= message.before <= message.state.last <= MAX_OFFSET
        for publication in message.publications():
            check(publication)


def test_a_message_with_more_records_than_offsets_is_none() -> None:
    record = pack(Draft("a", b"1"), 0)
    message = Message.make(("w", 1), 0, State("e", 1, 1, 1, 0), (record, record))
    with pytest.raises(BrokerError):
        Message.decode(message.encode())
