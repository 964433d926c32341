"""Writes the tables of docs/settings.md from the settings themselves: names, defaults, meaning.

python tools/settings_doc.py            writes the file
python tools/settings_doc.py --check    exits 1 when the file is not what it would write
"""

from __future__ import annotations

import ast
import sys
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from everywire.core.limits import Limits
from everywire.core.settings import Window
from everywire.server import settings

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "settings.md"
BEGIN, END = "<!-- tables: written by tools/settings_doc.py -->", "<!-- end of tables -->"

SECTIONS: list[tuple[str, str, type]] = [
    ("(top level)", "", settings.Settings),
    ("[[listen]]", "listen[n].", settings.Listen),
    ("[rules]", "rules.", settings.Rules),
    ("[[rules.api_keys]]", "rules.api_keys[n].", settings.ApiKey),
    ("[tokens]", "tokens.", settings.Tokens),
    ("[webhooks]", "webhooks.", settings.Webhooks),
    ("[origins]", "origins.", settings.Origins),
    ("[hosts]", "hosts.", settings.Hosts),
    ("[websocket]", "websocket.", settings.WebSocket),
    ("[socketio]", "socketio.", settings.SocketIo),
    ("[sockjs]", "sockjs.", settings.SockJs),
    ("[log]", "log.", settings.Log),
    ("[[channels]]", "channels[n].", settings.ChannelRow),
    ("[channels.window]", "channels[n].window.", Window),
    ("[limits]", "limits.", Limits),
]
SUBSECTIONS = {
    "listen", "limits", "channels", "rules", "tokens", "webhooks", "origins", "hosts", "websocket",
    "socketio", "sockjs", "log", "window",
}  # fmt: skip


def meanings(kind: type) -> dict[str, str]:
    """Return what stands below each field of a class, from its source; enums say their values."""
    found: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        module = sys.modules.get(base.__module__)
        if not (module and str(getattr(module, "__file__", "")).startswith(str(ROOT / "src"))):
            continue
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
        (node,) = [
            node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == base.__name__
        ]
        for here, after in zip(node.body, [*node.body[1:], None], strict=True):
            if isinstance(here, ast.AnnAssign) and isinstance(here.target, ast.Name):
                said = ""
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    said = " ".join(str(after.value.value).split())
                found[here.target.id] = said.replace("``", "`")
    return found


def rows(kind: type) -> list[tuple[str, Any]]:
    """Return the fields of a class and their defaults."""
    if is_dataclass(kind):
        return [
            (field.name, field.default if field.default is not MISSING else
             field.default_factory() if field.default_factory is not MISSING else MISSING)
            for field in fields(kind)
        ]  # fmt: skip
    return [
        (field.name, MISSING if field.default is msgspec.NODEFAULT else field.default)
        for field in msgspec.structs.fields(kind)
    ]


def shown(value: Any) -> str:
    """Write a default as TOML would."""
    if value is MISSING:
        return "(needed)"
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    if isinstance(value, int) and value >= 10_000:
        return f"`{value:_}`"
    return f'`"{value}"`' if isinstance(value, str) else f"`{value}`"


def choices(default: Any) -> str:
    """Write what an enumeration may be."""
    if not isinstance(default, Enum):
        return ""
    return f" One of {', '.join(f'`{member.value}`' for member in type(default))}."


def tables() -> str:
    """Return all tables."""
    parts = []
    for title, _, kind in SECTIONS:
        said = meanings(kind)
        lines = [
            f"| `{name}` | {shown(default)} | {said.get(name, '')}{choices(default)} |"
            for name, default in rows(kind)
            if name not in SUBSECTIONS
        ]
        parts.append(
            "\n".join([f"### `{title}`", "", "| name | default | meaning |", "| --- | --- | --- |", *lines])
        )
    return "\n\n".join(parts)


def main(arguments: list[str]) -> int:
    """Write the tables into the document, or check that they are there."""
    text = DOCUMENT.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    written = f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"
    if "--check" in arguments:
        if written != text:
            print(f"{DOCUMENT.relative_to(ROOT)} is out of date: run python tools/settings_doc.py")
            return 1
        return 0
    DOCUMENT.write_text(written, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
