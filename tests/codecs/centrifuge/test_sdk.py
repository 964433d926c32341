"""What the codecs of npm's `centrifuge` write we read, and what we write they read."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everywire.codecs.centrifuge import json_form, protobuf_form
from everywire.codecs.centrifuge.messages import Command, Reply
from everywire.core.publication import Publication
from everywire.hub.interfaces import Item
from everywire.sessions import dialects
from tests.codecs.centrifuge.drawing import commands, comparable, publications, replies

BROWSER = Path(__file__).parents[2] / "browser"
OURS = frozenset({"session", "ticks", "tick", "presence_changed", "has_snapshot"})


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    if shutil.which("node") is None or not (BROWSER / "node_modules" / "centrifuge").is_dir():
        sentence = "Node and the npm packages are needed (npm install, in tests/browser)"
        if os.environ.get("CI"):
            pytest.fail(sentence)
        pytest.skip(sentence)


def codec(
    sent: Sequence[Any] = (),
    replied: Sequence[bytes] = (),
    texts: Sequence[bytes] = (),
    emulation: Any = None,
) -> Any:
    """Give all of it to the library's codecs."""
    case = {
        "commands": list(sent),
        "emulation": emulation or {},
        "replies": [base64.b64encode(data).decode() for data in replied],
        "json": [text.decode() for text in texts],
    }
    done = subprocess.run(
        ["node", str(BROWSER / "centrifuge_codec.mjs")],
        input=json.dumps(case).encode(),
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def as_object(value: Any) -> Any:
    """Return a message as the library has it: bytes marked, what is not there left out."""
    if isinstance(value, bytes):
        return {"base64": base64.b64encode(value).decode()}
    if isinstance(value, dict):
        return {name: as_object(one) for name, one in value.items() if _is_there(one)}
    if isinstance(value, list):
        return [as_object(one) for one in value]
    return value


def _is_there(value: Any) -> bool:
    return not (value is None or repr(value) == "UNSET")


def essence(value: Any) -> Any:
    """Leave out zero values, which may be written or not, and write numbers of 64 bits as numbers."""
    if isinstance(value, dict):
        if value.keys() == {"low", "high", "unsigned"}:
            return (value["high"] << 32) + (value["low"] & 0xFFFFFFFF)
        pairs = ((name, essence(one)) for name, one in value.items() if name not in OURS)
        return {name: one for name, one in pairs if one not in (0, "", False, None, [], {"base64": ""})}
    if isinstance(value, list):
        return [essence(one) for one in value]
    return value


def without_empty(value: Any) -> Any:
    """Leave out empty maps: the library makes them where there are none."""
    if isinstance(value, dict):
        pairs = ((name, without_empty(one)) for name, one in value.items())
        return {name: one for name, one in pairs if not (name in ("tags", "subs", "presence") and one == {})}
    if isinstance(value, list):
        return [without_empty(one) for one in value]
    return value


def without_ours(command: Command) -> Command:
    if command.connect is not None:
        command.connect.session = ""
        command.connect.ticks = 0
    return command


@settings(max_examples=10, deadline=None)
@given(st.lists(commands(True).map(without_ours), min_size=20, max_size=60))
def test_the_library_writes_what_we_read(sent: list[Command]) -> None:
    told = codec([as_object(comparable(command)) for command in sent])
    read = protobuf_form.decode_commands(base64.b64decode(told["commands"]), len(sent))
    assert comparable(read) == comparable(sent)


@settings(max_examples=10, deadline=None)
@given(st.lists(replies(True), min_size=20, max_size=60))
def test_the_library_reads_what_we_write(sent: list[Reply]) -> None:
    ((_, data),) = [(True, b"".join([protobuf_form.encode_reply(one) for one in sent]))]
    (told,) = codec(replied=[data])["replies"]
    expected = [as_object(comparable(one)) for one in sent]
    assert without_empty(essence(told)) == without_empty(essence(expected))


@settings(max_examples=5, deadline=None)
@given(st.lists(replies(False), min_size=1, max_size=40), st.lists(publications(), min_size=1, max_size=20))
def test_the_library_reads_messages_and_publications(sent: list[Reply], published: list[Publication]) -> None:
    items = [Item("a", one, "") for one in published]
    texts = [data for _, data in dialects.WEBSOCKET_JSON.payload(sent)]
    texts += [data for _, data in dialects.WEBSOCKET_JSON.encode(items, "")]
    stream = dialects.HTTP_STREAM_JSON.payload(sent) + dialects.HTTP_STREAM_JSON.encode(items, "")
    binary = [data for _, data in dialects.WEBSOCKET_PROTOBUF.encode(items, "")]
    told = codec(texts=[*texts, stream], replied=binary)
    joined = [one for part in told["json"][:-1] for one in part]
    assert joined == told["json"][-1]
    assert len(joined) == len(sent) + len(published)
    pushes = [one["push"]["pub"] for part in told["replies"] for one in part]
    assert [essence(one["offset"]) for one in pushes] == [one.offset for one in published]
    assert [base64.b64decode(one["data"]["base64"]) for one in pushes] == [one.data for one in published]


def test_emulation_requests_of_the_library() -> None:
    request = {"session": "s", "node": "n", "data": {"base64": base64.b64encode(b"\0\x01").decode()}}
    told = codec(emulation=request)
    assert protobuf_form.decode_emulation(base64.b64decode(told["emulation"])) == ("n", "s", b"\0\x01")
    text = json.dumps({"session": "s", "node": "n", "data": '{"id":1}'})
    assert json_form.decode_emulation(text.encode()) == ("n", "s", b'{"id":1}')
