"""Polling as HTTP: pages and their bounds, ETags, caching, the hint of when to ask again."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import httpx
import pytest

from everywire.access.identity import Action
from everywire.core.limits import Limits
from everywire.core.position import Place, encode_position
from tests.readers import data, page
from tests.serving import Site
from tests.transports.conftest import Serve

PUBLIC = {"dev": False, "api_keys": {"tester": "sesame-sesame"}, "public": {Action.READ: ["open*"]}}
KEY = {"Authorization": "Bearer sesame-sesame"}


def caching(response: httpx.Response) -> set[str]:
    return {word.strip() for word in response.headers["cache-control"].split(",")}


async def positions(site: Site, values: Iterable[object], channel: str = "a") -> list[str]:
    return [(await site.wire.publish(channel, value)).position for value in values]


async def test_a_page_holds_at_most_limit_and_the_position_asks_for_the_rest(site: Site) -> None:
    await positions(site, range(1, 8))
    found: list[int] = []
    position = "earliest"
    for expected in ([1, 2, 3], [4, 5, 6], [7], []):
        answer = await page(site, "a", after=position, limit=3)
        assert data(answer["publications"]) == expected
        found += expected
        position = answer["position"]
    assert found == [1, 2, 3, 4, 5, 6, 7]
    several = await page(site, "a,b", after="earliest", limit=3)
    assert len(several["publications"]) == 3


async def test_a_page_holds_at_most_1000_whatever_the_limit(site: Site) -> None:
    await positions(site, range(1000))
    await positions(site, range(500), "b")
    for limit in (None, 1000, 1001, 10**18):
        assert len((await page(site, "a,b", limit=limit))["publications"]) <= 1000
    assert data((await page(site, "a"))["publications"]) == list(range(1000))


async def test_a_page_holds_at_most_a_mebibyte_and_at_least_one(serve: Serve) -> None:
    async with serve(limits=Limits(max_page_bytes=10_000)) as site:
        await positions(site, ["x" * 3_000] * 4 + ["y" * 50_000] + ["z"])
        sizes = []
        position = "earliest"
        while rows := (answer := await page(site, "a", after=position))["publications"]:
            sizes.append([len(row["data"]) for row in rows])
            position = answer["position"]
        assert sizes == [[3_000] * 3, [3_000], [50_000], [1]]


async def test_a_limit_that_is_none_is_refused(site: Site) -> None:
    for limit in ["0", "-1", "1.5", "", "x", "1e3", "٣", "9" * 30]:
        response = await site.http.get(f"/channels/a?limit={limit}")
        assert response.status_code == 400
        assert "1000" in response.json()["error"]["message"]


async def test_an_unknown_transport_names_the_allowed_ones(site: Site) -> None:
    for query in ["transport=comet", "transport=", "transport=POLL", "transport=websocket"]:
        response = await site.http.get(f"/channels/a?{query}")
        assert response.status_code == 400
        for name in ("poll", "long-poll", "stream", "sse"):
            assert name in response.json()["error"]["message"]


async def test_an_unknown_or_doubled_query_value_is_refused(site: Site) -> None:
    for query in ["aftr=x", "limit=1&limit=2", "wait=1&wait=1", "after=earliest&after=latest", "%FF=1"]:
        response = await site.http.get(f"/channels/a?{query}")
        assert response.status_code == 400
        if query == "aftr=x":
            for name in ("transport", "wait", "after", "last_event_id", "limit"):
                assert name in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("query", "accept", "content_type"),
    [
        ("transport=poll", "text/event-stream", "application/json"),
        ("transport=poll&wait=20", "*/*", "application/json"),
        ("transport=long-poll&wait=0.1", "application/x-ndjson", "application/json"),
        ("transport=stream", "text/event-stream", "application/x-ndjson"),
        ("transport=sse", "application/json", "text/event-stream"),
        ("", "application/json, text/event-stream;q=0", "application/json"),
        ("wait=0.1", "text/html, */*", "application/json"),
        ("wait=20", "text/event-stream", "text/event-stream"),
        ("", "APPLICATION/X-NDJSON; q=0.5, */*;q=0.1", "application/x-ndjson"),
        # What is accepted is a wish and no condition: never 406.
        ("", "image/png", "application/json"),
        ("", "nonsense;;;", "application/json"),
    ],
)
async def test_the_request_chooses_the_transport(
    site: Site, query: str, accept: str, content_type: str
) -> None:
    async with site.http.stream("GET", f"/channels/a?{query}", headers={"Accept": accept}) as response:
        assert response.status_code == 200
        assert response.headers["content-type"] == content_type


# -- ETags -------------------------------------------------------------------------------------------


async def test_304_only_when_if_none_match_matches(site: Site) -> None:
    await positions(site, [1, 2])
    first = await site.http.get("/channels/a")
    tag = first.headers["etag"]
    for match in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        again = await site.http.get("/channels/a", headers={"If-None-Match": match})
        assert again.status_code == 304 and again.content == b"", match
        assert again.headers["etag"] == tag
        assert again.headers["vary"] == first.headers["vary"]
        assert again.headers["cache-control"] == first.headers["cache-control"]
        assert again.headers["everywire-position"] == first.json()["position"]
    for match in ('"other"', tag.strip('"'), "nonsense", ""):
        assert (await site.http.get("/channels/a", headers={"If-None-Match": match})).status_code == 200
    await positions(site, [3])
    changed = await site.http.get("/channels/a", headers={"If-None-Match": tag})
    assert changed.status_code == 200 and changed.headers["etag"] != tag


async def test_if_none_match_never_selects_a_delta(site: Site) -> None:
    await positions(site, [1, 2])
    tag = (await site.http.get("/channels/a")).headers["etag"]
    await positions(site, [3])
    answer = await site.http.get("/channels/a", headers={"If-None-Match": tag})
    assert data(answer.json()["publications"]) == [1, 2, 3]


async def test_the_etag_covers_first_and_last_offset_served_channel_and_gap(site: Site) -> None:
    ends = await positions(site, range(5))
    await positions(site, range(5), "b")
    epoch = (await site.http.head("/channels/a")).headers["everywire-epoch"]
    gap = encode_position([("a", Place("other", 1))])
    paths = [
        "a",
        "b",
        "a,b",
        "a?limit=2",
        f"a?limit=2&after={ends[0]}",
        f"a?after={ends[1]}",
        f"a?after={ends[4]}",
        f"a?after={gap}",
        "never",
    ]
    tags = {path: (await site.http.get(f"/channels/{path}")).headers["etag"] for path in paths}
    assert len(set(tags.values())) == len(paths), tags
    assert all(tag.startswith('"') and tag.endswith('"') and epoch not in tag for tag in tags.values())
    for path, tag in tags.items():
        assert (await site.http.get(f"/channels/{path}")).headers["etag"] == tag


async def test_nothing_new_is_200_with_an_empty_list_and_the_position(site: Site) -> None:
    (end,) = await positions(site, [1])
    response = await site.http.get(f"/channels/a?after={end}")
    assert response.status_code == 200
    assert response.json() == {"publications": [], "position": end}


# -- caching -----------------------------------------------------------------------------------------


async def test_only_full_pages_of_open_channels_are_public(serve: Serve) -> None:
    async with serve(**PUBLIC) as site:
        for channel in ("open", "open-b", "closed"):
            ends = await positions(site, range(5), channel)
        start = encode_position(
            [("open", Place(ends_epoch(ends), 1)), ("open-b", Place(ends_epoch(ends), 1))]
        )
        closed = encode_position([("closed", Place(ends_epoch(ends), 1))])
        gap = encode_position([("open", Place("other", 1))])
        expected = {
            f"open?limit=2&after={start}": True,
            f"open,open-b?limit=4&after={start}": True,
            f"open?after={start}": False,  # reaches the head: not full
            f"open?limit=4&after={start}": False,  # full, but nothing is left out: it is the head
            "open?limit=2": False,  # no position: another page tomorrow
            "open?limit=2&after=earliest": False,
            f"open?limit=2&after={gap}": False,
            f"open,open-c?limit=2&after={start}": False,  # names a new channel
            f"closed?limit=2&after={closed}": False,
            f"open,closed?limit=2&after={start}": False,
            f"open?limit=2&wait=1&after={start}": False,
        }
        for path, is_public in expected.items():
            response = await site.http.get(f"/channels/{path}", headers=KEY)
            assert response.status_code == 200
            words = caching(response)
            if is_public:
                assert "public" in words and "no-store" not in words and "private" not in words, path
            else:
                assert words == {"private", "no-store"}, path
            assert {word.strip() for word in response.headers["vary"].split(",")} >= {"Origin", "Accept"}


def ends_epoch(ends: list[str]) -> str:
    """Return the epoch that positions speak of (a position is opaque: only tests look inside)."""
    import base64

    raw = base64.urlsafe_b64decode(ends[0] + "=" * (-len(ends[0]) % 4))
    return raw[2 : 2 + raw[1]].decode()


@pytest.mark.parametrize("accept", ["application/json", "application/x-ndjson", "text/event-stream"])
async def test_every_answer_varies_and_is_private(site: Site, accept: str) -> None:
    async with site.http.stream("GET", "/channels/a", headers={"Accept": accept}) as response:
        assert {word.strip() for word in response.headers["vary"].split(",")} >= {"Origin", "Accept"}
        assert {"private", "no-store"} <= caching(response)
        if accept != "application/json":
            assert response.headers["x-accel-buffering"] == "no"
            assert "no-transform" in caching(response)
            assert "content-length" not in response.headers


async def test_errors_are_not_kept_either(site: Site) -> None:
    response = await site.http.get("/channels/a?after=nonsense!")
    assert caching(response) == {"private", "no-store"}
    assert response.headers["content-type"] == "application/json"


# -- when to ask again -------------------------------------------------------------------------------


async def test_a_poll_says_when_to_ask_again(site: Site) -> None:
    await positions(site, range(5))
    assert 1 <= int((await site.http.get("/channels/a")).headers["retry-after"]) <= 30
    assert 1 <= int((await site.http.get("/channels/never")).headers["retry-after"]) <= 30
    # More is there already: now.
    assert (await site.http.get("/channels/a?limit=2")).headers["retry-after"] == "0"


# -- other methods and addresses -----------------------------------------------------------------------


async def test_head_is_get_without_the_body(site: Site) -> None:
    await positions(site, [1, 2])
    get = await site.http.get("/channels/a")
    head = await site.http.head("/channels/a")
    assert head.status_code == 200 and head.content == b""
    for name in ("etag", "content-type", "content-length", "cache-control", "vary", "everywire-position"):
        assert head.headers[name] == get.headers[name], name
    assert head.headers["everywire-offset"] == "2"
    assert (
        await site.http.head("/channels/a", headers={"If-None-Match": get.headers["etag"]})
    ).status_code == 304
    for accept, query in itertools.product(("text/event-stream", "application/x-ndjson"), ("", "?wait=20")):
        answer = await site.http.head(f"/channels/a{query}", headers={"Accept": accept})
        assert answer.status_code == 200 and answer.content == b""


async def test_history_is_the_window_whatever_is_accepted(site: Site) -> None:
    ends = await positions(site, range(5))
    for accept in ("*/*", "text/event-stream"):
        answer = await site.http.get("/channels/a/history", headers={"Accept": accept})
        assert data(answer.json()["publications"]) == [0, 1, 2, 3, 4]
        assert answer.json()["position"] == ends[-1]
    answer = await page(site, "a/history", after=ends[1], limit=2)
    assert data(answer["publications"]) == [2, 3]
    assert (await site.http.get("/channels/a/history?wait=1")).status_code == 400


async def test_presence_says_how_many_read(site: Site) -> None:
    nobody: dict[str, Any] = {"channel": "a", "members": [], "clients": 0, "users": 0}
    assert (await site.http.get("/channels/a/presence")).json() == {**nobody, "subscribers": 0}
    async with site.websocket("/channels/a"), site.websocket("/channels/a,b"):
        assert (await site.http.get("/channels/a/presence")).json() == {**nobody, "subscribers": 2}
        answer = (await site.http.get("/channels/a,b,c/presence")).json()
        assert {row["channel"]: row["subscribers"] for row in answer} == {"a": 2, "b": 1, "c": 0}


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("PUT", "/channels/a", {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}),
        ("PATCH", "/channels/a", {"GET", "HEAD", "POST", "DELETE", "OPTIONS"}),
        ("POST", "/channels/a/history", {"GET", "HEAD", "OPTIONS"}),
        ("DELETE", "/channels/a/presence", {"GET", "HEAD", "OPTIONS"}),
        ("POST", "/livez", {"GET", "HEAD"}),
        ("POST", "/", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_is_not_known_is_405_and_names_those_that_are(
    site: Site, method: str, path: str, allow: set[str]
) -> None:
    response = await site.http.request(method, path)
    assert response.status_code == 405, response.text
    assert {word.strip() for word in response.headers["allow"].split(",")} == allow


async def test_options_says_what_is_allowed(site: Site) -> None:
    response = await site.http.options("/channels/a")
    assert response.status_code == 204 and response.content == b""
    assert "POST" in response.headers["allow"]


async def test_a_body_of_any_type_is_taken_so_415_is_never_needed(site: Site) -> None:
    for content_type in ("application/xml", "x/y", "multipart/form-data; boundary=x"):
        response = await site.http.post(
            "/channels/a", content=b"\x00", headers={"Content-Type": content_type}
        )
        assert response.status_code == 201


async def test_a_get_with_a_body_is_answered_and_the_connection_stays_in_step(site: Site) -> None:
    for _ in range(3):
        response = await site.http.request("GET", "/channels/a", content=b"x" * 1000)
        assert response.status_code == 200 and response.json()["publications"] == []
