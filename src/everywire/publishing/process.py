"""`everywire.publish`: the same call from a coroutine, a thread, a forked process, a view, a script.

Where a server runs in the process, it is the server that publishes. Elsewhere it goes by an address:
`configure`, or ``EVERYWIRE_URL``. See docs/publishing.md.

A thread does not live on in a forked process. So the publishing loop ends before a fork and is made anew on
both sides when it is needed. Nor does a server run in a process that was forked from its own; there it goes
by the address of the server's broker, if it has one.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  before our hooks, which then run before theirs take a lock
import os
import ssl
import sys
import threading
from collections.abc import Mapping
from typing import Any, Final, Protocol

from everywire.core import codes
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits
from everywire.core.settings import SettingsTable
from everywire.handlers.outside import Receipt, failed, in_event_loop
from everywire.publishing.background import Background
from everywire.publishing.destination import API_KEY_VARIABLE, URL_VARIABLE, Destination, from_environment
from everywire.publishing.order import BINARY_TYPE, Published, draft_of

__all__ = ["Server", "attach", "configure", "detach", "publish"]

_GRACE_S: Final = 2.0


class Server(Protocol):
    """A server in this process."""

    def publish_outside(self, channel: str, data: Any, **more: Any) -> Receipt[Published]:
        """Publish from anywhere in the process."""


class _State:
    """What this process has; ``lock`` guards what is written. It may be taken again by who holds it,
    because a handler of a signal may publish."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.servers: tuple[tuple[Server, Destination | None], ...] = ()
        """Those that run here, newest last, with their brokers' addresses as far as they have some."""
        self.inherited: Destination | None = None
        """The address of the broker of the server that ran in the process that forked this one."""
        self.configured: Destination | None = None
        self.background: Background | None = None
        self.is_over = False
        self.left: list[Background] = []
        """Those of a parent that forked behind our back: kept, because to end one ends the parent's."""


_state: Final = _State()


def publish(
    channel: str,
    data: Any,
    *,
    event: str | None = None,
    tags: Mapping[str, str] | None = None,
    content_type: str = BINARY_TYPE,
    key: str | None = None,
) -> Receipt[Published]:
    """Publish from anywhere: a coroutine, a thread, another event loop, a forked process, a script.

    Takes what `everywire.Everywire.publish` takes. In a coroutine the result may be awaited or not;
    publications of a thread keep the order of the calls. In a thread without a running event loop it returns
    when the publication stands, or raises; what it returns has it as ``result()``.

    A server that runs in this process publishes it, with several the one that started last. Otherwise it goes
    to the address that `configure` or ``EVERYWIRE_URL`` names. It stands within `Limits.publish_timeout_s`
    (10 s), or it is an error.

    Raises, at the call without an event loop and else where it is awaited: `BadRequest`, `TooLarge`,
    `KeyReused`, `BrokerError`, `Forbidden` and whatever else the server says; when too many publications
    are unfinished, `BrokerBusy`. At the call in any case: `SettingsError`, and an error with code 108 when
    there is neither a server nor an address.
    """
    servers = _state.servers
    if servers:
        return servers[-1][0].publish_outside(
            channel, data, event=event, tags=tags, content_type=content_type, key=key
        )
    with _state.lock:
        background = _background()
        try:
            draft = draft_of(
                background.destination.limits,
                channel,
                data,
                event=event,
                tags=tags,
                content_type=content_type,
                key=key,
            )
            order = background.post(draft)
        except EverywireError as error:
            return failed(error)
    if not in_event_loop():
        order.wait(background.destination.limits.publish_timeout_s + _GRACE_S)
    return Receipt(order.future)


def configure(
    url: str | None,
    *,
    api_key: str | None = None,
    limits: Limits | None = None,
    channels: SettingsTable | None = None,
    tls: ssl.SSLContext | None = None,
) -> None:
    """Say where `publish` goes in a process without a server; None counts on the environment again.

    Args:
        url: ``http://`` or ``https://`` of a server, or the address of its broker: ``redis://…``, ``nats://…``,
            ``sqlite:…``.
        api_key: what the server knows this process by; by default ``EVERYWIRE_API_KEY``.
        limits: bounds on what is published; by a broker's address they should be the servers' own.
        channels: settings of channels, for a broker's address; they should be the servers' own, too, because
            whoever appends trims the log.
        tls: how a server's certificate is verified.

    Raises `SettingsError` when nothing can be published there.
    """
    found = None
    if url is not None:
        key = os.environ.get(API_KEY_VARIABLE, "") if api_key is None else api_key
        found = Destination(url, key, limits or Limits(), channels, tls).check()
    with _state.lock:
        _state.configured = found
        _end_background()


def attach(server: Server, broker: Destination | None = None) -> None:
    """Note that a server runs in this process. Its broker's address is for processes that are forked from
    this one, in which the server does not run."""
    with _state.lock:
        _state.servers = (*_state.servers, (server, broker))


def detach(server: Server) -> None:
    """Note that a server runs no longer."""
    with _state.lock:
        _state.servers = tuple(found for found in _state.servers if found[0] is not server)


# -- the life of the loop; under the lock -------------------------------------------------------


def _background() -> Background:
    found = _state.background
    if found is not None and found.pid == os.getpid():
        return found
    if found is not None:
        _state.left.append(found)
        _state.background = None
    if _state.is_over:
        raise EverywireError("this process ends", code=codes.NOT_AVAILABLE)
    _state.background = made = Background(_destination())
    _close_with_child()
    return made


def _destination() -> Destination:
    if _state.configured is not None:
        return _state.configured
    if _state.inherited is not None and not os.environ.get(URL_VARIABLE):
        return _state.inherited
    return from_environment()


def _end_background() -> None:
    found, _state.background = _state.background, None
    if found is None:
        return
    if found.is_inside or found.pid != os.getpid():
        _state.left.append(found)
    else:
        found.close()


def _close_with_child() -> None:
    """Have what is begun finished in a child of `multiprocessing`, too, which calls no ``atexit``."""
    multiprocessing = sys.modules.get("multiprocessing.util")
    process = sys.modules.get("multiprocessing.process")
    if multiprocessing is not None and process is not None and process.parent_process() is not None:
        multiprocessing.Finalize(None, _at_exit, exitpriority=10)


def _at_exit() -> None:
    with _state.lock:
        _state.is_over = True
        _end_background()


def _before_fork() -> None:
    _state.lock.acquire()
    _end_background()


def _after_fork_in_parent() -> None:
    _state.lock.release()


def _after_fork_in_child() -> None:
    _state.lock = threading.RLock()
    if _state.servers:
        _state.inherited = _state.servers[-1][1]
        _state.servers = ()
    _state.is_over = False
    if _state.background is not None:
        _state.left.append(_state.background)
        _state.background = None


atexit.register(_at_exit)
os.register_at_fork(
    before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child
)
