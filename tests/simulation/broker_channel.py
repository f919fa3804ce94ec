"""A broker's side of a channel: publishing, transactions, queues, consuming."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, METHOD
from proxy.amqp.wire import U64, Reader, shortstr
from tests.simulation import broker_entities as entities
from tests.simulation.cluster import Message, NoQuorum, Queue
from tests.support.engine_frames import bare, content, on

if TYPE_CHECKING:
    from tests.simulation.broker import Connection

NO_EXCHANGE = b"nope"
# A queue that lives on one node, and how much longer than others it takes to store a message.
HOMED = b"q4"
DISK_SLOWNESS = 10.0
CHANNEL_CLOSE, CHANNEL_CLOSE_OK = m.method_id(m.ChannelClose), m.method_id(m.ChannelCloseOk)


class Channel:
    """What one node keeps for one channel."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.cluster = connection.cluster
        self.clock = connection.cluster.clock
        self.rng = connection.rng
        self.need = connection.need
        self.number = number
        self.gone = False
        self.tag = 0
        # None: the queue has taken the message back, and whatever is said of it counts for nothing.
        self.unacked: dict[int, tuple[Queue, Message | None]] = {}
        self.consumers: dict[bytes, tuple[Queue, bool]] = {}
        self.prefetch = 0
        self.confirms = False
        self.published = 0
        self.confirmed = 0
        self.taken: set[int] = set()
        self.singles: set[int] = set()
        # Which queues a publish goes to that is not confirmed.
        self.flying: dict[int, list[bytes]] = {}
        self.poisoned = False
        # What has come since something was asked of a queue without a quorum, that question first; and what was settled
        # of one, which it may never hear of.
        self.stuck: list[tuple[int, int, bytes]] | None = None
        self.unsure: list[tuple[Queue, Message | None]] = []
        # exchange, key, bytes left (None: header due), body, mandatory, properties
        self.publishing: list | None = None
        # A transaction: what is published, what is settled (and whether it is to be queued again).
        self.tx = False
        self.tx_published: list[tuple[bytes, bytes, bytes, bool, bytes]] = []
        self.tx_settled: list[tuple[int, Queue, Message | None, bool]] = []

    def has_room(self) -> bool:
        return (
            not self.gone
            and not self.connection.node.frozen
            and (not self.prefetch or len(self.unacked) < self.prefetch)
        )

    def say(self, data: bytes) -> None:
        if not self.gone:
            self.connection.say(data)

    def answer(self, class_id: int, method_id: int, arguments: bytes = b"", *, nowait: bool = False) -> None:
        if not nowait:
            self.say(bare(self.number, m.ident(class_id, method_id), arguments))

    def received(self, kind: int, ident: int, data: bytes) -> None:
        if self.stuck is not None:
            self.stuck.append((kind, ident, data))
            return
        if self.publishing is not None:
            self._content(kind, data)
            return
        self.need(kind == METHOD or self.gone, "505 content that was not announced")
        if ident == CHANNEL_CLOSE:
            if not self.gone:
                self.end()
                del self.connection.channels[self.number]
            self.connection.out.send(on(self.number, m.ChannelCloseOk()))
        elif ident == CHANNEL_CLOSE_OK:
            self.need(self.gone, "close-ok out of the blue")
            del self.connection.channels[self.number]
        elif not self.gone:
            self.need(ident in self.METHODS, "unknown method {:#x}", ident)
            try:
                self.METHODS[ident](self, data[7:-1])
            except NoQuorum:
                self.stuck = [(kind, ident, data)]

    def go_on(self) -> None:
        """There may be a quorum again."""
        if not any(queue.stalled for queue, _ in self.unsure):
            self.unsure.clear()
        stuck, self.stuck = self.stuck or [], None
        for each in stuck:
            self.received(*each)

    def end(self) -> None:
        """All that it held returns to the queues."""
        self.gone = True
        self.publishing = self.stuck = None
        self.cluster.requeue(self.unsure)
        self.unsure.clear()
        for queue, _ in self.consumers.values():
            queue.consumers = deque(each for each in queue.consumers if each[0] is not self)
            self.cluster.forsaken(queue)
        self._rollback_work()
        self.cluster.requeue(list(self.unacked.values()))
        self.unacked.clear()
        self.consumers.clear()

    def lose(self, queue: Queue) -> None:
        """The home of a queue is down: what the client holds of it is as good as given back, and nobody says so."""
        back = {tag: held for tag, held in self.unacked.items() if held[0] is queue}
        self.cluster.requeue(list(back.values()))
        self.unacked.update(dict.fromkeys(back, (queue, None)))
        self.tx_settled = [(tag, q, None if q is queue else msg, again) for tag, q, msg, again in self.tx_settled]
        for number in sorted(number for number, names in self.flying.items() if queue.name in names):
            del self.flying[number]
            self.taken.discard(number)
            self.singles.add(number)
            self.say(on(self.number, m.BasicNack(number, False, False)))

    def reach(self, name: bytes, method: type) -> Queue | None:
        """A queue that something is asked of; refused if its home is down, a `Violation` if there is none."""
        queue = self.cluster.queues.get(name)
        if queue is not None and queue.away:
            text = f"home node '{queue.home.name}' of durable queue '{name.decode()}' in vhost '/'"
            self.refuse(404, f"NOT_FOUND - {text} is down or inaccessible", method)
            return None
        self.need(queue is not None, "404 no queue {!r}", name)
        if queue is not None and queue.stalled:
            raise NoQuorum
        return queue

    def refuse(self, code: int, text: str, cause: type | None = None) -> None:
        """Close the channel; `cause` is the method that was refused."""
        ident = 0 if cause is None else m.method_id(cause)
        self.say(on(self.number, m.ChannelClose(code, text.encode(), ident >> 16, ident & 0xFFFF)))
        self.end()

    # Publishing.

    def _confirm_select(self, payload: bytes) -> None:
        self.need(not self.tx, "406 cannot switch from tx to confirm mode")
        self.confirms = True
        if not m.decode(m.ConfirmSelect, payload).nowait:
            self.say(on(self.number, m.ConfirmSelectOk()))

    def _publish(self, payload: bytes) -> None:
        reader = Reader(payload, 6)
        exchange, key, bits = reader.shortstr(), reader.shortstr(), reader.octet()
        self.publishing = [exchange, key, None, b"", bool(bits & 1), b""]
        self.connection.publishes = True
        if self.connection.node.alarmed:
            self.connection.block()

    def _content(self, kind: int, data: bytes) -> None:
        publishing = self.publishing
        assert publishing is not None
        if publishing[2] is None:
            self.need(kind == HEADER, "505 expected a content header")
            publishing[2] = U64.unpack_from(data, 11)[0]
            publishing[5] = data[19:-1]
        else:
            self.need(kind == BODY, "505 expected a content body")
            publishing[3] += data[7:-1]
            publishing[2] -= len(data) - 8
            self.need(publishing[2] >= 0, "501 body longer than announced")
        if publishing[2] == 0:
            exchange, key, _, body, mandatory, properties = publishing
            self.publishing = None
            self._published(exchange, key, body, mandatory, properties)

    def _published(self, exchange: bytes, key: bytes, body: bytes, mandatory: bool, properties: bytes) -> None:
        if exchange not in self.cluster.exchanges.auto_delete:
            self.need(exchange == NO_EXCHANGE and self.number in self.cluster.careless, f"404 no exchange {exchange!r}")
            self.refuse(404, "NOT_FOUND - no exchange 'nope' in vhost '/'")
            return
        if self.tx:
            self.tx_published.append((exchange, key, body, mandatory, properties))
            return
        self.published += self.confirms  # what came before confirm.select is not counted
        number = self.published
        if number == 1 and self.cluster.leaderless() and self.rng.random() < 0.5:
            self.poisoned = True
        delay_s = self.rng.choice((0.0, 0.001, 0.005, 0.05))
        if self.poisoned and self.confirms:
            self.clock.after(delay_s, lambda: self.say(on(self.number, m.BasicNack(number, False, False))))
            return
        queues = self.cluster.route(exchange, key)
        if not queues:
            if mandatory:
                self._give_back(exchange, key, body, properties)
            self._taken(number)
            return
        if number:
            self.flying[number] = queues
        if HOMED in queues:
            delay_s *= DISK_SLOWNESS
        self.clock.after(delay_s, lambda: self._take(number, queues, body, properties))

    def _give_back(self, exchange: bytes, key: bytes, body: bytes, properties: bytes) -> None:
        back = on(self.number, m.BasicReturn(312, b"NO_ROUTE", exchange, key))
        self.say(back + content(self.number, body, self.connection.frame_max - 8, properties))

    def _stalls(self, names: list[bytes]) -> bool:
        return any(name in self.cluster.queues and self.cluster.queues[name].stalled for name in names)

    def _take(self, number: int, queues: list[bytes], body: bytes, properties: bytes, *, waited: bool = False) -> None:
        if (self.connection.crashed or (waited and self.gone)) and self.rng.random() < 0.5:
            return
        if self._stalls(queues):
            self.cluster.waiting.append(lambda: self._take(number, queues, body, properties, waited=True))
            return
        away = any(name in self.cluster.queues and self.cluster.queues[name].away for name in queues)
        if number in self.singles or (away and not number):
            return  # its home has died meanwhile, and it was refused
        for name in queues:
            self.cluster.take(name, body, properties)
        self._taken(number)

    def _taken(self, number: int) -> None:
        if number:
            self.taken.add(number)
            self.clock.after(self.rng.choice((0.0, 0.002, 0.02)), self._confirm)

    def _confirm(self) -> None:
        if self.gone or self.connection.closed or not self.taken:
            return
        if self.connection.node.frozen:
            self.clock.after(1.0, self._confirm)
            return
        self._pass_singles()
        top = self.confirmed
        while top + 1 in self.taken:
            top += 1
        if top > self.confirmed and self.rng.random() < 0.8:
            self.taken.difference_update(range(self.confirmed + 1, top + 1))
            for number in range(self.confirmed + 1, top + 1):
                self.flying.pop(number, None)
            self.say(on(self.number, m.BasicAck(top, top > self.confirmed + 1 or self.rng.random() < 0.3)))
            self.confirmed = top
        else:
            number = self.rng.choice(sorted(self.taken))
            self.taken.remove(number)
            self.flying.pop(number, None)
            self.say(on(self.number, m.BasicAck(number, False)))
            self.singles.add(number)
        self._pass_singles()
        if self.taken:
            self.clock.after(0.002, self._confirm)

    def _pass_singles(self) -> None:
        """An ack of several spans what was settled by itself, refusals as well (RabbitMQ)."""
        while self.confirmed + 1 in self.singles:
            self.confirmed += 1

    # Transactions.

    def _tx_select(self, payload: bytes) -> None:
        self.need(not self.confirms, "406 cannot switch from confirm to tx mode")
        self.tx = True
        self.answer(90, 11)

    def _tx_commit(self, payload: bytes) -> None:
        self.need(self.tx, "406 channel is not transactional")
        published = [name for exchange, key, *_ in self.tx_published for name in self.cluster.route(exchange, key)]
        if self._stalls(published) or any(queue.stalled for _, queue, _, _ in self.tx_settled):
            raise NoQuorum
        for exchange, key, body, mandatory, properties in self.tx_published:
            queues = self.cluster.route(exchange, key)
            for name in queues:
                self.cluster.take(name, body, properties)
            if mandatory and not queues:
                self._give_back(exchange, key, body, properties)
        self.cluster.requeue([(queue, message) for _, queue, message, requeue in self.tx_settled if requeue])
        self.tx_published.clear()
        self.tx_settled.clear()
        self.answer(90, 21)

    def _tx_rollback(self, payload: bytes) -> None:
        self.need(self.tx, "406 channel is not transactional")
        self._rollback_work()
        self.answer(90, 31)

    def _rollback_work(self) -> None:
        self.tx_published.clear()
        self.unacked.update({tag: (queue, message) for tag, queue, message, _ in self.tx_settled})
        self.unacked = dict(sorted(self.unacked.items()))
        self.tx_settled.clear()

    # Consuming.

    def _qos(self, payload: bytes) -> None:
        self.prefetch = m.decode(m.BasicQos, payload).prefetch_count
        self.answer(60, 11)

    def _consume(self, payload: bytes) -> None:
        q = m.decode(m.BasicConsume, payload)
        self.need(q.consumer_tag not in self.consumers, f"530 reuse of consumer tag {q.consumer_tag!r}")
        if q.queue not in self.cluster.queues:
            self.refuse(404, f"NOT_FOUND - no queue '{q.queue.decode()}' in vhost '/'", m.BasicConsume)
            return
        queue = self.reach(q.queue, m.BasicConsume)
        if queue is None:
            return
        self.need(queue.owner in (None, self.connection), "405 consume from somebody's exclusive queue")
        self.consumers[q.consumer_tag] = (queue, q.no_ack)
        queue.consumers.append((self, q.consumer_tag))
        self.answer(60, 21, shortstr(q.consumer_tag), nowait=q.nowait)
        self.clock.after(0.0, lambda: self.cluster.dispatch(queue))

    def deliver(self, tag: bytes, queue: Queue, message: Message) -> None:
        self.tag += 1
        if not self.consumers[tag][1]:
            self.unacked[self.tag] = (queue, message)
        arguments = shortstr(tag) + U64.pack(self.tag) + bytes((message.redelivered,)) + shortstr(b"") + shortstr(b"q")
        self.say(bare(self.number, m.BASIC_DELIVER, arguments) + self._shown(message))

    def _shown(self, message: Message) -> bytes:
        pieces = (300, 1000) if len(message.body) < 2000 else (1000, 4000)
        piece = self.rng.choice(pieces)
        agreed = self.connection.frame_max - 8
        size = agreed if piece == 4000 else min(piece, agreed)
        return content(self.number, message.body, size, message.properties)

    def _cancel(self, payload: bytes) -> None:
        q = m.decode(m.BasicCancel, payload)
        queue, _ = self.consumers.pop(q.consumer_tag, (None, None))
        if queue is not None:
            queue.consumers.remove((self, q.consumer_tag))
            self.cluster.forsaken(queue)
        self.answer(60, 31, shortstr(q.consumer_tag), nowait=q.nowait)

    def _get(self, payload: bytes) -> None:
        q = m.decode(m.BasicGet, payload)
        queue = self.reach(q.queue, m.BasicGet)
        if queue is None:
            return
        if not queue.ready:
            self.say(bare(self.number, m.BASIC_GET_EMPTY, b"\0"))
            return
        message = queue.ready.pop(0)
        self.tag += 1
        if not q.no_ack:
            self.unacked[self.tag] = (queue, message)
        answer = m.BasicGetOk(self.tag, message.redelivered, b"", q.queue, len(queue.ready))
        self.say(on(self.number, answer) + self._shown(message))

    def _ack(self, payload: bytes) -> None:
        self._settle(m.decode(m.BasicAck, payload), requeue=False)

    def _nack(self, payload: bytes) -> None:
        q = m.decode(m.BasicNack, payload)
        self._settle(q, requeue=q.requeue)

    def _reject(self, payload: bytes) -> None:
        requeue = bool(payload[12])
        self._settle(m.BasicNack(U64.unpack_from(payload, 4)[0], False, requeue), requeue=requeue)

    def _settle(self, q: m.BasicAck | m.BasicNack, *, requeue: bool) -> None:
        tag = q.delivery_tag
        tags = [each for each in self.unacked if each <= tag or tag == 0] if q.multiple else [tag]
        known = tag == 0 or (tag in self.unacked and all(each in self.unacked for each in tags))
        if not known:
            self.need(self.number in self.cluster.careless, f"406 unknown delivery tag {tag}, multiple {q.multiple}")
            self.refuse(406, f"PRECONDITION_FAILED - unknown delivery tag {tag}")
            return
        settled = [(each, *self.unacked.pop(each)) for each in tags]
        for _, _, message in settled:
            self.need(
                message is None or requeue or self.cluster.may_settle(message.body),
                "{!r} was settled by nobody the client knows",
                message and message.body[:30],
            )
        if self.tx:
            self.tx_settled += [(*each, requeue) for each in settled]
        elif requeue:
            self.cluster.requeue([(queue, message) for _, queue, message in settled])
        else:
            self.unsure += [(queue, message) for _, queue, message in settled if queue.stalled]
        for queue in {id(queue): queue for queue, _ in self.consumers.values()}.values():
            self.clock.after(0.0, lambda queue=queue: self.cluster.dispatch(queue))

    def _recover(self, payload: bytes) -> None:
        self.cluster.requeue(list(self.unacked.values()))
        self.unacked.clear()
        self.say(on(self.number, m.BasicRecoverOk()))

    METHODS: ClassVar[dict[int, Callable[[Channel, bytes], None]]] = {
        m.method_id(m.ChannelFlow): lambda self, _: self.say(on(self.number, m.ChannelFlowOk(True))),
        m.method_id(m.ConfirmSelect): _confirm_select,
        m.method_id(m.TxSelect): _tx_select,
        m.TX_COMMIT: _tx_commit,
        m.TX_ROLLBACK: _tx_rollback,
        **entities.METHODS,
        m.method_id(m.BasicQos): _qos,
        m.method_id(m.BasicConsume): _consume,
        m.method_id(m.BasicCancel): _cancel,
        m.method_id(m.BasicGet): _get,
        m.BASIC_PUBLISH: _publish,
        m.BASIC_ACK: _ack,
        m.BASIC_NACK: _nack,
        m.BASIC_REJECT: _reject,
        m.BASIC_RECOVER: _recover,
    }
