"""Members and nodes whose leases were written by somebody who is none of us."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.sessions.membership import client_of, decode_changes, decode_info, holder, user_of, with_state
from everywire.transports.relay_peers import lease_value
from tests.sessions.cluster import Cluster, Listener, info

LEASES = [
    b"",
    b"\n",
    b"\xff\n{}",
    b"a\n",
    b"[" * 100_000,
    b'{"client":"\xff","user":"\xff"}',
    b'{"client":"x","user":"\xff"}',
    b'{"client":"c9","user":' + b"[" * 100_000,
    b'{"client":7}',
    b"nobody\n" + lease_value("/nowhere", ""),
]


@given(
    text=st.binary(max_size=40)
    | st.sampled_from(LEASES)
    | st.binary(max_size=9).map(lambda b: b'{"user":"%b"}' % b)
)
def test_any_lease_can_be_read(text: bytes) -> None:
    node, value = holder(text)
    assert "\n" not in node
    assert isinstance(decode_info(value), ClientInfo)
    assert isinstance(user_of(value), str) and isinstance(client_of(value), str)
    with_state(value, b"1")
    decode_changes(text, "node")


async def test_leases_of_strangers_keep_nobody_from_hearing_of_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    async with Cluster("ab") as cluster:
        leases, listener = cluster["a"].broker.leases, Listener("room")
        for number, lease in enumerate(LEASES):
            await leases.put("room", f"stranger-{number}", lease, 3_600.0)
            await leases.put("/nodes", f"stranger-{number}", lease, 3_600.0)
        cluster["a"].presence.listen("room", listener)
        await cluster.pass_time(12.0)
        cluster["b"].presence.enter("room", "c1", info("c1", "ann"))
        await cluster.pass_time(1.0)
        assert ("joined", "c1") in listener.told
        found = await cluster["a"].presence.members("room", by_user=True)
        assert found.clients["c1"].user == "ann"
        await cluster.pass_time(12.0)
        assert not caplog.records, caplog.text
