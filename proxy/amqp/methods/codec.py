"""Bytes to methods and back: which method has which number, which fields on the wire, which reply."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from proxy.amqp.methods import conversation, entities, messages
from proxy.amqp.wire import U8, U16, U32, U64, Reader, longstr, shortstr


def ident(class_id: int, method_id: int) -> int:
    """Class and method as one number: what the first four bytes of a method frame's payload say."""
    return class_id << 16 | method_id


# Told apart by number alone: those that only pass, and those whose arguments seldom matter.
CHANNEL_OPEN = ident(20, 10)
CHANNEL_CLOSE = ident(20, 40)
CHANNEL_CLOSE_OK = ident(20, 41)
ACCESS_REQUEST = ident(30, 10)
BASIC_PUBLISH = ident(60, 40)
BASIC_RETURN = ident(60, 50)
BASIC_DELIVER = ident(60, 60)
BASIC_GET_OK = ident(60, 71)
BASIC_GET_EMPTY = ident(60, 72)
BASIC_ACK = ident(60, 80)
BASIC_REJECT = ident(60, 90)
BASIC_RECOVER_ASYNC = ident(60, 100)
BASIC_RECOVER = ident(60, 110)
BASIC_NACK = ident(60, 120)
TX_COMMIT = ident(90, 20)
TX_ROLLBACK = ident(90, 30)
CONNECTION_SECURE = ident(10, 20)
CONNECTION_UPDATE_SECRET_OK = ident(10, 71)

# The wire type of each field: o octet, h short, l long, q longlong, s short string, S long string, b bit,
# T field table (raw).
_LAYOUT: dict[int, tuple[type[NamedTuple], str]] = {
    ident(10, 10): (conversation.ConnectionStart, "ooTSS"),
    ident(10, 11): (conversation.ConnectionStartOk, "TsSs"),
    ident(10, 30): (conversation.ConnectionTune, "hlh"),
    ident(10, 31): (conversation.ConnectionTuneOk, "hlh"),
    ident(10, 40): (conversation.ConnectionOpen, "ssb"),
    ident(10, 41): (conversation.ConnectionOpenOk, "s"),
    ident(10, 50): (conversation.ConnectionClose, "hshh"),
    ident(10, 51): (conversation.ConnectionCloseOk, ""),
    ident(10, 60): (conversation.ConnectionBlocked, "s"),
    ident(10, 61): (conversation.ConnectionUnblocked, ""),
    ident(10, 70): (conversation.ConnectionUpdateSecret, "Ss"),
    ident(20, 10): (conversation.ChannelOpen, "s"),
    ident(20, 11): (conversation.ChannelOpenOk, "S"),
    ident(20, 20): (conversation.ChannelFlow, "b"),
    ident(20, 21): (conversation.ChannelFlowOk, "b"),
    ident(20, 40): (conversation.ChannelClose, "hshh"),
    ident(20, 41): (conversation.ChannelCloseOk, ""),
    ident(40, 10): (entities.ExchangeDeclare, "hssbbbbbT"),
    ident(40, 20): (entities.ExchangeDelete, "hsbb"),
    ident(40, 30): (entities.ExchangeBind, "hsssbT"),
    ident(40, 40): (entities.ExchangeUnbind, "hsssbT"),
    ident(50, 10): (entities.QueueDeclare, "hsbbbbbT"),
    ident(50, 11): (entities.QueueDeclareOk, "sll"),
    ident(50, 20): (entities.QueueBind, "hsssbT"),
    ident(50, 30): (entities.QueuePurge, "hsb"),
    ident(50, 40): (entities.QueueDelete, "hsbbb"),
    ident(50, 50): (entities.QueueUnbind, "hsssT"),
    ident(60, 10): (messages.BasicQos, "lhb"),
    ident(60, 20): (messages.BasicConsume, "hssbbbbT"),
    ident(60, 30): (messages.BasicCancel, "sb"),
    ident(60, 31): (messages.BasicCancelOk, "s"),
    ident(60, 40): (messages.BasicPublish, "hssbb"),
    ident(60, 50): (messages.BasicReturn, "hsss"),
    ident(60, 70): (messages.BasicGet, "hsb"),
    ident(60, 71): (messages.BasicGetOk, "qbssl"),
    ident(60, 80): (messages.BasicAck, "qb"),
    ident(60, 111): (messages.BasicRecoverOk, ""),
    ident(60, 120): (messages.BasicNack, "qbb"),
    ident(85, 10): (messages.ConfirmSelect, "b"),
    ident(85, 11): (messages.ConfirmSelectOk, ""),
    ident(90, 10): (messages.TxSelect, ""),
    ident(90, 11): (messages.TxSelectOk, ""),
    ident(90, 21): (messages.TxCommitOk, ""),
    ident(90, 31): (messages.TxRollbackOk, ""),
}
_IDS: dict[type, int] = {cls: number for number, (cls, _) in _LAYOUT.items()}

