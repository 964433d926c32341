"""A thousand clients behind two workers that take turns."""

from __future__ import annotations

from tests.e2e.test_two_workers import connect_many


async def test_a_thousand_clients_that_poll_connect_without_an_error() -> None:
    await connect_many(1_000)
