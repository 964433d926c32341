"""The records that stores keep of publications."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from everywire.brokers.record import pack, unpack
from everywire.core.errors import BrokerError
from everywire.core.publication import Draft, Publication

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
events = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n\0"), max_size=20)


@given(
    st.binary(max_size=100),
    texts,
    st.none() | events,
    st.none() | st.dictionaries(texts, texts, max_size=3),
    st.none() | st.binary(max_size=20),
    st.integers(0, 2**53 - 1),
    st.integers(0, 2**53 - 1),
)
def test_a_publication_is_kept_as_it_was_given(
    data: bytes,
    content_type: str,
    event: str | None,
    tags: dict[str, str] | None,
    info: bytes | None,
    offset: int,
    time_ms: int,
) -> None:
    draft = Draft("a", data, content_type, event, tags, info, key="key", fingerprint=b"1")
    expected = Publication(offset, data, time_ms, content_type, event, tags, info)
    assert unpack(offset, pack(draft, time_ms)) == expected


def test_a_record_of_a_later_version_is_read_as_far_as_it_is_known() -> None:
    record = msgspec.msgpack.encode([2, 5, b"1", "", None, None, None, {"new": True}])
    assert unpack(7, record) == Publication(7, b"1", 5)


@pytest.mark.parametrize("record", [b"", b"\xc1", b"\x93\x01\x02", b'{"a":1}', b"\x93\x01\xa1x\xc4\x00"])
def test_what_is_no_record_is_an_error_that_names_the_offset(record: bytes) -> None:
    with pytest.raises(BrokerError, match="offset 7"):
        unpack(7, record)
