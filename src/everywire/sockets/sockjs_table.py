"""The SockJS sessions of one mount, found by what their clients call them and who these are.

The client chooses the id of its session, so an id alone is no proof. A session is bound to what its first
request proved: it is found by its id together with its owner, who is the user that was proved, or nobody.
Two who choose the same id have two sessions, and neither learns of the other. Where nobody was proved, the id
is all that protects a session, as in any other SockJS server; `sockjs-client` makes it by chance. A request
that proves somebody finds nobody's session, too (it could as well have proved nothing), unless another user
speaks over it by now.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable
from typing import Final

from everywire.access.identity import NOBODY, Identity
from everywire.access.quotas import Quotas, counted
from everywire.core import codes
from everywire.core.errors import EverywireError, LimitExceeded
from everywire.core.limits import Limits
from everywire.hub.hub import Hub
from everywire.sockets.sockjs import SockJsSession
from everywire.sockets.sockjs_link import Accept, Opening, SockJsOptions

__all__ = ["SockJsTable"]

_SID_BYTES: Final = 16


def _forget_nothing(session_id: str) -> None:
    """Do nothing: nobody else knows of the id."""


class SockJsTable:
    """All sessions over HTTP of one mount; bounded by `Limits.max_sockjs_sessions` and by the quotas."""

    __slots__ = (
        "_by_mark",
        "_by_owner",
        "_ids",
        "_of_address",
        "_quotas",
        "disconnect_delay_s",
        "heartbeat_s",
        "hub",
        "limits",
        "on_left",
        "opened",
        "response_bytes",
    )

    def __init__(self, hub: Hub, limits: Limits, quotas: Quotas, options: SockJsOptions) -> None:
        self.hub = hub
        self.limits = limits
        self._quotas = quotas
        self.response_bytes = options.response_bytes or limits.sockjs_response_bytes
        self.heartbeat_s = options.heartbeat_s or limits.sockjs_heartbeat_s
        self.disconnect_delay_s = options.disconnect_delay_s or limits.sockjs_disconnect_delay_s
        self._by_owner: dict[tuple[str, str], SockJsSession] = {}
        self._by_mark: dict[tuple[str, bytes], SockJsSession] = {}
        self._of_address: Counter[str] = Counter()
        self._ids: Counter[str] = Counter()
        self.on_left: Callable[[str], None] = _forget_nothing
        """Called with an id when its last session is found no longer."""
        self.opened = 0
        """How many there were."""

    def __len__(self) -> int:
        return len(self._by_owner)

    def has(self, session_id: str) -> bool:
        """Whether there is a session of an id, whoever's."""
        return session_id in self._ids

    def find(self, session_id: str, mark: bytes) -> SockJsSession | None:
        """Return the session of an id whose client showed the same credential before."""
        return self._by_mark.get((session_id, mark))

    def find_owned(self, session_id: str, owner: str, mark: bytes) -> SockJsSession | None:
        """Return the session of an id that is an owner's, who shows another credential now."""
        session = self._by_owner.get((session_id, owner))
        if session is not None and session.mark != mark:
            self._by_mark.pop((session_id, session.mark), None)
            session.mark = mark
            self._by_mark[session_id, mark] = session
        return session

    def find_nobodys(self, session_id: str, user: str) -> SockJsSession | None:
        """Return the session of an id whose first request proved nobody, unless another user speaks there."""
        session = self._by_owner.get((session_id, ""))
        if session is None or (user and session.user and session.user != user):
            return None
        return session

    def open(self, opening: Opening, accept: Accept) -> SockJsSession:
        """Make a session that was not there.

        Raises `LimitExceeded` when its address or user has no place left, and an error with code 124 when
        there are too many sessions. A session that has ended, or gave its place back because who speaks over
        it has one, is still here for some seconds: of one address there are at most twice as many as places.
        """
        identity = opening.identity if isinstance(opening.identity, Identity) else NOBODY
        address, most = counted(opening.request.peer), 2 * self.limits.max_connections_per_address
        if address and most and self._of_address[address] >= most and not identity.may_all:
            raise LimitExceeded("there are too many sessions from this address")
        if len(self._by_owner) >= self.limits.max_sockjs_sessions:
            raise EverywireError("there are too many sessions; come back later", code=codes.BUSY)
        admission = self._quotas.admit(identity, opening.request.peer)
        sid = secrets.token_urlsafe(_SID_BYTES)
        session = SockJsSession(self, sid, opening, accept, admission)
        self._by_owner[session.key] = session
        self._by_mark[opening.session_id, opening.mark] = session
        self._of_address[address] += 1
        self._ids[opening.session_id] += 1
        self.opened += 1
        return session

    def forget(self, session: SockJsSession) -> None:
        """Find a session no longer."""
        session_id = session.key[0]
        if self._by_owner.pop(session.key, None) is not None:
            address = counted(session.peer)
            self._of_address[address] -= 1
            if not self._of_address[address]:
                del self._of_address[address]
            self._ids[session_id] -= 1
            if not self._ids[session_id]:
                del self._ids[session_id]
                self.on_left(session_id)
        self._by_mark.pop((session_id, session.mark), None)

    def close(self) -> None:
        """End all sessions."""
        for session in list(self._by_owner.values()):
            session.close(codes.SHUTDOWN)
            self.forget(session)
