"""Who is connected now, and what has been counted. Telemetry and the API read it; only the driver writes it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from proxy.session.counters import Counters

FAILOVER_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


@dataclass(frozen=True, slots=True)
class SessionView:
    """One row of `/api/v1/sessions`. Never holds a secret. Counts are messages, `*_bytes` bytes, `*_s` seconds.

    `movable` says whether the session could be moved without the client noticing; `reasons` names what speaks
    against it. `waiting` names what a detached session waits for, empty while attached.
    """

    id: str
    client: str
    user: str
    vhost: str
    name: str
    endpoint: str
    state: str
    waiting: str
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
    """All live sessions, and the sums of what is over. Integers only; read at scrape time."""

    def __init__(self) -> None:
        self.sessions: dict[str, LiveSession] = {}
        self.sessions_total = 0
        self.sessions_refused: dict[str, int] = {}
        self.sessions_ended: dict[str, int] = {}
        self.failovers: dict[str, int] = {}
        self.failovers_failed = 0
        self.failover_s = Histogram()
        self.finished: dict[str, Counters] = {}

    def finish(self, endpoint: str, counters: Counters) -> None:
        """Add what a session did at an endpoint that it has left."""
        self.finished.setdefault(endpoint, Counters()).add(counters)

    def per_endpoint(self) -> dict[str, Counters]:
        """Sums per endpoint, live sessions included. The empty name stands for sessions never attached."""
        sums: dict[str, Counters] = {}
        for name, done in self.finished.items():
            sums.setdefault(name, Counters()).add(done)
        for session in self.sessions.values():
            sums.setdefault(session.endpoint, Counters()).add(session.counters)
        return sums

    def views(self, now: float) -> Iterator[SessionView]:
        """Describe every live session, oldest first."""
        for session in self.sessions.values():
            yield session.view(now)
