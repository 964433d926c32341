"""Who the client is when proxies stand between: X-Forwarded-* and Forwarded (RFC 7239).

Only what trusted proxies say counts. Every proxy adds the address it heard from at the right
end, so the list is read from there: as long as an address is a trusted proxy's, the next one
to the left is believed; the first that is not is the client. What a client wrote itself stands
further left and is never reached.

X-Forwarded-* and Forwarded in one request: the former counts, because it is what nearly every
proxy sets, and one that does not know the latter lets a client's own pass.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, NamedTuple

__all__ = ["UNIX", "Client", "Trust"]

UNIX: Final = "unix"
"""What stands for the peer of a unix socket, also in a list of trusted proxies."""

_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_SCHEMES: Final = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
_PAIR: Final = re.compile(r'\s*([A-Za-z0-9!#$%&\'*+.^_`|~-]+)=("(?:[^"\\]|\\.)*"|[^\s",;]*)\s*(;|,|\Z)')
_MAX_HOPS: Final = 32


class Client(NamedTuple):
    """What proxies say of a client; None where they say nothing."""

    peer: str
    scheme: str | None
    host: str | None


class Trust:
    """The proxies that are believed: addresses, networks, and ``unix`` for unix sockets."""

    __slots__ = ("_networks", "trusts_unix")

    def __init__(self, proxies: Iterable[str]) -> None:
        known = frozenset(proxies)
        self.trusts_unix = UNIX in known
        self._networks = tuple(ip_network(proxy, strict=False) for proxy in sorted(known - {UNIX}))

    def __bool__(self) -> bool:
        return self.trusts_unix or bool(self._networks)

    def trusts(self, peer: str) -> bool:
        """Whether what this peer says of its clients is believed."""
        return self.trusts_unix if peer == UNIX else _is_in(peer, self._networks)

    def client(self, peer: str, headers: Mapping[bytes, bytes]) -> Client:
        """Return who a trusted peer spoke for; itself if it does not say."""
        hops = _x_forwarded(headers)
        if hops is None:
            hops = _forwarded(headers.get(b"forwarded", b""))
        client = Client(peer, None, None)
        for address, scheme, host in hops:
            if not address:
                # Unknown or hidden: the trusted proxy next to it is as far as we see.
                return Client(client.peer, scheme, host)
            client = Client(address, scheme, host)
            if not _is_in(address, self._networks):
                break
        return client


@lru_cache(maxsize=4096)
def _is_in(address: str, networks: tuple[IPv4Network | IPv6Network, ...]) -> bool:
    try:
        parsed = ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)


def _x_forwarded(headers: Mapping[bytes, bytes]) -> list[Client] | None:
    """Return the hops that X-Forwarded-* name, from the last to the first; None without any."""
    addresses = _split(headers.get(b"x-forwarded-for"))
    schemes = _split(headers.get(b"x-forwarded-proto"))
    hosts = _split(headers.get(b"x-forwarded-host"))
    if not (addresses or schemes or hosts):
        return None
    hops = []
    for index, address in enumerate(addresses or [""]):
        # A proxy that appends does so to every list; one that sets leaves a single value.
        scheme = _at(schemes, index, len(addresses))
        host = _at(hosts, index, len(addresses))
        hops.append(Client(_address(address), _SCHEMES.get(scheme.lower()), _checked(host)))
    return hops


def _split(value: bytes | None) -> list[str]:
    """Return the items of a list, the last one first."""
    if not value:
        return []
    return [
        item.strip(" \t") for item in reversed(value.decode("latin-1").rsplit(",", _MAX_HOPS)[-_MAX_HOPS:])
    ]


def _at(items: list[str], index: int, length: int) -> str:
    if not items:
        return ""
    return items[index] if len(items) == length else items[0]


def _forwarded(value: bytes) -> list[Client]:
    """Return the hops of Forwarded, from the last to the first; none if it is malformed."""
    text = value.decode("latin-1")
    hops: list[Client] = []
    pairs: dict[str, str] = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            return []
        name, content, end = match.groups()
        if content[:1] == '"':
            content = re.sub(r"\\(.)", r"\1", content[1:-1])
        pairs[name.lower()] = content
        if end != ";":
            scheme = _SCHEMES.get(pairs.get("proto", "").lower())
            hops.append(Client(_address(pairs.get("for", "")), scheme, _checked(pairs.get("host", ""))))
            pairs = {}
        at = match.end()
        if len(hops) > _MAX_HOPS:
            del hops[0]
    return hops[::-1]


def _address(text: str) -> str:
    """Return an address without its port; empty if it is none."""
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        return str(ip_address(text))
    except ValueError:
        return ""


def _checked(host: str) -> str | None:
    return host if _HOST.fullmatch(host) else None
