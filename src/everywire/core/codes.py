"""One table of every code that a peer may see.

The numbers follow the Centrifuge client protocol, so that its client libraries
understand them: 100 to 399 are errors that answer one request; 2000 to 2499 end a
subscription for good, 2500 to 2999 one that may be made again; 3000 to 3499
end a connection that may come back; 3500 to 3999 end it for good. So do 4000 to 4499 and
4500 to 4999, which are the application's own. The standard WebSocket codes (RFC 6455
§7.4.1) that Everywire itself decides to send stand here too. Documents and clients are
checked against this table.
"""

from __future__ import annotations

from typing import Final, NamedTuple

__all__ = ["CODES", "Code"]


class Code(NamedTuple):
    """One row: the number, its name, the HTTP status that goes with it, and a sentence.

    ``status`` is 0 where the code never answers an HTTP request.
    """

    number: int
    name: str
    status: int
    sentence: str

    @property
    def reconnect(self) -> bool:
        """Whether a peer whose connection or subscription ended with this code may come back."""
        number = self.number
        return number in (1001, 1012, 1013) or 2500 <= number < 3500 or 4000 <= number < 4500


INTERNAL: Final = Code(100, "internal", 500, "internal server error; try again later")
UNAUTHORIZED: Final = Code(101, "unauthorized", 401, "a valid credential is needed")
UNKNOWN_CHANNEL: Final = Code(102, "unknown_channel", 404, "there is nothing at this address")
PERMISSION_DENIED: Final = Code(103, "permission_denied", 403, "this is not allowed")
METHOD_NOT_FOUND: Final = Code(104, "method_not_found", 405, "this method is not known here")
ALREADY_SUBSCRIBED: Final = Code(105, "already_subscribed", 409, "this session has that subscription already")
LIMIT_EXCEEDED: Final = Code(106, "limit_exceeded", 429, "a limit was exceeded")
BAD_REQUEST: Final = Code(107, "bad_request", 400, "the request is malformed")
NOT_AVAILABLE: Final = Code(108, "not_available", 501, "this is not available here")
TOKEN_EXPIRED: Final = Code(109, "token_expired", 401, "the token has expired; come with a new one")
CREDENTIAL_EXPIRED: Final = Code(110, "expired", 401, "this has expired")
TOO_MANY_REQUESTS: Final = Code(111, "too_many_requests", 429, "too many requests; slow down")
UNRECOVERABLE: Final = Code(112, "unrecoverable_position", 416, "what follows this position is gone")

TOO_LARGE: Final = Code(120, "too_large", 413, "the body is larger than this server takes")
KEY_REUSED: Final = Code(121, "key_reused", 422, "this Idempotency-Key was used with another body")
TIMEOUT: Final = Code(122, "timeout", 408, "the request did not arrive in time")
HEAD_TOO_LARGE: Final = Code(123, "head_too_large", 431, "the request head is larger than this server takes")
BUSY: Final = Code(124, "busy", 503, "the server is busy; come back later")
UPGRADE_REQUIRED: Final = Code(125, "upgrade_required", 426, "another protocol is needed for this address")
FOREIGN_ORIGIN: Final = Code(126, "foreign_origin", 403, "this origin is not allowed")
FOREIGN_HOST: Final = Code(127, "foreign_host", 403, "this host name is not served here")
NOT_ACCEPTABLE: Final = Code(128, "not_acceptable", 406, "this cannot be answered in a form you accept")

UNSUBSCRIBED: Final = Code(2000, "server_unsubscribe", 0, "the server ended this subscription")
SUBSCRIPTION_GAP: Final = Code(2500, "subscription_gap", 0, "subscribe again: something was missed")
SUBSCRIPTION_EXPIRED: Final = Code(2501, "subscription_expired", 0, "subscribe again: the permission ran out")

SERVICE_RESTART: Final = Code(1012, "service_restart", 0, "the server is restarting; come back later")
INVALID_DATA: Final = Code(1007, "invalid_data", 0, "the message is not what its type says")
TRY_AGAIN_LATER: Final = Code(1013, "try_again_later", 0, "this cannot be served now; come back later")

SHUTDOWN: Final = Code(3001, "shutdown", 0, "the server is shutting down; come back later")
EXPIRED: Final = Code(3005, "connection_expired", 0, "the connection reached its age; come back")
SUBSCRIPTION_END: Final = Code(3006, "subscription_expired_close", 0, "a permission ran out; come back")
SERVER_ERROR: Final = Code(3004, "internal_close", 0, "internal server error; come back later")
SLOW: Final = Code(3008, "slow", 0, "this reader fell behind; come back with its position")
INSUFFICIENT_STATE: Final = Code(3010, "insufficient_state", 0, "publications were missed that are gone now")
NO_PONG: Final = Code(3012, "no_pong", 0, "no sign of life in time")
FORCE_RECONNECT: Final = Code(3011, "force_reconnect", 0, "connect again")
SLOW_DOWN: Final = Code(3013, "slow_down", 0, "too many requests; come back later")
INVALID_TOKEN: Final = Code(3500, "invalid_token", 0, "this token is not valid here")
BAD_PROTOCOL: Final = Code(3501, "bad_protocol", 0, "this is not what the protocol allows")
STALE: Final = Code(3502, "stale", 0, "the connection did nothing in time")
DISCONNECTED: Final = Code(3503, "force_disconnect", 0, "the server ended this connection")
CONNECTION_LIMIT: Final = Code(3504, "connection_limit", 0, "too many connections")
CHANNEL_LIMIT: Final = Code(3505, "channel_limit", 0, "too many channels")
REFUSED: Final = Code(3507, "permission_denied_close", 0, "this is not allowed")

NOT_OFFERED: Final = Code(3508, "not_offered", 0, "this is not available here")

CODES: Final[tuple[Code, ...]] = tuple(row for row in globals().copy().values() if isinstance(row, Code))
"""Every row of the table, in the order of this page."""
