"""Messages of the session protocol, drawn by Hypothesis: any struct, with any fields."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st
from msgspec import UNSET, Raw, UnsetType

from everywire.codecs.centrifuge import messages as of
from everywire.core.publication import Publication

TEXTS = st.text(st.characters(codec="utf-8"), max_size=8)
NAMES = st.text("abcXYZ0189._:-", min_size=1, max_size=6)
UINT32 = st.integers(0, 2**32 - 1)
INT32 = st.integers(-(2**31), 2**31 - 1)
OFFSETS = st.integers(0, 2**53)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)
JSON_TEXTS = VALUES.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def fields(is_binary: bool) -> st.SearchStrategy[Raw | UnsetType]:
    """Fields of bytes. An empty one cannot be told from none in the Protobuf form."""
    data = st.binary(min_size=1, max_size=12) if is_binary else JSON_TEXTS
    return st.just(UNSET) | data.map(Raw)


def _maybe(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | inner


def requests(is_binary: bool) -> dict[str, st.SearchStrategy[Any]]:
    """What stands in a command, by its field's name."""
    data = fields(is_binary)
    target = st.builds(of.Target, channel=NAMES)
    subscribe = st.builds(
        of.SubscribeRequest,
        channel=NAMES,
        token=TEXTS,
        recover=st.booleans(),
        epoch=TEXTS,
        offset=OFFSETS,
        data=data,
        positioned=st.booleans(),
        recoverable=st.booleans(),
        join_leave=st.booleans(),
        delta=TEXTS,
        flag=st.integers(-(2**53), 2**53),
        type=INT32,
    )
    return {
        "connect": st.builds(
            of.ConnectRequest,
            token=TEXTS,
            data=data,
            subs=st.dictionaries(NAMES, subscribe, max_size=2),
            name=TEXTS,
            version=TEXTS,
            headers=st.dictionaries(TEXTS, TEXTS, max_size=2),
            session=TEXTS,
            ticks=UINT32,
        ),
        "subscribe": subscribe,
        "unsubscribe": target,
        "publish": st.builds(of.PublishRequest, channel=NAMES, data=data, type=INT32, key=TEXTS),
        "presence": target,
        "presence_stats": target,
        "history": st.builds(
            of.HistoryRequest,
            channel=NAMES,
            limit=st.integers(-1, 2**31 - 1),
            since=_maybe(st.builds(of.StreamPosition, offset=OFFSETS, epoch=TEXTS)),
            reverse=st.booleans(),
        ),
        "ping": st.builds(of.Empty),
        "send": st.builds(of.SendRequest, data=data),
        "rpc": st.builds(of.RpcRequest, data=data, method=TEXTS),
        "refresh": st.builds(of.RefreshRequest, token=TEXTS),
        "sub_refresh": st.builds(of.SubRefreshRequest, channel=NAMES, token=TEXTS, type=INT32),
    }


def commands(is_binary: bool) -> st.SearchStrategy[of.Command]:
    """Commands with an id and one request."""
    one = [st.builds(of.Command, id=UINT32, **{name: inner}) for name, inner in requests(is_binary).items()]
    return st.one_of(*one)


