"""SockJS: its pages, its addresses, what browsers are told about origins, and cookies.

What the protocol's own suite asks for, in our words, and what it does not ask: who may come at all.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from email.utils import parsedate_to_datetime
from typing import Final

import httpx
import pytest
import pytest_asyncio

from everywire.core.errors import SettingsError
from everywire.sockets.sockjs_carrier import accept_session
from everywire.sockets.sockjs_link import SockJsOptions
from everywire.transports.sockjs_mounts import SockJsMounts
from tests.serving import HOSTS, Site
from tests.sockjs_mounts import close, echo, serving_sockjs
from tests.sockjs_talking import new_session, poll, post, send, streamed

NOT_CACHED: Final = "no-store, no-cache, no-transform, must-revalidate, max-age=0"
MOUNTS: Final = ("/echo", "/sockjs")
HTML: Final = re.compile(
    r"""<!DOCTYPE html>
<html>
<head>
  <meta http-equiv="X-UA-Compatible" content="IE=edge" />
  <meta http-equiv="Content-Type" content="text/html; charset=UTF-8" />
  <script src="(/|https?://)[^"]*"></script>
  <script>
    document\.domain = document\.domain;
    SockJS\.bootstrap_iframe\(\);
  </script>
</head>
<body>
  <h2>Don't panic!</h2>
  <p>This is a SockJS hidden iframe\. It's used for cross domain magic\.</p>
