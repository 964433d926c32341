"""How many connections, and how fast clients may publish."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from everywire.access.identity import NOBODY, Identity
from everywire.access.quotas import FREE, Quotas
from everywire.core.errors import LimitExceeded, TooManyRequests
from everywire.core.limits import MAY_BE_OFF, Limits

ANN = Identity(user="ann")
KEY = Identity(user="backend", kind="key", may_all=True)

LIMITS = Limits(
    max_connections_per_address=3,
    max_connections_per_user=2,
    publish_rate_per_connection=10.0,
    publish_burst_per_connection=2,
    publish_rate_per_user=10.0,
    publish_burst_per_user=3,
    publish_rate_per_channel=10.0,
    publish_burst_per_channel=5,
    max_refusals=3,
)


@dataclass(frozen=True, eq=False)
class Client:
    identity: Identity = NOBODY
    client: str = ""
    transport: str = "websocket"
    peer: str = "192.0.2.1"


class ManualClock:
    now_s = 100.0

    def time(self) -> float:
        return self.now_s


def make(limits: Limits = LIMITS, *, dev: bool = False) -> tuple[Quotas, ManualClock]:
    clock = ManualClock()
    return Quotas(limits, clock.time, is_dev=dev), clock


def test_connections_of_an_address_are_counted_and_given_back_once() -> None:
    quotas, _ = make()
    places = [quotas.admit(NOBODY, "192.0.2.1") for _ in range(3)]
    with pytest.raises(LimitExceeded, match="address"):
        quotas.admit(NOBODY, "192.0.2.1")
    quotas.admit(NOBODY, "192.0.2.2")
    places[0].release()
    places[0].release()
    quotas.admit(NOBODY, "192.0.2.1")
    with pytest.raises(LimitExceeded):
        quotas.admit(NOBODY, "192.0.2.1")
    assert quotas.refused_connections == 2


def test_connections_of_a_user_are_counted_over_addresses() -> None:
    quotas, _ = make()
    places = [quotas.admit(ANN, f"192.0.2.{number}") for number in range(2)]
    with pytest.raises(LimitExceeded, match="user"):
        quotas.admit(ANN, "192.0.2.9")
    quotas.admit(Identity(user="bob"), "192.0.2.9")
    for place in places:
        place.release()
    quotas.admit(ANN, "192.0.2.9")


def test_an_ipv6_network_counts_as_one_address() -> None:
    quotas, _ = make()
    for number in range(3):
        quotas.admit(NOBODY, f"2001:db8::{number}")
    with pytest.raises(LimitExceeded):
        quotas.admit(NOBODY, "2001:db8::ffff:1")
    quotas.admit(NOBODY, "2001:db8:0:1::1")
    for _ in range(3):
        quotas.admit(NOBODY, "::ffff:192.0.2.7")
    with pytest.raises(LimitExceeded):
        quotas.admit(NOBODY, "192.0.2.7")


@pytest.mark.parametrize("peer", ["127.0.0.1", "::1", "", "unix", "127.8.8.8"])
def test_this_machine_is_not_counted(peer: str) -> None:
    quotas, _ = make()
    assert all(quotas.admit(NOBODY, peer) is FREE for _ in range(10))


def test_operators_and_development_have_no_quota() -> None:
    quotas, _ = make()
    dev, _ = make(dev=True)
    for _ in range(10):
        assert quotas.admit(KEY, "192.0.2.1") is FREE
        assert dev.admit(ANN, "192.0.2.1") is FREE
        quotas.check_publish(Client(KEY, "a"), "news")
        dev.check_publish(Client(ANN, "a"), "news")


def test_a_connection_that_is_too_fast_is_told_when_to_go_on() -> None:
    quotas, clock = make()
    client = Client(client="one")
    quotas.check_publish(client, "a")
    quotas.check_publish(client, "b")
    with pytest.raises(TooManyRequests, match="connection") as caught:
        quotas.check_publish(client, "c")
    assert caught.value.retry_s == pytest.approx(0.1)
    quotas.check_publish(Client(client="two"), "c")
    clock.now_s += caught.value.retry_s + 0.001
    quotas.check_publish(client, "c")


def test_a_user_is_bounded_over_all_connections() -> None:
    quotas, _ = make()
    for name in ("one", "two", "three"):
        quotas.check_publish(Client(ANN, name), name)
    with pytest.raises(TooManyRequests, match="user"):
        quotas.check_publish(Client(ANN, "four"), "d")
    quotas.check_publish(Client(NOBODY, "four"), "d")


def test_a_channel_is_bounded_over_all_clients_and_costs_the_refused_nothing() -> None:
    quotas, clock = make()
    for number in range(5):
        quotas.check_publish(Client(client=str(number)), "crowd")
    late = Client(client="late")
    for _ in range(2):
        with pytest.raises(TooManyRequests, match="channel"):
            quotas.check_publish(late, "crowd")
    quotas.check_publish(late, "elsewhere")
    quotas.check_publish(late, "elsewhere")
    clock.now_s += 1
    quotas.check_publish(late, "crowd")


def post(peer: str = "192.0.2.1", identity: Identity = NOBODY) -> Client:
    return Client(identity, transport="publish", peer=peer)


def test_posts_of_one_user_at_one_address_share_a_bucket() -> None:
    quotas, _ = make()
    quotas.check_publish(post(), "a")
    quotas.check_publish(post(), "b")
    with pytest.raises(TooManyRequests, match="connection"):
        quotas.check_publish(post(), "c")
    quotas.check_publish(post("192.0.2.2"), "c")
    quotas.check_publish(post(identity=ANN), "c")
    quotas.check_publish(post("2001:db8::1"), "d")
    quotas.check_publish(post("2001:db8::2"), "d")
    with pytest.raises(TooManyRequests, match="connection"):
        quotas.check_publish(post("2001:db8::3"), "d")


def test_posts_through_a_proxy_of_this_machine_are_nobodys_in_particular() -> None:
    quotas, _ = make()
    for number in range(20):
        quotas.check_publish(post("127.0.0.1"), str(number))


def test_plain_sockets_of_one_address_have_a_bucket_each() -> None:
    quotas, _ = make()
    sockets = [Client(), Client()]
    for channel, socket in zip("aabb", sockets * 2, strict=True):
        quotas.check_publish(socket, channel)
    with pytest.raises(TooManyRequests, match="connection"):
        quotas.check_publish(sockets[0], "c")
    quotas.forget(sockets[0])
    quotas.check_publish(sockets[0], "c")  # as another one would be with the same number
    assert len(quotas._connections) == 2 and not quotas._refusals


def test_who_connects_anew_again_and_again_is_bounded_by_address() -> None:
    quotas, clock = make(replace(LIMITS, publish_rate_per_address=10.0, publish_burst_per_address=4))
    for number in range(4):
        quotas.check_publish(Client(client=str(number)), str(number))
    with pytest.raises(TooManyRequests, match="address"):
        quotas.check_publish(Client(client="4"), "e")
    quotas.check_publish(Client(client="5", peer="192.0.2.2"), "e")
    clock.now_s += 0.11
    quotas.check_publish(Client(client="6"), "f")


def test_a_client_that_polls_does_not_begin_anew_with_each_request() -> None:
    quotas, _ = make()
    told = []
    for number in range(6):
        request = Client(client="one", transport="poll")
        try:
            quotas.check_publish(request, str(number))
        except TooManyRequests as error:
            told.append(error.is_sustained)
        quotas.forget(request)
    assert told == [False, False, True, True]


def test_a_limit_of_0_is_none() -> None:
    off = dict.fromkeys(MAY_BE_OFF, 0)
    quotas, _ = make(replace(LIMITS, **off))
    for _ in range(50):
        assert quotas.admit(ANN, "192.0.2.1") is FREE
        quotas.check_publish(Client(ANN, "one"), "news")
    quotas, _ = make(replace(LIMITS, **off | {"max_connections_per_user": 1}))
    place = quotas.admit(ANN, "192.0.2.1")
    with pytest.raises(LimitExceeded, match="user"):
        quotas.admit(ANN, "192.0.2.1")
    place.release()
    quotas.admit(ANN, "192.0.2.1")
    quotas, _ = make(replace(LIMITS, max_refusals=0))
    for number in range(9):
        try:
            quotas.check_publish(Client(client="one"), str(number))
        except TooManyRequests as error:
            assert not error.is_sustained


def test_only_whoever_goes_on_and_on_may_be_closed() -> None:
    quotas, clock = make()
    client = Client(client="one")
    told = []
    for _ in range(6):
        try:
            quotas.check_publish(client, "a")
        except TooManyRequests as error:
            told.append(error.is_sustained)
    assert told == [False, False, True, True]
    clock.now_s += 1
    quotas.check_publish(client, "a")
    quotas.check_publish(client, "a")
    with pytest.raises(TooManyRequests) as caught:
        quotas.check_publish(client, "a")
    assert not caught.value.is_sustained, "it had slowed down"
    assert quotas.refused_publications == 5


def test_what_is_remembered_is_bounded() -> None:
    quotas, _ = make(replace(LIMITS, max_quota_keys=5))
    for number in range(50):
        client = Client(client=str(number))
        for _ in range(3):
            try:
                quotas.check_publish(client, f"channel-{number}")
            except TooManyRequests:
                pass
    assert len(quotas._refusals) <= 5
    assert len(quotas._connections) <= 5 and len(quotas._channels) <= 5


def test_as_many_may_begin_to_poll_as_may_be_connected() -> None:
    """Each request without a pass is a new client, a member of its channels for a minute: some thousand of
    them took all leases that there are."""
    quotas, clock = make(replace(LIMITS, presence_ttl_s=60.0))
    for _ in range(3):
        quotas.admit_poller(NOBODY, "192.0.2.1")
    with pytest.raises(LimitExceeded, match="address"):
        quotas.admit_poller(NOBODY, "192.0.2.1")
    for identity, peer in ((NOBODY, "192.0.2.2"), (NOBODY, "127.0.0.1"), (KEY, "192.0.2.1")):
        quotas.admit_poller(identity, peer)
    for number in range(2):
        quotas.admit_poller(ANN, f"192.0.2.1{number}")
    with pytest.raises(LimitExceeded, match="user"):
        quotas.admit_poller(ANN, "192.0.2.19")
    clock.now_s += 20.0  # a third of their members has gone
    quotas.admit_poller(NOBODY, "192.0.2.1")
    with pytest.raises(LimitExceeded):
        quotas.admit_poller(NOBODY, "192.0.2.1")
    assert quotas.refused_connections == 3


def test_pollers_are_not_counted_where_nobody_is() -> None:
    unlimited = replace(LIMITS, max_connections_per_address=0, max_connections_per_user=0)
    for quotas, _ in (make(dev=True), make(unlimited)):
        for _ in range(10):
            quotas.admit_poller(ANN, "192.0.2.1")
