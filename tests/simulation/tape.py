"""A recorded conversation between the model client and the model cluster, over wires that break after a given byte."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER
from proxy.amqp.wire import U64, Reader
from proxy.session.commands import CloseClient, Dial, HangUp
from proxy.session.credentials import Face
from proxy.session.journal import Phase
from proxy.session.policy import SessionPolicy
from proxy.session.session import Session
from tests.simulation.account import found
from tests.simulation.broker import Connection, whole
from tests.simulation.client import Client
from tests.simulation.client_channel import SHARED
from tests.simulation.clock import Clock
from tests.simulation.cluster import Cluster, Queue, Violation
from tests.support.engine_frames import channel_of, frames_of, fresh, ident_of

STEPS_MAX = 6000
STEP_S = 0.05
# What a conversation waits for, one thing after the other.
Script = Generator[Callable[[], object], None, None]


class Always:
    """Chance with one outcome: the conversation is the same each time, but for where it is cut."""

    def choice(self, options):
        return options[0]

    def random(self):
        return 0.99

    def uniform(self, low, high):
        return high


@dataclass(frozen=True)
class Cuts:
    """After how many bytes each wire breaks: of each broker connection in turn (there, back), and of the client."""

    brokers: tuple[tuple[int | None, int | None], ...] = ()
    client: tuple[int | None, int | None] = (None, None)


class Line:
    """A wire that carries `left` bytes and then breaks; None never breaks."""

    def __init__(self, receive: Callable[[bytes], None], broken: Callable[[], None], left: int | None) -> None:
        self.receive, self.broken, self.left = receive, broken, left
        self.carried = bytearray()
        self.dead = False

    def send(self, data: bytes) -> None:
        """Carry it, as far as the wire goes."""
        if self.dead:
            return
        breaks = self.left is not None and len(data) >= self.left
        if self.left is not None:
            data, self.left = data[: self.left], self.left - len(data)
        self.carried += data
        if data:
            self.receive(data)
        if breaks and not self.dead:
            self.dead = True
            self.broken()

    def cut(self) -> None:
        """Nothing more arrives."""
        self.dead = True


@dataclass
class Side:
    """One broker connection of the tape: the model's end, the wires there and back, and whether one of them broke."""

    connection: Connection
    up: Line = field(init=False)
    down: Line = field(init=False)
    broken: bool = False
    left_politely: bool = False


