"""Settings: three sources in their order, and errors that say where and what."""

from __future__ import annotations

from pathlib import Path

import pytest

from everywire.access.identity import NOBODY, Action
from everywire.access.rules import Rules
from everywire.core.errors import Forbidden, SettingsError
from everywire.core.limits import Limits
from everywire.core.settings import SlowReader
from everywire.server.settings import Listen, Settings
from everywire.server.settings_sources import Flag, load_settings


@pytest.fixture
def toml(tmp_path: Path):
    """Write a TOML file and return its path."""

    def write(text: str) -> str:
        path = tmp_path / "everywire.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refused(config: str | None = None, flags: tuple[Flag, ...] = (), **environ: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(config, environ, flags)
    return caught.value.sentence


def test_without_any_source_the_defaults_stand() -> None:
    settings = load_settings()
    assert settings == Settings()
    assert settings.listen == (Listen(host="127.0.0.1", port=8000),)
    assert settings.limits == Limits()
    assert not settings.dev
    assert settings.drain_s == 10
    assert not settings.rules.read and not settings.rules.publish and not settings.rules.api_keys


def test_environment_wins_over_file_and_flag_over_both(toml) -> None:
    config = toml("drain_s = 1\n[limits]\nmax_headers = 11\nmax_tags = 12\n[[listen]]\nport = 1001\n")
    environ = {"EVERYWIRE_DRAIN_S": "2", "EVERYWIRE_LIMITS__MAX_HEADERS": "22"}
    settings = load_settings(config, environ, [Flag("--port", ("listen", 0, "port"), 3003)])
    assert settings.drain_s == 2
    assert settings.limits.max_headers == 22
    assert settings.limits.max_tags == 12
    assert settings.limits.max_body_bytes == Limits().max_body_bytes
    assert settings.listen[0].port == 3003


def test_foreign_variables_are_left_alone() -> None:
    assert load_settings(None, {"PATH": "/bin", "EVERYWIRE_SUITES": "/suites"}) == Settings()


def test_a_list_in_the_environment_is_json_or_separated_by_commas() -> None:
    by_commas = load_settings(None, {"EVERYWIRE_RULES__READ": "chat.*, news"})
    as_json = load_settings(None, {"EVERYWIRE_RULES__READ": '["chat.*", "news"]'})
    assert by_commas.rules.read == as_json.rules.read == ("chat.*", "news")


def test_an_entry_of_a_list_in_the_file_can_be_changed_from_outside(toml) -> None:
    config = toml('[rules]\nread = ["a", "b"]\n[[listen]]\nport = 1\n[[listen]]\nunix = "/run/e.sock"\n')
    environ = {"EVERYWIRE_RULES__READ__1": "c", "EVERYWIRE_LISTEN__1__UNIX": "/run/f.sock"}
    settings = load_settings(config, environ)
    assert settings.rules.read == ("a", "c")
    assert [listen.unix for listen in settings.listen] == ["", "/run/f.sock"]


def test_text_stays_text_though_it_looks_like_a_number() -> None:
    settings = load_settings(None, {"EVERYWIRE_RULES__API_KEYS__0": "12345678", "EVERYWIRE_LOG__FILE": "7"})
    assert settings.rules.named_keys() == {"key-1": "12345678"}
    assert settings.log.file == "7"


def test_channel_rows_become_the_table_of_the_core(toml) -> None:
    config = toml(
        '[[channels]]\npattern = "chat.*"\nslow_reader = "latest"\nwindow = {max_publications = 5}\n'
        '[[channels]]\npattern = "*"\nheartbeat_s = 3\n'
    )
    table = load_settings(config).settings_table()
    assert table.of("chat.1").slow_reader is SlowReader.LATEST
    assert table.of("chat.1").window.max_publications == 5
    assert table.of("chat.1").heartbeat_s == 20
    assert table.of("other").heartbeat_s == 3


