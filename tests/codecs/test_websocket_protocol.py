"""The rules of RFC 6455 §5 to §8, one by one, for the codec."""

from __future__ import annotations

import itertools
import sys

import pytest

from everywire.codecs.websocket import (
    BinaryMessage,
    CloseCode,
    CloseReceived,
    Event,
    Failed,
    Opcode,
    PingReceived,
    PongReceived,
    Role,
    TextMessage,
    WebSocketCodec,
    encode_close,
    encode_frame,
)
from everywire.codecs.websocket.protocol import MAX_OWED_PONG_BYTES
from tests.codecs.websocket_driving import (
    MASK,
    echo,
    frames_of_server,
    masked,
    one_by_one,
    read,
    read_all,
    server,
)

TEXT, BINARY, CONTINUATION = Opcode.TEXT, Opcode.BINARY, Opcode.CONTINUATION
PING, PONG, CLOSE = Opcode.PING, Opcode.PONG, Opcode.CLOSE


@pytest.mark.parametrize(
    ("wire", "events"),
    [
        pytest.param(masked(TEXT, b"Hello"), [TextMessage(b"Hello")], id="text"),
        pytest.param(masked(TEXT), [TextMessage(b"")], id="empty text"),
        pytest.param(masked(TEXT, "grüß €𝄞".encode()), [TextMessage("grüß €𝄞".encode())], id="not ascii"),
        pytest.param(masked(TEXT, b"x" * 125), [TextMessage(b"x" * 125)], id="125 bytes"),
        pytest.param(masked(TEXT, b"x" * 126), [TextMessage(b"x" * 126)], id="126 bytes"),
        pytest.param(masked(BINARY, b"\xff" * 65535), [BinaryMessage(b"\xff" * 65535)], id="65535 bytes"),
        pytest.param(masked(BINARY, b"\xff" * 65536), [BinaryMessage(b"\xff" * 65536)], id="65536 bytes"),
        pytest.param(
            masked(TEXT, b"Hel", fin=False) + masked(CONTINUATION, b"lo"), [TextMessage(b"Hello")], id="§5.4"
        ),
        pytest.param(
            masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"\x82\xac"),
            [TextMessage("€".encode())],
            id="§5.6 character over two fragments",
        ),
        pytest.param(
            masked(BINARY, fin=False) + masked(CONTINUATION, fin=False) + masked(CONTINUATION),
            [BinaryMessage(b"")],
            id="empty fragments",
        ),
        pytest.param(
            masked(TEXT, b"a", fin=False) + masked(PING, b"!") + masked(PONG) + masked(CONTINUATION, b"b"),
            [PingReceived(b"!"), PongReceived(b""), TextMessage(b"ab")],
            id="§5.4 control frames within a message",
        ),
        pytest.param(masked(PING, b"x" * 125), [PingReceived(b"x" * 125)], id="ping of 125 bytes"),
        pytest.param(masked(CLOSE), [CloseReceived(1005, "")], id="§7.1.5 no code"),
        pytest.param(
            encode_close(1000, "tschüß", mask=MASK), [CloseReceived(1000, "tschüß")], id="code and reason"
        ),
        pytest.param(
            masked(CLOSE) + masked(TEXT, b"late") + b"garbage",
            [CloseReceived(1005, "")],
            id="after the close",
        ),
    ],
)
def test_good_frames(wire: bytes, events: list[Event]) -> None:
    assert read(server(), wire) == events
    assert read_all(server(), one_by_one(wire)) == events


def zero_length(opcode: int) -> bytes:
    return bytes((0x80 | opcode, 0x80)) + MASK


