"""Methods of the exchange and queue classes (section 1.5, 1.6), with RabbitMQ's extensions. Fields in wire order."""

from __future__ import annotations

from typing import NamedTuple


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
