"""A pool to tell stories about: endpoints with short names, a clock, and everything it says kept."""

from __future__ import annotations

from random import Random

from proxy.upstream.balance import BalancePolicy, PickContext, load_balancer
from proxy.upstream.endpoint import Endpoint, Snapshot
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import Pool, PoolPolicy

NOBODY = PickContext()


def endpoint(name, **facts):
    return Endpoint(name, facts.pop("host", "127.0.0.1"), facts.pop("port", 5672), **facts)


class Lab:
    """`said` are the reports, `downs` what the driver was told."""

    def __init__(self, *endpoints, balancer="p2c", health=None, seed=1, **policy) -> None:
        self.now = 0.0
        self.said = []
        self.downs = []
        rng = Random(seed)
        self.health_policy = HealthPolicy(**{"jitter_percent": 0, **(health or {})})
        self.pool = Pool(
            PoolPolicy(**policy),
            self.health_policy,
            load_balancer(balancer, BalancePolicy(balancer), rng),
            rng,
            self.said.append,
        )
        self.pool.on_down(lambda name, cause: self.downs.append((name, cause)))
        self.discover(*endpoints)

    def discover(self, *endpoints):
        self.pool.apply(Snapshot(tuple(endpoint(e) if isinstance(e, str) else e for e in endpoints)), self.now)
        return self

    def saw(self, name, *outcomes):
        for outcome in outcomes:
            self.pool.observe(name, outcome, self.now)
        return self

    def attach(self, name, count=1):
        for _ in range(count):
            self.pool.attached(name)
        return self

    def pick(self, *avoid):
        found = self.pool.pick(self.now, NOBODY, frozenset(avoid))
        return found and found.name

    def picks(self, *avoid, count=60):
        """The names that a number of picks come up with."""
        return {self.pick(*avoid) for _ in range(count)}

    def run(self, seconds, dead=()):
        """Let the time pass; probes pass but for the dead endpoints."""
        until = self.now + seconds
        while True:
            for probe in self.pool.probes_due(self.now):
                self.pool.probed(probe, probe.endpoint.name not in dead, self.now, "refused")
            due_s = self.pool.next_probe_at(self.now)
            if due_s is None or due_s > until:
                break
            self.now = max(self.now, due_s)
        self.now = until
        return self

    def view(self, name):
        return next(view for view in self.pool.views(self.now) if view.name == name)

    def states(self):
        return {view.name: view.state for view in self.pool.views(self.now)}

    def events(self, name):
        return [report.facts for report in self.said if report.event == name]
