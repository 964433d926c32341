"""The documents say what is there."""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import subprocess
import sys
import tomllib
from contextlib import aclosing
from pathlib import Path

from everywire.cli.main import make_parser
from everywire.client.reader import subscribe
from tests.cli.commands import DEADLINE_S, environment, running

ROOT = Path(__file__).parent.parent


def test_the_table_of_settings_is_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "tools/settings_doc.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_dependency_is_explained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    explained = (ROOT / "DEPENDENCIES.md").read_text("utf-8")
    for requirement in needed:
        name = re.split(r"[\[<>=;\s]", requirement)[0]
        assert f"`{name}`" in explained, name


def test_every_option_of_the_commands_is_explained() -> None:
    explained = (ROOT / "docs" / "cli.md").read_text("utf-8")
    parsers = [make_parser()]
    options: set[str] = set()
    while parsers:
        parser = parsers.pop()
        for action in parser._actions:
            options.update(option for option in action.option_strings if option.startswith("--"))
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
    assert len(options) > 20
    missing = {option for option in options - {"--help", "--version"} if option not in explained}
    assert not missing


def documents() -> list[Path]:
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(found) >= 5
    return found


def test_tables_and_lists_are_not_folded_into_text() -> None:
    for document in documents():
        text = re.sub(r"^```.*?^```", "", document.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
        for number, line in enumerate(text.splitlines(), 1):
            is_table = line.startswith("|")
            assert is_table or "| --- |" not in line, (document, number)
            assert not is_table or line.endswith("|"), (document, number)
            assert is_table or not re.search(r"[.;] \* [A-Z`]", line), (document, number)


def test_links_between_documents_lead_somewhere() -> None:
    for document in documents():
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_example_of_the_readme_is_the_one_that_runs() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    example = (ROOT / "examples" / "quickstart.py").read_text("utf-8")
    assert f"<!-- examples/quickstart.py -->\n```python\n{example}```\n" in readme


async def test_the_example_runs() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "examples/quickstart.py",
        "0",
        cwd=ROOT,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            (url,) = json.loads(await process.stderr.readline())["addresses"]
            async with aclosing(subscribe(url, "clock", "websocket", "earliest")) as items:
                first, second = await anext(items), await anext(items)
            assert first.event == "tick" and first.data["now"] < second.data["now"]
            process.terminate()
            _, err = await process.communicate()
        assert process.returncode == 0
        assert "Traceback" not in err.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_the_commands_of_the_readme_work() -> None:
    """Run them as they stand, but for the port, the environment's folder, and an end for what has none."""
    readme = (ROOT / "README.md").read_text("utf-8")
    block = readme.split("<!-- commands: run by a test -->\n```sh\n")[1].split("```")[0]
    commands = [line for line in block.splitlines() if line and not line.startswith("#")]
    assert len(commands) == 6
    async with running("--dev", "--feed", "machine") as server:
        outputs = await asyncio.gather(*(_run_command(command, server.url) for command in commands))
    poll, long_poll, stream, sse, websocket, published = outputs
    assert json.loads(poll)["position"]
    assert json.loads(long_poll)["publications"][0]["data"]["memory"]["total"] > 0
    assert json.loads(stream.splitlines()[1])["data"]["cpu"] >= 0
    assert "\nid: " in sse and '\ndata: {"cpu":' in sse
    assert websocket.count("machine ") == 3
    assert json.loads(published)["offset"] == 1


async def _run_command(command: str, url: str) -> str:
    command = command.replace("127.0.0.1:8000", url.removeprefix("http://"))
    command = command.replace(".venv/bin/everywire", f"{sys.executable} -m everywire")
    words = shlex.split(command)
    if "-N" in words:
        words[1:1] = ["--max-time", "3.5"]
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env=environment()
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == (28 if "-N" in words else 0), err.decode()
    return out.decode()
