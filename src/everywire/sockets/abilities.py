"""What a client of Socket.IO can take, as far as its handshake shows it.

Where clients may recover, each event ends with a position: the JavaScript client keeps the last text of any
event for that, and its listeners get one argument too many, which no function there minds. In Python each
does: a function of one argument that is called with two raises TypeError. python-socketio's client cannot
recover, so it is spared positions. It does not say what it is, but writes the two parameters of its address
in an order that no other client does: ``transport=…&EIO=4``.
"""

from __future__ import annotations

from everywire.access.identity import AuthRequest

__all__ = ["takes_positions"]


def takes_positions(request: AuthRequest) -> bool:
    """Say whether the client of a handshake may be sent positions with its events."""
    own = [name for name in request.query if name in ("EIO", "transport")]
    return own != ["transport", "EIO"]
