"""The shell around one engine: carries its bytes and commands to sockets, clock and pool, and nothing else."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from functools import partial

from proxy.amqp.frames import Buffer
from proxy.net.census import SessionView
from proxy.net.dialler import NoBroker
from proxy.net.link import Leg, Link
from proxy.net.surroundings import Surroundings
from proxy.reports import Report
from proxy.session.commands import Attached, CloseClient, Command, Dial, HangUp, LookAround, Observe, ReadClient
from proxy.session.counters import Counters
from proxy.session.description import describe
from proxy.session.session import Session
from proxy.upstream.balance import PickContext

_TOLD_AT_THE_END = ("bytes_from_client", "bytes_from_broker", "publishes", "deliveries", "replayed_publishes")


class Driver:
    """One client connection. Every event of its sockets and clock goes to the engine, then `_carry_out` follows.

    `over` is called when the session has ended; the client's socket may still have something to write.
    """

    def __init__(self, around: Surroundings, client: Link, id_: str, over: Callable[[], None]) -> None:
        self._around = around
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._client = client
        self._legs: dict[int, Leg] = {}
        self._dialling: asyncio.Task[None] | None = None
        self._dialled = 0  # the generation that `_dialling` is for
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._was_quiet = False
        self._reading = True
        self._pressed = self._busy = False
        self._opened_at = self._loop.time()
        self._total = Counters()
        self.id = id_
        self.endpoint = ""
        self.engine = Session(
            around.policy,
            around.rng,
            around.face,
            self._opened_at,
            troubled=around.pool.degraded,
            via=f"sidehop {client.peer}",
            place_by_vhost=around.pool.places_by_vhost,
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
        facts = describe(self.engine, now)
        return SessionView(
            id=self.id,
            client=self._client.peer,
            endpoint=self.endpoint,
            age_s=now - self._opened_at,
            failovers=self.engine.attachment.failovers,
            **facts,
        )

    # What the budget asks.

    @property
    def retained_bytes(self) -> int:
        """What is kept for this session, by the engine and by its sockets."""
        retained = self.engine.journal.retained_bytes + self._client.waiting_bytes
        for leg in self._legs.values():
            retained += leg.link.waiting_bytes
        return retained

    @property
    def unfinished_bytes(self) -> int:
        """The part of it that are publishes which have begun and not ended."""
        return self.engine.journal.unfinished_bytes

    def press(self, share_bytes: int | None) -> None:
        """Wait with whatever would keep more than this, as what a client leaves unread; None: go on."""
        self._pressed = share_bytes is not None and self._client.waiting_bytes > share_bytes
        self._share_the_pace(self._loop.time())
        self._meet(partial(self.engine.press, share_bytes))

    def overdraw(self, reason: str) -> None:
        """End the client with an error that says why."""
        self._meet(partial(self.engine.overdraw, reason))

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
            budget = self._around.budget
            budget.unseen_bytes += len(chunk)
            if budget.unseen_bytes > budget.credit_bytes:
                budget.look(now)
        except Exception:
            self._bug(now)

    def link_lost(self, link: Link, reason: str) -> None:
        """A peer is gone."""
        self._meet(partial(self._lost, link, reason))

    def link_full(self, link: Link, full: bool) -> None:
        """Let the other side wait, or go on."""
        self._share_the_pace(self._loop.time())
        self._arm()

    # What the server calls.

    def endpoint_down(self, name: str, cause: str) -> None:
        """The pool knows that a broker behind this session is down."""

        def down(now: float) -> None:
            for generation in [number for number, leg in self._legs.items() if leg.endpoint == name]:
                self.engine.broker_lost(generation, cause, now, "heartbeat_missed")

        self._meet(down)

    def endpoint_withdrawn(self, name: str, withdrawn: bool) -> None:
        """The pool wants no sessions on an endpoint any more, or has changed its mind."""
        if name == self.endpoint:
            self._meet(partial(self._heed, withdrawn))

    def shut_down(self) -> None:
        """The process has to go."""
        self._meet(self.engine.shut_down)

    def abort(self) -> None:
        """There is no more time, or not even a polite end is possible."""
        self._client.abort()
        self._leave_brokers(abort=True)
        self._close(self._loop.time())

    # Inside.

    def _meet(self, event: Callable[[float], None]) -> None:
        """Have the engine take an event, and do what it then asks for."""
        now = self._loop.time()
        try:
            event(now)
            self._carry_out(now)
        except Exception:
            self._bug(now)

    def _lost(self, link: Link, reason: str, now: float) -> None:
        if link is self._client:
            self.engine.client_gone(now)
            self._share_the_pace(now)
        else:
            self.engine.broker_lost(link.generation, reason, now)

    def _tick(self) -> None:
        self._timer = None
        self._meet(self._pass_time)

    def _pass_time(self, now: float) -> None:
        self.engine.tick(now)
        self._share_the_pace(now)

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
        """Read no faster from one side than the other side takes it. A client that is gone keeps nobody waiting.

        Nor does a client that does not read keep a broker's handshake: that one would seem not to answer.
        """
        client_waits, here = any(leg.link.full for leg in self._legs.values()), self.engine.ending.client_here
        broker_waits = (self._client.full or self._pressed) and here
        self._client.read(self._reading and not client_waits)
        for leg in self._legs.values():
            leg.link.read(not (broker_waits and leg.attached))
        self.engine.pulse.unread(client_waits, broker_waits, now, left=here and self._client.left)

    def _carry_out(self, now: float) -> None:
        journal = self.engine.journal
        pulse = self.engine.pulse
        if journal.client_out:
            self._client.write(_taken(journal.client_out))
            pulse.wrote(None, now)
        for uplink in (journal.uplink,) if self.engine.quiet else journal.uplinks:
            if uplink is not None and uplink.out:
                self._legs[uplink.generation].link.write(_taken(uplink.out))
                pulse.wrote(uplink, now)
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
                self._dialled = command.generation
                self._dialling = self._loop.create_task(self._dial(command), name=f"dial {self.id}")
            case HangUp():
                self._hang_up(command, now)
            case Attached():
                self._attached(self._legs[command.generation])
            case Observe():
                self._observe(command, now)
            case LookAround():
                self._around.pool.look_around(now)
            case ReadClient():
                self._reading = command.wanted
                self._share_the_pace(now)
            case CloseClient():
                self._close(now)
            case Report():
                self._report(command)

    def _report(self, report: Report) -> None:
        self._around.census.count(report, self.engine.attachment.cause)
        facts: dict[str, object] = {"session": self.id, "client": self._client.peer}
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
                self.engine.dial_failed(generation, failure.endpoint, str(failure), now)
                self._carry_out(now)
            else:
                self._dialling = None
                self._connected(endpoint.name, link, generation)
        except Exception:
            self._dialling = None
            self._bug(self._loop.time())

    def _connected(self, endpoint: str, link: Link, generation: int) -> None:
        now = self._loop.time()
        self._legs[generation] = Leg(link, endpoint, now)
        self._share_the_pace(now)
        self.engine.broker_up(generation, endpoint, now)
        self._settle_counts()
        self._carry_out(now)

    def _attached(self, leg: Leg) -> None:
        pool = self._around.pool
        pool.attached(leg.endpoint)
        leg.attached = True
        self._share_the_pace(now := self._loop.time())
        self._around.dialler.release(leg.endpoint)
        self._settle_counts()
        # It may have been withdrawn since it was picked, or be the answer to a wish to leave another one.
        self._heed(pool.withdrawn(leg.endpoint), now)

    def _heed(self, withdrawn: bool, now: float) -> None:
        if withdrawn:
            self.engine.leave("its broker is to be left", now)
            self._was_quiet = False  # the timer is set for heartbeats only
        else:
            self.engine.stay(now)

    def _hang_up(self, command: HangUp, now: float) -> None:
        if command.generation == self._dialled and self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        leg = self._legs.pop(command.generation, None)
        if leg is not None:
            if command.last:
                leg.link.write(command.last)
            self._leave(leg, abort=command.abort)
            self._share_the_pace(now)

    def _leave(self, leg: Leg, *, abort: bool) -> None:
        if abort:
            leg.link.abort()
        else:
            leg.link.close()
        if leg.attached:
            self._around.pool.detached(leg.endpoint)
        else:
            self._around.dialler.release(leg.endpoint)
        self._settle_counts()

    def _leave_brokers(self, *, abort: bool) -> None:
        if self._dialling is not None:
            self._dialling.cancel()
            self._dialling = None
        while self._legs:
            self._leave(self._legs.popitem()[1], abort=abort)

    def _settle_counts(self) -> None:
        """What was counted stays where it was counted: a counter must not move from one endpoint to another."""
        journal = self.engine.journal
        behind = journal.uplink or journal.candidate
        leg = self._legs.get(behind.generation) if behind is not None else None
        endpoint = leg.endpoint if leg is not None else ""
        if endpoint != self.endpoint:
            self._count_off()
            self.endpoint = endpoint
            if endpoint and not self._around.pool.withdrawn(endpoint):
                self.engine.stay(self._loop.time())

    def _count_off(self) -> None:
        done = self.counters.take()
        self._total.add(done)
        self._around.census.finish(self.endpoint, done)

    def _observe(self, command: Observe, now: float) -> None:
        leg = self._legs.get(command.generation)
        if leg is not None:
            took_s = now - leg.connected_at if command.outcome == "handshaken" else command.took_s
            self._around.pool.observe(leg.endpoint, command.outcome, now, took_s)

    def _close(self, now: float) -> None:
        self._client.close()
        self._leave_brokers(abort=False)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        census = self._around.census
        if census.sessions.pop(self.id, None) is not None:
            self._count_off()
            reason = self.engine.ending.reason
            census.ended(reason)
            self._report(
                Report(
                    "session_closed",
                    {
                        "reason": reason,
                        "lasted_s": round(now - self._opened_at, 3),
                        "failovers": self.engine.attachment.failovers,
                        **{name: getattr(self._total, name) for name in _TOLD_AT_THE_END},
                    },
                )
            )
            self._over()

    def _arm(self) -> None:
        """One timer a session. It is left alone while it is early enough: re-arming for each chunk would cost more."""
        quiet = self.engine.quiet
        if quiet and self._was_quiet and self._timer is not None:
            return
        self._was_quiet = quiet
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