BAD_FRAMES = [
    pytest.param(b"\x91\x80" + MASK, 1002, "reserved bit", id="§5.2 RSV3"),
    pytest.param(b"\xa1\x80" + MASK, 1002, "reserved bit", id="§5.2 RSV2"),
    pytest.param(b"\xc1\x80" + MASK, 1002, "reserved bit", id="§5.2 RSV1 without an extension"),
    *(
        pytest.param(zero_length(opcode), 1002, "reserved opcode", id=f"§5.2 opcode {opcode}")
        for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)
    ),
    pytest.param(b"\x81\x05Hello", 1002, "unmasked", id="§5.1 unmasked"),
    pytest.param(b"\x89\x00", 1002, "unmasked", id="§5.1 unmasked ping"),
    pytest.param(b"\x09\x80" + MASK, 1002, "fragmented control", id="§5.5 fragmented ping"),
    pytest.param(b"\x08\x80" + MASK, 1002, "fragmented control", id="§5.5 fragmented close"),
    pytest.param(b"\x89\xfe\x00\x7e" + MASK + bytes(126), 1002, "more than 125", id="§5.5 long ping"),
    pytest.param(b"\x88\xff", 1002, "more than 125", id="§5.5 long close"),
    pytest.param(masked(CONTINUATION, b"x"), 1002, "continuation", id="§5.4 continuation of nothing"),
    pytest.param(masked(CONTINUATION, b"x", fin=False), 1002, "continuation", id="§5.4 the same, not final"),
    pytest.param(
        masked(TEXT, b"a", fin=False) + masked(TEXT, b"b"), 1002, "new message", id="§5.4 text within text"
    ),
    pytest.param(
        masked(TEXT, b"a", fin=False) + masked(BINARY, b"b", fin=False), 1002, "new message", id="§5.4 binary"
    ),
    pytest.param(b"\x82\xfe\x00\x7d", 1002, "shortest", id="§5.2 125 in 16 bits"),
    pytest.param(b"\x82\xfe\x00\x00", 1002, "shortest", id="§5.2 0 in 16 bits"),
    pytest.param(b"\x82\xfe\x00\x05" + MASK + bytes(5), 1002, "shortest", id="§5.2 5 in 16 bits, whole"),
    pytest.param(b"\x82\xff" + bytes(6) + b"\xff\xff", 1002, "shortest", id="§5.2 65535 in 64 bits"),
    pytest.param(b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00", 1002, "top bit", id="§5.2 top bit"),
    pytest.param(b"\x82\xff" + b"\xff" * 8, 1002, "top bit", id="§5.2 all bits"),
    pytest.param(b"\x82\xff\x7f" + b"\xff" * 7, 1009, "message of more than", id="63 bits"),
    pytest.param(masked(CLOSE, b"\x03"), 1002, "half a close code", id="§5.5.1 one byte"),
    pytest.param(masked(CLOSE, b"\x03\xe8\xff"), 1007, "reason is not UTF-8", id="§5.5.1 reason"),
    pytest.param(masked(TEXT, b"\xff"), 1007, "not UTF-8", id="§8.1 byte that never occurs"),
    pytest.param(masked(TEXT, b"\xc0\x80"), 1007, "not UTF-8", id="§8.1 overlong"),
    pytest.param(masked(TEXT, b"\xed\xa0\x80"), 1007, "not UTF-8", id="§8.1 surrogate"),
    pytest.param(masked(TEXT, b"\xf4\x90\x80\x80"), 1007, "not UTF-8", id="§8.1 above U+10FFFF"),
    pytest.param(masked(TEXT, b"abc\xe2\x82"), 1007, "not UTF-8", id="§8.1 ends within a character"),
    pytest.param(
        masked(TEXT, b"\xe2", fin=False) + masked(CONTINUATION, b"x"), 1007, "not UTF-8", id="§8.1 fragments"
    ),
]


@pytest.mark.parametrize(("wire", "code", "reason"), BAD_FRAMES)
def test_bad_frames(wire: bytes, code: int, reason: str) -> None:
    for chunks in ([wire], list(one_by_one(wire)), [masked(TEXT, b"ok") + wire]):
        codec = server()
        events = read_all(codec, chunks)
        failed = events[-1]
        assert isinstance(failed, Failed)
        assert failed.code == code
        assert reason in failed.reason
        assert events[:-1] == ([TextMessage(b"ok")] if len(chunks[0]) > len(wire) else [])
        assert codec.close_sent
        assert not codec.closed
        assert frames_of_server(codec.data_to_send()) == [CloseReceived(code, failed.reason)]
        assert codec.closed
        assert read(codec, masked(TEXT, b"late")) == []


