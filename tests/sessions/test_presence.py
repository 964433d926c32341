"""Presence over several nodes: the list, joins and leaves, leases, limits."""

from __future__ import annotations

import asyncio
import logging
from random import Random
from typing import Any

import pytest
from msgspec import Raw

from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable
from everywire.testing.broker_driving import RecordingSink
from tests.sessions.cluster import Cluster, Listener, info

BY_USER = SettingsTable([("room", ChannelSettings(presence_by_user=True))])


async def test_who_enters_is_listed_on_every_node_and_who_leaves_is_not() -> None:
    async with Cluster("ab") as cluster:
        a, b = cluster["a"].presence, cluster["b"].presence
        a.enter("room", "c1", info("c1", "ann", "here"))
        assert await cluster.listed("a") == {"c1"}  # before anything is written
        b.enter("room", "c2", info("c2", "bob"))
        a.enter("hall", "c1", info("c1", "ann"))
        await cluster.settle()
        for name in "ab":
            members = await cluster[name].presence.members("room")
            assert set(members.clients) == {"c1", "c2"}
            assert members.clients["c1"].user == "ann"
            assert bytes(members.clients["c1"].chan_info) == b'"here"'  # type: ignore[arg-type]
            assert (members.num_clients, members.num_users, members.is_cut) == (2, 2, False)
        a.leave("room", "c1")
        assert await cluster.listed("a") == {"c2"}
        await cluster.settle()
        assert await cluster.listed("b") == {"c2"}
        assert await cluster.listed("b", "hall") == {"c1"}
        assert await a.stats("room") == (1, 1)
        assert await a.stats("nowhere") == (0, 0)


async def test_joins_and_leaves_are_told_on_every_node() -> None:
    async with Cluster("ab", max_delay_s=0.05) as cluster:
        listeners = {}
        for name in "ab":
            listeners[name] = Listener()
            cluster[name].presence.listen("room", listeners[name])
        await cluster.settle()
        cluster["a"].presence.enter("room", "c1", info("c1", "ann", "here"))
        await cluster.settle()
        assert listeners["a"].told == [("joined", "c1")]
        await cluster.pass_time(0.1)
        assert listeners["b"].told == [("joined", "c1")]
        assert listeners["b"].infos[0] == listeners["a"].infos[0] == info("c1", "ann", "here")
        cluster["a"].presence.leave("room", "c1")
        await cluster.pass_time(cluster.limits.leave_debounce_s - 0.5)
        assert listeners["a"].told == listeners["b"].told == [("joined", "c1")]
        await cluster.pass_time(1)
        assert listeners["a"].told == listeners["b"].told == [("joined", "c1"), ("left", "c1")]
        assert listeners["b"].infos[1] == info("c1", "ann", "here")


async def test_who_comes_back_at_once_has_neither_left_nor_joined() -> None:
    async with Cluster("ab") as cluster:
        listener = Listener()
        a, b = cluster["a"].presence, cluster["b"].presence
        a.listen("room", listener)
        a.enter("room", "c1", info("c1", "ann"))
        await cluster.settle()
        a.leave("room", "c1")
        await cluster.pass_time(1)
        assert await cluster.listed("b") == set()
        b.enter("room", "c1", info("c1", "ann"))  # on another node
        await cluster.pass_time(10)
        assert listener.told == [("joined", "c1")]
        b.leave("room", "c1")
        await cluster.pass_time(1)
        b.enter("room", "c1", info("c1", "ann", "changed"))  # back, but not as before
        await cluster.pass_time(10)
        assert listener.told == [("joined", "c1"), ("joined", "c1")]
        assert listener.present["c1"] == info("c1", "ann", "changed")


async def test_who_comes_back_after_a_list_was_given_out_is_told_of() -> None:
    async with Cluster() as cluster:
        listener = Listener()
        presence = cluster["a"].presence
        presence.listen("room", listener)
        presence.enter("room", "c1", info("c1", "ann"))
        await cluster.pass_time(1)
        presence.leave("room", "c1")
        await cluster.pass_time(1)
        assert await cluster.listed("a") == set()  # whoever read this believes c1 to be gone
        presence.enter("room", "c1", info("c1", "ann"))
        await cluster.pass_time(5)
        assert listener.told == [("joined", "c1"), ("joined", "c1")]


