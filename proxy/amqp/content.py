"""A whole content in one look: its header frame and all its body frames (section 4.2.6). Compiled with the relay."""

from __future__ import annotations

from proxy.amqp import peek
from proxy.amqp.frames import BODY, BODY_BYTES_MAX, FRAME_END, HEADER, OVERHEAD_BYTES, Region

# The payload of a header frame without properties: class, weight, size of the body, property flags.
_HEADER_BYTES = 14


def content_end(buf: Region, pos: int, number: int, size_max: int) -> int:
    """Where a content of channel `number` ends whose header frame begins at `pos`.

    0 if it is not all here, is interrupted, or is anything but flawless: then its frames are looked at one by one, and
    whoever does that finds the words for it. `size_max` is the largest payload of a frame.
    """
    end = len(buf)
    if end - pos < _HEADER_BYTES + OVERHEAD_BYTES or buf[pos] != HEADER or peek.u16(buf, pos + 1) != number:
        return 0
    size = peek.u32(buf, pos + 3)
    stop = pos + size + OVERHEAD_BYTES
    if not _HEADER_BYTES <= size <= size_max or stop > end or buf[stop - 1] != FRAME_END:
        return 0
    left = peek.u64(buf, pos + 11)
    if left > BODY_BYTES_MAX:
        return 0
    while left:
        pos = stop
        if end - pos < OVERHEAD_BYTES or buf[pos] != BODY or peek.u16(buf, pos + 1) != number:
            return 0
        size = peek.u32(buf, pos + 3)
        stop = pos + size + OVERHEAD_BYTES
        if size > size_max or size > left or stop > end or buf[stop - 1] != FRAME_END:
            return 0
        left -= size
    return stop
