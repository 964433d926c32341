"""Idle readers over TLS, which the load generator in C does not speak.

    python -m everywire.lab.tls_readers --port P --pid PID --ca FILE --wire websocket --readers N --idle-s S

It opens the readers one after another, answers their pings, and prints the same JSON lines as the
load generator for the phases it has: connect and idle. It does not publish.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import ssl
import struct
import sys
import time

from everywire.lab.processes import cpu_s, memory_bytes, raise_file_limit

__all__ = ["main"]

READERS_PER_ADDRESS = 8_000
REST_S = 0.5
TIMEOUT_S = 10.0
SERVE_EVERY = 50
"""While readers are opened, those already open are served after so many."""

REQUEST_FIELDS = {
    "websocket": "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "sse": "Accept: text/event-stream\r\n",
}
PING, CLOSE = 0x89, 0x88


class Readers:
    """All the connections, on one selector."""

    def __init__(self, port: int, wire: str, ca: str) -> None:
        self._port = port
        self._wire = wire
        self._context = ssl.create_default_context(cafile=ca)
        self._selector = selectors.DefaultSelector()
        self._opened = 0
        self.reads = 0
        self.lost = 0

    def open_one(self) -> None:
        """Open a reader, up to the end of the answer's head."""
        raw = socket.socket()
        raw.settimeout(TIMEOUT_S)
        # Ended by RST, so that no port stays in TIME_WAIT; and no address runs out of ports.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.bind((f"127.0.0.{1 + self._opened // READERS_PER_ADDRESS}", 0))
        raw.connect(("127.0.0.1", self._port))
        connection = self._context.wrap_socket(raw, server_hostname="127.0.0.1")
        connection.sendall(
            f"GET /channels/bench HTTP/1.1\r\nHost: 127.0.0.1:{self._port}\r\n"
            f"{REQUEST_FIELDS[self._wire]}\r\n".encode()
        )
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(4096)
            if not data:
                raise ConnectionError("the server closed the connection")
            head += data
        if not head.startswith((b"HTTP/1.1 101 ", b"HTTP/1.1 200 ")):
            raise ConnectionError(f"the server answered {head.splitlines()[0].decode('latin-1')}")
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, connection)
        self._opened += 1

    def open(self, count: int) -> None:
        """Open readers until there are so many."""
        while self._opened < count:
            self.open_one()
            if self._opened % SERVE_EVERY == 0:
                self.serve(0.0)

    def rest(self, seconds: float) -> None:
        """Serve the readers for so long."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.serve(left)

    def serve(self, timeout_s: float) -> None:
        """Read what has come, and answer pings."""
        for key, _ in self._selector.select(timeout_s):
            connection: ssl.SSLSocket = key.data
            try:
                data = connection.recv(16 * 1024)
            except ssl.SSLWantReadError:
                continue  # a part of a record, or a session ticket
            except OSError:
                data = b""
            if not data or (self._wire == "websocket" and data[0] == CLOSE):
                self.lost += 1
                self._selector.unregister(connection)
                connection.close()
                continue
            self.reads += 1
            if self._wire == "websocket" and data[0] == PING:
                payload = data[2 : 2 + data[1]]
                # Masked, as clients must, by zeros.
                connection.sendall(bytes((0x8A, 0x80 | len(payload), 0, 0, 0, 0)) + payload)


def main(arguments: list[str]) -> int:
    """Run the phases and print their lines."""
    parser = argparse.ArgumentParser(prog="tls_readers")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--wire", choices=sorted(REQUEST_FIELDS), default="websocket")
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--idle-s", type=float, default=2.0)
    args = parser.parse_args(arguments)
    raise_file_limit()
    readers = Readers(args.port, args.wire, args.ca)
    unmeasured = args.readers // 10
    measured = args.readers - unmeasured

    readers.open(unmeasured)
    readers.rest(REST_S)
    memory, cpu, began = memory_bytes(args.pid), cpu_s(args.pid), time.monotonic()
    readers.open(args.readers)
    cpu, seconds = cpu_s(args.pid) - cpu, time.monotonic() - began
    _tell("connect", readers=measured, handshakes_per_s=measured / seconds, cpu_us_each=cpu * 1e6 / measured)

    readers.rest(REST_S)
    readers.reads, cpu = 0, cpu_s(args.pid)
    readers.rest(args.idle_s)
    cpu = cpu_s(args.pid) - cpu
    _tell(
        "idle",
        seconds=args.idle_s,
        cpu_percent=cpu * 100 / args.idle_s,
        memory_bytes_each=(memory_bytes(args.pid) - memory) / measured,
        reads_each=readers.reads / args.readers,
    )
    if readers.lost:
        print(f"tls_readers: {readers.lost} readers lost", file=sys.stderr)
    return 1 if readers.lost else 0


def _tell(phase: str, **values: float) -> None:
    print(json.dumps({"phase": phase, **values}), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
