"""Who comes by SockJS and whose session is whose; and the session protocol inside SockJS messages."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import websockets

from everywire.access.hooks import Hooks
from everywire.access.identity import AuthRequest, Identity
from everywire.core.limits import Limits
from everywire.sockets.sockjs_link import SockJsOptions
from tests.serving import HOSTS, Site, serving_wire, until
from tests.sockjs_mounts import SockJsWire, close, echo
from tests.sockjs_talking import new_session, poll, post, send, streamed
from tests.transports.known import bearer, knowing, token

EVIL: Final = {"Origin": "https://evil.example"}
LISTED: Final = "https://friend.example"
HOST: Final = "own"
"""What is judged here is the same on every host."""


@asynccontextmanager
async def serving(
    certificate: tuple[str, str] = ("", ""), host: str = HOST, **options: Any
) -> AsyncIterator[Site]:
    async with serving_wire(host, SockJsWire(**options), certificate) as site:
        yield site


def command(number: int, **what: Any) -> str:
    return json.dumps({"id": number, **what})


class Polling:
    """A client of the session protocol that polls."""

    def __init__(self, site: Site, headers: dict[str, str] | None = None, query: str = "") -> None:
        self.site = site
        self.session = new_session("/sockjs")
        self.headers = headers or {}
        self.query = query
        self.told: list[Any] = []
        self.closed: Any = None

    async def ask(self) -> None:
        """Poll once."""
        response = await post(self.site, f"{self.session}/xhr{self.query}", headers=self.headers)
        assert response.status_code == 200, response.text
        frame = response.text
        if frame[0] == "a":
            for message in json.loads(frame[1:]):
                self.told += [line for line in map(json.loads, message.split("\n")) if line]
        elif frame[0] == "c":
            self.closed = json.loads(frame[1:])
        else:
            assert frame in ("o\n", "h\n")

    async def say(self, *messages: str) -> None:
        body = json.dumps(messages)
        response = await post(self.site, f"{self.session}/xhr_send{self.query}", body, self.headers)
        assert response.status_code == 204, response.text

    async def next(self) -> Any:
        """Return what comes next."""
        while not self.told:
            await self.ask()
            if self.closed is not None:
                return {"closed": self.closed}
        return self.told.pop(0)


# -- the session protocol ------------------------------------------------------------------


@pytest.mark.parametrize("host", HOSTS)
async def test_channels_and_recovery_come_by_polls(host: str, certificate: tuple[str, str]) -> None:
    async with serving(certificate, host) as site:
        await site.publish("news", 1)
        client = Polling(site)
        await client.ask()
        await client.say(command(1, connect={}))
        await client.say(command(2, subscribe={"channel": "news", "recoverable": True}))
        assert "client" in (await client.next())["connect"]
        subscribed = (await client.next())["subscribe"]
        await site.publish("news", 2, 3)
        got = [(await client.next())["push"]["pub"]["data"] for _ in range(2)]
        # It goes away, and comes back with its place.
        await site.publish("news", 4)
        again = Polling(site)
        await again.ask()
        since = {"recover": True, "epoch": subscribed["epoch"], "offset": subscribed["offset"] + 2}
        await again.say(
            command(1, connect={}), command(2, subscribe={"channel": "news", **since, "recoverable": True})
        )
        await again.next()
        recovered = (await again.next())["subscribe"]
        assert recovered["recovered"] and [one["data"] for one in recovered["publications"]] == [4]
        await again.say(command(3, publish={"channel": "news", "data": "é\u2028</script>"}))
        answers = [await again.next(), await again.next()]
        assert {"id": 3, "publish": {}} in answers
        assert got == [2, 3]


@pytest.mark.parametrize("path", ["/sockjs/0/0/websocket", "/sockjs/websocket"])
async def test_channels_come_by_websocket_framed_or_not(path: str) -> None:
    async with serving() as site, site.websocket(path) as socket:
        is_framed = path.count("/") > 2

        async def say(text: str) -> None:
            await socket.send(json.dumps([text]) if is_framed else text)

        lines: list[Any] = []

        async def hear() -> Any:
            while not lines:
                message = str(await socket.recv())
                texts = json.loads(message[1:]) if is_framed else [message]
                lines.extend(json.loads(line) for text in texts for line in text.split("\n"))
            return lines.pop(0)

        if is_framed:
            assert await socket.recv() == "o"
        await say(command(1, connect={}) + "\n" + command(2, subscribe={"channel": "news"}))
        assert "connect" in await hear()
        assert "subscribe" in await hear()
        for number in range(3):
            await site.publish("news", number)
            assert (await hear())["push"]["pub"]["data"] == number
        await say("nonsense")
        if is_framed:
            assert str(await socket.recv()).startswith("c[3501,")
        with pytest.raises(websockets.ConnectionClosed):
            await socket.recv()
        assert socket.close_code == (1000 if is_framed else 3501)


async def test_one_channel_tells_every_transport_the_same() -> None:
    async with serving() as site, site.websocket("/sockjs/0/0/websocket") as socket:
        polling = Polling(site)
        await polling.ask()
        session = new_session("/sockjs")
        both = json.dumps([command(1, connect={}) + "\n" + command(2, subscribe={"channel": "news"})])
        async with streamed(site, "GET", f"{session}/eventsource") as events:
            await events.chunk()
            assert await events.chunk() == b"data: o\r\n\r\n"
            await polling.say(*json.loads(both))
            assert (await post(site, f"{session}/xhr_send", both)).status_code == 204
            await socket.recv()
            await socket.send(both)
            while b"subscribe" not in await events.chunk():
                pass
            while "subscribe" not in str(await socket.recv()):
                pass
            assert "connect" in await polling.next()
            assert "subscribe" in await polling.next()
            told: dict[str, list[int]] = {"poll": [], "events": [], "websocket": []}
            for number in range(50):
                await site.publish("news", number)
            while len(told["poll"]) < 50:
                told["poll"].append((await polling.next())["push"]["pub"]["data"])
            while len(told["events"]) < 50:
                chunk = (await events.chunk()).decode()
                told["events"] += _data(chunk.removeprefix("data: ").rstrip())
            while len(told["websocket"]) < 50:
                told["websocket"] += _data(str(await socket.recv()))
        assert told == {key: list(range(50)) for key in told}


def _data(frame: str) -> list[int]:
    texts = json.loads(frame[1:])
    return [json.loads(line)["push"]["pub"]["data"] for text in texts for line in text.split("\n")]


async def test_a_client_that_never_connects_is_ended() -> None:
    async with serving(limits=Limits(connect_timeout_s=0.5)) as site:
        client = Polling(site)
        await client.ask()
        await client.ask()
        assert client.closed[0] == 3502


async def test_what_is_no_command_ends_the_session_in_the_protocols_words() -> None:
    async with serving() as site:
        for sent in ("", "x", "[" * 100_000, '{"id":1}', '{"id":1,"connect":' + "[" * 100_000, "\ud800"):
            client = Polling(site)
            await client.ask()
            await client.say(sent)
            await client.ask()
            assert client.closed[0] == 3501, sent[:10]


# -- whose session it is -------------------------------------------------------------------


async def test_a_user_cannot_take_over_anothers_session_by_its_id() -> None:
    """The id is chosen by the client, and may be known: it stands in URLs."""
    async with serving(**knowing()) as site:
        session = new_session()
        ann, bob, nobody = bearer("ann"), bearer("bob"), dict[str, str]()
        assert await poll(site, session, ann) == "o"
        for other in (bob, nobody, {"Authorization": "Bearer forged"}, {"Authorization": "Basic x"}):
            assert (await send(site, session, "forged", headers=other)).status_code == 404
            response = await post(site, f"{session}/jsonp_send", '["forged"]', other)
            assert response.status_code == 404
        assert await poll(site, session, bob) == "o", "a session of his own"
        assert (await send(site, session, "of bob", headers=bob)).status_code == 204
        assert (await send(site, session, "of ann", headers=ann)).status_code == 204
        assert await poll(site, session, nobody) == "o", "and one of nobody's"
        assert await poll(site, session, ann) == 'a["of ann"]'
        assert await poll(site, session, bob) == 'a["of bob"]'
        # Another credential of the same user is as good.
        assert (await send(site, session, "again", headers=bearer("ann", 30.0))).status_code == 204
        assert await poll(site, session, ann) == 'a["again"]'


async def test_nobodys_session_is_heard_of_whoever_has_its_id_until_a_user_speaks_there() -> None:
    async with serving(**knowing()) as site:
        # Scripts bring no cookie that counts, where the forms of the same client do.
        session = new_session()
        assert await poll(site, session) == "o"
        assert (await send(site, session, "as ann", headers=bearer("ann"))).status_code == 204
        assert await poll(site, session, bearer("ann")) == 'a["as ann"]'
        client = Polling(site)
        await client.ask()
        await client.say(command(1, connect={"token": token("ann")}))
        assert "connect" in await client.next()
        assert (await send(site, client.session, "{}", headers=bearer("bob"))).status_code == 404
        assert (await send(site, client.session, "{}", headers=bearer("ann"))).status_code == 204
        assert (await send(site, client.session, "{}")).status_code == 204
        assert await poll(site, client.session, bearer("bob")) == "o", "a session of his own"


async def test_a_bad_credential_is_told_in_the_protocols_form() -> None:
    async with serving(**knowing()) as site:
        for headers, code in (({"Authorization": "Bearer forged"}, 3500), (bearer("ann", -10), 3005)):
            session = new_session()
            assert await poll(site, session, headers) == "o"
            assert json.loads((await poll(site, session, headers))[1:])[0] == code
            async with site.websocket(f"{new_session()}/websocket", headers=headers) as socket:
                assert await socket.recv() == "o"
                assert json.loads(str(await socket.recv())[1:])[0] == code
            async with site.websocket("/echo/websocket", headers=headers) as socket:
                with pytest.raises(websockets.ConnectionClosed):
                    await socket.recv()
                assert socket.close_code == code


async def test_a_ticket_of_the_url_works_for_all_requests_of_its_session() -> None:
    async with serving(**knowing()) as site:
        for prefix in ("/sockjs", "/echo"):
            response = await site.http.post("/ticket", headers=bearer("ann"))
            ticket = response.json()["ticket"]
            client = Polling(site, query=f"?t=123&ticket={ticket}")
            client.session = new_session(prefix)
            await client.ask()
            if prefix == "/sockjs":
                await client.say(command(1, connect={}))
                assert "connect" in await client.next()
                assert len(site.wire.shared.registry.of_user("ann")) == 1
            else:
                await client.say('{"echo":1}')
                assert await client.next() == {"echo": 1}
            # To others it is worth nothing, and without it the session is not found.
            thief = Polling(site, query=f"?ticket={ticket}")
            thief.session = client.session + "x"
            await thief.ask()
            if prefix == "/sockjs":
                await thief.say(command(1, connect={}))
            told = await thief.next()
            assert "closed" in told or told["error"]["code"] == 101, told
            assert (await send(site, client.session, "x")).status_code == 404


async def test_a_token_of_the_url_may_run_out_while_its_session_lives() -> None:
    async with serving(**knowing()) as site:
        client = Polling(site, query=f"?token={token('ann', 1.5)}")
        client.session = new_session()
        await client.ask()
        await asyncio.sleep(1.6)
        # An echo ends with its credential, and says so to whoever shows the same one.
        await client.ask()
        assert client.closed[0] == 3005


async def test_a_session_ends_with_the_revocation_of_its_user() -> None:
    async with serving(**knowing()) as site:
        session, headers = new_session(), bearer("ann")
        assert await poll(site, session, headers) == "o"
        async with site.websocket(f"{new_session()}/websocket", headers=headers) as socket:
            assert await socket.recv() == "o"
            await until(lambda: len(site.wire.shared.registry.of_user("ann")) == 2)
            revocations = site.wire.shared.authority.revocations
            assert revocations is not None
            await revocations.block_user("ann")
            assert str(await socket.recv()).startswith("c[35")
        assert (await poll(site, session, headers)).startswith("c[35")
        assert not site.wire.shared.registry.of_user("ann")


# -- where from ----------------------------------------------------------------------------


GETS: Final = ("", "/info", "/iframe.html", "/a/b/eventsource", "/a/b/htmlfile?c=x", "/a/b/jsonp?c=x")


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_pages_of_other_sites_are_refused_before_anything_is_made(
    host: str, certificate: tuple[str, str]
) -> None:
    async with serving(certificate, host, allowed_origins=[LISTED]) as site:
        cross = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
        framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
        rebound = {"Host": "evil.example"}
        for prefix in ("/echo", "/sockjs"):
            for path in GETS:
                for headers in (EVIL, {"Origin": "null"}, cross, rebound):
                    response = await site.http.get(prefix + path, headers=headers)
                    assert response.status_code == 403, (path, headers)
                    assert "access-control-allow-origin" not in response.headers
                if (prefix, path) != ("/echo", "/iframe.html"):  # whom it frames is the browser's to say
                    assert (await site.http.get(prefix + path, headers=framed)).status_code == 403
            for path in ("/a/b/xhr", "/a/b/xhr_send", "/a/b/xhr_streaming", "/a/b/jsonp_send"):
                for headers in (EVIL, {"Origin": "null"}, cross, rebound):
                    assert (await post(site, prefix + path, "[]", headers)).status_code == 403
                    assert (await site.http.options(prefix + path, headers=headers)).status_code == 403
            for path in ("/websocket", "/a/b/websocket"):
                for headers in (EVIL, {"Origin": "null"}, rebound):
                    with pytest.raises(websockets.InvalidStatus) as refused:
                        async with site.websocket(prefix + path, headers=headers):
                            pass
                    assert refused.value.response.status_code == 403
        assert [mount.table.opened for mount in site.wire.mounts.values()] == [0] * len(site.wire.mounts)


async def test_a_page_that_is_listed_may_come_and_have_the_page_for_iframes() -> None:
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
    async with serving(allowed_origins=[LISTED]) as site:
        session = new_session()
        response = await post(site, f"{session}/xhr", headers={"Origin": LISTED})
        assert response.headers["access-control-allow-origin"] == LISTED
        assert response.headers["access-control-allow-credentials"] == "true"
        page = await site.http.get("/echo/iframe.html", headers=framed)
        assert page.status_code == 200
        policy = page.headers["content-security-policy"]
        assert policy == f"frame-ancestors 'self' {LISTED}:443", "and the browser keeps all others out"
    async with serving(allowed_origins=[]) as site:
        assert (await site.http.get("/echo/iframe.html", headers=framed)).status_code == 403
        page = await site.http.get("/echo/iframe.html")
        assert page.headers["content-security-policy"] == "frame-ancestors 'self'"


async def whoami(connection: Any) -> None:
    """Say who it is."""
    await connection.send(connection.user or "nobody")
    await echo(connection)


def by_cookie() -> Hooks:
    """Return hooks of an application that knows its users by a cookie of its own, or by Basic."""

    async def authenticate(request: AuthRequest) -> Identity | None:
        if "session" in request.cookies or request.headers.get("authorization", "").startswith("Basic"):
            return Identity(user="ann")
        return None

    return Hooks(authenticate=authenticate)


OWN: Final = {"Origin": "{own}"}
PLACES: Final = (
    # request, headers besides the cookie, and whether the cookie is heard
    ("xhr", {"Origin": "{own}"}, True),
    ("xhr", {"Sec-Fetch-Site": "same-origin"}, True),
    ("xhr", {"Origin": LISTED}, False),
    ("xhr", {"Sec-Fetch-Site": "same-site"}, False),
    ("xhr", {}, False),
    ("eventsource", {}, True),
    ("eventsource", {"Origin": LISTED}, False),
    ("eventsource", {"Sec-Fetch-Site": "same-site"}, False),
    ("jsonp?c=x", {}, False),
    ("jsonp?c=x", {"Sec-Fetch-Site": "same-site"}, False),
    ("jsonp?c=x", {"Sec-Fetch-Site": "same-origin"}, True),
    ("htmlfile?c=x", {}, False),
    ("htmlfile?c=x", {"Sec-Fetch-Site": "same-origin"}, True),
    ("websocket", {}, True),
    ("websocket", {"Origin": "{own}"}, True),
    ("websocket", {"Origin": LISTED}, False),
)


@pytest.mark.parametrize("allow_credentials", [False, True])
@pytest.mark.parametrize(("name", "fields", "heard"), PLACES)
async def test_cookies_are_heard_only_from_our_own_pages(
    name: str, fields: dict[str, str], heard: bool, allow_credentials: bool
) -> None:
    options: dict[str, Any] = {
        "dev": False,
        "hooks": by_cookie(),
        "allowed_origins": [LISTED],
        "allow_credentials": allow_credentials,
        "mounts": {"/who": (whoami, SockJsOptions())},
    }
    async with serving(**options) as site:
        headers = {key: value.format(own=site.url) for key, value in fields.items()}
        if allow_credentials and headers.get("Origin") == LISTED:
            heard = True
        session = new_session("/who")
        sent = headers | {"Cookie": "session=1"}
        assert await _opened(site, f"{session}/{name}", sent) == ("ann" if heard else "nobody")


async def _opened(site: Site, path: str, headers: dict[str, str]) -> str:
    """Return who an opened session says that it is."""
    if "websocket" in path:
        async with site.websocket(path, headers=headers) as socket:
            assert await socket.recv() == "o"
            told = str(await socket.recv())
    elif path.endswith("/xhr"):
        assert await poll(site, path.removesuffix("/xhr"), headers) == "o"
        told = await poll(site, path.removesuffix("/xhr"), headers)
    elif "jsonp" in path:
        await site.http.get(path, headers=headers)
        told = (await site.http.get(path, headers=headers)).text
    else:
        async with streamed(site, "GET", path, headers) as answer:
            await answer.chunk()
            await answer.chunk()
            told = (await answer.chunk()).decode()
    return "ann" if "ann" in told else "nobody" if "nobody" in told else told


async def test_credentials_that_a_browser_adds_by_itself_are_as_cookies() -> None:
    options: dict[str, Any] = {"dev": False, "allowed_origins": [LISTED], **knowing()}
    async with serving(**options) as site:
        session = new_session()
        headers = {"Origin": LISTED, "Authorization": "Basic YW5uOmFubg=="}
        assert await poll(site, session, headers) == "o"
        assert (await send(site, session, "as nobody", headers={"Origin": LISTED})).status_code == 204
        # A token is no such credential: the page itself has to have it.
        bound, headers = new_session(), headers | bearer("ann")
        assert await poll(site, bound, headers) == "o"
        assert (await send(site, bound, "as nobody", headers={"Origin": LISTED})).status_code == 404
        assert (await send(site, bound, "as ann", headers=headers)).status_code == 204


async def test_jsonp_can_be_switched_off() -> None:
    mounts = {"/safe": (echo, SockJsOptions(has_jsonp=False)), "/close2": (close, SockJsOptions())}
    async with serving(mounts=mounts) as site:
        assert (await site.http.get("/safe/a/b/jsonp?c=x")).status_code == 404
        assert (await post(site, "/safe/a/b/jsonp_send", "[]")).status_code == 404
        assert (await site.http.get("/close2/a/b/jsonp?c=x")).status_code == 200


# -- how many ------------------------------------------------------------------------------


async def test_sessions_are_bounded_and_forgotten() -> None:
    limits = Limits(max_sockjs_sessions=5, sockjs_disconnect_delay_s=0.5)
    async with serving(limits=limits) as site:
        table = site.wire.mounts["/echo"].table
        for _ in range(5):
            assert await poll(site, new_session()) == "o"
        response = await post(site, f"{new_session()}/xhr")
        assert response.status_code == 503 and response.headers["retry-after"]
        async with streamed(site, "GET", f"{new_session()}/eventsource") as answer:
            assert answer.status == 503
        await until(lambda: len(table) == 0)
        assert await poll(site, new_session()) == "o"


async def test_sessions_of_an_address_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("everywire.access.quotas.counted", lambda peer: "somewhere")
    limits = Limits(max_connections_per_address=2, sockjs_disconnect_delay_s=0.5)
    async with serving(dev=False, limits=limits) as site:
        for prefix in ("/echo", "/sockjs"):
            first = new_session(prefix)
            assert await poll(site, first) == "o"
            async with site.websocket(f"{new_session(prefix)}/websocket") as socket:
                assert await socket.recv() == "o"
                response = await post(site, f"{new_session(prefix)}/xhr")
                assert response.status_code == 429
                with pytest.raises(websockets.InvalidStatus) as refused:
                    async with site.websocket(f"{new_session(prefix)}/websocket"):
                        pass
                assert refused.value.response.status_code == 429
            await until(lambda: not site.wire.shared.quotas._of_address)


async def test_sessions_that_have_ended_are_counted_until_they_are_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A session gave its place back with its first message, and stayed for five seconds more: one address
    could fill the table with nonsense, and nobody else had a session."""
    monkeypatch.setattr("everywire.sockets.sockjs_table.counted", lambda peer: "somewhere")
    limits = Limits(max_connections_per_address=2, sockjs_disconnect_delay_s=0.5)
    async with serving(dev=False, limits=limits) as site:
        for _ in range(4):
            session = new_session("/sockjs")
            assert await poll(site, session) == "o"
            assert (await post(site, f"{session}/xhr_send", '["nonsense"]')).status_code == 204
        assert (await post(site, f"{new_session('/sockjs')}/xhr")).status_code == 429
        await until(lambda: not site.wire.mounts["/sockjs"].table._of_address)
        assert await poll(site, new_session("/sockjs")) == "o"


async def test_nothing_is_left_of_sessions_that_ended() -> None:
    limits = Limits(sockjs_disconnect_delay_s=0.5)
    async with serving(limits=limits, **knowing()) as site:
        shared = site.wire.shared
        for number in range(20):
            headers = bearer(f"user{number % 3}")
            session = new_session()
            assert await poll(site, session, headers) == "o"
            await send(site, session, "x", headers=headers)
            client = Polling(site, headers)
            await client.ask()
            await client.say(command(1, connect={}), command(2, subscribe={"channel": "news"}))
        tables = [mount.table for mount in site.wire.mounts.values()]
        await until(lambda: not any(map(len, tables)))
        await until(lambda: not site.wire.hub.channels_read())
        assert shared.registry.statistics() == {"visitors": 0, "sessions": 0, "users": 0}
        await until(lambda: len(shared.tasks) == 0)
        assert not any(table._by_mark for table in tables)
