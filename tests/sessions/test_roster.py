"""One roster by itself: what it tells, when, and how much."""

from __future__ import annotations

from everywire.sessions.membership import client_of, encode_info
from everywire.sessions.roster import Roster, Told
from tests.sessions.cluster import Listener, info


class Bench:
    """A roster, one listener, and a clock."""

    def __init__(self, *, listeners: int = 1, max_members: int = 100, tells: float = 1_000.0) -> None:
        self.told: list[tuple[str, str]] = []
        self.now_s = 100.0
        self.roster = Roster(
            "room",
            by_user=False,
            tell=self.tell,
            debounce_s=2,
            max_members=max_members,
            max_tells_per_s=tells,
        )
        for _ in range(listeners):
            self.roster.listeners[Listener()] = None

    def tell(self, roster: Roster, what: Told, value: bytes) -> None:
        self.told.append((what.value, client_of(value) if value else ""))

    def enter(self, *clients: str) -> None:
        for client in clients:
            self.roster.entered(encode_info(info(client)))

    def leave(self, *clients: str) -> None:
        for client in clients:
            self.roster.gone(encode_info(info(client)), self.now_s)

    def compare(self, *clients: str) -> None:
        self.roster.compare({client: encode_info(info(client)) for client in clients}, self.now_s)

    def passes(self, seconds: float) -> bool:
        self.now_s += seconds
        return self.roster.advance(self.now_s, seconds)


def test_before_the_leases_were_read_everything_is_told() -> None:
    bench = Bench()
    bench.leave("old")
    bench.enter("new")
    bench.passes(3)
    assert bench.told == [("joined", "new"), ("left", "old")]
    bench.compare("new", "silent")
    assert set(bench.roster.members) == {"new", "silent"}
    bench.leave("nobody")
    bench.passes(3)
    assert len(bench.told) == 2


def test_who_was_told_of_too_early_is_taken_back() -> None:
    bench = Bench()
    bench.enter("a")
    bench.compare("b")
    bench.passes(3)
    assert bench.told == [("joined", "a"), ("left", "a")]


def test_each_leave_is_due_in_its_own_time() -> None:
    bench = Bench()
    bench.leave("a")
    bench.passes(1)
    bench.leave("b")
    bench.leave("a")  # once more, before the leases were read
    bench.passes(1)
    assert bench.told == []
    bench.passes(1)
    assert bench.told == [("left", "b"), ("left", "a")]
    assert not bench.passes(1)


def test_changes_are_told_once_a_second() -> None:
    bench = Bench(listeners=10, tells=10, max_members=200)
    bench.compare()
    for number in range(100):
        bench.enter(f"c{number}")
        bench.passes(0.1)
    changes = [what for what, _ in bench.told if what == "changed"]
    assert 5 <= len(changes) <= 10
    joins = [client for what, client in bench.told if what == "joined"]
    assert len(joins) + len(changes) <= 11  # 10 listeners, 10 tells per second
    while bench.passes(0.25):
        pass
    assert bench.told[-1][0] == "changed"  # what was left out last is owed, and paid
    told = len(bench.told)
    bench.enter("late")
    assert len(bench.told) == told + 1


def test_who_leaves_while_too_many_leave_is_not_kept() -> None:
    bench = Bench(max_members=5)
    bench.leave(*(f"c{number}" for number in range(20)))
    bench.passes(3)
    assert [what for what, _ in bench.told].count("left") == 5
    assert ("changed", "") in bench.told


def test_a_roster_that_has_outgrown_itself_notices_that_members_are_missing() -> None:
    bench = Bench(max_members=5)
    bench.compare("a", "b", "c", "d", "e", "f", "g")
    assert bench.roster.is_large
    bench.passes(1)
    bench.compare("a", "b", "c", "d", "e", "f", "g")
    bench.passes(1)
    assert bench.told == [("changed", "")]
    bench.compare("a", "b", "c", "d", "e", "f")
    bench.passes(1)
    assert bench.told == [("changed", "")] * 2
    bench.compare("a", "b")
    bench.passes(1)
    assert bench.told == [("changed", "")] * 3
    bench.enter("c")
    assert bench.told[3:] == [("joined", "c")]


def test_a_large_roster_that_changes_all_the_time_says_so_once_a_second() -> None:
    bench = Bench(max_members=5)
    bench.compare("a", "b", "c", "d", "e", "f", "g")
    for number in range(100):
        bench.enter(f"c{number}")
        bench.passes(0.1)
    assert 9 <= len(bench.told) <= 12
