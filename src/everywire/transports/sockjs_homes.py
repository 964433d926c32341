"""Which node a SockJS session lives on: the ids are the clients' own and say nothing.

Whoever makes a session of an id that is nobody's yet writes its node down in the broker's store, and keeps
that good for as long as the session lasts; whoever gets a request for an id that is not known here looks
there first. The store sees a digest: an id is as good as a secret. What was found is remembered, bounded.

The node of an id says nothing about whose session it is: two clients with the same id have two sessions, on
one node. When the store does not answer, a session lives where it is asked for.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable
from hashlib import blake2b
from typing import Final

from everywire.core.errors import EverywireError
from everywire.sessions.shared import Shared
from everywire.sockets.engines import label_of

__all__ = ["Homes"]

_TTL_S: Final = 3_600.0
_RENEWED_S: Final = 1_200.0
_BETWEEN_RENEWALS_S: Final = 60.0
_MAX_KNOWN: Final = 8_192
_DIGEST_BYTES: Final = 16
_log = logging.getLogger("everywire.transports")


class Homes:
    """The nodes of the sessions of one mount."""

    def __init__(self, shared: Shared, prefix: str, has: Callable[[str], bool]) -> None:
        """``has`` says whether there is a session of an id on this node."""
        self.own = label_of(shared.hub.broker.node)
        self._prefix = prefix
        self._has = has
        self._hub = shared.hub
        self._store = shared.hub.broker.store
        self._tasks = shared.tasks
        self._ours: dict[str, tuple[str, float]] = {}
        """The id, and when it was written down last, by key."""
        self._known: OrderedDict[str, str] = OrderedDict()
        self._is_renewing = False

    def _key(self, session_id: str) -> str:
        said = f"{self._prefix}\0{session_id}".encode("utf-8", "surrogatepass")
        return f"sockjs/{blake2b(said, digest_size=_DIGEST_BYTES).hexdigest()}"

    def find(self, session_id: str, *, opens: bool, done: Callable[[str], None]) -> None:
        """Find the label of the node of an id; it is this one from now on if ``opens`` says that there is to
        be a session, and no other has it."""
        key = self._key(session_id)
        label = self._known.get(key)
        if label is None:
            self._tasks.start(self._ask(key, session_id, opens, done), "looking for a session's node")
        else:
            self._known.move_to_end(key)
            done(label)

    async def _ask(self, key: str, session_id: str, opens: bool, done: Callable[[str], None]) -> None:
        label = self.own
        try:
            if opens:
                found = await self._store.put_once(key, self.own.encode(), _TTL_S)
                if found is None:
                    self._note_ours(key, session_id)
            else:
                found = await self._store.get(key)
            if found is not None:
                label = found.decode()
        except EverywireError as error:
            _log.warning("the node of a SockJS session could not be looked up: %s", error)
        if label != self.own:
            self._known[key] = label
            if len(self._known) > _MAX_KNOWN:
                self._known.popitem(last=False)
        done(label)

    def lost(self, session_id: str, label: str, done: Callable[[], None]) -> None:
        """Let the id be nobody's again: the node that had it is gone."""
        key = self._key(session_id)
        self._known.pop(key, None)
        self._tasks.start(self._take_from(key, label, done), "forgetting a session's node")

    async def _take_from(self, key: str, label: str, done: Callable[[], None]) -> None:
        try:
            found = await self._store.take(key)
            if found is not None and found != label.encode():
                await self._store.put_once(key, found, _TTL_S)  # another took it over before
        except EverywireError as error:
            _log.warning("the node of a SockJS session could not be forgotten: %s", error)
        done()

    def left(self, session_id: str) -> None:
        """Let the id be nobody's again: its sessions here have ended."""
        key = self._key(session_id)
        if self._ours.pop(key, None) is not None:
            self._tasks.start(self._drop(key), "forgetting a session's node")

    async def _drop(self, key: str) -> None:
        try:
            await self._store.take(key)
        except EverywireError:
            pass  # it runs out by itself

    # -- as long as sessions last ---------------------------------------------------------

    def _note_ours(self, key: str, session_id: str) -> None:
        self._ours[key] = (session_id, self._hub.time())
        if not self._is_renewing:
            self._is_renewing = True
            self._tasks.start(self._renew(), "renewing the nodes of sessions")

    async def _renew(self) -> None:
        try:
            while self._ours:
                await asyncio.sleep(_BETWEEN_RENEWALS_S)
                await self.renew_due()
        finally:
            self._is_renewing = False

    async def renew_due(self) -> None:
        """Keep good what was written down some time ago."""
        due_s = self._hub.time() - _RENEWED_S
        for key, (session_id, written_s) in list(self._ours.items()):
            if written_s > due_s:
                continue
            if not self._has(session_id):
                self._ours.pop(key, None)  # nothing came of it: its entry runs out
                continue
            try:
                await self._store.put(key, self.own.encode(), _TTL_S)
            except EverywireError as error:
                _log.warning("the nodes of SockJS sessions were not renewed: %s", error)
                return
            if key in self._ours:
                self._ours[key] = (session_id, self._hub.time())
