"""Reading by each transport, and over the breaks: what is asked, what is yielded, when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import aclosing

import pytest

from everywire.client.errors import ConnectionLost, Refused
from everywire.client.items import Item, Missed, Received
from everywire.client.reader import TRANSPORTS, subscribe
from everywire.codecs.websocket import Role, WebSocketCodec, accept_handshake
from everywire.core.errors import BadChannelName, BadRequest
from everywire.core.position import Place, encode_position
from tests.client.scripted import DEADLINE_S, Asked, Peer, scripted

NDJSON = "application/x-ndjson"
EVENTS = "text/event-stream"


def position(offset: int, channel: str = "a", epoch: str = "e1") -> str:
    return encode_position([(channel, Place(epoch, offset))])


def row(offset: int, **more: object) -> dict[str, object]:
    return {"offset": offset, "data": {"n": offset}, "time": 1_700_000_000_000 + offset, **more}


def line(offset: int, **more: object) -> bytes:
    return json.dumps({**row(offset, **more), "position": position(offset)}).encode() + b"\n"


def event(offset: int) -> bytes:
    return f"id: {position(offset)}\ndata: {json.dumps({'n': offset})}\n\n".encode()


async def take(items, number: int) -> list[Item]:
    """Take so many items, and close the reader."""
    taken: list[Item] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(items):
        async for item in items:
            taken.append(item)
            if len(taken) == number:
                break
    return taken


def offsets(items: Sequence[Item]) -> list[int | None]:
    return [item.offset for item in items if isinstance(item, Received)]


class WebSocketPeer:
    """The server's end of a WebSocket."""

    def __init__(self, peer: Peer, asked: Asked) -> None:
        self.peer = peer
        self.asked = asked
        self.codec = WebSocketCodec(Role.SERVER)

    @classmethod
    async def accept(cls, peer: Peer) -> WebSocketPeer:
        asked = await peer.request()
        headers = {name.encode(): value.encode() for name, value in asked.headers.items()}
        handshake = accept_handshake(b"GET", "1.1", headers, subprotocols=["everywire.json"])
        fields = b"".join(b"%s: %s\r\n" % pair for pair in handshake.headers)
        await peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n")
        return cls(peer, asked)

    async def send(self, *texts: bytes) -> None:
        for text in texts:
            self.codec.send_text(text)
        await self.peer.send(self.codec.data_to_send())

    async def close(self, code: int, reason: str = "") -> None:
        self.codec.send_close(code, reason)
        await self.peer.send(self.codec.data_to_send())
        await self.peer.hang()


# -- each transport: asked as it should be, read as it is meant ----------------------------------


async def test_sse_reads_events_and_gaps_and_resumes_after_a_cut() -> None:
    gap = json.dumps({"from": 2, "to": 4, "reason": "trimmed"})

    async def first(peer: Peer) -> None:
        await peer.request()
        opening = f"retry: 10\n\nid: {position(0)}\n\n".encode()
        await peer.start(
            EVENTS, opening, event(1), f"id: {position(4)}\nevent: gap\ndata: {gap}\n\n".encode()
        )
        await peer.chunk(b": \n\n" + event(5)[:-1])  # torn: not yet an event

    async def second(peer: Peer) -> None:
        await peer.request()
        named = f"id: {position(5)}\nevent: tick\ndata: [1,\ndata: 2]\n\n".encode()
        binary = json.dumps({"offset": 6, "data_base64": "AAE=", "content_type": "image/png"})
        await peer.start(EVENTS, named, f"id: {position(6)}\nevent: binary\ndata: {binary}\n\n".encode())
        await peer.hang()

    async with scripted(first, second) as server:
        items = await take(subscribe(server.url, "a", "sse"), 4)
        assert items == [
            Received("a", 1, {"n": 1}, None, None, None, position(1)),
            Missed("a", 2, 4, "trimmed", position(4)),
            Received("a", 5, [1, 2], "tick", None, None, position(5)),
            Received("a", 6, b"\x00\x01", None, None, None, position(6), "image/png"),
        ]
        assert [asked.headers["accept"] for asked in server.asked] == [EVENTS, EVENTS]
        assert [asked.query for asked in server.asked] == [{}, {"after": position(4)}]
        assert server.asked[0].path == "/channels/a"


