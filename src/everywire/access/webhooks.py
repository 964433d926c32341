"""Webhooks: the standalone server asks an application over HTTP, in the shape of Centrifugo's proxies.

Each question is a POST of JSON; the answer is ``{"result": {…}}``, ``{"error": {"code", "message"}}`` or
``{"disconnect": {"code", "reason"}}``. They fill a `Hooks` table:

* ``connect`` says who a reader is, on every wire (`Hooks.authenticate`); asked when there is no connection
  token, or where no tokens are known. What it says beside that (data, channels) is for sessions.
* ``subscribe`` says whether somebody may read a channel (`Hooks.authorize`), plain readers included, and
  what a session is told. A session that brings data with its subscription is asked about once more.
* ``publish`` says whether a client's publication is let through, or changed; ``rpc`` answers a call;
  ``refresh`` lets a connection without a token go on.

The authority remembers who somebody is and what they may do for at most 30 s, so a crowd that polls asks
once per reader and 30 s. A question that fails in any way is answered no, with a temporary error, counted
and logged: nothing is ever opened by a fault. Redirects are not followed, answers are bounded.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

import httpx
import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from everywire.access.hooks import Caller, ConnectDecision, Hooks, SubscribeDecision
from everywire.access.identity import Action, AuthRequest, Identity, Terms
from everywire.access.rules import Rules
from everywire.codecs.json_text import check_json
from everywire.core import codes
from everywire.core.codes import CODES, Code
from everywire.core.errors import EverywireError, Forbidden, SettingsError
from everywire.core.publication import Draft

__all__ = ["KINDS", "WebhookSettings", "Webhooks"]

KINDS: Final = ("connect", "refresh", "subscribe", "publish", "rpc")

_MAX_REMEMBERED: Final = 100_000
_log: Final = logging.getLogger("everywire.access")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where the application is asked, and how."""

    urls: Mapping[str, str] = field(default_factory=dict)
    """An address for each of `KINDS` that is asked; what is missing is not."""
    timeout_s: float = 5.0
    """For one answer."""
    max_asked: int = 64
    """Questions under way at once; further ones wait."""
    max_waiting: int = 10_000
    """Questions that wait; further ones are answered no."""
    max_answer_bytes: int = 1024 * 1024
    headers: tuple[str, ...] = ("cookie", "authorization", "origin", "user-agent", "x-request-id")
    """Header fields of the client that are passed on, in lower case."""
    secret: str = ""
    """Signs each question: ``X-Everywire-Signature: t=TIME,v1=HMAC-SHA256(TIME.BODY)``."""

    def __repr__(self) -> str:
        return f"WebhookSettings(urls={dict(self.urls)!r}, timeout_s={self.timeout_s})"


class _Error(Struct):
    code: int = codes.PERMISSION_DENIED.number
    message: str = ""


class _Terms(Struct):
    """What a subscription is allowed with."""

    info: Raw | UnsetType = UNSET
    data: Raw | UnsetType = UNSET
    expire_at: float = 0


class _Result(_Terms):
    """All that any of the answers may say; each reads its own part."""

    user: str = ""
    channels: list[str] = []
    subs: dict[str, _Terms] = {}
    expired: bool = False
    meta: dict[str, Any] = {}


class _Answer(Struct):
    result: _Result | None = None
    error: _Error | None = None
    disconnect: _Error | None = None


_CODES: Final = {code.number: code for code in CODES}
_CONNECT_DATA: Final = "everywire.connect_data"


