"""The shell around one engine: carries its bytes and commands to sockets, clock and pool, and nothing else."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Callable
from dataclasses import dataclass

from proxy.amqp.frames import Buffer
from proxy.net.census import Census, SessionView
from proxy.net.dialler import Dialler, NoBroker
from proxy.net.link import Link
from proxy.reports import Report, ReportSink
from proxy.session.commands import Attached, CloseClient, Command, Dial, HangUp, Observe, ReadClient
from proxy.session.counters import Counters
from proxy.session.credentials import Face
from proxy.session.description import describe
from proxy.session.policy import SessionPolicy
from proxy.session.session import Session
from proxy.upstream.balance import PickContext
from proxy.upstream.pool import Pool


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all sessions of a process share."""

    policy: SessionPolicy
    pool: Pool
    dialler: Dialler
    census: Census
    face: Face
    rng: random.Random
    report: ReportSink


class Driver:
    """One client connection. Every event of its sockets and clock goes to the engine, then `_carry_out` follows.

    `over` is called when the session has ended; the client's socket may still have something to write.
    """

    def __init__(self, around: Surroundings, client: Link, number: int, over: Callable[[], None]) -> None:
        self._around = around
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._broker: Link | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._place = ""  # the endpoint at which this session holds a place of the dialler
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._was_steady = False
        self._reading = True
        self._busy = False
        self._opened_at = self._loop.time()
        self._connected_at = 0.0
        self.id = f"{number:x}"
        self.endpoint = ""
        self.engine = Session(
            around.policy,
            around.rng,
            around.face,
            self._opened_at,
            troubled=around.pool.degraded,
            via=f"sidehop {client.peer}",
        )
        around.census.sessions[self.id] = self
        around.census.sessions_total += 1
        self._arm()

    # What the census asks.

    @property
    def counters(self) -> Counters:
        """Counted since the session came to its present endpoint."""
        return self.engine.journal.counters

    def view(self, now: float) -> SessionView:
        """Describe it for the API."""
        facts = describe(self.engine)
        return SessionView(
            id=self.id,
            client=self._client.peer,
            endpoint=self.endpoint,
            age_s=now - self._opened_at,
            failovers=self.engine.attachment.failovers,
            **facts,
        )

    # What the links call.

    def link_received(self, link: Link, chunk: bytes) -> None:
        """Bytes came from the client or from a broker."""
        now = self._loop.time()
        try:
            if link is self._client:
                self.engine.from_client(chunk, now)
            else:
                self.engine.from_broker(link.generation, chunk, now)
            self._carry_out(now)
        except Exception:
            self._bug(now)

    def link_lost(self, link: Link, reason: str) -> None:
        """A peer is gone."""
        now = self._loop.time()
        try:
            if link is self._client:
                self.engine.client_gone(now)
                self._share_the_pace(now)
            else:
                self.engine.broker_lost(link.generation, reason, now)
            self._carry_out(now)
        except Exception:
            self._bug(now)

    def link_full(self, link: Link, full: bool) -> None:
        """Let the other side wait, or go on."""
        now = self._loop.time()
        self._share_the_pace(now)
        self._arm()

    # What the server calls.

    def endpoint_down(self, name: str, cause: str) -> None:
        """The pool knows that the broker behind this session is down."""
        if self._broker is None or name != self.endpoint:
            return
        now = self._loop.time()
        try:
            self.engine.broker_lost(self._broker.generation, cause, now, "heartbeat_missed")
            self._carry_out(now)
        except Exception:
            self._bug(now)

    def shut_down(self) -> None:
        """The process has to go."""
        now = self._loop.time()
        try:
            self.engine.shut_down(now)
            self._carry_out(now)
        except Exception:
            self._bug(now)

    def abort(self) -> None:
        """There is no more time, or not even a polite end is possible."""
        self._client.abort()
        self._leave_broker(abort=True)
        self._close(self._loop.time())

    # Inside.

    def _tick(self) -> None:
        self._timer = None
        now = self._loop.time()
        try:
            self.engine.tick(now)
            self._share_the_pace(now)
            self._carry_out(now)
        except Exception:
            self._bug(now)

    def _bug(self, now: float) -> None:
        """The outermost net: a bug ends this session with 541 and no other."""
        self._report(Report("internal_error", {"stack": traceback.format_exc()}))
        try:
            self.engine.fail(now)
            self._carry_out(now)
            if self.engine.deadline() is None:  # it thinks that it is over, and may not have come to say so
                self._close(now)
        except Exception:
            self._report(Report("internal_error", {"stack": traceback.format_exc()}))
            self.engine.ending.because("internal_error")
            self.abort()

    def _share_the_pace(self, now: float) -> None:
        """Read no faster from one side than the other side takes it. A client that is gone keeps nobody waiting."""
        broker = self._broker
        client_waits = broker is not None and broker.full
        broker_waits = self._client.full and self.engine.ending.client_here
        self._client.read(self._reading and not client_waits)
        if broker is not None:
            broker.read(not broker_waits)
        self.engine.pulse.unread(client_waits, broker_waits, now)

    def _carry_out(self, now: float) -> None:
        journal = self.engine.journal
        to_client, to_broker = journal.client_out, journal.broker_out
        if to_client:
            self._client.write(_taken(to_client))
            self.engine.pulse.wrote(True, False, now)
        if to_broker:
            if self._broker is not None:
                self._broker.write(_taken(to_broker))
            to_broker.clear()
            self.engine.pulse.wrote(False, True, now)
        if journal.commands and not self._busy:
            self._busy = True  # a command may cause an event, whose commands then wait their turn
            try:
                while journal.commands:
                    self._obey(journal.commands.pop(0), now)
            finally:
                self._busy = False
        self._arm()

    def _obey(self, command: Command, now: float) -> None:
        match command:
            case Dial():
                self._dialling = self._loop.create_task(self._dial(command), name=f"dial {self.id}")
            case HangUp():
                self._hang_up(command, now)
            case Attached():
                self._around.pool.attached(self.endpoint)
                self._free_place()
            case Observe():
                self._observe(command, now)
            case ReadClient():
                self._reading = command.wanted
                self._share_the_pace(now)
            case CloseClient():
                self._close(now)
            case Report():
                self._report(command)

    def _report(self, report: Report) -> None:
        facts: dict[str, object] = {"session": self.id, "client": self._client.peer}
        census = self._around.census
        if report.event == "failover_done":
            reason = self.engine.attachment.cause
            census.failovers[reason] = census.failovers.get(reason, 0) + 1
            took_s = report.facts["took_s"]
            assert isinstance(took_s, float)
            census.failover_s.observe(took_s)
        elif report.event == "failover_given_up":
            census.failovers_failed += 1
        self._around.report(Report(report.event, facts | report.facts))

    async def _dial(self, command: Dial) -> None:
        credentials = self.engine.journal.credentials
        assert credentials is not None
        context = PickContext(
            vhost=self.engine.journal.vhost.decode("utf-8", "replace"), user=credentials.user, name=credentials.name
        )
        generation = command.generation
        try:
            try:
                endpoint, link = await self._around.dialler.dial(
                    context, command.avoid, command.resumes, lambda: Link(self, generation)
                )
            except NoBroker as failure:
                self._dialling = None
                now = self._loop.time()
                self.engine.dial_failed(generation, str(failure), now)
                self._carry_out(now)
            else:
                self._dialling = None
                self._connected(endpoint.name, link, generation)
        except Exception:
            self._dialling = None
            self._bug(self._loop.time())

    def _connected(self, endpoint: str, link: Link, generation: int) -> None:
        now = self._loop.time()
        # What was counted without a broker stays there: a counter must not move from one endpoint to another.
        self._around.census.finish("", self.counters.take())
        self._broker = link
        self._place = self.endpoint = endpoint
        self._connected_at = now
        self._share_the_pace(now)
        self.engine.broker_up(generation, endpoint, now)
        self._carry_out(now)

    def _hang_up(self, command: HangUp, now: float) -> None:
        if self._broker is None or self._broker.generation == command.generation:
            self._leave_broker(abort=command.abort)
            self._share_the_pace(now)

    def _leave_broker(self, *, abort: bool) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        link, self._broker = self._broker, None
        if link is None:
            return
        if abort:
            link.abort()
        else:
            link.close()
        if self._place:
            self._free_place()
        else:
            self._around.pool.detached(self.endpoint)
        self._around.census.finish(self.endpoint, self.counters.take())
        self.endpoint = ""

    def _free_place(self) -> None:
        if self._place:
            self._around.dialler.release(self._place)
            self._place = ""

    def _observe(self, command: Observe, now: float) -> None:
        if self.endpoint:
            took_s = now - self._connected_at if command.outcome == "handshaken" else command.took_s
            self._around.pool.observe(self.endpoint, command.outcome, now, took_s)

    def _close(self, now: float) -> None:
        self._client.close()
        self._leave_broker(abort=False)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        census = self._around.census
        if census.sessions.pop(self.id, None) is not None:
            census.finish(self.endpoint, self.counters.take())
            reason = self.engine.ending.reason
            census.sessions_ended[reason] = census.sessions_ended.get(reason, 0) + 1
            self._report(
                Report(
                    "session_closed",
                    {
                        "reason": reason,
                        "lasted_s": round(now - self._opened_at, 3),
                        "failovers": self.engine.attachment.failovers,
                    },
                )
            )
            self._over()

    def _arm(self) -> None:
        """One timer a session. It is left alone while it is early enough: re-arming for each chunk would cost more."""
        steady = self.engine.steady
        if steady and self._was_steady and self._timer is not None:
            return
        self._was_steady = steady
        due = self.engine.deadline()
        if due is None:
            return
        if self._timer is not None:
            if self._timer_at <= due:
                return
            self._timer.cancel()
        self._timer_at = due
        self._timer = self._loop.call_at(due, self._tick)


def _taken(pieces: list[Buffer]) -> list[Buffer]:
    taken = pieces[:]
    pieces.clear()
    return taken