async def test_sse_resumes_from_where_reading_began_when_cut_before_the_first_event() -> None:
    async def first(peer: Peer) -> None:
        await peer.request()
        await peer.start(EVENTS, f"retry: 1\n\nid: {position(7)}\n\n".encode())

    async def second(peer: Peer) -> None:
        await peer.request()
        await peer.start(EVENTS, event(8))
        await peer.hang()

    async with scripted(first, second) as server:
        assert offsets(await take(subscribe(server.url, "a", "sse"), 1)) == [8]
        assert server.asked[1].query == {"after": position(7)}


async def test_stream_reads_lines_and_comes_back_when_it_is_told_to() -> None:
    async def first(peer: Peer) -> None:
        await peer.request()
        await peer.start(NDJSON, json.dumps({"position": position(0)}).encode() + b"\n{}\n" + line(1)[:9])
        await peer.chunk(line(1)[9:] + line(2, event="tick", tags={"k": "v"}))
        await peer.chunk(b'{"disconnect":{"code":3001,"reason":"shutdown","retry":20}}\n')
        await peer.send(b"0\r\n\r\n")

    async def second(peer: Peer) -> None:
        await peer.request()
        gap = {"gap": {"from": None, "to": None, "reason": "reset"}, "position": position(9, epoch="e2")}
        await peer.start(NDJSON, json.dumps(gap).encode() + b"\n")
        await peer.hang()

    delays: list[float] = []
    async with scripted(first, second) as server:
        reader = subscribe(
            server.url, "a", "stream", "earliest", lost=lambda _, delay_s: delays.append(delay_s)
        )
        one, two, gap = await take(reader, 3)
        assert one == Received("a", 1, {"n": 1}, None, None, 1_700_000_000_001, position(1))
        assert two == Received("a", 2, {"n": 2}, "tick", {"k": "v"}, 1_700_000_000_002, position(2))
        assert gap == Missed("a", None, None, "reset", position(9, epoch="e2"))
        assert [asked.query for asked in server.asked] == [{"after": "earliest"}, {"after": position(2)}]
        assert server.asked[0].headers["accept"] == NDJSON
        assert len(delays) == 1 and 0.02 <= delays[0] <= 0.025


async def test_poll_asks_from_the_position_after_the_hinted_time() -> None:
    answers = [
        {"publications": [], "position": position(3)},
        {"publications": [row(4), row(5)], "position": position(5)},
        {"publications": [row(8)], "position": position(8), "gap": {"from": 6, "to": 7, "reason": "trimmed"}},
    ]

    async def pages(peer: Peer) -> None:
        for answer in answers:
            await peer.request()
            await peer.answer(json.dumps(answer).encode(), Retry_After="0")
        await peer.hang()

    async with scripted(pages) as server:
        items = await take(subscribe(server.url, "a", "poll"), 4)
        assert offsets(items) == [4, 5, 8]
        assert items[2] == Missed("a", 6, 7, "trimmed", position(7))
        assert [item.position for item in items] == [position(4), position(5), position(7), position(8)]
        assert [asked.query for asked in server.asked] == [
            {"after": "latest"},
            {"after": position(3)},
            {"after": position(5)},
        ]
        assert len(server.connections) == 1


async def test_long_poll_asks_again_at_once_and_stops_in_the_middle_of_a_page() -> None:
    page = {"publications": [row(4), row(5), row(6)], "position": position(6)}

    async def pages(peer: Peer) -> None:
        await peer.request()
        await peer.answer(json.dumps({"publications": [], "position": position(3)}).encode())
        await peer.request()
        await peer.answer(json.dumps(page).encode())
        await peer.hang()

    async with scripted(pages) as server:
        items = await take(subscribe(server.url, "a", "long-poll", position(3)), 2)
        assert [item.position for item in items] == [position(4), position(5)]
        assert [asked.query for asked in server.asked] == [{"after": position(3), "wait": "25"}] * 2


