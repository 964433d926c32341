"""Registered functions behind real servers and real sessions."""

from __future__ import annotations

import asyncio
import threading
from random import Random
from typing import Any

import msgspec
import pytest

import everywire
from everywire import AuthRequest, Identity, Refused, Session
from everywire.core.limits import Limits
from everywire.core.position import Place
from everywire.handlers.registrar import Registrar
from tests.handlers.conftest import Serve
from tests.handlers.talking import Failed, talking
from tests.serving import DEADLINE_S, Site, until


class Guess(msgspec.Struct):
    word: str
    row: int = 1


def know_users(site: Site) -> None:
    """Let whoever brings a token be the user of that name."""

    @site.wire.authenticate
    async def authenticate(request: AuthRequest) -> Identity | None:
        return Identity(user=request.token, claims={"role": "tester"}) if request.token else None


# -- calls ------------------------------------------------------------------------------------


async def test_a_call_publishes_and_is_answered(serve: Serve) -> None:
    async with serve() as site:
        know_users(site)
        wire = site.wire

        @wire.rpc("guess")
        async def guess(session: Session, data: Any) -> dict[str, bool]:
            await wire.publish("scores", {"by": session.user, "guess": data})
            return {"ok": True}

        async with talking(site, token="ann") as ann, talking(site) as other:
            await other.ask(subscribe={"channel": "scores"})
            assert await ann.rpc("guess", {"word": "crane"}) == {"ok": True}
            await until(lambda: other.told("pub"))
            assert other.told("pub")[0]["data"] == {"by": "ann", "guess": {"word": "crane"}}


