"""What a channel of the model client is used for: its number says which role it plays."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from proxy.amqp import methods as m
from tests.simulation.broker_channel import HOMED, NO_EXCHANGE
from tests.simulation.client_channel import OK, SHARED, ClientChannel, need
from tests.support.engine_frames import ack, bare, bind, consume, declare, on

if TYPE_CHECKING:
    from tests.simulation.client import Client

CONFIRMER, PUBLISHER, CONSUMER, OWNER, MIXED, TRANSACTOR, CARELESS, MODEST, HOMEBODY = 1, 2, 3, 4, 5, 6, 7, 8, 9
# A shared queue that somebody deletes and declares anew; what is in it is nobody's concern.
CASUAL = b"q3"
UNKNOWN_TAG = 1_000_000


class Publisher(ClientChannel):
    """Publishes without confirms of its own."""

    def work(self) -> None:
        self.publish(self.rng.choice(SHARED))


class Confirmer(Publisher):
    """Publishes with confirms from the start."""

    def open(self) -> None:
        super().open()
        self.select()


class Consumer(ClientChannel):
    """Consumes from the shared queues, and in the end takes what is left in them."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(client, number)
        self._drained: set[bytes] = set()

    def work(self) -> None:
        chance = self.rng.random()
        if chance < 0.1:
            self.qos()
        elif chance < 0.25 and len(self.consumers) < 3:
            self.consume(self.rng.choice(SHARED))
        elif chance < 0.3:
            self.cancel_one()
        elif chance < 0.32 and not self.recovering:
            self.recover()
        else:
            self.settle_some()

    def wind_down(self) -> None:
        rest = [queue for queue in SHARED if queue not in self._drained]
        if self.state == "open" and not self.asked and rest:
            self._drained.add(rest[0])
            self.consume(rest[0])
        else:
            super().wind_down()


class Modest(ClientChannel):
    """Says how much it wants to hold, settles slowly, and never holds more, whoever it is from."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(client, number)
        self.limit = self.rng.choice((1, 2, 5))

    def open(self) -> None:
        super().open()
        self.ask(on(self.number, m.BasicQos(0, self.limit, self.rng.random() < 0.5)), OK["qos"])
        self.consume(self.rng.choice(SHARED))

    def work(self) -> None:
        if self.rng.random() < 0.3:
            self.settle_some()

    def received(self, kind: int, ident: int, data: bytes) -> None:
        super().received(kind, ident, data)
        held = len(self.open_tags)
        # An ack of everything makes room for what is on its way; what is too large to be kept back passes.
        if not self.client.acks_all and not self.client.large_bytes:
            need(held <= self.limit, "{} deliveries are out, {} were asked for", held, self.limit)


class Homebody(ClientChannel):
    """Consumes from a queue that lives on one node, and publishes to it: when that node is down, it just waits."""

    def work(self) -> None:
        chance = self.rng.random()
        if not self.consumers:
            self._begin()
        elif chance < 0.1 and not self.confirms:
            self.select()
        elif chance < 0.5:
            self.publish(HOMED)
        elif chance < 0.55:
            self.qos()
        else:
            self.settle_some()

    def wind_down(self) -> None:
        if self.consumers:
            super().wind_down()
        else:
            self._begin()

    def may_be_closed(self, close: m.ChannelClose) -> bool:
        """It may ask for the queue while its home is down. Nothing else is under way then."""
        return not self.consumers and close.reply_code == 404 and close.reply_text.endswith(b"is down or inaccessible")

    def _begin(self) -> None:
        def consuming(_: bytes) -> None:
            self.consumers[b"home"] = "on"

        if self.state == "open" and not self.asked:
            self.ask(consume(self.number, HOMED, b"home"), OK["consume"], consuming)


class Owner(ClientChannel):
    """Has an exclusive queue of its own, with or without a name."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(client, number)
        self.queue = b""
        self.deleted = False

    def may_be_cancelled(self, tag: bytes) -> bool:
        """What it has deleted it may have consumed from, without an answer yet."""
        return self.deleted

    def work(self) -> None:
        chance = self.rng.random()
        if not self.queue:
            self._declare()
        elif self.queue == b"?":
            return
        elif chance < 0.4:
            self.publish(self.queue)
        elif chance < 0.5 and not self.consumers:
            self.consume(self.queue)
        elif chance < 0.52:
            queue, self.queue, self.deleted = self.queue, b"", True
            self.consumers = dict.fromkeys(self.consumers, "ending")
            self.ask(on(self.number, m.QueueDelete(0, queue, False, False, False)), OK["delete"])
        else:
            self.settle_some()

    def _declare(self) -> None:
        named = self.rng.random() < 0.5
        self.queue = b"?"

        def declared(payload: bytes) -> None:
            self.queue = m.decode(m.QueueDeclareOk, payload).queue

        name = f"own{self.client.number()}".encode() if named else b""
        durable = self.rng.random() < 0.3
        self.ask(declare(self.number, name, durable=durable), OK["declare"], declared)
        self.ask(bind(self.number, name, b"amq.topic", b"k"), OK["bind"])