@pytest.mark.parametrize(
    ("text", "where", "what"),
    [
        ("drain = 1", "drain", "did you mean drain_s?"),
        ("frobnicate = 1", "frobnicate", "expected one of advertise, broker, channels"),
        ("[limits]\nmax_headers = 'many'", "limits.max_headers", "expected an integer, got text"),
        ("[limits]\nmax_headers = 0", "limits.max_headers", "expected a number above 0"),
        ("[limits]\nhead_timeout_s = inf", "limits.head_timeout_s", "expected a number above 0"),
        ("drain_s = nan", "drain_s", "expected"),
        ("[[listen]]\nport = 70000", "listen[0].port", "expected an integer <= 65535"),
        ("[[listen]]\ntls_key = 'k.pem'", "listen[0].tls_key", "expected tls_cert beside tls_key"),
        ("[[listen]]\ntls_cert = '/no/such.pem'", "listen[0].tls_cert", "expected a PEM file"),
        ("listen = []", "listen", "expected at least one listener"),
        ("dev = true\n[[listen]]\nhost = '0.0.0.0'", "listen[0].host", "expected a loopback address"),
        ("[[channels]]\nslow_reader = 'gap'", "channels[0]", "missing required field `pattern`"),
        ("[[channels]]\npattern = 'a b'", "channels[0].pattern", "expected a channel name"),
        ("[[channels]]\npattern = 'a'\nslow_reader = 'no'", "channels[0].slow_reader", "one of gap, latest"),
        ("[rules]\nread = ['ok', 'a,b']", "rules.read[1]", "expected a channel name"),
        ("[rules]\napi_keys = ['short']", "rules.api_keys[0]", "length >= 8"),
        (
            "[rules]\napi_keys = [{name = 'a', key = '12345678'}, {name = 'a', key = '23456789'}]",
            "rules.api_keys",
            "another name",
        ),
        ("[origins]\nallowed_origins = ['example.com']", "origins.allowed_origins[0]", "https://example.com"),
        (
            "[origins]\nallowed_origins = ['*']\nallow_credentials = true",
            "origins.allowed_origins[0]",
            "by name",
        ),
        ("workers = 0", "workers", "expected an integer >= 1"),
        ("workers = 2\nbroker = 'memory:'", "broker", "that several workers can share"),
        ("advertise = 'node-1'", "advertise", "HOST:PORT"),
        ("trusted_proxies = ['nearby']", "trusted_proxies[0]", "10.0.0.0/8"),
        ("[websocket]\nwindow_bits = 8", "websocket.window_bits", "expected an integer >= 9"),
        ("[log]\nlevel = 'loud'", "log.level", "expected one of debug, info, warning, error"),
    ],
)
def test_a_wrong_value_in_the_file_is_named(toml, text: str, where: str, what: str) -> None:
    config = toml(text)
    sentence = refused(config)
    assert sentence.startswith(f"{config}: {where}: "), sentence
    assert what in sentence


def test_a_broker_is_never_shown() -> None:
    settings = load_settings(environ={"EVERYWIRE_BROKER": "redis://:sesame@h/0", "EVERYWIRE_WORKERS": "4"})
    assert (settings.broker, settings.workers) == ("redis://:sesame@h/0", 4)
    assert "sesame" not in repr(settings)


def test_a_wrong_variable_is_named() -> None:
    sentence = refused(EVERYWIRE_LISTEN__0__PORT="eighty")
    assert sentence == "EVERYWIRE_LISTEN__0__PORT: expected an integer, got text"


def test_a_variable_that_skips_an_entry_is_named() -> None:
    assert refused(EVERYWIRE_LISTEN__3__PORT="1").startswith(
        "EVERYWIRE_LISTEN__3__PORT: expected the entries"
    )
    assert refused(EVERYWIRE_LISTEN__99999__PORT="1").startswith(
        "EVERYWIRE_LISTEN__99999__PORT: expected an index"
    )


