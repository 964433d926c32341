"""An event for several rooms: one publication in each of them, and everybody gets it once.

The publications are appended one after the other, because each names those before it
(`everywire.sockets.marks`). So what a socket does with one of them follows from that publication and from
when the socket joined and left, and from nothing that it has to remember.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from everywire.brokers.base import Appended
from everywire.core.errors import BadRequest, EverywireError, LimitExceeded
from everywire.core.publication import Draft
from everywire.hub.hub import Hub
from everywire.sockets.happenings import Name, draft_of
from everywire.sockets.marks import tags_of

__all__ = ["publish_event"]


def publish_event(
    hub: Hub,
    channels: Sequence[str],
    event: Name | None,
    args: Sequence[Any],
    done: Callable[[Sequence[Appended] | EverywireError], None],
    *,
    except_: Sequence[str] = (),
    skip: Sequence[str] = (),
) -> bool:
    """Publish an event to the channels of rooms, in their order; whoever is in several gets it once.

    ``except_`` are channels, ``skip`` ids of sockets; who is there when it is about to be written, or is
    named, passes it over. ``done`` is called once, with where it stands in each channel, or with the first
    error: then it stands in those channels that come before.

    Returns False when too many appends are unfinished, as `Hub.publish` does. Raises what `draft_of` raises,
    `LimitExceeded` above `Limits.max_socket_rooms` channels of either kind, or sockets, and `BadRequest` when
    there is no channel.
    """
    most = hub.limits.max_socket_rooms
    channels = tuple(dict.fromkeys(channels))
    if not channels:
        raise BadRequest("an event goes to one room at least")
    if max(len(channels), len(except_), len(skip)) > most:
        raise LimitExceeded(f"an event names at most {most} rooms or sockets of a kind")
    draft = draft_of(channels[0], event, args, limits=hub.limits)
    return _Broadcast(hub, channels, draft, tuple(except_), tuple(skip), done).go_on()


class _Broadcast:
    """One event on its way into the channels."""

    __slots__ = ("_appended", "_channels", "_done", "_draft", "_except", "_hub", "_skip")

    def __init__(
        self,
        hub: Hub,
        channels: tuple[str, ...],
        draft: Draft,
        except_: tuple[str, ...],
        skip: tuple[str, ...],
        done: Callable[[Sequence[Appended] | EverywireError], None],
    ) -> None:
        self._hub = hub
        self._channels = channels
        self._draft = draft
        self._except = except_
        self._skip = skip
        self._done = done
        self._appended: list[Appended] = []

    def go_on(self) -> bool:
        """Append to the next channel."""
        offsets = [appended.offset for appended in self._appended]
        tags = tags_of(
            skip=self._skip, except_=self._except, earlier=zip(self._channels, offsets, strict=False)
        )
        draft = self._draft._replace(channel=self._channels[len(offsets)], tags=tags)
        return self._hub.publish(draft, self._stands)

    def _stands(self, result: Appended | EverywireError) -> None:
        if isinstance(result, EverywireError):
            self._done(result)
            return
        self._appended.append(result)
        if len(self._appended) == len(self._channels):
            self._done(self._appended)
        else:
            self.go_on()