async def test_a_new_listener_is_not_told_of_who_is_there_but_of_who_leaves() -> None:
    async with Cluster("ab") as cluster:
        for number in range(3):
            cluster["b"].presence.enter("room", f"c{number}", info(f"c{number}"))
        await cluster.pass_time(1)
        listener = Listener()
        cluster["a"].presence.listen("room", listener)
        await cluster.pass_time(1)
        assert listener.told == []
        cluster["b"].presence.leave("room", "c1")
        await cluster.pass_time(3)
        assert listener.told == [("left", "c1")]
        cluster["a"].presence.unlisten("room", listener)
        cluster["b"].presence.leave("room", "c2")
        await cluster.pass_time(3)
        assert listener.told == [("left", "c1")]
        assert len(cluster["a"].presence._rosters) == 0


# -- devices of one user ------------------------------------------------------------


async def test_three_tabs_of_a_user_are_one_member_and_three_clients() -> None:
    async with Cluster("ab", settings=BY_USER) as cluster:
        listener = Listener()
        a, b = cluster["a"].presence, cluster["b"].presence
        a.listen("room", listener)
        a.enter("room", "c1", info("c1", "ann", "first"))
        a.enter("room", "c2", info("c2", "ann"))
        b.enter("room", "c3", info("c3", "ann"))
        b.enter("room", "c4", info("c4", "bob"))
        await cluster.pass_time(1)
        assert listener.told == [("joined", "c1"), ("joined", "c4")]
        members = await b.members("room", by_user=True)
        assert {user: one.num_clients for user, one in members.users.items()} == {"ann": 3, "bob": 1}
        assert members.users["ann"].info.user == "ann"
        assert (members.num_clients, members.num_users) == (4, 2)
        assert await a.stats("room") == (4, 2)
        a.leave("room", "c1")
        a.leave("room", "c2")
        await cluster.pass_time(5)
        assert listener.told == [("joined", "c1"), ("joined", "c4")]
        b.leave("room", "c3")
        await cluster.pass_time(1)
        a.enter("room", "c5", info("c5", "ann"))  # a page that was loaded again: another client id
        await cluster.pass_time(5)
        assert listener.told == [("joined", "c1"), ("joined", "c4")]
        a.leave("room", "c5")
        await cluster.pass_time(5)
        assert listener.told[2:] == [("left", "c5")]


async def test_clients_that_are_nobody_count_for_themselves() -> None:
    async with Cluster(settings=BY_USER) as cluster:
        listener = Listener()
        presence = cluster["a"].presence
        presence.listen("room", listener)
        presence.enter("room", "c1", info("c1"))
        presence.enter("room", "c2", info("c2"))
        presence.enter("room", "c3", info("c3", "cc2"))
        presence.leave("room", "c2")
        await cluster.pass_time(3)
        assert listener.told == [("joined", "c1"), ("joined", "c2"), ("joined", "c3"), ("left", "c2")]
        members = await presence.members("room", by_user=True)
        assert {user: one.num_clients for user, one in members.users.items()} == {"": 1, "cc2": 1}


async def test_a_state_can_change_from_any_node_and_is_told_as_a_join() -> None:
    async with Cluster("ab") as cluster:
        listener = Listener()
        a, b = cluster["a"].presence, cluster["b"].presence
        b.listen("room", listener)
        a.enter("room", "c1", info("c1", "ann", "typing"))
        await cluster.settle()
        a.update("room", "c1", b'"idle"')
        a.update("room", "c1", b'"gone for lunch"')
        a.update("room", "nobody", b"1")
        await cluster.settle()
        assert listener.told == [("joined", "c1"), ("joined", "c1")]  # what was overtaken is not told
        assert listener.present["c1"] == info("c1", "ann", "gone for lunch")
        b.update("room", "c1", None)
        await cluster.settle()
        assert listener.present["c1"] == info("c1", "ann")
        assert (await b.members("room")).clients["c1"] == info("c1", "ann")
        assert await cluster.listed("b") == {"c1"}


# -- leases ---------------------------------------------------------------------------