def test_a_wrong_flag_is_named_though_file_and_variable_are_right(toml) -> None:
    config = toml("[[listen]]\nport = 1\n")
    sentence = refused(config, (Flag("--port", ("listen", 0, "port"), -1),), EVERYWIRE_LISTEN__0__PORT="2")
    assert sentence == "--port: expected an integer >= 0"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, toml) -> None:
    missing = str(tmp_path / "none.toml")
    assert refused(missing).startswith(f"{missing}: expected a readable TOML file")
    assert "line 1" in refused(toml("listen = = 3"))


def test_rules_become_the_rules_of_the_hub() -> None:
    environ = {"EVERYWIRE_RULES__READ": "news.*", "EVERYWIRE_RULES__API_KEYS": "sesame-sesame"}
    settings = load_settings(None, environ)
    rules = Rules(api_keys=settings.rules.named_keys(), public=settings.public_patterns())
    rules.check(NOBODY, Action.READ, ["news.1"])
    with pytest.raises(Forbidden):
        rules.check(NOBODY, Action.PUBLISH, ["news.1"])
    rules.check(rules.identify("sesame-sesame"), Action.PUBLISH, ["news.1"])


def test_the_host_is_told_what_was_set(toml) -> None:
    config = toml(
        'drain_s = 3\ntrusted_proxies = ["unix", "10.0.0.0/8"]\n'
        "[websocket]\ncompression = true\nwindow_bits = 11\n"
        '[limits]\nmax_headers = 7\n[[listen]]\nhost = "::1"\nport = 0\n[[listen]]\nunix = "/run/e.sock"\n'
        '[log]\nlevel = "warning"\n'
    )
    options = load_settings(config).server_options(5)
    assert [str(address) for address in options.listen] == ["[::1]:0", "unix:/run/e.sock"]
    assert (options.drain_s, options.limits.max_headers, options.log_fd) == (3, 7, 5)
    assert (options.log_level, options.trusted_proxies) == ("warning", ("unix", "10.0.0.0/8"))
    assert options.deflate is not None and options.deflate.max_window_bits == 11
    assert load_settings().server_options(2).deflate is None


def test_no_secret_is_written_anywhere(toml) -> None:
    config = toml('[rules]\napi_keys = ["hunter2-hunter2", {name = "app", key = "hunter2-again"}]\n')
    settings = load_settings(config)
    assert settings.rules.named_keys() == {"key-1": "hunter2-hunter2", "app": "hunter2-again"}
    assert "hunter2" not in repr(settings) + repr(settings.rules.api_keys[1]) + str(settings.rules)
    assert "hunter2" not in refused(config, EVERYWIRE_RULES__API_KEYS="hunter2")
    assert "hunter2" not in refused(
        None, EVERYWIRE_RULES__API_KEYS='[{"key": "hunter2-long", "nam": "hunter2"}]'
    )


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.0.2.1", False),
        ("example.com", False),
    ],
)
def test_dev_is_for_loopback_only(host: str, is_loopback: bool) -> None:
    flags = [Flag("--dev", ("dev",), True), Flag("--host", ("listen", 0, "host"), host)]
    if is_loopback:
        assert load_settings(flags=flags).dev
    else:
        with pytest.raises(SettingsError, match=r"^--host: expected a loopback address"):
            load_settings(flags=flags)


SECRET = "a-secret-of-tokens-that-is-long-enough"


def test_tokens_webhooks_and_rules_of_users_are_read(toml) -> None:
    config = toml(
        f'[tokens]\nsecret = "{SECRET}"\naudience = "site"\ncookie = "session"\nread_claim = "may_read"\n'
        '[webhooks]\nconnect = "http://127.0.0.1:9/connect"\nheaders = ["Cookie"]\nsecret = "signs it"\n'
        '[rules]\nuser_read = ["inbox:{user}", "chat:*"]\n'
    )
    settings = load_settings(config)
    assert settings.user_patterns()[Action.READ] == ("inbox:{user}", "chat:*")
    assert settings.tokens.verifier(settings.limits) is not None
    asked = settings.webhooks.settings()
    assert asked.urls == {"connect": "http://127.0.0.1:9/connect"} and asked.headers == ("cookie",)
    assert Settings().tokens.verifier(Limits()) is None
    assert Settings().webhooks.settings().urls == {}


