"""One recorded conversation, and the wire to the broker cut after every single byte of it, in either direction."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.commands import CloseClient, Dial
from tests.simulation.broker import Connection
from tests.simulation.client import Client
from tests.simulation.client_channel import GET, OK, SHARED
from tests.simulation.clock import Clock
from tests.simulation.cluster import Cluster, Queue
from tests.support.engine import Story
from tests.support.engine_frames import bind, consume, declare, on, publish

CONFIRMED, GOT = 3, 1


class Always:
    """Chance with one outcome: the conversation is the same each time, but for where it is cut."""

    def choice(self, options):
        return options[0]

    def random(self):
        return 0.99

    def uniform(self, low, high):
        return high


class Line:
    """A wire that carries `left` bytes and then breaks; None never breaks."""

    def __init__(self, receive, broken, left):
        self.receive, self.broken, self.left = receive, broken, left

    def send(self, data):
        if self.left is not None and len(data) > self.left:
            data, rest = data[: self.left], True
        else:
            rest = False
        if self.left is not None:
            self.left -= len(data)
        if data:
            self.receive(data)
        if rest or self.left == 0:
            self.left = -1
            self.broken()

    def cut(self):
        self.left = 0


class Tape:
    """Plays the conversation; `cuts` says for each broker connection after how many bytes each direction breaks."""

    def __init__(self, cuts):
        self.cuts = list(cuts)
        self.clock = Clock()
        self.cluster = Cluster(self.clock, Always())
        for name in SHARED:
            self.cluster.queues[name] = Queue(name)
        self.cluster.may_settle = lambda body: body in self.client.account.settled
        self.story = Story()
        self.session = self.story.session
        self.line = None
        self.carried = []
        self.inbox = []
        self.over = False
        self.client = Client(Always(), "m", self.inbox.append)
        self.steps = self.script()
        self.waiting = lambda: True

    def script(self):
        client = self.client
        yield lambda: client.state == "running"
        confirmer = client.open(1)
        yield lambda: confirmer.state == "open"
        mine = client.open(4)
        mine.ask(declare(4, b"own"), OK["declare"])
        mine.ask(bind(4, b"own", b"amq.topic"), OK["bind"])
        yield lambda: not mine.asked and mine.state == "open"
        for body in (b"one", b"two", b"three"):
            confirmer.published += 1
            confirmer.unconfirmed[confirmer.published] = body
            client.account.wanted.add(body)
            client.send(publish(1, body, key=b"q1", piece_bytes=2))
        yield lambda: not confirmer.unconfirmed
        confirmer.ask(on(1, m.BasicGet(0, b"q1", False)), GET)
        yield lambda: not confirmer.asked and not confirmer.arriving
        confirmer.settled(list(confirmer.open_tags))
        client.send(on(1, m.BasicAck(confirmer.last_tag, True)))
        confirmer.ask(consume(1, b"q1", b"c"), OK["consume"], lambda _: confirmer.consumers.update({b"c": "on"}))
        yield lambda: all(client.account.seen[body] for body in client.account.wanted)
        for tag in list(confirmer.open_tags):
            confirmer.settled([tag])
            client.send(on(1, m.BasicAck(tag, False)))
        yield lambda: True
        client.close()
        yield lambda: self.over

    def play(self):
        for _ in range(4000):
            self.carry()
            if self.waiting():
                self.waiting = next(self.steps, None)
                if self.waiting is None:
                    return self
            elif not self.inbox:
                self.pass_time()
        raise AssertionError("the conversation does not come to its end")

    def pass_time(self):
        now = self.story.now = self.clock.now
        if not self.clock.step(now + 0.05) and (due := self.session.deadline()) is not None and due <= self.clock.now:
            self.story.now = self.clock.now
            self.session.tick(self.clock.now)

    def carry(self):
        story, now = self.story, self.clock.now
        while self.inbox:
            self.session.from_client(self.inbox.pop(0), now)
            story._take()
        story._take()
        to_client, to_broker = b"".join(story.to_client), b"".join(story.to_broker)
        commands = story.commands[:]
        story.forget()
        if to_broker and self.line is not None:
            self.line.send(to_broker)
        if to_client:
            self.client.received(to_client)
        for command in commands:
            match command:
                case Dial(generation):
                    self.connect(generation)
                case CloseClient():
                    self.over = True

    def connect(self, generation):
        up_cut, down_cut = self.cuts.pop(0) if self.cuts else (None, None)
        connection = Connection(self.cluster.nodes[generation % 3], Always())
        carried = [0, 0]
        self.carried.append(carried)

        def broken():
            if not connection.closed:
                connection.drop()
            up.left = down.left = -1
            self.clock.after(0.0, lambda: self.session.broker_lost(generation, "cut", self.clock.now))

        def to_engine(data):
            carried[1] += len(data)
            self.session.from_broker(generation, data, self.clock.now)

        def to_broker(data):
            carried[0] += len(data)
            connection.received(data)

        up, down = Line(to_broker, broken, up_cut), Line(to_engine, broken, down_cut)
        connection.out = down
        self.line = up
        self.clock.after(0.001, lambda: self.session.broker_up(generation, f"rabbit{generation}", self.clock.now))

    def check(self):
        assert self.client.state == "closed"
        account = self.client.account
        assert account.confirmed == account.wanted
        assert all(self.cluster.taken[body] for body in account.wanted)
        load = self.session.journal.load
        assert (load.parked_bytes, load.unsettled_bytes) == (0, 0)


def whole():
    """How many bytes an undisturbed conversation takes, to the broker and from it."""
    return Tape([]).play().carried[0]


UP, DOWN = whole()


@pytest.mark.parametrize(("direction", "total"), [("to the broker", UP), ("from the broker", DOWN)])
def test_a_cut_after_any_byte_is_survived(direction, total):
    for after in range(1, total + 1):
        cut = (after, None) if direction == "to the broker" else (None, after)
        try:
            Tape([cut]).play().check()
        except Exception as error:
            raise AssertionError(f"cut after byte {after} {direction}") from error


@pytest.mark.parametrize("first", range(0, 100, 7))
def test_a_second_cut_during_the_recovery_is_survived(first):
    first_cut = (UP * first // 100 or 1, None)
    for second in range(1, UP, 61):
        for cut in ((second, None), (None, second)):
            try:
                Tape([first_cut, cut]).play().check()
            except Exception as error:
                raise AssertionError(f"cuts {first_cut}, {cut}") from error


def test_the_conversation_is_worth_cutting():
    assert UP > 500
    assert DOWN > 400
