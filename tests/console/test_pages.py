"""The pages are complete, and what they load is among them."""

import re

import pytest

from everywire.console.pages import CONTENT_SECURITY_POLICY, Page, load_pages

REFERENCE = re.compile(r"""(?:src|href|action)="([^"#?]+)["?#]""")
IMPORT = re.compile(r"""^(?:import|export) [^;]*?from "([^"]+)";$""", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def pages() -> dict[str, Page]:
    return load_pages()


def resolve(base: str, relative: str) -> str:
    parts = base.split("/")[:-1]
    for step in relative.split("/"):
        if step == "..":
            parts.pop()
        elif step != ".":
            parts.append(step)
    return "/".join(parts)


def test_the_race_page_is_at_the_root(pages: dict[str, Page]) -> None:
    assert pages["/"].content_type == "text/html; charset=utf-8"
    assert b"<h1>" in pages["/"].body
    assert pages["/race/race.js"].content_type == "text/javascript; charset=utf-8"
    assert pages["/race/race.css"].content_type == "text/css; charset=utf-8"
    assert pages["/favicon.ico"] == pages["/race/icon.svg"]


def test_everything_the_page_loads_is_served(pages: dict[str, Page]) -> None:
    """By relative addresses, because an application may have mounted the page below a path."""
    references = REFERENCE.findall(pages["/"].body.decode())
    assert "race/race.js" in references and "./" in references
    assert {f"/{path.removeprefix('./')}" for path in references} <= set(pages)
    assert not any(b"location.origin}/" in page.body for path, page in pages.items() if "/race/" in path)


def test_every_import_of_a_module_is_served(pages: dict[str, Page]) -> None:
    imports = [
        resolve(path, name)
        for path, page in pages.items()
        if path.endswith(".js")
        for name in IMPORT.findall(page.body.decode())
    ]
    assert "/race/transports/websocket.js" in imports
    assert set(imports) <= set(pages)


def test_every_module_is_used(pages: dict[str, Page]) -> None:
    reached: set[str] = set()
    waiting = ["/race/race.js", "/race/theme.js", "/client/everywire.js"]
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting += [resolve(path, name) for name in IMPORT.findall(pages[path].body.decode())]
    assert reached == {path for path in pages if path.endswith(".js")}


def test_every_page_is_strict(pages: dict[str, Page]) -> None:
    for page in pages.values():
        headers = dict(page.headers)
        assert headers[b"content-security-policy"].decode() == CONTENT_SECURITY_POLICY
        assert headers[b"x-content-type-options"] == b"nosniff"
        assert headers[b"referrer-policy"] == b"no-referrer"
        assert not {b"content-type", b"etag", b"content-length", b"cache-control"} & set(headers)
    assert "unsafe" not in CONTENT_SECURITY_POLICY
    assert "frame-ancestors 'none'" in CONTENT_SECURITY_POLICY


def test_the_page_needs_nothing_that_the_policy_forbids(pages: dict[str, Page]) -> None:
    html = pages["/"].body.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)", html)
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=", html)
    for path, page in pages.items():
        text = page.body.decode()
        assert "innerHTML" not in text, path
        assert not re.search(r"""(?:src|href)=["']https?:|@import|url\(\s*["']?https?:""", text), path


def test_tags_are_strong_and_tell_files_apart(pages: dict[str, Page]) -> None:
    assert all(re.fullmatch(r'"[0-9a-f]{32}"', page.etag) for page in pages.values())
    bodies = {page.body for page in pages.values()}
    assert len({page.etag for page in pages.values()}) == len(bodies)
    assert load_pages() == pages


def test_modules_stay_small(pages: dict[str, Page]) -> None:
    assert all(page.body.count(b"\n") < 350 for path, page in pages.items() if path.endswith(".js"))


def test_the_client_is_served_and_nothing_else_of_its_folder(pages: dict[str, Page]) -> None:
    client = [path for path in pages if path.startswith("/client/")]
    assert "/client/everywire.js" in client and all(path.endswith(".js") for path in client)
