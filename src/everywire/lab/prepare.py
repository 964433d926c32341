"""What is there before a measurement begins: publications, and readers of other channels.

Plain sockets and the least of HTTP/1.1, because thousands of requests want to be pipelined.
"""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from everywire.lab.processes import NotRunning

__all__ = ["longest_turn_s", "publish_to", "watch"]

TIMEOUT_S = 30.0
PIPELINED = 100
CHANNELS_PER_READER = 32
"""As many as one request may name."""

STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
TURN = re.compile(r"^everywire_loop_turn_seconds_max(?:\{[^}]*\})? (\S+)$", re.MULTILINE)


def publish_to(port: int, channels: Sequence[str]) -> None:
    """Publish one small message to each of the channels, in order."""
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        for start in range(0, len(channels), PIPELINED):
            part = channels[start : start + PIPELINED]
            connection.sendall(b"".join(_post(port, channel) for channel in part))
            _expect_created(connection, len(part))


def _post(port: int, channel: str) -> bytes:
    body = b'{"sent":"before","pad":"' + b"x" * 102 + b'"}'
    head = (
        f"POST /channels/{channel} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def _expect_created(connection: socket.socket, count: int) -> None:
    received = b""
    while True:
        statuses: list[bytes] = STATUS.findall(received)
        if any(status != b"201" for status in statuses):
            raise NotRunning(f"refused a publication: {received[-500:].decode('latin-1')}")
        # The last answer must have come whole, or its rest would be taken for the next one's.
        if len(statuses) == count and _is_whole(received[received.rfind(b"HTTP/1.1 ") :]):
            return
        data = connection.recv(256 * 1024)
        if not data:
            raise NotRunning("closed the publisher's connection")
        received += data


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return bool(found) and len(body) >= (int(length[1]) if length else 0)


@contextmanager
def watch(port: int, channels: Sequence[str]) -> Iterator[None]:
    """Keep a reader on each of the channels, many channels to a connection."""
    with ExitStack() as open_connections:
        for start in range(0, len(channels), CHANNELS_PER_READER):
            names = ",".join(channels[start : start + CHANNELS_PER_READER])
            connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            open_connections.enter_context(connection)
            connection.sendall(
                f"GET /channels/{names} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
                f"Accept: text/event-stream\r\n\r\n".encode()
            )
            head = connection.recv(1024)
            if not head.startswith(b"HTTP/1.1 200 "):
                raise NotRunning(f"refused a reader: {head.decode('latin-1')}")
        yield


def longest_turn_s(port: int) -> float | None:
    """Return the longest turn of the server's event loop since this was last asked, if it tells."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        found = TURN.search(answer.read().decode("utf-8", "replace"))
        return float(found[1]) if found and answer.status == 200 else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
