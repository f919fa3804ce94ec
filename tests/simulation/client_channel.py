"""A channel of the model client: what it knows, what it checks, and the things it can do."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, METHOD
from proxy.amqp.wire import U64, Reader
from tests.simulation.broker_channel import HOMED
from tests.simulation.cluster import Violation
from tests.support.engine_frames import (
    NO_PROPERTIES,
    ack,
    bare,
    consume,
    frames_of,
    nack,
    named,
    on,
    publish,
    reject,
)

if TYPE_CHECKING:
    from tests.simulation.client import Client

SHARED = (b"q1", b"q2")
# All queues of which nothing may be lost.
LASTING = (*SHARED, HOMED)
OK = {
    "open": m.method_id(m.ChannelOpenOk), "close": m.method_id(m.ChannelCloseOk),
    "select": m.method_id(m.ConfirmSelectOk), "tx": m.ident(90, 11), "commit": m.ident(90, 21),
    "rollback": m.ident(90, 31),
    "qos": m.ident(60, 11), "consume": m.ident(60, 21), "cancel": m.method_id(m.BasicCancelOk),
    "declare": m.method_id(m.QueueDeclareOk), "delete": m.ident(50, 41), "bind": m.ident(50, 21),
    "recover": m.method_id(m.BasicRecoverOk),
}  # fmt: skip
GET = (m.method_id(m.BasicGetOk), m.BASIC_GET_EMPTY)


def need(fact: object, text: str, *facts: object) -> None:
    """`facts` are put into the text if it is said at all: nearly always it is not."""
    if not fact:
        raise Violation(f"the client met a protocol error: {text.format(*facts) if facts else text}")


class ClientChannel:
    """What the client knows of one of its channels. A role says what it does with it."""

    def __init__(self, client: Client, number: int) -> None:
        self.client = client
        self.rng = client.rng
        self.send = client.send
        self.account = client.account
        self.number = number
        self.state = "opening"
        self.asked: deque[tuple[object, Callable[[bytes], None] | None]] = deque()
        self.confirms = False
        self.published = 0
        self.unconfirmed: dict[int, bytes] = {}
        self.last_tag = 0
        self.open_tags: dict[int, bytes] = {}
        self.said: list[bytes] = []  # what it has settled
        self.recovering = False
        self.consumers: dict[bytes, str] = {}
        self.no_ack: set[bytes] = set()
        self.arriving: list | None = None  # tag, redelivered, holds, bytes left, body, unknown
        self.half: list[bytes] = []  # frames of a publish that is not all sent

    # What a role decides.

    def work(self) -> None:
        """One thing at random."""

    def wind_down(self) -> None:
        """Publish nothing more, and settle what is held."""
        if self.open_tags and not self.recovering:
            tag = 0 if self.client.acks_all else max(self.open_tags)
            self.settled(list(self.open_tags))
            self.send(ack(self.number, tag, multiple=True))

    def may_be_closed(self, close: m.ChannelClose) -> bool:
        """Whether the broker, or a loss, may have closed it like that."""
        return False

    def may_be_cancelled(self, tag: bytes) -> bool:
        """Whether the broker may have ended a consumer: if the client itself is about to."""
        return self.consumers[tag] == "ending"

    def may_close(self) -> bool:
        return self.state == "open" and not self.unconfirmed

    def note_published(self, key: bytes, body: bytes) -> None:
        """A publish to a queue that lives must get there, if it is promised."""
        if key in LASTING and (self.confirms or self.client.covered):
            self.account.wanted.add(body)

    @property
    def busy(self) -> bool:
        """Something is owed to it, or by it."""
        return bool(self.asked or self.unconfirmed or self.open_tags or self.half or self.arriving)

    # What comes.

    def received(self, kind: int, ident: int, data: bytes) -> None:
        if self.arriving is not None:
            self._content(kind, data)
            return
        need(kind == METHOD, "content that was not announced")
        if ident == m.BASIC_DELIVER:
            self._delivered(data[7:-1])
        elif ident in (m.BASIC_ACK, m.BASIC_NACK):
            self._confirmed(ident, data[7:-1])
        elif ident == m.method_id(m.ChannelClose):
            self._closed(m.decode(m.ChannelClose, data[7:-1]))
        elif ident == m.method_id(m.BasicCancel):
            tag = m.decode(m.BasicCancel, data[7:-1]).consumer_tag
            need(tag in self.consumers, "a cancel of no consumer")
            need(self.may_be_cancelled(tag), "a consumer was ended whose queue is there, or will be back")
            del self.consumers[tag]
        else:
            self._answered(ident, data[7:-1])

    def _answered(self, ident: int, payload: bytes) -> None:
        need(self.asked, "an answer {:#x} to nothing on channel {}", ident, self.number)
        wanted, then = self.asked.popleft()
        need(
            ident == wanted or (isinstance(wanted, tuple) and ident in wanted),
            "a wrong answer: {:#x} for {}",
            ident,
            wanted,
        )
        if ident == GET[0]:
            got = m.decode(m.BasicGetOk, payload)
            self._tag(got.delivery_tag)
            self.arriving = [got.delivery_tag, got.redelivered, True, None, b"", True]
        elif then is not None:
            then(payload)

    def _closed(self, close: m.ChannelClose) -> None:
        need(self.may_be_closed(close), "channel {} was closed: {}", self.number, close)
        self.send(on(self.number, m.ChannelCloseOk()))
        self.account.given_back.update(self.said)  # what it said may have crossed the close
        if self.state != "closing":
            self._give_back()
            del self.client.channels[self.number]
            return
        # Its own close has crossed this one, and is answered as well.
        own = self.asked[-1]
        self.asked.clear()
        self.asked.append(own)
        self.half.clear()
        self.unconfirmed.clear()
        self._give_back()

    def _tag(self, tag: int) -> None:
        need(tag > self.last_tag, "delivery tag {} after {}", tag, self.last_tag)
        self.last_tag = tag

    def _delivered(self, payload: bytes) -> None:
        reader = Reader(payload, 4)
        consumer, tag, redelivered = reader.shortstr(), reader.longlong(), bool(reader.octet())
        need(self.consumers.get(consumer) in ("on", "ending"), "a delivery to {!r}: {}", consumer, self.consumers)
        self._tag(tag)
        holds = consumer not in self.no_ack
        self.arriving = [tag, redelivered, holds, None, b"", not holds]

    def _content(self, kind: int, data: bytes) -> None:
        arriving = self.arriving
        assert arriving is not None
        if arriving[3] is None:
            need(kind == HEADER, "a header was due")
            need(b"x-sidehop-id" not in data, "a mark that is none of its business")
            arriving[3] = U64.unpack_from(data, 11)[0]
        else:
            need(kind == BODY, "a body was due")
            arriving[4] += data[7:-1]
            arriving[3] -= len(data) - 8
        if arriving[3] == 0:
            tag, redelivered, holds, _, body, unknown = arriving
            self.arriving = None
            if unknown:
                self.account.unknown.add(body)
            self.account.arrived(body, redelivered=redelivered)
            if holds:
                self.open_tags[tag] = body
            else:
                self.account.settled.add(body)

    def _confirmed(self, ident: int, payload: bytes) -> None:
        need(ident == m.BASIC_ACK, "a nack that was the cluster's passing trouble")
        confirm = m.decode(m.BasicAck, payload)
        number = confirm.delivery_tag
        need(self.confirms, "a confirm that nobody asked for")
        need(number <= self.published, "a confirm of {}, {} were published", number, self.published)
        done = [n for n in self.unconfirmed if n <= number] if confirm.multiple else [number]
        need(done, "a multiple confirm of nothing")
        for each in done:
            need(each in self.unconfirmed, "a second confirm of {}", each)
            self.account.confirmed.add(self.unconfirmed.pop(each))

    # What it can do.

    def ask(self, data: bytes, answer: object, then: Callable[[bytes], None] | None = None) -> None:
        self.asked.append((answer, then))
        self.send(data)

    def open(self) -> None:
        def opened(_: bytes) -> None:
            self.state = "open"

        self.ask(on(self.number, m.ChannelOpen()), OK["open"], opened)

    def close(self) -> None:
        self.state = "closing"

        def closed(_: bytes) -> None:
            self._give_back()
            del self.client.channels[self.number]

        self.ask(on(self.number, m.ChannelClose(200, b"bye")), OK["close"], closed)

    def select(self) -> None:
        nowait = self.rng.random() < 0.3
        if not nowait:
            self.asked.append((OK["select"], None))
        self.send(on(self.number, m.ConfirmSelect(nowait)))
        self.confirms = True
        self.published = 0

    def publish(self, key: bytes, *, exchange: bytes = b"") -> None:
        """One or several messages; the last one may be left half sent."""
        large = self.client.large_bytes
        for _ in range(self.rng.choice((1, 1, 3, 20))):
            body = f"{self.client.name}.{self.number}.{self.client.number()}.".encode()
            if large and self.rng.random() < 0.2:
                body += b"x" * self.rng.randint(large // 4, large)
            else:
                body += b"x" * self.rng.choice((0, 0, 40, 900))
            piece = self.rng.choice((300, 4000)) if len(body) < 2000 else min(8000, self.client.frame_max - 8)
            properties = named(body[:250]) if self.client.names else NO_PROPERTIES
            whole = publish(self.number, body, key=key, exchange=exchange, piece_bytes=piece, properties=properties)
            frames = frames_of(whole)
            self.published += 1
            if self.confirms:
                self.unconfirmed[self.published] = body
            self.note_published(key, body)
            if self.rng.random() < 0.1:
                cut = self.rng.randint(1, len(frames) - 1)
                self.send(b"".join(frames[:cut]))
                self.half = frames[cut:]
                return
            self.send(b"".join(frames))
            if exchange:
                return

    def get(self, queue: bytes) -> None:
        self.ask(on(self.number, m.BasicGet(0, queue, False)), GET)

    def qos(self) -> None:
        self.ask(on(self.number, m.BasicQos(0, self.rng.choice((0, 1, 3, 10)), False)), OK["qos"])

    def consume(self, queue: bytes, *, no_ack: bool = False) -> None:
        tag = f"c{self.client.number()}".encode()
        if self.rng.random() < 0.1 and not no_ack:
            tag = b""
        if no_ack:
            self.no_ack.add(tag)

        def consuming(payload: bytes) -> None:
            self.consumers[Reader(payload, 4).shortstr()] = "on"

        if tag and self.rng.random() < 0.2:
            self.consumers[tag] = "on"
            self.send(consume(self.number, queue, tag, nowait=True, no_ack=no_ack))
        else:
            self.ask(consume(self.number, queue, tag, no_ack=no_ack), OK["consume"], consuming)

    def cancel_one(self) -> None:
        running = [tag for tag, state in self.consumers.items() if state == "on"]
        if not running:
            return
        tag = self.rng.choice(running)
        self.consumers[tag] = "ending"

        def cancelled(_: bytes) -> None:
            self.consumers.pop(tag, None)  # the broker may have cancelled it as well

        self.ask(on(self.number, m.BasicCancel(tag, False)), OK["cancel"], cancelled)

    def recover(self) -> None:
        self.recovering = True

        def recovered(_: bytes) -> None:
            self.recovering = False
            self._give_back()

        self.ask(bare(self.number, m.BASIC_RECOVER, b"\x01"), OK["recover"], recovered)

    def settle_some(self) -> None:
        """Acks and refusals, single and multiple."""
        if not self.open_tags or self.recovering:
            return
        form = self.rng.random()
        tag = self.rng.choice(list(self.open_tags))
        upto = [each for each in self.open_tags if each <= tag]
        if self.client.acks_all:
            self.settled(list(self.open_tags))
            self.send(ack(self.number, 0, multiple=True))
        elif form < 0.4:
            self.settled([tag])
            self.send(ack(self.number, tag))
        elif form < 0.7:
            self.settled(upto)
            self.send(ack(self.number, tag, multiple=True))
        elif form < 0.85:
            self.account.given_back[self.open_tags[tag]] += 1
            self.settled([tag])
            self.send(reject(self.number, tag, requeue=True))
        elif form < 0.95:
            self.account.given_back.update(self.open_tags[each] for each in upto)
            self.settled(upto)
            self.send(nack(self.number, tag, multiple=True, requeue=True))

    def _give_back(self) -> None:
        """What it holds is void, and may come again."""
        self.account.given_back.update(self.open_tags.values())
        self.open_tags.clear()

    def settled(self, tags: list[int]) -> None:
        for tag in tags:
            body = self.open_tags.pop(tag)
            self.account.settled.add(body)
            self.said.append(body)