async def test_open_connections_stay_members_and_each_lease_is_written_every_third() -> None:
    async with Cluster(limits=Limits(presence_ttl_s=60)) as cluster:
        presence = cluster["a"].presence
        for number in range(100):
            presence.enter("room", f"c{number}", info(f"c{number}"))
        await cluster.settle()
        assert presence.statistics()["presence_lease_writes_total"] == 100
        for _ in range(10):
            await cluster.pass_time(30, step_s=0.5)
            assert len(await cluster.store.far.leases.members("room")) == 100
        writes = presence.statistics()["presence_lease_writes_total"]
        assert 100 * 12 <= writes <= 100 * 16
        for number in range(100):
            presence.leave("room", f"c{number}")
        await cluster.settle()
        assert await cluster.store.far.leases.members("room") == {}
        before = presence.statistics()["presence_lease_writes_total"]
        await cluster.pass_time(60, step_s=1)
        assert presence.statistics()["presence_lease_writes_total"] == before
        assert presence.statistics()["presence_members"] == 0


async def test_renewals_of_a_crowd_spread_out() -> None:
    async with Cluster(limits=Limits(presence_ttl_s=60)) as cluster:
        presence = cluster["a"].presence
        for number in range(2_000):
            presence.enter("room", f"c{number}", info(f"c{number}"))
        await cluster.settle()
        most = 0
        for _ in range(120):
            before = presence.statistics()["presence_lease_writes_total"]
            await cluster.pass_time(1, step_s=0.5)
            most = max(most, presence.statistics()["presence_lease_writes_total"] - before)
            assert len(await cluster.store.far.leases.members("room")) == 2_000
        assert most <= 500  # not all of them at once


async def test_a_polling_client_is_present_while_it_polls_and_a_lease_longer() -> None:
    async with Cluster("ab", limits=Limits(presence_ttl_s=60)) as cluster:
        listener = Listener()
        cluster["b"].presence.listen("room", listener)
        ann = info("c1", "ann")
        for turn in range(60):
            cluster["ab"[turn % 2]].presence.touch("room", "c1", ann)
            await cluster.pass_time(5, step_s=1)
            assert await cluster.listed("a") == await cluster.listed("b") == {"c1"}
        writes = sum(
            node.presence.statistics()["presence_lease_writes_total"] for node in cluster.nodes.values()
        )
        assert writes <= 2 * 300 / 20 + 2  # each node once every third of 60 s
        await cluster.pass_time(54, step_s=1)  # 59 s after its last sign of life
        assert await cluster.listed("a") == {"c1"}
        assert listener.told == [("joined", "c1")]
        await cluster.pass_time(35, step_s=1)
        assert await cluster.listed("a") == await cluster.listed("b") == set()
        assert listener.told == [("joined", "c1"), ("left", "c1")]
        assert all(node.presence.statistics()["presence_members"] == 0 for node in cluster.nodes.values())


async def test_a_poll_that_is_held_long_is_covered() -> None:
    async with Cluster(limits=Limits(presence_ttl_s=10)) as cluster:
        cluster["a"].presence.touch("room", "c1", info("c1"), 60)
        await cluster.pass_time(69, step_s=1)
        assert await cluster.listed("a") == {"c1"}
        await cluster.pass_time(5, step_s=1)
        assert await cluster.listed("a") == set()


async def test_a_polling_client_leaves_by_any_node() -> None:
    async with Cluster(
        "abc", settings=SettingsTable([("quiet", ChannelSettings(join_leave=False))])
    ) as cluster:
        listener = Listener()
        cluster["c"].presence.listen("room", listener)
        await cluster.settle()
        for channel in ("room", "quiet"):
            cluster["a"].presence.touch(channel, "c1", info("c1"))
            await cluster.settle()
            cluster["b"].presence.leave(channel, "c1")
            await cluster.pass_time(3)
            for name in "abc":
                assert await cluster.listed(name, channel) == set()
            cluster["a"].presence.touch(channel, "c1", info("c1"))  # back again, and not taken for written
            await cluster.settle()
            assert await cluster.listed("b", channel) == {"c1"}
        assert listener.told == [("joined", "c1"), ("left", "c1"), ("joined", "c1")]


