"""Playbooks of the engine: `>>` is what happens, `<<` is what the engine must say next, and nothing else may be said.

    (
        running()
        >> FromClient(on(1, m.ChannelOpen()))
        << ToBroker(on(1, m.ChannelOpen()))
    ).done()

The shell is played as `proxy/net/driver.py` plays it: outputs and commands are taken after every event, and `tick`
comes when `deadline` says. Heartbeats, reports and observations may go unmentioned; every other word may not.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER
from proxy.reports import Report
from proxy.session.channel import PLAIN
from proxy.session.commands import Attached, CloseClient, Dial, HangUp, LookAround, Observe, ReadClient
from proxy.session.credentials import Face
from proxy.session.policy import SessionPolicy
from proxy.session.session import Session
from tests.support.engine_frames import (
    ALL_CAPABILITIES,
    BROKER_OPEN_OK,
    BROKER_START,
    BROKER_TUNE,
    HEARTBEAT,
    frames_of,
    on,
    plain,
    shown,
    start_ok,
)

# More ticks than this without time passing: the shell would spin.
TICKS_AT_ONCE_MAX = 20


class FromClient(bytes):
    """The client sends these bytes."""

    def __new__(cls, *parts: bytes):
        return super().__new__(cls, b"".join(parts))


class FromBroker(FromClient):
    """The attached broker sends these bytes."""


class FromOld(FromClient):
    """The broker that the session is leaving sends these bytes."""


class ToOld(FromClient):
    """The broker that the session is leaving gets exactly these frames next."""


class ToClient(FromClient):
    """The client gets exactly these frames next."""


class ToBroker(FromClient):
    """The broker gets exactly these frames next."""


@dataclass
class BrokerUp:
    """The connection that was dialled is there."""

    endpoint: str = "rabbit2:5672"


@dataclass
class DialFailed:
    """The connection that was dialled cannot be had."""

    reason: str = "connection refused"
    endpoint: str = ""


@dataclass
class BrokerLost:
    """The broker's connection breaks."""

    reason: str = "reset by peer"


class Leave:
    """The present broker is to be left; it is the old one from here on."""


class Stay:
    """It need not be left after all."""


@dataclass
class OldLost:
    """The connection to the old broker breaks."""

    reason: str = "reset by peer"


@dataclass
class FailOver:
    """The broker dies and another one is there, up to its open-ok."""

    endpoint: str = "rabbit2:5672"
    reason: str = "reset by peer"


@dataclass
class Handshaken:
    """The dialled broker comes up and does its part of the handshake, up to its open-ok."""

    endpoint: str = "rabbit2:5672"


class ClientGone:
    """The client's socket is closed."""


class ShutDown:
    """The proxy has to go."""


@dataclass
class After:
    """Time passes; the engine is ticked when it asks to be."""

    seconds: float


@dataclass
class Reported:
    """A report with at least these facts is among what was said since the last event."""

    event: str
    facts: dict[str, object] = field(default_factory=dict)


@dataclass
class Sees:
    """A fact about the engine's public state."""

    what: str
    fact: object  # a function of the session


