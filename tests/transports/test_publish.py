"""POST: what becomes of a body, and what is answered."""

from __future__ import annotations

import asyncio
import base64

import pytest

from everywire.core.limits import Limits
from tests.readers import READERS, take
from tests.serving import Site
from tests.transports.conftest import Serve

FORM = "application/x-www-form-urlencoded"
JSON_TYPES = [None, "application/json", "application/json; charset=utf-8", FORM, "application/ld+json",
              "Application/JSON", "image/svg+json;q=1"]  # fmt: skip


async def post(site: Site, body: bytes, content_type: str | None = None, path: str = "a", **headers: str):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    if content_type is not None:
        fields["Content-Type"] = content_type
    return await site.http.post(f"/channels/{path}", content=body, headers=fields)


@pytest.mark.parametrize("content_type", JSON_TYPES)
async def test_a_json_type_none_or_curls_default_makes_it_json(site: Site, content_type: str | None) -> None:
    response = await post(site, b'{"x": [1, 2]}', content_type)
    assert response.status_code == 201, response.text
    answer = await site.http.get("/channels/a")
    assert answer.json()["publications"][0]["data"] == {"x": [1, 2]}
    refused = await post(site, b"temperature=20", content_type)
    assert refused.status_code == 400
    assert refused.json()["error"]["code"] == 107
    assert len((await site.http.get("/channels/a")).json()["publications"]) == 1


async def test_any_json_value_is_kept_to_the_digit(site: Site) -> None:
    for text in [
        b"null",
        b"true",
        b"0",
        b'""',
        b'"\\u0000\\u2028"',
        b"[]",
        b"{}",
        b"-0",
        b"-0.0",
        b"1.000000000000000000000000001",
        b"123456789012345678901234567890",
        b"1E+2",
        b'{"b":1,"a":2,"b":3}',
        '"ä\u2028\ufeff𝄞"'.encode(),
        b"[" * 200 + b"]" * 200,
    ]:
        posted = await post(site, text)
        assert posted.status_code == 201, text
        answer = await site.http.get("/channels/a")
        assert b'"offset":%d,"data":%s,"time"' % (posted.json()["offset"], text) in answer.content


async def test_what_is_not_json_is_refused_and_nothing_is_published(site: Site) -> None:
    for text in [
        b"",
        b" ",
        b"{",
        b"nul",
        b"NaN",
        b"Infinity",
        b"01",
        b"1 2",
        b"'a'",
        b'"\xff"',
        b'"\xed\xa0\x80"',
        b'"a\nb"',
        b"\xef\xbb\xbf1",
        b"[" * 100_000,
        # What most parsers cannot hold would break the readers (RFC 7493 §2.1, §2.2).
        b'"\\ud800"',
        b"1e999",
    ]:
        response = await post(site, text)
        assert response.status_code == 400
        assert "JSON" in response.json()["error"]["message"]
        assert (await site.http.get("/channels/a")).json()["publications"] == []


async def test_white_space_around_json_does_not_tear_lines(site: Site) -> None:
    async def check(name: str) -> None:
        items = READERS[name](site, "a", after="earliest")
        seen = await take(items, 1)
        assert seen[0]["data"] == {"x": [1, "a\tb"]}
        await items.aclose()

    assert (await post(site, b' {\r\n "x" :\n[1,\r"a\\tb"]}\n')).status_code == 201
    for name in READERS:
        await check(name)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/octet-stream", "image/png; a=b", "text/json"]
)
async def test_any_other_type_makes_it_bytes_of_that_type(site: Site, content_type: str) -> None:
    body = bytes(range(256))
    assert (await post(site, body, content_type)).status_code == 201
    row = (await site.http.get("/channels/a")).json()["publications"][0]
    assert base64.b64decode(row["data_base64"], validate=True) == body
    assert row["content_type"] == content_type
    assert "data" not in row


async def test_bytes_may_be_empty(site: Site) -> None:
    assert (await post(site, b"", "text/plain")).status_code == 201
    assert (await site.http.get("/channels/a")).json()["publications"][0]["data_base64"] == ""


async def test_a_malformed_type_is_refused(site: Site) -> None:
    for content_type in ["nonsense", "text/plain" + "x" * 300]:
        assert (await post(site, b"1", content_type)).status_code == 400


async def test_the_answer_says_where_it_stands_and_how_many_read(site: Site) -> None:
    reader = READERS["sse"](site, "a")
    await take(reader, 1, "open")
    response = await post(site, b"1")
    answer = response.json()
    assert set(answer) == {"offset", "epoch", "position", "subscribers"}
    assert answer["offset"] == 1 and answer["subscribers"] == 1
    assert isinstance(answer["epoch"], str) and answer["epoch"]
    assert response.headers["content-type"] == "application/json"
    second = await post(site, b"2")
    after = (await site.http.get(f"/channels/a?after={answer['position']}")).json()
    assert [row["data"] for row in after["publications"]] == [2]
    assert after["position"] == second.json()["position"]
    await reader.aclose()


