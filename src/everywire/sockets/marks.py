"""What a publication says about whom it is for: tags that sockets read, and other wires show as they are.

* `SKIP`: sockets that pass it over, comma-joined digests of their ids (`digest_of`), never the ids;
* `EXCEPT`: channels, comma-joined; whoever is in one of them passes it over;
* `EARLIER`: where the same event stands in other channels, comma-joined ``channel/offset``. An event for
  several rooms is a publication in each of them, one after the other, and each names those before it:
  whoever gets one of them passes this one over. The first names none, and is like any other.

Clients cannot set them: on the wires of clients the names of these tags are refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from hashlib import blake2b
from typing import Final

from everywire.core.publication import RESERVED_TAGS, Publication

__all__ = ["EARLIER", "EXCEPT", "PREFIX", "SKIP", "digest_of", "earlier_copies", "tags_of"]

PREFIX: Final = RESERVED_TAGS
SKIP: Final = "socketio.skip"
EXCEPT: Final = "socketio.except"
EARLIER: Final = "socketio.earlier"

_DIGEST_BYTES: Final = 8


@lru_cache(maxsize=4096)
def digest_of(sid: str) -> str:
    """Return what stands for a socket in `SKIP`: an id is a secret, and tags are not."""
    return blake2b(sid.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).hexdigest()


def tags_of(
    *,
    skip: Iterable[str] = (),
    except_: Iterable[str] = (),
    earlier: Iterable[tuple[str, int]] = (),
) -> dict[str, str] | None:
    """Return the tags of a publication: ids of sockets, names of channels, channels with offsets."""
    tags = {
        SKIP: ",".join([digest_of(sid) for sid in skip]),
        EXCEPT: ",".join(except_),
        EARLIER: ",".join([f"{channel}/{offset}" for channel, offset in earlier]),
    }
    return {key: value for key, value in tags.items() if value} or None


def earlier_copies(publication: Publication) -> Sequence[tuple[str, int]]:
    """Return the channels in which the same event stands before this one, and its offset in each."""
    text = publication.tags.get(EARLIER) if publication.tags else None
    return _copies(text) if text else ()


@lru_cache(maxsize=256)
def _copies(text: str) -> Sequence[tuple[str, int]]:
    found = []
    for part in text.split(","):
        channel, _, offset = part.partition("/")
        if offset.isascii() and offset.isdigit() and len(offset) <= 16:
            found.append((channel, int(offset)))
    return tuple(found)