</body>
</html>"""
)
ROUTES: Final = {
    "xhr": "POST",
    "xhr_send": "POST",
    "xhr_streaming": "POST",
    "eventsource": "GET",
    "htmlfile": "GET",
    "jsonp": "GET",
    "jsonp_send": "POST",
    "websocket": "GET",
}


@pytest_asyncio.fixture(params=HOSTS)
async def site(request: pytest.FixtureRequest, certificate: tuple[str, str]) -> AsyncIterator[Site]:
    """A server that pages of any origin may use."""
    async with serving_sockjs(request.param, certificate) as site:
        yield site


def check_not_cached(response: httpx.Response) -> None:
    assert response.headers["cache-control"] == NOT_CACHED
    assert "expires" not in response.headers and "last-modified" not in response.headers


def check_cached(response: httpx.Response) -> None:
    assert re.fullmatch(r"public, max-age=[1-9][0-9]{6,}", response.headers["cache-control"])
    assert parsedate_to_datetime(response.headers["expires"])


def check_cors(response: httpx.Response, origin: str | None) -> None:
    assert response.headers["access-control-allow-origin"] == (origin or "*")
    assert response.headers.get("access-control-allow-credentials") == (None if origin is None else "true")
    assert "Origin" in response.headers["vary"]


# -- pages ---------------------------------------------------------------------------------


async def test_a_mount_greets(site: Site) -> None:
    for mount in MOUNTS:
        for path in (mount, f"{mount}/", f"{mount}?x=1"):
            response = await site.http.get(path)
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/plain; charset=UTF-8"
            assert response.text == "Welcome to SockJS!\n"
            assert response.headers["content-length"] == "19"
            assert "set-cookie" not in response.headers


async def test_nothing_else_is_there(site: Site) -> None:
    places = ["/a", "/a.html", "//", "///", "/a/a", "/a/a/", "/a/", "/a/a/a", "/a/b/xhr/", "/a/b/XHR"]
    places += ["//xhr", "///xhr", "/a./a/xhr", "/a/a./xhr", "/./../xhr", "//a/xhr", "/a//xhr"]
    places += ["/a/b/raw", "/" + "a" * 300 + "/b/xhr", "/a/" + "b" * 300 + "/xhr", "/infos", "/websocketx"]
    for path in places:
        for method in ("GET", "POST", "OPTIONS"):
            async with streamed(site, method, f"/echo{path}") as answer:
                assert answer.status == 404, path
    # Another address that begins with the same letters is not of this mount.
    assert (await site.http.get("/echoes")).status_code == 404
    assert site.wire.mounts["/echo"].table.opened == 0


async def test_the_page_for_iframes(site: Site) -> None:
    etags = set()
    for name in ("", "-a", "-", "-0.1.2", "-0.1.2abc-dirty.2144"):
        for query in ("", "?t=qweqweq123"):
            response = await site.http.get(f"/echo/iframe{name}.html{query}")
            assert response.status_code == 200
            assert response.headers["content-type"] == "text/html; charset=UTF-8"
            assert HTML.fullmatch(response.text)
            check_cached(response)
            assert "last-modified" not in response.headers and "set-cookie" not in response.headers
            etags.add(response.headers["etag"])
    (etag,) = etags
    for known in (etag, f'"other", {etag}', f"W/{etag}"):
        response = await site.http.get("/echo/iframe.html", headers={"If-None-Match": known})
        assert response.status_code == 304
        assert not response.content and "content-type" not in response.headers
        assert response.headers["etag"] == etag
    assert (await site.http.get("/echo/iframe.html", headers={"If-None-Match": '"x"'})).status_code == 200


async def test_no_script_of_others_acts_in_our_name_unless_somebody_says_so(site: Site) -> None:
    for mount in ("/sockjs", "/close"):
        for name in ("iframe.html", "iframe-1.6.1.html"):
            assert (await site.http.get(f"{mount}/{name}")).status_code == 404
    assert "https://cdn.example/sockjs.min.js" in (await site.http.get("/echo/iframe.html")).text


async def test_what_only_looks_like_the_page_for_iframes_is_not_there(site: Site) -> None:
    names = ("iframe.htm", "iframe", "IFRAME.HTML", "IFRAME", "iframe.HTML", "iframe.xml", "iframe-/.html")
    for name in (*names, "iframe-<script>.html", "iframe%20.html"):
        assert (await site.http.get(f"/echo/{name}")).status_code == 404, name


async def test_information(site: Site) -> None:
    entropies = set()
    for path, has_websocket, needs_cookie in (
        ("/echo", True, False),
        ("/sockjs", True, False),
        ("/disabled_websocket_echo", False, False),
        ("/cookie_needed_echo", True, True),
    ):
        response = await site.http.get(f"{path}/info", headers={"Origin": "test"})
        assert response.status_code == 200
        assert response.headers["content-type"] == "application/json; charset=UTF-8"
        check_not_cached(response)
        check_cors(response, "test")
        assert "set-cookie" not in response.headers
        told = response.json()
        entropies.add(told.pop("entropy"))
        assert told == {"websocket": has_websocket, "cookie_needed": needs_cookie, "origins": ["*:*"]}
    assert len(entropies) == 4 and all(0 <= one < 2**32 for one in entropies)


# -- methods and origins -------------------------------------------------------------------


async def test_preflights_are_granted_for_long(site: Site) -> None:
    methods = {"/info": "GET", **{f"/abc/abc/{name}": method for name, method in ROUTES.items()}}
    for path, method in methods.items():
        for origin in ("test", "null", "https://example.com"):
            headers = {"Origin": origin, "Access-Control-Request-Method": method}
            response = await site.http.options(f"/echo{path}", headers=headers)
            assert response.status_code == 204 and not response.content
            check_cached(response)
            check_cors(response, origin)
            assert int(response.headers["access-control-max-age"]) > 1_000_000
            assert response.headers["access-control-allow-methods"] == f"OPTIONS, {method}"
            assert "access-control-allow-headers" not in response.headers


@pytest.mark.parametrize(
    ("asked", "granted"),
    [("a, b, c", "a, b, c"), ("", None), ("content-type", "content-type"), ("<script>", None), ("é", None)],
)
async def test_header_fields_that_a_preflight_names_are_granted(
    site: Site, asked: str, granted: str | None
) -> None:
    headers = {"Origin": "test", "Access-Control-Request-Method": "POST"}
    fields = {**headers, "Access-Control-Request-Headers": asked.encode("latin-1").decode("latin-1")}
    response = await site.http.options("/echo/abc/abc/xhr", headers=httpx.Headers(fields, encoding="latin-1"))
    check_cors(response, "test")
    assert response.headers.get("access-control-allow-headers") == granted


async def test_other_methods_are_refused_without_a_word(site: Site) -> None:
    for name, method in ROUTES.items():
        wrong = "GET" if method == "POST" else "POST"
        for other in (wrong, "PUT", "DELETE", "HEAD"):
            response = await site.http.request(other, f"/echo/0/0/{name}")
            assert response.status_code == 405, (other, name)
            assert response.headers["allow"] == f"OPTIONS, {method}"
            assert "content-type" not in response.headers and not response.content
    assert site.wire.mounts["/echo"].table.opened == 0


async def test_origins_are_echoed_with_credentials(site: Site) -> None:
    session = new_session()
    for origin in ("test", "null", None):
        headers = {} if origin is None else {"Origin": origin}
        check_cors(await post(site, f"{session}/xhr", headers=headers), origin)
        check_cors(await send(site, session, "x", headers=headers), origin)


# -- cookies -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "set_"),
    [
        (None, "dummy"),
        ("JSESSIONID=abcdef", "abcdef"),
        ("a=b; JSESSIONID=abc.def; c=d", "abc.def"),
        ("XJSESSIONID=abcdef", "dummy"),
        ('JSESSIONID="<script>"', "dummy"),
        ("JSESSIONID=" + "x" * 5_000, "dummy"),
        ("JSESSIONID=", "dummy"),
    ],
)
async def test_the_cookie_of_load_balancers_is_set_where_it_is_asked_for(
    site: Site, sent: str | None, set_: str
) -> None:
    headers = {} if sent is None else {"Cookie": sent}
    session = new_session("/cookie_needed_echo")
    response = await post(site, f"{session}/xhr", headers=headers)
    assert response.text == "o\n"
    attributes = [one.strip() for one in response.headers["set-cookie"].split(";")]
    assert attributes[:2] == [f"JSESSIONID={set_}", "Path=/"]
    assert ("Secure" in attributes) is (site.host == "own-tls")
    assert "set-cookie" in (await send(site, session, "x", headers=headers)).headers
    assert "set-cookie" not in (await post(site, f"{new_session()}/xhr", headers=headers)).headers


async def test_every_transport_sets_the_cookie(site: Site) -> None:
    for name in ("xhr_streaming", "eventsource", "htmlfile?c=c", "jsonp?c=c"):
        method = ROUTES[name.partition("?")[0]]
        path = f"{new_session('/cookie_needed_echo')}/{name}"
        async with streamed(site, method, path) as answer:
            assert answer.status == 200
            assert answer.headers["set-cookie"].startswith("JSESSIONID=dummy; Path=/")


# -- old HTTP, and sessions that there are not ---------------------------------------------


async def test_http_1_0_is_served_with_a_length_or_to_the_end_of_the_connection(site: Site) -> None:
    async with streamed(site, "GET", "/echo", version="1.0") as answer:
        assert answer.status == 200 and "transfer-encoding" not in answer.headers
        assert await answer.rest() == b"Welcome to SockJS!\n"
    if site.host == "asgi":
        return  # how a stream is framed there is the other server's business, and it sends chunks
    path = f"{new_session('/close')}/xhr_streaming"
    async with streamed(site, "POST", path, version="1.0") as answer:
        assert "transfer-encoding" not in answer.headers and "content-length" not in answer.headers
        assert await answer.rest() == b"h" * 2048 + b"\n" + b'o\nc[3000,"Go away!"]\n'


async def test_any_characters_make_a_session_but_slashes_and_dots(site: Site) -> None:
    for path in ("/a/a", "/_/_", "/1/", "/abcdefgh_i-j%20/abcdefg_i-j%20", "/*/(x)", "/a/%2f"):
        assert await poll(site, f"/echo{path}!any") == "o", path


async def test_the_server_part_of_an_address_means_nothing(site: Site) -> None:
    assert await poll(site, "/echo/000/one") == "o"
    assert (await send(site, "/echo/999/one", "a")).status_code == 204
    assert await poll(site, "/echo/abc/one") == 'a["a"]'


async def test_sending_to_no_session_is_404(site: Site) -> None:
    for name in ("xhr_send", "jsonp_send"):
        for body in ('["x"]', "", "["):
            response = await post(site, f"{new_session()}/{name}", body)
            assert response.status_code == 404


# -- mounts --------------------------------------------------------------------------------


def test_prefixes_are_checked() -> None:
    mounts = SockJsMounts()
    mounts.add("/echo", accept_session)
    for prefix in ("", "/", "echo", "/echo/", "/a//b", "/a b", "/a*", "/echo", "/é"):
        with pytest.raises(SettingsError):
            mounts.add(prefix, accept_session)
    assert mounts.find("/echo") is None, "nothing is served before the start"


async def test_the_longer_prefix_counts(certificate: tuple[str, str]) -> None:
    inner = {"/echo/inner": (close, SockJsOptions()), "/a/b.c/d": (echo, SockJsOptions())}
    async with serving_sockjs("own", certificate, mounts=inner) as site:
        assert await poll(site, "/echo/inner/0/1") == "o"
        assert await poll(site, "/echo/inner/0/1") == 'c[3000,"Go away!"]'
        assert (await site.http.get("/echo/inner")).text == "Welcome to SockJS!\n"
        assert (await site.http.get("/a/b.c/d")).text == "Welcome to SockJS!\n"
        assert (await site.http.get("/a/b.c")).status_code == 404