class Story:
    """One conversation and what of its output the story has not mentioned yet."""

    def __init__(self, *, troubled: bool = False, place_by_vhost: bool = False, **policy: object) -> None:
        self.now = 1000.0
        self.troubled = troubled
        self.session = Session(
            SessionPolicy(**{"close_flush_timeout_s": 5.0} | policy),
            random.Random(1),
            Face(),
            self.now,
            troubled=lambda _: self.troubled,
            place_by_vhost=place_by_vhost,
        )
        self.to_client: list[bytes] = []
        self.to_broker: list[bytes] = []
        self.to_old: list[bytes] = []
        self.old = 0
        self.commands: list[object] = []
        self.reports: list[Report] = []
        self.observed: list[Observe] = []
        self.reading = True

    def __rshift__(self, event: object) -> Story:
        self.done()
        self.reports.clear()
        self._happen(event)
        self._take()
        return self

    def __lshift__(self, expected: object) -> Story:
        match expected:
            case ToClient():
                self._expect("to the client", self.to_client, expected)
            case ToBroker():
                self._expect("to the broker", self.to_broker, expected)
            case ToOld():
                self._expect("to the old broker", self.to_old, expected)
            case Reported():
                found = [r.facts for r in self.reports if r.event == expected.event]
                assert any(expected.facts.items() <= facts.items() for facts in found), (expected, self.reports)
            case Sees():
                assert expected.fact(self.session), expected.what
            case _:
                assert self.commands, f"{expected} was not asked of the shell"
                assert self.commands.pop(0) == expected
        return self

    def done(self) -> Session:
        """Nothing was said that the story does not mention."""
        said = (("client", self.to_client), ("broker", self.to_broker), ("old broker", self.to_old))
        for name, frames in said:
            rest = [shown(frame) for frame in frames if frame != HEARTBEAT]
            assert rest == [], f"unmentioned, to the {name}"
            frames.clear()
        assert self.commands == [], "unmentioned commands"
        return self.session

    def forget(self) -> Story:
        """Whatever was said is another story's business."""
        self.to_client.clear()
        self.to_broker.clear()
        self.to_old.clear()
        self.commands.clear()
        return self

    def _expect(self, side: str, said: list[bytes], expected: bytes) -> None:
        wanted = frames_of(expected)
        if HEARTBEAT not in wanted:
            said[:] = [frame for frame in said if frame != HEARTBEAT]
        got, said[:] = said[: len(wanted)], said[len(wanted) :]
        if self.session.requests.forces_mandatory and side != "to the client":
            # Only a story that is about it says `mandatory`; what is not forced must not become so by this.
            pairs = zip(got, wanted, strict=False)
            got = [plain(own) if self._forced(own) and plain(own) == other else own for own, other in pairs]
        assert [shown(frame) for frame in got] == [shown(frame) for frame in wanted], side
        assert got == wanted, side

    def _forced(self, frame: bytes) -> bool:
        """Whether publishes of its channel are to be mandatory; not those that nothing and nobody waits for."""
        channels = self.session.journal.channels
        number = int.from_bytes(frame[1:3], "big")
        channel = channels[number] if number < len(channels) else None
        return channel is None or channel.mode != PLAIN or channel.ledgered

    def _happen(self, event: object) -> None:
        session = self.session
        match event:
            case FromOld():
                session.from_broker(self.old, bytes(event), self.now)
            case OldLost(reason):
                session.broker_lost(self.old, reason, self.now)
            case Leave():
                self.old = session.attachment.generation
                session.leave("it drains", self.now)
            case Stay():
                session.stay(self.now)
            case FromBroker():
                session.from_broker(session.attachment.generation, bytes(event), self.now)
            case FromClient():
                session.from_client(bytes(event), self.now)
            case BrokerUp(endpoint):
                session.broker_up(session.attachment.generation, endpoint, self.now)
            case DialFailed(reason, endpoint):
                session.dial_failed(session.attachment.generation, endpoint, reason, self.now)
            case BrokerLost(reason):
                session.broker_lost(session.attachment.generation, reason, self.now)
            case FailOver(endpoint, reason):
                self._happen(BrokerLost(reason))
                self._take()
                assert self.commands, "a broker was lost and none is looked for"
                assert isinstance(self.commands.pop(0), Dial)
                self._happen(Handshaken(endpoint))
            case Handshaken(endpoint):
                self._handshake(endpoint)
            case ClientGone():
                session.client_gone(self.now)
            case ShutDown():
                session.shut_down(self.now)
            case After(seconds):
                self._pass(seconds)
            case _:
                raise AssertionError(f"no such event: {event!r}")

    def _handshake(self, endpoint: str) -> None:
        kept = self.to_broker[:]
        self._happen(BrokerUp(endpoint))
        self._happen(FromBroker(BROKER_START, BROKER_TUNE))
        self._take()
        self.to_broker[:] = kept  # header, start-ok, tune-ok and open are the handshake's own stories
        self._happen(FromBroker(BROKER_OPEN_OK))

    def _pass(self, seconds: float) -> None:
        until = self.now + seconds
        ticks = 0
        while (due := self.session.deadline()) is not None and due <= until:
            ticks = ticks + 1 if due <= self.now else 0
            assert ticks < TICKS_AT_ONCE_MAX, "the engine asks for ticks without end"
            self.now = max(self.now, due)
            self.session.tick(self.now)
            self._take()
        self.now = until

    def _say_to(self, generation: int, pieces: list[bytes]) -> None:
        side = self.to_old if generation == self.old else self.to_broker
        side += frames_of(b"".join(pieces))

    def _take(self) -> None:
        journal = self.session.journal
        commands = journal.commands[:]
        journal.commands.clear()
        if journal.client_out:
            self.session.pulse.wrote(None, self.now)
        self.to_client += frames_of(b"".join(journal.client_out))
        journal.client_out.clear()
        for uplink in journal.uplinks:
            self._say_to(uplink.generation, uplink.out)
            if uplink.out:
                self.session.pulse.wrote(uplink, self.now)
            uplink.out.clear()
        for command in commands:
            match command:
                case Report():
                    self.reports.append(command)
                case Observe():
                    self.observed.append(command)
                case HangUp():
                    self._say_to(command.generation, command.last)
                case Attached():
                    pass
                case ReadClient(wanted):
                    self.reading = wanted
                    self.commands.append(command)
                case Dial() | CloseClient() | LookAround():
                    self.commands.append(command)