# Which replies end which request. A request with `nowait` has none.
REPLIES: dict[int, tuple[int, ...]] = {
    ident(10, 70): (CONNECTION_UPDATE_SECRET_OK,),
    ident(20, 10): (ident(20, 11),),
    ident(20, 20): (ident(20, 21),),
    ident(20, 40): (ident(20, 41),),
    ACCESS_REQUEST: (ident(30, 11),),
    ident(40, 10): (ident(40, 11),),
    ident(40, 20): (ident(40, 21),),
    ident(40, 30): (ident(40, 31),),
    ident(40, 40): (ident(40, 51),),
    ident(50, 10): (ident(50, 11),),
    ident(50, 20): (ident(50, 21),),
    ident(50, 30): (ident(50, 31),),
    ident(50, 40): (ident(50, 41),),
    ident(50, 50): (ident(50, 51),),
    ident(60, 10): (ident(60, 11),),
    ident(60, 20): (ident(60, 21),),
    ident(60, 30): (ident(60, 31),),
    ident(60, 70): (BASIC_GET_OK, BASIC_GET_EMPTY),
    BASIC_RECOVER: (ident(60, 111),),
    ident(85, 10): (ident(85, 11),),
    ident(90, 10): (ident(90, 11),),
    TX_COMMIT: (ident(90, 21),),
    TX_ROLLBACK: (ident(90, 31),),
}

_READ: dict[str, Callable[[Reader], object]] = {
    "o": Reader.octet, "h": Reader.short, "l": Reader.long, "q": Reader.longlong,
    "s": Reader.shortstr, "S": Reader.longstr, "b": Reader.bit, "T": Reader.table,
}  # fmt: skip
_WRITE: dict[str, Callable[..., bytes]] = {
    "o": U8.pack, "h": U16.pack, "l": U32.pack, "q": U64.pack, "s": shortstr, "S": longstr, "T": longstr,
}  # fmt: skip
# The layouts once more as what is called for each field, None for a bit: nothing is looked up for a method on its way.
_READERS: dict[type, tuple[Callable[[Reader], object], ...]] = {
    cls: tuple(_READ[kind] for kind in layout) for cls, layout in _LAYOUT.values()
}
_WRITERS: dict[type, tuple[bytes, tuple[Callable[..., bytes] | None, ...]]] = {
    cls: (U32.pack(number), tuple(_WRITE.get(kind) for kind in layout)) for number, (cls, layout) in _LAYOUT.items()
}

M = TypeVar("M", bound=tuple[object, ...])


def method_id(cls: type) -> int:
    """The identifier of a method class."""
    return _IDS[cls]


def decode(cls: type[M], payload: bytes) -> M:
    """Read the arguments of a method; `payload` starts with class and method.

    Raises `ClientError` (501) when it ends too early. Whoever reads a broker's frame turns that into `BrokerError`.
    """
    reader = Reader(payload, 4)
    make: Callable[..., M] = cls
    return make(*[read(reader) for read in _READERS[cls]])


def encode(method: tuple[object, ...]) -> bytes:
    """Write a method's payload: class, method, arguments."""
    number, writers = _WRITERS[type(method)]
    parts = [number]
    bits = count = 0
    for write, value in zip(writers, method, strict=True):
        if write is None:
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            parts.append(bytes((bits,)))
            bits = count = 0
        parts.append(write(value))
    if count:
        parts.append(bytes((bits,)))
    return b"".join(parts)
