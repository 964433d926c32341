"""What a connected client asks for besides subscriptions and tokens: publish, presence, history, rpc, send.

Each command that is not answered within the call is counted (`Line.begin`), and more of them than
`Limits.max_pending_commands` are answered 111. Handlers of the application run in lanes
(`everywire.sessions.lanes`), so that nothing here waits behind one.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from msgspec import UNSET, UnsetType

from everywire.access.drafts import make_draft
from everywire.access.hooks import IN_ORDER, Lane
from everywire.access.identity import Action
from everywire.brokers.base import Appended
from everywire.codecs.centrifuge.messages import (
    ClientInfo,
    Empty,
    PresenceResult,
    PresenceStatsResult,
    PublishRequest,
    Reply,
    RpcRequest,
    RpcResult,
    SendRequest,
    Target,
)
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError, TooManyRequests
from everywire.core.names import check_name
from everywire.core.publication import JSON
from everywire.sessions.answers import ENDS, field, field_bytes, refused
from everywire.sessions.asking import asked
from everywire.sessions.lanes import Lanes
from everywire.sessions.line import Line

__all__ = [
    "ask_presence",
    "ask_presence_stats",
    "call",
    "check_channel",
    "check_room",
    "if_allowed",
    "info_text",
    "publish",
    "send",
]

_BINARY_TYPE: Final = "application/octet-stream"
_CALL_BYTES: Final = 1024
"""What a call or message takes besides its data until its handler is done."""
_log = logging.getLogger("everywire.sessions")


def check_channel(channel: str) -> None:
    """Raise an error for what is no channel name: 3501 when there is none at all, else 107."""
    if not channel:
        raise RequestError("a channel is missing", code=codes.BAD_PROTOCOL)
    check_name(channel)


def check_room(line: Line, size: int = 0) -> None:
    """Raise an error when too many commands are under way already."""
    if not line.has_room(size):
        raise RequestError("too many commands are under way; wait for answers", code=codes.TOO_MANY_REQUESTS)


def if_allowed(
    line: Line, command_id: int, action: Action, channel: str, then: Callable[[], None]
) -> None:
    """Count the command and go on if its action is allowed; answer it if not."""

    def judged(error: EverywireError | None) -> None:
        if line.is_ended:
            return
        if error is not None:
            line.fail(command_id, refused(error))
            line.finish()
        else:
            then()

    line.begin()
    line.shared.authority.authorize(line.identity, action, (channel,), judged)


# -- publish -------------------------------------------------------------------------


def publish(line: Line, command_id: int, request: PublishRequest) -> None:
    """Publish data; others see who did."""
    check_channel(request.channel)
    if request.type or request.key:
        raise RequestError("only publications to a stream are known here", code=codes.NOT_AVAILABLE)
    data = field_bytes(request.data)
    if data is None:
        raise BadRequest("data is missing")
    size = len(data)
    check_room(line, size)
    content_type = JSON
    if line.carrier.dialect.is_binary and not _is_json(data):
        content_type = _BINARY_TYPE
    draft = make_draft(request.channel, data, line.shared.limits, content_type=content_type)
    subscription = line.subscriptions.get(request.channel)
    info = line.info if subscription is None else subscription.info
    is_done = False

    def done(appended: Appended | EverywireError) -> None:
        nonlocal is_done
        is_done = True
        if line.is_ended:
            return
        line.is_publishing_held = False
        if isinstance(appended, EverywireError):
            line.fail(command_id, refused(appended))
            if isinstance(appended, TooManyRequests) and appended.is_sustained:
                line.end(codes.SLOW_DOWN, appended.sentence)  # it was told to, again and again
        else:
            line.reply(Reply(id=command_id, publish=Empty()))
        line.finish(size)

    line.begin(size)
    goes_on = line.shared.publishing.publish(line, draft._replace(info=info_text(info)), done)
    if not goes_on and not is_done:
        # The store is behind: this publisher waits until this one is done.
        line.is_publishing_held = True


def _is_json(data: bytes) -> bool:
    try:
        check_json(data)
    except ValueError:
        return False
    return True


def info_text(info: ClientInfo) -> bytes:
    """Return who a client is as JSON text, user and client id always there."""
    return msgspec.json.encode({"user": info.user, "client": info.client} | _infos(info))


def _infos(info: ClientInfo) -> dict[str, msgspec.Raw]:
    parts = (("conn_info", info.conn_info), ("chan_info", info.chan_info))
    return {name: value for name, value in parts if not isinstance(value, UnsetType)}


# -- presence -------------------------------------------------------------------------


def ask_presence(line: Line, command_id: int, request: Target) -> None:
    """Tell who is in a channel."""

    async def read() -> Reply | EverywireError:
        found = await asked(
            "reading presence",
            line.shared.presence.members(request.channel),
            line.shared.limits.hook_timeout_s,
        )
        if isinstance(found, EverywireError):
            return found
        return Reply(id=command_id, presence=PresenceResult(presence=dict(found.clients)))

    _ask_presence(line, command_id, request.channel, read)


def ask_presence_stats(line: Line, command_id: int, request: Target) -> None:
    """Tell how many are in a channel."""

    async def read() -> Reply | EverywireError:
        found = await asked(
            "counting presence",
            line.shared.presence.stats(request.channel),
            line.shared.limits.hook_timeout_s,
        )
        if isinstance(found, EverywireError):
            return found
        clients, users = found
        return Reply(
            id=command_id, presence_stats=PresenceStatsResult(num_clients=clients, num_users=users)
        )

    _ask_presence(line, command_id, request.channel, read)


def _ask_presence(
    line: Line, command_id: int, channel: str, read: Callable[[], Awaitable[Reply | EverywireError]]
) -> None:
    check_channel(channel)
    check_room(line)

    async def answer() -> None:
        found = await read()
        if line.is_ended:
            return
        if isinstance(found, EverywireError):
            line.fail(command_id, found)
        else:
            line.reply(found)
        line.finish()

    def start() -> None:
        line.shared.tasks.start(answer(), "an answer about presence")

    if_allowed(line, command_id, Action.PRESENCE, channel, start)


# -- rpc and send ---------------------------------------------------------------------


def call(line: Line, command_id: int, request: RpcRequest) -> None:
    """Have the application answer a call."""
    hook = line.shared.hooks.rpc
    if hook is None:
        raise RequestError("no methods are known here", code=codes.NOT_AVAILABLE)
    data = field_bytes(request.data) or b""
    size = len(data)
    check_room(line, size)
    if _is_overloaded(line, size):
        raise RequestError("too many calls are under way here; try again later", code=codes.BUSY)
    line.begin(size)
    timeout_s = line.shared.limits.call_timeout_s

    async def work() -> None:
        found = await asked("the handler of an rpc", hook(line, request.method, data), timeout_s)
        if line.is_ended:
            return
        if isinstance(found, EverywireError):
            line.fail(command_id, found)
        else:
            result = RpcResult(data=field(found, line.carrier.dialect.is_binary) if found else UNSET)
            line.reply(Reply(id=command_id, rpc=result))
        line.finish(size)

    _lanes(line).put(_lane(line, request.method, data), work, size + _CALL_BYTES)


def send(line: Line, request: SendRequest) -> None:
    """Hand a message to the application; there is no answer."""
    hook = line.shared.hooks.message
    if hook is None:
        raise RequestError("messages are not taken here", code=codes.NOT_OFFERED)
    data = field_bytes(request.data) or b""
    size = len(data)
    if _is_overloaded(line, size):
        # There is no reply that could say so.
        raise RequestError("too many messages are under way here; come back later", code=codes.SLOW_DOWN)
    line.pending_bytes += size
    timeout_s = line.shared.limits.call_timeout_s

    async def work() -> None:
        found = await asked("the handler of a message", hook(line, data), timeout_s)
        line.pending_bytes -= size
        if isinstance(found, EverywireError):
            if found.code.number >= ENDS:
                line.end(found.code, found.sentence)
            else:
                _log.debug("a message was refused: %s", found.sentence)  # there is no reply to tell it

    _lanes(line).put(_lane(line, "", data), work, size + _CALL_BYTES)


def _is_overloaded(line: Line, size: int) -> bool:
    """Whether the handlers of all sessions have as much to do as they may."""
    held_bytes, most = line.shared.tasks.held_bytes, line.shared.limits.max_calling_bytes
    return held_bytes > 0 and held_bytes + size + _CALL_BYTES > most


def _lanes(line: Line) -> Lanes:
    if line.lanes is None:
        line.lanes = Lanes(line.shared.tasks, line.lane_is_free)
    return line.lanes


def _lane(line: Line, method: str, data: bytes) -> Lane:
    choose = line.shared.hooks.lane
    return IN_ORDER if choose is None else choose(line, method, data)
