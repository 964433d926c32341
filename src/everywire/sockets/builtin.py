"""Events of clients that are answered without an application: ``subscribe``, ``unsubscribe`` and ``publish``.

They are known in the namespace ``/`` where the application has no function for them, so that a server by
itself is of use to Socket.IO clients. Everything here is asked of the rules, as on every other wire.

* ``subscribe(room[, position])``: what is published there from now on, or after the position (``earliest``
  counts as one), comes as events. Acknowledged with ``{"channel", "position"}`` and, where the application
  has it, ``"data"``;
* ``unsubscribe(room)``: acknowledged with ``{"channel"}``. Only rooms that the client asked for are left;
* ``publish(room, data[, {"event", "tags"}])``: acknowledged with ``{"offset", "epoch", "position"}``. Bytes
  are data, too.

Errors are acknowledged as ``{"error": {"code", "name", "message"}}``. A room's name is a channel's, where it
can be one; otherwise it is the channel that `everywire.sockets.rooms` says.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from everywire.access.drafts import check_event, check_tags
from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Action
from everywire.brokers.base import Appended, Head
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, TooManyRequests
from everywire.core.position import Place, Position, encode_position
from everywire.sessions.answers import refused
from everywire.sessions.asking import asked
from everywire.sessions.commands import info_text
from everywire.sockets.acks import SocketGone
from everywire.sockets.answers import Answer, Busy
from everywire.sockets.happenings import DEFAULT_EVENT, draft_of
from everywire.sockets.joining import enter, exit_room
from everywire.sockets.permissions import plan
from everywire.sockets.rooms import channel_of
from everywire.sockets.socket import Socket
from everywire.sockets.waiting import called

__all__ = ["BUILT_IN", "publish"]


def _room(args: Sequence[Any]) -> tuple[str, str]:
    """Return the first argument and the channel that it is."""
    if not args or not isinstance(args[0], str):
        raise BadRequest("the first argument is the name of a room")
    return args[0], channel_of("/", args[0])


# -- subscribe ---------------------------------------------------------------------------


async def _subscribe(socket: Socket, args: Sequence[Any]) -> Sequence[Any]:
    room, channel = _room(args)
    position = _position(args)
    known = socket.joined.get(channel)
    if known is None or not known.is_open:
        await _allow(socket, Action.READ, channel)
        decision = await _decide(socket, channel)
        data = None if decision.data is None else check_json(decision.data)
        if decision.snapshot is None:
            place = await _place(socket, channel, position)
        else:
            place, data = await _snapshot(socket, channel, decision)
        await _enter(socket, channel, place, decision)
    else:
        data = None
    told = {"channel": room, "position": socket.place_in(channel)}
    return [told if data is None else {**told, "data": data}]


def _position(args: Sequence[Any]) -> Position | str:
    """Return where the client comes from: a position, or one of the words ``earliest`` and ``latest``."""
    said = args[1] if len(args) > 1 else None
    if isinstance(said, Mapping):
        said = said.get("position")
    if said is None or said == "":
        return "latest"
    if not isinstance(said, str):
        raise BadRequest("a position is text")
    return said if said in ("earliest", "latest") else Position.decode(said)


async def _place(socket: Socket, channel: str, position: Position | str) -> Place | None:
    """Return after which place a channel is read; None is from now on."""
    if isinstance(position, Position):
        return position.place(channel)
    if position == "latest":
        return None
    head = await _head(socket, channel)
    return Place(head.epoch, head.first - 1)


async def _head(socket: Socket, channel: str) -> Head:
    log = socket.home.shared.hub.broker.log
    heads: Mapping[str, Head] | EverywireError = await called(partial(log.heads, (channel,)))
    if isinstance(heads, EverywireError):
        raise heads
    return heads[channel]


async def _allow(socket: Socket, action: Action, channel: str) -> None:
    """Raise an error unless the rules let the client do something."""
    authority = socket.home.shared.authority
    error = await called(partial(authority.authorize, socket.identity, action, (channel,)))
    if error is not None:
        raise refused(error)
    if socket.is_ended:
        raise SocketGone()


async def _decide(socket: Socket, channel: str) -> SubscribeDecision:
    """Ask the application, if it wants to be asked."""
    shared = socket.home.shared
    hook = shared.hooks.subscribe
    if hook is None:
        return SubscribeDecision()
    found = await asked("the subscribe hook", hook(socket, channel, None), shared.limits.hook_timeout_s)
    if isinstance(found, EverywireError):
        raise found
    return found or SubscribeDecision()


async def _snapshot(socket: Socket, channel: str, decision: SubscribeDecision) -> tuple[Place, Any]:
    """Return where the log stands, and the state of the channel, which holds at least what is before it."""
    shared = socket.home.shared
    make = decision.snapshot
    assert make is not None
    head = await _head(socket, channel)
    found = await asked("a snapshot", make(socket, channel), shared.limits.hook_timeout_s)
    if isinstance(found, EverywireError):
        raise found
    return Place(head.epoch, head.last), check_json(found)


async def _enter(socket: Socket, channel: str, place: Place | None, decision: SubscribeDecision) -> None:
    error = await called(
        partial(enter, socket, channel, place=place, is_ruled=True, decision=decision)
    )
    if error is not None:
        raise error
    plan(socket)


# -- unsubscribe ---------------------------------------------------------------------------


async def _unsubscribe(socket: Socket, args: Sequence[Any]) -> Sequence[Any]:
    room, channel = _room(args)
    joined = socket.joined.get(channel)
    if joined is not None and joined.is_ruled:
        exit_room(socket, channel)
    return [{"channel": room}]


BUILT_IN: Final[Mapping[str, Callable[[Socket, Sequence[Any]], Awaitable[Sequence[Any]]]]] = {
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
}
"""The built-in events that return their acknowledgement, or raise an `EverywireError`; see `publish`, too."""


# -- publish --------------------------------------------------------------------------------


def publish(socket: Socket, answer: Answer, busy: Busy, args: Sequence[Any]) -> None:
    """Publish what a client sends; those of one client to one channel keep their order."""
    shared = socket.home.shared
    is_done = is_held = False

    def done(appended: Appended | EverywireError) -> None:
        nonlocal is_done
        is_done = True
        if is_held:
            busy.held(False)
        if not isinstance(appended, EverywireError):
            place = Place(appended.epoch, appended.offset)
            position = encode_position([(channel, place)])
            answer.give([{"offset": place.offset, "epoch": place.epoch, "position": position}])
            return
        answer.give(refused(appended))
        if isinstance(appended, TooManyRequests) and appended.is_sustained:
            socket.end(codes.SLOW_DOWN, appended.sentence)  # it was told to, again and again

    try:
        _, channel = _room(args)
        event, tags = _options(args, socket)
        if len(args) < 2:
            raise BadRequest("data is missing")
        joined = socket.joined.get(channel)
        info = info_text(socket.info if joined is None else joined.info)
        draft = draft_of(channel, event, args[1:2], limits=shared.limits, tags=tags)
        goes_on = shared.publishing.publish(socket, draft._replace(info=info), done)
    except EverywireError as error:
        answer.give(error)
        return
    if not goes_on and not is_done:
        # The store is behind: this client waits until this one is done.
        is_held = True
        busy.held(True)


def _options(args: Sequence[Any], socket: Socket) -> tuple[str, dict[str, str] | None]:
    """Return the event and the tags that a publication is to have."""
    limits = socket.home.shared.limits
    options = args[2] if len(args) > 2 else None
    if options is None:
        return DEFAULT_EVENT, None
    if not isinstance(options, dict):
        raise BadRequest("the third argument is an object: event, tags")
    event, tags = options.get("event"), options.get("tags")
    if event is not None and not isinstance(event, str):
        raise BadRequest("an event is text")
    if tags is not None and not (
        isinstance(tags, dict) and all(isinstance(value, str) for value in tags.values())
    ):
        raise BadRequest("tags is an object of strings")
    return (
        DEFAULT_EVENT if event is None else check_event(event, limits),
        None if tags is None else check_tags(tags, limits),
    )
