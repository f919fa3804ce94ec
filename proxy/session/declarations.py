"""What the client declares and removes: exchanges, queues, bindings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from proxy.amqp import methods as m
from proxy.amqp.frames import method_frame
from proxy.session.channel import Channel
from proxy.session.journal import Journal
from proxy.session.pending import Pending


class Ask(Protocol):
    """Pass a request on in our own words."""

    def __call__(
        self,
        channel: Channel,
        request: tuple[object, ...],
        answered: Callable[[bytes], None] | None = None,
        *,
        silent: bool = False,
    ) -> Pending:
        """`silent` for a client that wants no answer; `answered` gets the broker's."""
        ...


class Declarations:
    """Each request is asked aloud, and noted in the topology when a broker has agreed to it."""

    __slots__ = ("_ask", "_journal")

    def __init__(self, journal: Journal, ask: Ask) -> None:
        self._journal = journal
        self._ask = ask

    def exchange_declare(self, channel: Channel, payload: bytes) -> None:
        """Kept if it dies with its broker."""
        q = m.decode(m.ExchangeDeclare, payload)
        wanted = q._replace(nowait=False)
        topology = self._journal.topology
        self._ask(channel, wanted, lambda _: topology.declare_exchange(wanted, channel), silent=q.nowait)

    def exchange_delete(self, channel: Channel, payload: bytes) -> None:
        """It goes with its bindings, and is never declared again."""
        q = m.decode(m.ExchangeDelete, payload)
        topology = self._journal.topology
        topology.deletions.note(q.exchange, self._journal.live_channels())
        self._ask(channel, q._replace(nowait=False), lambda _: topology.delete_exchange(q.exchange), silent=q.nowait)

    def exchange_bind(self, channel: Channel, payload: bytes) -> None:
        """Kept if one of its ends is."""
        q = m.decode(m.ExchangeBind, payload)
        wanted = q._replace(nowait=False)
        topology = self._journal.topology
        self._ask(channel, wanted, lambda _: topology.bind_exchange(wanted, channel), silent=q.nowait)

    def exchange_unbind(self, channel: Channel, payload: bytes) -> None:
        """Forgotten when agreed."""
        q = m.decode(m.ExchangeUnbind, payload)
        topology = self._journal.topology
        self._ask(channel, q._replace(nowait=False), lambda _: topology.unbind_exchange(q), silent=q.nowait)

    def queue_declare(self, channel: Channel, payload: bytes) -> None:
        """A queue without a name gets one from us: a broker's own `amq.gen-` names cannot be declared again."""
        q = m.decode(m.QueueDeclare, payload)
        if q.exclusive and not q.passive:
            self._journal.lifecycle.unite()
        unnamed = not q.queue and not q.passive
        wanted = q._replace(queue=b"gen." + self._journal.token() if unnamed else q.queue, nowait=False)

        def declared(reply: bytes) -> None:
            name = m.decode(m.QueueDeclareOk, reply).queue
            channel.last_queue = name
            self._journal.topology.declare_queue(wanted._replace(queue=name), channel)

        # From here on, not from the answer on: requests that name no queue may follow without waiting for it.
        channel.last_queue = wanted.queue
        pending = self._ask(channel, wanted, declared, silent=q.nowait)
        if unnamed:
            pending.unnamed = method_frame(channel.number, q._replace(nowait=False))

    def reply_queue(self, channel: Channel, name: bytes) -> None:
        """Behind the client's back: where its replies come to, until its consumer ends."""
        self._journal.lifecycle.unite()
        wanted = m.QueueDeclare(0, name, False, False, True, True, False, b"")
        self._ask(channel, wanted, lambda _: self._journal.topology.declare_queue(wanted, channel), silent=True)

    def queue_bind(self, channel: Channel, payload: bytes) -> None:
        """Kept if one of its ends is."""
        q = m.decode(m.QueueBind, payload)
        queue, key = self._last_queue(channel, q.queue, q.routing_key)
        wanted = q._replace(queue=queue, routing_key=key, nowait=False)
        topology = self._journal.topology
        self._ask(channel, wanted, lambda _: topology.bind_queue(wanted, channel), silent=q.nowait)

    def queue_unbind(self, channel: Channel, payload: bytes) -> None:
        """Forgotten when agreed."""
        q = m.decode(m.QueueUnbind, payload)
        queue, key = self._last_queue(channel, q.queue, q.routing_key)
        wanted = q._replace(queue=queue, routing_key=key)
        self._ask(channel, wanted, lambda _: self._journal.topology.unbind_queue(wanted))

    def _last_queue(self, channel: Channel, queue: bytes, key: bytes) -> tuple[bytes, bytes]:
        """The shortcut of the specification: no queue means the last one declared, and no key then its name.

        Resolved here, since the next broker's channel has declared nothing.
        """
        if queue or not channel.last_queue:
            return queue, key
        return channel.last_queue, key or channel.last_queue

    def queue_purge(self, channel: Channel, payload: bytes) -> None:
        """Asked under the queue's name."""
        q = m.decode(m.QueuePurge, payload)
        self._ask(channel, q._replace(queue=q.queue or channel.last_queue, nowait=False), silent=q.nowait)

    def queue_delete(self, channel: Channel, payload: bytes) -> None:
        """It goes with its bindings and consumers, and is never declared again."""
        q = m.decode(m.QueueDelete, payload)
        wanted = q._replace(queue=q.queue or channel.last_queue, nowait=False)

        def deleted(_: bytes) -> None:
            self._journal.topology.delete_queue(wanted.queue)
            for each in self._journal.live_channels():
                for tag in [e.tag for e in each.setup if e.tag and e.queue == wanted.queue]:
                    each.forget_consumer(tag)
                each.relieve(self._journal.client_out)

        self._ask(channel, wanted, deleted, silent=q.nowait)
