"""The tables of Socket.IO and SockJS, from the file to the server that is made of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from everywire import SocketSettings
from everywire.cli.serve import make_application
from everywire.core.errors import SettingsError
from everywire.server.settings_sources import load_settings
from tests.serving import serving_wire


def loaded(text: str, folder: Path):
    path = folder / "everywire.toml"
    path.write_text(text, "utf-8")
    return load_settings(str(path))


def test_the_defaults_are_those_of_the_inner_layer() -> None:
    assert load_settings().socketio.settings() == SocketSettings()


def test_every_setting_arrives(tmp_path: Path) -> None:
    settings = loaded(
        """
        [socketio]
        recovery_window_s = 0
        connect_timeout_s = 1.5
        ping_interval_s = 2
        ping_timeout_s = 3
        max_payload = 4
        parser = "msgpack"
        """,
        tmp_path,
    )
    assert settings.socketio.settings() == SocketSettings(
        recovery_window_s=0, connect_timeout_s=1.5, ping_interval_s=2, ping_timeout_s=3, max_payload=4,
        parser="msgpack",
    )  # fmt: skip
    assert load_settings(None, {"EVERYWIRE_SOCKETIO__ENABLED": "false"}).socketio.settings() is None


@pytest.mark.parametrize(
    "text",
    [
        "[socketio]\nping_interval_s = 0",
        "[socketio]\nping_timeout_s = inf",
        "[socketio]\nrecovery_window_s = -1",
        "[socketio]\nmax_payload = 0",
        '[socketio]\nparser = "xml"',
        "[socketio]\nunknown = 1",
        '[sockjs]\nprefix = "sockjs"',
        '[sockjs]\nprefix = "/"',
    ],
)
def test_what_cannot_be_is_told_by_its_key(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(text, tmp_path)
    assert text.splitlines()[0].strip("[]") in caught.value.sentence


async def test_the_server_is_as_it_was_set(tmp_path: Path) -> None:
    text = """
        dev = true
        [socketio]
        ping_interval_s = 7
        [sockjs]
        prefix = "/a/b"
        client_url = "/own.js"
        """
    async with serving_wire("own", make_application(loaded(text, tmp_path)), ("", "")) as site:
        opened = (await site.http.get("/socket.io/?EIO=4&transport=polling")).text
        assert '"pingInterval":7000' in opened
        assert (await site.http.get("/a/b/info")).status_code == 200
        assert '<script src="/own.js">' in (await site.http.get("/a/b/iframe.html")).text
        assert (await site.http.get("/sockjs/info")).status_code == 404
    text = "dev = true\n[socketio]\nenabled = false\n[sockjs]\nenabled = false"
    async with serving_wire("own", make_application(loaded(text, tmp_path)), ("", "")) as site:
        assert (await site.http.get("/socket.io/?EIO=4&transport=polling")).status_code == 404
        assert (await site.http.get("/sockjs/info")).status_code == 404
