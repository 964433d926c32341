"""Writing frames and masking, against RFC 6455's own examples."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from everywire.codecs.websocket import CloseCode, Opcode, apply_mask, encode_close, encode_frame
from everywire.codecs.websocket.masking import rotate_mask


def xor(data: bytes, mask: bytes) -> bytes:
    return bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


@given(st.binary(max_size=200), st.binary(min_size=4, max_size=4))
@example(b"", b"\0\0\0\0")
def test_mask_is_the_xor_of_5_3(data: bytes, mask: bytes) -> None:
    assert apply_mask(data, mask) == xor(data, mask)
    assert apply_mask(apply_mask(data, mask), mask) == data


@pytest.mark.parametrize("size", [4095, 4096, 4097, 8191, 8192, 8195, 12_289])
def test_mask_of_blocks(size: int) -> None:
    data = bytes(at * 7 & 255 for at in range(size))
    assert apply_mask(data, b"\x01\x80\xff\x33") == xor(data, b"\x01\x80\xff\x33")


@given(st.binary(max_size=64), st.integers(0, 64), st.binary(min_size=4, max_size=4))
def test_mask_in_parts(data: bytes, cut: int, mask: bytes) -> None:
    first, second = data[:cut], data[cut:]
    assert apply_mask(first, mask) + apply_mask(second, rotate_mask(mask, len(first))) == xor(data, mask)


@pytest.mark.parametrize(
    ("frame", "wire"),
    [
        # §5.7
        (encode_frame(Opcode.TEXT, b"Hello"), b"\x81\x05Hello"),
        (encode_frame(Opcode.TEXT, b"Hello", mask=b"\x37\xfa\x21\x3d"), b"\x81\x857\xfa!=\x7f\x9fMQX"),
        (encode_frame(Opcode.TEXT, b"Hel", fin=False), b"\x01\x03Hel"),
        (encode_frame(Opcode.CONTINUATION, b"lo"), b"\x80\x02lo"),
        (encode_frame(Opcode.PING, b"Hello"), b"\x89\x05Hello"),
        (encode_frame(Opcode.PONG, b"Hello", mask=b"\x37\xfa\x21\x3d"), b"\x8a\x857\xfa!=\x7f\x9fMQX"),
        (encode_frame(Opcode.BINARY, bytes(256)), b"\x82\x7e\x01\x00" + bytes(256)),
        (encode_frame(Opcode.BINARY, bytes(65536)), b"\x82\x7f\0\0\0\0\0\x01\0\0" + bytes(65536)),
        # §5.2: the shortest form
        (encode_frame(Opcode.BINARY, bytes(125)), b"\x82\x7d" + bytes(125)),
        (encode_frame(Opcode.BINARY, bytes(126)), b"\x82\x7e\x00\x7e" + bytes(126)),
        (encode_frame(Opcode.BINARY, bytes(65535)), b"\x82\x7e\xff\xff" + bytes(65535)),
        # RFC 7692 §7.2.3.1
        (
            encode_frame(Opcode.TEXT, b"\xf2\x48\xcd\xc9\xc9\x07\0", rsv1=True),
            b"\xc1\x07\xf2H\xcd\xc9\xc9\x07\0",
        ),
        # §5.5.1
        (encode_close(None), b"\x88\x00"),
        (encode_close(1000, "bye"), b"\x88\x05\x03\xe8bye"),
        (encode_close(CloseCode.GOING_AWAY), b"\x88\x02\x03\xe9"),
    ],
)
def test_wire_form(frame: bytes, wire: bytes) -> None:
    assert frame == wire


@pytest.mark.parametrize(
    "options", [{"payload": bytes(126)}, {"payload": b"", "fin": False}, {"payload": b"", "rsv1": True}]
)
@pytest.mark.parametrize("opcode", [Opcode.CLOSE, Opcode.PING, Opcode.PONG])
def test_control_frames_are_small_and_whole(opcode: Opcode, options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="control frame"):
        encode_frame(opcode, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reason", "kept"),
    [("x" * 200, 123), ("é" * 100, 122), ("x" + "é" * 100, 123), ("€" * 50, 123), ("𝄞" * 40, 120)],
)
def test_reason_is_cut_between_characters(reason: str, kept: int) -> None:
    payload = encode_close(1000, reason)[4:]
    assert len(payload) == kept
    assert reason.startswith(payload.decode())


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536])
def test_codes_that_must_not_be_sent(code: int) -> None:
    with pytest.raises(ValueError, match="must not be sent"):
        encode_close(code)


def test_reason_needs_a_code() -> None:
    with pytest.raises(ValueError, match="needs a close code"):
        encode_close(None, "why")
