"""The JavaScript client's own tests (`node --test`), its types, and its table of codes."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Final

import pytest

from everywire.core import codes
from tests.e2e.conftest import BROWSER, lacking, program, run

HERE: Final = Path(__file__).parent
CLIENT: Final = HERE.parents[1] / "clients" / "js"
TIMEOUT_S: Final = 120
MAX_MODULE_LINES: Final = 350


def modules() -> list[Path]:
    return sorted(CLIENT.rglob("*.js"))


@pytest.mark.parametrize("script", sorted(HERE.glob("*.test.mjs")), ids=lambda path: path.name)
async def test_its_own_tests(script: Path) -> None:
    node = program("node", "nodejs")
    if not (BROWSER / "node_modules").is_dir():
        lacking("the npm packages are not installed (npm install, in tests/browser)")
    async with asyncio.timeout(TIMEOUT_S):
        code, out, err = await run(node, "--test", "--test-reporter=tap", str(script))
    assert code == 0, out + err
    passed = re.search(r"^# pass (\d+)$", out, re.MULTILINE)
    assert passed is not None and int(passed[1]) > 0


async def test_its_types() -> None:
    """The declarations fit a program that uses all of them."""
    compiler = BROWSER / "node_modules" / "typescript" / "lib" / "tsc.js"
    if not compiler.is_file():
        lacking("npm's typescript is not installed (npm install, in tests/browser)")
    async with asyncio.timeout(TIMEOUT_S):
        code, out, err = await run(
            program("node", "nodejs"), str(compiler), "--project", str(HERE / "tsconfig.json")
        )
    assert code == 0, out + err


def test_its_codes_are_those_of_the_server() -> None:
    names = dict(re.findall(r"^export const ([A-Z_]+) = (\d+);", (CLIENT / "codes.js").read_text(), re.M))
    assert len(names) > 8
    for name, number in names.items():
        assert getattr(codes, name).number == int(number), name


def test_its_modules_are_small_and_need_nothing() -> None:
    assert len(modules()) > 15
    for module in modules():
        text = module.read_text("utf-8")
        assert text.startswith("// "), f"{module.name} does not say what it is for"
        assert text.count("\n") <= MAX_MODULE_LINES, module.name
        for target in re.findall(r'(?:from|import) "([^"]+)"', text):
            assert target.startswith("."), f"{module.name} imports {target}"
            assert (module.parent / target).is_file(), f"{module.name} imports {target}"
