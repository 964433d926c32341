"""Any interleaving of publishing, reading, stalling and leaving: nothing is lost, doubled or untold.

Each run is drawn from its seed. The readers check every single thing they are told as it
comes (see ``recording``); at the end each stands at the head, and the counters agree.
"""

from __future__ import annotations

from random import Random

import pytest

from everywire.core.limits import Limits
from everywire.core.position import Position
from everywire.core.settings import SlowReader, Window
from everywire.hub.recovery import EARLIEST, LATEST, UNREADABLE, Start
from everywire.testing.delayed_broker import Faults
from tests.hub.recording import RecordingEncoder, RecordingReader, World, settings

CHANNELS = ("a", "b", "c")
TINY = Window(max_publications=5)
LARGE = Window()

GOOD_LINK = Faults()
BAD_LINK = Faults(
    max_delay_s=0.3,
    lost=0.2,
    doubled=0.2,
    coalesced=0.2,
    reorders_hints=True,
    failed=0.05,
    appends_failed=0.02,
)


class Run:
    """One drawn interleaving."""

    def __init__(
        self, seed: int, window: Window, slow: SlowReader, link: Faults | None, resets: bool
    ) -> None:
        self.random = random = Random(seed)
        limits = Limits(
            max_write_bytes=random.choice([300, 2_000, 65_536]),
            max_fresh_bytes=random.choice([1_000, 4 * 1024 * 1024]),
            max_page_publications=random.choice([3, 1_000]),
            max_page_bytes=random.choice([700, 1024 * 1024]),
            slice_s=random.choice([0.0, 0.005]),
        )
        write_s = random.choice([0.0, 0.002])
        self.world = World(
            limits=limits,
            table=settings(window, slow),
            delayed=link,
            seed=seed,
            write_s=write_s,
            refuses_whole=random.random() < 0.5,
        )
        self.resets = resets
        self.encoders = [RecordingEncoder(), RecordingEncoder(wants_positions=False)]
        self.poll = RecordingEncoder(once=True, wants_positions=False)
        self.positions: list[str] = []
        self.open: list[RecordingReader] = []
        self.actions = [
            *[self.publish] * 8,
            *[self.subscribe] * 3,
            *[self.stall, self.drain, self.drain, self.close],
            *[self.turn] * 4,
            self.pass_time,
        ]

    def publish(self) -> None:
        random = self.random
        count = random.choice([1, 1, 1, 2, 5, 30])
        self.world.publish(random.choice(CHANNELS), count, random.choice([0, 10, 100, 700]))

    def start(self) -> Start:
        random = self.random
        position = random.choice(self.positions) if self.positions else None
        choice = random.randrange(8)
        if choice == 0:
            return EARLIEST
        if choice == 1:
            return UNREADABLE
        if choice < 4 or position is None:
            return LATEST
        return Start(Position.decode(position))

    def subscribe(self) -> None:
        random = self.random
        names = random.sample(CHANNELS, random.choice([1, 1, 2, 3]))
        encoder = random.choice([*self.encoders, self.poll])
        room = random.choice([None, None, 5, 500, 3_000])
        reader = self.world.subscribe(
            *names, start=self.start(), encoder=encoder, room=room, most=random.choice([None, 2])
        )
        if not encoder.once:
            self.open.append(reader)

    def stall(self) -> None:
        if self.open:
            self.random.choice(self.open).room = 0

    def drain(self) -> None:
        if self.open:
            self.random.choice(self.open).drain(self.random.choice([None, 5, 500, 3_000]))

    def close(self) -> None:
        if self.open and self.random.random() < 0.4:
            reader = self.open.pop(self.random.randrange(len(self.open)))
            reader.reader.close()
            self.remember(reader)

    def remember(self, reader: RecordingReader) -> None:
        if reader.position:
            self.positions.append(reader.position)

    def turn(self) -> None:
        self.world.clock.turn()

    def pass_time(self) -> None:
        self.world.clock.advance(self.random.choice([0.001, 0.05, 0.5]))
        for reader in self.open:
            self.remember(reader)

    def __call__(self) -> None:
        world = self.world
        copy = None
        for step in range(self.random.randrange(20, 120)):
            self.random.choice(self.actions)()
            if self.resets and world.delayed is not None:
                if step == 20:
                    copy = world.delayed.copy()
                elif copy is not None and self.random.random() < 0.03:
                    world.delayed.restore(copy)
        if world.delayed is not None:
            world.delayed.log.faults = GOOD_LINK
        world.settle(3.0)
        for _ in range(3):
            for reader in world.readers:
                reader.drain(None)
            world.settle(3.0)
        self.check_all_arrived()
        world.check_everything()
        world.check_empty()

    def check_all_arrived(self) -> None:
        for reader in self.open:
            if reader.end is not None:
                continue
            assert reader.opening
            for name, at in reader.at.items():
                head = self.world.head(name)
                assert at == head.last, f"{name}: a reader came only to {at} of {head.last}"
                assert reader.epochs[name] == head.epoch
            assert reader.reader.cohort is not None, "at the head and idle, but not live"


POLICIES = [SlowReader.GAP, SlowReader.GAP, SlowReader.LATEST, SlowReader.DISCONNECT]


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("window", [TINY, LARGE], ids=["tiny", "large"])
@pytest.mark.parametrize("link", [None, GOOD_LINK, BAD_LINK], ids=["memory", "delayed", "lossy"])
def test_nothing_is_lost_doubled_or_untold(link: Faults | None, window: Window, block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        try:
            Run(seed, window, POLICIES[seed % len(POLICIES)], link, resets=False)()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize("link", [GOOD_LINK, BAD_LINK], ids=["delayed", "lossy"])
def test_a_store_that_fell_back_is_told(link: Faults, block: int) -> None:
    for seed in range(block * 20, block * 20 + 20):
        try:
            Run(seed, TINY if seed % 2 else LARGE, SlowReader.GAP, link, resets=True)()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
