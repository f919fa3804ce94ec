"""Methods of the basic, confirm and tx classes (section 1.7, 1.8), with RabbitMQ's extensions. Fields in wire order."""

from __future__ import annotations

from typing import NamedTuple


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


class BasicPublish(NamedTuple):
    """Client to broker; content follows."""

    reserved: int
    exchange: bytes
    routing_key: bytes
    mandatory: bool
    immediate: bool


class BasicReturn(NamedTuple):
    """Broker to client; content follows."""

    reply_code: int
    reply_text: bytes
    exchange: bytes
    routing_key: bytes
