"""The conversation in docs/sockjs.md is what happens."""

from __future__ import annotations

import re
from pathlib import Path

from tests.sockjs_mounts import serving_sockjs

DOCUMENT = Path(__file__).parent.parent.parent / "docs" / "sockjs.md"


def conversations() -> list[list[str]]:
    """Return the lines of each block that shows one."""
    blocks = re.findall(r"```text\n(.*?)```", DOCUMENT.read_text("utf-8"), re.DOTALL)
    return [block.splitlines() for block in blocks]


async def test_the_conversation_is_what_happens(certificate: tuple[str, str]) -> None:
    (lines,) = conversations()
    assert len(lines) > 10
    async with serving_sockjs("own", certificate) as site:
        told = ""
        for line in lines:
            if line.startswith("> "):
                assert not told, f"not in the document: {told}"
                method, path, body = (line[2:] + " ").split(" ", 2)
                response = await site.http.request(method, path, content=body.strip())
                assert response.status_code < 300, response.text
                told = response.text.strip() if path.endswith("/xhr") else ""
            else:
                expected = ".*?".join(map(re.escape, line[2:].split("…")))
                assert re.fullmatch(expected, told), (line, told)
                told = ""
