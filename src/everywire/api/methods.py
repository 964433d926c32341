"""The methods of the server API: what each takes and gives (Centrifugo's server API, v5 and v6).

Whoever comes here may do everything, so rules, quotas and the application's publish hook are not asked.
Every method returns its result, or raises an `EverywireError` with the code to tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple, TypeVar

from msgspec import Raw, Struct

from everywire.access.drafts import make_draft
from everywire.access.hooks import SubscribeDecision
from everywire.access.identity import Identity
from everywire.access.revocations import Revocations
from everywire.api.cluster import Cluster
from everywire.api.requests import (
    BlockUserRequest,
    BroadcastRequest,
    ChannelRequest,
    ChannelsRequest,
    DisconnectRequest,
    HistoryApiRequest,
    InfoRequest,
    InvalidateRequest,
    Publishable,
    PublishRequest,
    RefreshRequest,
    RevokeTokenRequest,
    RpcRequest,
    SubscribeRequest,
    UnblockUserRequest,
    UnsubscribeRequest,
    decode_request,
    json_or_base64,
)
from everywire.brokers.base import Appended
from everywire.codecs.centrifuge.messages import HistoryRequest
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.errors import BadRequest, EverywireError, RequestError
from everywire.core.names import check_name
from everywire.core.position import Place
from everywire.core.publication import JSON, Draft
from everywire.hub.called import called
from everywire.sessions.asking import asked
from everywire.sessions.history import HistoryReading, history_result
from everywire.sessions.orders import end_code
from everywire.sessions.shared import Shared
from everywire.transports.target import check_event, check_tags

__all__ = ["ApiCaller", "Methods"]

_BINARY: Final = "application/octet-stream"
_MAX_UNFINISHED: Final = 256
"""Publications of one broadcast that are on their way at the same time."""
_T = TypeVar("_T")
_log = logging.getLogger("everywire.api")


class ApiCaller(NamedTuple):
    """Who calls: an operator; see `everywire.access.hooks.Caller`."""

    identity: Identity
    peer: str
    client: str = ""
    transport: str = "api"


Method = Callable[[Any, ApiCaller], Awaitable[Any]]


class Methods:
    """The methods by name: ``batch`` is not among them."""

    def __init__(self, shared: Shared, name: str, version: str) -> None:
        self._shared = shared
        self._hub = shared.hub
        self._limits = shared.limits
        self._registry = shared.registry
        self._cluster = Cluster(shared, name, version)
        self._table: Mapping[str, tuple[type[Struct], Method]] = {
            "publish": (PublishRequest, self._publish),
            "broadcast": (BroadcastRequest, self._broadcast),
            "subscribe": (SubscribeRequest, self._subscribe),
            "unsubscribe": (UnsubscribeRequest, self._unsubscribe),
            "disconnect": (DisconnectRequest, self._disconnect),
            "refresh": (RefreshRequest, self._refresh),
            "presence": (ChannelRequest, self._presence),
            "presence_stats": (ChannelRequest, self._presence_stats),
            "history": (HistoryApiRequest, self._history),
            "history_remove": (ChannelRequest, self._history_remove),
            "channels": (ChannelsRequest, self._channels),
            "info": (InfoRequest, self._info),
            "rpc": (RpcRequest, self._rpc),
            "block_user": (BlockUserRequest, self._block_user),
            "unblock_user": (UnblockUserRequest, self._unblock_user),
            "revoke_token": (RevokeTokenRequest, self._revoke_token),
            "invalidate_user_tokens": (InvalidateRequest, self._invalidate_user_tokens),
        }

    async def call(self, name: str, text: bytes, caller: ApiCaller) -> Any:
        """Return the result of a method for a request, which is a JSON object as text.

        Raises error 104 for a method that is not known, 107 for a request that is wrong, and others.
        """
        found = self._table.get(name)
        if found is None:
            raise RequestError(
                f"there is no method {name[:64]!r}; there are {', '.join(self._table)} and batch",
                code=codes.METHOD_NOT_FOUND,
            )
        kind, method = found
        return await method(decode_request(text, kind), caller)

    # -- publishing ---------------------------------------------------------------------

    async def _publish(self, request: PublishRequest, caller: ApiCaller) -> dict[str, Any]:
        draft = self._draft(_channel(request.channel), request, caller)
        return _published(await self._append(draft))

    async def _broadcast(self, request: BroadcastRequest, caller: ApiCaller) -> dict[str, Any]:
        most = self._limits.max_api_commands
        if not request.channels:
            raise BadRequest("channels are missing")
        if len(request.channels) > most:
            raise BadRequest(f"a broadcast names at most {most} channels")
        first = self._draft("channel", request, caller)  # what is wrong with the data is so for all of them
        turns = asyncio.Semaphore(_MAX_UNFINISHED)

        async def publish_to(name: str) -> dict[str, Any]:
            async with turns:
                try:
                    appended = await self._append(first._replace(channel=_channel(name)))
                except EverywireError as error:
                    return {"error": error_object(error)}
                return {"result": _published(appended)}

        # One after the other as far as they need not wait: the order of channels is the order in time.
        return {"responses": list(await asyncio.gather(*map(publish_to, request.channels)))}

    def _draft(self, channel: str, request: Publishable, caller: ApiCaller) -> Draft:
        if request.version:
            raise RequestError(
                "versions of publications are not kept here; use idempotency_key",
                code=codes.NOT_AVAILABLE,
            )
        data = json_or_base64(request.data, request.b64data, "b64data")
        if data is None:
            raise BadRequest("data is missing")
        tags = dict(request.tags)
        event = tags.pop("event", None)  # as clients of the session protocol see an event's name
        key = request.idempotency_key
        if len(key) > self._limits.max_idempotency_key_bytes or not key.isascii():
            most = self._limits.max_idempotency_key_bytes
            raise BadRequest(f"an idempotency_key is at most {most} ASCII characters")
        return make_draft(
            channel,
            data,
            self._limits,
            content_type=_BINARY if request.b64data and not _is_json(data) else JSON,
            event=None if event is None else check_event(event, self._limits),
            tags=check_tags(tags, self._limits),
            key=f"{caller.identity.user}\0{key}" if key else None,
        )

    async def _append(self, draft: Draft) -> Appended:
        appended: Appended = await called(partial(self._hub.publish, draft))
        return appended

    # -- connections ----------------------------------------------------------------------

    async def _subscribe(self, request: SubscribeRequest, caller: ApiCaller) -> dict[str, Any]:
        since = request.recover_since
        await self._registry.subscribe(
            request.user,
            _channel(request.channel),
            SubscribeDecision(
                info=_json(json_or_base64(request.info, request.b64info, "b64info"), "b64info"),
                data=_json(json_or_base64(request.data, request.b64data, "b64data"), "b64data"),
                expires_s=float(request.expire_at) if request.expire_at else None,
                join_leave=_wants_join_leave(request),
            ),
            client=request.client,
            session=request.session,
            since=None if since is None else Place(since.epoch, since.offset),
        )
        return {}

    async def _unsubscribe(self, request: UnsubscribeRequest, caller: ApiCaller) -> dict[str, Any]:
        await self._registry.unsubscribe(
            request.user, _channel(request.channel), client=request.client, session=request.session
        )
        return {}

    async def _disconnect(self, request: DisconnectRequest, caller: ApiCaller) -> dict[str, Any]:
        ending = request.disconnect
        code = codes.DISCONNECTED
        if ending is not None and ending.code:
            code = end_code(ending.code, ending.reason)
        if len(request.whitelist) > self._limits.max_api_commands:
            raise BadRequest(f"a whitelist is at most {self._limits.max_api_commands} clients")
        await self._registry.disconnect(
            request.user,
            client=request.client,
            session=request.session,
            whitelist=request.whitelist,
            code=code,
            reason="" if ending is None else ending.reason,
        )
        return {}

    async def _refresh(self, request: RefreshRequest, caller: ApiCaller) -> dict[str, Any]:
        user, client, session = request.user, request.client, request.session
        if request.expired:
            await self._registry.disconnect(user, client=client, session=session, code=codes.EXPIRED)
        else:
            expires_s = float(request.expire_at) if request.expire_at else None
            await self._registry.refresh(user, client=client, session=session, expires_s=expires_s)
        return {}

    # -- channels -------------------------------------------------------------------------

    async def _presence(self, request: ChannelRequest, caller: ApiCaller) -> dict[str, Any]:
        members = await self._shared.presence.members(_channel(request.channel))
        result: dict[str, Any] = {"presence": members.clients}
        if members.is_cut:
            result |= {"is_cut": True, "num_clients": members.num_clients, "num_users": members.num_users}
        return result

    async def _presence_stats(self, request: ChannelRequest, caller: ApiCaller) -> dict[str, Any]:
        clients, users = await self._shared.presence.stats(_channel(request.channel))
        return {"num_clients": clients, "num_users": users}

    async def _history(self, request: HistoryApiRequest, caller: ApiCaller) -> Any:
        asked_for = HistoryRequest(
            channel=_channel(request.channel),
            limit=request.limit,
            since=request.since,
            reverse=request.reverse,
        )
        kept = await called(lambda done: HistoryReading(self._hub, self._limits, asked_for, done).begin())
        return history_result(kept, is_binary=False)

    async def _history_remove(self, request: ChannelRequest, caller: ApiCaller) -> dict[str, Any]:
        await called(partial(self._hub.broker.log.trim, _channel(request.channel)))
        return {}

    async def _channels(self, request: ChannelsRequest, caller: ApiCaller) -> dict[str, Any]:
        found = await self._cluster.channels(request.pattern)
        result: dict[str, Any] = {
            "channels": {name: {"num_clients": count} for name, count in found.channels.items()}
        }
        return _with_silent(result | ({"is_cut": True} if found.is_cut else {}), found.silent)

    async def _info(self, request: InfoRequest, caller: ApiCaller) -> dict[str, Any]:
        found = await self._cluster.info()
        return _with_silent({"nodes": found.nodes}, found.silent)

    # -- the application ------------------------------------------------------------------

    async def _rpc(self, request: RpcRequest, caller: ApiCaller) -> dict[str, Any]:
        hook = self._shared.hooks.rpc
        if hook is None:
            raise RequestError("the application takes no calls", code=codes.METHOD_NOT_FOUND)
        params = json_or_base64(request.params, "", "params") or b"null"
        timeout_s = self._limits.hook_timeout_s
        found = await asked("the handler of an rpc", hook(caller, request.method, params), timeout_s)
        if isinstance(found, EverywireError):
            raise found
        if not _is_json(found):
            _log.error("the application answers %s with what is no JSON text", request.method[:64])
            raise EverywireError
        return {"data": Raw(found)}

    # -- revocations ----------------------------------------------------------------------

    def _revocations(self) -> Revocations:
        found = self._shared.authority.revocations
        if found is None:
            raise RequestError("nothing can be revoked here", code=codes.NOT_AVAILABLE)
        return found

    async def _block_user(self, request: BlockUserRequest, caller: ApiCaller) -> dict[str, Any]:
        await self._revocations().block_user(_user(request.user), _time_s(request.expire_at))
        return {}

    async def _unblock_user(self, request: UnblockUserRequest, caller: ApiCaller) -> dict[str, Any]:
        await self._revocations().unblock_user(_user(request.user))
        return {}

    async def _revoke_token(self, request: RevokeTokenRequest, caller: ApiCaller) -> dict[str, Any]:
        if not request.uid:
            raise BadRequest("uid is missing: the token's jti")
        await self._revocations().revoke_token(request.uid, _time_s(request.expire_at))
        return {}

    async def _invalidate_user_tokens(self, request: InvalidateRequest, caller: ApiCaller) -> dict[str, Any]:
        if request.channel:
            raise RequestError("tokens of one channel cannot be invalidated", code=codes.NOT_AVAILABLE)
        await self._revocations().invalidate_user_tokens(
            _user(request.user), _time_s(request.issued_before), _time_s(request.expire_at)
        )
        return {}


def error_object(error: EverywireError) -> dict[str, Any]:
    """Return an error as it stands in an answer."""
    return {"code": error.code.number, "message": error.sentence}


def _published(appended: Appended) -> dict[str, Any]:
    return {"offset": appended.offset, "epoch": appended.epoch}


def _channel(name: str) -> str:
    if not name:
        raise BadRequest("channel is missing")
    return check_name(name)


def _user(user: str) -> str:
    if not user:
        raise BadRequest("user is missing")
    return user


def _time_s(expire_at: int) -> float | None:
    return float(expire_at) if expire_at else None


def _is_json(data: bytes) -> bool:
    try:
        check_json(data)
    except ValueError:
        return False
    return True


def _json(data: bytes | None, name: str) -> bytes | None:
    """Return JSON text that is some; raise `BadRequest` if it is none."""
    if data is not None and not _is_json(data):
        raise BadRequest(f"{name} is no JSON text")
    return data


def _wants_join_leave(request: SubscribeRequest) -> bool | None:
    override = request.override
    if override is None:
        return None
    if override.join_leave is not None and not override.join_leave.value:
        return False
    forced = override.force_push_join_leave
    return None if forced is None else forced.value


def _with_silent(result: dict[str, Any], silent: Sequence[str]) -> dict[str, Any]:
    """Say which nodes did not answer, if any."""
    return {**result, "silent": silent} if silent else result