async def test_errors_reach_the_client_as_they_should(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    async with serve() as site:

        @site.wire.rpc("refuses")
        async def refuses() -> None:
            raise Refused("the round is over", code=1001)

        @site.wire.rpc("fails")
        def fails() -> None:
            raise KeyError("the secret inside")

        @site.wire.rpc("typed")
        async def typed(session: Session, data: Guess) -> Guess:
            return data

        @site.wire.rpc("ends")
        async def ends() -> None:
            raise Refused("go away", code=4501)

        async with talking(site) as client:
            for method, data, code, sentence in (
                ("refuses", None, 1001, "the round is over"),
                ("fails", None, 100, "internal server error"),
                ("typed", {"word": "x", "row": "one"}, 107, "$.row"),
                ("typed", None, 107, "object"),
                ("unknown", None, 104, "unknown"),
            ):
                with pytest.raises(Failed, match=str(code)) as caught:
                    await client.rpc(method, data)
                assert sentence in caught.value.message
                assert "secret" not in caught.value.message
            assert await client.rpc("typed", {"word": "x"}) == {"word": "x", "row": 1}
            client.begin(rpc={"method": "ends"})
            await until(lambda: client.close)
            assert client.close == (4501, "go away")
        assert "the secret inside" in caplog.text


async def test_calls_and_messages_of_a_session_are_in_order(serve: Serve) -> None:
    async with serve() as site:
        heard: list[Any] = []

        @site.wire.rpc("slow")
        async def slow(session: Session, data: int) -> int:
            heard.append(("begin", data))
            await asyncio.sleep(0.01 if data % 2 else 0)
            heard.append(("end", data))
            return data

        @site.wire.on_message
        async def message(session: Session, data: int) -> None:
            await slow(session, data)

        async with talking(site) as client:
            replies = []
            for number in range(0, 20, 2):
                replies.append(client.begin(rpc={"method": "slow", "data": number}))
                client.send(number + 1)
            assert [(await reply)["rpc"]["data"] for reply in replies] == list(range(0, 20, 2))
            await until(lambda: len(heard) == 40)
            assert heard == [(what, number) for number in range(20) for what in ("begin", "end")]


async def test_calls_run_at_once_where_that_is_allowed(serve: Serve) -> None:
    async with serve() as site:
        running: list[int] = []
        most = 0
        gate = asyncio.Event()

        async def work(session: Session, data: int) -> int:
            nonlocal most
            running.append(data)
            most = max(most, len(running))
            await gate.wait()
            running.remove(data)
            return data

        site.wire.rpc("three", concurrency=3)(work)
        site.wire.rpc("keyed", key=lambda session, data: data % 2)(work)
        async with talking(site) as client:
            for method, expected in (("three", [0, 1, 2]), ("keyed", [0, 1])):
                most = 0
                gate.clear()
                replies = [client.begin(rpc={"method": method, "data": number}) for number in range(8)]
                await until(lambda expected=expected: len(running) == len(expected))
                await asyncio.sleep(0.02)
                assert running == expected
                gate.set()
                assert [(await reply)["rpc"]["data"] for reply in replies] == list(range(8))
                assert most == len(expected)


async def test_control_traffic_is_never_behind_a_handler(serve: Serve) -> None:
    async with serve() as site:
        gate = asyncio.Event()
        site.wire.rpc("waits")(gate.wait)
        async with talking(site) as client:
            waiting = [client.begin(rpc={"method": "waits"}) for _ in range(5)]
            await client.ask(subscribe={"channel": "news"})
            await client.ask(publish={"channel": "news", "data": 1})
            assert len((await client.ask(history={"channel": "news", "limit": 10}))["publications"]) == 1
            await client.ask(presence={"channel": "news"})
            await client.ask(ping={})
            await client.ask(unsubscribe={"channel": "news"})
            assert not any(one.done() for one in waiting)
            gate.set()
            for one in waiting:
                assert (await one)["rpc"]["data"] is True


async def test_work_is_cancelled_with_its_session_only_if_it_asks_for_it(serve: Serve) -> None:
    async with serve() as site:
        gate = asyncio.Event()
        ended: list[str] = []

        def working(name: str) -> Any:
            async def work() -> None:
                try:
                    await gate.wait()
                    ended.append(f"{name} done")
                except asyncio.CancelledError:
                    ended.append(f"{name} cancelled")
                    raise

            return work

        site.wire.rpc("stays", concurrency=1)(working("stays"))
        site.wire.rpc("goes", concurrency=1, cancel=True)(working("goes"))
        async with talking(site) as client:
            client.begin(rpc={"method": "stays"})
            client.begin(rpc={"method": "goes"})
            client.begin(rpc={"method": "goes"})
            await client.ask(ping={})
        await until(lambda: ended == ["goes cancelled"])
        gate.set()
        await until(lambda: ended == ["goes cancelled", "stays done"])


async def test_a_synchronous_function_does_not_hold_up_the_server(serve: Serve) -> None:
    async with serve() as site:
        gate = threading.Event()

        @site.wire.rpc("blocks")
        def blocks(session: Session) -> int:
            assert gate.wait(DEADLINE_S)
            everywire.publish("jobs", {"state": "done"})
            session.send("from a thread")
            return everywire.publish("jobs", 2).result().offset

        async with talking(site) as client:
            await client.ask(subscribe={"channel": "jobs"})
            blocked = client.begin(rpc={"method": "blocks"})
            for _ in range(3):
                await client.ask(ping={})
            gate.set()
            assert (await blocked)["rpc"]["data"] == 2
            await until(lambda: len(client.told("pub")) == 2)
            assert client.told("message") == [{"data": "from a thread"}]


async def test_a_call_that_takes_too_long_is_answered(serve: Serve) -> None:
    async with serve(limits=Limits(call_timeout_s=0.05)) as site:
        site.wire.rpc("waits")(asyncio.Event().wait)
        async with talking(site) as client:
            with pytest.raises(Failed, match="did not answer in time"):
                await client.rpc("waits")


# -- a session's life ------------------------------------------------------------------------------


async def test_a_session_begins_acts_and_ends(serve: Serve) -> None:
    async with serve() as site:
        know_users(site)
        seen: list[Any] = []

        @site.wire.on_connect
        async def connect(session: Session, data: Guess) -> dict[str, Any]:
            seen.append((session.user, session.claims, session.transport, data.word))
            return {"hello": session.user}

        @site.wire.on_disconnect
        async def disconnect(session: Session, code: Any) -> None:
            seen.append((session.user, code and code.number))

        @site.wire.rpc("acts")
        async def acts(session: Session) -> None:
            session.send({"hear": "this"})
            session.subscribe("news", data="given")
            await site.wire.publish("news", 1)
            session.unsubscribe("news")

        @site.wire.rpc("leaves")
        async def leaves(session: Session) -> None:
            session.disconnect(4500, "you asked for it")

        async with talking(site, token="ann", data={"word": "x"}) as client:
            assert client.connected["data"] == {"hello": "ann"}
            await client.rpc("acts")
            await until(lambda: client.told("unsubscribe"))
            assert client.told("message") == [{"data": {"hear": "this"}}]
            assert client.told("subscribe")[0]["data"] == "given"
            client.begin(rpc={"method": "leaves"})
            await until(lambda: client.close)
            assert client.close == (4500, "you asked for it")
        await until(lambda: len(seen) == 2)
        assert seen == [("ann", {"role": "tester"}, "websocket", "x"), ("ann", 4500)]
        with pytest.raises(Failed, match="107"):
            async with talking(site, data={"word": 1}):
                pass


async def test_what_the_server_does_to_users(serve: Serve) -> None:
    async with serve() as site:
        know_users(site)
        wire = site.wire
        async with talking(site, token="ann") as first, talking(site, token="ann") as second:
            await first.ask(subscribe={"channel": "news"})
            await wire.send("ann", {"n": 1})
            await wire.send("ann", {"n": 2}, client=second.connected["client"])
            await wire.send("bob", {"n": 3})
            await wire.subscribe("ann", "offers", data=[1])
            await until(lambda: len(second.told("message")) == 2 and first.told("subscribe"))
            assert first.told("message") == [{"data": {"n": 1}}]
            members = await wire.presence("news")
            assert [info.user for info in members.clients.values()] == ["ann"]
            await wire.unsubscribe("ann", "news")
            await until(lambda: first.told("unsubscribe"))
            await wire.disconnect("ann", client=first.connected["client"], reason="one")
            await until(lambda: first.close)
            assert first.close == (3503, "one") and second.close is None
            await wire.block("ann")
            await until(lambda: second.close)
        with pytest.raises(Failed, match="103"):
            async with talking(site, token="ann"):
                pass
        await wire.unblock("ann")
        async with talking(site, token="ann"):
            pass


async def test_tickets_and_history(serve: Serve) -> None:
    async with serve() as site:
        wire = site.wire
        ticket = await wire.ticket("ann")

        @wire.rpc("who")
        def who(session: Session) -> str:
            return session.user

        async with talking(site, token=ticket) as client:
            assert await client.rpc("who") == "ann"
        for number in range(5):
            await wire.publish("news", {"n": number}, event="item", tags={"k": "v"})
        everything = await wire.history("news")
        assert [one.data["n"] for one in everything.publications] == list(range(5))
        assert (everything.offset, everything.publications[0].event) == (5, "item")
        since = Place(everything.epoch, 2)
        assert [one.offset for one in (await wire.history("news", since=since, limit=2)).publications] == [
            3,
            4,
        ]
        newest = await wire.history("news", reverse=True, limit=2)
        assert [one.offset for one in newest.publications] == [5, 4]
        page = await site.http.get(f"/channels/news?after={(await wire.history('news', limit=3)).position}")
        assert [one["offset"] for one in page.json()["publications"]] == [4, 5]
        with pytest.raises(everywire.EverywireError):
            await wire.history("news", since=since._replace(epoch="other"))


# -- publications ----------------------------------------------------------------------------------


async def test_what_clients_publish_is_judged_on_every_transport(serve: Serve) -> None:
    async with serve() as site:
        know_users(site)

        @site.wire.on_publish("guesses")
        async def judge(session: Session, channel: str, data: Guess) -> Any:
            if data.row > 6:
                raise Refused("there are six rows", code=1006)
            return {"by": session.user, "word": data.word, "over": session.transport}

        async with talking(site, token="ann") as client:
            await client.ask(subscribe={"channel": "guesses"})
            await client.ask(publish={"channel": "guesses", "data": {"word": "a"}})
            for data, code in (({"word": "a", "row": 7}, 1006), ({"word": 1}, 107)):
                with pytest.raises(Failed, match=str(code)):
                    await client.ask(publish={"channel": "guesses", "data": data})
                answer = await site.http.post("/channels/guesses", json=data)
                assert answer.status_code == (403 if code == 1006 else 400)
                assert answer.json()["error"]["code"] == code
            headers = {"Authorization": "Bearer bob"}
            answer = await site.http.post("/channels/guesses", json={"word": "b"}, headers=headers)
            assert answer.status_code == 201
            await until(lambda: len(client.told("pub")) == 2)
            first, second = (one["data"] for one in client.told("pub"))
            assert first == {"by": "ann", "word": "a", "over": "websocket"}
            assert (second["by"], second["word"]) == ("bob", "b")


async def test_subscriptions_are_told_refused_and_given_something(serve: Serve) -> None:
    async with serve() as site:

        @site.wire.on_subscribe("room:*")
        async def subscribe(session: Session, channel: str, data: Any) -> Any:
            if channel == "room:13":
                raise Refused("there is no room 13", code=1013)
            return {"welcome": data}

        async with talking(site) as client:
            result = await client.ask(subscribe={"channel": "room:1", "data": "ann"})
            assert result["data"] == {"welcome": "ann"}
            with pytest.raises(Failed, match="1013"):
                await client.ask(subscribe={"channel": "room:13"})
            assert "data" not in await client.ask(subscribe={"channel": "other"})


async def test_channels_fill_and_empty(serve: Serve) -> None:
    heard: list[str] = []
    functions = Registrar(Limits())  # before the start: nobody keeps count for nobody
    functions.on_occupied("room:*")(lambda channel: heard.append(f"+{channel}"))
    functions.on_vacated("room:*")(lambda channel: heard.append(f"-{channel}"))
    async with serve(hooks=functions.hooks) as site:
        async with talking(site) as client:
            await client.ask(subscribe={"channel": "room:1"})
            await client.ask(subscribe={"channel": "other"})
            await until(lambda: heard == ["+room:1"])
        await until(lambda: heard == ["+room:1", "-room:1"])


# -- snapshots ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
async def test_a_snapshot_and_what_follows_are_always_the_state(serve: Serve, seed: int) -> None:
    """Readers come at any time while the state changes and is published; the snapshot takes its time."""
    random = Random(seed)
    async with serve() as site:
        state: dict[str, int] = {}

        @site.wire.snapshot("board:*")
        async def board(session: Session, channel: str) -> dict[str, int]:
            await asyncio.sleep(random.random() * 0.01)
            found = dict(state)
            await asyncio.sleep(random.random() * 0.01)
            return found

        async def change(count: int) -> None:
            for number in range(count):
                change = {random.choice("abcdefgh"): number}
                state.update(change)
                await site.wire.publish("board:1", change)
                await asyncio.sleep(random.random() * 0.002)

        async def read() -> dict[str, int]:
            await asyncio.sleep(random.random() * 0.3)
            async with talking(site) as client:
                result = await client.ask(subscribe={"channel": "board:1"})
                mine: dict[str, int] = result["data"]
                taken = 0
                last = result.get("offset", 0)
                while last < 250:
                    await until(lambda taken=taken: len(client.told("pub")) > taken)
                    for publication in client.told("pub")[taken:]:
                        assert publication["offset"] == last + 1
                        last, taken = publication["offset"], taken + 1
                        mine.update(publication["data"])
                return mine

        _, *found = await asyncio.gather(change(250), *[read() for _ in range(12)])
        assert found == [state] * 12
