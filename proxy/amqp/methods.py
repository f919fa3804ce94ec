"""The methods of AMQP 0-9-1 that the engine reads or writes, with RabbitMQ's extensions.

A method is a named tuple whose fields are in wire order; `_LAYOUT` gives the wire type of each:
o octet, h short, l long, q longlong, s short string, S long string, b bit, T field table (raw).
Methods that only pass through are known by their identifier alone, see `REPLIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeVar

from proxy.amqp.wire import U16, U32, U64, Reader, longstr, shortstr


class ConnectionStart(NamedTuple):
    """Broker to client, section 1.4.2.1."""

    version_major: int
    version_minor: int
    server_properties: bytes
    mechanisms: bytes
    locales: bytes


class ConnectionStartOk(NamedTuple):
    """Client to broker. `response` is a secret: it must not reach a log."""

    client_properties: bytes
    mechanism: bytes
    response: bytes
    locale: bytes

    def __repr__(self) -> str:
        return f"ConnectionStartOk(mechanism={self.mechanism!r}, response=<redacted>)"


class ConnectionTune(NamedTuple):
    """Broker to client; 0 stands for no limit, or no heartbeat."""

    channel_max: int
    frame_max: int
    heartbeat: int


class ConnectionTuneOk(NamedTuple):
    """Client to broker."""

    channel_max: int
    frame_max: int
    heartbeat: int


class ConnectionOpen(NamedTuple):
    """Client to broker."""

    virtual_host: bytes
    capabilities: bytes = b""
    insist: bool = False


class ConnectionOpenOk(NamedTuple):
    """Broker to client."""

    known_hosts: bytes = b""


class ConnectionClose(NamedTuple):
    """Either way: nothing but close-ok may follow."""

    reply_code: int
    reply_text: bytes
    class_id: int = 0
    method_id: int = 0


class ConnectionCloseOk(NamedTuple):
    """Either way."""


class ConnectionBlocked(NamedTuple):
    """RabbitMQ: an alarm stops publishers."""

    reason: bytes


class ConnectionUnblocked(NamedTuple):
    """RabbitMQ: the alarm is over."""


class ConnectionUpdateSecret(NamedTuple):
    """RabbitMQ: a fresh token. `new_secret` is a secret."""

    new_secret: bytes
    reason: bytes

    def __repr__(self) -> str:
        return "ConnectionUpdateSecret(new_secret=<redacted>)"


class ChannelOpen(NamedTuple):
    """Client to broker."""

    reserved: bytes = b""


class ChannelOpenOk(NamedTuple):
    """Broker to client."""

    reserved: bytes = b""


class ChannelFlow(NamedTuple):
    """Either way."""

    active: bool


class ChannelFlowOk(NamedTuple):
    """Either way."""

    active: bool


class ChannelClose(NamedTuple):
    """Either way."""

    reply_code: int
    reply_text: bytes
    class_id: int = 0
    method_id: int = 0


class ChannelCloseOk(NamedTuple):
    """Either way."""


class ExchangeDeclare(NamedTuple):
    """Client to broker."""

    reserved: int
    exchange: bytes
    type: bytes
    passive: bool
    durable: bool
    auto_delete: bool
    internal: bool
    nowait: bool
    arguments: bytes


class ExchangeDelete(NamedTuple):
    """Client to broker."""

    reserved: int
    exchange: bytes
    if_unused: bool
    nowait: bool


class ExchangeBind(NamedTuple):
    """RabbitMQ: exchange-to-exchange binding."""

    reserved: int
    destination: bytes
    source: bytes
    routing_key: bytes
    nowait: bool
    arguments: bytes


class ExchangeUnbind(NamedTuple):
    """RabbitMQ: its end."""

    reserved: int
    destination: bytes
    source: bytes
    routing_key: bytes
    nowait: bool
    arguments: bytes


class QueueDeclare(NamedTuple):
    """Client to broker; an empty name asks for one."""

    reserved: int
    queue: bytes
    passive: bool
    durable: bool
    exclusive: bool
    auto_delete: bool
    nowait: bool
    arguments: bytes


class QueueDeclareOk(NamedTuple):
    """Broker to client."""

    queue: bytes
    message_count: int
    consumer_count: int


class QueueBind(NamedTuple):
    """Client to broker."""

    reserved: int
    queue: bytes
    exchange: bytes
    routing_key: bytes
    nowait: bool
    arguments: bytes


class QueueUnbind(NamedTuple):
    """Client to broker."""

    reserved: int
    queue: bytes
    exchange: bytes
    routing_key: bytes
    arguments: bytes


class QueuePurge(NamedTuple):
    """Client to broker."""

    reserved: int
    queue: bytes
    nowait: bool


class QueueDelete(NamedTuple):
    """Client to broker."""

    reserved: int
    queue: bytes
    if_unused: bool
    if_empty: bool
    nowait: bool


class BasicQos(NamedTuple):
    """Client to broker."""

    prefetch_size: int
    prefetch_count: int
    is_global: bool


class BasicConsume(NamedTuple):
    """Client to broker; an empty tag asks for one."""

    reserved: int
    queue: bytes
    consumer_tag: bytes
    no_local: bool
    no_ack: bool
    exclusive: bool
    nowait: bool
    arguments: bytes


class BasicCancel(NamedTuple):
    """Client to broker, and from the broker when it ends a consumer itself (RabbitMQ)."""

    consumer_tag: bytes
    nowait: bool


class BasicCancelOk(NamedTuple):
    """Broker to client."""

    consumer_tag: bytes


class BasicAck(NamedTuple):
    """Consumer to broker, or broker to publisher (RabbitMQ confirms)."""

    delivery_tag: int
    multiple: bool


class BasicNack(NamedTuple):
    """RabbitMQ: the negative twin of ack."""

    delivery_tag: int
    multiple: bool
    requeue: bool


class BasicGet(NamedTuple):
    """Client to broker."""

    reserved: int
    queue: bytes
    no_ack: bool


class BasicGetOk(NamedTuple):
    """Broker to client."""

    delivery_tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes
    message_count: int


class BasicRecoverOk(NamedTuple):
    """Broker to client."""


class TxSelect(NamedTuple):
    """Client to broker."""


class TxSelectOk(NamedTuple):
    """Broker to client."""


class TxCommitOk(NamedTuple):
    """Broker to client."""


class TxRollbackOk(NamedTuple):
    """Broker to client."""


class ConfirmSelect(NamedTuple):
    """RabbitMQ: publisher confirms from here on."""

    nowait: bool


class ConfirmSelectOk(NamedTuple):
    """RabbitMQ."""


def ident(class_id: int, method_id: int) -> int:
    """Class and method as one number: what the first four bytes of a method frame's payload say."""
    return class_id << 16 | method_id


