"""Who is connected now, and what has been counted. Telemetry and the API read it; only the driver writes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from proxy.reports import ENDING_EVENTS, ENDS, Report
from proxy.session.counters import Counters
from proxy.session.description import WaitView

FAILOVER_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)

# After so many new names of endpoints, those that nobody knows any more are added up: pods come and go without end.
NEW_NAMES_MAX = 100
# The name of that sum.
OTHER = "other"


@dataclass(frozen=True, slots=True)
class SessionView:
    """One row of `/api/v1/sessions`. Never holds a secret. Counts are messages, `*_bytes` bytes, `*_s` seconds.

    `movable` says whether the session could be moved without the client noticing; `reasons` names what speaks
    against it. `waits` are all the reasons why something waits, `waiting` is the first of them; empty if nothing does.
    """

    id: str
    client: str
    user: str
    vhost: str
    name: str
    endpoint: str
    state: str
    waiting: str
    waits: tuple[WaitView, ...]
    age_s: float
    channels: int
    consumers: int
    unsettled_publishes: int
    unsettled_bytes: int
    outstanding_deliveries: int
    parked_bytes: int
    failovers: int
    movable: bool
    reasons: tuple[str, ...]


class LiveSession(Protocol):
    """What the census needs of a running session."""

    @property
    def endpoint(self) -> str:
        """Name of the endpoint behind it, empty while detached."""
        ...

    @property
    def counters(self) -> Counters:
        """Counted since it was attached to that endpoint."""
        ...

    def view(self, now: float) -> SessionView:
        """Describe it for the API."""
        ...


@dataclass(slots=True)
class Histogram:
    """Durations in seconds; one count per bucket of `FAILOVER_BUCKETS_S` and one above them all."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(FAILOVER_BUCKETS_S) + 1))
    total_s: float = 0.0

    def observe(self, value_s: float) -> None:
        """Count one duration; a value equal to a bucket's bound belongs to it, as in Prometheus."""
        self.counts[bisect_left(FAILOVER_BUCKETS_S, value_s)] += 1
        self.total_s += value_s


class Census:
    """All live sessions, and the sums of what is over. Integers only; read at scrape time.

    `knows` says whether an endpoint may still get or have sessions.
    """

    def __init__(self, knows: Callable[[str], bool]) -> None:
        self.sessions: dict[str, LiveSession] = {}
        self.sessions_total = 0
        self.sessions_refused: dict[str, int] = {}
        self.sessions_ended: dict[str, int] = {}
        # By scope and cause: all there can be, since a rate needs a first value.
        self.ends = {(scope, cause): 0 for scope, causes in ENDS.items() for cause in causes}
        self.failovers: dict[str, int] = {}
        self.failovers_failed = 0
        self.failover_s = Histogram()
        self.moves = 0
        self._knows = knows
        self._finished: dict[str, Counters] = {}
        self._names_max = NEW_NAMES_MAX

    def count(self, report: Report, cause: str) -> None:
        """Count a turn in a session's life as it is reported; `cause` is one word for why it last lost a broker."""
        if report.event == "failover_done":
            self.failovers[cause] = self.failovers.get(cause, 0) + 1
            took_s = report.facts["took_s"]
            assert isinstance(took_s, float)
            self.failover_s.observe(took_s)
        elif report.event == "failover_given_up":
            self.failovers_failed += 1
        elif report.event == "session_moved":
            self.moves += 1
        elif report.event in ENDING_EVENTS:
            count = report.facts.get("count", 1)
            assert isinstance(count, int)
            self.ends[ENDING_EVENTS[report.event], str(report.facts["cause"])] += count

    def ended(self, reason: str) -> None:
        """Count a session that is over; `reason` is one word."""
        self.sessions_ended[reason] = self.sessions_ended.get(reason, 0) + 1
        if reason in ENDS["connection"]:
            self.ends["connection", reason] += 1

    def finish(self, endpoint: str, counters: Counters) -> None:
        """Add what a session did at an endpoint that it has left."""
        if endpoint not in self._finished and len(self._finished) >= self._names_max:
            self._forget()
        self._finished.setdefault(endpoint, Counters()).add(counters)

    def per_endpoint(self) -> dict[str, Counters]:
        """Sums per endpoint, live sessions included. No sum ever falls; it may go to `OTHER` and begin anew.

        The empty name stands for sessions never attached, `OTHER` for endpoints long gone.
        """
        sums: dict[str, Counters] = {}
        for name, done in self._finished.items():
            sums.setdefault(name, Counters()).add(done)
        for session in self.sessions.values():
            sums.setdefault(session.endpoint, Counters()).add(session.counters)
        return sums

    def _forget(self) -> None:
        kept = {"", OTHER, *(session.endpoint for session in self.sessions.values())}
        for name in [name for name in self._finished if name not in kept and not self._knows(name)]:
            # For good: were it taken back when the name returns, the sum of the others would fall.
            self._finished.setdefault(OTHER, Counters()).add(self._finished.pop(name))
        self._names_max = len(self._finished) + NEW_NAMES_MAX

    def views(self, now: float) -> Iterator[SessionView]:
        """Describe every live session, oldest first."""
        for session in self.sessions.values():
            yield session.view(now)
