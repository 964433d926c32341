"""Writing leases: what is written and told when the store is slow, away, or comes late."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
import pytest

from everywire.brokers.base import Lease
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable
from everywire.sessions.leasing import Leasing
from everywire.testing.broker_driving import RecordingSink
from tests.sessions.cluster import Cluster, Listener, info


class Away:
    """Makes a node's store refuse writes until it is back."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        leases = cluster[name].broker.leases
        self.is_away = True
        self.puts = leases.put_many
        self.drops = leases.drop_many
        leases.put_many = self.put_many  # type: ignore[method-assign]
        leases.drop_many = self.drop_many  # type: ignore[method-assign]

    async def put_many(self, leases: Sequence[Lease]) -> None:
        if self.is_away:
            raise BrokerError("the store is away")
        await self.puts(leases)

    async def drop_many(self, members: Sequence[tuple[str, str]]) -> None:
        if self.is_away:
            raise BrokerError("the store is away")
        await self.drops(members)


async def test_what_happened_last_is_written_when_the_store_is_back() -> None:
    async with Cluster("ab") as cluster:
        listener = Listener()
        cluster["b"].presence.listen("room", listener)
        a = cluster["a"].presence
        for client in ("stays", "leaves"):
            a.enter("room", client, info(client))
        await cluster.pass_time(1)
        away = Away(cluster, "a")
        a.enter("room", "comes", info("comes"))
        a.enter("room", "visits", info("visits"))
        a.leave("room", "leaves")
        a.leave("room", "stays")
        await cluster.pass_time(0.5)  # one try has failed by now
        a.leave("room", "visits")
        a.enter("room", "stays", info("stays"))
        a.update("room", "comes", b'"again"')
        await cluster.pass_time(3)
        away.is_away = False
        await cluster.pass_time(2)
        assert set(await cluster.store.far.leases.members("room")) == {"stays", "comes"}
        # Told within the message, before any comparison with the leases could.
        assert listener.present["comes"] == info("comes", "", "again")
        await cluster.pass_time(5)
        assert set(listener.present) == {"stays", "comes"}
        assert ("left", "stays") not in listener.told
        assert a._leasing._drops == 0


async def test_while_the_store_is_away_what_waits_is_bounded() -> None:
    async with Cluster(limits=Limits(max_leases=20)) as cluster:
        away = Away(cluster, "a")
        presence = cluster["a"].presence
        for number in range(100):
            presence.enter("room", f"c{number}", info(f"c{number}"))
            presence.leave("room", f"c{number}")
        await cluster.pass_time(3)
        for number in range(100, 200):
            presence.enter("room", f"c{number}", info(f"c{number}"))
            await cluster.settle()
            presence.leave("room", f"c{number}")
        waiting = presence._leasing._moves["room"]
        assert len([one for one in waiting.values() if not one.ttl_s]) == 20 == presence._leasing._drops
        away.is_away = False
        await cluster.pass_time(3)
        assert presence._leasing._drops == 0
        assert presence._leasing.is_idle


async def test_large_infos_go_in_several_messages() -> None:
    async with Cluster("ab") as cluster:
        listener, sink = Listener(), RecordingSink()
        cluster["b"].presence.listen("room", listener)
        await cluster.store.node("spy").start(sink)
        await cluster.pass_time(1)
        for number in range(40):
            cluster["a"].presence.enter("room", f"c{number}", info(f"c{number}", "", "x" * 30_000))
        await cluster.pass_time(1)
        assert len(listener.present) == 40
        sizes = [len(payload) for topic, payload, _ in sink.broadcasts if topic == "presence"]
        assert len(sizes) >= 4 and max(sizes) < 300_000


async def test_updates_for_other_nodes_are_bounded() -> None:
    async with Cluster("ab") as cluster:
        cluster["b"].presence.enter("room", "c1", info("c1"))
        await cluster.settle()
        sink = RecordingSink()
        await cluster.store.node("spy").start(sink)
        for number in range(2_000):
            cluster["a"].presence.update("room", "c1", str(number).encode())
        await cluster.pass_time(1)
        sent = [msgspec.json.decode(payload) for _, payload, node in sink.broadcasts if node == "a"]
        assert sum(len(one["update"]) for one in sent) == 500
        found = (await cluster["b"].presence.members("room")).clients["c1"]
        assert bytes(found.chan_info) == b"499"  # type: ignore[arg-type]


