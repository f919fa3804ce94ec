"""Frames: what is around a method, a content header or a piece of body (section 4.2.3).

octet type | short channel | long size | size bytes of payload | octet 206
"""

from __future__ import annotations

from struct import Struct

from proxy.amqp.methods import encode

METHOD, HEADER, BODY, HEARTBEAT = 1, 2, 3, 8
FRAME_END = 206
# A size of a body that nobody means, and beyond which it would look like no size at all.
BODY_BYTES_MAX = 2**62
# RabbitMQ sends a header frame larger than frame_max when headers are large; this bounds what is believed at all.
BROKER_FRAME_MAX_BYTES = 128 * 1024 * 1024
# Octets of a frame that are not payload.
OVERHEAD_BYTES = 8
# The payload of an ack, reject or nack: class, method, tag, one octet of bits.
ACK_BYTES = 13

PROTOCOL_HEADER = b"AMQP\x00\x00\x09\x01"
HEARTBEAT_FRAME = b"\x08\x00\x00\x00\x00\x00\x00\xce"

HEAD = Struct("!BHI")

Buffer = bytes | bytearray | memoryview
# What a walk reads, and may change where it has made it its own (`peek.owned`).
Region = bytes | bytearray


def frame(kind: int, channel: int, payload: bytes) -> bytes:
    """Wrap a payload."""
    return HEAD.pack(kind, channel, len(payload)) + payload + b"\xce"


def method_frame(channel: int, method: tuple[object, ...]) -> bytes:
    """A whole method frame, ready for the wire."""
    return frame(METHOD, channel, encode(method))


class Inlet:
    """Hand out a byte stream in regions of whole frames, without copying what need not be copied.

    A chunk is given on as it came; only the frame that straddles two chunks is put together. The scanner walks a
    region and says with `keep` where it met the first frame that is not all here.
    """

    __slots__ = ("_have", "_need", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._have = 0
        self._need = 0

    @property
    def kept_bytes(self) -> int:
        """What is here of a frame that is not all here."""
        return self._have

    def regions(self, chunk: bytes) -> list[tuple[bytes, int]]:
        """Regions to scan, as (buffer, start): the straddling frame if it is complete now, then the rest."""
        if not self._have:
            return [(chunk, 0)]
        if not self._need:  # the head itself is cut
            chunk = b"".join(self._pieces) + chunk
            self._reset()
            return [(chunk, 0)]
        missing = self._need - self._have
        if len(chunk) < missing:
            self._pieces.append(chunk)
            self._have += len(chunk)
            return []
        self._pieces.append(chunk[:missing])
        whole = b"".join(self._pieces)
        self._reset()
        return [(whole, 0), (chunk, missing)] if len(chunk) > missing else [(whole, 0)]

    def keep(self, buf: bytes, pos: int) -> None:
        """Remember the incomplete frame at the end of a region."""
        if pos < len(buf):
            rest = buf[pos:]
            self._pieces.append(rest)
            self._have = len(rest)
            if self._have >= OVERHEAD_BYTES:  # with fewer, the scanner has not judged the size
                self._need = OVERHEAD_BYTES + int(HEAD.unpack_from(rest)[2])

    def _reset(self) -> None:
        self._pieces = []
        self._have = self._need = 0
