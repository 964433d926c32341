"""SIGTERM with a crowd on each transport: everyone is told in its own words, and the server ends with 0.

The readers are bare sockets that check what they are told to the byte, so that 200 on each of six wires
(and idle keep-alive connections of pollers) cost a second.
"""

from __future__ import annotations

import asyncio
import json
import resource
import signal
import ssl
import struct
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest

from tests.cli.commands import DEADLINE_S, Serving, running, started

CROWD = 200
DRAIN_S = 6.0

SOCKET = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
)
REQUESTS = {
    "poll": ("", ""),
    "long-poll": ("?wait=60", ""),
    "stream": ("", "Accept: application/x-ndjson\r\n"),
    "sse": ("", "Accept: text/event-stream\r\n"),
    "websocket": ("", SOCKET),
    "everywire.json": ("", SOCKET + "Sec-WebSocket-Protocol: everywire.json\r\n"),
}


def close_frame(data: bytes) -> tuple[int, str]:
    """Take the close frame that ends the bytes apart."""
    at = data.rindex(b"\x88")
    assert data[at + 1] == len(data) - at - 2, data
    return struct.unpack(">H", data[at + 2 : at + 4])[0], data[at + 4 :].decode()


def check_poll(said: bytes) -> None:
    # An idle connection is closed without a word: whoever comes back makes another.
    assert said == b""


def check_long_poll(said: bytes) -> None:
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ") and b"retry-after: " in head.lower(), said
    assert b"connection: close" in head.lower()
    answer = json.loads(body)
    assert answer["publications"] == [] and answer["position"]


def check_stream(said: bytes) -> None:
    lines = said.split(b"\r\n")
    assert lines[-3:] == [b"0", b"", b""], said
    (told,) = [json.loads(line)["disconnect"] for line in said.split(b"\n") if b"disconnect" in line]
    assert 3000 <= told["code"] < 3500 and 0 <= told["retry"] <= 5000


def check_sse(said: bytes) -> None:
    assert said.endswith(b"0\r\n\r\n"), said
    assert b"retry: " in said and b"event: " not in said


def check_websocket(said: bytes) -> None:
    code, reason = close_frame(said)
    assert code == 1012 and "ms" in reason


def check_envelope(said: bytes) -> None:
    check_websocket(said)
    assert b'{"disconnect":{' in said


CHECKS: dict[str, Callable[[bytes], None]] = {
    "poll": check_poll,
    "long-poll": check_long_poll,
    "stream": check_stream,
    "sse": check_sse,
    "websocket": check_websocket,
    "everywire.json": check_envelope,
}


