"""Reading the settings: a TOML file, then the environment, then flags; the later one wins.

In the environment a name is ``EVERYWIRE_`` and the path with two underscores between its parts:
``EVERYWIRE_LIMITS__MAX_BODY_BYTES=65536``, ``EVERYWIRE_LISTEN__0__PORT=9000``. Lists there are
JSON or separated by commas.

All layers are joined into one tree of plain values, and beside it is kept where each of them came
from. So a wrong value is a `SettingsError` that says its source (file and key, variable, or flag)
and what was expected. Values are not repeated in errors, since any of them may be a secret.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields as dataclass_fields
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from everywire.core.errors import SettingsError
from everywire.server.settings import Mistake, Settings, check

__all__ = ["ENVIRONMENT_PREFIX", "Flag", "load_settings"]

ENVIRONMENT_PREFIX: Final = "EVERYWIRE_"
IGNORED_VARIABLES: Final = frozenset(
    {"EVERYWIRE_API_KEY", "EVERYWIRE_PYTHON27", "EVERYWIRE_SUITES", "EVERYWIRE_URL"}
)
"""Variables of clients and publishers, and of the project's own tools, which are no settings."""

MAX_LIST_ITEMS: Final = 1_000
"""Bound on an index in a variable's name."""

KeyPath = tuple[str | int, ...]


class Flag(NamedTuple):
    """A value that a flag of the command line sets."""

    flag: str
    path: KeyPath
    value: object


def load_settings(
    config: str | None = None,
    environ: Mapping[str, str] | None = None,
    flags: Iterable[Flag] = (),
    more_sockets: Iterable[str] = (),
) -> Settings:
    """Read and check all settings; raise `SettingsError` at the first wrong one.

    ``more_sockets`` are paths of unix sockets (``--unix``), each a listener besides the others.
    """
    tree = _Tree()
    if config is not None:
        tree.add_file(config)
    for variable, text in sorted((environ or {}).items()):
        if variable.startswith(ENVIRONMENT_PREFIX) and variable not in IGNORED_VARIABLES:
            tree.add_variable(variable, text)
    for flag in flags:
        tree.put(flag.path, flag.value, flag.flag)
    for path in more_sockets:
        tree.append_listener({"unix": path}, "--unix")
    return tree.convert()


class _Tree:
    """The layers joined, and the source of every value."""

    def __init__(self) -> None:
        self._root: dict[str | int, Any] = {}
        self._sources: dict[KeyPath, str] = {}

    def add_file(self, config: str) -> None:
        """Lay a TOML file over what is there."""
        try:
            table = tomllib.loads(Path(config).read_text(encoding="utf-8"))
        except OSError as error:
            raise SettingsError(f"{config}: expected a readable TOML file; {error.strerror}") from None
        except UnicodeDecodeError:
            raise SettingsError(f"{config}: expected a TOML file in UTF-8") from None
        except tomllib.TOMLDecodeError as error:
            raise SettingsError(f"{config}: expected TOML; {error}") from None
        self._add(table, (), config)

    def _add(self, node: Any, path: KeyPath, config: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                self._add(value, (*path, key), config)
        elif isinstance(node, list) and any(isinstance(item, dict) for item in node):
            for at, item in enumerate(node):
                self._add(item, (*path, at), config)
        else:
            self.put(path, node, f"{config}: {_dotted(path)}")
        self._sources.setdefault(path, f"{config}: {_dotted(path)}")

    def add_variable(self, variable: str, text: str) -> None:
        """Lay one variable of the environment over what is there."""
        parts = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        path: KeyPath = tuple(int(part) if part.isascii() and part.isdigit() else part for part in parts)
        if any(isinstance(part, int) and part >= MAX_LIST_ITEMS for part in path):
            raise SettingsError(f"{variable}: expected an index below {MAX_LIST_ITEMS}")
        self.put(path, _from_text(text, _type_at(Settings, path)), variable)

    def put(self, path: KeyPath, value: object, source: str) -> None:
        """Set one value; whatever stood there before is gone."""
        node: dict[str | int, Any] = self._root
        for at, part in enumerate(path[:-1]):
            child = node.get(part)
            if isinstance(child, list):
                # A list is kept as a dict by index until the end, so that layers can meet in it.
                child = dict(enumerate(child))
                node[part] = child
                for index in child:
                    self._sources[(*path[: at + 1], index)] = self._source(path[: at + 1])
            elif not isinstance(child, dict):
                child = node[part] = {}
            node = child
        node[path[-1]] = value
        for known in [known for known in self._sources if known[: len(path)] == path]:
            del self._sources[known]
        self._sources[path] = source

    def append_listener(self, listen: Mapping[str, object], source: str) -> None:
        """Add a listener; the default one stays when there is no other yet."""
        present = self._root.get("listen")
        if not isinstance(present, dict | list):
            self.put(("listen", 0), {}, source)
            present = [{}]
        self.put(("listen", len(present)), dict(listen), source)

    def convert(self) -> Settings:
        """Make the settings of the tree, or say what is wrong with it."""
        self._refuse_unknown(Settings, self._root, ())
        plain = self._plain(self._root, ())
        try:
            settings = msgspec.convert(plain, Settings)
        except msgspec.ValidationError as error:
            sentence, path = _read_validation_error(str(error))
            raise SettingsError(f"{self._source(path)}: {sentence}") from None
        try:
            check(settings)
        except Mistake as mistake:
            raise SettingsError(f"{self._source(mistake.path)}: {mistake.sentence}") from None
        return settings

    def _plain(self, node: Any, path: KeyPath) -> Any:
        if not isinstance(node, dict):
            return node
        children = {key: self._plain(value, (*path, key)) for key, value in node.items()}
        if children and all(isinstance(key, int) for key in children):
            if sorted(children) != list(range(len(children))):
                last = (*path, max(children))
                raise SettingsError(f"{self._source(last)}: expected the entries before it as well")
            return [children[at] for at in range(len(children))]
        return children

    def _refuse_unknown(self, kind: Any, node: Any, path: KeyPath) -> None:
        known = _fields(kind)
        if known is None or not isinstance(node, dict):
            item = _item_type(kind)
            if item is not None and isinstance(node, dict | list):
                for at, child in node.items() if isinstance(node, dict) else enumerate(node):
                    self._refuse_unknown(item, child, (*path, at))
            return
        for key, child in node.items():
            if key not in known:
                near = difflib.get_close_matches(str(key), known, 1)
                hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(sorted(known))}"
                raise SettingsError(f"{self._source((*path, key))}: there is no such setting; {hint}")
            self._refuse_unknown(known[str(key)], child, (*path, key))

    def _source(self, path: KeyPath) -> str:
        """Say where the value at the path came from, or the nearest thing that is known."""
        if path not in self._sources:
            for known, source in self._sources.items():
                if known[: len(path)] == path:
                    return source
        for length in range(len(path), 0, -1):
            source_above = self._sources.get(path[:length])
            if source_above is not None:
                return source_above + _dotted(path[length:], below=True)
        return _dotted(path)


