"""Sources that `everywire feed` turns into publications: this machine, lines, a recorded file.

Each is an asynchronous generator of `Sample`. Nothing is kept beyond a bounded queue: a source that
is quicker than the server waits for it.
"""

from __future__ import annotations

import asyncio
import binascii
import os
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import msgspec
import psutil

from everywire.codecs.lines import LineSplitter
from everywire.core.errors import BadRequest, EverywireError, TooLarge

__all__ = ["Sample", "lines", "machine", "replay"]

READ_BYTES: Final = 64 * 1024
MAX_LINE_BYTES: Final = 1024 * 1024
MAX_WAITING_LINES: Final = 1_000
TIME_FIELDS: Final = ("time", "timestamp", "ts")
MILLISECONDS_FROM: Final = 1e11
"""A number above this is a time in milliseconds: as seconds it would be in the year 5138."""


class Sample(NamedTuple):
    """What becomes one publication. ``content_type`` is empty for JSON."""

    data: bytes
    content_type: str = ""
    event: str | None = None
    tags: Mapping[str, str] | None = None


# -- this machine -----------------------------------------------------------------


async def machine(interval_s: float = 1.0) -> AsyncGenerator[Sample, None]:
    """Yield this machine's CPU, memory and network figures once a second.

    CPU and network are those of the time since the sample before.
    """
    psutil.cpu_percent()
    network, then_s = _network_bytes(), time.monotonic()
    next_s = then_s + interval_s
    while True:
        await asyncio.sleep(max(0.0, next_s - time.monotonic()))
        now_s = time.monotonic()
        # After a suspended minute we go on from now, and do not make up for it.
        next_s = max(next_s + interval_s, now_s)
        received, sent = _network_bytes()
        elapsed_s = max(now_s - then_s, 0.001)
        memory = psutil.virtual_memory()
        yield Sample(
            msgspec.json.encode(
                {
                    "cpu": psutil.cpu_percent(),
                    "memory": {
                        "used": memory.total - memory.available,
                        "total": memory.total,
                        "percent": memory.percent,
                    },
                    "network": {
                        "rx_bytes_per_s": round(max(0, received - network[0]) / elapsed_s),
                        "tx_bytes_per_s": round(max(0, sent - network[1]) / elapsed_s),
                    },
                    "load": [round(load, 2) for load in psutil.getloadavg()],
                }
            )
        )
        network, then_s = (received, sent), now_s


def _network_bytes() -> tuple[int, int]:
    """Count what came and went by every interface but loopback, which carries our own readers."""
    counters = psutil.net_io_counters(pernic=True)
    others = [count for name, count in counters.items() if name not in ("lo", "lo0")]
    return sum(count.bytes_recv for count in others), sum(count.bytes_sent for count in others)


# -- lines --------------------------------------------------------------------------


async def lines(descriptor: int = 0) -> AsyncGenerator[Sample, None]:
    """Yield the lines of standard input: JSON as it stands, anything else as a JSON string."""
    queue: asyncio.Queue[bytes | EverywireError | None] = asyncio.Queue()
    room = threading.Semaphore(MAX_WAITING_LINES)
    loop = asyncio.get_running_loop()

    def put(line: bytes | EverywireError | None) -> None:
        room.acquire()
        loop.call_soon_threadsafe(queue.put_nowait, line)

    # A thread, because the event loop cannot wait for a regular file; a daemon, because nothing can
    # interrupt its reading when we are to end.
    threading.Thread(target=_read_lines, args=(descriptor, put), daemon=True).start()
    while (line := await queue.get()) is not None:
        room.release()
        if isinstance(line, EverywireError):
            raise line
        yield Sample(_as_json(line))


def _read_lines(descriptor: int, put: Callable[[bytes | EverywireError | None], None]) -> None:
    splitter = LineSplitter(MAX_LINE_BYTES)
    try:
        try:
            while data := os.read(descriptor, READ_BYTES):
                for line in splitter.receive_data(data):
                    put(line)
            if rest := splitter.rest():
                put(rest)
        except (TooLarge, OSError) as error:
            put(error if isinstance(error, TooLarge) else BadRequest(f"standard input: {error.strerror}"))
        put(None)
    except RuntimeError:
        pass  # the event loop is closed: nobody wants the rest


def _as_json(line: bytes) -> bytes:
    try:
        msgspec.json.decode(line)
    except msgspec.DecodeError:
        return msgspec.json.encode(line.decode("utf-8", "replace"))
    return line


# -- a recorded file -----------------------------------------------------------------


async def replay(
    path: str, speed: float = 1.0, time_field: str | None = None
) -> AsyncGenerator[Sample, None]:
    """Yield the objects of an NDJSON file, at the pace of their own timestamps times ``speed``.

    The time of an object is in ``time_field``, or else in ``time``, ``timestamp`` or ``ts``: a number of
    seconds or milliseconds, or ISO 8601 text. An object with ``data`` or ``data_base64``, as
    ``everywire subscribe --json`` prints them, is published as that publication was; any other as it
    stands. Times that go back do not wait.
    """
    try:
        file = await asyncio.to_thread(Path(path).open, "rb")
    except OSError as error:
        raise BadRequest(f"{path}: expected a readable NDJSON file; {error.strerror}") from None
    started_s = time.monotonic()
    first_s: float | None = None
    with file:
        for number, value in _objects(path, file):
            at_s = _time_of(value, time_field)
            if at_s is None:
                wanted = time_field or ", ".join(TIME_FIELDS)
                raise BadRequest(f"{path}:{number}: expected a time in {wanted}")
            if first_s is None:
                first_s = at_s
            due_s = started_s + (at_s - first_s) / speed
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            yield _sample_of(value, f"{path}:{number}")


def _objects(path: str, file: BinaryIO) -> Iterator[tuple[int, dict[str, Any]]]:
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise BadRequest(f"{path}:{number}: expected a line of at most {MAX_LINE_BYTES} bytes")
        if not line.strip():
            continue
        try:
            yield number, msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise BadRequest(f"{path}:{number}: expected a JSON object; {error}") from None


def _time_of(value: Mapping[str, Any], time_field: str | None) -> float | None:
    for name in (time_field,) if time_field else TIME_FIELDS:
        at = value.get(name)
        if isinstance(at, int | float) and not isinstance(at, bool):
            return at / 1000 if at > MILLISECONDS_FROM else float(at)
        if isinstance(at, str):
            try:
                moment = datetime.fromisoformat(at)
            except ValueError:
                continue
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    return None


def _sample_of(value: dict[str, Any], where: str) -> Sample:
    event, tags = value.get("event"), value.get("tags")
    if "data" in value:
        return Sample(msgspec.json.encode(value["data"]), "", event, tags)
    if "data_base64" in value:
        try:
            data = binascii.a2b_base64(value["data_base64"], strict_mode=True)
        except (TypeError, ValueError):
            raise BadRequest(f"{where}: expected base64 in data_base64") from None
        return Sample(data, value.get("content_type") or "application/octet-stream", event, tags)
    return Sample(msgspec.json.encode(value))