async def test_a_polling_client_that_leaves_is_forgotten_wherever_it_was() -> None:
    quiet = SettingsTable([("quiet", ChannelSettings(join_leave=False))])
    async with Cluster("ab", settings=quiet) as cluster:
        a, b = cluster["a"].presence, cluster["b"].presence
        a.touch("quiet", "c1", info("c1"))
        b.touch("quiet", "c1", info("c1"))
        await cluster.pass_time(1)
        b.leave("quiet", "c1")
        await cluster.pass_time(1)
        a.touch("quiet", "c1", info("c1"))
        await cluster.pass_time(1)
        assert await cluster.listed("b", "quiet") == {"c1"}


async def test_a_connection_is_not_ended_in_presence_by_another_node() -> None:
    async with Cluster("ab") as cluster:
        a, b = cluster["a"].presence, cluster["b"].presence
        a.enter("room", "c1", info("c1"))
        await cluster.pass_time(1)
        b.leave("room", "c1")
        await cluster.pass_time(1)
        assert await cluster.listed("a") == await cluster.listed("b") == {"c1"}


async def test_a_polling_client_is_not_forgotten_too_early() -> None:
    async with Cluster(limits=Limits(presence_ttl_s=10)) as cluster:
        presence = cluster["a"].presence
        presence.touch("room", "c1", info("c1"))
        await cluster.pass_time(8, step_s=1)
        presence.touch("room", "c1", info("c1"))
        await cluster.pass_time(8, step_s=1)
        assert presence.statistics()["presence_members"] == 1
        await cluster.pass_time(8, step_s=1)
        assert presence.statistics()["presence_members"] == 0


async def test_closing_does_not_wait_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster(limits=Limits(node_answer_timeout_s=0.05)) as cluster:
        presence = cluster["a"].presence
        leases = cluster["a"].broker.leases

        async def hang(_: object) -> None:
            await asyncio.Event().wait()

        leases.put_many = hang  # type: ignore[method-assign,assignment]
        presence.enter("room", "c1", info("c1"))
        await cluster.settle()
        async with asyncio.timeout(20):
            await presence._leasing.close()
        assert "left to run out" in caplog.text
        assert isinstance(presence._leasing, Leasing)


async def test_who_came_while_the_store_was_away_for_long_is_told_when_it_is_back() -> None:
    async with Cluster("ab") as cluster:
        listener = Listener()
        cluster["b"].presence.listen("room", listener)
        await cluster.pass_time(1)
        away = Away(cluster, "a")
        cluster["a"].presence.enter("room", "c1", info("c1"))
        await cluster.pass_time(cluster.limits.presence_ttl_s)  # renewed meanwhile, in vain
        away.is_away = False
        cluster.store.far.leases.members = _nothing  # type: ignore[method-assign]
        await cluster.pass_time(1.5)
        assert listener.told == [("joined", "c1")]  # by the message: there was nothing to compare with


async def _nothing(group: str) -> dict[str, bytes]:
    raise BrokerError("not now")


async def test_what_happens_while_a_write_fails_counts_more() -> None:
    async with Cluster("ab") as cluster:
        a = cluster["a"]
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        leases = a.broker.leases
        put_many = leases.put_many

        async def fail_late(_: object) -> None:
            leases.put_many = put_many  # type: ignore[method-assign]
            await answer

        leases.put_many = fail_late  # type: ignore[method-assign,assignment]
        for client in ("c1", "c2"):
            a.presence.enter("room", client, info(client))
        await cluster.settle()
        a.presence.leave("room", "c1")
        a.presence.update("room", "c2", b"2")
        answer.set_exception(BrokerError("the link broke"))
        await cluster.pass_time(2)
        assert await cluster.listed("b") == {"c2"}
        found = (await cluster["b"].presence.members("room")).clients["c2"]
        assert bytes(found.chan_info) == b"2"  # type: ignore[arg-type]


async def test_a_node_that_cannot_renew_its_lease_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with Cluster(limits=Limits(node_ttl_s=3)) as cluster:
        cluster["a"].presence.enter("room", "c1", info("c1"))
        leases = cluster["a"].broker.leases
        put, tries = leases.put, 0

        async def refuse(*_: object) -> None:
            nonlocal tries
            tries += 1
            raise BrokerError("the store is away")

        for again in (1, 2):
            leases.put = refuse  # type: ignore[method-assign,assignment]
            await cluster.pass_time(10)
            assert caplog.text.count("was not renewed: the store is away") == again
            leases.put = put  # type: ignore[method-assign]
            await cluster.pass_time(3)
            assert caplog.text.count("is renewed again") == again
        assert tries > 10
