"""The way to an application that is asked over HTTP: one POST for each question, and what bounds them.

Questions under way are bounded and those that wait are, answers are bounded in time and size. Redirects are
not followed, cookies of an answer are not kept (they would go out with the next client's question), nothing
compressed is taken. Of what the client sent only the header fields that the settings name are passed on.

A question that fails in any way raises a temporary error, is counted, and is logged: of each kind one line
in ten seconds, with how many there were.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, Final, NoReturn

import httpx
import msgspec

from everywire.access.webhook_answers import BadAnswer, Result, read_answer
from everywire.core import codes
from everywire.core.errors import EverywireError, SettingsError

__all__ = ["KINDS", "Link", "WebhookSettings"]

KINDS: Final = ("connect", "refresh", "subscribe", "publish", "rpc", "disconnect")

_REPEATABLE: Final = frozenset({"connect", "refresh", "subscribe"})
"""Questions that change nothing, and may be asked again when a kept connection turns out to be closed."""
_WITH_BINARY_DATA: Final = frozenset({"publish", "rpc"})
_OURS: Final = frozenset(
    {"accept", "accept-encoding", "connection", "content-encoding", "content-length", "content-type",
     "expect", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade",
     "x-everywire-signature"}
)  # fmt: skip
"""Header fields of the question itself, which no client may set."""
_FIELD_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_FIELD_VALUE: Final = re.compile(rb"[\t\x20-\x7e\x80-\xff]*")
_KEPT_S: Final = 1.5
"""How long an idle connection is kept: less than applications' servers keep theirs (2 to 5 s)."""
_LOG_INTERVAL_S: Final = 10.0
_log: Final = logging.getLogger("everywire.access")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookSettings:
    """Where the application is asked, and how."""

    urls: Mapping[str, str] = field(default_factory=dict)
    """An address for each of `KINDS` that is asked; what is missing is not."""
    timeout_s: float = 5.0
    """For one answer, and as long before it for a turn."""
    max_asked: int = 64
    """Questions under way at once; further ones wait."""
    max_waiting: int = 10_000
    """Questions that are under way or wait; further ones are answered no."""
    max_answer_bytes: int = 1024 * 1024
    headers: tuple[str, ...] = ("cookie", "authorization", "origin", "user-agent", "x-request-id")
    """Header fields of the client that are passed on, in lower case."""
    static_headers: Mapping[str, str] = field(default_factory=dict)
    """Header fields that every question has."""
    secret: str = ""
    """Signs each question: ``X-Everywire-Signature: t=TIME,v1=HMAC-SHA256(TIME.BODY)``."""

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what cannot be."""
        for kind, url in self.urls.items():
            if kind not in KINDS:
                raise SettingsError(f"there is no webhook {kind!r}; expected some of {', '.join(KINDS)}")
            if not url.startswith(("http://", "https://")):
                raise SettingsError(f"the webhook {kind} must have an address that begins with http")
        for name in (*self.headers, *self.static_headers):
            if not _FIELD_NAME.fullmatch(name) or name in _OURS:
                raise SettingsError(f"webhooks cannot pass on a header field {name!r}")
        for name, value in self.static_headers.items():
            if _field_value(value) is None:
                raise SettingsError(f"the value of the webhooks' header field {name!r} is not allowed")

    def __repr__(self) -> str:
        return f"WebhookSettings(kinds={list(self.urls)}, timeout_s={self.timeout_s})"


class Link:
    """Asks one application."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        # A turn is a client with one connection: a pool of many walks through all of them for each question.
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        self._tls: ssl.SSLContext | None = None
        self._turns = asyncio.Semaphore(settings.max_asked)
        self._waiting = 0
        self._unlogged: dict[str, int] = {}
        self._log_from_s = dict.fromkeys(KINDS, 0.0)
        self.asked = dict.fromkeys(KINDS, 0)
        """Questions asked, by kind."""
        self.failed = 0
        """Questions without an answer."""

    async def close(self) -> None:
        """Let go of the connections."""
        clients, self._clients = self._clients, []
        self._idle.clear()
        for client in clients:
            await client.aclose()

    async def ask(
        self, kind: str, question: Mapping[str, Any], sent: Mapping[str, str] | None = None
    ) -> Result | EverywireError:
        """Ask one question; return what was said, or the error by which it was refused.

        ``sent`` are the client's header fields. Raises a temporary error when there is no answer that can
        be understood.
        """
        settings = self._settings
        if self._waiting >= settings.max_waiting:
            self._fail(kind, "too many questions wait")
        body = msgspec.json.encode(question)
        self._waiting += 1
        try:
            async with asyncio.timeout(settings.timeout_s):
                await self._turns.acquire()
            try:
                self.asked[kind] += 1
                async with asyncio.timeout(settings.timeout_s):
                    text = await self._post(kind, self._headers(body, sent), body)
            finally:
                self._turns.release()
            return read_answer(text, is_data_binary=kind in _WITH_BINARY_DATA)
        except TimeoutError:
            self._fail(kind, f"no answer within {settings.timeout_s:g} s")
        except (httpx.HTTPError, httpx.InvalidURL, BadAnswer) as error:
            self._fail(kind, f"{type(error).__name__}: {error}")
        except asyncio.CancelledError:
            self.failed += 1  # whoever asked does not wait so long
            raise
        finally:
            self._waiting -= 1

    async def _post(self, kind: str, headers: list[tuple[bytes, bytes]], body: bytes) -> bytes:
        url = self._settings.urls[kind]
        client = self._idle.pop() if self._idle else self._make_client()
        try:
            return await self._post_once(client, url, headers, body)
        except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
            if kind not in _REPEATABLE:
                raise
            return await self._post_once(client, url, headers, body)
        finally:
            self._idle.append(client)

    async def _post_once(
        self, client: httpx.AsyncClient, url: str, headers: list[tuple[bytes, bytes]], body: bytes
    ) -> bytes:
        async with client.stream("POST", url, headers=headers, content=body) as response:
            if response.status_code != 200:
                raise BadAnswer(f"status {response.status_code}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise BadAnswer("the answer is compressed, which was not asked for")
            pieces: list[bytes] = []
            size = 0
            async for piece in response.aiter_raw():
                size += len(piece)
                if size > self._settings.max_answer_bytes:
                    raise BadAnswer("the answer is too large")
                pieces.append(piece)
        return b"".join(pieces)

    def _make_client(self) -> httpx.AsyncClient:
        if self._tls is None:
            self._tls = httpx.create_ssl_context(trust_env=False)
        client = httpx.AsyncClient(
            verify=self._tls,
            limits=httpx.Limits(keepalive_expiry=_KEPT_S),
            timeout=self._settings.timeout_s,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
            follow_redirects=False,
            trust_env=False,
        )
        self._clients.append(client)
        return client

    def _headers(self, body: bytes, sent: Mapping[str, str] | None) -> list[tuple[bytes, bytes]]:
        settings = self._settings
        fields = {b"user-agent": b"everywire"}
        for name in settings.headers:
            value = _field_value((sent or {}).get(name))
            if value is not None:
                fields[name.encode()] = value
        for name, text in settings.static_headers.items():
            fields[name.encode()] = text.encode("latin-1")
        fields |= {
            b"accept": b"application/json",
            b"accept-encoding": b"identity",
            b"content-type": b"application/json",
        }
        if settings.secret:
            now = b"%d" % time.time()
            digest = hmac.new(settings.secret.encode(), now + b"." + body, "sha256").hexdigest()
            fields[b"x-everywire-signature"] = b"t=" + now + b",v1=" + digest.encode()
        return list(fields.items())

    def _fail(self, kind: str, why: str) -> NoReturn:
        self.failed += 1
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._log_from_s[kind]:
            self._log_from_s[kind] = now_s + _LOG_INTERVAL_S
            more = self._unlogged.pop(kind, 0)
            also = f" (and {more} more before it)" if more else ""
            _log.warning("the webhook %s failed: %s%s", kind, why[:200], also)
        else:
            self._unlogged[kind] = self._unlogged.get(kind, 0) + 1
        raise EverywireError("the application cannot be asked now; try again later", code=codes.INTERNAL)


def _field_value(text: str | None) -> bytes | None:
    """Return a header field's value, if it may be one (RFC 9110 §5.5); a connect command brings any text."""
    try:
        value = b"" if text is None else text.strip(" \t").encode("latin-1")
    except UnicodeEncodeError:
        return None
    return value if text is not None and _FIELD_VALUE.fullmatch(value) else None