class Held:
    """One open reader."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def begin(self, name: str) -> None:
        """Ask, and read what comes at the beginning."""
        query, fields = REQUESTS[name]
        self.writer.write(f"GET /channels/crowd{query} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n".encode())
        if name == "long-poll":
            return
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head[9:12] in (b"200", b"101"), head
        if name == "poll":
            (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")]
            await self.reader.readexactly(int(length.split(b":")[1]))
        elif name in ("stream", "sse"):
            await self.reader.readuntil(b"\n\r\n" if name == "stream" else b"retry: 2000\n\n\r\n")
        elif name == "everywire.json":
            await self.reader.readuntil(b"}")

    async def rest(self, name: str) -> bytes:
        """Read to the end, answering a close frame as a client does."""
        said = b""
        while data := await self.reader.read(65536):
            said += data
            if name in ("websocket", "everywire.json") and b"\x88" in said:
                code = struct.pack(">H", close_frame(said)[0])
                self.writer.write(b"\x88\x82\0\0\0\0" + code)
        self.writer.close()
        return said


@asynccontextmanager
async def crowd(
    url: str, context: ssl.SSLContext | None, number: int
) -> AsyncIterator[list[tuple[str, Held]]]:
    """Open so many readers on each wire."""
    host, port = url.partition("://")[2].split(":")
    held: list[tuple[str, Held]] = []
    try:
        for name in REQUESTS:
            for begin in range(0, number, 50):
                opened = await asyncio.gather(
                    *[
                        asyncio.open_connection(host, int(port), ssl=context)
                        for _ in range(min(50, number - begin))
                    ]
                )
                fresh = [Held(*pair) for pair in opened]
                await asyncio.gather(*[one.begin(name) for one in fresh])
                held += [(name, one) for one in fresh]
        yield held
    finally:
        for _, one in held:
            one.writer.close()


def allow_descriptors(number: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < number:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(number, hard), hard))


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_crowd_on_each_transport_is_told_and_the_server_ends_with_0(
    scheme: str, certificate: tuple[str, str], tmp_path: Path
) -> None:
    allow_descriptors(4 * CROWD * len(REQUESTS))
    tls = ["--tls-cert", certificate[0], "--tls-key", certificate[1]] if scheme == "https" else []
    context = ssl.create_default_context(cafile=certificate[0]) if tls else None
    # Over TLS each handshake costs both sides a millisecond or two.
    number = CROWD if not tls else CROWD // 4
    log = tmp_path / "log"
    async with (
        running(
            "--dev", "--drain", str(DRAIN_S), *tls, deadline_s=3 * DEADLINE_S, EVERYWIRE_LOG__FILE=str(log)
        ) as serving,
        crowd(serving.url, context, number) as held,
    ):
        began_s = time.monotonic()
        serving.process.send_signal(signal.SIGTERM)
        said = await asyncio.gather(*[one.rest(name) for name, one in held])
        assert await serving.process.wait() == 0
        assert time.monotonic() - began_s < DRAIN_S + 5
        for (name, _), words in zip(held, said, strict=True):
            CHECKS[name](words)
        assert serving.process.stderr is not None
        assert await serving.process.stderr.read() == b""
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["level"] for line in lines} == {"info"}
    assert next(line for line in lines if line["event"] == "stop")["cut"] == 0
    closed = [line for line in lines if line["event"] == "close"]
    assert len(closed) >= number * len(REQUESTS)


async def test_readers_that_do_not_go_are_cut_after_the_drain(tmp_path: Path) -> None:
    log = tmp_path / "log"
    async with (
        running("--dev", "--drain", "1", EVERYWIRE_LOG__FILE=str(log)) as serving,
        asyncio.timeout(DEADLINE_S),
        crowd(serving.url, None, 5) as held,
    ):
        serving.process.send_signal(signal.SIGTERM)
        assert await serving.process.wait() == 0  # although nobody here reads or answers
        assert len(held) == 5 * len(REQUESTS)
    assert '"level":"error"' not in log.read_text()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(second: signal.Signals) -> None:
    async with (
        running("--dev", "--drain", "60") as serving,
        asyncio.timeout(DEADLINE_S),
        crowd(serving.url, None, 5),
    ):
        serving.process.send_signal(signal.SIGTERM)
        await _until_refused(serving)
        assert serving.process.returncode is None, "nobody left, and yet it ended"
        serving.process.send_signal(second)
        assert await serving.process.wait() == (130 if second is signal.SIGINT else 143)


async def _until_refused(serving: Serving) -> None:
    """Wait until the server accepts no more connections."""
    host, port = serving.url.partition("://")[2].split(":")
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                _, writer = await asyncio.open_connection(host, int(port))
            except (ConnectionRefusedError, ConnectionResetError):
                return  # reset: it had come into the queue of a listener that closed meanwhile
            writer.close()
            await asyncio.sleep(0.02)


async def test_a_port_that_another_everywire_holds_is_an_error() -> None:
    async with running("--dev") as serving:
        port = serving.url.rsplit(":", 1)[1]
        async with started("serve", "--dev", "--port", port) as second:
            out, err = await second.communicate()
        assert second.returncode in (1, 2)
        assert port in err.decode() and "Traceback" not in err.decode() and not out
        # The first one is not disturbed.
        assert serving.process.returncode is None


async def test_whoever_comes_back_finds_what_was_published_meanwhile(tmp_path: Path) -> None:
    """A restart loses a memory log: the position is of another epoch then, and that is told as a reset."""

    async def ask(url: str, path: str) -> dict[str, object]:
        async with httpx.AsyncClient(base_url=url, trust_env=False, timeout=DEADLINE_S) as client:
            return dict((await client.get(path)).json())

    async with running("--dev") as first:
        async with httpx.AsyncClient(base_url=first.url, trust_env=False) as client:
            position = (await client.post("/channels/a", json=1)).json()["position"]
        waiting = asyncio.ensure_future(ask(first.url, f"/channels/a?after={position}&wait=60"))
        while (await ask(first.url, "/channels/a/presence"))["subscribers"] != 1:
            await asyncio.sleep(0.02)
        first.process.terminate()
        assert (await waiting)["position"] == position
    async with running("--dev") as second:
        answer = await ask(second.url, f"/channels/a?after={position}")
        assert answer["gap"] == {"from": None, "to": None, "reason": "reset"}
