"""Read integers in the middle of a buffer, in network byte order, and replace some in place.

In plain Python one call of `struct` is three times cheaper than four look-ups. Where the relay is compiled, `peek.pxd`
takes the place of this file, and the same names are inlined.
"""

from __future__ import annotations

from proxy.amqp.frames import Region
from proxy.amqp.wire import U16, U32, U64


def owned(buf: Region) -> Region:
    """The same bytes, to be changed. Compiled, they are `buf` itself, so nobody else may have it; here, a copy."""
    return bytearray(buf)


def u16(buf: Region, pos: int) -> int:
    """16 bits at `pos`. Raises an error beyond the end, compiled or not."""
    value: int = U16.unpack_from(buf, pos)[0]
    return value


def u32(buf: Region, pos: int) -> int:
    """32 bits at `pos`."""
    value: int = U32.unpack_from(buf, pos)[0]
    return value


def u64(buf: Region, pos: int) -> int:
    """64 bits at `pos`."""
    value: int = U64.unpack_from(buf, pos)[0]
    return value


def put8(buf: Region, pos: int, value: int) -> None:
    """Replace the 8 bits at `pos`, in what is `owned`. Raises an error beyond the end, as all of these."""
    memoryview(buf)[pos] = value


def put64(buf: Region, pos: int, value: int) -> None:
    """Replace the 64 bits at `pos`, in what is `owned`."""
    U64.pack_into(memoryview(buf), pos, value)
