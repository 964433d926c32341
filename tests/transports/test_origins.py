"""Who may ask at all: Origin, Host and keys, on every transport and method.

The policy's own table of cases is in ``test_gate.py``; here it is shown that no wire goes round it, and
that nothing was done for whom it refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx
import pytest

from everywire.access.identity import Action
from tests.readers import READERS, Refused, page, take
from tests.serving import Site
from tests.transports.conftest import Serve

METHODS: Final = (
    ("GET", "/channels/a"),
    ("GET", "/channels/a/history"),
    ("GET", "/channels/a/presence"),
    ("HEAD", "/channels/a"),
    ("POST", "/channels/a"),
    ("DELETE", "/channels/a"),
    ("OPTIONS", "/channels/a"),
    ("PUT", "/channels/a"),
    ("GET", "/channels/a?wait=1"),
    ("GET", "/channels/bad%20name"),
    ("GET", "/livez"),
    ("GET", "/metrics"),
    ("GET", "/nothing"),
)
KEY: Final = {"Authorization": "Bearer sesame-sesame"}


async def refused_on_every_wire(site: Site, headers: Mapping[str, str], status: int) -> list[dict[str, Any]]:
    """Check that every wire and method refuses these headers; return the errors."""
    await site.publish("a", "secret")
    before = await page(site, "a")
    errors = []
    for name, read in READERS.items():
        with pytest.raises(Refused) as refused:
            await take(read(site, "a", headers, after="earliest"), 1, "")
        assert refused.value.status == status, name
        errors.append(dict(refused.value.error))
    for method, path in METHODS:
        response = await site.http.request(
            method, path, headers=headers, content=b"1" if method == "POST" else None
        )
        assert response.status_code == status, (method, path)
        assert b"secret" not in response.content
        assert "access-control-allow-origin" not in response.headers
    assert await page(site, "a") == before
    assert site.wire.hub.subscribers("a") == 0
    return errors


async def allowed_on_every_wire(site: Site, headers: Mapping[str, str]) -> None:
    """Check that every wire and method takes these headers."""
    await site.publish("a", 1)
    for read in READERS.values():
        items = read(site, "a", headers, after="earliest")
        assert (await take(items, 1))[0]["data"] == 1
        await items.aclose()
    response = await site.http.post("/channels/b", headers=headers, content=b"1")
    assert response.status_code == 201
    assert (await site.http.delete("/channels/b", headers=headers)).status_code == 204


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:1",
        "http://127.0.0.1.evil.example",
        "file://",
        "nonsense",
        "",
    ],
)
async def test_a_foreign_origin_is_refused(site: Site, origin: str) -> None:
    for error in await refused_on_every_wire(site, {"Origin": origin}, 403):
        assert error["name"] == "foreign_origin" and "allowed_origins" in error["message"]


async def test_the_same_host_by_another_scheme_is_foreign(site: Site) -> None:
    other = "http" if site.url.startswith("https") else "https"
    await refused_on_every_wire(site, {"Origin": f"{other}://{site.authority}"}, 403)


async def test_without_origin_a_cross_site_request_is_refused(site: Site) -> None:
    await refused_on_every_wire(site, {"Sec-Fetch-Site": "cross-site"}, 403)
    navigation = {
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert (await site.http.get("/", headers=navigation)).status_code == 200
    assert (await site.http.get("/channels/a", headers=navigation)).status_code == 403
    framed = {**navigation, "Sec-Fetch-Dest": "iframe"}
    assert (await site.http.get("/", headers=framed)).status_code == 403


async def test_the_own_origin_and_none_are_allowed(site: Site) -> None:
    await allowed_on_every_wire(site, {"Origin": site.url})
    await allowed_on_every_wire(site, {})
    await allowed_on_every_wire(site, {"Sec-Fetch-Site": "same-origin"})
    await allowed_on_every_wire(site, {"Sec-Fetch-Site": "none"})


async def test_a_listed_origin_is_allowed_and_told_so(serve: Serve) -> None:
    async with serve(allowed_origins=["https://friend.example"]) as site:
        friend = {"Origin": "https://friend.example"}
        await allowed_on_every_wire(site, friend)
        for accept in ("application/json", "text/event-stream", "application/x-ndjson"):
            headers = {**friend, "Accept": accept}
            async with site.http.stream("GET", "/channels/a", headers=headers) as response:
                assert response.headers["access-control-allow-origin"] == "https://friend.example"
                assert "Origin" in response.headers["vary"]
                assert "ETag" in response.headers["access-control-expose-headers"]
        bad = await site.http.get("/channels/a?after=x!", headers=friend)
        assert bad.status_code == 400  # a page can read why
        assert bad.headers["access-control-allow-origin"] == "https://friend.example"
        preflight = await site.http.options(
            "/channels/a", headers={**friend, "Access-Control-Request-Method": "POST"}
        )
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        for field in ("Last-Event-ID", "Idempotency-Key", "Content-Type", "Authorization"):
            assert field in preflight.headers["access-control-allow-headers"]
        await refused_on_every_wire(site, {"Origin": "https://other.example"}, 403)


async def test_with_a_star_any_origin_is_allowed_without_credentials(serve: Serve) -> None:
    async with serve(allowed_origins=["*"]) as site:
        for origin in ("https://anyone.example", "null"):
            await allowed_on_every_wire(site, {"Origin": origin})
            response = await site.http.get("/channels/a", headers={"Origin": origin})
            assert response.headers["access-control-allow-origin"] == "*"
            assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "0.0.0.0"])
async def test_a_name_that_somebody_pointed_at_loopback_is_refused(site: Site, host: str) -> None:
    """DNS rebinding: the page's origin and the Host agree, and both are foreign."""
    errors = await refused_on_every_wire(
        site, {"Host": host, "Origin": f"{site.url.partition(':')[0]}://{host}"}, 403
    )
    assert {error["name"] for error in errors} == {"foreign_host"}
    await refused_on_every_wire(site, {"Host": host}, 403)


