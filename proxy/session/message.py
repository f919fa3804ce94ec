"""One message as an envelope and its content, read from the frames that carry it."""

from __future__ import annotations

from typing import NamedTuple

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEAD, HEADER, OVERHEAD_BYTES
from proxy.amqp.properties import headers_place, is_persistent
from proxy.amqp.wire import U32
from proxy.errors import ClientError


class Message(NamedTuple):
    """What tells one publish from another. `mandatory`: its publisher wants it back if no queue takes it."""

    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes
    mandatory: bool

    def resembles(self, other: Message) -> bool:
        """Whether they are the same but for their properties."""
        return self[:2] == other[:2] and self.body == other.body

    @property
    def announces(self) -> bool:
        """It goes to whoever listens at the moment: transient, and to an exchange that has a name."""
        try:
            return bool(self.exchange) and not is_persistent(self.properties, headers_place(self.properties))
        except ClientError:
            return False


def message_of(frames: bytes) -> Message:
    """Read the frames of a publish or a return. Raises `ClientError` or `BrokerError` if its method is none."""
    properties = b""
    bodies = []
    pos = 0
    method = b""
    while pos < len(frames):
        kind, _, size = HEAD.unpack_from(frames, pos)
        payload = frames[pos + OVERHEAD_BYTES - 1 : pos + OVERHEAD_BYTES - 1 + size]
        if kind == BODY:
            bodies.append(payload)
        elif kind == HEADER:
            properties = payload
        else:
            method = payload
        pos += size + OVERHEAD_BYTES
    body = b"".join(bodies)
    if U32.unpack_from(method)[0] == m.BASIC_RETURN:
        back = m.decode(m.BasicReturn, method)
        return Message(back.exchange, back.routing_key, properties, body, mandatory=True)
    sent = m.decode(m.BasicPublish, method)
    return Message(sent.exchange, sent.routing_key, properties, body, sent.mandatory)


def addressed(frames: bytes, number: int) -> bytearray:
    """The same frames for another channel."""
    copy = bytearray(frames)
    pos = 0
    while pos < len(copy):
        copy[pos + 1 : pos + 3] = number.to_bytes(2, "big")
        pos += HEAD.unpack_from(copy, pos)[2] + OVERHEAD_BYTES
    return copy
