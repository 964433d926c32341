"""What tests of access work with: clocks turned by hand, keys, tokens of any shape, and callbacks kept."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import get_default_algorithms

from everywire.access.authority import Authority
from everywire.access.hooks import Hooks
from everywire.access.identity import Action, AuthRequest, Identity
from everywire.access.revocations import TOPIC, Revocations
from everywire.access.rules import Rules
from everywire.access.tickets import Tickets
from everywire.access.tokens import Tokens
from everywire.brokers.base import Broker
from everywire.brokers.memory import MemoryBroker
from everywire.core.errors import EverywireError
from everywire.core.limits import Limits

SECRET = "a secret of the tests, which is long enough"
NOW_S = 1_700_000_000.0


class Clock:
    """A clock turned by hand: seconds when called; `unix` and `unix_ms` go with it."""

    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s

    def unix(self) -> float:
        return NOW_S + self.now_s - 1_000.0

    def unix_ms(self) -> int:
        return round(self.unix() * 1000)

    def passes(self, seconds: float) -> None:
        self.now_s += seconds


@cache
def private_key(kind: str) -> Any:
    """Return a private key of a kind: RS256, RS384, ES256, ES384, ES512 or EdDSA."""
    if kind.startswith("RS"):
        return rsa.generate_private_key(65537, 2048)
    if kind == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    curve = {"ES256": ec.SECP256R1, "ES384": ec.SECP384R1, "ES512": ec.SECP521R1, "ES256K": ec.SECP256K1}[
        kind
    ]
    return ec.generate_private_key(curve())


def public_pem(key: Any) -> str:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def public_jwk(key: Any, algorithm: str, **more: Any) -> dict[str, Any]:
    return {**get_default_algorithms()[algorithm].to_jwk(key.public_key(), as_dict=True), **more}


def token(
    key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any
) -> str:
    """Sign a token with PyJWT, which is what others use, too."""
    return jwt.encode(claims, key, algorithm, headers=headers)


def part(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(header: Any, payload: Any, key: bytes = SECRET.encode(), algorithm: str = "HS256") -> str:
    """Sign anything at all, also what PyJWT would not."""
    data = f"{part(header)}.{part(payload)}"
    return f"{data}.{part(get_default_algorithms()[algorithm].sign(data.encode(), key))}"


class Said(list[Any]):
    """A callback that keeps what it is told."""

    def __call__(self, answer: Any) -> None:
        self.append(answer)

    @property
    def one(self) -> Any:
        (answer,) = self
        return answer


class Desk:
    """An authority with everything, on clocks of its own, over one node."""

    def __init__(
        self,
        rules: Rules | None = None,
        hooks: Hooks | None = None,
        *,
        tokens: Tokens | bool = True,
        broker: Broker | None = None,
        limits: Limits | None = None,
        clock: Clock | None = None,
        is_alone: bool = True,
        cookie_name: str = "session",
    ) -> None:
        self.clock = clock = clock or Clock()
        self.limits = limits = limits or Limits()
        self.broker = broker or MemoryBroker(limits, clock_ms=clock.unix_ms)
        if isinstance(tokens, bool):
            made = Tokens(secret=SECRET, limits=limits, clock=clock.unix) if tokens else None
        else:
            made = tokens
        self.tickets = Tickets(self.broker.store, limits)
        self.revocations = Revocations(self.broker, limits, clock.unix, is_alone=is_alone)
        self.authority = Authority(
            rules or Rules(),
            hooks,
            tokens=made,
            tickets=self.tickets,
            revocations=self.revocations,
            limits=limits,
            cookie_name=cookie_name,
            clock=clock,
            unix_s=clock.unix,
        )

    def knows(self, request: AuthRequest) -> Identity | EverywireError:
        """Authenticate, where the answer must come within the call."""
        said = Said()
        self.authority.authenticate(request, said)
        return said.one

    async def finds(self, request: AuthRequest) -> Identity | EverywireError:
        """Authenticate, whenever the answer comes."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.authority.authenticate(request, future.set_result)
        async with asyncio.timeout(10):
            return await future

    def decides(self, identity: Identity, action: Action, *channels: str) -> EverywireError | None:
        """Authorize, where the answer must come within the call."""
        said = Said()
        self.authority.authorize(identity, action, channels, said)
        return said.one

    async def judges(self, identity: Identity, action: Action, *channels: str) -> EverywireError | None:
        """Authorize, whenever the answer comes."""
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.authority.authorize(identity, action, channels, future.set_result)
        async with asyncio.timeout(10):
            return await future


class Node:
    """The sink of a node's broker: hands over what is broadcast about revocations."""

    def __init__(self, revocations: Revocations) -> None:
        self.revocations = revocations

    def broadcasted(self, topic: str, payload: bytes, node: str) -> None:
        if topic == TOPIC:
            self.revocations.heard(payload, node)

    def published(self, channel: str, epoch: str, publications: Sequence[Any], previous: int) -> None:
        raise AssertionError("nothing is published here")

    def advanced(self, channel: str, epoch: str, last: int) -> None:
        raise AssertionError("nothing is published here")

    async def asked(self, topic: str, payload: bytes, node: str) -> bytes:
        raise AssertionError("nothing is asked here")


def bearer(text: str, **more: Any) -> AuthRequest:
    return AuthRequest(token=text, **more)


async def turns(count: int = 10) -> None:
    """Let everything that is ready run."""
    for _ in range(count):
        await asyncio.sleep(0)
