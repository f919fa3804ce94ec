"""AMQP as the stories and the simulation write it: whole frames in a few words."""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEAD, HEADER, HEARTBEAT_FRAME, METHOD, OVERHEAD_BYTES, frame, method_frame
from proxy.amqp.methods import codec
from proxy.amqp.wire import U32, U64, bool_value, pack_table, shortstr, table_value, text_value
from proxy.errors import ClientError

HEARTBEAT = HEARTBEAT_FRAME
CLASS_BASIC = Struct("!HHQH")
CLASS_BASIC_SIZE = Struct("!HHQ")
NO_PROPERTIES = b"\0\0"
NAMES = {number: cls.__name__ for number, (cls, _) in codec._LAYOUT.items()} | {
    m.BASIC_DELIVER: "BasicDeliver",
    m.BASIC_GET_EMPTY: "BasicGetEmpty",
    m.BASIC_REJECT: "BasicReject",
    m.BASIC_RECOVER: "BasicRecover",
    m.TX_COMMIT: "TxCommit",
    m.TX_ROLLBACK: "TxRollback",
}


def fresh(chunk: bytes) -> bytes:
    """A chunk as an event loop makes one: nobody else has it, so the engine may change it."""
    return bytes(bytearray(chunk))


def on(channel: int, *methods: tuple[object, ...]) -> bytes:
    """Method frames on a channel."""
    return b"".join(method_frame(channel, method) for method in methods)


def bare(channel: int, ident: int, arguments: bytes = b"") -> bytes:
    """A method that the engine knows by its number only."""
    return frame(METHOD, channel, U32.pack(ident) + arguments)


def content(channel: int, body: bytes, piece_bytes: int = 100_000, properties: bytes = NO_PROPERTIES) -> bytes:
    """Header and body frames."""
    header = frame(HEADER, channel, CLASS_BASIC_SIZE.pack(60, 0, len(body)) + properties)
    pieces = [body[at : at + piece_bytes] for at in range(0, len(body), piece_bytes)]
    return header + b"".join(frame(BODY, channel, piece) for piece in pieces)


def publish(
    channel: int,
    body: bytes = b"m",
    *,
    key: bytes = b"q",
    exchange: bytes = b"",
    piece_bytes: int = 100_000,
    mandatory: bool = False,
    properties: bytes = NO_PROPERTIES,
) -> bytes:
    """basic.publish with its content."""
    arguments = b"\0\0" + shortstr(exchange) + shortstr(key) + bytes((mandatory,))
    return bare(channel, m.BASIC_PUBLISH, arguments) + content(channel, body, piece_bytes, properties)


def named(name: bytes) -> bytes:
    """Properties of a message that has a `message-id` and nothing else."""
    return b"\0\x80" + shortstr(name)


def deliver(
    channel: int,
    tag: int,
    body: bytes = b"m",
    *,
    to: bytes = b"c",
    redelivered: bool = False,
    piece_bytes: int = 100_000,
) -> bytes:
    """basic.deliver with its content."""
    arguments = shortstr(to) + U64.pack(tag) + bytes((redelivered,)) + shortstr(b"") + shortstr(b"q")
    return bare(channel, m.BASIC_DELIVER, arguments) + content(channel, body, piece_bytes)


def get_ok(channel: int, tag: int, body: bytes = b"m", *, redelivered: bool = False) -> bytes:
    """basic.get-ok with its content."""
    return on(channel, m.BasicGetOk(tag, redelivered, b"", b"q", 0)) + content(channel, body)


def get_empty(channel: int) -> bytes:
    """basic.get-empty."""
    return bare(channel, m.BASIC_GET_EMPTY, shortstr(b""))


def returned(channel: int, body: bytes = b"m", *, key: bytes = b"q") -> bytes:
    """basic.return with its content."""
    return on(channel, m.BasicReturn(312, b"NO_ROUTE", b"", key)) + content(channel, body)


def ack(channel: int, tag: int, multiple: bool = False) -> bytes:
    """basic.ack, either way."""
    return on(channel, m.BasicAck(tag, multiple))


def nack(channel: int, tag: int, multiple: bool = False, requeue: bool = False) -> bytes:
    """basic.nack, either way."""
    return on(channel, m.BasicNack(tag, multiple, requeue))


def reject(channel: int, tag: int, requeue: bool = True) -> bytes:
    """basic.reject."""
    return bare(channel, m.BASIC_REJECT, U64.pack(tag) + bytes((requeue,)))


def consume(
    channel: int, queue: bytes = b"q", tag: bytes = b"c", *, no_ack: bool = False, nowait: bool = False
) -> bytes:
    """basic.consume."""
    return on(channel, m.BasicConsume(0, queue, tag, False, no_ack, False, nowait, b""))


