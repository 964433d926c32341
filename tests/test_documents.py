"""The documents say what is there."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from everywire.cli.main import make_parser

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
        name = re.split(r"[<>=;\s]", requirement)[0]
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


def test_links_between_documents_lead_somewhere() -> None:
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    assert len(documents) >= 5
    for document in documents:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text("utf-8")):
            if "://" not in target:
                assert (document.parent / target).exists(), f"{document.name}: {target}"
