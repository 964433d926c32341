"""The JavaScript client on hostile paths, in Node and in Chromium: which transport wins, and why."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from tests.cli.commands import DEADLINE_S, running
from tests.e2e.conftest import BROWSER, run_node
from tests.e2e.hostile_proxy import HELD_BYTES, Faults, proxying
from tests.e2e.test_browser import chromium

pytestmark = pytest.mark.xdist_group("busy")

SCRIPTS: Final = Path(__file__).parents[1] / "clients_js"
CUT_S: Final = 3.0
SECONDS_MS: Final = 9_000
"""The first connection takes seconds, not tens of them, even here where many are made at once."""

REFUSED = "handshake failed"
SILENT = "answered, and then nothing came"
HELD_BODY = "its body is held back"
HELD_ANSWER = "the request was not answered"


class Case(NamedTuple):
    """A path, the transport that has to win on it, and why those before it did not."""

    faults: dict[str, Any]
    winner: str
    reasons: dict[str, str] = {}  # noqa: RUF012


STRIPPED: Final = {"strips_upgrade": True}
FORBIDDEN: Final = {"forbids_upgrade": True}
SILENCE: Final = {"is_silent": True}
CUT: Final = {"cut_s": CUT_S}
HELD: Final = {"held_bytes": HELD_BYTES}
ALL_HELD: Final = {"holds_all": True}


def cases() -> dict[str, Case]:
    """Every fault, and every pair that can be."""
    found = {"nothing": Case({}, "websocket")}
    bodies = {"cut": CUT, "held": HELD, "all held": ALL_HELD}
    for name, body in bodies.items():
        found[name] = Case(body, "websocket")
    upgrades = {
        "stripped": (STRIPPED, REFUSED),
        "forbidden": (FORBIDDEN, REFUSED),
        "silence": (SILENCE, SILENT),
    }
    held_bodies = {"held": (HELD, HELD_BODY), "all held": (ALL_HELD, HELD_ANSWER)}
    for name, (upgrade, why) in upgrades.items():
        found[name] = Case(upgrade, "http_stream", {"websocket": why})
        found[f"{name}, cut"] = Case(upgrade | CUT, "http_stream", {"websocket": why})
        for body_name, (body, held) in held_bodies.items():
            reasons = {"websocket": why, "http_stream": held, "sse": held}
            found[f"{name}, {body_name}"] = Case(upgrade | body, "long-poll", reasons)
    found["held, cut"] = Case(HELD | CUT, "websocket")
    found["all held, cut"] = Case(ALL_HELD | CUT, "websocket")
    found["stripped, all held, cut"] = Case(
        STRIPPED | ALL_HELD | CUT,
        "long-poll",
        {"websocket": REFUSED, "http_stream": HELD_ANSWER, "sse": HELD_ANSWER},
    )
    return found


CASES: Final = cases()


async def chat_on(names: list[str], script: Path) -> dict[str, Any]:
    """Run the chat on these paths at once, each in a room of its own."""
    async with AsyncExitStack() as stack:
        serving = await stack.enter_async_context(running("--dev", deadline_s=6 * DEADLINE_S))
        asked = {}
        for number, name in enumerate(names):
            proxy = await stack.enter_async_context(proxying(serving.url, Faults(**CASES[name].faults)))
            # Where paths are cut, the chat lasts long enough to be cut.
            hold_ms = round(2000 * CUT_S) if "cut_s" in CASES[name].faults else 0
            asked[name] = {"url": proxy.url, "room": f"room-{number}", "holdMs": hold_ms}
        return await run_node(script, json.dumps(asked))


def check_heard(name: str, told: dict[str, Any]) -> None:
    """Both heard everything once and in the same order, and saw each other."""
    assert told["present"] == ["alice", "bob"], name
    alice, bob = told["talkers"]["alice"], told["talkers"]["bob"]
    assert alice["seen"] == bob["seen"], name
    ids = [message["id"] for message in alice["seen"]]
    assert len(ids) == len(set(ids)) == 16, (name, ids)
    assert [message["offset"] for message in alice["seen"]] == list(range(1, 17)), name
    for talker in (alice, bob):
        mine = [id_ for id_ in ids if id_.startswith(talker["name"])]
        said = [f"{talker['name']} {index}" for index in range(5)]
        assert mine[:5] == said, name
        assert talker["gaps"] == [], name
    assert alice["outcomes"][0] == "new", name
    assert set(alice["outcomes"][1:]) == {"recovered"}, (name, alice["outcomes"])


def check_choice(name: str, told: dict[str, Any]) -> None:
    """The right transport won, in seconds, and it is told why the others did not."""
    case = CASES[name]
    alice, bob = told["talkers"]["alice"], told["talkers"]["bob"]
    trail = (name, alice["first"], alice["connectMs"], alice["attempts"])
    assert alice["first"] == bob["first"] == case.winner, trail
    assert alice["connectMs"] < SECONDS_MS, trail
    attempts = alice["attempts"]
    first = attempts[: len(case.reasons) + 1]
    assert {attempt["transport"] for attempt in first} == {*case.reasons, case.winner}, trail
    for attempt in first:
        if attempt["transport"] == case.winner:
            assert attempt["outcome"] == "won", trail
        else:
            assert attempt["outcome"] in ("blocked", "late"), trail
            assert case.reasons[attempt["transport"]] in attempt["reason"], trail
    # Bob knows from alice what works here, and tries nothing else.
    assert [(row["transport"], row["outcome"]) for row in bob["attempts"][:1]] == [(case.winner, "won")], name
    if "cut_s" in case.faults and case.winner != "long-poll":
        assert bob["losses"], name
        assert any("broke off" in reason or "ended" in reason for reason in bob["losses"]), bob["losses"]


def check(results: dict[str, Any]) -> None:
    for name, told in results.items():
        assert "error" not in told, f"{name}: {told['error']}"
        check_heard(name, told)
        check_choice(name, told)


BATCHES: Final = [list(CASES)[start : start + 10] for start in range(0, len(CASES), 10)]


@pytest.mark.parametrize("names", BATCHES, ids=["first half", "second half"])
async def test_a_chat_in_node_on_every_path(names: list[str]) -> None:
    check(await chat_on(names, SCRIPTS / "chat_node.mjs"))


@pytest.mark.parametrize("names", BATCHES, ids=["first half", "second half"])
async def test_a_chat_in_chromium_on_every_path(names: list[str]) -> None:
    chromium()
    results = await chat_on(names, BROWSER / "chat_page.mjs")
    check(results)
    for told in results.values():
        assert all(key.startswith("everywire:http://") for key in told["remembered"])


async def cut_often(seed: int, folder: Path) -> None:
    """Cut a client of three channels and change its transport a thousand times; see the test below."""
    settings = folder / "settings.toml"
    settings.write_text("[limits]\ntick_interval_s = 0.02\n")
    async with (
        running("--dev", "--config", str(settings), deadline_s=6 * DEADLINE_S) as serving,
        proxying(serving.url) as proxy,
    ):
        told = await run_node(SCRIPTS / "thousand_cuts.mjs", proxy.url, serving.url, str(seed), "1000")
    assert told["wrong"] == [] and told["gaps"] == []
    assert set(told["counts"].values()) == {told["published"]}
    assert told["published"] > 1_000
    assert set(told["connected"]) == {"websocket", "http_stream", "sse", "long-poll", "poll"}
    assert told["outcomes"]["recovered"] > 100 and told["moved"] >= 10, told


async def test_a_thousand_cuts_and_changes_of_transport(tmp_path: Path) -> None:
    """Three channels, read from their beginning: nothing lost, doubled or out of order."""
    await cut_often(20_260_101, tmp_path)


async def test_tabs_share_one_connection() -> None:
    """Tabs come, talk, are closed and hang; the others go on: nothing is lost, doubled or out of order."""
    chromium()
    async with running("--dev", deadline_s=6 * DEADLINE_S) as serving:
        told = await run_node(BROWSER / "sharing.mjs", serving.url)
    assert [greeting["isShared"] for greeting in told["greetings"]] == [True] * 3
    assert {greeting["transport"] for greeting in told["greetings"]} == {"websocket"}
    assert len({greeting["client"] for greeting in told["greetings"]}) == 1
    assert told["readers"] == told["readersAfterwards"] == 1
    assert told["presence"] == [told["greetings"][0]["client"]]
    assert told["stats"] == {"clients": 1, "users": 1}
    assert told["total"] > 100
    for report in told["reports"]:
        assert [offset for offset, _ in report["seen"]] == list(range(1, told["total"] + 1))
        assert report["gaps"] == []
        assert report["seen"][30:] == [[number + 1, number] for number in range(30, told["total"])]
    assert told["reports"][0]["losses"] >= 1
    assert told["takenOverMs"] < 60_000, "the tab that hung had to end before another took over"
    assert told["afterHanging"]["gaps"] == []
    offsets = [offset for offset, _ in told["afterHanging"]["seen"]]
    assert offsets == list(range(1, len(offsets) + 1))
    assert told["crowd"]["transports"] == ["http_stream"] * 8
    assert told["crowd"]["slowestMs"] < 30_000


async def test_what_happens_to_pages() -> None:
    """No WebSocket, no streaming fetch, frozen, offline, opened again."""
    chromium()
    async with running("--dev", deadline_s=6 * DEADLINE_S) as serving:
        told = await run_node(BROWSER / "page_life.mjs", serving.url)
    assert told["withoutWebSocket"]["transport"] == "http_stream"
    assert told["withoutStreams"]["transport"] == "sse"
    assert told["withoutStreams"]["seen"] == ["for old browsers"]
    assert "tim" in told["withoutStreams"]["users"], "the ticket in the URL had to count"
    assert told["frozen"]["seen"] == list(range(50)), told["frozen"]
    assert told["offline"]["seen"] == ["while away"] and told["offline"]["losses"], told["offline"]
    first, second = told["remembered"]
    assert first["transport"] == second["transport"] == "http_stream"
    assert second["tried"] == ["http_stream"], "it had to know from the page before"
