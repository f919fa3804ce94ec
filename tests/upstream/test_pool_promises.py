"""What the pool promises in every order of events that Hypothesis can think of."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from proxy.upstream.balance import BalancePolicy, PickContext, load_balancer
from proxy.upstream.endpoint import Endpoint, Snapshot
from proxy.upstream.health import HealthPolicy, Outcome
from proxy.upstream.pool import Pool, PoolPolicy

NAMES = ("mq1", "mq2", "mq3", "mq4", "mq5")
OUTCOMES = Outcome.__args__
SNAPSHOTS = st.dictionaries(
    st.sampled_from(NAMES),
    st.tuples(
        st.sampled_from(("up", "up", "up", "drain")),
        st.integers(0, 2),
        st.sampled_from(("", "a", "b")),
        st.integers(0, 3).map(lambda n: n * 50),
        st.sampled_from((5672, 5673)),
    ),
)
SETS = st.frozensets(st.sampled_from(NAMES))


class Promises(RuleBasedStateMachine):
    """The bookkeeper: the last answer of discovery and plain counts of sessions."""

    @initialize(
        seed=st.integers(0, 1000),
        balancer=st.sampled_from(("p2c", "round_robin", "weighted_round_robin", "consistent_hash", "first")),
        panic=st.sampled_from((0, 20, 50, 100)),
        eject=st.sampled_from((0, 34, 100)),
        fall=st.integers(1, 3),
        login=st.booleans(),
    )
    def begin(self, seed, balancer, panic, eject, fall, login):
        rng = Random(seed)
        self.now = 0.0
        self.eject_max_percent = eject
        self.panic_threshold_percent = panic
        health = HealthPolicy(eject_max_percent=eject, fall=fall, user="u" if login else "")
        which = load_balancer(balancer, BalancePolicy(), rng)
        self.pool = Pool(PoolPolicy("a", panic), health, which, rng, self.hear)
        self.pool.on_down(self.told_down)
        self.said = Counter()
        self.named = {}
        self.sessions = Counter()
        self.attaching = Counter()
        self.probes = []
        self.strays = []

    def hear(self, report):
        self.said[report.event] += 1
        if report.event == "endpoint_removed":
            # Its probe goes on and concerns nobody, also if the name comes back meanwhile.
            self.strays += [probe for probe in self.probes if probe.endpoint.name == report.facts["endpoint"]]
            self.probes = [probe for probe in self.probes if probe not in self.strays]
        if report.event == "pool_panic":
            # Begin and end take turns, the beginning first.
            assert report.facts["active"] is (self.said["pool_panic"] % 2 == 1)

    def told_down(self, name, cause):
        assert cause
        assert self.states().get(name, "down") == "down", "only the dead and the forgotten are told"

    def states(self):
        return {view.name: view.state for view in self.pool.views(self.now)}

    @rule(facts=SNAPSHOTS)
    def discovery_answers(self, facts):
        endpoints = [
            Endpoint(name, "127.0.0.1", port, weight=weight, zone=zone, priority=priority, intent=intent)
            for name, (intent, priority, zone, weight, port) in facts.items()
        ]
        self.pool.apply(Snapshot(tuple(endpoints)), self.now)
        if endpoints:
            self.named = {each.name: each for each in endpoints}

    @rule(name=st.sampled_from(NAMES), outcomes=st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=4))
    def a_session_sees(self, name, outcomes):
        for outcome in outcomes:
            self.pool.observe(name, outcome, self.now, 0.01)

    @rule(seconds=st.sampled_from((0.0, 0.1, 1.0, 5.0, 40.0, 400.0)))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def probes_begin(self):
        self.probes += self.pool.probes_due(self.now)
        names = [probe.endpoint.name for probe in self.probes]
        assert len(names) == len(set(names)), "at most one under way for each endpoint"

    @precondition(lambda self: self.strays)
    @rule(ok=st.sampled_from((True, False, None)))
    def a_probe_of_what_was_forgotten_ends(self, ok):
        before = self.pool.views(self.now)
        self.pool.probed(self.strays.pop(), ok, self.now, "it failed")
        assert self.pool.views(self.now) == before

    @precondition(lambda self: self.probes)
    @rule(data=st.data(), ok=st.sampled_from((True, True, False, None)))
    def a_probe_ends(self, data, ok):
        probe = self.probes.pop(data.draw(st.integers(0, len(self.probes) - 1)))
        self.pool.probed(probe, ok, self.now, "it failed")

    @rule(name=st.sampled_from(NAMES))
    def a_session_attaches(self, name):
        self.pool.attaching(name)
        self.pool.attached(name)
        self.pool.attach_ended(name)
        self.sessions[name] += 1

    @rule(name=st.sampled_from(NAMES))
    def a_session_leaves(self, name):
        self.pool.detached(name)
        self.sessions[name] = max(0, self.sessions[name] - 1)

    @rule(avoid=SETS, key=st.sampled_from(("", "orders")))
    def a_session_asks(self, avoid, key):
        views = {view.name: view for view in self.pool.views(self.now)}
        offered = {name for name, each in self.named.items() if each.intent == "up"}
        up = {name for name in offered if views[name].state == "up"}
        suspect = {
            name
            for name in offered
            if views[name].state == "suspect" and not views[name].cause.startswith("back, and on probation")
        }
        picked = self.pool.pick(self.now, PickContext(vhost=key), avoid)
        if picked is None:
            assert not up | suspect, "never without an endpoint while one is usable"
            assert not (self.pool.panicking() and offered)
            return
        name = picked.name
        assert picked == self.named[name], "the address is the last one that discovery gave"
        assert name in offered, "neither draining nor removed"
        if self.pool.panicking():
            assert name not in avoid or offered <= avoid
            return
        assert views[name].state in ("up", "suspect")
        if name in avoid:
            assert up | suspect <= avoid, "what was tried is tried again only when nothing else is left"
        if name in suspect:
            assert up - avoid == set() or name in up, "a suspect only when no well one is left"
        first = min((self.named[each].priority for each in up - avoid), default=None)
        if name in up - avoid:
            assert views[name].priority == first or views_on_probation(views, offered), "the first tier goes first"

    @invariant()
    def the_books_agree(self):
        for view in self.pool.views(self.now):
            assert view.sessions == self.sessions[view.name]
            assert view.in_discovery == (view.name in self.named)
            assert view.in_discovery or self.sessions[view.name], "what is gone and idle is forgotten"
            assert view.since_s >= 0
        assert set(self.named) <= set(self.states())

    @invariant()
    def ejection_spares_enough(self):
        states = self.states()
        offered = [name for name, each in self.named.items() if each.intent == "up"]
        ejected = [name for name in offered if states[name] == "ejected"]
        assert len(ejected) * 100 <= self.eject_max_percent * len(offered)
        assert not ejected or any(states[name] in ("up", "suspect") for name in offered)

    @invariant()
    def panic_is_what_the_threshold_says(self):
        states = self.states()
        offered = [name for name, each in self.named.items() if each.intent == "up"]
        well = sum(states[name] in ("up", "suspect") for name in offered)
        threshold = self.panic_threshold_percent * len(offered) / 100
        assert self.pool.panicking() == (well < threshold)
        assert self.pool.usable(self.now) <= well, "what nothing has reached yet is well, and not usable"

    @invariant()
    def every_endpoint_has_a_probe_ahead_or_under_way(self):
        if len(self.states()) > len({probe.endpoint.name for probe in self.probes}):
            assert self.pool.next_probe_at(self.now) is not None

    def teardown(self):
        """Whatever happened: once all is well again, every endpoint comes back by itself, or with its next session."""
        for probe in self.probes:
            self.pool.probed(probe, True, self.now)
        deadline = self.now + 400
        while (due_s := self.pool.next_probe_at(self.now)) is not None and due_s <= deadline:
            self.now = max(self.now, due_s)
            for probe in self.pool.probes_due(self.now):
                self.pool.probed(probe, True, self.now)
        self.now = deadline
        for view in self.pool.views(self.now):
            if view.state == "suspect":
                assert view.cause.startswith("back, and on probation")
                self.pool.observe(view.name, "handshaken", self.now)
        wanted = {name: "up" if each.intent == "up" else "draining" for name, each in self.named.items()}
        assert {name: state for name, state in self.states().items() if name in self.named} == wanted
        assert self.pool.usable(self.now) == sum(state == "up" for state in wanted.values())


def views_on_probation(views, offered):
    return any(views[name].state == "suspect" for name in offered)


Promises.TestCase.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
TestPromises = pytest.mark.timeout(280)(Promises.TestCase)
