"""Channel names and lists of them, as they stand in an address."""

from __future__ import annotations

from tests.serving import Site

ALL = "ABCXYZabcxyz0189._:~@$#=+-"


def escaped(name: str) -> str:
    return "".join(f"%{ord(character):02X}" for character in name)


async def first_data(site: Site, path: str) -> object:
    response = await site.http.get(path)
    assert response.status_code == 200, response.text
    return response.json()["publications"][0]["data"]


async def test_every_character_of_a_name_is_taken_escaped_or_as_it_is(site: Site) -> None:
    for name in ("a", "A", "a" * 255, ALL, ".", "..", "-", "history", "presence", "a:b@c"):
        await site.wire.publish(name, name)
        # httpx would resolve dots and cut at "#": what must be escaped in an address is.
        assert await first_data(site, f"/channels/{escaped(name)}") == name
    assert await first_data(site, "/channels/A.:~@$%23=+-".replace("A.:", "ABCXYZabcxyz0189._:")) == ALL


async def test_anything_else_is_a_bad_request_on_every_method(site: Site) -> None:
    for path in [
        "",
        "a%20b",
        "a%2Fb",
        "a%2Cb",
        "a*",
        "%00",
        "a%0Ab",
        "%7Fa",
        "%C3%A4",
        "%FF",
        "a%3Fb",
        "a%25b",
        "a%2",
        "a%zz",
        "a,,b",
        ",a",
        "a,",
        "x" * 256,
        ",".join(f"c{number}" for number in range(33)),
    ]:
        for method in ("GET", "POST", "DELETE"):
            response = await site.http.request(
                method, f"/channels/{path}", content=b"1" if method == "POST" else None
            )
            assert response.status_code == 400, (method, response.text)
            error = response.json()["error"]
            assert error["code"] == 107 and error["name"] == "bad_request" and error["message"]
            head = await site.http.head(f"/channels/{path}")
            assert head.status_code == 400 and head.content == b""


async def test_names_are_percent_decoded_once(site: Site) -> None:
    # %2561 is "%61" after one decoding, which is no name; decoded twice it would be "a".
    assert (await site.http.get("/channels/%2561")).status_code == 400
    await site.publish("a", 1)
    assert await first_data(site, "/channels/%61") == 1


async def test_names_are_case_sensitive(site: Site) -> None:
    await site.publish("Case", "upper")
    await site.publish("case", "lower")
    assert await first_data(site, "/channels/Case") == "upper"
    assert await first_data(site, "/channels/case") == "lower"


async def test_a_request_reads_up_to_32_channels_in_any_order_and_each_once(site: Site) -> None:
    names = [f"c{number}" for number in range(32)]
    for name in names:
        await site.publish(name, name)
    answer = (await site.http.get(f"/channels/{','.join([*reversed(names), 'c0'][:32])}")).json()
    assert sorted(row["data"] for row in answer["publications"]) == sorted(names)
    assert len(answer["position"]) <= 1024
    assert (await site.http.get("/channels/c1,c1")).json() == (await site.http.get("/channels/c1")).json()


async def test_a_plus_is_itself_and_no_space(site: Site) -> None:
    await site.publish("a+b", 1)
    assert await first_data(site, "/channels/a+b") == 1


async def test_there_is_nothing_below_a_channel_but_history_and_presence(site: Site) -> None:
    for path in ("a/", "a/b", "a/history/", "a/presence/x", "a//history"):
        response = await site.http.get(f"/channels/{path}")
        assert response.status_code == 404, path
        assert response.json()["error"]["code"] == 102
    assert (await site.http.get("/channels")).status_code == 404


async def test_reading_creates_no_channel(site: Site) -> None:
    for number in range(50):
        answer = (await site.http.get(f"/channels/never-{number}")).json()
        assert answer["publications"] == [] and "gap" not in answer
    assert len(site.wire.broker.log) == 0  # type: ignore[arg-type]
    response = await site.http.head("/channels/never-0")
    assert response.headers["everywire-offset"] == "0"
    published = await site.http.post("/channels/never-0", content=b"1")
    assert published.json()["offset"] == 1
