"""Keys fetched by HTTP from a real little server: rotation, failures, floods, and what is no key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from everywire.access.jwks import Jwks
from everywire.access.tokens import Tokens
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken, SettingsError
from everywire.core.limits import Limits
from tests.access.proofs import SECRET, Clock, part, private_key, public_jwk, public_pem, signed, token, turns


class Issuer:
    """A server of one document, that counts how often it is asked."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = []
        self.status = b"200 OK"
        self.headers = b""
        self.body: bytes | None = None
        self.asked: list[bytes] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.url = ""

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.asked.append(await reader.readuntil(b"\r\n\r\n"))
            await self.gate.wait()
            is_moved = self.asked[-1].startswith(b"GET /moved")
            status, headers = (b"200 OK", b"") if is_moved else (self.status, self.headers)
            body = json.dumps({"keys": self.keys}).encode() if self.body is None else self.body
            head = b"HTTP/1.1 %s\r\n%sconnection: close\r\ncontent-length: %d\r\n\r\n"
            writer.write(head % (status, headers, len(body)) + body)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # who asked has gone
        finally:
            writer.close()


@pytest.fixture
async def issuer() -> AsyncIterator[Issuer]:
    issuer = Issuer()
    server = await asyncio.start_server(issuer.answer, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/keys?v=1"
    try:
        yield issuer
    finally:
        issuer.gate.set()
        server.close()
        await server.wait_closed()


class Site:
    """Tokens that are verified with an issuer's keys."""

    def __init__(self, issuer: Issuer, **more: Any) -> None:
        self.clock = Clock()
        limits = more.pop("limits", Limits())
        self.jwks = Jwks(issuer.url, limits, self.clock)
        self.tokens = Tokens(jwks=self.jwks, limits=limits, clock=self.clock.unix, **more)

    async def user(self, text: str) -> str:
        async with asyncio.timeout(20):
            identity = self.tokens.verify_nowait(text) or await self.tokens.verify(text)
        return identity.user

    async def refusal(self, text: str) -> EverywireError:
        with pytest.raises(EverywireError) as caught:
            await self.user(text)
        return caught.value


def by(kid: str | None, kind: str = "ES256", user: str = "ann", **more: Any) -> str:
    headers = None if kid is None else {"kid": kid}
    return token(private_key(kind), more.pop("algorithm", kind), headers, sub=user, **more)


async def test_keys_are_fetched_once_and_then_known(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer)
    assert site.tokens.verify_nowait(by("k1")) is None, "it must be asked for"
    assert await site.user(by("k1")) == "ann"
    for name in ("bob", "cyd"):
        identity = site.tokens.verify_nowait(by("k1", user=name))
        assert identity is not None
        assert identity.user == name
    assert len(issuer.asked) == 1
    head = issuer.asked[0].lower()
    assert head.startswith(b"get /keys?v=1 ")
    assert b"accept-encoding: identity" in head


@pytest.mark.parametrize("kind", ["RS256", "ES256", "ES384", "ES512", "EdDSA"])
async def test_keys_of_every_kind(issuer: Issuer, kind: str) -> None:
    issuer.keys = [public_jwk(private_key(kind), kind, kid="k1", use="sig", alg=kind)]
    site = Site(issuer)
    assert await site.user(by("k1", kind)) == "ann"
    if kind == "RS256":  # its key is told to be for one algorithm only
        assert isinstance(await site.refusal(by("k1", kind, algorithm="RS512")), InvalidToken)


async def test_a_crowd_fetches_once(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    issuer.gate.clear()
    site = Site(issuer)
    asking = [asyncio.ensure_future(site.user(by("k1", user=f"u{n}"))) for n in range(50)]
    await turns()
    issuer.gate.set()
    assert await asyncio.gather(*asking) == [f"u{n}" for n in range(50)]
    assert len(issuer.asked) == site.jwks.fetches == 1


async def test_who_stops_waiting_does_not_stop_the_others(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    issuer.gate.clear()
    site = Site(issuer)
    first, second = (asyncio.ensure_future(site.user(by("k1"))) for _ in range(2))
    await turns()
    first.cancel()
    await turns()
    issuer.gate.set()
    assert await second == "ann"
    assert len(issuer.asked) == 1


async def test_a_new_key_is_found_and_an_old_one_gone(issuer: Issuer) -> None:
    old, new = private_key("ES256"), private_key("ES384")
    issuer.keys = [public_jwk(old, "ES256", kid="k1")]
    site = Site(issuer)
    assert await site.user(by("k1")) == "ann"
    site.clock.passes(11)
    issuer.keys = [public_jwk(new, "ES384", kid="k2")]
    assert await site.user(by("k2", "ES384")) == "ann"
    assert isinstance(await site.refusal(by("k1")), InvalidToken), "the issuer has it no more"


async def test_tokens_with_unknown_keys_do_not_make_a_flood(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer)
    await site.user(by("k1"))
    for number in range(100):
        error = await site.refusal(by(f"made-up-{number}"))
        assert error.code is codes.INTERNAL, "nobody can know now whether the issuer has a new key"
    assert len(issuer.asked) == 1
    site.clock.passes(10)
    assert isinstance(await site.refusal(by("made-up")), InvalidToken), "now it was asked"
    assert isinstance(await site.refusal(by("made-up")), InvalidToken)
    assert len(issuer.asked) == 2
    assert await site.user(by("k1")) == "ann"


async def test_a_key_that_appears_soon_after_a_fetch_is_found_in_time(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer)
    await site.user(by("k1"))
    issuer.keys.append(public_jwk(private_key("RS256"), "RS256", kid="k2"))
    site.clock.passes(3)
    # Temporary: a terminal answer would end a client for good that has a good token.
    assert (await site.refusal(by("k2", "RS256"))).code is codes.INTERNAL
    site.clock.passes(7)
    assert await site.user(by("k2", "RS256")) == "ann"


@pytest.mark.parametrize(
    "fault", ["500", "redirect", "html", "empty", "large", "gzip", "deep", "shape", "down"]
)
async def test_old_keys_are_kept_when_a_fetch_fails(issuer: Issuer, fault: str, caplog: Any) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer, limits=Limits(max_jwks_bytes=10_000, jwks_timeout_s=0.5))
    await site.user(by("k1"))
    site.clock.passes(11)
    issuer.keys.append(public_jwk(private_key("ES256"), "ES256", kid="k2"))
    if fault == "500":
        issuer.status = b"500 Internal Server Error"
    elif fault == "redirect":
        issuer.status = b"302 Found"
        issuer.headers = b"location: /moved\r\n"
    elif fault == "gzip":
        issuer.headers = b"content-encoding: gzip\r\n"
        issuer.body = b"\x1f\x8b" + bytes(100)
    elif fault == "down":
        issuer.gate.clear()
    else:
        bodies = {
            "html": b"<html>",
            "empty": b'{"keys":[]}',
            "large": json.dumps({"keys": issuer.keys}).encode() + b" " * 20_000,
            "shape": b'{"keys":{}}',
        }
        issuer.body = bodies.get(fault, b'{"keys":' + b"[" * 9_000)
    error = await site.refusal(by("k2"))
    assert error.code is codes.INTERNAL, "temporary: the token may be good"
    assert not isinstance(error, InvalidToken)
    assert await site.user(by("k1", user="bob")) == "bob"
    assert "could not be fetched" in caplog.text
    assert "v=1" not in caplog.text, "what stands in the address may be secret"


async def test_no_keys_at_all_is_a_temporary_error(issuer: Issuer) -> None:
    issuer.status = b"503 Service Unavailable"
    site = Site(issuer)
    for _ in range(20):
        error = await site.refusal(by("k1"))
        assert error.code is codes.INTERNAL
        assert not isinstance(error, InvalidToken)
    assert len(issuer.asked) == 1
    issuer.status = b"200 OK"
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site.clock.passes(10)
    assert await site.user(by("k1")) == "ann"


async def test_old_keys_are_used_while_new_ones_are_fetched(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer)
    await site.user(by("k1"))
    site.clock.passes(301)
    issuer.keys = [public_jwk(private_key("ES384"), "ES384", kid="k2")]
    assert site.tokens.verify_nowait(by("k1")) is not None, "nobody waits for it"
    async with asyncio.timeout(10):
        while site.tokens.verify_nowait(by("k2", "ES384")) is None:
            await asyncio.sleep(0.01)
    assert len(issuer.asked) == 2
    site.clock.passes(10)
    assert isinstance(await site.refusal(by("k1")), InvalidToken)


async def test_a_token_without_the_name_of_its_key_is_tried_with_all_of_its_kind(issuer: Issuer) -> None:
    issuer.keys = [
        public_jwk(private_key("RS256"), "RS256", kid="k1"),
        public_jwk(private_key("ES256"), "ES256", kid="k2"),
    ]
    site = Site(issuer)
    assert await site.user(by(None)) == "ann"
    assert await site.user(by(None, "RS256", algorithm="RS384")) == "ann"
    assert isinstance(await site.refusal(by("k1")), InvalidToken), "it names another one's"
    assert isinstance(await site.refusal(by(None, "EdDSA")), EverywireError)


async def test_shared_secrets_are_never_taken_from_the_net(issuer: Issuer) -> None:
    secret = b"k" * 40
    issuer.keys = [
        {"kty": "oct", "kid": "k1", "k": part(secret), "alg": "HS256"},
        public_jwk(private_key("RS256"), "RS256", kid="k1"),
    ]
    site = Site(issuer)
    pem = public_pem(private_key("RS256")).encode()
    for key in (secret, pem, json.dumps(issuer.keys[1]).encode()):
        forged = signed({"alg": "HS256", "kid": "k1"}, {"sub": "admin"}, key)
        assert isinstance(await site.refusal(forged), InvalidToken)
    none = f"{part({'alg': 'none', 'kid': 'k1'})}.{part({'sub': 'admin'})}.{part(b'x')}"
    assert isinstance(await site.refusal(none), InvalidToken)
    assert issuer.asked == [], "such tokens are refused without asking anybody"
    assert await site.user(by("k1", "RS256")) == "ann"


async def test_keys_that_cannot_be_used_are_passed_over(issuer: Issuer) -> None:
    good = public_jwk(private_key("ES256"), "ES256", kid="good")
    rsa = public_jwk(private_key("RS256"), "RS256")
    issuer.keys = [
        {},
        {"kty": "RSA"},
        {"kty": ["RSA"]},
        {"kty": "EC", "crv": "P-256", "x": "!", "y": "!"},
        {"kty": "EC", "crv": "secp256k1", "x": good["x"], "y": good["y"]},
        {"kty": "OKP", "crv": "X25519", "x": part(bytes(32))},
        {**rsa, "kid": 5},
        {**rsa, "kid": "enc", "use": "enc"},
        {**rsa, "kid": "wrap", "key_ops": ["wrapKey"]},
        {**rsa, "kid": "pss", "alg": "PS256"},
        {**rsa, "kid": "private", "d": "AQAB"},
        {**rsa, "kid": "tiny", "n": "AQAB"},
        {**rsa, "kid": "odd", "n": 5},
        good,
    ]
    site = Site(issuer)
    assert await site.user(by("good")) == "ann"
    for kid in ("enc", "wrap", "pss", "private", "tiny", "odd"):
        with pytest.raises(EverywireError):
            await site.user(by(kid, "RS256"))


async def test_a_document_may_not_have_any_number_of_keys(issuer: Issuer) -> None:
    one = public_jwk(private_key("ES256"), "ES256")
    issuer.keys = [{**one, "kid": f"k{number}"} for number in range(100)]
    site = Site(issuer)
    assert await site.user(by("k63")) == "ann"
    with pytest.raises(EverywireError):
        await site.user(by("k64"))


async def test_the_address_is_never_taken_from_a_token(issuer: Issuer) -> None:
    # CVE-2026-32301: whoever forges tokens would choose whom we ask.
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer)
    evil = "http://127.0.0.1:1/evil"
    headers = {"kid": "k1", "jku": evil, "x5u": evil}
    text = token(private_key("ES384"), "ES384", headers, sub="admin", iss=evil, aud=evil)
    assert isinstance(await site.refusal(text), InvalidToken)
    assert len(issuer.asked) == 1
    assert site.jwks.url == issuer.url


async def test_keys_of_two_issuers_are_never_mixed_up(issuer: Issuer) -> None:
    # CVE-2026-49998: a cache by the key's name alone lets one tenant's tokens in at another's.
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    other = Issuer()
    other.keys = [public_jwk(private_key("ES384"), "ES384", kid="k1")]
    server = await asyncio.start_server(other.answer, "127.0.0.1", 0)
    other.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    ours, theirs = Site(issuer), Site(other)
    assert await ours.user(by("k1")) == "ann"
    assert await theirs.user(by("k1", "ES384")) == "ann"
    assert isinstance(await ours.refusal(by("k1", "ES384")), InvalidToken)
    assert isinstance(await theirs.refusal(by("k1")), InvalidToken)
    server.close()
    await server.wait_closed()


async def test_a_secret_beside_it_is_for_its_own_tokens(issuer: Issuer) -> None:
    issuer.keys = [public_jwk(private_key("ES256"), "ES256", kid="k1")]
    site = Site(issuer, secret=SECRET, public_keys=[public_pem(private_key("EdDSA"))])
    assert await site.user(token(sub="ann")) == "ann"
    assert await site.user(by(None, "EdDSA")) == "ann"
    assert issuer.asked == []
    assert await site.user(by("k1")) == "ann"


async def test_closing_ends_a_fetch(issuer: Issuer) -> None:
    issuer.gate.clear()
    site = Site(issuer)
    asking = asyncio.ensure_future(site.user(by("k1")))
    await turns()
    await site.tokens.close()
    with pytest.raises((asyncio.CancelledError, EverywireError)):
        await asking
    assert len([task for task in asyncio.all_tasks() if task.get_name() == "jwks"]) == 0


@pytest.mark.parametrize("url", ["", "keys", "file:///etc/passwd", "ftp://a/b", "https://"])
def test_an_address_that_is_none_is_an_error_at_the_start(url: str) -> None:
    with pytest.raises(SettingsError):
        Jwks(url)