# Known by number only.
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

_LAYOUT: dict[int, tuple[type[NamedTuple], str]] = {
    ident(10, 10): (ConnectionStart, "ooTSS"),
    ident(10, 11): (ConnectionStartOk, "TsSs"),
    ident(10, 30): (ConnectionTune, "hlh"),
    ident(10, 31): (ConnectionTuneOk, "hlh"),
    ident(10, 40): (ConnectionOpen, "ssb"),
    ident(10, 41): (ConnectionOpenOk, "s"),
    ident(10, 50): (ConnectionClose, "hshh"),
    ident(10, 51): (ConnectionCloseOk, ""),
    ident(10, 60): (ConnectionBlocked, "s"),
    ident(10, 61): (ConnectionUnblocked, ""),
    ident(10, 70): (ConnectionUpdateSecret, "Ss"),
    ident(20, 10): (ChannelOpen, "s"),
    ident(20, 11): (ChannelOpenOk, "S"),
    ident(20, 20): (ChannelFlow, "b"),
    ident(20, 21): (ChannelFlowOk, "b"),
    ident(20, 40): (ChannelClose, "hshh"),
    ident(20, 41): (ChannelCloseOk, ""),
    ident(40, 10): (ExchangeDeclare, "hssbbbbbT"),
    ident(40, 20): (ExchangeDelete, "hsbb"),
    ident(40, 30): (ExchangeBind, "hsssbT"),
    ident(40, 40): (ExchangeUnbind, "hsssbT"),
    ident(50, 10): (QueueDeclare, "hsbbbbbT"),
    ident(50, 11): (QueueDeclareOk, "sll"),
    ident(50, 20): (QueueBind, "hsssbT"),
    ident(50, 30): (QueuePurge, "hsb"),
    ident(50, 40): (QueueDelete, "hsbbb"),
    ident(50, 50): (QueueUnbind, "hsssT"),
    ident(60, 10): (BasicQos, "lhb"),
    ident(60, 20): (BasicConsume, "hssbbbbT"),
    ident(60, 30): (BasicCancel, "sb"),
    ident(60, 31): (BasicCancelOk, "s"),
    ident(60, 70): (BasicGet, "hsb"),
    ident(60, 71): (BasicGetOk, "qbssl"),
    ident(60, 80): (BasicAck, "qb"),
    ident(60, 111): (BasicRecoverOk, ""),
    ident(60, 120): (BasicNack, "qbb"),
    ident(85, 10): (ConfirmSelect, "b"),
    ident(85, 11): (ConfirmSelectOk, ""),
    ident(90, 10): (TxSelect, ""),
    ident(90, 11): (TxSelectOk, ""),
    ident(90, 21): (TxCommitOk, ""),
    ident(90, 31): (TxRollbackOk, ""),
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

_READ = {
    "o": Reader.octet, "h": Reader.short, "l": Reader.long, "q": Reader.longlong,
    "s": Reader.shortstr, "S": Reader.longstr, "b": Reader.bit, "T": Reader.table,
}  # fmt: skip

M = TypeVar("M", bound=tuple[object, ...])


def method_id(cls: type) -> int:
    """The identifier of a method class."""
    return _IDS[cls]


def decode(cls: type[M], payload: bytes) -> M:
    """Read the arguments of a method; `payload` starts with class and method.

    Raises `ClientError` (502) when it ends too early. Whoever reads a broker's frame turns that into `BrokerError`.
    """
    reader = Reader(payload, 4)
    make: Callable[..., M] = cls
    return make(*[_READ[kind](reader) for kind in _LAYOUT[_IDS[cls]][1]])


def encode(method: tuple[object, ...]) -> bytes:
    """Write a method's payload: class, method, arguments."""
    number = _IDS[type(method)]
    parts = [U32.pack(number)]
    bits = count = 0
    for kind, value in zip(_LAYOUT[number][1], method, strict=True):
        if kind == "b":
            bits |= bool(value) << count
            count += 1
            continue
        if count:
            parts.append(bytes((bits,)))
            bits = count = 0
        parts.append(_pack(kind, value))
    if count:
        parts.append(bytes((bits,)))
    return b"".join(parts)


def _pack(kind: str, value: object) -> bytes:
    if isinstance(value, bytes):
        return shortstr(value) if kind == "s" else longstr(value)
    assert isinstance(value, int)
    match kind:
        case "o":
            return bytes((value,))
        case "h":
            return U16.pack(value)
        case "l":
            return U32.pack(value)
        case _:
            return U64.pack(value)
