"""Engine.IO and the pages of other sites: origins, preflights, JSONP."""

from __future__ import annotations

import json
from urllib.parse import quote

import pytest
import websockets

from everywire.sockets.engine_options import EngineOptions
from tests.serving import Site
from tests.transports.engines import PATH, EngineWire, Polling, open_polling, open_socket
from tests.transports.test_engineio import ServeEngines, serve_engines, site, wire_of

__all__ = ["serve_engines", "site"]

OPEN = f"{PATH}?EIO=4&transport=polling"
LISTED = "https://app.example"


# -- origins -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
        {"Host": "evil.example"},
    ],
)
async def test_foreign_pages_get_nothing_and_make_nothing(site: Site, fields: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        answer = await site.http.request(method, OPEN, headers=fields)
        assert answer.status_code == 403
        assert answer.json().keys() == {"code", "message"}
        assert answer.json()["code"] == 4
        assert "access-control-allow-origin" not in answer.headers
    with pytest.raises(websockets.InvalidStatus) as refused:
        async with open_socket(site, headers=fields):
            pass
    assert refused.value.response.status_code == 403
    assert wire_of(site).uppers == []


async def test_foreign_pages_cannot_use_a_connection_whose_id_they_know(site: Site) -> None:
    client = await open_polling(site)
    evil = {"Origin": "https://evil.example"}
    for method in ("GET", "POST"):
        answer = await site.http.request(method, client.target, headers=evil)
        assert answer.status_code == 403
    with pytest.raises(websockets.InvalidStatus):
        async with client.socket(headers=evil):
            pass
    await client.send("4hello")
    assert await client.poll() == "4hello"


@pytest.mark.parametrize("allow_credentials", [False, True])
async def test_listed_pages_are_told_so_on_every_answer(
    serve_engines: ServeEngines, allow_credentials: bool
) -> None:
    wire = EngineWire(allowed_origins=[LISTED], allow_credentials=allow_credentials)
    async with serve_engines(wire=wire) as site:
        page = {"Origin": LISTED}
        opened = await site.http.get(OPEN, headers=page)
        client = Polling(site, json.loads(opened.text[1:]))
        posted = await site.http.post(client.target, content=b"4x", headers=page)
        polled = await site.http.get(client.target, headers=page)
        wrong = await site.http.get(f"{PATH}?EIO=4", headers=page)
        preflight = await site.http.options(OPEN, headers={**page, "Access-Control-Request-Method": "POST"})
        assert [answer.status_code for answer in (opened, posted, polled, wrong)] == [200, 200, 200, 400]
        assert preflight.status_code == 204
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "content-type" in preflight.headers["access-control-allow-headers"].lower()
        for answer in (opened, posted, polled, wrong, preflight):
            assert answer.headers["access-control-allow-origin"] == LISTED
            credentials = answer.headers.get("access-control-allow-credentials")
            assert credentials == ("true" if allow_credentials else None)
        for answer in (opened, posted, polled, wrong):
            assert "Origin" in answer.headers["vary"]


# -- JSONP ---------------------------------------------------------------------------

OWN_PAGE = {"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}


def script_of(text: str, index: str) -> str:
    """Return the payload in a script."""
    head, tail = f"___eio[{index}](", ");"
    assert text.startswith(head)
    assert text.endswith(tail)
    payload = json.loads(text.removeprefix(head).removesuffix(tail))
    assert isinstance(payload, str)
    return payload


async def test_a_conversation_by_scripts_and_forms(site: Site) -> None:
    opened = await site.http.get(OPEN + "&j=0", headers=OWN_PAGE)
    assert opened.headers["content-type"] == "text/javascript; charset=UTF-8"
    assert opened.headers["x-content-type-options"] == "nosniff"
    client = Polling(site, json.loads(script_of(opened.text, "0")[1:]))
    text = '4</script>\u2028\u2029"\\n\n\x1e4ü😀'
    form = "d=" + quote(text.replace("\\n", "\\\\n").replace("\n", "\\n"))
    fields = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    posted = await site.http.post(client.target + "&j=1", content=form, headers=fields)
    assert (posted.status_code, posted.text) == (200, "ok")
    assert posted.headers["content-type"] == "text/html; charset=UTF-8"
    assert posted.headers["x-content-type-options"] == "nosniff"
    polled = await site.http.get(client.target + "&j=2", headers=OWN_PAGE)
    assert script_of(polled.text, "2") == text
    assert polled.text.isascii() or not any(char in polled.text for char in "\u2028\u2029<>")


async def test_scripts_of_version_3(site: Site) -> None:
    answer = await site.http.get(f"{PATH}?EIO=3&transport=polling&j=7", headers=OWN_PAGE)
    payload = script_of(answer.text, "7")
    client = Polling(site, json.loads(payload.partition(":0")[2]), version=3)
    await client.send("2:4ü10:b4AQIDBA==")
    polled = await site.http.get(client.target + "&j=8", headers=OWN_PAGE)
    assert script_of(polled.text, "8") == "2:4ü10:b4AQIDBA=="


@pytest.mark.parametrize(
    "index",
    [
        "",
        "a",
        "0);alert(1)//",
        "%20",
        "*",
        "abc(",
        "<script>alert(1)</script>",
        "1" * 5000,
        "٣",
        "-1",
        "1.5",
        "0x1",
    ],
)
async def test_an_index_is_digits(site: Site, index: str) -> None:
    answer = await site.http.get(OPEN + "&j=" + quote(index), headers=OWN_PAGE)
    assert (answer.status_code, answer.json()) == (400, {"code": 3, "message": "Bad request"})
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert wire_of(site).uppers == []


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({}, 403),  # says nothing of where it comes from
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "script"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Referer": "https://evil.example/"}, 403),
        ({"Referer": "https://evil.example/page"}, 403),
        ({"Referer": "https://[bad"}, 403),
        ({"Referer": "about:blank"}, 403),
        ({"Referer": "{own}/page"}, 200),
        ({"Referer": f"{LISTED}/page?x"}, 200),
        ({"Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": LISTED}, 200),
    ],
)
async def test_scripts_are_for_pages_that_may_come(
    serve_engines: ServeEngines, fields: dict[str, str], status: int
) -> None:
    wire = EngineWire(allowed_origins=[LISTED])
    async with serve_engines(wire=wire) as site:
        said = {name: value.replace("{own}", site.url) for name, value in fields.items()}
        answer = await site.http.get(OPEN + "&j=0", headers=said)
        assert answer.status_code == status
        assert len(wire.uppers) == (status == 200)
        client = await open_polling(site)
        wire.upper.say("secret")
        answer = await site.http.get(client.target + "&j=0", headers=said)
        assert answer.status_code == status
        assert ("secret" in answer.text) == (status == 200)


async def test_scripts_can_be_off(serve_engines: ServeEngines) -> None:
    async with serve_engines(wire=EngineWire(EngineOptions("engineio", allow_jsonp=False))) as site:
        assert (await site.http.get(OPEN + "&j=0", headers=OWN_PAGE)).status_code == 400
        await open_polling(site)


async def test_a_form_above_the_limit_is_refused(serve_engines: ServeEngines) -> None:
    async with serve_engines(wire=EngineWire(EngineOptions("engineio", max_payload=100))) as site:
        client = await open_polling(site)
        for form in ("d=" + "%41" * 101, "d=" + "x" * 400):
            answer = await site.http.post(client.target + "&j=0", content=form)
            assert (answer.status_code, answer.json()["code"]) == (413, 3)
            client = await open_polling(site)