class Mixed(ClientChannel):
    """Publishes, gets and settles on one channel, and asks for confirms late or never."""

    def work(self) -> None:
        chance = self.rng.random()
        if chance < 0.5:
            if chance < 0.05 and not self.confirms:
                self.select()
            self.publish(self.rng.choice(SHARED))
        elif chance < 0.8:
            self.get(self.rng.choice(SHARED))
        else:
            self.settle_some()


@dataclass
class Work:
    """A transaction, or what has been done of it so far."""

    bodies: list[bytes] = field(default_factory=list)
    settled: dict[int, bytes] = field(default_factory=dict)
    committed: bool = False

    def __bool__(self) -> bool:
        return bool(self.bodies or self.settled)


class Transactor(ClientChannel):
    """Works in transactions, sometimes after publishing without."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(client, number)
        self.tx = False
        self.current = Work()
        self.ending: deque[Work] = deque()

    def work(self) -> None:
        chance = self.rng.random()
        if not self.tx:
            if chance < 0.5:
                self.publish(self.rng.choice(SHARED))
            elif self.state == "open":
                self.tx = True
                self.ask(bare(self.number, m.ident(90, 10)), OK["tx"])
        elif chance < 0.3:
            self.publish(self.rng.choice(SHARED))
        elif chance < 0.5:
            self.get(self.rng.choice(SHARED))
        elif chance < 0.7:
            self.settle_some()
        elif chance < 0.9:
            self._end(commit=True)
        else:
            self._end(commit=False)

    def wind_down(self) -> None:
        super().wind_down()
        if self.current and not self.asked:
            self._end(commit=True)

    def note_published(self, key: bytes, body: bytes) -> None:
        if self.tx:
            self.current.bodies.append(body)
        else:
            super().note_published(key, body)

    def settled(self, tags: list[int]) -> None:
        if self.tx:
            self.current.settled.update({tag: self.open_tags[tag] for tag in tags})
        super().settled(tags)

    def may_close(self) -> bool:
        return super().may_close() and not self.current

    @property
    def busy(self) -> bool:
        return super().busy or bool(self.current)

    def _end(self, *, commit: bool) -> None:
        work, self.current = self.current, Work()
        work.committed = commit
        self.ending.append(work)

        # What is sent before the answer counts after it: a multiple ack would cover what the rollback brings back.
        self.recovering = self.recovering or not commit

        def ended(_: bytes) -> None:
            self.ending.popleft()
            self.recovering = not all(each.committed for each in self.ending)
            if commit:
                self.account.wanted.update(work.bodies)
            else:
                self.account.unwanted.update(work.bodies)
                self.open_tags = dict(sorted((self.open_tags | work.settled).items()))

        ident = m.TX_COMMIT if commit else m.TX_ROLLBACK
        self.ask(bare(self.number, ident), OK["commit"] if commit else OK["rollback"], ended)

    def may_be_closed(self, close: m.ChannelClose) -> bool:
        """A loss ends work that is not committed, and a commit whose answer is not here."""
        homeless = b"not all of it found a queue in time" in close.reply_text
        unknown = homeless or b"transaction outcome unknown" in close.reply_text
        committing = any(work.committed and work for work in self.ending)
        undone = [self.current, *(work for work in self.ending if not (unknown and work.committed))]
        for work in undone:
            self.account.unwanted.update(work.bodies)
        if unknown:
            return close.reply_code == 541 and committing
        rolled_back = b"uncommitted transaction rolled back" in close.reply_text
        return close.reply_code == 541 and rolled_back and any(undone)


class Careless(ClientChannel):
    """Makes mistakes that cost it the channel, and uses a queue that comes and goes."""

    def __init__(self, client: Client, number: int) -> None:
        super().__init__(client, number)
        self.mistakes = 0

    def work(self) -> None:
        chance = self.rng.random()
        if chance < 0.05:
            self.mistakes += 1
            if self.rng.random() < 0.5:
                self.publish(b"k", exchange=NO_EXCHANGE)
            else:
                self.send(ack(self.number, self.last_tag + UNKNOWN_TAG))
        elif chance < 0.2 and len(self.consumers) < 3:
            self.consume(CASUAL, no_ack=self.rng.random() < 0.5)
        elif chance < 0.25:
            self.cancel_one()
        elif chance < 0.28 and not self.confirms:
            self.select()
        elif chance < 0.6:
            self.publish(CASUAL)
        else:
            self.settle_some()

    def may_be_cancelled(self, tag: bytes) -> bool:
        return True

    def may_be_closed(self, close: m.ChannelClose) -> bool:
        gone = close.reply_code == 404 and close.reply_text.startswith(b"NOT_FOUND - no queue")
        wrong = close.reply_code == 404 and b"no exchange 'nope'" in close.reply_text
        unknown = close.reply_code == 406 and b"unknown delivery tag" in close.reply_text
        return gone or (bool(self.mistakes) and (wrong or unknown))


ROLES: dict[int, type[ClientChannel]] = {
    CONFIRMER: Confirmer,
    PUBLISHER: Publisher,
    CONSUMER: Consumer,
    OWNER: Owner,
    MIXED: Mixed,
    HOMEBODY: Homebody,
    TRANSACTOR: Transactor,
    CARELESS: Careless,
    MODEST: Modest,
}
