"""One engine between a model client and a model cluster, in simulated time, with everything that may go wrong."""

from __future__ import annotations

import random

from proxy.session.commands import Attached, CloseClient, Dial, HangUp, Observe, ReadClient
from proxy.session.credentials import Face
from proxy.session.journal import Phase
from proxy.session.policy import SessionPolicy
from proxy.session.session import Session
from tests.simulation.client import SHARED, Client
from tests.simulation.clock import Clock, Wire
from tests.simulation.cluster import Cluster, Connection, Node, Queue, Violation

WORK_S = 12.0
# After the last fault everything must have settled within this time.
PROGRESS_S = 90.0
TICKS_AT_ONCE_MAX = 50


class World:
    """A run of one seed. `run` raises `Violation`, or what the engine raises, with the seed in the caller's hands."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(seed)
        self.clock = Clock()
        self.cluster = Cluster(self.clock, rng)
        self.cluster.may_settle = self._may_settle
        for name in SHARED:
            self.cluster.queues[name] = Queue(name, None)
        policy = SessionPolicy(
            parked_bytes_max=rng.choice((65536, 8 << 20)),
            unsettled_bytes_max=rng.choice((65536, 64 << 20)),
            delivery_hold_bytes_max=1 << 20,
            move_spread_s=rng.choice((0.0, 1.0)),
            move_timeout_s=rng.choice((0.1, 5.0)),
        )
        self.session = Session(policy, rng, Face(), self.clock.now, troubled=self._troubled)
        self.links: dict[int, tuple[Connection, Wire]] = {}
        self.to_engine = Wire(self.clock, rng, self._from_client)
        self.to_client = Wire(self.clock, rng, lambda data: self.client.received(data))
        self.client = Client(rng, "m", self.to_engine.send)
        self.closed = False
        self.acting = True
        self.faulty = True
        self.story: list[str] = []
        self._ticks_at = (0.0, 0)
        self._timer = 0

    # The run.

    def run(self) -> None:
        self.clock.after(0.001, self._act)
        self.clock.after(0.001, self._client_beat)
        self.clock.after(self.rng.uniform(0.0, 3.0), self._fault)
        self._arm()
        self._advance(WORK_S)
        self.faulty = False
        self.client.finishing = True
        for node in self.cluster.nodes:
            self.clock.after(self.rng.uniform(0, 5), lambda node=node: self._heal(node))
        self._until(self._settled, "not everything that was asked, published or delivered has come to its end")
        self._check_messages()
        self._check_what_lives()
        self.acting = False
        self.client.close()
        self._until(lambda: self.closed, "the connection was not closed")
        self._check_the_end()

    def _advance(self, seconds: float) -> None:
        until = self.clock.now + seconds
        while self.clock.step(until):
            pass

    def _until(self, fact, complaint: str) -> None:
        limit = self.clock.now + PROGRESS_S
        while not fact():
            if self.clock.now >= limit:
                raise Violation(f"no progress in {PROGRESS_S:g}s: {complaint}")
            self._advance(0.05)

    def _settled(self) -> bool:
        load = self.session.journal.load
        if load.parked_bytes or load.unsettled_bytes:
            return False
        return self.client.idle and not any(self.cluster.queues[name].ready for name in SHARED) and not any(
            channel.unacked for node in self.cluster.nodes for c in node.connections for channel in c.channels.values()
            if channel.number == 3
        )  # fmt: skip

    # What must hold.

    def _may_settle(self, body: bytes) -> bool:
        """never an ack to the broker for a message the client has not settled"""
        return self.client.acks_all or body in self.client.settled

    def _check_messages(self) -> None:
        client, taken = self.client, self.cluster.taken
        lost = [body[:30] for body in client.confirmed if body in client.wanted and not taken[body]]
        if lost:
            raise Violation(f"a confirmed message was lost: {lost[:5]}")
        lost = [body[:30] for body in client.wanted if not taken[body]]
        if lost:
            raise Violation(f"a message accepted under at_least_once was lost: {lost[:5]}")
        if not client.acks_all and (missed := [body[:30] for body in client.wanted if not client.seen[body]]):
            raise Violation(f"a message was never delivered: {missed[:5]}")
        extra = sum(count - 1 for count in client.seen_fresh.values() if count > 1)
        replayed = self.session.journal.counters.replayed_publishes
        if extra > replayed:
            raise Violation(f"{extra} duplicates are neither flagged nor counted, {replayed} publishes were replayed")

    def _check_what_lives(self) -> None:
        """Every channel, consumer and own queue of the client is there at its present broker, and nothing else is."""
        journal = self.session.journal
        client = self.client
        asked = {n: set(channel.consumers) for n, channel in client.channels.items() if channel.state == "open"}
        connections = [self.links[uplink.generation][0] for uplink in journal.uplinks]
        there = {n: set(channel.consumers) for c in connections for n, channel in c.channels.items()}
        if sum(len(c.channels) for c in connections) != len(there):
            raise Violation("a channel is open at two brokers")
        if asked != there:
            raise Violation(f"the client has {asked}, its broker has {there}")
        owned = {channel.queue for channel in client.channels.values() if channel.queue}
        exclusive = {name for c in connections for name in c.exclusive}
        if not owned <= exclusive:
            raise Violation(f"the client owns {owned}, its broker has {exclusive}")

    def _check_the_end(self) -> None:
        journal = self.session.journal
        if (journal.load.parked_bytes, journal.load.unsettled_bytes) != (0, 0):
            raise Violation(f"memory is still in use: {journal.load.parked_bytes} {journal.load.unsettled_bytes}")
        if journal.phase is not Phase.ENDED or self.session.deadline() is not None:
            raise Violation("the session is not over")
        if self.client.state != "closed":
            raise Violation(f"the client was not told that its connection is closed: {self.client.state}")

    # The shell, as the driver plays it.

    def _from_client(self, data: bytes) -> None:
        if not self.closed:
            self.session.from_client(data, self.clock.now)
            self._carry_out()

    def _carry_out(self) -> None:
        journal, now = self.session.journal, self.clock.now
        if journal.load.parked_bytes < 0 or journal.load.unsettled_bytes < 0:
            raise Violation("a memory counter is negative")
        if journal.client_out:
            self.to_client.send(b"".join(journal.client_out))
            journal.client_out.clear()
            self.session.pulse.wrote(None, now)
        for uplink in journal.uplinks:
            if uplink.out:
                self.links[uplink.generation][1].send(b"".join(uplink.out))
                uplink.out.clear()
                self.session.pulse.wrote(uplink, now)
        while journal.commands:
            match journal.commands.pop(0):
                case Dial(generation, avoid):
                    self._dial(generation, avoid)
                case HangUp(generation, abort, last):
                    if last:
                        self.links[generation][1].send(b"".join(last))
                    self._hang_up(generation, abort)
                case ReadClient(wanted):
                    self.to_engine.pause(not wanted)
                case CloseClient():
                    self.closed = True
                case Attached() | Observe():
                    pass
                case report:
                    self.story.append(f"{now:.3f} {report.event} {report.facts}")
        self._arm()

    def _arm(self) -> None:
        due = self.session.deadline()
        if due is not None and not self.closed:
            self._timer += 1
            self.clock.after(max(0.0, due - self.clock.now), lambda number=self._timer: self._tick(number))

    def _tick(self, number: int) -> None:
        if number != self._timer or self.closed:
            return
        at, count = self._ticks_at
        self._ticks_at = (self.clock.now, count + 1 if at == self.clock.now else 1)
        if self._ticks_at[1] > TICKS_AT_ONCE_MAX:
            raise Violation("the engine asks for ticks without end")
        self.session.tick(self.clock.now)
        self._carry_out()

    def _dial(self, generation: int, avoid: frozenset[str]) -> None:
        up = [node for node in self.cluster.nodes if node.up]
        preferred = [node for node in up if node.name not in avoid] or up
        if not preferred or self.rng.random() < 0.1:
            self.clock.after(self.rng.uniform(0, 1), lambda: self._event("dial_failed", generation, "", "refused"))
            return
        node = self.rng.choice(preferred)
        self.clock.after(self.rng.choice((0.001, 0.001, 1.0)), lambda: self._connect(generation, node))

    def _connect(self, generation: int, node: Node) -> None:
        if not node.up:
            self._event("dial_failed", generation, node.name, "refused")
            return
        connection = Connection(node, self.rng)
        connection.out = Wire(self.clock, self.rng, lambda data: self._event("from_broker", generation, data))
        connection.on_reset = lambda: self._reset(generation)
        self.links[generation] = (connection, Wire(self.clock, self.rng, connection.received))
        if self.session.attachment.generation != generation or self.closed:
            self._hang_up(generation, abort=True)
            return
        self._event("broker_up", generation, node.name)

    def _event(self, name: str, generation: int, *facts: object) -> None:
        if not self.closed:
            getattr(self.session, name)(generation, *facts, self.clock.now)
            self._carry_out()

    def _reset(self, generation: int) -> None:
        self.links[generation][1].cut()
        self.clock.after(
            self.rng.choice((0.0, 0.001, 0.02)), lambda: self._event("broker_lost", generation, "reset by peer")
        )

    def _hang_up(self, generation: int, abort: bool) -> None:
        link = self.links.get(generation)
        if link is None or link[0].closed:
            return
        connection, wire = link
        connection.on_reset = lambda: None
        connection.out.cut()

        def notice() -> None:
            self.clock.after(self.rng.choice((0.0, 0.004, 0.3)), connection.drop)

        if abort:
            wire.cut()
            notice()
        else:
            wire.close(notice)

    # What goes on, and what goes wrong.

    def _act(self) -> None:
        if self.acting and not self.closed:
            self.client.act()
            pauses_s = (0.001, 0.01) if self.client.finishing else (0.001, 0.01, 0.06)
            self.clock.after(self.rng.choice(pauses_s), self._act)

    def _client_beat(self) -> None:
        if not self.closed:
            if self.client.state == "running":
                self.to_engine.send(b"\x08\0\0\0\0\0\0\xce")
            self.clock.after(5.0, self._client_beat)

    def _troubled(self, now: float) -> bool:
        return now < self.cluster.troubled_at + 30 or not all(
            node.up and not node.frozen for node in self.cluster.nodes
        )

    def _attached_node(self) -> Node | None:
        link = self.links.get(self.session.attachment.generation)
        return link[0].node if link is not None and not link[0].closed else None

    def _fault(self) -> None:
        if not self.faulty:
            return
        rng = self.rng
        node = self._attached_node() if rng.random() < 0.7 else rng.choice(self.cluster.nodes)
        well = all(each.up and not each.frozen for each in self.cluster.nodes)
        kind = rng.choice(("crash", "crash", "leave", "hang", "cut", "cut"))
        if node is not None and (well or kind == "cut"):
            self.story.append(f"{self.clock.now:.3f} {kind} {node.name}")
            if kind == "crash":
                node.crash()
            elif kind == "leave":
                node.leave()
            elif kind == "hang":
                node.frozen = True
            else:
                for connection in node.connections[:]:
                    connection.reset()
            if kind != "cut":
                self.clock.after(rng.choice((0.5, 4.0, 15.0)), lambda: self._heal(node))
        if rng.random() < 0.5:
            self.story.append(f"{self.clock.now:.3f} drain")
            self.session.leave("it drains", self.clock.now)
        elif rng.random() < 0.2:
            self.session.stay(self.clock.now)
        self._carry_out()
        # Often during the recovery from the last one.
        self.clock.after(rng.choice((0.002, 0.02, 0.2, 1.0, 5.0)) * rng.uniform(0.5, 2.0), self._fault)

    def _heal(self, node: Node) -> None:
        self.story.append(f"{self.clock.now:.3f} heal {node.name}")
        if node.frozen:
            if self.rng.random() < 0.5:
                node.crash()
            else:
                node.thaw()
        node.up = True
