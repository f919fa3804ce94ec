"""Three broker nodes with queues that survive any one of them, strict about every frame they are sent.

Only what the engine relies on is modelled. A frame that a real broker would answer by closing the connection, or an
ack of a tag it did not give, is a `Violation`: the engine may never cause one, since the model client never does.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, HEARTBEAT, HEARTBEAT_FRAME, METHOD, PROTOCOL_HEADER
from proxy.amqp.wire import U32, U64, Reader, shortstr
from tests.simulation.clock import Clock, Wire
from tests.support.engine_frames import BROKER_OPEN_OK, BROKER_START, bare, content, frames_of, ident_of, on

LEADERLESS_S = 0.3


class Violation(AssertionError):
    """Somebody said what the protocol, or an invariant, forbids."""


@dataclass(order=True)
class Message:
    order: int
    body: bytes = field(compare=False)
    redelivered: bool = field(default=False, compare=False)


class Queue:
    def __init__(self, name: bytes, owner: Connection | None) -> None:
        self.name = name
        self.owner = owner
        self.ready: list[Message] = []
        self.consumers: deque[tuple[Channel, bytes]] = deque()


class Channel:
    """A broker's side of a channel."""

    def __init__(self, connection: Connection, number: int) -> None:
        self.connection = connection
        self.number = number
        self.gone = False
        self.tag = 0
        self.unacked: dict[int, tuple[Queue, Message]] = {}
        self.consumers: dict[bytes, tuple[Queue, bool]] = {}
        self.prefetch = 0
        self.confirms = False
        self.published = 0
        self.confirmed = 0
        self.taken: set[int] = set()
        self.poisoned = False
        self.publishing: list | None = None  # key, bytes left (None: header due), body

    def has_room(self) -> bool:
        return (
            not self.gone
            and not self.connection.node.frozen
            and (not self.prefetch or len(self.unacked) < self.prefetch)
        )