async def test_websocket_reads_envelopes_and_resumes_after_a_close() -> None:
    async def first(peer: Peer) -> None:
        websocket = await WebSocketPeer.accept(peer)
        assert websocket.asked.headers["sec-websocket-protocol"] == "everywire.json"
        await websocket.send(json.dumps({"position": position(0)}).encode(), line(1).strip())
        websocket.codec.send_ping(b"?")
        await websocket.send(b'{"disconnect":{"code":1012,"reason":"shutdown","retry":5}}')
        await websocket.close(1012, "restarting")

    async def second(peer: Peer) -> None:
        websocket = await WebSocketPeer.accept(peer)
        await websocket.send(line(2).strip())
        await peer.hang()

    async with scripted(first, second) as server:
        items = await take(subscribe(server.url.replace("http", "ws"), "a", "websocket"), 2)
        assert offsets(items) == [1, 2]
        assert [asked.query for asked in server.asked] == [{}, {"after": position(1)}]


async def test_several_channels_are_told_apart_on_every_transport() -> None:
    both = encode_position([("a", Place("e1", 1)), ("b", Place("e1", 5))])
    row_b = {**row(5), "channel": "b"}
    gap_a = {"channel": "a", "from": 1, "to": 1, "reason": "trimmed"}

    async def answer(peer: Peer) -> None:
        asked = await peer.request()
        accept = asked.headers["accept"]
        if accept == NDJSON:
            lines = [{"gap": gap_a, "position": both}, {**row_b, "position": both}]
            await peer.start(NDJSON, b"".join(json.dumps(value).encode() + b"\n" for value in lines))
        elif accept == EVENTS:
            gap = f"event: gap\nid: {both}\ndata: {json.dumps(gap_a)}\n\n"
            await peer.start(EVENTS, f"{gap}id: {both}\ndata: {json.dumps(row_b)}\n\n".encode())
        else:
            page = {"publications": [row_b], "position": both, "gap": [gap_a]}
            await peer.answer(json.dumps(page).encode())
        await peer.hang()

    for transport in ("poll", "long-poll", "stream", "sse"):
        async with scripted(answer) as server:
            gap, received = await take(subscribe(server.url, ["a", "b"], transport), 2)
            assert isinstance(gap, Missed) and (gap.channel, gap.first, gap.last) == ("a", 1, 1), transport
            assert isinstance(received, Received), transport
            assert (received.channel, received.offset, received.data) == ("b", 5, {"n": 5}), transport
            assert received.position == both, transport
            assert server.asked[0].path == "/channels/a,b"


# -- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("status", [204, 302, 400, 401, 403, 404, 426])
async def test_a_refusal_ends_it_with_the_servers_words(transport: str, status: int) -> None:
    said = {"error": {"code": 103, "name": "permission_denied", "message": "not for you"}}

    async def refuse(peer: Peer) -> None:
        await peer.request()
        if status == 204:
            await peer.send(b"HTTP/1.1 204 No Content\r\n\r\n")
        else:
            await peer.answer(json.dumps(said).encode(), status)
        await peer.hang()

    async with scripted(refuse) as server:
        with pytest.raises(Refused) as caught:
            await take(subscribe(server.url, "a", transport), 1)
        assert caught.value.number == status
        assert status == 204 or "not for you" in caught.value.sentence
        assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("code", "is_final"),
    [(3500, True), (3999, True), (4500, True), (4999, True), (1000, False), (1012, False),
     (3001, False), (3499, False), (4000, False), (4499, False)],
)  # fmt: skip
async def test_close_codes_say_whether_to_come_back(code: int, is_final: bool) -> None:
    async def close(peer: Peer) -> None:
        await (await WebSocketPeer.accept(peer)).close(code, "because")

    async def again(peer: Peer) -> None:
        await (await WebSocketPeer.accept(peer)).send(line(1).strip())
        await peer.hang()

    async with scripted(close, again) as server:
        reading = take(subscribe(server.url, "a", "websocket"), 1)
        if is_final:
            with pytest.raises(Refused, match="because") as caught:
                await reading
            assert caught.value.number == code
        else:
            assert offsets(await reading) == [1]