def greeted(*, capabilities: tuple[bytes, ...] = ALL_CAPABILITIES, **policy: object) -> Story:
    """A client that has said who it is; its first broker is dialled."""
    return (Story(**policy) >> FromClient(PROTOCOL_HEADER)).forget() >> FromClient(start_ok(*capabilities))


def running(*, capabilities: tuple[bytes, ...] = ALL_CAPABILITIES, beat_s: int = 0, **policy: object) -> Story:
    """A client with a broker behind it. It asks for no heartbeat unless the story is about that."""
    story = greeted(capabilities=capabilities, **policy).forget() >> BrokerUp("rabbit1:5672")
    story = story.forget() >> FromBroker(BROKER_START, BROKER_TUNE)
    story = story.forget() >> FromClient(on(0, m.ConnectionTuneOk(2045, 131072, beat_s), m.ConnectionOpen(b"/")))
    return (story.forget() >> FromBroker(BROKER_OPEN_OK)).forget()


def with_channel(*numbers: int, **given: object) -> Story:
    """A client with open channels, number 1 if none is named."""
    story = running(**given)
    for number in numbers or (1,):
        story = (story >> FromClient(on(number, m.ChannelOpen()))).forget()
        story = (story >> FromBroker(on(number, m.ChannelOpenOk()))).forget()
    return story


def confirming(**given: object) -> Story:
    """A client whose channel 1 has asked for confirms."""
    story = (with_channel(**given) >> FromClient(on(1, m.ConfirmSelect(False)))).forget()
    return (story >> FromBroker(on(1, m.ConfirmSelectOk()))).forget()


def consuming(*, no_ack: bool = False, **given: object) -> Story:
    """A client whose channel 1 consumes from q as c."""
    from tests.support.engine_frames import consume, consume_ok

    story = (with_channel(**given) >> FromClient(consume(1, no_ack=no_ack))).forget()
    return (story >> FromBroker(consume_ok(1))).forget()


OPEN_OK = m.ChannelOpenOk()
# What every replay of a channel begins with.
REOPENED = on(1, m.ChannelOpen())
HIDDEN_CONFIRMS = on(1, m.ConfirmSelect(nowait=True))