async def test_loopback_names_and_allowed_hosts_are_served(serve: Serve) -> None:
    async with serve(allowed_hosts=["chat.example", "*.friend.example"]) as site:
        for host in (
            "localhost",
            "LOCALHOST:80",
            "127.0.0.1:9",
            "[::1]:80",
            "chat.example",
            "a.friend.example",
        ):
            assert (await site.http.get("/channels/a", headers={"Host": host})).status_code == 200, host


# -- keys -------------------------------------------------------------------------------------------------


def guarded(serve: Serve) -> Any:
    return serve(
        dev=False,
        api_keys={"tester": "sesame-sesame"},
        public={Action.READ: ["news*"], Action.PUBLISH: ["guestbook"], Action.PRESENCE: ["news*"]},
    )


async def status(site: Site, method: str, path: str, headers: Mapping[str, str]) -> httpx.Response:
    return await site.http.request(method, path, headers=headers, content=b"1" if method == "POST" else None)


async def test_without_a_rule_nothing_may_be_done(serve: Serve) -> None:
    async with guarded(serve) as site:
        for method, path, is_open in (
            ("GET", "/channels/news-1", True),
            ("GET", "/channels/news-1/history", True),
            ("GET", "/channels/news-1/presence", True),
            ("POST", "/channels/guestbook", True),
            ("GET", "/channels/guestbook", False),
            ("GET", "/channels/secret", False),
            ("HEAD", "/channels/secret", False),
            ("GET", "/channels/secret/history", False),
            ("GET", "/channels/secret/presence", False),
            ("POST", "/channels/news-1", False),
            ("DELETE", "/channels/news-1", False),
            ("DELETE", "/channels/guestbook", False),
        ):
            response = await status(site, method, path, {})
            if is_open:
                assert response.status_code in (200, 201), (method, path)
                continue
            assert response.status_code in (401, 403), (method, path)
            if method != "HEAD":
                error = response.json()["error"]
                assert error["channel"] == path.split("/")[2]
            if response.status_code == 401:
                assert "Bearer" in response.headers["www-authenticate"]
            assert (await status(site, method, path, KEY)).status_code in (200, 201, 204), (method, path)
            by_other_field = {"X-API-Key": "sesame-sesame"}
            assert (await status(site, method, path, by_other_field)).status_code < 300


@pytest.mark.parametrize("name", READERS)
async def test_one_forbidden_channel_refuses_the_request_and_is_named(serve: Serve, name: str) -> None:
    async with guarded(serve) as site:
        await site.publish("news-1", 1)
        with pytest.raises(Refused) as refused:
            await take(READERS[name](site, "news-1,secret,news-2", after="earliest"), 1, "")
        assert refused.value.status in (401, 403)
        assert refused.value.error["channel"] == "secret"
        assert site.wire.hub.subscribers("news-1") == 0
        for credential in (KEY, {"X-API-Key": "sesame-sesame"}):
            items = READERS[name](site, "news-1,secret", credential, after="earliest")
            assert (await take(items, 1))[0]["data"] == 1
            await items.aclose()


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic c2VzYW1lOg=="},
        {"Authorization": "sesame-sesame"},
        {"X-API-Key": "wrong"},
        {"X-API-Key": ""},
    ],
)
async def test_a_credential_that_proves_nobody_is_refused_even_where_none_is_needed(
    serve: Serve, headers: dict[str, str]
) -> None:
    async with guarded(serve) as site:
        for method, path in (("GET", "/channels/news-1"), ("POST", "/channels/guestbook")):
            response = await status(site, method, path, headers)
            assert response.status_code == 401, (method, headers)
            assert response.json()["error"]["code"] == 101


async def test_a_replay_is_known_by_the_identity_that_sent_it(serve: Serve) -> None:
    async with guarded(serve) as site:
        key = {"Idempotency-Key": "k"}
        mine = await status(site, "POST", "/channels/guestbook", {**KEY, **key})
        anybody = await status(site, "POST", "/channels/guestbook", key)
        assert (mine.status_code, anybody.status_code) == (201, 201)
        assert (await status(site, "POST", "/channels/guestbook", {**KEY, **key})).status_code == 200
