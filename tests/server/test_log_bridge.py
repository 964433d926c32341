"""What loggers of the standard library say, in the server's log."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from typing import Any

import pytest

from everywire.server.log import Log
from everywire.server.log_bridge import LogBridge

LOGGER = logging.getLogger("everywire.access")
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhbm4ifQ.c2lnbmF0dXJl"


async def written(said: Any, level: str = "debug") -> list[dict[str, Any]]:
    """Return the lines of what a function says while there is a bridge."""
    with tempfile.TemporaryFile() as file:
        log = Log(file.fileno(), lambda: 0.0, level)
        with LogBridge(level) as bridge:
            bridge.attach(log)
            await said()
        file.seek(0)
        return [json.loads(line) for line in file]


async def test_a_record_becomes_a_line() -> None:
    async def say() -> None:
        LOGGER.debug("one")
        LOGGER.info("two %s", 2)
        logging.getLogger("everywire.handlers").warning("three\n\x1b[31m")
        LOGGER.critical("four")

    assert [(line["level"], line["event"], line["message"]) for line in await written(say)] == [
        ("debug", "access", "one"),
        ("info", "access", "two 2"),
        ("warning", "handlers", "three\n\x1b[31m"),
        ("error", "access", "four"),
    ]


async def test_levels_are_the_servers() -> None:
    async def say() -> None:
        LOGGER.info("one")
        LOGGER.warning("two")

    assert [line["message"] for line in await written(say, "warning")] == ["two"]


async def test_an_error_has_its_traceback_and_everything_is_bounded() -> None:
    async def say() -> None:
        try:
            raise ValueError("a bug" * 10_000)
        except ValueError:
            LOGGER.exception("failed " + "x" * 10_000)

    (line,) = await written(say)
    assert "a bug" in line["traceback"]
    assert len(json.dumps(line)) < 10_000


async def test_what_looks_like_a_credential_is_hidden() -> None:
    async def say() -> None:
        try:
            raise ValueError(f"Authorization: Bearer sesame-sesame and {JWT}")
        except ValueError:
            LOGGER.exception("token %s of ann, ticket %r", JWT, "t." + "x" * 43)

    (line,) = await written(say)
    text = json.dumps(line)
    assert line["message"] == "token *** of ann, ticket '***'"
    assert "sesame" not in text and "eyJ" not in text and "signature" not in text


async def test_what_is_said_before_there_is_a_log_waits_for_it() -> None:
    with tempfile.TemporaryFile() as file:
        with LogBridge("info") as bridge:
            for number in range(500):
                LOGGER.info("%d", number)
            bridge.attach(Log(file.fileno(), lambda: 0.0))
            LOGGER.info("last")
        file.seek(0)
        assert [json.loads(line)["message"] for line in file] == [*map(str, range(400, 500)), "last"]


async def test_without_any_log_it_is_said_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with LogBridge("info"):
        LOGGER.info("nobody listens")
    assert capsys.readouterr().err == "everywire: nobody listens\n"


async def test_another_thread_may_log() -> None:
    async def say() -> None:
        await asyncio.to_thread(LOGGER.warning, "from afar")
        await asyncio.sleep(0)

    assert [line["message"] for line in await written(say)] == ["from afar"]


async def test_it_leaves_logging_as_it_was() -> None:
    root = logging.getLogger("everywire")
    before = root.level, list(root.handlers)
    with LogBridge("debug"):
        assert root.handlers != before[1]
    assert (root.level, list(root.handlers)) == before
