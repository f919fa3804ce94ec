"""One session among liars: a client or its brokers turn hostile at some moment, and the engine must stay sane."""

from __future__ import annotations

import random
import traceback
from itertools import pairwise

from proxy.session.commands import CloseClient, Dial, HangUp, ReadClient
from proxy.session.credentials import Face
from proxy.session.description import describe
from proxy.session.journal import Phase
from proxy.session.ledger import RUN_BYTES
from proxy.session.policy import SessionPolicy
from proxy.session.relay import HOLDS_MAX
from proxy.session.session import Session
from proxy.session.uplink import Stage
from tests.fuzz.bends import Bender
from tests.fuzz.broker import Broker
from tests.fuzz.client import Client
from tests.fuzz.stream import Violation
from tests.support.engine_frames import fresh

STEPS = 160
TICKS_AT_ONCE_MAX = 50
# From the client's end to the session's: a flush, a whole search for a broker in vain, and the closes.
END_S = 300.0
TICKS_TO_THE_END_MAX = 3000
# What a client that is not read has sent nevertheless.
BACKLOG_BYTES_MAX = 400_000
# The engine believes a broker's frame up to this size (`frames.BROKER_FRAME_MAX_BYTES`).
BROKER_FRAME_BYTES_MAX = 128 * 1024 * 1024 + 8


