"""Keys that verify tokens, each pinned to the algorithms that its kind is for.

RFC 7518 (JWA), RFC 8037 (EdDSA), RFC 7517 (JWK). What a token says of its algorithm only chooses among
those that a key allows, so that a public key is never taken for a shared secret (CVE-2022-29217 and its
kind). It refuses secrets under 32 bytes, RSA keys under 2,048 bits, private keys, and every curve but
P-256, P-384, P-521 and Ed25519. PyJWT does the cryptography; it and ``cryptography`` are loaded with
the first key only, because most processes have none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from everywire.core.errors import SettingsError

__all__ = ["HMAC_ALGORITHMS", "Key", "KeySource", "key_from_jwk", "key_from_pem", "key_from_secret"]

HMAC_ALGORITHMS: Final = ("HS256", "HS384", "HS512")
_RSA_ALGORITHMS: Final = ("RS256", "RS384", "RS512")
_BY_CURVE: Final = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}
_MIN_SECRET_BYTES: Final = 32
"""RFC 7518 §3.2: as many as the hash gives; we ask the 256 bits of HS256 for all three."""
_MIN_RSA_BITS: Final = 2048


class Key:
    """One key, with the algorithms that it may verify."""

    __slots__ = ("_algorithms", "_material", "kid")

    def __init__(self, material: Any, algorithms: Mapping[str, Any], kid: str = "") -> None:
        self.kid = kid
        self._material = material
        self._algorithms = algorithms

    def allows(self, algorithm: str) -> bool:
        """Whether the key is for an algorithm."""
        return algorithm in self._algorithms

    def verify(self, algorithm: str, data: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's, by an algorithm that it is for."""
        found = self._algorithms.get(algorithm)
        return found is not None and bool(found.verify(data, self._material, signature))


class KeySource(Protocol):
    """Where more public keys come from; `everywire.access.jwks.Jwks` is one."""

    def find(self, kid: str, algorithm: str) -> Sequence[Key] | None:
        """Return the keys that may have signed; None when they must be fetched first.

        Raises an error with code 100 when nobody can know now, and later may.
        """

    async def fetch(self, kid: str) -> None:
        """Fetch the keys because of one that is not known; several calls share one fetch."""

    async def close(self) -> None:
        """Stop a fetch that is under way."""


def key_from_secret(secret: bytes) -> Key:
    """Make a key of a shared secret; raise `SettingsError` when it is too short, or no secret at all."""
    import jwt

    if len(secret) < _MIN_SECRET_BYTES:
        raise SettingsError(f"the secret of tokens must have at least {_MIN_SECRET_BYTES} bytes")
    algorithms = _algorithms(HMAC_ALGORITHMS)
    try:
        # Refuses public keys, which anyone may know.
        material = algorithms["HS256"].prepare_key(secret)
    except jwt.InvalidKeyError:
        raise SettingsError("the secret of tokens is a public key or certificate: name it as such") from None
    return Key(material, algorithms)


def key_from_pem(pem: str) -> Key:
    """Make a key of a public key or certificate in PEM; raise `SettingsError` when it cannot be used."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError:
        raise _no_cryptography() from None
    data = pem.encode()
    try:
        if b"BEGIN CERTIFICATE" in data:
            return _public_key(x509.load_pem_x509_certificate(data).public_key())
        return _public_key(load_pem_public_key(data))
    except ValueError:
        raise SettingsError("a key of tokens must be a public key or certificate in PEM") from None


def key_from_jwk(jwk: Mapping[str, Any]) -> Key | None:
    """Make a key of one entry of a JWKS document; None for one that cannot be used here.

    That are shared secrets (``oct``), private keys, keys for encryption, and what is malformed.
    """
    from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
    from jwt.exceptions import PyJWTError

    kinds: dict[Any, Any] = {"RSA": RSAAlgorithm, "EC": ECAlgorithm, "OKP": OKPAlgorithm}
    kind = kinds.get(jwk.get("kty")) if isinstance(jwk.get("kty"), str) else None
    operations = jwk.get("key_ops")
    if (
        kind is None
        or jwk.get("use", "sig") != "sig"
        or (operations is not None and "verify" not in operations)
    ):
        return None
    kid, named = jwk.get("kid", ""), jwk.get("alg")
    if not isinstance(kid, str) or not isinstance(named, str | None):
        return None
    try:
        return _public_key(kind.from_jwk(json.dumps(jwk)), kid, named)
    except (SettingsError, PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _public_key(material: Any, kid: str = "", named: str | None = None) -> Key:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

    names: tuple[str, ...] = ()
    if isinstance(material, RSAPublicKey):
        if material.key_size < _MIN_RSA_BITS:
            raise SettingsError(f"an RSA key of tokens must have at least {_MIN_RSA_BITS} bits")
        names = _RSA_ALGORITHMS
    elif isinstance(material, EllipticCurvePublicKey):
        names = _BY_CURVE.get(material.curve.name, ())
    elif isinstance(material, Ed25519PublicKey):
        names = ("EdDSA",)
    if named is not None:
        names = tuple(name for name in names if name == named)
    if not names:
        raise SettingsError("a key of tokens must be RSA, P-256, P-384, P-521 or Ed25519")
    return Key(material, _algorithms(names), kid)


def _algorithms(names: Sequence[str]) -> dict[str, Any]:
    from jwt.algorithms import get_default_algorithms

    known = get_default_algorithms()
    return {name: known[name] for name in names}


def _no_cryptography() -> SettingsError:
    return SettingsError("public keys need the package cryptography: pip install 'everywire[crypto]'")
