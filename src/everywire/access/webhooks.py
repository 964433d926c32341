"""Webhooks: the standalone server asks an application over HTTP, in the shape of Centrifugo's proxies.

Each question is a POST of JSON (`everywire.access.webhook_link`), and what may be answered stands in
`everywire.access.webhook_answers`. They fill a `Hooks` table:

* ``connect`` says who a reader is, on every wire (`Hooks.authenticate`); asked when there is no connection
  token, or where no tokens are known. What it says beside that (data, channels) is for sessions.
* ``subscribe`` says whether somebody may read a channel (`Hooks.authorize`), plain readers included, and
  what a session is told. A session that brings data with its subscription is asked about once more.
* ``publish`` says whether a client's publication is let through, or changed; ``rpc`` answers a call;
  ``refresh`` lets a connection without a token go on; ``disconnect`` is told that a session ended.

The authority remembers who somebody is and what they may do for at most 30 s, so a crowd that polls asks
once per reader and 30 s. What fails is answered no, with a temporary error: no fault ever opens anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Any, Final

from msgspec import Raw

from everywire.access.credentials import find_credential
from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.access.rules import Rules
from everywire.access.webhook_answers import Result, SaidTerms, result_of
from everywire.access.webhook_link import KINDS, Link, WebhookSettings
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.codes import Code
from everywire.core.errors import EverywireError
from everywire.core.publication import JSON, Draft

__all__ = ["KINDS", "WebhookSettings", "Webhooks"]

_BINARY_TYPE: Final = "application/octet-stream"
_CONNECT_DATA: Final = "everywire.connect_data"
_POLL: Final = "poll"
"""The wire whose every request is a session: it subscribes with each, and ends with each."""
_NO_BOUND: Final = 1 << 62
_MAX_SAID: Final = 100_000
_MAX_SAID_BYTES: Final = 32 * 1024 * 1024
_MAX_SAID_BY_DATA: Final = 4


@dataclass(slots=True)
class _Said:
    """What was said to the last question whether somebody may read a channel."""

    terms: SaidTerms
    size: int
    by_data: dict[bytes, SaidTerms] = field(default_factory=dict)
    """The same where a client that polls brings data with each of its requests, by a digest of the data."""


class Webhooks:
    """Asks one application; `hooks` is what the server is given."""

    def __init__(self, settings: WebhookSettings, rules: Rules, *, knows_tokens: bool = False) -> None:
        self._urls = settings.urls
        self._rules = rules
        self._knows_tokens = knows_tokens
        self._link = Link(settings)
        self._said: dict[tuple[tuple[str, bytes], str], _Said] = {}
        self._said_bytes = 0
        self.hooks = self._used = self._fill()

    def _fill(self) -> Hooks:
        urls = self._urls
        hooks = Hooks()
        if "connect" in urls:
            hooks.authenticate = self._authenticate
            hooks.connect = self._connect
        if "refresh" in urls:
            hooks.refresh = self._refresh
        if "subscribe" in urls or "publish" in urls:
            hooks.authorize = self._authorize
        if "subscribe" in urls:
            hooks.subscribe = self._subscribe
        if "publish" in urls:
            hooks.publish = self._publish
        if "rpc" in urls:
            hooks.rpc = self._rpc
        if "disconnect" in urls:
            hooks.disconnect = self._disconnect
        return hooks

    def begin(self, used: Hooks) -> None:
        """Hear which table is used: functions of the application may have taken the place of some."""
        self._used = used

    async def close(self) -> None:
        """Let go of the connections."""
        await self._link.close()

    @property
    def asked(self) -> Mapping[str, int]:
        """Questions asked, by kind."""
        return self._link.asked

    @property
    def failed(self) -> int:
        """Questions without an answer."""
        return self._link.failed

    async def _ask(
        self, kind: str, question: Mapping[str, Any], sent: Mapping[str, str] | None = None
    ) -> Result:
        return result_of(await self._link.ask(kind, question, sent))

    # -- who somebody is ------------------------------------------------------------

    async def _authenticate(self, request: AuthRequest) -> Identity | None:
        if self._is_built_in(request):
            return None
        question: dict[str, Any] = {
            "client": "",  # it has none yet, and what is said counts for all of the reader's connections
            "transport": request.transport,
            "protocol": "json",
            "encoding": "json",
            "name": request.name,
            "version": request.version,
            **_data_of(request.data),
        }
        if request.token:
            question["token"] = request.token
        result = await self._ask("connect", question, request.headers)
        subs = result.subs or {}
        meta, told, info = result.meta or {}, result.data_text(), result.info_text()
        if not result.user and not (subs or result.channels or meta or told or info):
            return None
        return Identity(
            user=result.user or "",
            kind="hook",
            info=info,
            expires_s=result.expire_at or None,
            channels=tuple(dict.fromkeys([*(result.channels or ()), *subs])),
            terms={channel: said.terms() for channel, said in subs.items()},
            claims=meta if told is None else {**meta, _CONNECT_DATA: told},
        )

    def _is_built_in(self, request: AuthRequest) -> bool:
        """Whether a request brings what is judged without the application."""
        credential = find_credential(request, "", _NO_BOUND)  # the authority has checked its size
        if credential.kind == "token":
            return self._knows_tokens or self._rules.find_key(credential.text) is not None
        return bool(credential.kind)

    async def _connect(self, caller: Caller, request: AuthRequest) -> ConnectDecision | None:
        """Tell a session what the application said when it said who this is."""
        data = caller.identity.claims.get(_CONNECT_DATA)
        return ConnectDecision(data=data) if isinstance(data, bytes) else None

    async def _refresh(self, caller: Caller, token: str) -> Identity | None:
        if token:
            return None
        result = await self._ask("refresh", _about(caller))
        if result.expired:
            raise EverywireError(code=codes.CREDENTIAL_EXPIRED)
        old = caller.identity
        return replace(
            old,
            info=result.info_text() or old.info,
            expires_s=result.expire_at or None,
            claims=old.claims if result.meta is None else result.meta,
        )

    async def _disconnect(self, caller: Caller, code: Code | None) -> None:
        if caller.transport == _POLL:
            return
        why = {} if code is None else {"code": code.number, "reason": code.sentence}
        await self._ask("disconnect", _about(caller) | why)

    # -- what somebody may do -------------------------------------------------------

    async def _authorize(self, identity: Identity, action: Action, channel: str) -> bool | None:
        if action is Action.PUBLISH and "publish" in self._urls and self._used.publish == self._publish:
            return True  # the webhook itself says of each publication whether it may
        if action is not Action.READ or "subscribe" not in self._urls:
            return None
        key = (identity.key, channel)
        self._forget(key)
        terms = await self._ask("subscribe", _question("", "", identity) | {"channel": channel})
        terms.decision()  # raises when they are over already
        self._remember(key, terms)
        return True

    async def _subscribe(self, caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        said = self._said.get((caller.identity.key, channel))
        if said is not None and data is None:
            return said.terms.decision()
        brought = None
        if said is not None and data is not None and caller.transport == _POLL:
            brought = blake2b(data, digest_size=16).digest()
            if brought in said.by_data:
                return said.by_data[brought].decision()
        question = _about(caller) | {"channel": channel}
        terms = await self._ask("subscribe", question | _data_of(data))
        decision = terms.decision()
        if said is not None and brought is not None and len(said.by_data) < _MAX_SAID_BY_DATA:
            self._remember_by_data((caller.identity.key, channel), said, brought, terms)
        return decision

    def _remember(self, key: tuple[tuple[str, bytes], str], terms: SaidTerms) -> None:
        """Keep what was said for the session that asks next; what is dropped is asked for again."""
        size = _size(terms)
        self._forget(key)
        self._said[key] = _Said(terms, size)
        self._said_bytes += size
        self._bound()

    def _remember_by_data(
        self, key: tuple[tuple[str, bytes], str], said: _Said, brought: bytes, terms: SaidTerms
    ) -> None:
        if self._said.get(key) is not said:
            return  # something newer was said meanwhile
        said.by_data[brought] = terms
        size = _size(terms)
        said.size += size
        self._said_bytes += size
        self._bound()

    def _bound(self) -> None:
        while len(self._said) > _MAX_SAID or self._said_bytes > _MAX_SAID_BYTES:
            self._forget(next(iter(self._said)))

    def _forget(self, key: tuple[tuple[str, bytes], str]) -> None:
        said = self._said.pop(key, None)
        if said is not None:
            self._said_bytes -= said.size

    async def _publish(self, caller: Caller, draft: Draft) -> Draft | None:
        question = _about(caller) | {"channel": draft.channel}
        result = await self._ask("publish", question | _data_of(draft.data))
        binary = result.binary()
        if binary is not None:
            return draft._replace(data=binary, content_type=_BINARY_TYPE)
        data = result.data_text()
        return None if data is None else draft._replace(data=data, content_type=JSON)

    async def _rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        result = await self._ask("rpc", _about(caller) | {"method": method} | _data_of(data or None))
        return result.binary() or result.data_text() or b"null"


def _size(terms: SaidTerms) -> int:
    texts = len(bytes(terms.info)) + len(bytes(terms.data))
    return texts + len(terms.b64info or "") + len(terms.b64data or "")


def _about(caller: Caller) -> dict[str, Any]:
    return _question(caller.client, caller.transport, caller.identity)


def _question(client: str, transport: str, identity: Identity) -> dict[str, Any]:
    """Return what every question says; ``client`` and ``transport`` are empty where the answer is for all."""
    return {
        "client": client,
        "transport": transport,
        "protocol": "json",
        "encoding": "json",
        "user": identity.user,
        "meta": {name: value for name, value in identity.claims.items() if name != _CONNECT_DATA},
    }


def _data_of(data: bytes | None) -> dict[str, Any]:
    """Return data as the question's member: JSON in place, other bytes as base64."""
    if data is None:
        return {}
    try:
        check_json(data)
    except ValueError:
        return {"b64data": data}  # msgspec writes bytes as base64
    return {"data": Raw(data)}
