"""Official clients behind nginx, round robin over four nodes: a thousand connects of each kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.test_round_robin import KINDS, NODES, connect_crowds, nginx_before, workers_behind_nginx
from tests.nodes import nodes


@pytest.mark.parametrize("kind", KINDS)
async def test_a_thousand_connect_without_an_error(kind: str, tmp_path: Path) -> None:
    async with nodes(NODES) as sites, nginx_before([site.url for site in sites], tmp_path) as url:
        await connect_crowds(url, 1_000, [kind])


async def test_a_thousand_of_each_kind_connect_to_workers_without_an_error(tmp_path: Path) -> None:
    async with workers_behind_nginx(tmp_path, deadline_s=600.0) as (url, _):
        for kind in KINDS:
            await connect_crowds(url, 1_000, [kind])