class Webhooks:
    """Asks one application; `hooks` is what the server is given."""

    def __init__(self, settings: WebhookSettings, rules: Rules, *, knows_tokens: bool = False) -> None:
        for kind, url in settings.urls.items():
            if kind not in KINDS:
                raise SettingsError(f"there is no webhook {kind!r}; expected some of {', '.join(KINDS)}")
            if not url.startswith(("http://", "https://")):
                raise SettingsError(f"the webhook {kind} must have an address that begins with http")
        self._settings = settings
        self._rules = rules
        self._knows_tokens = knows_tokens
        self._client: httpx.AsyncClient | None = None
        self._turns = asyncio.Semaphore(settings.max_asked)
        self._waiting = 0
        self._said: dict[tuple[tuple[str, bytes], str], _Terms] = {}
        self.asked = dict.fromkeys(KINDS, 0)
        self.failed = 0
        self.hooks = self._fill()

    def _fill(self) -> Hooks:
        urls = self._settings.urls
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
        return hooks

    async def close(self) -> None:
        """Let go of the connections."""
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    # -- what the server asks -------------------------------------------------------

    async def _authenticate(self, request: AuthRequest) -> Identity | None:
        if "x-api-key" in request.headers or self._rules.find_key(request.token) is not None:
            return None
        if request.token and (self._knows_tokens or request.token.startswith("t.")):
            return None
        question: dict[str, Any] = {
            "transport": request.transport,
            "protocol": "json",
            "encoding": "json",
            "name": request.name,
            "version": request.version,
            **_data_of(request.data),
        }
        if request.token:
            question["token"] = request.token
        result = _result(await self._ask("connect", question, request.headers))
        if not result.user:
            return None
        told = _bytes(result.data)
        return Identity(
            user=result.user,
            kind="hook",
            info=_bytes(result.info),
            expires_s=result.expire_at or None,
            channels=tuple(dict.fromkeys([*result.channels, *result.subs])),
            terms={
                channel: Terms(info=_bytes(terms.info), data=_bytes(terms.data))
                for channel, terms in result.subs.items()
            },
            claims=result.meta if told is None else {**result.meta, _CONNECT_DATA: told},
        )

    async def _connect(self, caller: Caller, request: AuthRequest) -> ConnectDecision | None:
        """Tell a session what the application said when it said who this is."""
        data = caller.identity.claims.get(_CONNECT_DATA)
        return ConnectDecision(data=data) if isinstance(data, bytes) else None

    async def _refresh(self, caller: Caller, token: str) -> Identity | None:
        if token:
            return None
        result = _result(await self._ask("refresh", {**_about(caller), "meta": _meta(caller.identity)}))
        if result.expired:
            raise EverywireError(code=codes.CREDENTIAL_EXPIRED)
        old = caller.identity
        return Identity(
            user=old.user,
            kind=old.kind,
            info=_bytes(result.info) or old.info,
            expires_s=result.expire_at or None,
            channels=old.channels,
            claims=old.claims,
            credential=old.credential,
        )

    async def _authorize(self, identity: Identity, action: Action, channel: str) -> bool | None:
        urls = self._settings.urls
        if action is Action.PUBLISH and "publish" in urls:
            return True  # the hook itself says whether each one may
        if action is not Action.READ or "subscribe" not in urls:
            return None
        question = {"user": identity.user, "channel": channel, "meta": _meta(identity)}
        terms = _result(await self._ask("subscribe", question))
        if len(self._said) >= _MAX_REMEMBERED:
            self._said.clear()
        self._said[identity.key, channel] = terms
        return True

    async def _subscribe(self, caller: Caller, channel: str, data: bytes | None) -> SubscribeDecision | None:
        terms = self._said.get((caller.identity.key, channel))
        if data is not None or terms is None:
            question = {**_about(caller), "channel": channel, "meta": _meta(caller.identity)}
            terms = _result(await self._ask("subscribe", question | _data_of(data)))
        return SubscribeDecision(
            info=_bytes(terms.info), data=_bytes(terms.data), expires_s=terms.expire_at or None
        )

    async def _publish(self, caller: Caller, draft: Draft) -> Draft | None:
        question = {**_about(caller), "channel": draft.channel, "meta": _meta(caller.identity)}
        data = _result(await self._ask("publish", question | _data_of(draft.data))).data
        return None if isinstance(data, UnsetType) else draft._replace(data=bytes(data), content_type="")

    async def _rpc(self, caller: Caller, method: str, data: bytes) -> bytes:
        question = {**_about(caller), "method": method, "meta": _meta(caller.identity)}
        return _bytes(_result(await self._ask("rpc", question | _data_of(data))).data) or b"null"

    # -- asking ---------------------------------------------------------------------

    async def _ask(
        self, kind: str, question: Mapping[str, Any], sent: Mapping[str, str] | None = None
    ) -> _Answer:
        """Ask one question; raise a temporary error when there is no answer that can be understood."""
        settings = self._settings
        if self._waiting >= settings.max_waiting:
            self._fail(kind, "too many questions wait")
        body = msgspec.json.encode(question)
        headers = {name: value for name, value in (sent or {}).items() if name in settings.headers}
        headers["content-type"] = "application/json"
        self._waiting += 1
        try:
            async with self._turns, asyncio.timeout(settings.timeout_s):
                self.asked[kind] += 1
                text = await self._post(settings.urls[kind], headers | self._signature(body), body)
        except TimeoutError:
            self._fail(kind, f"no answer within {settings.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, _Bad) as error:
            self._fail(kind, f"{type(error).__name__}: {error}")
        finally:
            self._waiting -= 1
        try:
            answer = msgspec.json.decode(text, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self._fail(kind, f"the answer is not understood: {error}")
        if answer.result is None and answer.error is None and answer.disconnect is None:
            self._fail(kind, "the answer has neither result nor error nor disconnect")
        return answer

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> bytes:
        if self._client is None:
            bounds = httpx.Limits(max_connections=self._settings.max_asked, max_keepalive_connections=32)
            self._client = httpx.AsyncClient(
                limits=bounds, timeout=self._settings.timeout_s, follow_redirects=False, trust_env=False
            )
        async with self._client.stream("POST", url, headers=headers, content=body) as response:
            if response.status_code != 200:
                raise _Bad(f"status {response.status_code}")
            pieces: list[bytes] = []
            size = 0
            async for piece in response.aiter_bytes():
                size += len(piece)
                if size > self._settings.max_answer_bytes:
                    raise _Bad("the answer is too large")
                pieces.append(piece)
        return b"".join(pieces)

    def _signature(self, body: bytes) -> dict[str, str]:
        secret = self._settings.secret
        if not secret:
            return {}
        now = str(int(time.time()))
        digest = hmac.new(secret.encode(), now.encode() + b"." + body, "sha256").hexdigest()
        return {"x-everywire-signature": f"t={now},v1={digest}"}

    def _fail(self, kind: str, why: str) -> NoReturn:
        self.failed += 1
        _log.warning("the webhook %s failed: %s", kind, why[:200])
        raise EverywireError("the application cannot be asked now; try again later", code=codes.INTERNAL)


class _Bad(Exception):
    """An answer that is none."""


def _result(answer: _Answer) -> _Result:
    """Return what was said; raise what refuses."""
    said = answer.disconnect or answer.error
    if said is None:
        assert answer.result is not None
        return answer.result
    if answer.disconnect is not None:
        number = said.code if 3000 <= said.code < 5000 else codes.REFUSED.number
    else:
        number = said.code if 100 <= said.code < 2000 else codes.PERMISSION_DENIED.number
    code = _CODES.get(number) or Code(number, "application", 403 if number < 2000 else 0, "refused")
    sentence = said.message or code.sentence
    if code is codes.PERMISSION_DENIED:
        raise Forbidden(sentence)
    raise EverywireError(sentence, code=code)


def _about(caller: Caller) -> dict[str, Any]:
    return {
        "client": caller.client,
        "transport": caller.transport,
        "protocol": "json",
        "encoding": "json",
        "user": caller.identity.user,
    }


def _meta(identity: Identity) -> dict[str, Any]:
    return {name: value for name, value in identity.claims.items() if name != _CONNECT_DATA}


def _data_of(data: bytes | None) -> dict[str, Any]:
    """Return data as the question's member: JSON in place, other bytes as base64."""
    if data is None:
        return {}
    try:
        check_json(data)
    except ValueError:
        return {"b64data": data}  # msgspec writes bytes as base64
    return {"data": Raw(data)}


def _bytes(field: Raw | UnsetType) -> bytes | None:
    return None if isinstance(field, UnsetType) else bytes(field)
