"""The canary of a broker's link."""

from __future__ import annotations

import asyncio

from everywire.brokers.canary import Canary
from everywire.core.errors import BrokerError
from everywire.testing.broker_driving import until


class Link:
    """A link that is whole, deaf or away."""

    def __init__(self) -> None:
        self.state = "whole"
        self.missed: list[str] = []
        self.healed = 0
        self.tokens: list[bytes] = []
        self.canary = Canary(
            self.send, interval_s=0.001, timeout_s=0.02, missed=self.missed.append, healed=self.heal
        )

    def heal(self) -> None:
        self.healed += 1

    async def send(self, token: bytes) -> None:
        self.tokens.append(token)
        if self.state == "away":
            raise BrokerError("the engine is away")
        if self.state == "whole":
            self.canary.heard(token)
        elif self.state == "late":
            self.canary.heard(self.tokens[0])


async def test_it_is_not_ready_before_anything_came_back() -> None:
    assert not Link().canary.health().ready


async def test_a_link_that_is_whole_is_ready() -> None:
    link = Link()
    link.canary.start()
    await until(lambda: link.canary.health().ready)
    await until(lambda: link.canary.sent > 5)
    await link.canary.close()
    assert link.healed == 1 and not link.missed and not link.canary.lost
    assert len(set(link.tokens)) == len(link.tokens)


async def test_a_link_that_is_deaf_is_made_anew_and_heals() -> None:
    for state, reason in (("deaf", "come back"), ("away", "away"), ("late", "come back")):
        link = Link()
        link.canary.start()
        await until(lambda link=link: link.canary.health().ready)  # type: ignore[misc]
        link.state = state
        await until(lambda link=link: len(link.missed) >= 2)  # type: ignore[misc]
        assert not link.canary.health().ready and reason in link.canary.health().detail
        assert all(reason in one for one in link.missed)
        link.state = "whole"
        await until(lambda link=link: link.canary.health().ready)  # type: ignore[misc]
        assert link.healed == 2 and link.canary.lost == len(link.missed)
        await link.canary.close()
        sent = link.canary.sent
        await asyncio.sleep(0.01)
        assert link.canary.sent == sent