class Cluster:
    """What the nodes share, and who may look at it."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.rng = rng
        self.nodes = [Node(self, f"rabbit{n}:5672") for n in (1, 2, 3)]
        self.queues: dict[bytes, Queue] = {}
        self.taken: Counter[bytes] = Counter()
        self.troubled_at = -1000.0
        self.may_settle: Callable[[bytes], bool] = lambda body: True
        self._order = 0

    def take(self, key: bytes, body: bytes) -> None:
        queue = self.queues.get(key)
        if queue is None:
            return
        self._order += 1
        self.taken[body] += 1
        queue.ready.append(Message(self._order, body))
        self.clock.after(0.0005, lambda: self.dispatch(queue))

    def requeue(self, unacked: list[tuple[Queue, Message]]) -> None:
        for queue, message in unacked:
            message.redelivered = True
            insort(queue.ready, message)
            self.clock.after(0.0005, lambda queue=queue: self.dispatch(queue))

    def dispatch(self, queue: Queue) -> None:
        idle = 0
        while queue.ready and queue.consumers and idle < len(queue.consumers):
            queue.consumers.rotate(-1)
            channel, tag = queue.consumers[-1]
            if not channel.has_room():
                idle += 1
                continue
            idle = 0
            channel.connection.deliver(channel, tag, queue, queue.ready.pop(0))

    def leaderless(self) -> bool:
        return self.clock.now < self.troubled_at + LEADERLESS_S


class Node:
    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.up = True
        self.frozen = False
        self.connections: list[Connection] = []

    def crash(self) -> None:
        self.up = self.frozen = False
        self.cluster.troubled_at = self.cluster.clock.now
        for connection in self.connections[:]:
            connection.crashed = True
            connection.reset()

    def leave(self) -> None:
        """SIGTERM: 320 to everybody, then reset, often before the 320 is seen."""
        for connection in self.connections:
            connection.force("broker forced connection closure with reason 'shutdown'")
        self.cluster.clock.after(self.cluster.rng.choice((0.0, 0.002, 0.05)), self.crash)

    def thaw(self) -> None:
        self.frozen = False
        for connection in self.connections[:]:
            connection.received(b"")
        for queue in list(self.cluster.queues.values()):
            self.cluster.dispatch(queue)


class Connection:
    """A broker's side of a connection."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self.node = node
        self.cluster = node.cluster
        self.rng = rng
        self.out: Wire
        self.on_reset: Callable[[], None]
        self.state = "header"
        self.crashed = False
        self.closed = False
        self.channels: dict[int, Channel] = {}
        self.exclusive: set[bytes] = set()
        self._buffer = b""
        node.connections.append(self)
        self._beat()
        self._methods: dict[int, Callable[[Channel, bytes], None]] = {
            m.method_id(m.ConfirmSelect): self._confirm_select,
            m.method_id(m.QueueDeclare): self._declare,
            m.method_id(m.QueueDelete): self._delete,
            m.method_id(m.QueueBind): lambda c, p: self._say(c, bare(c.number, m.ident(50, 21))),
            m.method_id(m.BasicQos): self._qos,
            m.method_id(m.BasicConsume): self._consume,
            m.method_id(m.BasicCancel): self._cancel,
            m.method_id(m.BasicGet): self._get,
            m.BASIC_PUBLISH: self._publish,
            m.BASIC_ACK: lambda c, p: self._settle(c, m.decode(m.BasicAck, p), requeue=False),
            m.BASIC_NACK: lambda c, p: self._settle(c, q := m.decode(m.BasicNack, p), requeue=q.requeue),
            m.BASIC_REJECT: self._reject,
            m.BASIC_RECOVER: self._recover,
        }

    # The link.

    def received(self, data: bytes) -> None:
        self._buffer += data
        if self.node.frozen or self.closed:
            return
        frames = frames_of(self._buffer)
        while frames and not self.closed and not self.node.frozen:
            each = frames[0]
            whole = (
                len(each) == 8 if each[:1] == b"A" else len(each) >= 8 and len(each) == 8 + U32.unpack_from(each, 3)[0]
            )
            if not whole:
                break
            del frames[0]
            self._frame(each)
        self._buffer = b"".join(frames)

    def reset(self) -> None:
        """The connection breaks for both sides."""
        self.drop()
        self.out.cut()
        self.on_reset()

    def drop(self) -> None:
        """The peer is gone: what it held returns to the queues."""
        if self.closed:
            return
        self.closed = True
        self.node.connections.remove(self)
        for channel in list(self.channels.values()):
            self._end(channel)
        for name in self.exclusive:
            self.cluster.queues.pop(name, None)

    def _beat(self) -> None:
        if not self.closed:
            if self.state == "running" and not self.node.frozen:
                self.out.send(HEARTBEAT_FRAME)
            self.cluster.clock.after(2.5, self._beat)

    def force(self, text: str) -> None:
        if not self.closed and self.state == "running":
            self.state = "forcing"
            self.out.send(on(0, m.ConnectionClose(320, f"CONNECTION_FORCED - {text}".encode())))

    def deliver(self, channel: Channel, tag: bytes, queue: Queue, message: Message) -> None:
        channel.tag += 1
        if not channel.consumers[tag][1]:
            channel.unacked[channel.tag] = (queue, message)
        arguments = (
            shortstr(tag) + U64.pack(channel.tag) + bytes((message.redelivered,)) + shortstr(b"") + shortstr(b"q")
        )
        piece = self.rng.choice((300, 1000))
        self._say(
            channel, bare(channel.number, m.BASIC_DELIVER, arguments) + content(channel.number, message.body, piece)
        )

    # Frames.

    def _say(self, channel: Channel, data: bytes) -> None:
        if not channel.gone and not self.closed and self.state == "running":
            self.out.send(data)

    def _frame(self, data: bytes) -> None:
        if self.state == "forcing":
            if ident_of(data) == m.method_id(m.ConnectionCloseOk):
                self.state = "done"
            return  # a broker that has said close reads nothing but close-ok
        if self.state == "done":
            return
        if self.state == "header":
            self._need(data == PROTOCOL_HEADER, "no protocol header")
            self.state = "start"
            self.out.send(BROKER_START)
            return
        kind, number = data[0], int.from_bytes(data[1:3], "big")
        if kind == HEARTBEAT:
            return
        ident = ident_of(data)
        if number == 0:
            self._connection(ident, data[7:-1])
            return
        self._need(self.state == "running", f"method {ident:#x} while {self.state}")
        channel = self.channels.get(number)
        if ident == m.method_id(m.ChannelOpen):
            self._need(channel is None, "504 second channel.open")
            self.channels[number] = Channel(self, number)
            self.out.send(on(number, m.ChannelOpenOk()))
            return
        self._need(channel is not None, f"504 expected channel.open on {number}, got {ident >> 16}.{ident & 65535}")
        assert channel is not None
        if channel.publishing is not None:
            self._content(channel, kind, data)
            return
        self._need(kind == METHOD, "505 content that was not announced")
        if ident == m.method_id(m.ChannelClose):
            self._end(channel)
            del self.channels[number]
            self.out.send(on(number, m.ChannelCloseOk()))
        elif ident == m.method_id(m.ChannelCloseOk):
            self._need(channel.gone, "close-ok out of the blue")
            del self.channels[number]
        elif not channel.gone:
            self._need(ident in self._methods, f"unknown method {ident >> 16}.{ident & 65535}")
            self._methods[ident](channel, data[7:-1])

    def _need(self, fact: object, text: str) -> None:
        if not fact:
            raise Violation(f"the engine made a broker's protocol error: {text}")

    def _connection(self, ident: int, payload: bytes) -> None:
        expected = {"start": m.ConnectionStartOk, "tune": m.ConnectionTuneOk, "open": m.ConnectionOpen}
        if self.state in expected:
            self._need(ident == m.method_id(expected[self.state]), f"503 {ident:#x} while {self.state}")
        match self.state:
            case "start":
                self.state = "tune"
                self.out.send(on(0, m.ConnectionTune(2047, 131072, 60)))
            case "tune":
                self.state = "open"
            case "open":
                self.state = "running"
                self.out.send(BROKER_OPEN_OK)
            case _:
                self._need(ident == m.method_id(m.ConnectionClose), f"503 {ident:#x} on channel 0")
                self.state = "done"
                self.out.send(on(0, m.ConnectionCloseOk()))
                self.drop()

    def _end(self, channel: Channel) -> None:
        channel.gone = True
        for queue, _ in channel.consumers.values():
            queue.consumers = deque(each for each in queue.consumers if each[0] is not channel)
        self.cluster.requeue(list(channel.unacked.values()))
        channel.unacked.clear()
        channel.consumers.clear()

    def _refuse(self, channel: Channel, code: int, text: str) -> None:
        self._say(channel, on(channel.number, m.ChannelClose(code, text.encode())))
        self._end(channel)

    def _content(self, channel: Channel, kind: int, data: bytes) -> None:
        key, left, body = channel.publishing
        if left is None:
            self._need(kind == HEADER, "505 expected a content header")
            left = U64.unpack_from(data, 11)[0]
        else:
            self._need(kind == BODY, "505 expected a content body")
            body += data[7:-1]
            left -= len(data) - 8
            self._need(left >= 0, "501 body longer than announced")
        channel.publishing = [key, left, body] if left else None
        if left == 0:
            self._published(channel, key, body)

    # Publishing.

    def _confirm_select(self, channel: Channel, payload: bytes) -> None:
        channel.confirms = True
        if not m.decode(m.ConfirmSelect, payload).nowait:
            self._say(channel, on(channel.number, m.ConfirmSelectOk()))

    def _publish(self, channel: Channel, payload: bytes) -> None:
        reader = Reader(payload, 6)
        reader.shortstr()
        channel.publishing = [reader.shortstr(), None, b""]

    def _published(self, channel: Channel, key: bytes, body: bytes) -> None:
        channel.published += 1
        number = channel.published
        if number == 1 and self.cluster.leaderless() and self.rng.random() < 0.5:
            channel.poisoned = True
        delay = self.rng.choice((0.0, 0.001, 0.005, 0.05))
        if channel.poisoned and channel.confirms:
            self.cluster.clock.after(
                delay, lambda: self._say(channel, on(channel.number, m.BasicNack(number, False, False)))
            )
            return
        self.cluster.clock.after(delay, lambda: self._take(channel, number, key, body))

    def _take(self, channel: Channel, number: int, key: bytes, body: bytes) -> None:
        if self.crashed and self.rng.random() < 0.5:
            return
        self.cluster.take(key, body)
        if channel.confirms:
            channel.taken.add(number)
            self.cluster.clock.after(self.rng.choice((0.0, 0.002, 0.02)), lambda: self._confirm(channel))

    def _confirm(self, channel: Channel) -> None:
        if channel.gone or self.closed or not channel.taken:
            return
        if self.node.frozen:
            self.cluster.clock.after(1.0, lambda: self._confirm(channel))
            return
        top = channel.confirmed
        while top + 1 in channel.taken:
            top += 1
        if top > channel.confirmed and self.rng.random() < 0.8:
            channel.taken.difference_update(range(channel.confirmed + 1, top + 1))
            self._say(
                channel, on(channel.number, m.BasicAck(top, top > channel.confirmed + 1 or self.rng.random() < 0.3))
            )
            channel.confirmed = top
            self._skip_confirmed(channel)
        else:
            number = self.rng.choice(sorted(channel.taken))
            channel.taken.remove(number)
            self._say(channel, on(channel.number, m.BasicAck(number, False)))
            channel.__dict__.setdefault("singles", set()).add(number)
            self._skip_confirmed(channel)
        if channel.taken:
            self.cluster.clock.after(0.002, lambda: self._confirm(channel))

    def _skip_confirmed(self, channel: Channel) -> None:
        singles = channel.__dict__.get("singles", ())
        while channel.confirmed + 1 in singles:
            channel.confirmed += 1

    # Queues.

    def _declare(self, channel: Channel, payload: bytes) -> None:
        q = m.decode(m.QueueDeclare, payload)
        self._need(q.queue, "an unnamed queue was declared: its name could not be restored")
        queue = self.cluster.queues.get(q.queue)
        if queue is not None and queue.owner not in (None, self):
            self._refuse(
                channel, 405, f"RESOURCE_LOCKED - cannot obtain exclusive access to locked queue '{q.queue!r}'"
            )
            return
        if queue is None:
            self.cluster.queues[q.queue] = queue = Queue(q.queue, self if q.exclusive else None)
            if q.exclusive:
                self.exclusive.add(q.queue)
        if not q.nowait:
            self._say(channel, on(channel.number, m.QueueDeclareOk(q.queue, len(queue.ready), len(queue.consumers))))

    def _delete(self, channel: Channel, payload: bytes) -> None:
        q = m.decode(m.QueueDelete, payload)
        queue = self.cluster.queues.pop(q.queue, None)
        self.exclusive.discard(q.queue)
        if queue is not None:
            for each, tag in queue.consumers:
                each.consumers.pop(tag, None)
                each.connection._say(each, on(each.number, m.BasicCancel(tag, True)))
            queue.consumers.clear()
        self._say(channel, bare(channel.number, m.ident(50, 41), b"\0\0\0\0"))

    # Consuming.

    def _qos(self, channel: Channel, payload: bytes) -> None:
        channel.prefetch = m.decode(m.BasicQos, payload).prefetch_count
        self._say(channel, bare(channel.number, m.ident(60, 11)))

    def _consume(self, channel: Channel, payload: bytes) -> None:
        q = m.decode(m.BasicConsume, payload)
        self._need(q.consumer_tag not in channel.consumers, f"530 reuse of consumer tag {q.consumer_tag!r}")
        queue = self.cluster.queues.get(q.queue)
        if queue is None:
            self._refuse(channel, 404, f"NOT_FOUND - no queue {q.queue!r}")
            return
        self._need(queue.owner in (None, self), "405 consume from somebody's exclusive queue")
        channel.consumers[q.consumer_tag] = (queue, q.no_ack)
        queue.consumers.append((channel, q.consumer_tag))
        if not q.nowait:
            self._say(channel, bare(channel.number, m.ident(60, 21), shortstr(q.consumer_tag)))
        self.cluster.clock.after(0.0, lambda: self.cluster.dispatch(queue))

    def _cancel(self, channel: Channel, payload: bytes) -> None:
        q = m.decode(m.BasicCancel, payload)
        queue, _ = channel.consumers.pop(q.consumer_tag, (None, None))
        if queue is not None:
            queue.consumers.remove((channel, q.consumer_tag))
        self._say(channel, on(channel.number, m.BasicCancelOk(q.consumer_tag)))

    def _get(self, channel: Channel, payload: bytes) -> None:
        q = m.decode(m.BasicGet, payload)
        queue = self.cluster.queues.get(q.queue)
        self._need(queue is not None, "404 get from a queue that is not there")
        if not queue.ready:
            self._say(channel, bare(channel.number, m.BASIC_GET_EMPTY, b"\0"))
            return
        message = queue.ready.pop(0)
        channel.tag += 1
        if not q.no_ack:
            channel.unacked[channel.tag] = (queue, message)
        answer = m.BasicGetOk(channel.tag, message.redelivered, b"", q.queue, len(queue.ready))
        self._say(channel, on(channel.number, answer) + content(channel.number, message.body, 300))

    def _reject(self, channel: Channel, payload: bytes) -> None:
        tag = U64.unpack_from(payload, 4)[0]
        self._settle(channel, m.BasicNack(tag, False, bool(payload[12])), requeue=bool(payload[12]))

    def _settle(self, channel: Channel, q: m.BasicAck | m.BasicNack, *, requeue: bool) -> None:
        tag = q.delivery_tag
        if q.multiple:
            tags = [each for each in channel.unacked if each <= tag or tag == 0]
            self._need(tags or tag == 0, f"406 multiple settle of {tag} with nothing open")
        else:
            tags = [tag]
        self._need(tag <= channel.tag, f"406 tag {tag} was never given")
        settled = []
        for each in tags:
            self._need(each in channel.unacked, f"406 unknown delivery tag {each}")
            settled.append(channel.unacked.pop(each))
        for _, message in settled:
            self._need(
                self.cluster.may_settle(message.body), f"{message.body!r} was settled by nobody the client knows"
            )
        if requeue:
            self.cluster.requeue(settled)
        for queue in {id(queue): queue for queue, _ in channel.consumers.values()}.values():
            self.cluster.clock.after(0.0, lambda queue=queue: self.cluster.dispatch(queue))

    def _recover(self, channel: Channel, payload: bytes) -> None:
        self.cluster.requeue(list(channel.unacked.values()))
        channel.unacked.clear()
        self._say(channel, on(channel.number, m.BasicRecoverOk()))
