"""Three broker nodes with queues that survive any one of them, strict about every frame they are sent.

Only what the engine relies on is modelled. A frame that a real broker would answer by closing the connection, or an
ack of a tag it did not give, is a `Violation`: the engine may never cause one, since the model client never does,
but for the one channel that is known to be careless.
"""

from __future__ import annotations

import random
from bisect import insort
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from proxy.amqp import methods as m
from tests.simulation.clock import Clock
from tests.simulation.exchanges import Exchanges
from tests.support.engine_frames import on

LEADERLESS_S = 0.3
# How much later everything comes from a node that is slow.
SLOWNESS = 100.0


class Violation(AssertionError):
    """Somebody said what the protocol, or an invariant, forbids."""


class NoQuorum(Exception):
    """Something is asked of a queue without a majority of nodes: its channel stands still until there is one."""


@dataclass(order=True)
class Message:
    order: int
    body: bytes = field(compare=False)
    properties: bytes = field(compare=False)
    redelivered: bool = field(default=False, compare=False)


class Queue:
    """Messages, and who consumes: pairs of a broker's channel and a tag. `owner` is a connection, if exclusive.

    An auto-delete queue goes with its last consumer. One with a `home` is durable and classic: while that node is down
    it is out of reach with all that is in it. One with `voters` needs most of them for anything.
    """

    def __init__(
        self,
        name: bytes,
        owner: object = None,
        *,
        auto_delete: bool = False,
        home: Node | None = None,
        voters: Sequence[Node] = (),
    ) -> None:
        self.name = name
        self.owner = owner
        self.home = home
        self.voters = voters
        self.auto_delete = auto_delete
        self.ready: list[Message] = []
        self.consumers: deque = deque()

    @property
    def reachable(self) -> bool:
        """It can be asked for its messages."""
        return not self.away and not self.stalled

    @property
    def away(self) -> bool:
        """Its home is down."""
        return self.home is not None and not self.home.up

    @property
    def stalled(self) -> bool:
        """It has no quorum: nobody gets an answer, and nothing is delivered or confirmed."""
        votes = sum(node.up and not node.frozen for node in self.voters)
        return votes * 2 <= len(self.voters) and bool(self.voters)


class Cluster:
    """What the nodes share, and who may look at it."""

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self.clock = clock
        self.rng = rng
        self.nodes = [Node(self, f"rabbit{n}:5672") for n in (1, 2, 3)]
        self.queues: dict[bytes, Queue] = {}
        self.exchanges = Exchanges()
        self.taken: Counter[bytes] = Counter()
        self.deaths: list[float] = []
        # What queues without a quorum will do when they have one.
        self.waiting: list[Callable[[], None]] = []
        # Classic queues whose home is down: what is published to them is dropped, and confirmed.
        self.homeless: set[bytes] = set()
        self.may_settle: Callable[[bytes], bool] = lambda body: True
        # Channel numbers whose mistakes are the client's own.
        self.careless: set[int] = set()
        self._order = 0

    def route(self, exchange: bytes, key: bytes) -> list[bytes]:
        """The queues that get a message now: those that are there and have a home."""
        names = [name for name in self.exchanges.routes(exchange, key) if name in self.queues]
        return [name for name in names if name not in self.homeless and not self.queues[name].away]

    def take(self, name: bytes, body: bytes, properties: bytes) -> None:
        """A queue gets a message, if it is still there."""
        queue = self.queues.get(name)
        if queue is None:
            return
        self._order += 1
        self.taken[body] += 1
        queue.ready.append(Message(self._order, body, properties))
        self.clock.after(0.0005, lambda: self.dispatch(queue))

    def requeue(self, unacked: list[tuple[Queue, Message | None]]) -> None:
        """What was delivered goes back to its queue; None stands for what its queue has taken back already."""
        for queue, message in unacked:
            if message is None:
                continue
            message.redelivered = True
            insort(queue.ready, message)
            self.clock.after(0.0005, lambda queue=queue: self.dispatch(queue))

    def dispatch(self, queue: Queue) -> None:
        idle = 0
        while queue.ready and queue.consumers and idle < len(queue.consumers) and queue.reachable:
            queue.consumers.rotate(-1)
            channel, tag = queue.consumers[-1]
            if not channel.has_room():
                idle += 1
                continue
            idle = 0
            channel.deliver(tag, queue, queue.ready.pop(0))

    def delete(self, name: bytes) -> None:
        """A queue goes with its bindings, and its consumers are told."""
        queue = self.queues.pop(name, None)
        if queue is not None:
            self.exchanges.queue_gone(name)
            for channel, tag in queue.consumers:
                channel.consumers.pop(tag, None)
                channel.say(on(channel.number, m.BasicCancel(tag, True)))
            queue.consumers.clear()

    def forsaken(self, queue: Queue) -> None:
        """One of its consumers is gone; an auto-delete queue goes with the last one."""
        if queue.auto_delete and not queue.consumers and self.queues.get(queue.name) is queue:
            self.delete(queue.name)

    def home_lost(self, node: Node) -> None:
        """Queues that live there tell their consumers on other nodes, and take back what those hold."""
        for queue in self.queues.values():
            if queue.home is not node:
                continue
            for channel, tag in queue.consumers:
                channel.consumers.pop(tag, None)
                channel.say(on(channel.number, m.BasicCancel(tag, True)))
            queue.consumers.clear()
            for each in [channel for other in self.nodes for c in other.connections for channel in c.channels.values()]:
                each.lose(queue)

    def review(self) -> None:
        """A node is back: what has waited for a quorum, or for the home of a queue, may go on."""
        waiting, self.waiting = self.waiting, []
        for each in waiting:
            each()
        for connection in [each for node in self.nodes if not node.frozen for each in node.connections]:
            for channel in list(connection.channels.values()):
                channel.go_on()
        for queue in list(self.queues.values()):
            self.dispatch(queue)

    def leaderless(self) -> bool:
        return bool(self.deaths) and self.clock.now < self.deaths[-1] + LEADERLESS_S


class Node:
    """One broker: up or down, frozen, slow, or with an alarm."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.up = True
        self.frozen = False
        self.slow = False
        self.alarmed = False
        self.frame_max = 131072
        self.connections: list = []

    def slowness(self) -> float:
        return SLOWNESS if self.slow else 1.0

    @property
    def troubled(self) -> bool:
        """It is down, or answers late or not at all."""
        return not self.up or self.frozen or self.slow or self.alarmed

    def crash(self) -> None:
        self.up = self.frozen = self.alarmed = False
        self.cluster.deaths.append(self.cluster.clock.now)
        for connection in self.connections[:]:
            connection.crashed = True
            connection.reset()
        self.cluster.home_lost(self)

    def leave(self) -> None:
        """SIGTERM: 320 to everybody, then reset, often before the 320 is seen."""
        for connection in self.connections:
            connection.force(320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'")
        self.cluster.clock.after(self.cluster.rng.choice((0.0, 0.002, 0.05)), self.crash)

    def thaw(self) -> None:
        self.frozen = False
        for connection in self.connections[:]:
            connection.received(b"")
        self.cluster.review()

    def alarm(self, on: bool) -> None:
        """Memory is short: who has published is not read any more, until it is over."""
        self.alarmed = on
        for connection in self.connections[:]:
            if on and connection.publishes:
                connection.block()
            elif not on:
                connection.unblock()
