"""Presence in drawn runs: clients come, go, poll, change and move among nodes, messages are late or lost, and
nodes are cut off. Whatever happens, lists and what listeners were told agree with the truth once things come
to rest, and nobody is told nonsense on the way.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple, TypeAlias

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.core.errors import BrokerError
from everywire.core.limits import Limits
from everywire.core.settings import ChannelSettings, SettingsTable
from everywire.sessions.presence import Presence
from tests.sessions.cluster import Cluster, Listener, info

TTL_S = 12.0
LIMITS = Limits(presence_ttl_s=TTL_S, node_ttl_s=6, leave_debounce_s=2)
USERS = ("ann", "ann", "bob", "", "")
CLIENTS = st.integers(0, len(USERS) - 1)
NODES = st.sampled_from("abc")
STEPS = st.one_of(
    st.tuples(st.just("open"), NODES, CLIENTS),
    st.tuples(st.just("close"), NODES, CLIENTS),
    st.tuples(st.just("poll"), NODES, CLIENTS),
    st.tuples(st.just("update"), NODES, CLIENTS),
    st.tuples(st.just("listen"), NODES, CLIENTS),
    st.tuples(st.just("kill"), st.sampled_from("bc"), CLIENTS),
    st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, 1.0, 3.0, 7.0]), CLIENTS),
)


Steps: TypeAlias = list[tuple[str, Any, int]]


class StrictListener(Listener):
    """A listener from the beginning on: nobody leaves who is not there."""

    def __init__(self, *, by_user: bool) -> None:
        super().__init__(by_user=by_user)
        self.nonsense: list[str] = []

    def left(self, channel: str, info: ClientInfo) -> None:
        if self.key(info) not in self.present:
            self.nonsense.append(f"{self.key(info)} left, and was not there")
        super().left(channel, info)


class Client(Listener):
    """What a client does: it listens, then reads the list, and applies to it what it is told from then on."""

    def __init__(self, cluster: Cluster, node: str, *, by_user: bool) -> None:
        super().__init__(by_user=by_user)
        self.node = node
        presence = cluster[node].presence
        presence.listen("room", self)
        self.reading = asyncio.ensure_future(self.read(presence))

    async def read(self, presence: Presence) -> None:
        try:
            members = await presence.members("room")
        except BrokerError:
            return  # its node was cut off
        self.present = {self.key(one): one for one in members.clients.values()}


class Run:
    """One run: does the steps, and knows the truth."""

    def __init__(self, cluster: Cluster, *, by_user: bool) -> None:
        self.cluster = cluster
        self.by_user = by_user
        self.open: dict[str, str] = {}
        """Open clients, and the node that each is connected to."""
        self.states: dict[str, str] = {}
        self.clients: list[Client] = []
        self.seen: set[tuple[str, str]] = set()
        self.count = 0

    def info_of(self, number: int) -> Any:
        client = f"c{number}"
        return info(client, USERS[number], self.states.get(client))

    async def do(self, step: tuple[str, Any, int]) -> None:
        what, where, number = step
        if what == "wait":
            await self.cluster.pass_time(where)
            return
        if where not in self.cluster.nodes:
            return
        client = f"c{number}"
        presence = self.cluster[where].presence
        if what == "open" and client not in self.open:
            presence.enter("room", client, self.info_of(number))
            self.open[client] = where
            self.seen.add((client, where))
        elif what == "close" and self.open.get(client, where) == where:
            presence.leave("room", client)
            self.open.pop(client, None)
        elif what == "poll" and client not in self.open:
            self.seen.add((client, where))
            presence.touch("room", client, self.info_of(number))
        elif what == "update" and client in self.open:
            self.count += 1
            if self.open[client] == where:  # elsewhere the message may be lost, and nobody says it again
                self.states[client] = str(self.count)
                presence.update("room", client, f'"{self.count}"'.encode())
        elif what == "listen":
            self.clients.append(Client(self.cluster, where, by_user=self.by_user))
        elif what == "kill":
            self.cluster.kill(where)
            self.open = {client: node for client, node in self.open.items() if node != where}
        for client, node in self.open.items():
            if node in self.cluster.nodes:
                assert client in await self.cluster.listed(node), "who is connected here is not listed"
        # (What another node is writing or telling at this moment may still arrive.)
        elsewhere = any(client == one and where != node for one, node in self.seen)
        if what == "close" and not elsewhere:
            assert client not in await self.cluster.listed(where) or client in self.open


class Faults(NamedTuple):
    """How messages and the store behave."""

    seed: int
    lost: float
    max_store_s: float


FAULTS = st.builds(
    Faults, st.integers(0, 1_000), st.sampled_from([0.0, 0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.2, 1.5])
)


async def run(steps: Steps, faults: Faults, by_user: bool) -> None:
    table = SettingsTable(default=ChannelSettings(presence_by_user=by_user))
    async with Cluster("abc", limits=LIMITS, settings=table, max_delay_s=0.3, **faults._asdict()) as cluster:
        one = Run(cluster, by_user=by_user)
        watchers = {name: StrictListener(by_user=by_user) for name in "abc"}
        for name, watcher in watchers.items():
            cluster[name].presence.listen("room", watcher)
        await cluster.pass_time(2 * faults.max_store_s + 1)
        for step in steps:
            await one.do(step)
        # Leases of the dead and of who polls no more run out, rosters compare, leaves are told.
        await cluster.pass_time(TTL_S * 4 / 3 + 5 + LIMITS.leave_debounce_s + 8, step_s=0.5)
        truth = {client: info(client, USERS[int(client[1:])], one.states.get(client)) for client in one.open}
        for name, node in cluster.nodes.items():
            members = await cluster.wait(node.presence.members("room"))
            assert members.clients == truth, name
            users = {one.user for one in truth.values()}
            assert await cluster.wait(node.presence.stats("room")) == (len(truth), len(users))
            assert not watchers[name].changes
            assert not watchers[name].nonsense
            if by_user:
                assert set(watchers[name].present) == {one.user or one.client for one in truth.values()}, name
            else:
                assert watchers[name].present == truth, name
        for client in one.clients:
            client.reading.cancel()
            if client.node in cluster.nodes:
                assert set(client.present) == {client.key(one) for one in truth.values()}
        leases = await cluster.store.far.leases.members("room")
        assert set(leases) == set(truth)


SOME = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SOME
@given(st.lists(STEPS, max_size=25), FAULTS)
def test_lists_and_listeners_come_to_agree_with_the_truth(
    steps: list[tuple[str, Any, int]], faults: Faults
) -> None:
    asyncio.run(run(steps, faults, by_user=False))


@SOME
@given(st.lists(STEPS, max_size=25), FAULTS)
def test_users_come_to_agree_with_the_truth(steps: Steps, faults: Faults) -> None:
    asyncio.run(run(steps, faults, by_user=True))
