"""The sources of `everywire feed`."""

from __future__ import annotations

import asyncio
import json
import os
import time
from contextlib import aclosing
from pathlib import Path

import pytest

from everywire.cli.sources import MAX_LINE_BYTES, Sample, lines, machine, replay
from everywire.core.errors import BadRequest, TooLarge

DEADLINE_S = 20.0


async def collect(source, number: int | None = None) -> list[Sample]:
    samples: list[Sample] = []
    async with asyncio.timeout(DEADLINE_S), aclosing(source):
        async for sample in source:
            samples.append(sample)
            if len(samples) == number:
                break
    return samples


async def test_machine_tells_real_figures() -> None:
    for sample in await collect(machine(0.05), 3):
        figures = json.loads(sample.data)
        assert set(figures) == {"cpu", "memory", "network", "load"}
        assert 0 <= figures["cpu"] <= 100
        assert 0 < figures["memory"]["used"] < figures["memory"]["total"]
        assert 0 < figures["memory"]["percent"] < 100
        assert figures["network"]["rx_bytes_per_s"] >= 0
        assert figures["network"]["tx_bytes_per_s"] >= 0
        assert len(figures["load"]) == 3
        assert (sample.content_type, sample.event, sample.tags) == ("", None, None)


async def test_lines_keep_json_and_quote_the_rest() -> None:
    reading, writing = os.pipe()
    os.write(writing, b'{"a": 1}\n3.50\n\nplain text\r\n"quoted"\n\xff\xfe\nlast, without an end')
    os.close(writing)
    samples = await collect(lines(reading))
    os.close(reading)
    assert [sample.data for sample in samples] == [
        b'{"a": 1}',
        b"3.50",
        b'"plain text"',
        b'"quoted"',
        '"\ufffd\ufffd"'.encode(),
        b'"last, without an end"',
    ]


async def test_lines_of_a_regular_file_are_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"{number}\n" for number in range(5000)))
    with path.open("rb") as file:
        samples = await collect(lines(file.fileno()))
    assert [int(sample.data) for sample in samples] == list(range(5000))


async def test_a_line_without_end_is_refused() -> None:
    reading, writing = os.pipe()

    def fill() -> None:
        try:
            for _ in range(MAX_LINE_BYTES // 65536 + 2):
                os.write(writing, b"x" * 65536)
        finally:
            os.close(writing)

    filling = asyncio.create_task(asyncio.to_thread(fill))
    with pytest.raises(TooLarge):
        await collect(lines(reading))
    await asyncio.to_thread(_drain, reading)
    await filling
    os.close(reading)


def _drain(descriptor: int) -> None:
    while os.read(descriptor, 65536):
        pass


@pytest.fixture
def recording(tmp_path: Path):
    def write(*rows: object) -> str:
        path = tmp_path / "recording.ndjson"
        path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
        return str(path)

    return write


async def test_replay_publishes_as_it_was_recorded_by_its_own_timestamps(recording) -> None:
    path = recording(
        {"channel": "a", "offset": 7, "data": {"n": 1}, "time": 1_700_000_000_000, "position": "x"},
        {"data": "text", "event": "tick", "tags": {"k": "v"}, "time": 1_700_000_000_200},
        {"data_base64": "AAE=", "content_type": "image/png", "time": 1_700_000_000_400},
    )
    started_s = time.monotonic()
    samples = await collect(replay(path))
    assert time.monotonic() - started_s >= 0.4
    assert samples == [
        Sample(b'{"n":1}'),
        Sample(b'"text"', "", "tick", {"k": "v"}),
        Sample(b"\x00\x01", "image/png"),
    ]


async def test_replay_reads_any_objects_with_a_time_and_goes_at_any_speed(recording) -> None:
    path = recording(
        {"ts": "2024-01-01T00:00:00Z", "v": 1},
        "",
        {"ts": "2024-01-01T01:00:00+00:00", "v": 2},
        {"ts": "2024-01-01T00:30:00", "v": 3},
        {"ts": 1704067200 + 7200, "v": 4},
    )
    samples = await collect(replay(path, speed=1e6))
    assert [json.loads(sample.data)["v"] for sample in samples] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (['{"time": 1, "a": 1}', "not json"], ":2: expected a JSON object"),
        (["[1]"], ":1: expected a JSON object"),
        (['{"a": 1}'], ":1: expected a time in time, timestamp, ts"),
        (['{"time": true}'], ":1: expected a time"),
        (['{"time": "yesterday"}'], ":1: expected a time"),
        (['{"time": 1, "data_base64": "*"}'], ":1: expected base64"),
    ],
)
async def test_a_damaged_recording_is_named_by_its_line(recording, rows: list[str], said: str) -> None:
    path = recording(*rows)
    with pytest.raises(BadRequest) as caught:
        await collect(replay(path))
    assert f"{path}{said}" in caught.value.sentence


async def test_another_field_may_hold_the_time(recording) -> None:
    path = recording({"when": 5, "time": "no time at all"})
    assert len(await collect(replay(path, time_field="when"))) == 1
    with pytest.raises(BadRequest, match="expected a time in absent"):
        await collect(replay(path, time_field="absent"))


async def test_a_missing_recording_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="expected a readable NDJSON file"):
        await collect(replay(str(tmp_path / "none")))