class Tape:
    """Plays a conversation once: `play` raises `Violation`, or what the engine raises."""

    def __init__(self, script: Callable[[Tape], Script], cuts: Cuts = Cuts()) -> None:
        self.cuts = cuts
        self.clock = Clock()
        self.cluster = Cluster(self.clock, Always())
        for name in SHARED:
            self.cluster.queues[name] = Queue(name)
        self.cluster.may_settle = lambda body: body in self.client.account.settled
        self.session = Session(
            SessionPolicy(), random.Random(1), Face(), self.clock.now, troubled=lambda now: self.troubled
        )
        self.sides: dict[int, Side] = {}
        self.over = False
        self.client_cut = False
        # What the client publishes without confirms, and how many bytes each wire carried until it was connected.
        self.unconfirmable: set[bytes] = set()
        self.greeting_bytes: tuple[int, int, int, int] = (0, 0, 0, 0)
        self._inbox: list[bytes] = []
        self.from_client = Line(self._to_engine, self._client_gone, cuts.client[0])
        self.to_client = Line(self._heard, self._client_gone, cuts.client[1])
        self.client = Client(Always(), "m", self._inbox.append)
        self._script = script(self)
        self._fact: Callable[[], object] = lambda: True

    @property
    def troubled(self) -> bool:
        """A broker connection broke on this tape."""
        return any(side.broken for side in self.sides.values())

    def play(self) -> Tape:
        """From the protocol header to the end."""
        for _ in range(STEPS_MAX):
            self._carry()
            if self.over:
                break
            if not self.client_cut and self._fact():
                self._fact = next(self._script, lambda: self.over)
            elif not self._inbox:
                self._pass_time()
        else:
            raise Violation("the conversation does not come to its end")
        self._carry()  # the last word
        until = self.clock.now + 1.0
        while self.clock.step(until):
            pass  # what is on its way to a queue arrives
        self._check()
        return self

    @property
    def carried_bytes(self) -> tuple[int, int, int, int]:
        """How much each wire has carried: to and from the first broker, from and to the client."""
        first = self.sides[min(self.sides)]
        return tuple(len(line.carried) for line in (first.up, first.down, self.from_client, self.to_client))

    def soon(self, seconds: float) -> Callable[[], bool]:
        """True when so much time has passed from now on."""
        until = self.clock.now + seconds
        return lambda: self.clock.now >= until

    # The shell's part.

    def _pass_time(self) -> None:
        self.clock.step(self.clock.now + STEP_S)
        due = self.session.deadline()
        if due is not None and due <= self.clock.now:
            self.session.tick(self.clock.now)

    def _carry(self) -> None:
        journal = self.session.journal
        while self._inbox:
            self.from_client.send(self._inbox.pop(0))
        to_client, journal.client_out[:] = b"".join(journal.client_out), ()
        for uplink in journal.uplinks:
            if uplink.out:
                data, uplink.out[:] = b"".join(uplink.out), ()
                self.session.pulse.wrote(uplink, self.clock.now)
                self.sides[uplink.generation].up.send(data)
        if to_client:
            self.session.pulse.wrote(None, self.clock.now)
            self.to_client.send(to_client)
        commands, journal.commands[:] = journal.commands[:], ()
        for command in commands:
            match command:
                case Dial(generation):
                    self._connect(generation)
                case HangUp(generation, abort, last):
                    self._hang_up(generation, abort, b"".join(last))
                case CloseClient():
                    self.over = True

    def _to_engine(self, data: bytes) -> None:
        self.session.from_client(fresh(data), self.clock.now)

    def _heard(self, data: bytes) -> None:
        self.client.received(data)

    def _client_gone(self) -> None:
        if not self.client_cut:
            self.client_cut = True
            self.from_client.cut()
            self.to_client.cut()
            self.session.client_gone(self.clock.now)

    def _connect(self, generation: int) -> None:
        cuts = self.cuts.brokers[len(self.sides) :]
        up_cut, down_cut = cuts[0] if cuts else (None, None)
        connection = Connection(self.cluster.nodes[generation % 3], Always())
        side = self.sides[generation] = Side(connection)

        def broken() -> None:
            side.broken = True
            connection.drop()
            side.up.cut()
            side.down.cut()
            self.clock.after(0.0, lambda: self.session.broker_lost(generation, "cut", self.clock.now))

        side.up = Line(connection.received, broken, up_cut)
        side.down = Line(
            lambda data: self.session.from_broker(generation, fresh(data), self.clock.now), broken, down_cut
        )
        connection.out = side.down
        self.clock.after(0.001, lambda: self.session.broker_up(generation, f"rabbit{generation}", self.clock.now))

    def _hang_up(self, generation: int, abort: bool, last: bytes) -> None:
        side = self.sides[generation]
        shaken = side.connection.state == "running"  # what is said last may only be the end of the handshake
        if last:
            side.up.send(last)
        side.left_politely = not abort and (side.connection.state == "done" or not shaken)
        side.up.cut()
        side.down.cut()
        side.connection.drop()

    # What must hold.

    def _check(self) -> None:
        account, load = self.client.account, self.session.journal.load
        if (load.parked_bytes, load.unsettled_bytes, load.held_bytes, load.kept_bytes) != (0, 0, 0, 0):
            raise Violation("memory is still in use")
        if self.session.journal.phase is not Phase.ENDED or self.session.deadline() is not None:
            raise Violation("the session is not over")
        impolite = [number for number, side in self.sides.items() if not (side.broken or side.left_politely)]
        if impolite:
            raise Violation(f"connections that were well were not left politely: {impolite}")
        account.check_safety(self.cluster.taken)
        if self.client_cut:
            found("what was accepted was lost", (body for body in self._promised() if not self.cluster.taken[body]))
            return
        if self.client.state != "closed":
            raise Violation(f"the client was not told that its connection is closed: {self.client.state}")
        found("a confirm never came", account.wanted - account.confirmed - self.unconfirmable)
        account.check_delivery(self.cluster.taken, self.session.journal.counters.replayed_publishes, all_seen=False)

    def _promised(self) -> set[bytes]:
        """What the engine was given whole, and nobody but the engine is to answer for: without confirms, all of it.

        A client that has asked for confirms and is gone may lose what was not confirmed, but not to a broker that
        is well.
        """
        modes: dict[int, str] = {}
        publishing: dict[int, list] = {}
        bodies = set()
        for frame in whole_frames(bytes(self.from_client.carried)):
            number, ident = channel_of(frame), ident_of(frame)
            if ident in MODES:
                modes[number] = MODES[ident]
            elif ident == m.BASIC_PUBLISH:
                reader = Reader(frame[7:-1], 6)
                publishing[number] = [reader.shortstr(), reader.shortstr(), 0, b""]
            elif frame[0] == HEADER:
                publishing[number][2] = U64.unpack_from(frame, 11)[0]
            elif frame[0] == BODY:
                publish = publishing[number]
                publish[3] += frame[7:-1]
                safe = modes[number] == "plain" or (modes[number] == "confirm" and not self.troubled)
                if len(publish[3]) == publish[2] and publish[0] == b"" and publish[1] in SHARED and safe:
                    bodies.add(publish[3])
        return bodies


MODES = {
    m.method_id(m.ChannelOpen): "plain",
    m.method_id(m.ConfirmSelect): "confirm",
    m.method_id(m.TxSelect): "tx",
}


def whole_frames(stream: bytes) -> list[bytes]:
    """Frames of a stream that may end inside one."""
    frames = frames_of(stream)
    return frames if not frames or whole(frames[-1]) else frames[:-1]