def test_new_message_within_a_fragmented_one_in_its_own_read() -> None:
    codec = server()
    assert read_all(codec, [masked(TEXT, b"a", fin=False), masked(TEXT, b"b")]) == [
        Failed(1002, "new message within a fragmented one")
    ]


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, PONG, CLOSE])
def test_client_refuses_masked_frames(opcode: Opcode) -> None:
    codec = WebSocketCodec(Role.CLIENT)
    assert read(codec, masked(opcode)) == [Failed(1002, "masked frame from a server")]
    assert read(server(), codec.data_to_send()) == [CloseReceived(1002, "masked frame from a server")]


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3003, 3999, 4000, 4999])
def test_close_codes_that_may_come(code: int) -> None:
    codec = server()
    assert read(codec, masked(CLOSE, code.to_bytes(2, "big"))) == [CloseReceived(code, "")]
    assert codec.data_to_send() == encode_close(code)
    assert codec.closed


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_close_codes_that_must_not_come(code: int) -> None:
    codec = server()
    assert read(codec, masked(CLOSE, code.to_bytes(2, "big"))) == [
        Failed(1002, f"close code {code} must not be sent")
    ]
    assert not codec.close_received


@pytest.mark.parametrize(
    ("start", "bad"),
    [
        (b"\xce\xba\xe1\xbd\xb9", b"\xf4\x90"),
        (b"abc", b"\xed\xa0"),
        (b"abc", b"\xc1"),
        (b"abc\xe2\x82", b"x"),
        (b"abc", b"\xe0\x80"),
        (b"", b"\xff"),
    ],
)
def test_bad_text_fails_at_its_first_bad_byte(start: bytes, bad: bytes) -> None:
    """Inside one frame of which most is still to come (§8.1, Autobahn 6.4)."""
    wire = masked(TEXT, start + bad + b"x" * 100)
    head = 6
    codec = server()
    assert read(codec, wire[: head + len(start + bad) - 1]) == []
    assert read(codec, wire[head + len(start + bad) - 1 :][:1]) == [Failed(1007, "text message is not UTF-8")]


def can_become_utf8(start: bytes) -> bool:
    """Whether some continuation bytes complete it: the extremes and one between are enough to know."""
    tails = itertools.product((0x80, 0x9F, 0xA0, 0xBF), repeat=3)
    for tail in tails:
        for size in range(4):
            try:
                (start + bytes(tail[:size])).decode()
            except UnicodeDecodeError:
                continue
            return True
    return False


def test_every_start_of_a_character_is_judged_at_once() -> None:
    starts = [bytes((first,)) for first in range(0x80, 0x100)]
    starts += [bytes((first, second)) for first in range(0xC0, 0x100) for second in range(0x70, 0xC8)]
    starts += [bytes((first, 0x90, third)) for first in range(0xE0, 0x100) for third in (0x7F, 0x80, 0xC0)]
    for start in starts:
        failed = read(server(), masked(TEXT, start + b"x" * 10)[: 6 + len(start)]) != []
        assert failed != can_become_utf8(start), start


def test_too_big_fails_as_soon_as_declared() -> None:
    limited = {"max_message_bytes": 1000}
    assert read(server(**limited), masked(BINARY, bytes(1000))) == [BinaryMessage(bytes(1000))]
    too_big = [Failed(1009, "message of more than 1000 bytes")]
    assert read(server(**limited), masked(BINARY, bytes(1001))) == too_big
    assert read(server(**limited), b"\x82\xfe\x03\xe9") == too_big
    codec = server(**limited)
    assert read(codec, masked(BINARY, bytes(600), fin=False)) == []
    assert read(codec, b"\x80\xfe\x01\x91") == too_big


def test_small_limit_holds_on_the_fast_path() -> None:
    assert read(server(max_message_bytes=10), masked(TEXT, b"x" * 11)) == [
        Failed(1009, "message of more than 10 bytes")
    ]


@pytest.mark.parametrize("size", [0, 1])
def test_fragments_are_bounded(size: int) -> None:
    """CVE-2026-48779, CVE-2026-42786: bytes alone are no bound."""
    middle = masked(CONTINUATION, b"x" * size, fin=False)
    most = masked(BINARY, b"x" * size, fin=False) + middle * 4
    codec = server(max_fragments=5)
    assert read(codec, most) == []
    assert read(codec, middle) == [Failed(1009, "message of more than 5 fragments")]
    # An empty frame that only ends the message is one more than Autobahn's 65,536 (9.3.1).
    assert read(server(max_fragments=5), most + masked(CONTINUATION)) == [BinaryMessage(b"x" * size * 5)]
    assert read(server(max_fragments=5), most + masked(CONTINUATION, b"x")) == [
        Failed(1009, "message of more than 5 fragments")
    ]


