"""``/channels/…/presence``: who is in a channel.

Members are known users, on whatever wire; ``?by=user`` tells each of them once, on however many devices.
``subscribers`` counts the readers of this process, nobodies included.
"""

from __future__ import annotations

from typing import Any

from msgspec import UnsetType

from everywire.codecs.centrifuge.messages import ClientInfo
from everywire.codecs.json_text import dump
from everywire.transports.answering import Answer, answer_by
from everywire.transports.service import Ask

__all__ = ["serve_presence"]


def serve_presence(ask: Ask) -> None:
    """Answer with the members of the channels: an object, or a list of them for several channels."""
    answer_by(ask.service, ask.exchange, ask.cors, ask.transport, _tell(ask))


async def _tell(ask: Ask) -> Answer:
    found = [await _channel(ask, channel) for channel in ask.channels]
    return Answer(200, dump(found if ask.has_several else found[0]))


async def _channel(ask: Ask, channel: str) -> dict[str, Any]:
    service, query = ask.service, ask.query
    members = await service.shared.presence.members(channel, query.limit, by_user=query.is_by_user)
    if query.is_by_user:
        rows = [_object(found.info, found.num_clients) for found in members.users.values()]
    else:
        rows = [_object(info) for info in members.clients.values()]
    told: dict[str, Any] = {
        "channel": channel,
        "subscribers": service.hub.subscribers(channel),
        "members": rows,
        "clients": members.num_clients,
        "users": members.num_users,
    }
    if members.is_cut:
        told["cut"] = True
    return told


def _object(info: ClientInfo, num_clients: int | None = None) -> dict[str, Any]:
    """Return a member as clients see it; by user, with the number of its clients in place of one."""
    row: dict[str, Any] = {"user": info.user}
    if num_clients is None:
        row["client"] = info.client
    else:
        row["clients"] = num_clients
    if not isinstance(info.conn_info, UnsetType):
        row["conn_info"] = info.conn_info
    if not isinstance(info.chan_info, UnsetType):
        row["chan_info"] = info.chan_info
    return row