async def test_event_and_tags_come_from_the_query(site: Site) -> None:
    path = "a?event=temp%20%C3%A4&tag=room:k%3A1&tag=floor:2&tag=empty:"
    assert (await post(site, b"1", path=path)).status_code == 201
    row = (await site.http.get("/channels/a")).json()["publications"][0]
    assert row["event"] == "temp ä"
    assert row["tags"] == {"room": "k:1", "floor": "2", "empty": ""}
    assert isinstance(row["time"], int)


async def test_what_cannot_be_an_event_or_tag_is_refused(site: Site) -> None:
    for query in [
        *(f"event={name}" for name in ("gap", "binary", "error", "open")),
        "event=",
        "event=a%0Ab",
        "event=a%0Db",
        "event=a%00b",
        "event=%EF%BB%BFa",
        "event=a%E2%80%A8b",
        "event=" + "x" * 129,
        "event=a&event=b",
        "event=%FF",
        "tag=novalue",
        "tag=socketio.skip:0011223344556677",
        "tag=:v",
        "tag=a%0A:b",
        "tag=" + "k" * 200 + ":" + "v" * 100,
        "&".join(f"tag=k{number}:v" for number in range(17)),
        "tags=a:b",
        "after=earliest",
        "&".join(["tag=a:b"] * 100),
    ]:
        response = await post(site, b"1", path=f"a?{query}")
        assert response.status_code == 400, response.text
        assert (await site.http.get("/channels/a")).json()["publications"] == []


async def test_an_unknown_query_value_names_the_allowed_ones(site: Site) -> None:
    message = (await post(site, b"1", path="a?evnt=x")).json()["error"]["message"]
    assert "event" in message and "tag" in message


async def test_one_post_is_for_one_channel(site: Site) -> None:
    assert (await post(site, b"1", path="a,b")).status_code == 400
    assert (await site.http.get("/channels/a,b")).json()["publications"] == []


async def test_a_replay_answers_200_with_the_same_position_and_another_body_422(site: Site) -> None:
    first = await post(site, b"1", Idempotency_Key="k")
    again = await post(site, b"1", Idempotency_Key="k")
    assert (first.status_code, again.status_code) == (201, 200)
    for name in ("offset", "epoch", "position"):
        assert first.json()[name] == again.json()[name]
    for body, path, content_type in ((b"2", "a", None), (b"1", "a?event=x", None), (b"1", "a", "text/plain")):
        refused = await post(site, body, content_type, path, Idempotency_Key="k")
        assert refused.status_code == 422, (body, path)
        assert refused.json()["error"]["code"] == 121
    assert (await post(site, b"2", path="b", Idempotency_Key="k")).status_code == 201
    assert (await post(site, b"1", Idempotency_Key="K")).status_code == 201
    assert len((await site.http.get("/channels/a")).json()["publications"]) == 2


async def test_replays_at_the_same_time_stand_once(site: Site) -> None:
    answers = await asyncio.gather(*[post(site, b"1", Idempotency_Key="k") for _ in range(20)])
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["position"] for answer in answers}) == 1


async def test_a_bad_idempotency_key_is_refused(site: Site) -> None:
    for key in ["", "x" * 256, "ä"]:
        response = await site.http.post(
            "/channels/a", content=b"1", headers={"Idempotency-Key": key.encode()}
        )
        assert response.status_code == 400
        assert (await site.http.get("/channels/a")).json()["publications"] == []


async def test_a_body_of_the_limit_is_taken_and_one_byte_more_is_413(serve: Serve) -> None:
    async with serve(limits=Limits(max_body_bytes=10_000)) as site:
        assert (await post(site, b'"' + b"x" * 9_998 + b'"')).status_code == 201
        refused = await post(site, b'"' + b"x" * 9_999 + b'"')
        assert refused.status_code == 413 and refused.json()["error"]["code"] == 120

        async def chunks():
            for _ in range(20):
                yield b" " * 1_000

        assert (await site.http.post("/channels/a", content=chunks())).status_code == 413
        assert len((await site.http.get("/channels/a")).json()["publications"]) == 1


async def test_a_body_may_come_in_chunks(site: Site) -> None:
    async def chunks():
        for byte in b'{"x": 1}':
            yield bytes([byte])

    assert (await site.http.post("/channels/a", content=chunks())).status_code == 201
    assert (await site.http.get("/channels/a")).json()["publications"][0]["data"] == {"x": 1}