# Answers


def test_answers_keep_their_place() -> None:
    wire = masked(TEXT, b"a") + masked(PING, b"1") + masked(BINARY, b"b") + masked(PING, b"2") + b"\xff\xff"
    codec = server()
    assert frames_of_server(echo(codec, [wire])) == [
        TextMessage(b"a"),
        PongReceived(b"1"),
        BinaryMessage(b"b"),
        PongReceived(b"2"),
        CloseReceived(1002, "reserved bit set"),
    ]
    assert codec.closed
    in_parts = server()
    assert frames_of_server(echo(in_parts, one_by_one(wire))) == frames_of_server(echo(server(), [wire]))


def test_pong_comes_before_the_message_it_interrupts() -> None:
    wire = masked(TEXT, b"a", fin=False) + masked(PING) + masked(CONTINUATION, b"b")
    assert frames_of_server(echo(server(), [wire])) == [PongReceived(b""), TextMessage(b"ab")]


def test_replies_precede_the_answer_to_a_close() -> None:
    codec = server()
    written = echo(codec, [masked(TEXT, b"a") + encode_close(1001, "off", mask=MASK)])
    assert frames_of_server(written) == [TextMessage(b"a"), CloseReceived(1001, "")]
    assert codec.closed


def test_output_may_be_taken_between_events() -> None:
    codec = server()
    written = []
    for event in codec.receive_data(masked(TEXT, b"a") + masked(TEXT, b"b") + masked(CLOSE)):
        if isinstance(event, TextMessage):
            codec.send_text(event.data)
        written.append(codec.data_to_send())
    assert written == [b"\x81\x01a", b"\x81\x01b", b"\x88\x00"]


def test_ten_pings_get_ten_pongs() -> None:
    codec = server()
    read(codec, b"".join(masked(PING, b"%d" % n) for n in range(10)))
    assert frames_of_server(codec.data_to_send()) == [PongReceived(b"%d" % n) for n in range(10)]


def test_ping_flood_owes_a_bounded_answer() -> None:
    codec = server()
    codec.send_text("kept")
    for n in range(5000):
        read(codec, masked(PING, b"%0125d" % n))
    owed = codec.data_to_send()
    assert len(owed) <= MAX_OWED_PONG_BYTES + 6
    first, *pongs = frames_of_server(owed)
    assert first == TextMessage(b"kept")
    assert pongs[-1] == PongReceived(b"%0125d" % 4999)
    assert len(pongs) + codec.pongs_dropped == 5000


def test_pongs_that_were_handed_out_are_owed_no_more() -> None:
    codec = server()
    for _ in range(1000):
        assert echo(codec, [masked(PING, b"x" * 125) * 2]) == encode_frame(PONG, b"x" * 125) * 2
    assert codec.pongs_dropped == 0


# Sending and ending


@pytest.mark.parametrize("role", Role)
def test_what_one_end_sends_the_other_reads(role: Role) -> None:
    other = Role.CLIENT if role is Role.SERVER else Role.SERVER
    codec = WebSocketCodec(role)
    assert codec.data_to_send() == b""
    assert codec.send_text("é")
    assert codec.send_text("é".encode())
    assert codec.send_binary(b"\0")
    assert codec.send_ping(b"p")
    assert codec.send_pong()
    assert codec.send_close(CloseCode.TRY_AGAIN_LATER, "soon")
    assert read(WebSocketCodec(other), codec.data_to_send()) == [
        TextMessage("é".encode()),
        TextMessage("é".encode()),
        BinaryMessage(b"\0"),
        PingReceived(b"p"),
        PongReceived(b""),
        CloseReceived(1013, "soon"),
    ]
    assert codec.data_to_send() == b""


