"""A client that does everything at random, legally, and believes nothing: it checks each frame it is given."""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, HEARTBEAT, PROTOCOL_HEADER
from proxy.amqp.wire import U64, Reader
from tests.simulation.cluster import Violation
from tests.support.engine_frames import (
    ALL_CAPABILITIES,
    ack,
    bare,
    bind,
    channel_of,
    consume,
    declare,
    frames_of,
    ident_of,
    nack,
    on,
    publish,
    reject,
    start_ok,
)

CONFIRMER, PUBLISHER, CONSUMER, OWNER, MIXED = 1, 2, 3, 4, 5
SHARED = (b"q1", b"q2")
OK = {
    "open": m.method_id(m.ChannelOpenOk), "close": m.method_id(m.ChannelCloseOk),
    "select": m.method_id(m.ConfirmSelectOk),
    "qos": m.ident(60, 11), "consume": m.ident(60, 21), "cancel": m.method_id(m.BasicCancelOk),
    "declare": m.method_id(m.QueueDeclareOk), "delete": m.ident(50, 41), "bind": m.ident(50, 21),
    "recover": m.method_id(m.BasicRecoverOk),
}  # fmt: skip
GET = (m.method_id(m.BasicGetOk), m.BASIC_GET_EMPTY)


class ClientChannel:
    """What the client knows of one of its channels."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.state = "opening"
        self.asked: deque[tuple[object, Callable[[bytes], None] | None]] = deque()
        self.confirms = False
        self.published = 0
        self.unconfirmed: dict[int, bytes] = {}
        self.last_tag = 0
        self.open_tags: dict[int, bytes] = {}
        self.recovering = False
        self.consumers: dict[bytes, str] = {}
        self.no_ack: set[bytes] = set()
        self.drained: set[bytes] = set()  # consumed from in the end
        self.arriving: list | None = None  # tag, redelivered, holds, bytes left, body
        self.queue = b""
        self.half: list[bytes] = []  # frames of a publish that is not all sent


class Client:
    """One connection. `act` does one thing; `received` checks what comes."""

    def __init__(self, rng: random.Random, name: str, send: Callable[[bytes], None]) -> None:
        self.rng = rng
        self.name = name
        self.send = send
        self.state = "start"
        self.channels: dict[int, ClientChannel] = {}
        self.seen: Counter[bytes] = Counter()
        self.seen_fresh: Counter[bytes] = Counter()
        self.settled: set[bytes] = set()
        self.acks_all = rng.random() < 0.2  # uses only ack(0, multiple), which settles what is still on its way
        self.uncovered = 0
        self.wanted: set[bytes] = set()  # published to queues that live
        self.confirmed: set[bytes] = set()
        self.finishing = False
        self.closed = False
        self._count = 0
        self._tags = 0
        self._buffer = b""
        send(PROTOCOL_HEADER)

    # What comes.

    def received(self, data: bytes) -> None:
        frames = frames_of(self._buffer + data)
        self._buffer = b""
        for each in frames:
            if len(each) < 8 or len(each) < 8 + int.from_bytes(each[3:7], "big"):
                self._buffer = each
                return
            self._frame(each)

    def _need(self, fact: object, text: str) -> None:
        if not fact:
            raise Violation(f"the client met a protocol error: {text}")

    def _frame(self, data: bytes) -> None:
        kind, number, ident = data[0], channel_of(data), ident_of(data)
        self._need(data[-1] == 206, "a frame without an end")
        if kind == HEARTBEAT:
            return
        if number == 0:
            self._connection(ident, data[7:-1])
            return
        channel = self.channels.get(number)
        self._need(channel is not None, f"{ident >> 16}.{ident & 65535} on channel {number}, which is not open")
        assert channel is not None
        if channel.arriving is not None:
            self._content(channel, kind, data)
            return
        self._need(kind == 1, "content that was not announced")
        if ident == m.BASIC_DELIVER:
            self._delivered(channel, data[7:-1])
        elif ident in (m.BASIC_ACK, m.BASIC_NACK):
            self._confirmed(channel, ident, data[7:-1])
        elif ident == m.method_id(m.ChannelClose):
            raise Violation(f"channel {number} was closed: {m.decode(m.ChannelClose, data[7:-1])}")
        elif ident == m.method_id(m.BasicCancel):
            tag = m.decode(m.BasicCancel, data[7:-1]).consumer_tag
            self._need(channel.consumers.pop(tag, None), "a cancel of no consumer")
        else:
            self._need(channel.asked, f"an answer {ident >> 16}.{ident & 65535} to nothing on channel {number}")
            wanted, then = channel.asked.popleft()
            self._need(
                ident == wanted or (isinstance(wanted, tuple) and ident in wanted),
                f"a wrong answer: {ident:#x} for {wanted}",
            )
            if ident == GET[0]:
                got = m.decode(m.BasicGetOk, data[7:-1])
                self._tag(channel, got.delivery_tag)
                channel.arriving = [got.delivery_tag, got.redelivered, True, None, b""]
            elif then is not None:
                then(data[7:-1])

    def _connection(self, ident: int, payload: bytes) -> None:
        if ident == m.method_id(m.ConnectionStart):
            self._need(self.state == "start", "a second start")
            self.state = "tune"
            self.send(start_ok(*ALL_CAPABILITIES))
        elif ident == m.method_id(m.ConnectionTune):
            self._need(self.state == "tune", "a second tune")
            self.state = "open"
            tune = m.decode(m.ConnectionTune, payload)
            self.send(on(0, m.ConnectionTuneOk(tune.channel_max, tune.frame_max, 10), m.ConnectionOpen(b"/")))
        elif ident == m.method_id(m.ConnectionOpenOk):
            self._need(self.state == "open", "a second open-ok")
            self.state = "running"
        elif ident == m.method_id(m.ConnectionCloseOk):
            self._need(self.state == "closing", "a close-ok to nothing")
            self.state = "closed"
        else:
            raise Violation(f"connection: {ident >> 16}.{ident & 65535} {payload!r}")

    def _tag(self, channel: ClientChannel, tag: int) -> None:
        self._need(tag > channel.last_tag, f"delivery tag {tag} after {channel.last_tag}")
        channel.last_tag = tag

    def _delivered(self, channel: ClientChannel, payload: bytes) -> None:
        reader = Reader(payload, 4)
        consumer, tag, redelivered = reader.shortstr(), reader.longlong(), bool(reader.octet())
        self._need(
            channel.consumers.get(consumer) in ("on", "ending"), f"a delivery to {consumer!r}: {channel.consumers}"
        )
        self._tag(channel, tag)
        channel.arriving = [tag, redelivered, consumer not in channel.no_ack, None, b""]

    def _content(self, channel: ClientChannel, kind: int, data: bytes) -> None:
        arriving = channel.arriving
        if arriving[3] is None:
            self._need(kind == HEADER, "a header was due")
            arriving[3] = U64.unpack_from(data, 11)[0]
        else:
            self._need(kind == BODY, "a body was due")
            arriving[4] += data[7:-1]
            arriving[3] -= len(data) - 8
        if arriving[3] == 0:
            tag, redelivered, holds, _, body = arriving
            channel.arriving = None
            self.seen[body] += 1
            self.seen_fresh[body] += not redelivered
            if holds:
                channel.open_tags[tag] = body
            else:
                self.settled.add(body)

    def _confirmed(self, channel: ClientChannel, ident: int, payload: bytes) -> None:
        self._need(ident == m.BASIC_ACK, "a nack that was the cluster's passing trouble")
        confirm = m.decode(m.BasicAck, payload)
        number = confirm.delivery_tag
        self._need(channel.confirms, "a confirm that nobody asked for")
        self._need(number <= channel.published, f"a confirm of {number}, {channel.published} were published")
        done = [n for n in channel.unconfirmed if n <= number] if confirm.multiple else [number]
        self._need(done, "a multiple confirm of nothing")
        for each in done:
            self._need(each in channel.unconfirmed, f"a second confirm of {each}")
            self.confirmed.add(channel.unconfirmed.pop(each))

    # What it does.

    def _ask(
        self, channel: ClientChannel, data: bytes, answer: object, then: Callable[[bytes], None] | None = None
    ) -> None:
        channel.asked.append((answer, then))
        self.send(data)

    def act(self) -> None:
        """One legal thing at random."""
        if self.state != "running":
            return
        number = self.rng.randint(1, 5)
        channel = self.channels.get(number)
        if channel is None:
            if not self.finishing or number == CONSUMER:
                self._open(number)
        elif channel.half:
            self.send(channel.half.pop(0))
        elif channel.state == "closing":
            return
        elif self.finishing:
            self._wind_down(channel)
        elif not channel.asked or self.rng.random() < 0.3:
            self._work(channel)

    def _open(self, number: int) -> None:
        channel = self.channels[number] = ClientChannel(number)

        def opened(_: bytes) -> None:
            channel.state = "open"

        self._ask(channel, on(number, m.ChannelOpen()), OK["open"], opened)
        if number == CONFIRMER:
            self._select(channel)

    def _select(self, channel: ClientChannel) -> None:
        nowait = self.rng.random() < 0.3
        if not nowait:
            channel.asked.append((OK["select"], None))
        self.send(on(channel.number, m.ConfirmSelect(nowait)))
        channel.confirms = True
        channel.published = 0

    def _work(self, channel: ClientChannel) -> None:
        role, chance = channel.number, self.rng.random()
        if chance < 0.01 and channel.state == "open" and not channel.unconfirmed:
            self._close(channel)
        elif role in (CONFIRMER, PUBLISHER):
            self._publish(channel, self.rng.choice(SHARED))
        elif role == CONSUMER:
            self._consume_some(channel, self.rng.choice(SHARED))
        elif role == OWNER:
            self._own(channel)
        elif chance < 0.5:
            if chance < 0.05 and not channel.confirms:
                self._select(channel)
            self._publish(channel, self.rng.choice(SHARED))
        elif chance < 0.8:
            self._ask(channel, on(channel.number, m.BasicGet(0, self.rng.choice(SHARED), False)), GET)
        else:
            self._settle_some(channel)

    def _close(self, channel: ClientChannel) -> None:
        channel.state = "closing"

        def closed(_: bytes) -> None:
            del self.channels[channel.number]

        self._ask(channel, on(channel.number, m.ChannelClose(200, b"bye")), OK["close"], closed)

    def _publish(self, channel: ClientChannel, key: bytes) -> None:
        for _ in range(self.rng.choice((1, 1, 3, 20))):
            self._count += 1
            body = f"{self.name}.{channel.number}.{self._count}.".encode() + b"x" * self.rng.choice((0, 0, 40, 900))
            frames = frames_of(publish(channel.number, body, key=key, piece_bytes=self.rng.choice((300, 4000))))
            channel.published += 1
            if channel.confirms:
                channel.unconfirmed[channel.published] = body
            if key in SHARED:
                self.wanted.add(body)
            if self.rng.random() < 0.1:
                cut = self.rng.randint(1, len(frames) - 1)
                self.send(b"".join(frames[:cut]))
                channel.half = frames[cut:]
                return
            self.send(b"".join(frames))

    def _consume_some(self, channel: ClientChannel, queue: bytes) -> None:
        chance = self.rng.random()
        if chance < 0.1:
            self._ask(channel, on(channel.number, m.BasicQos(0, self.rng.choice((0, 1, 3, 10)), False)), OK["qos"])
        elif chance < 0.25 and len(channel.consumers) < 3:
            self._consume(channel, queue)
        elif chance < 0.3:
            self._cancel_one(channel)
        elif chance < 0.32 and not channel.recovering:
            self._recover(channel)
        else:
            self._settle_some(channel)

    def _consume(self, channel: ClientChannel, queue: bytes) -> None:
        self._tags += 1
        tag = f"c{self._tags}".encode()
        if self.rng.random() < 0.1:
            tag = b""
        nowait = bool(tag) and self.rng.random() < 0.2

        def consuming(payload: bytes) -> None:
            channel.consumers[Reader(payload, 4).shortstr()] = "on"

        if nowait:
            channel.consumers[tag] = "on"
            self.send(consume(channel.number, queue, tag, nowait=True))
        else:
            self._ask(channel, consume(channel.number, queue, tag), OK["consume"], consuming)

    def _cancel_one(self, channel: ClientChannel) -> None:
        running = [tag for tag, state in channel.consumers.items() if state == "on"]
        if not running:
            return
        tag = self.rng.choice(running)
        channel.consumers[tag] = "ending"
        self._ask(
            channel,
            on(channel.number, m.BasicCancel(tag, False)),
            OK["cancel"],
            lambda _: void(channel.consumers.pop(tag)),
        )

    def _recover(self, channel: ClientChannel) -> None:
        channel.recovering = True

        def recovered(_: bytes) -> None:
            channel.recovering = False
            channel.open_tags.clear()

        self._ask(channel, bare(channel.number, m.BASIC_RECOVER, b"\x01"), OK["recover"], recovered)

    def _settle_some(self, channel: ClientChannel) -> None:
        if not channel.open_tags or channel.recovering:
            return
        form = self.rng.random()
        tag = self.rng.choice(list(channel.open_tags))
        if self.acks_all:
            self._settled(channel, list(channel.open_tags))
            self.send(ack(channel.number, 0, multiple=True))
        elif form < 0.4:
            self._settled(channel, [tag])
            self.send(ack(channel.number, tag))
        elif form < 0.7:
            self._settled(channel, [each for each in channel.open_tags if each <= tag])
            self.send(ack(channel.number, tag, multiple=True))
        elif form < 0.85:
            self._settled(channel, [tag])
            self.send(reject(channel.number, tag, requeue=True))
        elif form < 0.95:
            self._settled(channel, [each for each in channel.open_tags if each <= tag])
            self.send(nack(channel.number, tag, multiple=True, requeue=True))

    def _settled(self, channel: ClientChannel, tags: list[int]) -> None:
        for tag in tags:
            self.settled.add(channel.open_tags.pop(tag))

    def _own(self, channel: ClientChannel) -> None:
        chance = self.rng.random()
        if not channel.queue:
            self._declare(channel)
        elif channel.queue == b"?":
            return
        elif chance < 0.4:
            self._publish(channel, channel.queue)
        elif chance < 0.5 and not channel.consumers:
            self._consume(channel, channel.queue)
        elif chance < 0.52:
            queue, channel.queue = channel.queue, b""
            channel.consumers = dict.fromkeys(channel.consumers, "ending")
            self._ask(channel, on(channel.number, m.QueueDelete(0, queue, False, False, False)), OK["delete"])
        else:
            self._settle_some(channel)

    def _declare(self, channel: ClientChannel) -> None:
        named = self.rng.random() < 0.5
        channel.queue = b"?"

        def declared(payload: bytes) -> None:
            channel.queue = m.decode(m.QueueDeclareOk, payload).queue

        self._count += 1
        name = f"own{self._count}".encode() if named else b""
        self._ask(channel, declare(channel.number, name), OK["declare"], declared)
        self._ask(channel, bind(channel.number, name, b"amq.topic", b"k"), OK["bind"])

    # How it ends.

    def _wind_down(self, channel: ClientChannel) -> None:
        """Consume what is left, publish nothing more."""
        rest = [queue for queue in SHARED if queue not in channel.drained]
        if channel.number == CONSUMER and channel.state == "open" and not channel.asked and rest:
            channel.drained.add(rest[0])
            self._consume(channel, rest[0])
        elif channel.open_tags and not channel.recovering:
            tag = 0 if self.acks_all else max(channel.open_tags)
            self._settled(channel, list(channel.open_tags))
            self.send(ack(channel.number, tag, multiple=True))

    @property
    def idle(self) -> bool:
        """Nothing is owed to it."""
        return self.state == "running" and not any(
            channel.asked or channel.unconfirmed or channel.open_tags or channel.half or channel.arriving
            for channel in self.channels.values()
        )

    def close(self) -> None:
        self.state = "closing"
        self.send(on(0, m.ConnectionClose(200, b"bye")))


def void(_: object) -> None:
    """Drop a result."""
