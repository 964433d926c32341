"""The shape of the house: who may import whom, and how large a room may grow.

Imports point inward only and never in a circle, those for type checking included.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "everywire"

MAX_MODULE_LINES = 500
MAX_FUNCTION_LINES = 60

# What each part may import besides itself; "." is the package's own front door.
INWARD: Mapping[str, frozenset[str]] = {
    "core": frozenset(),
    "codecs": frozenset({"core"}),
    "brokers": frozenset({"core"}),
    "hub": frozenset({"core", "brokers"}),
    "access": frozenset({"core", "codecs", "brokers", "hub"}),
    "sessions": frozenset({"core", "codecs", "brokers", "hub", "access"}),
    "sockets": frozenset({"core", "codecs", "brokers", "hub", "access", "sessions"}),
    "transports": frozenset({"core", "codecs", "brokers", "hub", "access", "sessions", "sockets"}),
    "server": frozenset({"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports"}),
    "asgi": frozenset({"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports"}),
    "client": frozenset({"core", "codecs"}),
    "api": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server"}
    ),
    "console": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server"}
    ),
    "testing": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server", "asgi",
         "client"}
    ),
    "lab": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server", "asgi",
         "client",
         "."}
    ),
    "handlers": frozenset({"core", "codecs", "brokers", "hub", "access", "sessions", "sockets"}),
    "embedding": frozenset({"core", "brokers"}),
    "publishing": frozenset({"core", "codecs", "brokers", "access", "client", "handlers"}),
    "assembly": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server", "asgi",
         "api",
         "console"}
    ),
    "application": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server", "asgi",
         "api",
         "console", "handlers", "assembly", "embedding", "publishing"}
    ),
    "cli": frozenset(
        {"core", "codecs", "brokers", "hub", "access", "sessions", "sockets", "transports", "server", "asgi",
         "api",
         "console", "client", "lab", "handlers", "publishing", "assembly", "application", "."}
    ),
    "__init__": frozenset({"access", "application", "core", "handlers", "publishing", "sockets"}),
    "__main__": frozenset({"cli"}),
}  # fmt: skip

# From a part that has one open door: only these of its modules may be imported from outside.
DOORS: Mapping[tuple[str, str], frozenset[str]] = {
    (part, "brokers"): frozenset({"everywire.brokers.base"})
    for part in ("hub", "access", "sessions", "sockets", "transports", "server", "asgi", "api", "console",
     "handlers")
}

# Sans-I/O: no event loop, no sockets, and no clock; formatting a given time is none.
FORBIDDEN: Mapping[str, frozenset[str]] = {
    "core": frozenset({"asyncio", "socket", "ssl", "selectors", "threading", "uvloop"}),
    "codecs": frozenset({"asyncio", "socket", "ssl", "selectors", "uvloop"}),
}
CLOCKS = frozenset(
    {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"}
)
STANDARD_LIBRARY_ONLY = frozenset({"core"})


def module_name(path: Path, root: Path) -> str:
    parts = ["everywire", *path.relative_to(root).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules(root: Path) -> dict[str, ast.Module]:
    return {
        module_name(path, root): ast.parse(path.read_text("utf-8")) for path in sorted(root.rglob("*.py"))
    }


def part_of(module: str) -> str:
    """Return the part of the house a module is in: its folder, or itself at the top."""
    return module.split(".")[1] if "." in module else "__init__"


def imports(module: str, tree: ast.Module, known: Mapping[str, ast.Module]) -> Iterator[str]:
    """Yield every module that the tree imports, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package[: len(package) - node.level + (module in packages(known))]
                base = ".".join([*package, *([base] if base else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield inner if inner in known else base


def packages(known: Mapping[str, ast.Module]) -> set[str]:
    return {name.rpartition(".")[0] for name in known}


def wrong_imports(known: Mapping[str, ast.Module]) -> list[str]:
    wrong = []
    for module, tree in known.items():
        part = part_of(module)
        for target in imports(module, tree, known):
            top = target.split(".")[0]
            if top in FORBIDDEN.get(part, ()):
                wrong.append(f"{module} imports {target}: {part} does no I/O")
            elif top != "everywire":
                if part in STANDARD_LIBRARY_ONLY and top not in STDLIB:
                    wrong.append(f"{module} imports {target}: {part} uses the standard library only")
            elif (other := part_of(target)) != part:
                front = "." if other == "__init__" else other
                if front not in INWARD.get(part, frozenset()):
                    wrong.append(f"{module} imports {target}: from {part} to {other} is outward")
                elif target not in DOORS.get((part, other), {target}):
                    wrong.append(f"{module} imports {target}: only through {sorted(DOORS[part, other])}")
    return wrong


def clocks_read(known: Mapping[str, ast.Module]) -> list[str]:
    """Find where a module that may not know the time asks for it."""
    return [
        f"{module}:{node.lineno}: {part_of(module)} reads no clock"
        for module, tree in known.items()
        if part_of(module) in FORBIDDEN
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (
                (node.value.id == "time" and node.attr in CLOCKS)
                or (node.value.id in ("datetime", "date") and node.attr in ("now", "utcnow", "today"))
            )
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "time"
            and CLOCKS & {alias.name for alias in node.names}
        )
    ]


def circles(known: Mapping[str, ast.Module]) -> list[str]:
    """Find modules that import each other in a circle, by depth-first search."""
    graph = {
        module: sorted({target for target in imports(module, tree, known) if target in known} - {module})
        for module, tree in known.items()
    }
    found: list[str] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(" -> ".join([*trail[trail.index(module) :], module]))
        elif module not in done:
            for target in graph[module]:
                visit(target, [*trail, module])
            done.add(module)

    for module in graph:
        visit(module, [])
    return found


def large_rooms(root: Path) -> list[str]:
    large = []
    for path in sorted(root.rglob("*.py")):
        text = path.read_text("utf-8")
        if text.count("\n") > MAX_MODULE_LINES:
            large.append(f"{path.relative_to(root)}: {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    large.append(f"{path.relative_to(root)}:{node.lineno}: {node.name} has {lines} lines")
    return large


def without_docstring(known: Mapping[str, ast.Module]) -> list[str]:
    return [module for module, tree in known.items() if not ast.get_docstring(tree)]


STDLIB = frozenset(sys.stdlib_module_names)


def test_there_is_a_house() -> None:
    assert {part_of(module) for module in modules(SOURCE)} >= {"core", "codecs", "brokers", "hub", "cli"}


def test_every_part_has_its_place_in_the_order() -> None:
    assert {part_of(module) for module in modules(SOURCE)} <= set(INWARD)


def test_imports_point_inward() -> None:
    assert wrong_imports(modules(SOURCE)) == []


def test_what_does_no_io_reads_no_clock() -> None:
    assert clocks_read(modules(SOURCE)) == []


def test_imports_make_no_circle() -> None:
    assert circles(modules(SOURCE)) == []


def test_every_module_says_what_it_does() -> None:
    assert without_docstring(modules(SOURCE)) == []


def test_no_room_has_grown_too_large() -> None:
    assert large_rooms(SOURCE) == []


# -- and the rules bite -------------------------------------------------------

PLANTED = {
    "import asyncio": "core does no I/O",
    "import msgspec": "standard library only",
    "from everywire.hub import fanout": "from core to hub is outward",
    "from ..hub import fanout": "from core to hub is outward",
    "def later():\n    import everywire.server.run": "from core to server is outward",
    "import typing\nif typing.TYPE_CHECKING:\n    from everywire.hub.fanout import Hub": "outward",
    "import everywire": "outward",
}


def plant(root: Path, files: Mapping[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


@pytest.mark.parametrize("line", PLANTED)
def test_a_planted_outward_import_is_found(tmp_path: Path, line: str) -> None:
    house = plant(
        tmp_path, {"__init__.py": "", "core/a.py": line, "hub/__init__.py": "", "hub/fanout.py": ""}
    )
    assert len(found := wrong_imports(modules(house))) == 1
    assert PLANTED[line] in found[0]


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("from time import monotonic", True),
        ("import time\ntime.time()", True),
        ("from datetime import datetime\ndatetime.now()", True),
        ("import time\ntime.gmtime(0)", False),
    ],
)
def test_a_planted_clock_is_found(tmp_path: Path, text: str, is_found: bool) -> None:
    assert bool(clocks_read(modules(plant(tmp_path, {"codecs/a.py": text})))) is is_found


def test_a_planted_way_around_a_door_is_found(tmp_path: Path) -> None:
    files = {
        "hub/a.py": "from everywire.brokers.base import Broker",
        "brokers/base.py": "",
        "brokers/memory.py": "",
    }
    assert wrong_imports(modules(plant(tmp_path, files))) == []
    files["hub/b.py"] = "from everywire.brokers import memory"
    assert len(wrong_imports(modules(plant(tmp_path, files)))) == 1


def test_a_planted_circle_is_found(tmp_path: Path) -> None:
    files = {
        "core/a.py": "from everywire.core import b",
        "core/b.py": "from everywire.core.c import x",
        "core/c.py": "def later():\n    from . import a",
    }
    assert circles(modules(plant(tmp_path, files))) == [
        "everywire.core.a -> everywire.core.b -> everywire.core.c -> everywire.core.a"
    ]


def test_planted_large_rooms_and_silent_modules_are_found(tmp_path: Path) -> None:
    long_function = "def f():\n" + "    pass\n" * 60
    house = plant(tmp_path, {"core/a.py": '"""Says."""\n' + long_function, "core/b.py": "\n" * 501})
    assert large_rooms(house) == ["core/a.py:2: f has 61 lines", "core/b.py: 501 lines"]
    assert without_docstring(modules(house)) == ["everywire.core.b"]
