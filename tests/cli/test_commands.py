"""publish, subscribe and feed as processes: output, exit codes, and what they ask of a server."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import struct
import sys
import termios
from contextlib import asynccontextmanager

import pytest

from everywire.core.position import Place, encode_position
from tests.cli.commands import DEADLINE_S, Done, environment, everywire, running, started
from tests.client.scripted import Peer, scripted

ANSWER = {"offset": 7, "epoch": "e1", "position": "p7", "subscribers": 2}


async def accept(peer: Peer) -> None:
    while True:
        await peer.request()
        await peer.answer(json.dumps(ANSWER).encode(), 201)


def event(offset: int, data: str) -> bytes:
    position = encode_position([("a", Place("e1", offset))])
    return f"id: {position}\ndata: {data}\n\n".encode()


def sse(*events: bytes):
    async def serve(peer: Peer) -> None:
        await peer.request()
        await peer.start("text/event-stream", *events)
        await peer.hang()

    return serve


def is_clean(done: Done, code: int) -> bool:
    return done.code == code and "Traceback" not in done.err and "Warning" not in done.err


# -- the line itself ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "required: COMMAND"),
        (["fly"], "invalid choice: 'fly'"),
        (["publish"], "expected [URL] CHANNEL [DATA|-]"),
        (["publish", "a", "1", "2"], "expected [URL] CHANNEL [DATA|-]"),
        (["publish", "a", "hello"], "DATA is not JSON"),
        (["publish", "a b", "1"], "a channel name is"),
        (["publish", "ftp://example.com", "a", "1"], "is no URL of a server"),
        (["publish", "a", "1", "--tag", "nocolon"], "--tag: expected KEY:VALUE"),
        (["publish", "a", "1", "--content-type", "image/png"], "--content-type: expected --binary"),
        (["publish", "a", "1", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["publish", "a", "1", "-H", "nocolon"], "--header: expected 'NAME: VALUE'"),
        (["publish", "a", "1", "-H", "a b: c"], "cannot stand in a request's head"),
        (["publish", "a", "1", "--ca", "/no/such.pem"], "--ca: expected a PEM file"),
        (["subscribe"], "expected [URL] CHANNEL"),
        (["subscribe", "a", "b"], "expected [URL] CHANNEL"),
        (["subscribe", "a", "--transport", "pigeon"], "invalid choice: 'pigeon'"),
        (["subscribe", "a", "--count", "0"], "expected a number above 0"),
        (["feed"], "required: SOURCE"),
        (["feed", "lines"], "expected [URL] CHANNEL"),
        (["feed", "replay", "file"], "expected FILE [URL] CHANNEL"),
        (["feed", "replay", "/no/such.ndjson", "a"], "expected a readable NDJSON file"),
        (["feed", "machine", "a", "--interval", "-1"], "expected a number above 0"),
        (["serve", "--port", "many"], "invalid int value"),
        (["serve", "--port", "70000"], "--port: expected an integer <= 65535"),
        (["serve", "--dev", "--host", "0.0.0.0"], "--host: expected a loopback address"),
        (["serve", "--config", "/no/such.toml"], "/no/such.toml: expected a readable TOML file"),
        (["serve", "--tls-key", "/no/such.pem"], "--tls-key: expected tls_cert"),
        (["serve", "--feed", "a/b"], "--feed: expected a channel name"),
    ],
)
async def test_a_wrong_line_is_told_and_exits_2(arguments: list[str], said: str) -> None:
    done = await everywire(*arguments)
    assert is_clean(done, 2), done
    assert said in done.err
    assert done.out == ""


async def test_a_wrong_variable_is_told_and_exits_2() -> None:
    done = await everywire("serve", EVERYWIRE_LIMITS__MAX_HEADERS="lots")
    assert is_clean(done, 2)
    assert done.err == "everywire: EVERYWIRE_LIMITS__MAX_HEADERS: expected an integer, got text\n"


async def test_version_and_help_are_there() -> None:
    assert (await everywire("--version")).out.startswith("everywire 0.")
    for command in ("serve", "publish", "subscribe", "feed"):
        done = await everywire(command, "--help")
        assert done.code == 0 and f"everywire {command}" in done.out


# -- publish -----------------------------------------------------------------------------------


async def test_publish_sends_data_as_it_stands_and_prints_the_answer() -> None:
    async with scripted(accept) as server:
        line = ["publish", server.url, "a", "--event", "tick", '{"x":  1}', "--tag", "k:v", "--key", "sesame"]
        done = await everywire(*line)
        assert is_clean(done, 0), done
        assert json.loads(done.out) == ANSWER
        (asked,) = server.asked
        assert asked.body == b'{"x":  1}'
        assert asked.query == {"event": "tick", "tag": "k:v"}
        assert asked.headers["authorization"] == "Bearer sesame"
        assert len(asked.headers["idempotency-key"]) >= 16


async def test_publish_takes_text_bytes_and_standard_input() -> None:
    async with scripted(accept) as server:
        publish = ["publish", server.url, "a"]
        assert (await everywire(*publish, "--text", 'say "hi"')).code == 0
        assert (await everywire(*publish, "-", "--text", stdin="späť\n".encode())).code == 0
        assert (await everywire(*publish, stdin=b" [1,\n2] ")).code == 0
        assert (
            await everywire(*publish, "--binary", "--content-type", "image/png", stdin=b"\0\xff")
        ).code == 0
        assert (await everywire(*publish, "-5", EVERYWIRE_API_KEY="hush")).code == 0
        assert [asked.body for asked in server.asked] == [
            b'"say \\"hi\\""',
            '"späť\\n"'.encode(),
            b" [1,\n2] ",
            b"\0\xff",
            b"-5",
        ]
        types = [asked.headers["content-type"] for asked in server.asked]
        assert types == ["application/json"] * 3 + ["image/png", "application/json"]
        assert server.asked[-1].headers["authorization"] == "Bearer hush"


async def test_publish_tells_a_refusal_and_exits_1() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b'{"error":{"code":103,"message":"this is not allowed"}}', 403)
        await peer.hang()

    async with scripted(refuse) as server:
        done = await everywire("publish", server.url, "a", "1")
        assert is_clean(done, 1)
        assert done.err == f"everywire: {server.url}: the server answered 403: this is not allowed\n"
        assert done.out == ""


# -- subscribe ---------------------------------------------------------------------------------


async def test_subscribe_json_prints_one_object_a_publication_and_nothing_else() -> None:
    gap = b'event: gap\ndata: {"from":3,"to":5,"reason":"trimmed"}\n\n'
    async with scripted(sse(event(1, '{"x": 1}'), event(2, '"\\u001b[2J"'), gap, event(6, "null"))) as server:
        done = await everywire(
            "subscribe",
            "--transport",
            "sse",
            "--json",
            server.url,
            "a",
            "--count",
            "3",
            "--after",
            "earliest",
        )
        assert is_clean(done, 0), done
        rows = [json.loads(line) for line in done.out.splitlines()]
        assert [(row["channel"], row["offset"], row["data"]) for row in rows] == [
            ("a", 1, {"x": 1}),
            ("a", 2, "\x1b[2J"),
            ("a", 6, None),
        ]
        assert all(row["position"] for row in rows)
        assert done.err == "everywire: gap in a: 3 missed, offsets 3 to 5 (trimmed)\n"
        assert server.asked[0].query == {"after": "earliest"}


async def test_subscribe_to_a_pipe_prints_plain_lines_safe_for_terminals() -> None:
    async with scripted(sse(event(1, '"\u009b2J\\u0007"'), event(2, json.dumps("x" * 1000)))) as server:
        done = await everywire("subscribe", "--transport", "sse", server.url, "a", "--count", "2")
        assert is_clean(done, 0), done
        first, second = done.out.splitlines()
        assert first == 'a 1: "\\x9b2J\\u0007"'
        assert second.startswith('a 2: "xxx') and len(second) == 160


async def test_subscribe_on_a_terminal_shows_publications_and_a_live_count() -> None:
    async with scripted(sse(event(1, '"one"'), event(2, '"two"'))) as server:
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        async with started_on(
            theirs, "subscribe", "--transport", "sse", server.url, "a", "--count", "2"
        ) as process:
            os.close(theirs)
            shown = await asyncio.to_thread(read_terminal, ours)
            assert await process.wait() == 0
        assert 'a 1: "one"\r\n1 publications' in shown
        assert '\r\x1b[Ka 2: "two"\r\n2 publications' in shown
        assert shown.rstrip().endswith("by sse")


def started_on(terminal: int, *arguments: str):
    @asynccontextmanager
    async def run():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "everywire", *arguments, stdin=terminal, stdout=terminal, stderr=terminal,
            env=environment(),
        )  # fmt: skip
        try:
            async with asyncio.timeout(DEADLINE_S):
                yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    return run()


def read_terminal(descriptor: int) -> str:
    pieces = []
    try:
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
    except OSError:
        pass  # EIO: the other end was closed
    os.close(descriptor)
    return b"".join(pieces).decode()


async def test_subscribe_tells_a_lost_connection_and_comes_back() -> None:
    async def torn(peer: Peer) -> None:
        await peer.request()
        await peer.start("text/event-stream", b"retry: 10\n\n")

    async with scripted(torn, sse(event(1, "1"))) as server:
        done = await everywire("subscribe", "--transport", "sse", "--json", server.url, "a", "--count", "1")
        assert is_clean(done, 0), done
        assert "closed in the middle of an answer; again in 0.0 s" in done.err


async def test_subscribe_tells_a_refusal_and_exits_1() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b'{"error":{"message":"a valid credential is needed"}}', 401)
        await peer.hang()

    async with scripted(refuse) as server:
        done = await everywire("subscribe", "--transport", "sse", server.url, "a")
        assert is_clean(done, 1)
        assert "answered 401: a valid credential is needed" in done.err


async def test_ctrl_c_ends_with_130_and_no_traceback() -> None:
    async with (
        scripted(sse(event(1, "1"))) as server,
        started("subscribe", "--transport", "sse", "--json", server.url, "a") as process,
    ):
        assert await process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = await process.communicate()
        assert (process.returncode, out, err) == (130, b"", b"")


async def test_a_reader_of_our_output_may_go_away() -> None:
    events = [event(number, "1") for number in range(1, 2000)]
    async with scripted(sse(b"".join(events[:1]), b"".join(events[1:]))) as server:
        reading, writing = os.pipe()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "everywire", "subscribe", "--transport", "sse", "--json", server.url, "a",
            stdout=writing, stderr=asyncio.subprocess.PIPE, env=environment(),
        )  # fmt: skip
        os.close(writing)
        os.close(reading)
        async with asyncio.timeout(DEADLINE_S):
            _, err = await process.communicate()
        assert (process.returncode, err) == (0, b"")


# -- feed --------------------------------------------------------------------------------------


async def test_feed_lines_publishes_each_line_once_in_order() -> None:
    async with scripted(accept) as server:
        done = await everywire("feed", "lines", server.url, "a", stdin=b'{"n":1}\nplain\n2')
        assert is_clean(done, 0), done
        assert [asked.body for asked in server.asked] == [b'{"n":1}', b'"plain"', b"2"]
        assert len({asked.headers["idempotency-key"] for asked in server.asked}) == 3
        assert done.err == "everywire: 3 published\n"


async def test_feed_replay_publishes_what_subscribe_recorded(tmp_path) -> None:
    recording = tmp_path / "recording.ndjson"
    rows = [
        {"channel": "a", "offset": 1, "data": {"n": 1}, "time": 1000, "event": "tick", "tags": {"k": "v"}},
        {"channel": "a", "offset": 2, "data_base64": "AAE=", "content_type": "image/png", "time": 2000},
    ]
    recording.write_text("".join(json.dumps(row) + "\n" for row in rows))
    async with scripted(accept) as server:
        done = await everywire("feed", "replay", "--speed", "1e9", str(recording), server.url, "b")
        assert is_clean(done, 0), done
        first, second = server.asked
        assert (first.body, first.query) == (b'{"n":1}', {"event": "tick", "tag": "k:v"})
        assert (second.body, second.headers["content-type"]) == (b"\x00\x01", "image/png")
        assert first.path == "/channels/b"


async def test_feed_machine_drops_and_counts_what_cannot_be_published() -> None:
    async with scripted(Peer.hang) as server:
        pass  # and so nobody listens there any more
    async with started("feed", "machine", "--interval", "0.05", server.url, "a") as process:
        line = (await process.stderr.readline()).decode()
        assert "could not connect" in line and "1 dropped so far" in line
        process.send_signal(signal.SIGINT)
        _, err = await process.communicate()
        assert process.returncode == 130
        assert "0 published" in err.decode() and "Traceback" not in err.decode()


async def test_feed_lines_stops_at_a_refusal() -> None:
    async def refuse(peer: Peer) -> None:
        await peer.request()
        await peer.answer(b"{}", 403)
        await peer.hang()

    async with scripted(refuse) as server:
        done = await everywire("feed", "lines", server.url, "a", stdin=b"1\n2\n")
        assert is_clean(done, 1)
        assert "answered 403" in done.err and "0 published" in done.err


async def test_subscribe_by_a_session_reads_from_any_place_and_on_any_wire() -> None:
    async with running("--dev") as serving:
        for channel, value in (("a", 1), ("a", 2), ("b", 3)):
            done = await everywire("publish", serving.url, channel, str(value))
            assert is_clean(done, 0), done
        options = ("--transport", "auto", "--json", "--count")
        done = await everywire("subscribe", *options, "3", "--after", "earliest", serving.url, "a,b")
        assert done.code == 0 and "connected by websocket" in done.err
        rows = [json.loads(line) for line in done.out.splitlines()]
        assert sorted((row["channel"], row["data"]) for row in rows) == [("a", 1), ("a", 2), ("b", 3)]
        first = next(row["position"] for row in rows if row["data"] == 1)
        done = await everywire("subscribe", *options, "1", "--after", first, serving.url, "a")
        assert json.loads(done.out)["data"] == 2
        async with started("subscribe", *options, "1", serving.url, "a") as process:
            assert process.stderr is not None
            assert b"connected" in await process.stderr.readline()
            for value in range(100):
                await everywire("publish", serving.url, "a", str(value))
                if process.returncode is not None:
                    break
            assert await process.wait() == 0
    async with running() as closed:
        done = await everywire("subscribe", "--transport", "auto", closed.url, "a")
        assert done.code == 1 and "credential" in done.err
