"""Publications that name somebody: whoever is named hears of them before anybody is given them.

Some readers of a crowd are to be told something else than the rest, now and then: a sender, for example, is
not to be told what it said itself. So that the crowd can share its bytes nevertheless, a tag of the
publication names such readers by a mark, and whoever listens for the mark takes its reader out of the crowd
in time (`everywire.hub.reader.Reader.pass_over`, or by opening another).

A tag that holds marks is a list of them, comma-joined; what follows a slash in one is not part of the name.
"""

from __future__ import annotations

from collections.abc import Callable

from everywire.core.publication import Publication

__all__ = ["Marks"]

Listener = Callable[[str, Publication | None], None]


class Marks:
    """Who listens for which marks in which tags, on this node."""

    __slots__ = ("_listeners", "_tags")

    def __init__(self) -> None:
        self._tags: dict[str, int] = {}
        self._listeners: dict[tuple[str, str], dict[Listener, None]] = {}

    def listen(self, tag: str, mark: str, listener: Listener) -> None:
        """Call ``listener(channel, publication)`` for every publication of a followed channel whose tag has
        the mark, after it was heard of and before it is written; ``listener(channel, None)`` before
        publications are written of which this node did not hear. It raises nothing, and publishes nothing."""
        listeners = self._listeners.setdefault((tag, mark), {})
        if not listeners:
            self._tags[tag] = self._tags.get(tag, 0) + 1
        listeners[listener] = None

    def ignore(self, tag: str, mark: str, listener: Listener) -> None:
        """Call it no more; nothing happens when it was not called before."""
        listeners = self._listeners.get((tag, mark))
        if listeners is None or listener not in listeners:
            return
        del listeners[listener]
        if not listeners:
            del self._listeners[tag, mark]
            self._tags[tag] -= 1
            if not self._tags[tag]:
                del self._tags[tag]

    def tell_unheard(self, channel: str) -> None:
        """Tell everybody that readers are sent to the log for what was not heard of: whom it names is not
        known."""
        for listeners in tuple(self._listeners.values()):
            for listener in tuple(listeners):
                listener(channel, None)

    def tell(self, channel: str, publication: Publication) -> None:
        """Tell whoever is named."""
        tags = publication.tags
        if not tags:
            return
        for tag in self._tags.keys() & tags.keys():
            for part in tags[tag].split(","):
                listeners = self._listeners.get((tag, part.partition("/")[0]))
                if listeners:
                    for listener in tuple(listeners):
                        listener(channel, publication)
