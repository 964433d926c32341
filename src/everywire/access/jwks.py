"""Keys by HTTP: a JWKS document (RFC 7517), fetched, remembered, and fetched again when it must be.

One fetch at a time, however many wait for it; a key that is not known leads to one at most every
`Limits.jwks_interval_s`, and keys that were fetched stay until others came. Keys that are older than
`Limits.jwks_age_s` are used on while new ones are fetched.

The address comes from the settings, never from a token (CVE-2026-32301). One address is one table of keys, so
that equal ``kid``s of two issuers are never mixed up (CVE-2026-49998). It refuses shared secrets, redirects,
compressed answers, and documents over `Limits.max_jwks_bytes`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from everywire.access.keys import Key, key_from_jwk
from everywire.core.errors import EverywireError, SettingsError
from everywire.core.limits import Limits

__all__ = ["Jwks"]

_log = logging.getLogger("everywire.access")

_MAX_MISSING: Final = 100
"""Names of keys remembered that the last fetch did not bring."""


class _Document(msgspec.Struct):
    keys: list[dict[str, Any]]


class Jwks:
    """The public keys at one address; see `everywire.access.keys.KeySource`.

    Args:
        url: ``https://…`` (``http://…`` for one in your own network).
        clock: monotonic seconds.
    """

    def __init__(
        self, url: str, limits: Limits | None = None, clock: Callable[[], float] = monotonic
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SettingsError("the address of a JWKS document begins with https://")
        self.url = url
        self.fetches = 0
        """Fetches that were begun."""
        self._host = parts.hostname
        self._limits = limits or Limits()
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._missing: set[str] = set()
        self._wanted: set[str] = set()
        self._began_s: float | None = None
        self._fetched_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._tls: ssl.SSLContext | None = None

    def find(self, kid: str, algorithm: str) -> Sequence[Key] | None:
        """Return the keys that may have signed, by their name or, if the token has none, all of the kind.

        None when they must be fetched first. Raises an error with code 100 when the last fetch is too fresh
        for another one, and may have been too early for this key, or failed.
        """
        if self._fetched_s is not None:
            found = [key for key in self._keys if (key.kid == kid or not kid) and key.allows(algorithm)]
            if found:
                if self._clock() - self._fetched_s > self._limits.jwks_age_s and self._may_fetch():
                    self._begin()
                return found
            # Known by another algorithm, or asked for and not there: it does not exist.
            if kid in self._missing or any(key.kid == kid for key in self._keys):
                if not self._may_fetch():
                    return ()
                return None
        if self._task is None and not self._may_fetch():
            raise EverywireError("the key of this token is not known yet; try again in some seconds")
        return None

    async def fetch(self, kid: str) -> None:
        """Fetch the keys because of one that is not known; several calls share one fetch."""
        if len(self._wanted) < _MAX_MISSING:
            self._wanted.add(kid)
        # Whoever stops waiting does not stop the others.
        await asyncio.shield(self._begin())

    async def close(self) -> None:
        """Stop a fetch that is under way."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _may_fetch(self) -> bool:
        return self._began_s is None or self._clock() - self._began_s >= self._limits.jwks_interval_s

    def _begin(self) -> asyncio.Task[None]:
        if self._task is None:
            self.fetches += 1
            self._began_s = self._clock()
            self._task = asyncio.get_running_loop().create_task(self._run(), name="jwks")
        return self._task

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(self._limits.jwks_timeout_s):
                keys = self._read(await self._get())
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RecursionError) as error:
            _log.warning("the keys of tokens at %s could not be fetched: %.300r", self._host, error)
        else:
            gone = {key.kid for key in self._keys}
            self._keys = keys
            self._fetched_s = self._clock()
            self._missing = (self._wanted | gone) - {key.kid for key in keys}
        finally:
            self._wanted = set()
            self._task = None

    async def _get(self) -> bytes:
        if self._tls is None:
            # Reading the authorities of the machine takes some 20 ms, which the loop does not have.
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        body = bytearray()
        headers = {"accept": "application/jwk-set+json, application/json", "accept-encoding": "identity"}
        async with (
            httpx.AsyncClient(
                verify=self._tls, timeout=self._limits.jwks_timeout_s, follow_redirects=False
            ) as client,
            client.stream("GET", self.url, headers=headers) as answer,
        ):
            if answer.status_code != 200:
                raise ValueError(f"status {answer.status_code}")
            async for piece in answer.aiter_raw():
                body += piece
                if len(body) > self._limits.max_jwks_bytes:
                    raise ValueError("the document is too large")
        return bytes(body)

    def _read(self, body: bytes) -> tuple[Key, ...]:
        rows = msgspec.json.decode(body, type=_Document).keys
        keys = tuple(key for row in rows[: self._limits.max_jwks_keys] if (key := key_from_jwk(row)))
        if len(keys) < len(rows):
            _log.info("of %d keys at %s %d can be used", len(rows), self._host, len(keys))
        if not keys:
            raise ValueError("there is no key that can be used")
        return keys
