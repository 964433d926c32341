"""Publications and gaps."""

from __future__ import annotations

from everywire.core.publication import RESET, Draft, Publication, trimmed


def test_a_publication_costs_all_that_it_carries() -> None:
    bare = Publication(1, b"", 0).cost_bytes
    assert Publication(1, bytes(1_000), 0).cost_bytes == bare + 1_000
    tags = {f"{number:02}": "v" * 254 for number in range(16)}
    assert Publication(1, b"", 0, tags=tags).cost_bytes >= bare + 16 * 256
    assert Publication(1, b"", 0, info=bytes(500)).cost_bytes >= bare + 500
    assert Publication(1, b"", 0, f"text/{'x' * 250}").cost_bytes >= bare + 255


def test_publications_are_equal_by_what_they_carry() -> None:
    assert Publication(1, b"a", 5) == Publication(1, b"a", 5)
    assert Publication(1, b"a", 5) != Publication(1, b"a", 5, event="e")
    assert Publication(1, b"a", 5) != Draft("a", b"a")
    assert Publication(1, b"a", 5).is_json
    assert not Publication(1, b"a", 5, "text/plain").is_json


def test_a_gap_counts_both_its_ends() -> None:
    assert trimmed(5, 9).missed == 5
    assert trimmed(5, 5).missed == 1
    assert RESET.missed == 0
    assert (RESET.first, RESET.last, RESET.reason) == (None, None, "reset")
