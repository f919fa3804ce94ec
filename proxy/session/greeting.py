"""Channel 0 of the client: who it is, what it wants to open, and its wish to end."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

from proxy.amqp import methods as m
from proxy.amqp.frames import PROTOCOL_HEADER, method_frame
from proxy.errors import ClientError
from proxy.session.credentials import MECHANISMS, Credentials
from proxy.session.ending import Ending
from proxy.session.journal import Journal, Phase
from proxy.session.uplink import Stage

# A client renews its token now and then; more than this many at once without an answer is no renewal.
SECRET_UPDATES_MAX = 8


class Greeting:
    """The client's methods on channel 0, each legal in some phases of the conversation only."""

    __slots__ = ("journal",)

    def __init__(self, journal: Journal) -> None:
        self.journal = journal

    def asked(self, ident: int, payload: bytes) -> None:
        """Take one method. Raises `ClientError` (504) for one that has no place on channel 0."""
        handler = self._HANDLERS.get(ident)
        if handler is None:
            raise ClientError("unexpected method on channel 0", reply_code=504)
        handler(self, payload)

    def _start_ok(self, payload: bytes) -> None:
        journal = self.journal
        self._expect(Phase.STARTING, "connection.start-ok")
        start = m.decode(m.ConnectionStartOk, payload)
        if start.mechanism not in MECHANISMS:
            raise ClientError(f"unknown authentication mechanism {start.mechanism[:32]!r}", reply_code=503)
        journal.credentials = Credentials.of(start)
        journal.phase = Phase.AUTHENTICATING
        journal.lifecycle.credentials_given()

    def _tune_ok(self, payload: bytes) -> None:
        journal = self.journal
        self._expect(Phase.TUNING, "connection.tune-ok")
        tune = m.decode(m.ConnectionTuneOk, payload)
        if tune.frame_max > journal.frame_max_bytes or 0 < tune.frame_max < 4096:
            raise ClientError(f"frame_max {tune.frame_max} is not 4096 to {journal.frame_max_bytes}", reply_code=530)
        if tune.channel_max > journal.channel_max:
            raise ClientError(f"channel_max {tune.channel_max} is above {journal.channel_max}", reply_code=530)
        journal.frame_max_bytes = tune.frame_max or journal.frame_max_bytes
        journal.channel_max = tune.channel_max or journal.channel_max
        journal.client_heartbeat_s = tune.heartbeat

    def _open(self, payload: bytes) -> None:
        self._expect(Phase.TUNING, "connection.open")
        self.journal.vhost = m.decode(m.ConnectionOpen, payload).virtual_host
        self.journal.phase = Phase.OPENING
        self.journal.lifecycle.vhost_given()

    def _close(self, payload: bytes) -> None:
        if self.journal.phase in (Phase.CLOSING, Phase.ENDED):
            self.journal.tell_client(0, m.ConnectionCloseOk())
            self.journal.lifecycle.client_is_told()
        elif self.journal.phase is not Phase.FLUSHING:
            self.journal.lifecycle.client_closes()

    def _close_ok(self, payload: bytes) -> None:
        if self.journal.phase is Phase.CLOSING:
            self.journal.lifecycle.client_is_told()

    def _update_secret(self, payload: bytes) -> None:
        journal = self.journal
        self._expect(Phase.RUNNING, "connection.update-secret")
        if len(journal.secret_updates) >= SECRET_UPDATES_MAX:
            raise ClientError("too many connection.update-secret without an answer", reply_code=506)
        update = m.decode(m.ConnectionUpdateSecret, payload)
        frame = method_frame(0, update)
        journal.secret_updates.append((update.new_secret, frame))
        for uplink in (journal.uplink, journal.leaving):
            if uplink is not None and uplink.stage is Stage.ATTACHED:
                uplink.update_secret(frame)

    def _expect(self, phase: Phase, what: str) -> None:
        if self.journal.phase is not phase:
            raise ClientError(f"unexpected {what} while {self.journal.phase.value}", reply_code=503)

    _HANDLERS: ClassVar[dict[int, Callable[[Greeting, bytes], None]]] = {
        m.method_id(m.ConnectionStartOk): _start_ok,
        m.method_id(m.ConnectionTuneOk): _tune_ok,
        m.method_id(m.ConnectionOpen): _open,
        m.method_id(m.ConnectionClose): _close,
        m.method_id(m.ConnectionCloseOk): _close_ok,
        m.method_id(m.ConnectionUpdateSecret): _update_secret,
    }


def take_header(journal: Journal, ending: Ending, buf: bytes, pos: int) -> int:
    """The first eight bytes; returns where the rest begins. A stranger is told what is spoken here (section 4.2.2)."""
    given = buf[pos : pos + len(PROTOCOL_HEADER)]
    if given == PROTOCOL_HEADER:
        journal.phase = Phase.STARTING
        journal.offered = journal.face.capabilities
        journal.client_out.append(journal.face.greeting)
        return pos + len(given)
    if PROTOCOL_HEADER.startswith(given):
        return pos
    journal.client_out.append(PROTOCOL_HEADER)
    reason = f"it spoke {spoken(buf[pos:])}; this port expects AMQP 0-9-1"
    journal.report("session_refused", cause="wrong_protocol", reason=reason)
    ending.because("wrong_protocol")
    ending.end()
    return len(buf)


def spoken(first: bytes) -> str:
    """Guess the language of a stranger from its first bytes; for the log, so nothing of them is repeated."""
    if first[:1] == b"\x16" and first[1:2] in (b"", b"\x03"):
        return "TLS"
    if first[:4] == b"AMQP":
        version = ".".join(map(str, first[5:8]))
        return f"AMQP {version or 'of another version'} (protocol id {first[4]})"
    if first[:4] in (b"GET ", b"POST", b"PUT ", b"HEAD", b"OPTI", b"PRI "):
        return "HTTP"
    if first[:1] == b"\x10" and b"MQTT" in first[:8]:
        return "MQTT"
    return "STOMP" if first[:4] in (b"CONN", b"STOM") else "something else"
