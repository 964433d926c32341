"""Names of rooms that no room may have."""

from __future__ import annotations

import pytest

from everywire.core.errors import BadRequest
from everywire.sockets.rooms import channel_of, room_of


@pytest.mark.parametrize("room", ["x" * 256, "é" * 400_000])
def test_what_is_longer_than_any_name_is_not_even_escaped(room: str) -> None:
    """A client's ``subscribe`` to a room of 1 MiB was written out byte by byte before it was refused."""
    with pytest.raises(BadRequest, match="at most 255"):
        channel_of("/", room)
    assert channel_of("/", "x" * 255) == "x" * 255


def test_what_fits_may_be_too_long_once_it_is_escaped() -> None:
    with pytest.raises(BadRequest, match="would be"):
        channel_of("/", "é" * 100)
    assert room_of(channel_of("/chat", "é" * 30)) == ("/chat", "é" * 30)
