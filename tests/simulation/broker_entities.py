"""A broker's side of what is said of exchanges and queues on a channel."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.amqp import methods as m
from tests.simulation.cluster import Queue
from tests.support.engine_frames import on

if TYPE_CHECKING:
    from tests.simulation.broker_channel import Channel


def _declare_exchange(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.ExchangeDeclare, payload)
    channel.cluster.exchanges.declare(q.exchange, auto_delete=q.auto_delete)
    channel.answer(40, 11, nowait=q.nowait)


def _delete_exchange(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.ExchangeDelete, payload)
    channel.cluster.exchanges.delete(q.exchange)
    channel.answer(40, 21, nowait=q.nowait)


def _bind_exchange(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.ExchangeBind, payload)
    bound = channel.cluster.exchanges.bind((q.source, q.routing_key, True, q.destination))
    channel.need(bound, f"404 no exchange {q.source!r} or {q.destination!r}")
    channel.answer(40, 31, nowait=q.nowait)


def _unbind_exchange(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.ExchangeUnbind, payload)
    channel.cluster.exchanges.unbind((q.source, q.routing_key, True, q.destination))
    channel.answer(40, 51, nowait=q.nowait)


def _declare_queue(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.QueueDeclare, payload)
    channel.need(q.queue, "an unnamed queue was declared: its name could not be restored")
    queues, connection, name = channel.cluster.queues, channel.connection, q.queue.decode()
    queue = queues.get(q.queue)
    if queue is not None and queue.owner not in (None, connection):
        text = f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{name}' in vhost '/'"
        channel.refuse(405, text, m.QueueDeclare)
        return
    if queue is not None and channel.reach(q.queue, m.QueueDeclare) is None:
        return
    if queue is None and q.passive:
        channel.refuse(404, f"NOT_FOUND - no queue '{name}' in vhost '/'", m.QueueDeclare)
        return
    if queue is None:
        queue = Queue(q.queue, connection if q.exclusive else None, auto_delete=q.auto_delete)
        queues[q.queue] = queue
        if q.exclusive:
            connection.exclusive.add(q.queue)
    if not q.nowait:
        channel.say(on(channel.number, m.QueueDeclareOk(q.queue, len(queue.ready), len(queue.consumers))))


def _bind_queue(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.QueueBind, payload)
    channel.need(q.queue in channel.cluster.queues, f"404 no queue {q.queue!r}")
    bound = channel.cluster.exchanges.bind((q.exchange, q.routing_key, False, q.queue))
    channel.need(bound, f"404 no exchange {q.exchange!r}")
    channel.answer(50, 21, nowait=q.nowait)


def _unbind_queue(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.QueueUnbind, payload)
    channel.cluster.exchanges.unbind((q.exchange, q.routing_key, False, q.queue))
    channel.answer(50, 51)


def _delete_queue(channel: Channel, payload: bytes) -> None:
    q = m.decode(m.QueueDelete, payload)
    if q.queue in channel.cluster.queues and channel.reach(q.queue, m.QueueDelete) is None:
        return
    channel.connection.exclusive.discard(q.queue)
    channel.cluster.delete(q.queue)
    channel.answer(50, 41, b"\0\0\0\0", nowait=q.nowait)


METHODS: dict[int, Callable[[Channel, bytes], None]] = {
    m.method_id(m.ExchangeDeclare): _declare_exchange,
    m.method_id(m.ExchangeDelete): _delete_exchange,
    m.method_id(m.ExchangeBind): _bind_exchange,
    m.method_id(m.ExchangeUnbind): _unbind_exchange,
    m.method_id(m.QueueDeclare): _declare_queue,
    m.method_id(m.QueueDelete): _delete_queue,
    m.method_id(m.QueueBind): _bind_queue,
    m.method_id(m.QueueUnbind): _unbind_queue,
}
