"""Every example of docs/server-api.md does what the document says; they run in its order on one server.

``…`` in what is expected stands for anything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from everywire.core.limits import Limits
from tests.serving import serving

TEXT: Final = (Path(__file__).parents[2] / "docs" / "server-api.md").read_text("utf-8")
METHODS: Final = set(re.findall(r"^POST (/api/\w+)$", TEXT, re.MULTILINE))


def examples() -> list[tuple[str, str, str]]:
    """Return address, request and expected answer of each example."""
    blocks = re.findall(r"^```text\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return re.findall(r"^POST (\S+)\n> (.*)\n< (.*)$", "".join(blocks), re.MULTILINE)


async def test_the_examples_do_what_the_document_says() -> None:
    found = examples()
    assert len(found) >= 24
    async with serving("own", ("", ""), dev=True) as site:
        for address, request, expected in found:
            told = (await site.http.post(address, content=request)).text
            pattern = ".*".join(re.escape(part) for part in expected.split("…"))
            assert re.fullmatch(pattern, told), f"{address} {request}\nexpected {expected}\nbut was {told}"


def test_every_method_has_an_example() -> None:
    source = Path(__file__).parents[2] / "src" / "everywire" / "api" / "methods.py"
    methods = set(re.findall(r'^            "(\w+)": \(', source.read_text("utf-8"), re.MULTILINE))
    assert len(methods) >= 17
    assert {f"/api/{method}" for method in methods | {"batch"}} == METHODS


def test_the_bounds_are_those_of_the_server() -> None:
    limits = Limits()
    assert f"at most {limits.max_api_commands:,}" in TEXT
    assert f"-1 all, at most {limits.max_history_publications})" in TEXT
    assert f"`api_timeout_s` ({limits.api_timeout_s:g} s)" in TEXT
    assert f"did not answer within {limits.node_answer_timeout_s:g} s" in TEXT
