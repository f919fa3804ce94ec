"""The parts of a sidecar without its sockets to clients, for tests of what the operator sees."""

import random
from dataclasses import replace

from proxy.net.budget import Budget
from proxy.net.census import Census, SessionView
from proxy.ops.build import Build
from proxy.ops.vitals import Vitals
from proxy.session.counters import Counters
from proxy.upstream.balance import BalancePolicy, load_balancer
from proxy.upstream.endpoint import DiscoveryStatus, Endpoint, Snapshot
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import Pool, PoolPolicy

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


class Sidecar:
    """Real pool, census and status; `stopped` collects why it was asked to stop."""

    def __init__(self, *endpoints):
        rng = random.Random(1)
        self.reports = []
        self.pool = Pool(
            PoolPolicy(), HealthPolicy(), load_balancer("p2c", BalancePolicy(), rng), rng, self.reports.append
        )
        if endpoints:
            self.pool.apply(Snapshot(tuple(Endpoint(name, name, 5672) for name in endpoints)), 0.0)
        self.census = Census(self.pool.knows)
        self.listener = Listener()
        self.budget = Budget(1_000_000, lambda: list(self.census.sessions.values()), self.reports.append)
        self.stopped = []
        self.dropped = 0
        self.vitals = Vitals(
            build=Build("1.2.3", "3.11.7", True, "uvloop"),
            census=self.census,
            budget=self.budget,
            pool=self.pool,
            discovery=DiscoveryStatus(source="etcd"),
            listener=self.listener,
            lines_dropped=lambda: self.dropped,
            stop=self.stopped.append,
        )

    def add(self, session):
        self.census.sessions[session.id] = session
        self.census.sessions_total += 1
        return session

    def end(self, session, reason="client"):
        del self.census.sessions[session.id]
        self.census.finish(session.endpoint, session.counters)
        self.census.sessions_ended[reason] = self.census.sessions_ended.get(reason, 0) + 1
