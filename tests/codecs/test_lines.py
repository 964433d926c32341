"""Splitting bytes into lines."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.codecs.lines import LineSplitter
from everywire.core.errors import TooLarge


def test_lines_come_without_their_ends_and_empty_ones_not_at_all() -> None:
    splitter = LineSplitter()
    assert splitter.receive_data(b'{"a":1}\r\n\n\r\n{}\n{"torn"') == [b'{"a":1}', b"{}"]
    assert splitter.rest() == b'{"torn"'
    assert splitter.rest() == b""


def test_a_line_beyond_the_bound_is_refused() -> None:
    assert LineSplitter(10).receive_data(b"x" * 10 + b"\n") == [b"x" * 10]
    with pytest.raises(TooLarge):
        LineSplitter(10).receive_data(b"x" * 11 + b"\n")
    splitter = LineSplitter(10)
    with pytest.raises(TooLarge):
        for _ in range(11):
            splitter.receive_data(b"x")


@given(
    st.lists(st.sampled_from([b"a", b"bc", b"\n", b"\r", b"\r\n"]), max_size=40), st.lists(st.integers(0, 60))
)
def test_any_split_of_the_bytes_gives_the_same_lines(parts: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(parts)
    whole, split = LineSplitter(), LineSplitter()
    bounds = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in itertools.pairwise(bounds)]
    assert [line for piece in pieces for line in split.receive_data(piece)] == whole.receive_data(stream)
    assert split.rest() == whole.rest()