def consume_ok(channel: int, tag: bytes = b"c") -> bytes:
    """basic.consume-ok."""
    return bare(channel, m.ident(60, 21), shortstr(tag))


def declare(
    channel: int, queue: bytes = b"x", *, durable: bool = False, exclusive: bool = True, auto_delete: bool = False,
    passive: bool = False, nowait: bool = False,
) -> bytes:  # fmt: skip
    """queue.declare; exclusive unless said otherwise."""
    return on(channel, m.QueueDeclare(0, queue, passive, durable, exclusive, auto_delete, nowait, b""))


def bind(
    channel: int, queue: bytes = b"x", exchange: bytes = b"e", key: bytes = b"k", *, nowait: bool = False
) -> bytes:
    """queue.bind."""
    return on(channel, m.QueueBind(0, queue, exchange, key, nowait, b""))


def exchange(
    channel: int, name: bytes = b"e", *, durable: bool = False, auto_delete: bool = False, nowait: bool = False
) -> bytes:
    """exchange.declare of a transient topic exchange."""
    return on(channel, m.ExchangeDeclare(0, name, b"topic", False, durable, auto_delete, False, nowait, b""))


def refusal(call: Callable[..., object], *given: object) -> int | None:
    """The reply code with which something is refused as the client's fault; None if it is not."""
    try:
        call(*given)
    except ClientError as error:
        return error.reply_code
    return None


def frames_of(stream: bytes) -> list[bytes]:
    """Cut a stream into its frames. A protocol header counts as one; so does a tail that is no whole frame."""
    frames, at = [], 0
    while at < len(stream):
        if stream[at : at + 4] == b"AMQP":
            stop = at + 8
        elif len(stream) - at < 7:
            stop = len(stream)
        else:
            stop = at + OVERHEAD_BYTES + HEAD.unpack_from(stream, at)[2]
        frames.append(stream[at:stop])
        at = stop
    return frames


def ident_of(frame: bytes) -> int:
    """Class and method; 0 for what is no method."""
    return int(U32.unpack_from(frame, 7)[0]) if frame[0] == METHOD and len(frame) >= 12 else 0


def channel_of(frame: bytes) -> int:
    """The channel number."""
    return int(HEAD.unpack_from(frame)[1])


def shown(frame: bytes) -> str:
    """A frame for a person."""
    if len(frame) < OVERHEAD_BYTES or frame[:4] == b"AMQP":
        return repr(frame)
    ident = ident_of(frame)
    entry = codec._LAYOUT.get(ident)
    what = {HEADER: "header", BODY: "body", 8: "heartbeat"}.get(
        frame[0], NAMES.get(ident, f"{ident >> 16}.{ident & 65535}")
    )
    detail = repr(m.decode(entry[0], frame[7:-1])) if entry else f"{what} {frame[7:60]!r}"
    return f"[{channel_of(frame)}] {detail}"


def properties(*capabilities: bytes, name: str = "app") -> bytes:
    """A client's properties."""
    table = {b"capabilities": table_value({each: bool_value(True) for each in capabilities})}
    return pack_table(table | {b"connection_name": text_value(name)})


ALL_CAPABILITIES = (
    b"publisher_confirms",
    b"basic.nack",
    b"consumer_cancel_notify",
    b"connection.blocked",
    b"authentication_failure_close",
)


def start_ok(*capabilities: bytes, mechanism: bytes = b"PLAIN", response: bytes = b"\0guest\0secret") -> bytes:
    """What a client answers to connection.start."""
    return on(0, m.ConnectionStartOk(properties(*capabilities), mechanism, response, b"en_US"))


SERVER_CAPABILITIES = (
    *ALL_CAPABILITIES,
    b"exchange_exchange_bindings",
    b"consumer_priorities",
    b"per_consumer_qos",
    b"direct_reply_to",
)


def start(*capabilities: bytes) -> bytes:
    """How a broker introduces itself."""
    able = table_value({each: bool_value(True) for each in capabilities})
    table = pack_table({b"product": text_value("RabbitMQ"), b"capabilities": able})
    return on(0, m.ConnectionStart(0, 9, table, b"PLAIN AMQPLAIN", b"en_US"))


BROKER_START = start(*SERVER_CAPABILITIES)
BROKER_TUNE = on(0, m.ConnectionTune(2047, 131072, 60))
BROKER_OPEN_OK = on(0, m.ConnectionOpenOk())


def plain(frame: bytes) -> bytes:
    """The frame; without `mandatory` if it is a publish."""
    if frame[0] == METHOD and frame[7:11] == m.BASIC_PUBLISH.to_bytes(4, "big"):
        return frame[:-2] + bytes((frame[-2] & ~1,)) + frame[-1:]
    return frame
