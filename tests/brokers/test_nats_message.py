"""Messages of a channel in NATS: their form, and what of them a window keeps."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.brokers.nats.message import Kept, Key, Large, Message, State, floor_of, head_of, visible
from everywire.brokers.record import pack
from everywire.core.errors import BrokerError
from everywire.core.log import Budget, ChannelLog
from everywire.core.publication import Draft, Publication
from everywire.core.settings import Window

SECOND = 1_000


def state(**more: object) -> State:
    return msgspec.structs.replace(State("e", 0, 1, 1, 0), **more)


@given(st.binary(max_size=200))
def test_nothing_but_a_broker_error_comes_of_what_is_no_message(data: bytes) -> None:
    try:
        Message.decode(data)
    except BrokerError:
        pass


def test_a_message_comes_back_as_it_was() -> None:
    message = Message.make(
        ("writer", 7),
        41,
        state(last=2, kept=Kept(1, 2, 3, 4), keys_from=40, keys_until_ms=9),
        (pack(Draft("a", b"1"), 5), Large((3, 4), 60_000, 6)),
        (Key(1, b"d" * 16, b"f", 9),),
    )
    assert Message.decode(message.encode()) == message
    assert (message.before, message.is_small) == (0, False)
    later = msgspec.msgpack.encode([*msgspec.msgpack.decode(message.encode()), "of a later version"])
    assert Message.decode(later) == message


drafts = st.lists(st.tuples(st.integers(0, 90), st.integers(0, 400)), min_size=1, max_size=40)


@given(drafts, st.integers(1, 10), st.integers(200, 3_000), st.integers(1, 200), st.integers(0, 200))
def test_a_window_keeps_what_the_log_in_memory_keeps(
    given: list[tuple[int, int]], count: int, size: int, age_s: int, later_s: int
) -> None:
    window = Window(count, size, float(age_s))
    log = ChannelLog(window, Budget(10**9))
    now_ms, cost, began_ms = 1_000_000, 0, 0
    messages: list[Message] = []
    newest = state()
    for number, (pause_s, length) in enumerate(given, 1):
        now_ms += pause_s * SECOND
        publication = Publication(number, bytes(length), now_ms)
        log.append(publication)
        log.trim_before_ms(now_ms - age_s * SECOND)
        cost += publication.cost_bytes
        began_ms = began_ms or now_ms
        newest = state(last=number, began_ms=began_ms, last_ms=now_ms, cost_bytes=cost)
        messages.append(Message.make(("w", number), 0, newest, (pack(Draft("a", bytes(length)), now_ms),)))
    now_ms += later_s * SECOND
    log.trim_before_ms(now_ms - age_s * SECOND)
    kept = [offset for message in messages for offset, _ in visible(message, newest, window, now_ms)]
    assert kept == [one.offset for one in log.newest(10_000)]
    head = head_of("e", newest, window, now_ms)
    assert head.last == log.last
    assert head.first <= log.first, "what the newest message alone tells is a bound"
    assert head.is_whole == log.is_whole


@pytest.mark.parametrize(("until_ms", "first"), [(10, 6), (11, 1)])
def test_a_keeping_that_is_over_leaves_nothing(until_ms: int, first: int) -> None:
    kept = state(last=5, last_ms=10, kept=Kept(100, 10**6, 10**6, until_ms))
    assert floor_of(kept, Window(), 10) == first