def results(is_binary: bool) -> dict[str, st.SearchStrategy[Any]]:
    """What stands in a reply, by its field's name."""
    data = fields(is_binary)
    info = st.builds(of.ClientInfo, user=TEXTS, client=TEXTS, conn_info=data, chan_info=data)
    tags = st.dictionaries(TEXTS, TEXTS, max_size=2)
    pub = st.builds(of.Pub, data=data, info=_maybe(info), offset=OFFSETS, tags=tags, time=OFFSETS)
    told = {"expires": st.booleans(), "ttl": UINT32}
    subscribe = st.builds(
        of.SubscribeResult,
        **told,
        recoverable=st.booleans(),
        epoch=TEXTS,
        publications=st.lists(pub, max_size=2),
        recovered=st.booleans(),
        offset=OFFSETS,
        positioned=st.booleans(),
        data=data,
        was_recovering=st.booleans(),
        has_snapshot=st.booleans(),
    )
    connect = st.builds(
        of.ConnectResult,
        client=TEXTS,
        version=TEXTS,
        **told,
        data=data,
        subs=st.dictionaries(NAMES, subscribe, max_size=2),
        ping=UINT32,
        pong=st.booleans(),
        session=TEXTS,
        node=TEXTS,
        time=OFFSETS,
    )
    end = {"code": UINT32, "reason": TEXTS}
    pushes = {
        "pub": pub,
        "join": st.builds(of.JoinLeave, info=info),
        "leave": st.builds(of.JoinLeave, info=info),
        "unsubscribe": st.builds(of.Unsubscribe, **end),
        "message": st.builds(of.MessagePush, data=data),
        "subscribe": st.builds(
            of.SubscribePush,
            recoverable=st.booleans(),
            epoch=TEXTS,
            offset=OFFSETS,
            positioned=st.booleans(),
            data=data,
        ),
        "connect": connect,
        "disconnect": st.builds(of.Disconnect, **end),
        "refresh": st.builds(of.RefreshPush, **told),
        "tick": st.builds(of.Tick, n=UINT32),
        "presence_changed": st.builds(of.Empty),
    }
    push = st.one_of(*[st.builds(of.Push, channel=NAMES, **{name: it}) for name, it in pushes.items()])
    return {
        "error": st.builds(
            of.ErrorReply, code=UINT32, message=TEXTS, temporary=st.just(UNSET) | st.just(True)
        ),
        "push": push,
        "connect": connect,
        "subscribe": subscribe,
        "unsubscribe": st.builds(of.Empty),
        "publish": st.builds(of.Empty),
        "presence": st.builds(of.PresenceResult, presence=st.dictionaries(TEXTS, info, max_size=2)),
        "presence_stats": st.builds(of.PresenceStatsResult, num_clients=UINT32, num_users=UINT32),
        "history": st.builds(
            of.HistoryResult, publications=st.lists(pub, max_size=2), epoch=TEXTS, offset=OFFSETS
        ),
        "ping": st.builds(of.Empty),
        "rpc": st.builds(of.RpcResult, data=data),
        "refresh": st.builds(of.RefreshResult, client=TEXTS, version=TEXTS, **told),
        "sub_refresh": st.builds(of.SubRefreshResult, **told),
    }


def replies(is_binary: bool) -> st.SearchStrategy[of.Reply]:
    """Replies with an id and one result, pushes and errors."""
    one = [st.builds(of.Reply, id=UINT32, **{name: inner}) for name, inner in results(is_binary).items()]
    return st.one_of(*one, st.builds(of.Reply))


@st.composite
def publications(draw: st.DrawFn) -> Publication:
    """Publications of the core."""
    is_json = draw(st.booleans())
    user = draw(TEXTS)
    info = json.dumps({"user": user, "client": "c", "conn_info": {"ä": 1}}).encode()
    return Publication(
        draw(st.integers(1, 2**53)),
        draw(JSON_TEXTS) if is_json else draw(st.binary(min_size=1, max_size=12)),
        draw(OFFSETS),
        "" if is_json else draw(st.sampled_from(["image/png", "text/plain; charset=utf-8"])),
        draw(st.none() | TEXTS),
        draw(st.none() | st.dictionaries(TEXTS, TEXTS, max_size=2)),
        draw(st.none() | st.just(info)),
    )


def comparable(message: Any) -> Any:
    """Return a message as plain values, in which fields of bytes can be compared."""
    if isinstance(message, Raw):
        return bytes(message)
    if isinstance(message, of.Message):
        return {name: comparable(getattr(message, name)) for name in message.__struct_fields__}
    if isinstance(message, dict):
        return {key: comparable(value) for key, value in message.items()}
    if isinstance(message, list):
        return [comparable(value) for value in message]
    return message
