"""Who the client is, when proxies speak for it."""

from __future__ import annotations

import pytest

from tests.server.driving import running

FORWARDED = (
    "X-Forwarded-For: 6.6.6.6, 203.0.113.5",
    "X-Forwarded-Proto: https",
    "X-Forwarded-Host: chat.test",
)

CASES = [
    ((), (), "http a.test 127.0.0.1 True GET"),
    ((), FORWARDED, "http a.test 127.0.0.1 False GET"),
    (("127.0.0.0/8",), (), "http a.test 127.0.0.1 True GET"),
    (("127.0.0.0/8",), FORWARDED, "https chat.test 203.0.113.5 False GET"),
    (
        ("127.0.0.1",),
        ("Forwarded: for=203.0.113.5;proto=https;host=chat.test",),
        "https chat.test 203.0.113.5 False GET",
    ),
    (("10.0.0.0/8",), FORWARDED, "http a.test 127.0.0.1 False GET"),
    (("127.0.0.1",), ("Via: 1.1 proxy",), "http a.test 127.0.0.1 False GET"),
    (("127.0.0.1",), ("X-Real-IP: 203.0.113.5",), "http a.test 127.0.0.1 False GET"),
]


@pytest.mark.parametrize(("trusted", "fields", "expected"), CASES)
async def test_who_the_client_is(trusted: tuple[str, ...], fields: tuple[str, ...], expected: str) -> None:
    async with running(trusted_proxies=trusted) as site:
        for _ in range(2):
            assert (await site.ask(site.get("/about", *fields))).body.decode() == expected


async def test_an_absolute_target_names_the_host() -> None:
    async with running() as site:
        response = await site.ask("GET http://b.test:81/about HTTP/1.1\r\nHost: a.test\r\n\r\n")
        assert response.body == b"http b.test:81 127.0.0.1 True GET"
