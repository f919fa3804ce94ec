"""The exchanges, queues and bindings that die with a broker and must exist again under their old names."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from proxy.amqp.methods import (
    ExchangeBind,
    ExchangeDeclare,
    ExchangeUnbind,
    QueueBind,
    QueueDeclare,
    QueueUnbind,
)
from proxy.session.channel import Channel
from proxy.session.deletions import Deletions

# How a broker says that something does not exist at all (RabbitMQ).
_NOT_THERE = re.compile(rb"no (queue|exchange) '(.*)' in vhost", re.DOTALL)
# Destination, source, routing key, arguments: all of them tell bindings apart.
BindingKey = tuple[bytes, bytes, bytes, bytes]
Declaration = ExchangeDeclare | QueueDeclare | ExchangeBind | QueueBind
# What a name means: "queue" or "exchange", and the name.
Entity = tuple[str, bytes]


@dataclass(slots=True)
class Topology:
    """What one client declared that is not durable, in the order of declaration.

    Durable shared queues and exchanges are not here: they belong to everybody, and what another client deleted must
    not come back. A binding is kept if either of its ends is kept; it goes when one of them goes.
    """

    exchanges: dict[bytes, tuple[ExchangeDeclare, Channel]] = field(default_factory=dict)
    queues: dict[bytes, tuple[QueueDeclare, Channel]] = field(default_factory=dict)
    exchange_bindings: dict[BindingKey, tuple[ExchangeBind, Channel]] = field(default_factory=dict)
    queue_bindings: dict[BindingKey, tuple[QueueBind, Channel]] = field(default_factory=dict)
    deletions: Deletions = field(default_factory=Deletions)

    def __len__(self) -> int:
        return len(self.exchanges) + len(self.queues) + len(self.exchange_bindings) + len(self.queue_bindings)

    def replay(self) -> list[tuple[Declaration, Channel]]:
        """Everything to declare again, with the channel that declared it: a binding after both of its ends."""
        return [
            *self.exchanges.values(),
            *self.exchange_bindings.values(),
            *self.queues.values(),
            *self.queue_bindings.values(),
        ]

    def declare_exchange(self, m: ExchangeDeclare, channel: Channel) -> None:
        """An exchange was declared."""
        predefined = not m.exchange or m.exchange.startswith(b"amq.")
        if m.passive or predefined:
            return
        self.exchanges.pop(m.exchange, None)
        if m.auto_delete or not m.durable:
            self.exchanges[m.exchange] = (m, channel)

    def delete_exchange(self, name: bytes) -> None:
        """An exchange is gone, and every binding from it and to it."""
        self.exchanges.pop(name, None)
        for key in [key for key in self.exchange_bindings if name in key[:2]]:
            del self.exchange_bindings[key]
        for key in [key for key in self.queue_bindings if key[1] == name]:
            del self.queue_bindings[key]

    def declare_queue(self, m: QueueDeclare, channel: Channel) -> None:
        """A queue was declared; `m.queue` is its real name."""
        if m.passive:
            return
        self.queues.pop(m.queue, None)
        if m.exclusive or m.auto_delete or not m.durable:
            self.queues[m.queue] = (m, channel)

    def delete_queue(self, name: bytes) -> None:
        """A queue is gone, and every binding to it."""
        self.queues.pop(name, None)
        for key in [key for key in self.queue_bindings if key[0] == name]:
            del self.queue_bindings[key]
            self._exchange_lost_binding(key[1])

    def told_absent(self, text: bytes) -> None:
        """Somebody else has deleted something, as an error says: it stays away."""
        named = _NOT_THERE.search(text)
        if named is not None:
            forget = self.delete_queue if named[1] == b"queue" else self.delete_exchange
            forget(named[2])

    def bind_queue(self, m: QueueBind, channel: Channel) -> None:
        """A queue was bound."""
        if m.queue in self.queues or m.exchange in self.exchanges:
            self.queue_bindings[(m.queue, m.exchange, m.routing_key, m.arguments)] = (m, channel)

    def unbind_queue(self, m: QueueUnbind) -> None:
        """A binding of a queue was removed."""
        if self.queue_bindings.pop((m.queue, m.exchange, m.routing_key, m.arguments), None):
            self._exchange_lost_binding(m.exchange)

    def bind_exchange(self, m: ExchangeBind, channel: Channel) -> None:
        """An exchange was bound to another."""
        if m.destination in self.exchanges or m.source in self.exchanges:
            key = (m.destination, m.source, m.routing_key, m.arguments)
            self.exchange_bindings[key] = (m, channel)

    def unbind_exchange(self, m: ExchangeUnbind) -> None:
        """A binding between exchanges was removed."""
        if self.exchange_bindings.pop((m.destination, m.source, m.routing_key, m.arguments), None):
            self._exchange_lost_binding(m.source)

    def is_auto_delete(self, queue: bytes) -> bool:
        """Whether a queue goes with its last consumer."""
        return queue in self.queues and self.queues[queue][0].auto_delete

    def _exchange_lost_binding(self, name: bytes) -> None:
        """An auto-delete exchange goes with the last binding that has it as its source (RabbitMQ)."""
        entry = self.exchanges.get(name)
        if entry is None or not entry[0].auto_delete:
            return
        if any(key[1] == name for key in (*self.queue_bindings, *self.exchange_bindings)):
            return
        self.delete_exchange(name)


def entities_of(declaration: Declaration) -> tuple[Entity, ...]:
    """What must be there for a declaration, itself or its ends; the one to blame for a refusal comes first."""
    match declaration:
        case QueueDeclare():
            return (("queue", declaration.queue),)
        case ExchangeDeclare():
            return (("exchange", declaration.exchange),)
        case QueueBind():
            return (("queue", declaration.queue), ("exchange", declaration.exchange))
        case _:
            return (("exchange", declaration.destination), ("exchange", declaration.source))


def entity_of(declaration: Declaration) -> Entity:
    """What is missing if a declaration is refused."""
    return entities_of(declaration)[0]