class Life:
    """What happens is drawn from the seed alone."""

    def __init__(self, seed: int) -> None:
        self.rng = rng = random.Random(f"{seed} life")
        self.now = 1000.0
        self.villain = rng.choices(("client", "broker", "both", "nobody"), (40, 35, 15, 10))[0]
        # How far the conversation is when it goes wrong, and how often it does from then on.
        self.onset = rng.choice((0, 3, 8, 20, 50, 90, 130))
        self.malice = rng.choice((0.02, 0.1, 0.3, 0.7))
        self.policy = SessionPolicy(
            unroutable=rng.choice(("retry", "retry", "pass")),
            publish_guarantee=rng.choice(("at_least_once", "at_least_once", "as_sent")),
            failover_timeout_s=rng.choice((5.0, 60.0, 60.0)),
            parked_bytes_max=65536,
            unsettled_bytes_max=rng.choice((65536, 300_000)),
            publish_bytes_max=rng.choice((150_000, 400_000)),
            delivery_hold_bytes_max=rng.choice((4096, 50_000)),
            frame_max_bytes=rng.choice((4096, 131072)),
            channel_max=rng.choice((200, 2047)),
            move_spread_s=0.0,
            move_timeout_s=rng.choice((0.2, 5.0)),
            lost_queues=rng.choice(("recreate", "tell")),
        )
        self.troubled = False
        self.session = Session(self.policy, rng, Face(), self.now, troubled=lambda _: self.troubled)
        client_honest = self.villain in ("broker", "nobody")
        self.client = Client(rng, strict=client_honest, trusting=self.villain == "nobody")
        self.bender = Bender(rng)
        self.brokers: dict[int, Broker] = {}
        self.dialling: int | None = None
        self.backlog: list[bytes] = []
        self.reading = True
        self.closed = False
        self.step = 0
        self.largest_chunk = 0
        self.story: list[str] = []
        self._ticks_at = (0.0, 0)
        self.ticks = 0

    def run(self) -> None:
        for self.step in range(STEPS):
            self._act()
            if self.closed and self.rng.random() < 0.2:
                break  # otherwise words and deadlines still come for a session that is over
        self._end()

    # What happens.

    def _act(self) -> None:
        rng = self.rng
        journal = self.session.journal
        if self.dialling is not None and rng.random() < 0.7:
            self._dialled()
            return
        match rng.choices(("client", "broker", "time", "fault"), (44, 44, 8, 4))[0]:
            case "client":
                self._client_speaks(self.client.speak())
            case "broker" if self.brokers:
                self._broker_speaks(rng.choice(list(self.brokers)))
            case "time":
                self._pass(rng.choice((0.0, 0.01, 0.01, 0.1, 0.5, 1.0, 3.0, 12.0)))
            case "fault":
                self._fault(
                    rng.choice(("lost", "lost", "leave", "leave", "leave", "stay", "gone", "full", "shut_down", "fail"))
                )
        if journal.phase is Phase.ENDED and not self.closed:
            raise Violation("the session has ended and does not say so")

    def _fault(self, fault: str) -> None:
        session, rng = self.session, self.rng
        self._tell(fault)
        if fault == "lost" and self.brokers:
            self._lose(rng.choice(list(self.brokers)))
        elif fault == "leave":
            session.leave("it drains", self.now)
        elif fault == "stay":
            session.stay(self.now)
        elif fault == "full":
            self.troubled = not self.troubled
            session.pulse.unread(rng.random() < 0.5, rng.random() < 0.5, self.now)
        elif fault == "gone" and rng.random() < 0.3:
            session.client_gone(self.now)
        elif fault == "shut_down" and rng.random() < 0.3:
            session.shut_down(self.now)
        elif fault == "fail" and rng.random() < 0.3:
            session.fail(self.now)
        self._carry_out()

    def _lose(self, generation: int) -> None:
        self.brokers.pop(generation)
        self.session.broker_lost(generation, "reset by peer", self.now)
        self._carry_out()

    def _dialled(self) -> None:
        generation, self.dialling = self.dialling, None
        assert generation is not None
        if self.rng.random() < 0.1:
            self.session.dial_failed(generation, "", "refused", self.now)
        else:
            spoilt = self.villain in ("broker", "both") and self.rng.random() < 0.6
            honest = self.villain in ("client", "broker", "nobody") and not spoilt
            self.brokers[generation] = Broker(
                self.rng, honest=honest, client_honest=self.villain in ("broker", "nobody")
            )
            self._tell(f"broker {generation} is {'honest' if honest else 'hostile'}")
            self.session.broker_up(generation, f"rabbit{generation % 3}", self.now)
        self._carry_out()

    # Words.

    def _client_speaks(self, frames: list[bytes]) -> None:
        hostile = self.villain in ("client", "both") and self.step >= self.onset
        said = self._perhaps_bent(frames, hostile, "client")
        if sum(map(len, self.backlog)) < BACKLOG_BYTES_MAX:
            self.backlog += self._chunks(said)
        self._feed()

    def _feed(self) -> None:
        while self.backlog and self.reading:
            chunk = self.backlog.pop(0)
            self.largest_chunk = max(self.largest_chunk, len(chunk))
            self.session.from_client(fresh(chunk), self.now)
            self._carry_out()

    def _broker_speaks(self, generation: int) -> None:
        broker = self.brokers[generation]
        hostile = not broker.honest and self.step >= self.onset
        for chunk in self._chunks(self._perhaps_bent(broker.speak(), hostile, f"broker {generation}")):
            self.largest_chunk = max(self.largest_chunk, len(chunk))
            self.session.from_broker(generation, fresh(chunk), self.now)
            self._carry_out()

    def _perhaps_bent(self, frames: list[bytes], hostile: bool, who: str) -> bytes:
        if hostile and self.rng.random() < self.malice:
            said = self.bender.bend(frames)
            self._tell(f"{who} says, bent: {said[:200]!r} ({len(said)} bytes)")
            return said
        said = b"".join(frames)
        if said:
            self._tell(f"{who}: {said[:60]!r} ({len(said)} bytes)")
        return said

    def _chunks(self, said: bytes) -> list[bytes]:
        """Cut as a network may cut it: not at all, at random, at every byte."""
        rng = self.rng
        way = rng.random()
        if way < 0.5 or not said:
            return [said] if said else []
        if way < 0.6 and len(said) < 500:
            return [said[at : at + 1] for at in range(len(said))]
        edges = sorted({0, len(said), *(rng.randrange(len(said)) for _ in range(rng.choice((1, 2, 8))))})
        return [said[a:b] for a, b in pairwise(edges)]

    # The shell.

    def _carry_out(self) -> None:
        session, journal = self.session, self.session.journal
        if journal.client_out:
            said, journal.client_out[:] = b"".join(journal.client_out), []
            session.pulse.wrote(None, self.now)
            if session.ending.client_here:
                answer = self.client.hear(said)
                if answer:
                    hostile = self.villain in ("client", "both") and self.step >= self.onset
                    self.backlog += self._chunks(self._perhaps_bent(answer, hostile, "client"))
        for uplink in journal.uplinks:
            if uplink.out:
                self._to_broker(uplink.generation, uplink.out)
                session.pulse.wrote(uplink, self.now)
        while journal.commands:
            self._obey(journal.commands.pop(0))
        self._check()

    def _to_broker(self, generation: int, pieces: list[bytes]) -> None:
        said = b"".join(pieces)
        pieces.clear()
        if generation in self.brokers:
            self.brokers[generation].hear(said)

    def _obey(self, command: object) -> None:
        match command:
            case Dial(generation):
                if self.dialling is not None:
                    raise Violation("two connections are dialled at once")
                self.dialling = generation
            case HangUp(generation, _, last):
                self._to_broker(generation, last)
                self.brokers.pop(generation, None)
                if self.dialling == generation:
                    self.dialling = None
                self._tell(f"hangs up {generation}")
            case ReadClient(wanted):
                self.reading = wanted
            case CloseClient():
                self.closed = True
                self.reading = True  # a closed socket may have a last word in its pipe

    def _pass(self, seconds: float) -> None:
        until = self.now + seconds
        while (due := self.session.deadline()) is not None and due <= until:
            self.now = max(self.now, due)
            at, count = self._ticks_at
            self._ticks_at = (self.now, count + 1 if at == self.now else 1)
            if self._ticks_at[1] > TICKS_AT_ONCE_MAX:
                raise Violation("the engine asks for ticks without end")
            self.ticks += 1
            self.session.tick(self.now)
            self._carry_out()
        self.now = until
        self._feed()

    def _end(self) -> None:
        """The client goes, brokers say no more, nobody answers a call: the session has to end, and to keep nothing."""
        self._tell("the end")
        journal = self.session.journal
        self.step = STEPS
        self.session.client_gone(self.now)
        self._carry_out()
        self.ticks, until = 0, self.now + END_S
        while journal.phase is not Phase.ENDED and self.now < until:
            if self.dialling is not None:
                generation, self.dialling = self.dialling, None
                self.session.dial_failed(generation, "", "nobody is left", self.now)
                self._carry_out()
            self._pass(0.5)
        if journal.phase is not Phase.ENDED or not self.closed or journal.uplinks:
            raise Violation(f"{END_S} s after its client it is {journal.phase.value}, {describe(self.session)}")
        if self.ticks > TICKS_TO_THE_END_MAX:
            raise Violation(f"it took {self.ticks} ticks to end")
        if journal.load.parked_bytes or journal.load.unsettled_bytes or self.session.deadline() is not None:
            raise Violation(f"something is left of it: {journal.load.parked_bytes}, {journal.load.unsettled_bytes}")

    # What must hold at any time.

    def _check(self) -> None:
        session, journal, policy = self.session, self.session.journal, self.policy
        describe(session)
        channels = [channel for channel in journal.channels if channel is not None]
        load = journal.load
        parked = sum(len(frame) for channel in channels for frame in channel.parked)
        # Of compiled ledgers nothing can be seen, and what no queue takes is counted beside them.
        hidden = load.withheld or any(not hasattr(channel.ledger, "_runs") for channel in channels)
        runs = [] if hidden else [run for channel in channels for run in channel.ledger._runs]
        unsettled = sum(run.size_bytes for run in runs)
        pieces = sum(len(piece) for run in runs for piece in run.pieces) + len(runs) * RUN_BYTES
        if parked != load.parked_bytes or load.unsettled_bytes < 0:
            raise Violation(f"counted {load.parked_bytes} bytes of input, kept {parked}; {load.unsettled_bytes}")
        if not hidden and not unsettled == pieces == load.unsettled_bytes:
            raise Violation(f"counted {load.unsettled_bytes} bytes of publishes, kept {unsettled}, {pieces}")
        publish_max = policy.unsettled_bytes_max + policy.publish_bytes_max
        self._within(
            "publishes and input", load.parked_bytes + load.unsettled_bytes, policy.parked_bytes_max + publish_max
        )
        held = sum(channel.held_bytes for channel in channels)
        if held != load.held_bytes:
            raise Violation(f"counted {load.held_bytes} bytes of deliveries, kept {held}")
        self._within("deliveries", held, HOLDS_MAX * policy.delivery_hold_bytes_max)
        for channel in channels:
            self._within(f"delivery {channel.number}", channel.held_bytes, policy.delivery_hold_bytes_max)
            if channel.window.open_count < 0 or channel.ledger.unsettled < 0:
                raise Violation("fewer than none are open")
        self._within("the client's frame", sum(map(len, journal.inlet._pieces)), policy.frame_max_bytes + 8)
        for uplink in journal.uplinks:
            self._within("the broker's frame", sum(map(len, uplink.inlet._pieces)), BROKER_FRAME_BYTES_MAX)
            if uplink.stage is Stage.OVER:
                raise Violation("a broker is kept that is over")
        if len(journal.uplinks) > 2:
            raise Violation("three brokers at once")

    def _within(self, what: str, size: int, limit: int) -> None:
        """A limit stops the reading of the next chunk, not the one at hand."""
        if size > limit + self.largest_chunk:
            raise Violation(f"{size} bytes are kept of {what}, {limit} may be, beside {self.largest_chunk}")

    def _tell(self, text: str) -> None:
        self.story.append(f"{self.now:.3f} {text}")


def failure_of(seed: int) -> str:
    """Live one life; what went wrong and how to repeat it, or an empty string."""
    life = Life(seed)
    try:
        life.run()
    except Exception:
        told = "\n".join(life.story[-40:])
        return f"{told}\n{traceback.format_exc()}\nrepeat it: python -m tests.fuzz --seed {seed}\n"
    return ""
