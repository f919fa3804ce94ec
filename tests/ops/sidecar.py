"""The parts of a sidecar without its sockets to clients, for tests of what the operator sees."""

from dataclasses import replace

from proxy.net.census import SessionView
from proxy.ops.build import Build
from proxy.ops.plane import DataPlane
from proxy.ops.vitals import Vitals
from proxy.session.counters import Counters
from proxy.settings import Settings
from proxy.upstream.endpoint import DiscoveryStatus, Endpoint, Snapshot

VIEW = SessionView(
    id="1",
    client="127.0.0.1:40000",
    user="app",
    vhost="/",
    name="worker",
    endpoint="mq1",
    state="attached",
    waiting="",
    waits=(),
    age_s=1.5,
    channels=2,
    consumers=1,
    unsettled_publishes=3,
    unsettled_bytes=300,
    outstanding_deliveries=4,
    parked_bytes=0,
    failovers=0,
    movable=True,
    reasons=(),
)


class Session:
    """A live session that does what a test says."""

    def __init__(self, session_id, endpoint="mq1", retained_bytes=0, **facts):
        self.id = session_id
        self.endpoint = endpoint
        self.counters = Counters()
        self.facts = facts
        self.retained_bytes = retained_bytes
        self.unfinished_bytes = 0

    def press(self, share_bytes):
        self.share_bytes = share_bytes

    def view(self, now):
        return replace(VIEW, id=self.id, endpoint=self.endpoint, **self.facts)


class Listener:
    listening = True

    def __init__(self, budget):
        self.budget = budget


class Sidecar:
    """A real plane that does not listen, and status; `stopped` collects why it was asked to stop."""

    def __init__(self, *endpoints):
        self.reports = []
        self.dropped = 0
        self.plane = DataPlane(Settings(), self.reports.append, lambda: self.dropped)
        self.pool, self.census = self.plane.pool, self.plane.census
        self.budget = self.plane.server.budget
        self.budget.limit_bytes = 1_000_000
        self.budget._sessions = lambda: list(self.census.sessions.values())
        self.listener = self.plane.server = Listener(self.budget)
        if endpoints:
            self.pool.apply(Snapshot(tuple(Endpoint(name, name, 5672) for name in endpoints)), 0.0)
        self.stopped = []
        self.vitals = Vitals(
            build=Build("1.2.3", "3.11.7", True, "uvloop"),
            plane=self.plane,
            discovery=DiscoveryStatus(source="etcd"),
            stop=self.stopped.append,
        )

    def add(self, session):
        self.census.sessions[session.id] = session
        self.census.sessions_total += 1
        return session

    def end(self, session, reason="client"):
        del self.census.sessions[session.id]
        self.census.finish(session.endpoint, session.counters)
        self.census.ended(reason)