async def test_final_words_of_streams_end_it() -> None:
    async def final(peer: Peer) -> None:
        asked = await peer.request()
        if asked.headers["accept"] == EVENTS:
            await peer.start(EVENTS, b'event: error\ndata: {"code":3507,"reason":"no more"}\n\n')
        else:
            await peer.start(NDJSON, b'{"disconnect":{"code":3507,"reason":"no more"}}\n')
        await peer.hang()

    for transport in ("sse", "stream"):
        async with scripted(final) as server:
            with pytest.raises(Refused, match="3507: no more"):
                await take(subscribe(server.url, "a", transport), 1)


async def test_a_busy_server_is_asked_again_after_the_time_it_names() -> None:
    async def busy(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"{}", 503, Retry_After="1")

    async def fine(peer: Peer) -> None:
        await peer.request()
        await peer.start(EVENTS, event(1))
        await peer.hang()

    delays: list[float] = []
    async with scripted(busy, fine) as server:
        reader = subscribe(server.url, "a", "sse", lost=lambda _, delay_s: delays.append(delay_s))
        assert offsets(await take(reader, 1)) == [1]
    assert len(delays) == 1 and 1 <= delays[0] <= 1.25


async def test_failures_in_a_row_are_counted_and_end_it_when_asked_to() -> None:
    async def torn(peer: Peer) -> None:
        await peer.request()

    async with scripted(torn) as server:
        with pytest.raises(ConnectionLost):
            await take(subscribe(server.url, "a", "sse", max_failures=3), 1)
        assert len(server.asked) == 3


async def test_nonsense_from_the_server_is_a_lost_connection_and_not_a_crash() -> None:
    bodies = [
        b"not json\n",
        b"[1]\n",
        b'{"data_base64":"*"}\n',
        b"\xff\xfe\n",
        b'{"gap":[1],"data_base64":3}\n',
    ]
    for body in bodies:
        for content_type, transport, sent in [
            (NDJSON, "stream", body),
            (EVENTS, "sse", b"event: binary\ndata: " + body + b"\n"),
        ]:

            async def nonsense(peer: Peer, content_type: str = content_type, sent: bytes = sent) -> None:
                await peer.request()
                await peer.start(content_type, sent)
                await peer.hang()

            async with scripted(nonsense) as server:
                with pytest.raises(ConnectionLost):
                    await take(subscribe(server.url, "a", transport, max_failures=1), 1)


async def test_what_cannot_be_asked_for_is_refused_before_anything_is_sent() -> None:
    for channels, transport, error in [
        ("a b", "sse", BadChannelName),
        ([], "sse", BadRequest),
        ("a", "pigeon", BadRequest),
    ]:
        with pytest.raises(error):
            await take(subscribe("http://127.0.0.1:1", channels, transport), 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_closing_the_reader_lets_go_of_the_connection(transport: str) -> None:
    gone = asyncio.Event()

    async def watch(peer: Peer) -> None:
        if transport == "websocket":
            await (await WebSocketPeer.accept(peer)).send(line(1).strip())
        else:
            await peer.request()
            if transport in ("poll", "long-poll"):
                await peer.answer(json.dumps({"publications": [row(1)], "position": position(1)}).encode())
            else:
                await peer.start(*((EVENTS, event(1)) if transport == "sse" else (NDJSON, line(1))))
        await peer.hang()
        gone.set()

    async with scripted(watch) as server:
        await take(subscribe(server.url, "a", transport), 1)
        async with asyncio.timeout(DEADLINE_S):
            await gone.wait()
