"""One Socket.IO connection: the packets of all its namespaces over one link. Socket.IO protocol 5, §4-§6."""

from __future__ import annotations

__all__ = ["Client"]


class Client:
    """What speaks over one link: an `everywire.sockets.link.Upper`."""
