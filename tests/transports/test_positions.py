"""Positions: every form of one, on every wire, and from one wire to another."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from everywire.core.position import Place, encode_position
from tests.readers import READERS, TELLING, Refused, data, page, take
from tests.serving import Site, until

LIVE = ("long-poll", "stream", "sse", "everywire.json", "websocket")
UNREADABLE = ("nonsense!", "AAAA", "x" * 2000, "0", "%00", "é")


async def positions(site: Site, number: int = 5, channel: str = "a") -> list[str]:
    """Publish 1, 2, 3, …; return the position after each."""
    return [(await site.wire.publish(channel, value)).position for value in range(1, number + 1)]


@pytest.mark.parametrize("name", READERS)
async def test_a_position_is_taken_as_after_and_last_event_id_and_header(site: Site, name: str) -> None:
    third = (await positions(site))[2]
    for query, headers in (
        ({"after": third}, {}),
        ({"last_event_id": third}, {}),
        ({}, {"Last-Event-ID": third}),
    ):
        items = READERS[name](site, "a", headers, **query)
        assert data(await take(items, 2)) == [4, 5], (query, headers)
        await items.aclose()


@pytest.mark.parametrize("name", READERS)
async def test_the_header_wins_over_last_event_id_and_that_over_after(site: Site, name: str) -> None:
    first, second, third, fourth, _ = await positions(site)
    for query, headers, expected in (
        ({"after": first, "last_event_id": second}, {"Last-Event-ID": fourth}, 5),
        ({"after": fourth}, {"Last-Event-ID": third}, 4),
        ({"after": fourth, "last_event_id": second}, {}, 3),
        ({"after": "latest", "last_event_id": second}, {}, 3),
        ({"after": second}, {"Last-Event-ID": "earliest"}, 1),
    ):
        items = READERS[name](site, "a", headers, **query)
        assert data(await take(items, 1)) == [expected]
        await items.aclose()


@pytest.mark.parametrize("name", READERS)
async def test_the_words_earliest_and_latest_count_wherever_a_position_does(site: Site, name: str) -> None:
    await positions(site)
    for query, headers in (
        ({"after": "earliest"}, {}),
        ({"last_event_id": "earliest"}, {}),
        ({}, {"Last-Event-ID": "earliest"}),
    ):
        items = READERS[name](site, "a", headers, **query)
        assert data(await take(items, 5)) == [1, 2, 3, 4, 5]
        await items.aclose()
    for number, (query, headers) in enumerate(
        (({"after": "latest"}, {}), ({"last_event_id": "latest"}, {}), ({}, {"Last-Event-ID": "latest"}))
    ):
        items = READERS[name](site, "a", headers, **({"wait": "0.05"} if name == "long-poll" else {}) | query)
        await take(items, 1, "open")
        await site.publish("a", f"later {number}")
        assert data(await take(items, 1)) == [f"later {number}"]
        await items.aclose()


async def test_without_a_position_a_poll_gives_the_window(site: Site) -> None:
    await positions(site)
    assert data((await page(site, "a"))["publications"]) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("name", LIVE)
async def test_without_a_position_the_others_start_live(site: Site, name: str) -> None:
    await positions(site)
    items = READERS[name](site, "a")
    first = asyncio.ensure_future(take(items, 1))
    # A long poll says nothing before it answers: wait until it is there.
    await until(lambda: site.wire.hub.subscribers("a"))
    await site.publish("a", "live")
    assert data(await first) == ["live"]
    await items.aclose()


@pytest.mark.parametrize("name", READERS)
async def test_a_bad_after_is_refused_even_when_another_position_wins(site: Site, name: str) -> None:
    (first,) = await positions(site, 1)
    for bad in ("nonsense!", "AAAA", "x" * 2000, "", "0", "Earliest"):
        for more in ({}, {"last_event_id": first}):
            with pytest.raises(Refused) as refused:
                await take(READERS[name](site, "a", after=bad, **more), 1)
            assert refused.value.status == 400
            assert refused.value.error["code"] == 107 and "position" in refused.value.error["message"]


@pytest.mark.parametrize("name", TELLING)
async def test_an_unreadable_last_event_id_is_a_reset_and_never_an_error(site: Site, name: str) -> None:
    await positions(site, 2)
    for bad in UNREADABLE:
        ways = [({}, {"Last-Event-ID": bad.encode()})]
        if bad.isascii():
            ways.append(({"last_event_id": bad}, {}))
        for query, headers in ways:
            if name == "everywire.json":
                headers = {key: value.decode("latin-1") for key, value in headers.items()}
                if bad == "é":
                    continue
            items = READERS[name](site, "a", headers, **query)
            seen = await take(items, 4, "")
            assert seen[1]["gap"] == {"from": None, "to": None, "reason": "reset"}
            assert data(seen[2:]) == [1, 2]
            await items.aclose()


@pytest.mark.parametrize("name", TELLING)
async def test_an_empty_last_event_id_is_none(site: Site, name: str) -> None:
    first, _ = await positions(site, 2)
    for query, headers in (
        ({"after": first}, {"Last-Event-ID": ""}),
        ({"after": first, "last_event_id": ""}, {}),
    ):
        items = READERS[name](site, "a", headers, **query)
        seen = await take(items, 2, "")
        assert seen[1]["data"] == 2
        await items.aclose()


async def test_each_position_of_any_wire_is_good_on_any_other(site: Site) -> None:
    expected: dict[str, list[int]] = {}
    await positions(site, 4)
    for name in TELLING:
        items = READERS[name](site, "a", after="earliest")
        for seen in await take(items, 4):
            expected.setdefault(seen["position"], []).append(seen["data"])
        await items.aclose()
    # All wires tell the same position for the same publication.
    assert list(expected.values()) == [[number] * len(TELLING) for number in (1, 2, 3, 4)]
    for (position, (after, *_)), name in itertools.product(list(expected.items())[:3], READERS):
        items = READERS[name](site, "a", after=position)
        assert data(await take(items, 4 - after)) == list(range(after + 1, 5))
        await items.aclose()


@pytest.mark.parametrize("name", ["stream", "sse", "everywire.json"])
async def test_an_answer_begins_with_its_position(site: Site, name: str) -> None:
    """So that a reader that is cut before its first publication misses nothing."""
    third = (await positions(site))[2]
    for after, missed in (("earliest", [1, 2, 3, 4, 5]), (third, [4, 5]), (None, [])):
        items = READERS[name](site, "a", after=after)
        (opening,) = await take(items, 1, "")
        await items.aclose()
        assert opening["new"] == []
        assert data((await page(site, "a", after=opening["open"]))["publications"]) == missed
    items = READERS[name](site, "a")
    (opening,) = await take(items, 1, "")
    await items.aclose()
    await site.publish("a", 6, 7)
    again = READERS[name](site, "a", after=opening["open"])
    assert data(await take(again, 2)) == [6, 7]
    await again.aclose()


@pytest.mark.parametrize("name", TELLING)
async def test_with_another_set_of_channels_known_ones_go_on_and_new_ones_start_live(
    site: Site, name: str
) -> None:
    await positions(site, 2, "a")
    await positions(site, 2, "b")
    first = (await page(site, "a,b", limit=2))["position"]
    await positions(site, 2, "c")
    items = READERS[name](site, "a,c", after=first)
    seen = await take(items, 2, "")
    assert [sorted(item.get("new", [])) for item in seen if "open" in item][-1] == ["c"]
    if "open" in seen[1]:  # SSE names them in an event of its own
        seen[1:] = await take(items, 1, "")
    assert (seen[1]["channel"], seen[1]["data"]) == ("a", 2)
    more = asyncio.ensure_future(take(items, 1))
    await asyncio.sleep(0)
    await site.publish("c", "live")
    (live,) = await more
    assert (live["channel"], live["data"]) == ("c", "live")
    await items.aclose()


async def test_a_position_forgets_no_place_of_the_channels_that_are_asked_for(site: Site) -> None:
    await positions(site, 3, "a")
    await positions(site, 3, "b")
    both = (await page(site, "a,b", limit=2))["position"]
    alone = await page(site, "b", after=both)
    assert data(alone["publications"]) == [2, 3]
    assert "new" not in alone


async def test_a_channel_never_published_to_stands_at_offset_0(site: Site) -> None:
    items = READERS["sse"](site, "a")
    (opening,) = await take(items, 1, "open")
    await site.publish("a", 1)
    (seen,) = await take(items, 1)
    assert seen["data"] == 1
    epoch = (await site.http.head("/channels/a")).headers["everywire-epoch"]
    assert opening["open"] == encode_position([("a", Place(epoch, 0))])
    assert seen["position"] == encode_position([("a", Place(epoch, 1))])
    await items.aclose()


async def test_a_position_is_url_safe_and_small(site: Site) -> None:
    names = ",".join(f"{'x' * 240}{number}" for number in range(32))
    position = (await page(site, names))["position"]
    assert len(position) <= 1024
    assert position.replace("-", "").replace("_", "").isalnum()


async def test_a_channel_that_was_forgotten_goes_on_above_and_says_what_is_gone(site: Site) -> None:
    """No (epoch, offset) is ever used twice: the store keeps the highest offset that it forgot."""
    old = (await positions(site, 3))[0]
    await positions(site, 20, "b")
    for name in ("a", "b"):
        site.wire.broker.log._forget(name)  # type: ignore[attr-defined]  # as the sweep does in time
    (again,) = await positions(site, 1)
    for name in TELLING:
        items = READERS[name](site, "a", after=old)
        seen = await take(items, 3, "")
        assert seen[1]["gap"] == {"from": 2, "to": 20, "reason": "trimmed"}, name
        assert (seen[2]["data"], seen[2]["position"]) == (1, again)
        await items.aclose()
