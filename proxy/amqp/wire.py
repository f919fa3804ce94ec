"""The elementary values of AMQP 0-9-1: integers, strings, bits and field tables (section 4.2.5).

Field tables are kept as they came: `Table` maps a name to the raw bytes of its value, type octet included. Nothing
is lost or re-typed when one entry is replaced, whatever the client or the broker put beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct

from proxy.errors import ClientError

U8 = Struct("!B")
U16 = Struct("!H")
U32 = Struct("!I")
U64 = Struct("!Q")

Table = dict[bytes, bytes]

# Deeper nesting than this is an attack on the stack: RabbitMQ's own definitions nest three levels.
TABLE_DEPTH_MAX = 16

_FIXED_BYTES = {
    b"t": 1, b"b": 1, b"B": 1, b"s": 2, b"u": 2, b"I": 4, b"i": 4, b"l": 8, b"L": 8,
    b"f": 4, b"d": 8, b"D": 5, b"T": 8, b"V": 0,
}  # fmt: skip
_COUNTED = frozenset((b"S", b"x", b"A", b"F"))


class Reader:
    """Read values one after the other from a method's arguments.

    Raises `ClientError` with reply code 501 (as RabbitMQ does) where the bytes end too early.
    """

    __slots__ = ("_bit", "_bits", "buf", "pos")

    def __init__(self, buf: bytes, pos: int = 0) -> None:
        self.buf = buf
        self.pos = pos
        self._bits = 0
        self._bit = 8

    def skip(self, count: int) -> int:
        """Step over bytes; returns where they start."""
        at = self.pos
        if at + count > len(self.buf):
            raise ClientError("method arguments end too early", reply_code=501)
        self.pos = at + count
        self._bit = 8
        return at

    def octet(self) -> int:
        """Read 8 bits."""
        return self.buf[self.skip(1)]

    def short(self) -> int:
        """Read 16 bits."""
        value: int = U16.unpack_from(self.buf, self.skip(2))[0]
        return value

    def long(self) -> int:
        """Read 32 bits."""
        value: int = U32.unpack_from(self.buf, self.skip(4))[0]
        return value

    def longlong(self) -> int:
        """Read 64 bits."""
        value: int = U64.unpack_from(self.buf, self.skip(8))[0]
        return value

    def bit(self) -> bool:
        """Read one bit; consecutive bits share an octet, the lowest first (section 4.2.5.2)."""
        if self._bit == 8:
            self._bits = self.octet()
            self._bit = 0
        value = bool(self._bits >> self._bit & 1)
        self._bit += 1
        return value

    def shortstr(self) -> bytes:
        """Read up to 255 bytes."""
        at = self.skip(self.buf[self.skip(1)])
        return self.buf[at : self.pos]

    def longstr(self) -> bytes:
        """Read up to 4 GiB, in practice up to the frame's end."""
        at = self.skip(U32.unpack_from(self.buf, self.skip(4))[0])
        return self.buf[at : self.pos]

    def table(self) -> bytes:
        """Read a field table as raw bytes, without its length; `parse_table` opens it."""
        return self.longstr()


def parse_table(raw: bytes, depth: int = 0) -> Table:
    """Open one level of a field table. Raises `ClientError` (501) for what is not one."""
    if depth > TABLE_DEPTH_MAX:
        raise ClientError("field table nests too deep", reply_code=501)
    table: Table = {}
    reader = Reader(raw)
    while reader.pos < len(raw):
        name = reader.shortstr()
        start = reader.pos
        kind = raw[start : start + 1]
        reader.octet()
        if kind in _COUNTED:
            reader.longstr()
        elif (fixed := _FIXED_BYTES.get(kind)) is not None:
            reader.skip(fixed)
        else:
            raise ClientError(f"unknown field table type {kind!r}", reply_code=501)
        table[name] = raw[start : reader.pos]
    return table


def pack_table(table: Mapping[bytes, bytes]) -> bytes:
    """Close a field table again; the result has no length in front."""
    return b"".join(shortstr(name) + value for name, value in table.items())


def text_value(value: str | bytes) -> bytes:
    """Encode a long string as a table value."""
    return b"S" + longstr(value.encode() if isinstance(value, str) else value)


def bool_value(value: bool) -> bytes:
    """Encode a boolean as a table value."""
    return b"t\x01" if value else b"t\x00"


def table_value(table: Mapping[bytes, bytes]) -> bytes:
    """Encode a nested table as a table value."""
    return b"F" + longstr(pack_table(table))


def text_of(table: Mapping[bytes, bytes], name: bytes) -> str:
    """Read a string entry of a table; empty when it is missing or not a string."""
    raw = table.get(name, b"")
    return raw[5:].decode("utf-8", "replace") if raw[:1] == b"S" else ""


def table_of(table: Mapping[bytes, bytes], name: bytes) -> Table:
    """Read a nested table entry; empty when it is missing or not a table."""
    raw = table.get(name, b"")
    return parse_table(raw[5:], depth=1) if raw[:1] == b"F" else {}


def shortstr(value: bytes) -> bytes:
    """Encode up to 255 bytes; longer text of our own making is cut, which matters only for reply texts."""
    value = value[:255]
    return bytes((len(value),)) + value


def longstr(value: bytes) -> bytes:
    """Encode bytes behind a 32-bit length."""
    return U32.pack(len(value)) + value