async def test_members_of_a_killed_node_are_gone_when_its_lease_runs_out() -> None:
    async with Cluster("abc", limits=Limits(presence_ttl_s=60, node_ttl_s=15)) as cluster:
        listener = Listener()
        cluster["a"].presence.listen("room", listener)
        await cluster.settle()
        for number in range(300):
            cluster["abc"[number % 3]].presence.enter("room", f"c{number}", info(f"c{number}"))
        cluster["c"].presence.touch("room", "poll", info("poll"))
        await cluster.pass_time(10)
        assert len(await cluster.listed("a")) == len(listener.present) == 301
        cluster.kill("c")
        cluster["b"].presence.touch("room", "poll", info("poll"))  # who polls goes on elsewhere
        await cluster.pass_time(9)
        assert len(await cluster.listed("a")) == 301, "it may be only slow"
        await cluster.pass_time(7)
        assert len(await cluster.listed("a")) == len(await cluster.listed("b")) == 201
        await cluster.pass_time(5 + cluster.limits.leave_debounce_s + 1)
        assert set(listener.present) == await cluster.listed("b")
        assert len([one for one in listener.told if one[0] == "left"]) == 100


async def test_members_of_a_node_that_is_known_to_have_ended_leave_at_once() -> None:
    async with Cluster("abc") as cluster:
        listener = Listener()
        cluster["a"].presence.listen("room", listener)
        for name in "abc":
            cluster[name].presence.enter("room", name, info(name))
        await cluster.pass_time(1)
        cluster.kill("c")
        await cluster.wait(cluster["a"].presence.node_ended("c"))
        assert await cluster.listed("a") == {"a", "b"}
        await cluster.pass_time(1)
        assert await cluster.listed("b") == {"a", "b"}, "the lease was dropped for all"
        await cluster.pass_time(cluster.limits.leave_debounce_s)
        assert [one for one in listener.told if one[0] == "left"] == [("left", "c")]


async def test_nobody_leaves_because_the_store_was_away() -> None:
    async with Cluster("ab", limits=Limits(presence_ttl_s=120, node_ttl_s=15)) as cluster:
        listener = Listener()
        cluster["a"].presence.listen("room", listener)
        for name in "ab":
            cluster[name].presence.enter("room", name, info(name))
        await cluster.pass_time(1)
        leases = [cluster[name].broker.leases for name in "ab"]
        put, members = [one.put for one in leases], [one.members for one in leases]

        async def refuse(*_: object) -> Any:
            raise BrokerError("the store is away")

        for one in leases:
            one.put = one.members = refuse  # type: ignore[method-assign]
        await cluster.pass_time(40)
        leases[0].put, leases[0].members = put[0], members[0]  # type: ignore[method-assign]
        await cluster.pass_time(8)  # the other node's link takes longer
        leases[1].put, leases[1].members = put[1], members[1]  # type: ignore[method-assign]
        for _ in range(20):
            await cluster.pass_time(1)
            assert await cluster.listed("a") == await cluster.listed("b") == {"a", "b"}
        assert not [one for one in listener.told if one[0] == "left"]


async def test_a_closed_node_drops_its_members_at_once() -> None:
    async with Cluster("ab") as cluster:
        a, b = cluster["a"], cluster["b"]
        a.presence.enter("room", "c1", info("c1"))
        a.presence.touch("room", "c2", info("c2"))
        b.presence.enter("room", "c3", info("c3"))
        await cluster.settle()
        await cluster.nodes.pop("a").close()
        assert await cluster.listed("b") == {"c2", "c3"}  # who polls may go on elsewhere


# -- when things go wrong ----------------------------------------------------------------


