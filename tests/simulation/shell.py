"""The engine's shell as the driver plays it, over wires of the simulation, and what must hold after each event."""

from __future__ import annotations

import random
from collections.abc import Callable

from proxy.session.commands import Attached, CloseClient, Dial, HangUp, LookAround, Observe, ReadClient
from proxy.session.credentials import Face
from proxy.session.description import describe
from proxy.session.journal import Phase
from proxy.session.session import Session
from tests.simulation.broker import Connection
from tests.simulation.clock import Clock, Wire
from tests.simulation.cluster import Cluster, Node, Violation
from tests.simulation.memory import check_count, check_limits
from tests.simulation.recipe import Recipe
from tests.support.engine_frames import fresh

TICKS_AT_ONCE_MAX = 50
# How long a wait may be before it must have a name.
SILENT_WAIT_S = 1.0
FORCED_CLOSE_PAUSE_S = 60.0
REST_S = 10.0
# How long a cluster counts as troubled behind a death, and what it takes to look at every node.
TROUBLED_S = 30.0
LOOK_S = 0.05


class Shell:
    """One session with its broker connections. `listen` gets what the client is sent."""

    def __init__(self, recipe: Recipe, clock: Clock, cluster: Cluster, listen: Callable[[bytes], None]) -> None:
        self.clock = clock
        self.cluster = cluster
        self.rng: random.Random = recipe.rng("wires")
        self.policy = recipe.policy()
        self.session = Session(self.policy, recipe.rng("engine"), Face(), clock.now, troubled=self._troubled)
        self.links: dict[int, tuple[Connection, Wire]] = {}
        self.to_engine = Wire(clock, self.rng, self._from_client)
        self.to_client = Wire(clock, self.rng, listen)
        self.closed = False
        self.moves = 0
        self.story: list[str] = []
        self.after_broker: Callable[[Connection], None] = lambda connection: None
        self._ticks_at = (0.0, 0)
        self._timer = 0
        self._chunk_bytes_max = 0
        self._silent_since: float | None = None
        self.news_s: float = recipe.rng("news").choice((0.0, 0.3))
        self._looked_at = -1000.0
        self._forced_at = -1000.0
        self._failing_since = 0.0
        self._failed_at = -1000.0

    def start(self) -> None:
        self._arm()
        self._watch()

    # What must hold at any time.

    def _watch(self) -> None:
        """No wait is silent: while the client's input stands still, `describe` says for what."""
        if self.closed:
            return
        check_count(self.session)
        journal, now = self.session.journal, self.clock.now
        stands = journal.load.parked_bytes > 0 or not journal.attached or not self.session.pulse.reading
        if journal.phase is not Phase.RUNNING or not stands or describe(self.session)["waiting"]:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now > self._silent_since + SILENT_WAIT_S:
            load = journal.load
            raise Violation(
                f"it waits and does not say for what: attached {journal.attached}, reading "
                f"{self.session.pulse.reading}, parked {load.parked_bytes}, unsettled {load.unsettled_bytes}"
            )
        self.clock.after(0.2, self._watch)

    def _reported(self, event: str, facts: dict[str, object], moving: bool) -> None:
        self.story.append(f"{self.clock.now:.3f} {event} {facts}")
        if event == "session_moved":
            self.moves += 1
        if event == "failover_started" and not moving:
            self._check_patience(str(facts))

    def _check_patience(self, reason: str) -> None:
        """An operator is obeyed the second time, a broker's internal error when none of them has ended in time."""
        now = self.clock.now
        if "management plugin" in reason:
            if now < self._forced_at + FORCED_CLOSE_PAUSE_S:
                raise Violation("a second close within a minute was recovered from, and not told")
            self._forced_at = now
        elif "INTERNAL_ERROR" in reason:
            if now >= self._failed_at + REST_S:
                self._failing_since = now
            elif now >= self._failing_since + self.session.journal.policy.failover_timeout_s:
                raise Violation("internal errors without an end were recovered from, and not told")
            self._failed_at = now

    # The driver's part.

    def _from_client(self, data: bytes) -> None:
        if not self.closed:
            self._chunk_bytes_max = max(self._chunk_bytes_max, len(data))
            self.session.from_client(fresh(data), self.clock.now)
            self.carry_out()

    def carry_out(self, *, moving: bool = False) -> None:
        """Take what the engine has to say."""
        journal, now = self.session.journal, self.clock.now
        check_limits(journal, self.policy, self._chunk_bytes_max)
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
                case LookAround():
                    self._looked_at = now
                case Attached() | Observe():
                    pass
                case report:
                    self._reported(report.event, report.facts, moving)
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
        self.carry_out()

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
        connection = Connection(node, self.cluster.rng)

        def heard(data: bytes) -> None:
            self._event("from_broker", generation, fresh(data))
            self.after_broker(connection)

        connection.out = Wire(self.clock, self.rng, heard, node.slowness)
        connection.on_reset = lambda: self._reset(generation)
        self.links[generation] = (connection, Wire(self.clock, self.rng, connection.received, node.slowness))
        if self.session.attachment.generation != generation or self.closed:
            self._hang_up(generation, abort=True)
            return
        self._event("broker_up", generation, node.name)

    def _event(self, name: str, generation: int, *facts: object) -> None:
        if not self.closed:
            moving = self.session.journal.leaving is not None
            getattr(self.session, name)(generation, *facts, self.clock.now)
            self.carry_out(moving=moving)

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

    def _troubled(self, now: float) -> bool:
        """What the pool would say: it hears of a death late, but for one that somebody has asked it to look at."""
        looked_at = self._looked_at if now >= self._looked_at + LOOK_S else -1000.0
        deaths = [at for at in self.cluster.deaths if now < at + TROUBLED_S]
        known = any(now >= at + self.news_s or looked_at >= at for at in deaths)
        return known or any(node.frozen for node in self.cluster.nodes)

    def attached_connection(self) -> Connection | None:
        """The newest connection to a broker, if it is not over."""
        link = self.links.get(self.session.attachment.generation)
        return link[0] if link is not None and not link[0].closed else None
