"""The page about applications, block for block as it stands, behind a real server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.handlers.talking import Client, Failed, talking
from tests.serving import DEADLINE_S, Site, serving_wire, until

PAGE = Path(__file__).parents[2] / "docs" / "application.md"


def blocks() -> list[str]:
    """The blocks of Python on the page."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def module_of(text: str, folder: Path) -> ModuleType:
    """Import text as a module, as an application's own file."""
    path = folder / "page.py"
    path.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location("page", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["page"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("host", ["own", "asgi"])
async def test_the_first_block_alone_is_an_application(
    host: str, certificate: tuple[str, str], tmp_path: Path
) -> None:
    page = module_of(blocks()[0], tmp_path)
    async with serving_wire(host, page.wire, certificate) as site, talking(site) as client:
        assert await client.rpc("guess", {"word": "crane"}) == {"ok": True}
        (kept,) = (await site.wire.history("scores")).publications
        assert kept.data == {"by": "", "guess": {"word": "crane"}}
        # And nothing is open that was not opened.
        with pytest.raises(Failed, match="103"):
            await client.ask(subscribe={"channel": "scores"})
        assert (await site.http.get("/channels/scores")).status_code == 401


async def end_of(client: Client) -> list[Any]:
    """Read the run of the only channel that a client reads; return its items."""

    def items() -> list[dict[str, Any]]:
        return [publication for publication in client.told("pub") if "data" in publication]

    await until(lambda: any(one.get("tags", {}).get("event") == "end" for one in items()))
    return [one["data"] for one in items()]


async def test_the_whole_page_is_an_application(certificate: tuple[str, str], tmp_path: Path) -> None:
    assert len(blocks()) == 8
    page = module_of("\n".join(blocks()), tmp_path)
    async with serving_wire("own", page.wire, certificate) as site:
        await handlers(site)
        await access(site)
        await channels(site)
        await producers(site)
        await asyncio.to_thread(page.job)
        assert (await site.wire.history("jobs")).publications[0].data == {"state": "done"}


async def handlers(site: Site) -> None:
    async with talking(site) as nobody, talking(site, token="let-me-in") as ann:
        assert ann.connected["data"] == {"hello": "ann"}
        with pytest.raises(Failed, match="101: sign in first"):
            await nobody.rpc("buy", {"pieces": 1})
        with pytest.raises(Failed, match="1001: there are only ten"):
            await ann.rpc("buy", {"pieces": 11})
        assert await ann.rpc("buy", {"pieces": 10}) == {"bought": 10}
        assert await ann.rpc("move", {"column": 6}) == {"by": "ann", "column": 6}
        with pytest.raises(Failed, match=r"107.*\$\.column"):
            await ann.rpc("move", {"column": 7})
        with pytest.raises(Failed, match=r"107.*column"):
            await ann.ask(publish={"channel": "moves:1", "data": {}})
        assert await ann.rpc("search", "x") == ["X"]
        assert await ann.rpc("write", {"document": "d"}) == "d"


async def access(site: Site) -> None:
    cookie = {"Cookie": "key=me-too"}
    for channel, status in (("private:bob", 200), ("private:ann", 403), ("news", 200)):
        assert (await site.http.get(f"/channels/{channel}", headers=cookie)).status_code == status
    assert (await site.http.get("/channels/news")).status_code == 401


async def channels(site: Site) -> None:
    async with talking(site, token="let-me-in") as ann:
        await ann.ask(publish={"channel": "board:2", "data": {"a": 1}})
        with pytest.raises(Failed, match="107"):
            await ann.ask(publish={"channel": "board:2", "data": {"a": "one"}})
        assert (await ann.ask(subscribe={"channel": "board:2"}))["data"] == {"a": 1}
        while not (await site.wire.history("lobby")).publications:
            await asyncio.sleep(0.01)
        assert (await site.wire.history("lobby")).publications[0].data == {"open": "board:2"}


async def producers(site: Site) -> None:
    beginning = {"recover": True, "offset": 0, "epoch": ""}
    async with talking(site, token="let-me-in") as ann:
        assert await ann.rpc("ask", "to be or not to be") == {"channel": "answer:ann"}
        result = await ann.ask(subscribe={"channel": "answer:ann", **beginning})
        assert result["recovered"]
        missed = [one["data"] for one in result.get("publications", ())]
        *words, usage, end = missed + await end_of(ann)
        assert "".join(words) == "to be or not to be "
        assert (usage, end) == ({"words": 6}, {"status": "done", "count": 7})
    async with talking(site, token="me-too") as bob:
        await bob.ask(subscribe={"channel": "answer:bob"})
        await bob.rpc("ask", "word " * 100_000)
        await bob.rpc("stop")
        end = (await end_of(bob))[-1]
        assert (end["status"], end["reason"]) == ("cancelled", "stopped by the user")
    async with talking(site, token="let-me-in") as ann:
        await ann.ask(subscribe={"channel": "story:1", **beginning})
        assert (await end_of(ann))[:3] == [f"chapter {number} of story:1" for number in range(3)]


async def test_the_example_of_a_producer_runs() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "examples/answers.py", "0", cwd=PAGE.parents[1], stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(DEADLINE_S):
            (url,) = json.loads(await process.stderr.readline())["addresses"]
            async with httpx.AsyncClient(base_url=url, trust_env=False) as http:
                page = (await http.get("/channels/answer:why?after=earliest&wait=20")).json()
                words = [one["data"] for one in page["publications"]]
                while page["publications"][-1].get("event") != "end":
                    after = page["position"]
                    page = (await http.get(f"/channels/answer:why?after={after}&wait=20")).json()
                    words += [one["data"] for one in page["publications"]]
                again = (await http.get("/channels/answer:why?after=earliest")).json()
            assert [one["data"] for one in again["publications"]] == words
            assert words[-1] == {"status": "done", "count": len(words) - 1}
            assert "why" in "".join(words[:-1])
            process.terminate()
            _, err = await process.communicate()
        assert process.returncode == 0 and "Traceback" not in err.decode()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