async def test_what_the_store_did_not_take_is_written_later(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster("ab") as cluster:
        a = cluster["a"]
        leases = a.broker.leases
        put_many = leases.put_many

        async def refuse(_: object) -> None:
            raise BrokerError("the store is away")

        leases.put_many = refuse  # type: ignore[assignment,method-assign]
        a.presence.enter("room", "c1", info("c1"))
        a.presence.enter("room", "c2", info("c2"))
        await cluster.pass_time(3)
        a.presence.leave("room", "c1")
        assert await cluster.listed("a") == {"c2"}
        assert await cluster.listed("b") == set()
        assert "presence is behind" in caplog.text
        leases.put_many = put_many  # type: ignore[method-assign]
        await cluster.pass_time(1.5)
        assert await cluster.listed("b") == {"c2"}
        assert a.presence.statistics()["presence_lease_failures_total"] >= 1


async def test_too_many_leases_leave_some_out_and_say_so(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster("ab", limits=Limits(max_leases=5, presence_ttl_s=30)) as cluster:  # two are the nodes'
        a = cluster["a"].presence
        for number in range(5):
            a.enter("room", f"c{number}", info(f"c{number}"))
        await cluster.settle()
        assert "presence is incomplete" in caplog.text
        assert len(await cluster.listed("a")) == 5  # its own are known here
        assert len(await cluster.listed("b")) == 3
        a.leave("room", "c0")
        await cluster.pass_time(12)
        assert len(await cluster.listed("b")) == 3  # there was room at the next renewal


async def test_lost_messages_only_delay() -> None:
    async with Cluster("ab", lost=1.0) as cluster:
        listener = Listener()
        cluster["b"].presence.listen("room", listener)
        await cluster.settle()
        a = cluster["a"].presence
        a.enter("room", "c1", info("c1", "ann"))
        a.enter("room", "c2", info("c2", "bob"))
        await cluster.pass_time(6)
        assert set(listener.present) == {"c1", "c2"}
        a.leave("room", "c1")
        a.update("room", "c2", b'"away"')
        await cluster.pass_time(9)
        assert listener.present == {"c2": info("c2", "bob", "away")}


async def test_malformed_and_foreign_messages_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Cluster("ab") as cluster:
        listener = Listener()
        cluster["b"].presence.listen("room", listener)
        await cluster.settle()
        for payload in (
            b"",
            b"{",
            b'{"v":2,"entered":[["room",{"client":"x"}]]}',
            b'{"v":1,"entered":[1]}',
            b"[]",
        ):
            await cluster["a"].broker.control.broadcast("presence", payload)
        await cluster.pass_time(0.25)
        assert listener.told == []
        assert caplog.text.count("ignored what node a told") == 5
        await cluster.store.far.leases.put("room", "alien", b"\xff", 60)
        assert set((await cluster["b"].presence.members("room")).clients) == {"alien"}


# -- bounds -----------------------------------------------------------------------------


async def test_a_long_list_is_cut_and_it_is_told() -> None:
    async with Cluster(limits=Limits(max_presence_members=10)) as cluster:
        presence = cluster["a"].presence
        for number in range(25):
            presence.enter("room", f"c{number}", info(f"c{number}", f"u{number % 12}"))
        members = await presence.members("room")
        assert (len(members.clients), members.num_clients, members.num_users) == (10, 25, 12)
        assert members.is_cut
        members = await presence.members("room", 3, by_user=True)
        assert (len(members.clients), len(members.users), members.is_cut) == (3, 3, True)
        assert not (await presence.members("nowhere")).is_cut
        assert await presence.stats("room") == (25, 12)


async def test_a_storm_becomes_a_hint_to_read_the_list() -> None:
    async with Cluster("ab", limits=Limits(max_presence_tells_per_s=100)) as cluster:
        listeners = [Listener() for _ in range(10)]
        for listener in listeners:
            cluster["b"].presence.listen("room", listener)
        await cluster.settle()
        for number in range(500):
            cluster["a"].presence.enter("room", f"c{number}", info(f"c{number}"))
        await cluster.pass_time(10)
        assert all(len(one.told) <= 10 for one in listeners)  # 100 tells, 10 listeners
        assert all(1 <= one.changes <= 11 for one in listeners)
        told = [len(one.told) for one in listeners]
        cluster["a"].presence.enter("room", "late", info("late"))
        await cluster.pass_time(1)
        assert [len(one.told) for one in listeners] == [count + 1 for count in told]
        assert cluster["b"].presence.statistics()["presence_left_out_total"] >= 1


async def test_beyond_many_members_only_changes_are_told() -> None:
    async with Cluster("ab", limits=Limits(max_roster_members=20)) as cluster:
        listener = Listener()
        b = cluster["b"].presence
        b.listen("room", listener)
        await cluster.settle()
        for number in range(30):
            cluster["a"].presence.enter("room", f"c{number}", info(f"c{number}"))
        await cluster.pass_time(6)
        assert len(listener.told) == 20
        changes = listener.changes
        assert changes >= 1
        await cluster.pass_time(130)
        assert listener.changes <= changes + 1  # nothing happens: nothing is told
        changes = listener.changes
        cluster["a"].presence.leave("room", "c1")
        await cluster.pass_time(3)
        assert listener.changes == changes + 1
        for number in range(2, 20):
            cluster["a"].presence.leave("room", f"c{number}")
        await cluster.pass_time(130)
        told = len(listener.told)
        cluster["a"].presence.leave("room", "c25")  # few enough again
        await cluster.pass_time(3)
        assert listener.told[told:] == [("left", "c25")]


async def test_channels_without_presence_cost_nothing() -> None:
    settings = SettingsTable(
        [("off", ChannelSettings(presence=False)), ("quiet", ChannelSettings(join_leave=False))]
    )
    async with Cluster("ab", settings=settings) as cluster:
        off, quiet = Listener("off"), Listener("quiet")
        for name in "ab":
            cluster[name].presence.listen("off", off)
            cluster[name].presence.listen("quiet", quiet)
            cluster[name].presence.unlisten("off", Listener("off"))
        sink = RecordingSink()
        await cluster.store.node("spy").start(sink)
        a = cluster["a"].presence
        for channel in ("off", "quiet"):
            a.enter(channel, "c1", info("c1"))
            a.touch(channel, "c2", info("c2"))
            a.enter(channel, "c3", info("c3"))
            a.leave(channel, "c3")
        a.leave("off", "c1")
        await cluster.pass_time(5)
        assert off.told == quiet.told == [] and not sink.broadcasts
        assert await cluster.listed("b", "off") == set()
        assert await cluster.listed("b", "quiet") == {"c1", "c2"}
        assert a.statistics()["presence_members"] == 2


async def test_an_info_without_client_gets_it() -> None:
    async with Cluster() as cluster:
        presence = cluster["a"].presence
        presence.enter("room", "c1", info(""))
        found = (await presence.members("room")).clients
        assert found == {"c1": info("c1")}


async def test_what_is_no_json_spoils_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    async with Cluster("ab") as cluster:
        listener = Listener()
        a = cluster["a"].presence
        cluster["b"].presence.listen("room", listener)
        await cluster.settle()
        broken = info("c1", "ann")
        broken.chan_info = Raw(b'{"open": ')
        a.enter("room", "c1", broken)
        a.enter("room", "c2", info("c2", "bob", "fine"))
        with pytest.raises(ValueError):
            a.update("room", "c2", b"{")
        await cluster.settle()
        assert listener.present == {"c1": info("c1", "ann"), "c2": info("c2", "bob", "fine")}
        assert "no JSON text" in caplog.text


async def test_a_listener_that_was_a_crowd_is_told_in_slices_and_not_after_it_went() -> None:
    async with Cluster() as cluster:
        presence = cluster["a"].presence
        listeners = [Listener() for _ in range(1_000)]
        for listener in listeners:
            presence.listen("room", listener)
        await cluster.settle()
        presence.enter("room", "c1", info("c1"))
        await asyncio.sleep(0)
        told = sum(len(one.told) for one in listeners)
        assert 0 < told < 1_000
        late = next(one for one in reversed(listeners) if not one.told)
        presence.unlisten("room", late)
        await cluster.settle()
        assert sum(len(one.told) for one in listeners) == 999 and not late.told


async def test_after_ten_thousand_came_and_went_the_count_is_right() -> None:
    limits = Limits(max_roster_members=100_000, max_presence_members=100_000)
    async with Cluster("abc", limits=limits, max_delay_s=0.2) as cluster:
        random = Random(7)
        listener = Listener()
        cluster["a"].presence.listen("room", listener)
        here: dict[str, str] = {}
        for number in range(10_000):
            client = f"c{random.randrange(1_000)}"
            if client in here:
                cluster[here.pop(client)].presence.leave("room", client)
            else:
                here[client] = random.choice("abc")
                cluster[here[client]].presence.enter("room", client, info(client, f"u{number % 50}"))
            if number % 500 == 0:
                await cluster.pass_time(0.5)
        await cluster.pass_time(12)
        for name in "abc":
            assert await cluster.listed(name) == set(here)
            assert (await cluster[name].presence.stats("room"))[0] == len(here)
        assert set(listener.present) == set(here) or listener.changes
