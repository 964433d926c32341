"""`everywire token`: what it prints is what the server takes, and nothing else is printed."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import pytest

from everywire.access.identity import Action, Identity
from everywire.access.tokens import Tokens
from everywire.cli import token
from everywire.cli.main import main
from everywire.core.limits import Limits
from everywire.server.settings_sources import load_settings
from tests.cli.commands import everywire

SECRET = "a secret of the tests, which is long enough"


def made(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["token", "--secret", SECRET, *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("\n") == 1
    return out.strip()


def identity(text: str) -> Identity:
    found = Tokens(secret=SECRET).verify_nowait(text)
    assert found is not None
    return found


def test_a_connection_token(capsys: pytest.CaptureFixture[str]) -> None:
    before_s = int(time.time())
    ann = identity(made(capsys, "--user", "ann"))
    after_s = time.time()
    assert (ann.user, ann.channels, ann.grants, ann.info) == ("ann", (), {}, None)
    assert ann.expires_s is not None
    assert before_s + 3_600 <= ann.expires_s <= after_s + 3_600
    assert ann.issued_s is not None
    assert before_s <= ann.issued_s <= after_s
    assert ann.token_id, "so that it can be revoked"
    assert ann.token_id != identity(made(capsys, "--user", "ann")).token_id


def test_all_that_can_be_said(capsys: pytest.CaptureFixture[str]) -> None:
    ann = identity(
        made(
            capsys,
            *("--user", "ann", "--info", '{"name": "Ann"}', "--id", "t1", "--expires", "never"),
            *("--subscribe", "news", "--subscribe", "inbox:ann", "--read", "chat.*", "--publish", "chat.1"),
            *("--publish", "chat.2", "--presence", "chat.*", "--audience", "us", "--issuer", "me"),
        )
    )
    assert ann.info == b'{"name":"Ann"}'
    assert (ann.token_id, ann.expires_s) == ("t1", None)
    assert ann.channels == ("news", "inbox:ann")
    assert ann.grants == {
        Action.READ: ("chat.*",),
        Action.PUBLISH: ("chat.1", "chat.2"),
        Action.PRESENCE: ("chat.*",),
    }
    assert (ann.claims["aud"], ann.claims["iss"]) == ("us", "me")


def test_a_subscription_token(capsys: pytest.CaptureFixture[str]) -> None:
    text = made(capsys, "--user", "ann", "--channel", "room", "--client", "c1", "--info", "5")
    found = Tokens(secret=SECRET).subscription_nowait(text)
    assert found is not None
    assert (found.user, found.channel, found.client, found.info) == ("ann", "room", "c1", b"5")


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("1.5m", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800)]
)
def test_how_long_it_lasts(text: str, seconds: float, capsys: pytest.CaptureFixture[str]) -> None:
    ann = identity(made(capsys, "--expires", text))
    assert ann.expires_s is not None
    assert ann.issued_s is not None
    assert abs(ann.expires_s - ann.issued_s - seconds) <= 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--expires", "soon"], "--expires"),
        (["--expires", "0"], "--expires"),
        (["--expires", "-5"], "--expires"),
        (["--info", "{"], "--info"),
        (["--client", "c1"], "--channel"),
        (["--channel", "a", "--read", "b"], "--channel"),
        (["--channel", "a", "--subscribe", "b"], "--channel"),
        (["--channel", ""], "no channel"),
        (["--read", "a b"], "patterns"),
        (["--subscribe", "a b"], "names of channels"),
        (["--user", "x" * 256], "255"),
    ],
)
def test_what_no_server_would_take_is_not_printed(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code = main(["token", "--secret", SECRET, *arguments])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    out, err = capsys.readouterr()
    assert code == 2
    assert out == ""
    assert said in err
    assert SECRET not in err


def test_a_secret_that_is_none_signs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--secret", "short"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "32 bytes" in err
    assert "short" not in err


def test_without_a_secret_it_says_where_one_is_looked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("EVERYWIRE_TOKENS__SECRET", raising=False)
    assert main(["token", "--user", "ann"]) == 2
    assert "tokens.secret" in capsys.readouterr().err


def test_the_settings_say_what_the_server_asks_for(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "everywire.toml"
    config.write_text(
        f'[tokens]\nsecret = "{SECRET}"\naudience = "us"\nissuer = "me"\nread_claim = "may_read"\n'
    )
    assert main(["token", "--config", str(config), "--user", "ann", "--read", "a"]) == 0
    verifier = load_settings(str(config)).tokens.verifier(Limits())
    assert verifier is not None
    found = verifier.verify_nowait(capsys.readouterr().out.strip())
    assert found is not None
    assert found.grants == {Action.READ: ("a",)}
    assert main(["token", "--config", str(config), "--audience", "them"]) == 2
    assert "aud" in capsys.readouterr().err, "this server would refuse it"
    monkeypatch.setenv("EVERYWIRE_TOKENS__SECRET", SECRET)
    assert main(["token", "--user", "bob"]) == 0
    assert identity(capsys.readouterr().out.strip()).user == "bob"


async def test_as_a_process() -> None:
    done = await everywire("token", "--user", "ann", "--secret", SECRET)
    assert (done.code, done.err) == (0, "")
    assert identity(done.out.strip()).user == "ann"
    done = await everywire("token", "--user", "ann", "stray", "--secret", SECRET)
    assert done.code == 2


def test_the_command_is_in_the_parser() -> None:
    parser = argparse.ArgumentParser()
    token.add_parser(parser.add_subparsers())
    assert parser.parse_args(["token", "--user", "ann"]).run is token.run
