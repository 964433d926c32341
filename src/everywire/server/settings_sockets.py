"""The tables of the settings that are Socket.IO's and SockJS's; see `everywire.server.settings`."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from everywire.sockets.settings import SocketSettings

__all__ = ["Parser", "SockJs", "SocketIo"]

_DEFAULTS: Final = SocketSettings()
_MORE_THAN_NONE: Final = Meta(gt=0)


class Parser(Enum):
    """The forms of Socket.IO's packets."""

    JSON = "json"
    MSGPACK = "msgpack"


_FORMS: Final[dict[Parser, Literal["json", "msgpack"]]] = {Parser.JSON: "json", Parser.MSGPACK: "msgpack"}


class SocketIo(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Socket.IO, at ``/socket.io/``. See docs/socketio.md."""

    enabled: bool = True
    """Whether it is served."""
    recovery_window_s: Annotated[float, Meta(ge=0)] = _DEFAULTS.recovery_window_s
    """How long a client that was cut off may come back as who it was, with what it missed; 0 is never, and no
    event has a position then."""
    connect_timeout_s: Annotated[float, _MORE_THAN_NONE] = _DEFAULTS.connect_timeout_s
    """For a client to connect to a namespace; then the connection is closed."""
    ping_interval_s: Annotated[float, _MORE_THAN_NONE] = _DEFAULTS.ping_interval_s
    """Between two pings."""
    ping_timeout_s: Annotated[float, _MORE_THAN_NONE] = _DEFAULTS.ping_timeout_s
    """For a client to answer one; then the connection is closed."""
    max_payload: Annotated[int, _MORE_THAN_NONE] = _DEFAULTS.max_payload
    """Bytes of a client's message, and of the messages that it sends in one POST."""
    parser: Parser = Parser(_DEFAULTS.parser)
    """The form of packets; `msgpack` is that of the package socket.io-msgpack-parser, and clients need it."""

    def settings(self) -> SocketSettings | None:
        """Return what Socket.IO is set to; None where it is not served. Raises `SettingsError`."""
        if not self.enabled:
            return None
        return SocketSettings(
            recovery_window_s=self.recovery_window_s,
            connect_timeout_s=self.connect_timeout_s,
            ping_interval_s=self.ping_interval_s,
            ping_timeout_s=self.ping_timeout_s,
            max_payload=self.max_payload,
            parser=_FORMS[self.parser],
        )


class SockJs(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The session protocol in SockJS. See docs/sockjs.md; more is in ``limits``."""

    enabled: bool = True
    """Whether it is served."""
    prefix: Annotated[str, Meta(pattern=r"^(/[A-Za-z0-9_.~-]+)+$")] = "/sockjs"
    """Below which path."""
    client_url: str = ""
    """Where the page for iframes has `sockjs-client` from, as `/sockjs.min.js`; none is no such page."""
