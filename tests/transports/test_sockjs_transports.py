"""SockJS's transports: what each sends and takes, to the letter, on every host."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator
from typing import Any, Final
from urllib.parse import quote

import pytest
import pytest_asyncio
import websockets

from tests.serving import DEADLINE_S, HOSTS, Site, until
from tests.sockjs_mounts import serving_sockjs
from tests.sockjs_talking import FRAMES, new_session, poll, post, send, streamed

FORM: Final = {"Content-Type": "application/x-www-form-urlencoded"}
GO_AWAY: Final = 'c[3000,"Go away!"]'
ANOTHER: Final = 'c[2010,"Another connection still open"]'
INTERRUPTED: Final = 'c[1002,"Connection interrupted"]'
NOT_CACHED: Final = "no-store, no-cache, no-transform, must-revalidate, max-age=0"
HEAD: Final = """<!doctype html>
<html><head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
</head><body><h2>Don't panic!</h2>
  <script>
    document.domain = document.domain;
    var c = parent.callback;
    c.start();
    function p(d) {c.message(d);};
    window.onload = function() {c.stop();};
  </script>"""
PRELUDES: Final = {"xhr_streaming": "h" * 2048 + "\n", "eventsource": "\r\n"}
INVALID_CALLBACKS: Final = (
    "%20",
    "*",
    "abc(",
    "abc%28",
    "%3Cscript%3Ealert(1)%3C/script%3E",
    "<script>",
    "\\u0061",
    "%E2%80%A8",
    "%ff",
    "a" * 5_000,
    "x%0d%0aSet-Cookie:a=b",
)


@pytest_asyncio.fixture(params=HOSTS)
async def site(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> AsyncIterator[Site]:
    """A server with the services of the suite."""
    async with serving_sockjs(request.param, certificate) as site:
        yield site


async def get(site: Site, path: str) -> str:
    response = await site.http.get(path)
    assert response.status_code == 200, response.text
    return response.text


# -- xhr -----------------------------------------------------------------------------------


async def test_polls(site: Site) -> None:
    session = new_session()
    response = await post(site, f"{session}/xhr", headers={"Origin": "test"})
    assert (response.status_code, response.text) == (200, "o\n")
    assert response.headers["content-type"] == "application/javascript; charset=UTF-8"
    assert response.headers["cache-control"] == NOT_CACHED
    assert response.headers["x-content-type-options"] == "nosniff"
    sent = await send(site, session, "x")
    assert (sent.status_code, sent.content) == (204, b"")
    assert sent.headers["content-type"] == "text/plain; charset=UTF-8"
    assert sent.headers["cache-control"] == NOT_CACHED
    assert await poll(site, session) == 'a["x"]'
    assert (await send(site, session)).status_code == 204, "no messages are a sign of life"
    waiting = asyncio.create_task(poll(site, session))
    await send(site, session, "later")
    assert await waiting == 'a["later"]'


async def test_messages_that_wait_come_in_one_frame(site: Site) -> None:
    session = new_session()
    assert await poll(site, session) == "o"
    types = ["text/plain", "T", "application/json", "application/xml", "", "text/xml; charset=utf-8"]
    for number, type_ in enumerate(types):
        await send(site, session, str(number), headers={"Content-Type": type_})
    got: list[str] = []
    while len(got) < len(types):
        got += json.loads((await poll(site, session))[1:])
    assert got == [str(number) for number in range(len(types))]


async def test_what_is_no_array_of_strings_is_500_and_harms_nothing(site: Site) -> None:
    session = new_session()
    assert await poll(site, session) == "o"
    deep = "[" * 100_000
    for body in ('["x', "{}", "[1]", deep, f'["\\ud800",{deep}', "<script>alert(1)</script>"):
        response = await post(site, f"{session}/xhr_send", body)
        assert (response.status_code, response.text) == (500, "Broken JSON encoding.")
        assert response.headers["content-type"] == "text/plain; charset=UTF-8"
        assert response.headers["x-content-type-options"] == "nosniff"
    response = await post(site, f"{session}/xhr_send", "")
    assert (response.status_code, response.text) == (500, "Payload expected.")
    many = await post(site, f"{session}/xhr_send", json.dumps([""] * 20_000))
    assert many.status_code == 500
    assert (await send(site, session, "a")).status_code == 204
    assert await poll(site, session) == 'a["a"]'


async def test_a_huge_body_is_refused(site: Site) -> None:
    session = new_session()
    assert await poll(site, session) == "o"
    response = await post(site, f"{session}/xhr_send", b'["' + b"x" * (1024 * 1024) + b'"]')
    assert response.status_code == 413
    whole = b'["' + b"x" * (1024 * 1024 - 4) + b'"]'
    assert (await post(site, f"{session}/xhr_send", whole)).status_code == 204
    assert len(await poll(site, session)) == 1024 * 1024 + 1


async def test_all_that_browsers_mangle_goes_out_escaped_and_comes_in_either_way(site: Site) -> None:
    session = new_session()
    assert await poll(site, session) == "o"
    codes = [*range(0x200C, 0x2010), *range(0x2028, 0x2030), *range(0x2060, 0x2070), *range(0xFFF0, 0x10000)]
    text = "".join(map(chr, codes))
    await post(site, f"{session}/xhr_send", f'["{text}"]')
    assert await poll(site, session) == 'a["' + "".join(f"\\u{code:04x}" for code in codes) + '"]'
    every = "".join(map(chr, range(0x10000)))  # halves of surrogate pairs included
    await send(site, session, every)
    (back,) = json.loads((await poll(site, session))[1:])
    # As JavaScript compares them: two halves in a row are a character.
    assert back.encode("utf-16", "surrogatepass") == every.encode("utf-16", "surrogatepass")


# -- answers that stream -------------------------------------------------------------------


@pytest.mark.parametrize("name", FRAMES)
async def test_streams(site: Site, name: str) -> None:
    about = FRAMES[name]
    session = new_session()
    async with streamed(
        site, about["method"], f"{session}/{name}{about['query']}", {"Origin": "test"}
    ) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"] == about["type"]
        assert answer.headers["cache-control"] == NOT_CACHED
        assert answer.headers["access-control-allow-origin"] == "test"
        assert answer.headers["x-content-type-options"] == "nosniff"
        prelude = (await answer.chunk()).decode()
        if name == "htmlfile":
            assert prelude.strip() == HEAD and len(prelude) > 1024
        else:
            assert prelude == PRELUDES[name]
        # Each frame is a chunk of its own.
        assert (await answer.chunk()).decode() == about["wrap"]("o")
        for body, frame in (
            ('["x"]', 'a["x"]'),
            (r'["  \u0000\n\r "]', r'a["  \u0000\n\r "]'),
            ('["é\U0001f600"]', 'a["é\U0001f600"]'),
        ):
            assert (await post(site, f"{session}/xhr_send", body.encode())).status_code == 204
            sent = (await answer.chunk()).decode()
            if name == "htmlfile":
                inside = sent.removeprefix("<script>\np(").removesuffix(");\n</script>\r\n")
                assert json.loads(inside) == frame
            else:
                assert sent == about["wrap"](frame)


@pytest.mark.parametrize("name", FRAMES)
async def test_a_stream_ends_when_it_has_carried_enough_and_the_next_goes_on(site: Site, name: str) -> None:
    about = FRAMES[name]
    session = new_session()  # 4096 bytes
    path = f"{session}/{name}{about['query']}"
    message = "x" * 128
    sent = carried = 0
    async with streamed(site, about["method"], path) as answer:
        await answer.chunk()
        carried += len(await answer.chunk())
        while carried < 4096:
            await send(site, session, message)
            sent += 1
            chunk = (await answer.chunk()).decode()
            assert chunk == about["wrap"](f'a["{message}"]')
            carried += len(chunk)
        assert await answer.chunk() == b""
    if name == "xhr_streaming":
        assert sent == 31
    await send(site, session, "meanwhile")
    async with streamed(site, about["method"], path) as answer:
        await answer.chunk()
        assert (await answer.chunk()).decode() == about["wrap"]('a["meanwhile"]')


async def test_one_large_message_is_enough(site: Site) -> None:
    session = new_session()
    async with streamed(site, "GET", f"{session}/eventsource") as answer:
        assert await answer.chunk() == b"\r\n"
        assert await answer.chunk() == b"data: o\r\n\r\n"
        await send(site, session, "x" * 4096)
        assert (await answer.chunk()).decode() == f'data: a["{"x" * 4096}"]\r\n\r\n'
        assert await answer.chunk() == b""


async def test_no_message_ends_the_script_of_htmlfile(site: Site) -> None:
    session = new_session()
    async with streamed(site, "GET", f"{session}/htmlfile?c=callback") as answer:
        assert answer.headers["content-security-policy"] == "frame-ancestors *"
        await answer.chunk()
        await answer.chunk()
        attack = "</script><script>alert(1)</script><!--"
        await send(site, session, attack)
        chunk = (await answer.chunk()).decode()
        inside = chunk.removeprefix("<script>\np(").removesuffix(");\n</script>\r\n")
        assert "<" not in inside and ">" not in inside
        assert json.loads(json.loads(inside)[1:]) == [attack]


@pytest.mark.parametrize("name", FRAMES)
async def test_a_stream_of_a_closed_session_says_so_and_ends(site: Site, name: str) -> None:
    about = FRAMES[name]
    session = new_session("/close")
    path = f"{session}/{name}{about['query']}"
    for frames in (["o", GO_AWAY], [GO_AWAY]):
        async with streamed(site, about["method"], path) as answer:
            await answer.chunk()
            for frame in frames:
                assert (await answer.chunk()).decode() == about["wrap"](frame)
            assert await answer.chunk() == b""


# -- jsonp ---------------------------------------------------------------------------------


async def test_jsonp(site: Site) -> None:
    session = new_session()
    response = await site.http.get(f"{session}/jsonp?c=%63allback")
    assert (response.status_code, response.text) == (200, '/**/callback("o");\r\n')
    assert response.headers["content-type"] == "application/javascript; charset=UTF-8"
    assert response.headers["cache-control"] == NOT_CACHED
    assert response.headers["x-content-type-options"] == "nosniff"
    for body, headers in (
        ("d=" + quote('["x"]'), FORM),
        ("a=b&d=" + quote('["x"]'), {"Content-Type": "application/x-www-form-urlencoded; charset=UTF-8"}),
        ('["x"]', {"Content-Type": "text/plain"}),
    ):
        sent = await post(site, f"{session}/jsonp_send", body, headers)
        assert (sent.status_code, sent.text) == (200, "ok")
        assert sent.headers["content-type"] == "text/plain; charset=UTF-8"
        assert sent.headers["cache-control"] == NOT_CACHED
        assert await get(site, f"{session}/jsonp?c=x") == '/**/x("a[\\"x\\"]");\r\n'
    await post(site, f"{session}/jsonp_send", '["%61bc"]', {"Content-Type": "text/plain"})
    assert await get(site, f"{session}/jsonp?callback=_jp.a1") == '/**/_jp.a1("a[\\"%61bc\\"]");\r\n'


async def test_jsonp_refuses_what_is_no_array_of_strings(site: Site) -> None:
    session = new_session()
    assert await get(site, f"{session}/jsonp?c=x") == '/**/x("o");\r\n'
    for body, sentence in (
        ("d=%5B%22x", "Broken JSON encoding."),
        ("", "Payload expected."),
        ("d=", "Payload expected."),
        ("p=p", "Payload expected."),
    ):
        response = await post(site, f"{session}/jsonp_send", body, FORM)
        assert (response.status_code, response.text) == (500, sentence)
    for body in ("d=%5B%5D", "d=%5B%22b%22%5D"):
        assert (await post(site, f"{session}/jsonp_send", body, FORM)).text == "ok"
    assert await get(site, f"{session}/jsonp?c=x") == '/**/x("a[\\"b\\"]");\r\n'


async def test_jsonp_tells_the_end_again_and_again(site: Site) -> None:
    session = new_session("/close")
    assert await get(site, f"{session}/jsonp?c=x") == '/**/x("o");\r\n'
    for _ in range(3):
        assert await get(site, f"{session}/jsonp?c=x") == '/**/x("c[3000,\\"Go away!\\"]");\r\n'


@pytest.mark.parametrize("name", ["jsonp", "htmlfile"])
async def test_a_callback_is_a_name_and_nothing_else(site: Site, name: str) -> None:
    for query in ("", "?c=", "?callback", "?x=c", "?" + "&" * 100):
        response = await site.http.get(f"/echo/a/a/{name}{query}")
        assert (response.status_code, response.text) == (500, '"callback" parameter required')
    for callback in INVALID_CALLBACKS:
        response = await site.http.get(f"/echo/a/a/{name}?c={callback}")
        assert (response.status_code, response.text) == (500, 'invalid "callback" parameter')
        assert response.headers["content-type"] == "text/plain; charset=UTF-8"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "set-cookie" not in response.headers
    assert site.wire.mounts["/echo"].table.opened == 0


# -- websocket -----------------------------------------------------------------------------


async def test_a_websocket_is_a_session(site: Site) -> None:
    path = f"{new_session()}/websocket"
    async with site.websocket(path) as one, site.websocket(path) as other:
        assert await one.recv() == await other.recv() == "o"
        await one.send("")
        await one.send("[]")
        await one.send('["a"]')
        assert await one.recv() == 'a["a"]'
        await other.send('"b"')
        assert await other.recv() == 'a["b"]'
        await other.send(b'["c", "d"]')
        assert [await other.recv(), await other.recv()] == ['a["c"]', 'a["d"]']
        await other.send('["\\ud800\\u2028"]')
        assert await other.recv() == 'a["\\ud800\\u2028"]'
    async with site.websocket(path) as again:
        assert await again.recv() == "o"


async def test_a_websocket_that_is_closed_says_so_in_a_frame(site: Site) -> None:
    async with site.websocket(f"{new_session('/close')}/websocket") as socket:
        assert [await socket.recv(), await socket.recv()] == ["o", GO_AWAY]
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 1000


@pytest.mark.parametrize("sent", ['["a', "{}", "[1]", "[" * 100_000, b"\xff\xfe", '["x"]y'])
async def test_what_is_no_array_of_strings_ends_a_websocket(site: Site, sent: str | bytes) -> None:
    async with site.websocket(f"{new_session()}/websocket") as socket:
        assert await socket.recv() == "o"
        await socket.send(sent)
        with pytest.raises(websockets.ConnectionClosed):
            await asyncio.wait_for(socket.recv(), DEADLINE_S)
        assert socket.close_code == 1002


async def test_the_raw_websocket_knows_no_frames(site: Site) -> None:
    async with site.websocket("/echo/websocket") as socket:
        for message in ("Hello world!\uffff", "[", "", b"\xff\x00"):
            await socket.send(message)
            assert await socket.recv() == message
    async with site.websocket("/close/websocket") as socket:
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (3000, "Go away!")


async def test_where_there_is_no_websocket_there_is_none(site: Site) -> None:
    for path in ("/websocket", "/0/0/websocket"):
        assert (await site.http.get(f"/disabled_websocket_echo{path}")).status_code == 404
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with site.websocket("/disabled_websocket_echo/0/0/websocket"):
            pass
    assert refused.value.response.status_code == 404


async def test_a_request_that_is_no_handshake_is_400(site: Site) -> None:
    for headers in ({}, {"Upgrade": "WebSocket", "Connection": "close"}, {"Connection": "Upgrade"}):
        for path in ("/echo/0/0/websocket", "/echo/websocket"):
            async with streamed(site, "GET", path, headers) as answer:
                assert answer.status == 400, headers


UPGRADES: Final = (
    {"Upgrade": "websocket", "Connection": "Upgrade"},
    {"Upgrade": "WEBSOCKET", "Connection": "keep-alive, upgrade"},
    {"Upgrade": "websocket, h2c", "Connection": "Upgrade"},
    {"Upgrade": "h2c", "Connection": "Upgrade"},
    {"Upgrade": "\x7f\xff", "Connection": "Upgrade"},
    {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "x3JJHMbDL1EzLkh9GBhXDw==",
    },
)


async def test_upgrade_on_any_address_is_answered_and_harms_nobody(site: Site) -> None:
    """A server of SockJS once died of it (CVE-2020-7693)."""
    names = ("xhr", "xhr_send", "xhr_streaming", "eventsource", "htmlfile", "jsonp", "jsonp_send")
    places = ["", "/", "/info", "/iframe.html", "/nothing", "/a/b/nothing"]
    places += [f"/a/{{}}/{name}?c=x" for name in names]
    number = 0
    async with site.websocket("/echo/websocket") as held:
        for place in places:
            for fields in UPGRADES:
                for method in ("GET", "POST", "OPTIONS"):
                    number += 1
                    try:
                        path = f"/echo{place.format(number)}"
                        async with streamed(site, method, path, fields) as answer:
                            assert 200 <= answer.status < 500, (path, fields, method)
                    except asyncio.IncompleteReadError:
                        assert site.host == "asgi"  # a server that is not ours may hang up instead
        await held.send("alive")
        assert await held.recv() == "alive"


# -- the life of a session over the wire ---------------------------------------------------


async def test_one_receiver_at_a_time(site: Site) -> None:
    session = new_session()
    async with streamed(site, "POST", f"{session}/xhr_streaming") as first:
        await first.chunk()
        assert await first.chunk() == b"o\n"
        assert await poll(site, session) == ANOTHER
        async with streamed(site, "POST", f"{session}/xhr_streaming") as second:
            await second.chunk()
            assert (await second.chunk()).decode() == f"{ANOTHER}\n"
            assert await second.chunk() == b""
        await send(site, session, "still here")
        assert await first.chunk() == b'a["still here"]\n'


@pytest.mark.parametrize("name", ["xhr", "xhr_streaming", "eventsource"])
async def test_a_receiver_that_breaks_off_ends_the_session(site: Site, name: str) -> None:
    session = new_session()
    assert await poll(site, session) == "o"
    mount = site.wire.mounts["/echo"]
    (kept,) = [one for key, one in mount.table._by_owner.items() if key[0] == session.rpartition("/")[2]]
    reader, writer = await site.connect()
    method = "GET" if name == "eventsource" else "POST"
    writer.write(
        f"{method} {session}/{name} HTTP/1.1\r\nHost: {site.authority}\r\nContent-Length: 0\r\n\r\n".encode()
    )
    await until(lambda: kept._receiver is not None)
    writer.transport.abort()
    await until(lambda: kept.is_closed)
    assert await poll(site, session) == INTERRUPTED
    del reader


async def test_sessions_of_other_transports_take_nothing(site: Site) -> None:
    path = new_session()
    async with site.websocket(f"{path}/websocket") as socket:
        assert await socket.recv() == "o"
        assert (await send(site, path, "intruder")).status_code == 404
        assert (await post(site, f"{path}/jsonp_send", '["intruder"]')).status_code == 404
        assert await poll(site, path) == "o", "a session of its own"
        await socket.send('["a"]')
        assert await socket.recv() == 'a["a"]'


async def test_a_server_that_stops_tells_those_who_wait(site: Site) -> None:
    polled, streaming = new_session(), new_session()
    assert await poll(site, polled) == "o"
    waiting = asyncio.create_task(poll(site, polled))
    async with (
        streamed(site, "POST", f"{streaming}/xhr_streaming") as answer,
        site.websocket(f"{new_session()}/websocket") as socket,
    ):
        await answer.chunk()
        assert await answer.chunk() == b"o\n"
        assert await socket.recv() == "o"
        await until(lambda: all(one._receiver for one in site.wire.mounts["/echo"].table._by_owner.values()))
        await site.drain()
        told: list[Any] = [await waiting, (await answer.chunk()).decode(), await socket.recv()]
        assert all(frame.startswith('c[3001,"the server is shutting down') for frame in told), told


async def test_requests_of_all_kinds_at_once_harm_nobody_else(site: Site) -> None:
    """One session is asked for everything at the same time, by clients that leave when they like."""
    rng = random.Random(7)
    victim = new_session()
    names = ("xhr", "xhr_streaming", "eventsource?x", "htmlfile?c=x", "jsonp?c=x", "xhr_send", "jsonp_send")

    async def bother(number: int) -> None:
        name = rng.choice(names)
        method = "GET" if "?" in name else "POST"
        body = rng.choice([b"", b"[]", b'["x"]', b"[", b"d=%5B%22x%22%5D"]) if "send" in name else b""
        patience_s = rng.random() / 10
        try:
            async with asyncio.timeout(patience_s):
                async with streamed(site, method, f"{victim}/{name}", body=body) as answer:
                    assert answer.status in (200, 204, 404, 500)
                    await answer.rest()
        except (TimeoutError, asyncio.IncompleteReadError, OSError):
            pass

    async with site.websocket(f"{new_session()}/websocket") as socket:
        assert await socket.recv() == "o"
        for _ in range(5):
            await asyncio.gather(*map(bother, range(40)))
        await socket.send('["alive"]')
        assert await socket.recv() == 'a["alive"]'
    other = new_session()
    assert await poll(site, other) == "o"
    await send(site, other, "alive")
    assert await poll(site, other) == 'a["alive"]'