def _dotted(path: KeyPath, below: bool = False) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text if below else text.removeprefix(".")


_AT: Final = re.compile(r" - at `\$(.*)`\Z", re.DOTALL)
_STEP: Final = re.compile(r"\.([^.\[\]]+)|\[(\d+)\]")
_WORDS: Final = {
    "`int`": "an integer",
    "`float`": "a number",
    "`str`": "text",
    "`bool`": "true or false",
    "`array`": "a list",
    "`object`": "a table",
}


def _read_validation_error(text: str) -> tuple[str, KeyPath]:
    """Take msgspec's sentence apart: what was expected, and the path of the value."""
    path: KeyPath = ()
    found = _AT.search(text)
    if found is not None:
        text = text[: found.start()]
        path = tuple(int(step[2]) if step[2] else step[1] for step in _STEP.finditer(found[1]))
    # "Invalid enum value 'x'" repeats the value, and does not say what was expected.
    if text.startswith("Invalid enum value"):
        kind = _type_at(Settings, path)
        choices = ", ".join(str(member.value) for member in kind)
        return f"expected one of {choices}", path
    for word, plain in _WORDS.items():
        text = text.replace(word, plain)
    return text[0].lower() + text[1:], path


def _fields(kind: Any) -> dict[str, Any] | None:
    """Return the named fields of a settings type with their types, or None if it has none."""
    if _item_type(kind) is not None:
        return None
    for choice in (kind, *get_args(kind)):
        if isinstance(choice, type) and issubclass(choice, msgspec.Struct):
            return {field.name: field.type for field in msgspec.structs.fields(choice)}
        if isinstance(choice, type) and is_dataclass(choice):
            hints = get_type_hints(choice, include_extras=True)
            return {field.name: hints[field.name] for field in dataclass_fields(choice)}
    return None


def _item_type(kind: Any) -> Any:
    """Return the type of a list's items, or None if it is no list."""
    return get_args(kind)[0] if get_origin(kind) is tuple else None


def _takes_text(kind: Any) -> bool:
    return kind is str or any(_takes_text(choice) for choice in get_args(kind) if not _item_type(kind))


def _type_at(kind: Any, path: KeyPath) -> Any:
    """Return the type of the setting at the path, or None if there is none."""
    for part in path:
        if isinstance(part, int):
            kind = _item_type(kind)
        else:
            kind = (_fields(kind) or {}).get(part)
        if kind is None:
            return None
    return kind


def _from_text(text: str, kind: Any) -> object:
    """Read a variable's text as the type that is expected; what cannot be read stays text."""
    if _takes_text(kind):
        return text
    if _item_type(kind) is not None and not text.lstrip().startswith(("[", "{")):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        return json.loads(text)
    except ValueError:
        return text