def test_no_secret_is_shown(toml) -> None:
    settings = load_settings(
        toml(
            f'[tokens]\nsecret = "{SECRET}"\n[webhooks]\nsecret = "signs-each-question"\n'
            'static_headers = ["X-Key: the-static-key"]\nconnect = "https://ann:the-password@example.com/"\n'
        )
    )
    shown = repr(settings) + repr(settings.webhooks.settings()) + str(settings.webhooks)
    for secret in (SECRET, "signs-each-question", "the-static-key", "the-password"):
        assert secret not in shown
    assert settings.webhooks.settings().static_headers == {"x-key": "the-static-key"}


def test_secrets_come_from_the_environment_too() -> None:
    environ = {
        "EVERYWIRE_TOKENS__SECRET": SECRET,
        "EVERYWIRE_WEBHOOKS__SECRET": "1234",
        "EVERYWIRE_WEBHOOKS__CONNECT": "http://127.0.0.1:9/",
        "EVERYWIRE_WEBHOOKS__STATIC_HEADERS__0": "X-Key: a,b",
        "EVERYWIRE_LIMITS__PUBLISH_RATE_PER_USER": "0",
    }
    settings = load_settings(None, environ)
    assert settings.tokens.secret == SECRET and settings.limits.publish_rate_per_user == 0
    asked = settings.webhooks.settings()
    assert (asked.secret, asked.static_headers) == ("1234", {"x-key": "a,b"})


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ('[tokens]\nsecret = "short"', "tokens"),
        ('[tokens]\npublic_keys = ["no key"]', "tokens"),
        ('[tokens]\npublic_key_files = ["/nowhere/key.pem"]', "tokens.public_key_files"),
        ('[tokens]\njwks_url = "ftp://example.com"', "tokens"),
        ('[webhooks]\nsubscribe = "example.com/hook"', "webhooks.subscribe"),
        ('[webhooks]\nrpc = "http://"', "webhooks.rpc"),
        ('[webhooks]\nrpc = "http://[::1"', "webhooks.rpc"),
        ('[webhooks]\nrpc = "http://example.com:port/"', "webhooks.rpc"),
        ("[webhooks]\ntimeout_s = 0", "webhooks.timeout_s"),
        ("[webhooks]\ntimeout_s = nan", "webhooks.timeout_s"),
        ("[webhooks]\nmax_asked = 0", "webhooks.max_asked"),
        ('[webhooks]\nheaders = ["Content-Length"]', "webhooks"),
        ('[webhooks]\nheaders = ["not one"]', "webhooks"),
        ('[webhooks]\nstatic_headers = ["X-Key short"]', "webhooks.static_headers[0]"),
        ('[webhooks]\nstatic_headers = ["X-Key: sho\\nrt"]', "webhooks"),
        ('[webhooks]\nconect = "http://example.com"', "webhooks.conect"),
        ("[limits]\npublish_rate_per_user = -1", "limits.publish_rate_per_user"),
        ("[limits]\npublish_rate_per_user = nan", "limits.publish_rate_per_user"),
        ("[limits]\npublish_burst_per_user = 0", "limits.publish_burst_per_user"),
        ('[rules]\nuser_publish = ["chat:{user}*"]', "rules.user_publish"),
    ],
)
def test_wrong_credentials_settings_are_told_by_their_key(toml, text: str, where: str) -> None:
    sentence = refused(toml(text))
    assert where in sentence and "short" not in sentence.replace("shorter", "")