def test_client_masks_each_frame_anew() -> None:
    codec = WebSocketCodec(Role.CLIENT)
    masks = set()
    for _ in range(20):
        codec.send_text("x")
        masks.add(codec.data_to_send()[2:6])
    assert len(masks) > 10


def test_nothing_is_sent_after_the_close_frame() -> None:
    """§5.5.1, and pings are not answered any more."""
    codec = server()
    assert codec.send_close()
    assert not codec.send_close(1001)
    assert not codec.send_text("x")
    assert not codec.send_binary(b"x")
    assert not codec.send_ping()
    assert not codec.send_pong()
    assert read(codec, masked(PING) + masked(TEXT, b"still read")) == [
        PingReceived(b""),
        TextMessage(b"still read"),
    ]
    assert codec.data_to_send() == encode_close(1000)
    assert not codec.closed
    assert read(codec, masked(CLOSE)) == [CloseReceived(1005, "")]
    assert codec.data_to_send() == b""
    assert codec.closed


def test_closed_only_when_all_was_handed_out() -> None:
    codec = server()
    read(codec, masked(CLOSE))
    assert codec.close_sent
    assert codec.close_received
    assert not codec.closed
    codec.data_to_send()
    assert codec.closed


def test_failure_after_our_close_sends_no_second_one() -> None:
    codec = server()
    codec.send_close(1001)
    codec.data_to_send()
    assert read(codec, b"\xff\xff") == [Failed(1002, "reserved bit set")]
    assert codec.data_to_send() == b""
    assert codec.closed


@pytest.mark.parametrize("code", [1005, 1006, 1015, 999, 5000])
def test_send_close_refuses_codes_that_must_not_be_sent(code: int) -> None:
    codec = server()
    with pytest.raises(ValueError, match="must not be sent"):
        codec.send_close(code)
    assert not codec.close_sent


@pytest.mark.parametrize("before", [b"", masked(TEXT, b"x")[:7], masked(TEXT, b"x", fin=False), b"\x81"])
def test_eof_without_close_frame_is_1006(before: bytes) -> None:
    codec = server()
    read(codec, before)
    gone = Failed(1006, "the peer went away without a close frame")
    assert list(codec.receive_eof()) == [gone]
    assert list(codec.receive_eof()) == []
    assert codec.data_to_send() == b""
    assert codec.closed
    assert read(codec, masked(TEXT, b"x")) == []


@pytest.mark.parametrize("wire", [masked(CLOSE), b"\xff\xff"])
def test_eof_after_the_end_is_silent(wire: bytes) -> None:
    codec = server()
    read(codec, wire)
    assert list(codec.receive_eof()) == []
    assert not codec.closed  # the close frame is still owed
    assert codec.data_to_send()
    assert codec.closed


def test_idle_codec_is_small_and_holds_nothing() -> None:
    codec = server()
    read(codec, masked(TEXT, b"x" * 5000))
    codec.send_text("x")
    codec.data_to_send()
    assert sys.getsizeof(codec) < 250
    assert not hasattr(codec, "__dict__")
    held = [getattr(codec, name) for name in codec.__slots__]
    assert [value for value in held if isinstance(value, list | bytearray | dict)] == []
    assert all(len(value) == 0 for value in held if isinstance(value, bytes))


def test_text_of_a_message() -> None:
    assert TextMessage("grüß".encode()).text == "grüß"


@pytest.mark.parametrize("size", [0, 1, 124, 125, 126, 127, 200, 300, 65_535, 65_536])
def test_one_frame_cut_anywhere_in_its_start(size: int) -> None:
    """Among these cuts are those where a part looks as long as a whole frame with a shorter head."""
    wire = masked(BINARY, b"x" * size)
    for cut in range(min(len(wire), 150)):
        assert read_all(server(), [wire[:cut], wire[cut:]]) == [BinaryMessage(b"x" * size)]


def test_frames_after_a_split_head_are_read() -> None:
    wire = masked(TEXT, b"one") + encode_frame(BINARY, bytes(300), mask=MASK) + masked(TEXT, b"two")
    for cut in range(len(wire)):
        assert read_all(server(), [wire[:cut], wire[cut:]]) == [
            TextMessage(b"one"),
            BinaryMessage(bytes(300)),
            TextMessage(b"two"),
        ]
