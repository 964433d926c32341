"""Tokens: who signed them, with which key, and what they may say."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from everywire.access.identity import Action, Identity, Terms
from everywire.access.tokens import SubscriptionToken, Tokens, unverified
from everywire.core import codes
from everywire.core.errors import EverywireError, InvalidToken, SettingsError
from everywire.core.limits import Limits
from tests.access.proofs import NOW_S, SECRET, part, private_key, public_jwk, public_pem, signed, token


def tokens(**more: Any) -> Tokens:
    return Tokens(**{"secret": SECRET, "clock": lambda: NOW_S, **more})


def verify(text: str, **more: Any) -> Identity:
    identity = tokens(**more).verify_nowait(text)
    assert identity is not None
    return identity


def refused(text: str, **more: Any) -> EverywireError:
    with pytest.raises(EverywireError) as caught:
        tokens(**more).verify_nowait(text)
    assert text not in caught.value.sentence, "a credential is not echoed"
    return caught.value


def broken(text: str, **more: Any) -> str:
    error = refused(text, **more)
    assert isinstance(error, InvalidToken)
    assert error.code is codes.UNAUTHORIZED
    return error.sentence


# -- keys and algorithms -------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_shared_secret_signs(algorithm: str) -> None:
    assert verify(token(algorithm=algorithm, sub="ann")).user == "ann"
    assert verify(token(algorithm=algorithm, sub="ann"), secret=SECRET.encode()).user == "ann"
    broken(token(SECRET + "!", algorithm, sub="ann"))


@pytest.mark.parametrize("algorithm", ["RS256", "RS384", "RS512", "ES256", "ES384", "ES512", "EdDSA"])
def test_a_public_key_verifies(algorithm: str) -> None:
    key = private_key(algorithm)
    others = [public_pem(private_key("ES256")), public_pem(private_key("RS256")), public_pem(key)]
    text = token(key, algorithm, sub="ann")
    assert verify(text, secret="", public_keys=others).user == "ann"
    broken(text)
    stranger = rsa.generate_private_key(65537, 2048) if algorithm.startswith("RS") else None
    if stranger is not None:
        broken(token(stranger, algorithm, sub="ann"), public_keys=others)


def test_a_certificate_is_a_public_key() -> None:
    key = private_key("RS256")
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "issuer")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2040, 1, 1, tzinfo=UTC))
        .sign(key, SHA256())
    )
    pem = certificate.public_bytes(Encoding.PEM).decode()
    assert verify(token(key, "RS256", sub="ann"), secret="", public_keys=[pem]).user == "ann"


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_a_public_key_is_no_secret(kind: str, algorithm: str) -> None:
    # CVE-2022-29217 and its kind: everybody knows the public key, so nobody may sign with it.
    pem = public_pem(private_key(kind))
    for secret in (pem, pem.strip(), pem.replace("\n", "")):
        forged = signed({"alg": algorithm, "typ": "JWT"}, {"sub": "admin"}, secret.encode(), algorithm)
        broken(forged, secret="", public_keys=[pem])
        broken(forged, public_keys=[pem])


def test_the_token_does_not_choose_the_kind_of_its_key() -> None:
    pem = public_pem(private_key("RS256"))
    for header in ({"alg": "PS256"}, {"alg": "ES256"}, {"alg": "RS1"}, {"alg": "hs256"}, {"alg": "HS256 "}):
        data = f"{part(header)}.{part({'sub': 'admin'})}"
        broken(f"{data}.{part(b'x' * 256)}", public_keys=[pem])
    key = private_key("RS256")
    pss = jwt.encode({"sub": "ann"}, key, "PS256")
    broken(pss, secret="", public_keys=[pem])


@pytest.mark.parametrize("name", ["none", "None", "NONE", "nOnE", ""])
def test_a_token_that_nobody_signed_is_none(name: str) -> None:
    for signature in ("", part(b""), part(b"x")):
        broken(f"{part({'alg': name})}.{part({'sub': 'admin'})}.{signature}")


def test_keys_in_the_header_are_not_looked_at() -> None:
    stranger = private_key("ES256")
    headers = {
        "jwk": public_jwk(stranger, "ES256"),
        "jku": "https://evil.example/keys",
        "x5u": "https://evil.example",
    }
    broken(token(stranger, "ES256", headers, sub="admin"), public_keys=[public_pem(private_key("RS256"))])


@pytest.mark.parametrize("extension", [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"b64": True}])
def test_extensions_that_must_be_understood_are_refused(extension: dict[str, Any]) -> None:
    assert "extensions" in broken(signed({"alg": "HS256", **extension}, {"sub": "ann"}))


@pytest.mark.parametrize(
    "secret",
    ["short", "x" * 31, public_pem(private_key("RS256")), json.dumps({"kty": "oct", "k": "x" * 40})],
)
def test_what_is_no_secret_is_an_error_at_the_start(secret: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Tokens(secret=secret)
    assert secret not in caught.value.sentence


def bad_pems() -> list[str]:
    small = rsa.generate_private_key(65537, 1024)
    private = private_key("RS256").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return ["", "text", public_pem(small), private, public_pem(private_key("ES256K"))]


@pytest.mark.parametrize("pem", bad_pems(), ids=["empty", "text", "small", "private", "curve"])
def test_a_key_that_cannot_be_used_is_an_error_at_the_start(pem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Tokens(public_keys=[pem])
    assert not pem or pem not in caught.value.sentence


# -- the form ------------------------------------------------------------------------


def shapes() -> list[str]:
    good = token(sub="ann")
    head, payload, signature = good.split(".")
    return [
        "",
        "ann",
        "a.b",
        "a.b.c",
        "..",
        f"{head}.{payload}",
        f"{head}.{payload}.",
        f".{payload}.{signature}",
        f"{good}.x",
        f"{good} ",
        f" {good}",
        f"{good}\n",
        f"{good}=",
        f"{head}=.{payload}.{signature}",
        f"{head}.{payload}.{signature}!",
        f"{head}.{payload[:-1]}.{signature}",
        f"{head}.{part({'sub': 'admin'})}.{signature}",
        f"{part([])}.{payload}.{signature}",
        f"{part({'alg': 5})}.{payload}.{signature}",
        f"{part(b'[' * 9000)}.{payload}.{signature}",
        f"{head}.{payload}.{signature[:-4]}",
        good + "é",
    ]


@pytest.mark.parametrize("text", shapes())
def test_what_is_no_token_proves_nobody(text: str) -> None:
    with pytest.raises(InvalidToken):
        tokens().verify_nowait(text)


@given(st.binary(max_size=200), st.binary(max_size=200), st.binary(max_size=80))
def test_nothing_but_an_invalid_token_comes_of_noise(head: bytes, payload: bytes, signature: bytes) -> None:
    keys = tokens(public_keys=[public_pem(private_key(kind)) for kind in ("RS256", "ES256", "EdDSA")])
    for text in (
        f"{part(head)}.{part(payload)}.{part(signature)}",
        *(f"{part({'alg': name})}.{part(payload)}.{part(signature)}" for name in ("RS256", "ES256", "EdDSA")),
        head.decode("latin-1"),
    ):
        with pytest.raises(InvalidToken):
            keys.verify_nowait(text)


@given(
    st.binary(max_size=300) | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)
)
def test_what_a_signed_token_says_may_be_anything(payload: Any) -> None:
    with pytest.raises(InvalidToken):
        tokens().verify_nowait(signed({"alg": "HS256"}, payload))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"sub":"a","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
        b'{"sub":"a","x":' + b"9" * 9_000 + b"}",
        b'{"x":"\xff"}',
    ],
)
def test_hostile_json_is_refused(payload: bytes) -> None:
    broken(signed({"alg": "HS256"}, payload))


def test_a_token_has_a_largest_size() -> None:
    limits = Limits(max_token_bytes=200)
    assert verify(token(sub="ann"), limits=limits).user == "ann"
    assert "200" in broken(token(sub="ann", x="y" * 200), limits=limits)
    broken("x" * 10_000_000)


# -- what it claims ------------------------------------------------------------------


def test_an_expired_token_has_a_code_of_its_own() -> None:
    assert refused(token(sub="ann", exp=NOW_S)).code is codes.TOKEN_EXPIRED
    assert refused(token(sub="ann", exp=1)).code is codes.TOKEN_EXPIRED
    identity = verify(token(sub="ann", exp=NOW_S + 1))
    assert identity.expires_s == NOW_S + 1
    assert verify(token(sub="ann")).expires_s is None
    # Who did not sign it does not hear more of it than that.
    broken(token(SECRET + "!", sub="ann", exp=1))


def test_the_end_of_the_connection_may_be_another_than_the_tokens() -> None:
    assert verify(token(sub="ann", exp=NOW_S + 5, expire_at=NOW_S + 900)).expires_s == NOW_S + 900
    assert verify(token(sub="ann", exp=NOW_S + 5, expire_at=0)).expires_s is None
    assert refused(token(sub="ann", exp=NOW_S + 5, expire_at=NOW_S - 1)).code is codes.TOKEN_EXPIRED
    assert refused(token(sub="ann", exp=NOW_S, expire_at=0)).code is codes.TOKEN_EXPIRED


@pytest.mark.parametrize("claim", ["nbf", "iat"])
def test_a_token_of_the_future_is_refused(claim: str) -> None:
    assert verify(token(sub="ann", **{claim: NOW_S + 5})).user == "ann"
    assert "not valid yet" in broken(token(sub="ann", **{claim: NOW_S + 6}))


@pytest.mark.parametrize(
    ("said", "is_good"),
    [("us", True), (["them", "us"], True), ("them", False), ([], False), (None, False), ("u", False)],
)
def test_the_audience_is_checked_if_one_is_set(said: Any, is_good: bool) -> None:
    text = token(sub="ann") if said is None else token(sub="ann", aud=said)
    assert verify(text).user == "ann"
    if is_good:
        assert verify(text, audience="us").user == "ann"
    else:
        assert "aud" in broken(text, audience="us")


def test_the_issuer_is_checked_if_one_is_set() -> None:
    assert verify(token(sub="ann", iss="us"), issuer="us").user == "ann"
    assert verify(token(sub="ann", iss="them")).user == "ann"
    for text in (token(sub="ann", iss="them"), token(sub="ann"), token(sub="ann", iss="us/")):
        assert "iss" in broken(text, issuer="us")


@pytest.mark.parametrize(
    "claims",
    [
        {"sub": 42},
        {"sub": ["ann"]},
        {"sub": True},
        {"sub": "a" * 256},
        {"sub": "ann", "exp": "soon"},
        {"sub": "ann", "exp": True},
        {"sub": "ann", "exp": [1]},
        {"sub": "ann", "iat": "1"},
        {"sub": "ann", "jti": 1},
        {"sub": "ann", "aud": 1},
        {"sub": "ann", "channels": "news"},
        {"sub": "ann", "channels": [1]},
        {"sub": "ann", "channels": ["a b"]},
        {"sub": "ann", "channels": ["*"]},
        {"sub": "ann", "channels": [f"c{n}" for n in range(129)]},
        {"sub": "ann", "subs": ["a"]},
        {"sub": "ann", "subs": {"a,b": {}}},
        {"sub": "ann", "subs": {"a": {"b64info": "no JSON"}}},
        {"sub": "ann", "b64info": base64.b64encode(b"{").decode()},
        {"sub": "ann", "b64info": "{}"},
        {"sub": "ann", "read": "news"},
        {"sub": "ann", "read": [1]},
        {"sub": "ann", "read": ["a b"]},
        {"sub": "ann", "read": [""]},
        {"sub": "ann", "read": ["inbox:{user}"]},
        {"sub": "ann", "publish": ["a"] * 129},
        {"sub": "ann", "channel": "news"},
        {"sub": "ann", "channel": ""},
    ],
)
def test_claims_of_the_wrong_kind_are_refused(claims: dict[str, Any]) -> None:
    broken(signed({"alg": "HS256"}, claims))


def test_all_that_a_token_may_say() -> None:
    claims = {
        "sub": "ann",
        "exp": NOW_S + 60,
        "iat": NOW_S - 60,
        "jti": "t1",
        "info": {"name": "Ann", "of": [1, 2]},
        "meta": {"role": "x"},
        "channels": ["news", "inbox:ann"],
        "subs": {
            "room": {
                "info": {"seat": 1},
                "data": [1, None],
                "override": {"join_leave": {"value": True}, "presence": {"value": False}},
            },
            "news": {
                "b64info": base64.b64encode(b'"x"').decode(),
                "b64data": base64.b64encode(b" 5 ").decode(),
            },
        },
        "read": ["chat.*"],
        "publish": ["chat.1"],
        "presence": [],
        "colour": "red",
    }
    identity = verify(token(**claims))
    assert (identity.user, identity.kind, identity.token_id) == ("ann", "token", "t1")
    assert (identity.issued_s, identity.expires_s) == (NOW_S - 60, NOW_S + 60)
    assert identity.info == b'{"name":"Ann","of":[1,2]}'
    assert identity.channels == ("news", "inbox:ann", "room")
    assert identity.terms == {
        "room": Terms(info=b'{"seat":1}', data=b"[1,null]", join_leave=True),
        "news": Terms(info=b'"x"', data=b"5"),
    }
    assert identity.grants == {Action.READ: ("chat.*",), Action.PUBLISH: ("chat.1",), Action.PRESENCE: ()}
    assert identity.claims == claims
    assert not identity.may_all


def test_nothing_that_is_said_can_break_a_line() -> None:
    payload = b'{"sub":"ann","info":{\n"a"\r\n: 1},"subs":{"a":{"data":[1,\n2]}}}'
    identity = verify(signed({"alg": "HS256"}, payload))
    assert identity.info == b'{"a":1}'
    assert identity.terms["a"].data == b"[1,2]"


def test_a_token_without_a_user_is_of_somebody_without_a_name() -> None:
    for text in (token(), token(sub=""), signed({"alg": "HS256"}, {"sub": None})):
        assert verify(text).user == ""
        assert verify(text).kind == "token"


def test_the_claims_that_grant_are_named_by_the_settings() -> None:
    text = token(sub="ann", read=["a"], may_read=["b"])
    assert verify(text, grant_claims={}).grants == {}
    assert verify(text, grant_claims={Action.READ: "may_read"}).grants == {Action.READ: ("b",)}
    assert verify(token(sub="ann", read=True), grant_claims={}).user == "ann"


def test_two_tokens_of_one_user_are_two_credentials() -> None:
    one, other = token(sub="ann", jti="1"), token(sub="ann", jti="2")
    assert verify(one).key == verify(one).key
    assert verify(one).key != verify(other).key


# -- subscription tokens ---------------------------------------------------------------


def test_a_subscription_token() -> None:
    text = token(
        sub="ann",
        channel="room",
        client="c1",
        info={"seat": 1},
        b64data=base64.b64encode(b"[1]").decode(),
        exp=NOW_S + 9,
        iat=NOW_S,
        jti="s1",
        override={"join_leave": {"value": False}},
    )
    assert tokens().subscription_nowait(text) == SubscriptionToken(
        user="ann",
        channel="room",
        client="c1",
        expires_s=NOW_S + 9,
        info=b'{"seat":1}',
        data=b"[1]",
        join_leave=False,
        token_id="s1",
        issued_s=NOW_S,
    )
    assert "subscription token" in broken(text)


@pytest.mark.parametrize("claims", [{}, {"channel": ""}, {"channel": None}, {"channel": 5}])
def test_a_connection_token_opens_no_channel(claims: dict[str, Any]) -> None:
    with pytest.raises(InvalidToken):
        tokens().subscription_nowait(signed({"alg": "HS256"}, {"sub": "ann", **claims}))


def test_a_subscription_token_expires() -> None:
    with pytest.raises(EverywireError) as caught:
        tokens().subscription_nowait(token(sub="ann", channel="room", exp=NOW_S - 1))
    assert caught.value.code is codes.TOKEN_EXPIRED


# -- development -----------------------------------------------------------------------


def test_an_unverified_token_says_who_one_is_and_opens_nothing() -> None:
    identity = unverified(token("x" * 40, sub="ann", info={"a": 1}, read=["*"], exp=5), Limits())
    assert (identity.user, identity.info, identity.expires_s) == ("ann", b'{"a":1}', 5)
    assert identity.grants == {}
    assert not identity.may_all
    with pytest.raises(InvalidToken):
        unverified("ann", Limits())
