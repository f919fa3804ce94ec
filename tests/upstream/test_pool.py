"""The pool: what discovery, health and load make of each other."""

from __future__ import annotations

from itertools import combinations, product
from random import Random

import pytest

from proxy.errors import ConfigError
from proxy.upstream.balance import Candidate, PickContext
from proxy.upstream.endpoint import Snapshot
from proxy.upstream.health import HealthPolicy
from proxy.upstream.pool import Pool, PoolPolicy
from tests.upstream.pools import Lab, endpoint

LOGIN = {"user": "sidehop", "password": "secret"}


class Recorder:
    """A balancer that keeps what it was offered and takes the first."""

    def __init__(self) -> None:
        self.offers = []

    def pick(self, candidates, context, now):
        self.offers.append((list(candidates), context, now))
        return candidates[0]


# How to make of an endpoint what it is to be, the slow ones first. Others recover while one gets to its probation.
FATES = {
    "probation": ("forced_close",),
    "trial": ("forced_close",),
    "up": (),
    "suspect": ("lost",),
    "ejected": ("failover_failed",) * 3,
    "down": ("forced_close",),
    "drain": (),
}


def fated(fates):
    """A pool whose endpoints are what `fates` says as far as others let them, and the ones that a session tries.

    Tiers and zones differ, so with all the fates in all orders those are mixed as well.
    """
    lab = Lab(health={"eject_max_percent": 100}, zone="b")
    kept = [
        endpoint(name, priority=tier, zone=zone, intent="drain" if fates[name] == "drain" else "up")
        for name, tier, zone in zip(fates, (0, 0, 1), "aba", strict=True)
    ]
    lab.discover(*kept)
    for fate, outcomes in FATES.items():
        for name in (name for name in fates if fates[name] == fate):
            lab.saw(name, *outcomes)
        if fate == "trial":
            lab.run(10)
    on_trial = {name for name in fates if fates[name] == "trial"}
    for name in on_trial:
        assert lab.pick(*fates.keys() - {name}) == name
    return lab, on_trial


class TestDiscovery:
    def test_new_endpoints_are_reported_and_used(self):
        lab = Lab("mq1", "mq2")
        assert [facts["endpoint"] for facts in lab.events("endpoint_added")] == ["mq1", "mq2"]
        assert lab.picks() == {"mq1", "mq2"}

    def test_the_same_answer_again_says_nothing(self):
        lab = Lab("mq1", "mq2")
        lab.said.clear()
        assert lab.discover("mq1", "mq2").said == []

    def test_an_empty_answer_changes_nothing(self):
        lab = Lab("mq1", "mq2").discover()
        assert lab.states() == {"mq1": "up", "mq2": "up"}

    def test_a_change_is_reported_with_what_changed_and_keeps_health_and_sessions(self):
        lab = Lab("mq1", "mq2").attach("mq1").saw("mq1", "lost")
        lab.discover(endpoint("mq1", weight=5, zone="b"), "mq2")
        assert lab.events("endpoint_changed")[0]["changed"] == ["weight", "zone"]
        view = lab.view("mq1")
        assert (view.state, view.weight, view.zone, view.sessions) == ("suspect", 5, "b", 1)

    @pytest.mark.parametrize("change", [{"host": "127.0.0.2"}, {"port": 5673}, {"tls": True}])
    def test_another_address_is_another_process_so_its_health_starts_anew(self, change):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close").discover(endpoint("mq1", **change), "mq2")
        assert lab.states()["mq1"] == "up"
        assert lab.pool.degraded(lab.now)

    def test_the_result_of_a_probe_of_the_old_address_is_dropped(self):
        lab = Lab("mq1", "mq2", health={"fall": 1})
        lab.now = 2.0
        old = next(probe for probe in lab.pool.probes_due(lab.now) if probe.endpoint.name == "mq1")
        lab.discover(endpoint("mq1", port=5673), "mq2")
        lab.pool.probed(old, False, lab.now, "refused")
        assert lab.states()["mq1"] == "up"

    def test_an_endpoint_that_drains_gets_no_new_sessions_and_keeps_its_own(self):
        lab = Lab("mq1", "mq2").attach("mq1").discover(endpoint("mq1", intent="drain"), "mq2")
        view = lab.view("mq1")
        assert (view.state, view.cause, view.sessions) == ("draining", "discovery asks to drain it", 1)
        assert lab.picks() == lab.picks("mq2") == {"mq2"}
        assert lab.downs == []

    def test_nothing_is_left_when_all_drain(self):
        assert Lab(endpoint("mq1", intent="drain"), endpoint("mq2", intent="drain")).pick() is None

    def test_an_endpoint_that_drains_no_more_starts_slowly(self):
        lab = Lab(endpoint("mq1", intent="drain"), "mq2")
        lab.now = 100.0
        lab.discover("mq1", "mq2")
        assert lab.states()["mq1"] == "up"
        assert lab.pool.degraded(129.0)
        assert not lab.pool.degraded(130.0)


class TestDiscoveryAndHealthDisagree:
    """Envoy's matrix: the two cases of a well endpoint are in and gone, and so are those of a dead one."""

    def test_gone_but_well_keeps_its_sessions_and_gets_no_new_ones(self):
        lab = Lab("mq1", "mq2").attach("mq1", 2).discover("mq2")
        view = lab.view("mq1")
        assert (view.state, view.cause, view.in_discovery, view.sessions) == (
            "draining",
            "removed from discovery",
            False,
            2,
        )
        assert lab.picks() == {"mq2"}
        assert lab.run(600).states()["mq1"] == "draining"
        assert lab.downs == []

    def test_gone_and_without_sessions_is_forgotten(self):
        lab = Lab("mq1", "mq2").discover("mq2")
        assert lab.states() == {"mq2": "up"}
        assert lab.events("endpoint_removed") == [{"endpoint": "mq1", "reason": "removed from discovery"}]

    def test_gone_is_forgotten_when_its_last_session_leaves(self):
        lab = Lab("mq1", "mq2").attach("mq1", 2).discover("mq2")
        lab.pool.detached("mq1")
        assert "mq1" in lab.states()
        lab.pool.detached("mq1")
        assert "mq1" not in lab.states()

    def test_gone_is_kept_while_a_session_attaches_to_it(self):
        lab = Lab("mq1", "mq2")
        lab.pool.attaching("mq1")
        assert "mq1" in lab.discover("mq2").states()
        lab.pool.attach_ended("mq1")
        assert "mq1" not in lab.states()

    def test_gone_and_then_dead_is_forgotten_and_its_sessions_fail_over(self):
        lab = Lab("mq1", "mq2").attach("mq1").discover("mq2").saw("mq1", "heartbeat_missed")
        assert "mq1" not in lab.states()
        assert [name for name, _ in lab.downs] == ["mq1"]

    def test_dead_and_then_gone_is_forgotten_and_its_sessions_fail_over_once(self):
        lab = Lab("mq1", "mq2").attach("mq1").saw("mq1", "lost").run(1, dead={"mq1"})
        assert lab.downs == [("mq1", "refused")]
        lab.discover("mq2")
        assert "mq1" not in lab.states()
        assert lab.downs == [("mq1", "refused")]

    def test_in_discovery_but_dead_gets_no_sessions_and_is_not_forgotten(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close")
        assert lab.picks() == {"mq2"}
        assert lab.run(3600, dead={"mq1"}).states() == {"mq1": "down", "mq2": "up"}

    def test_back_in_discovery_is_used_again_and_still_knows_its_sessions(self):
        lab = Lab("mq1", "mq2").attach("mq1").discover("mq2").discover("mq1", "mq2")
        assert (lab.view("mq1").state, lab.view("mq1").sessions) == ("up", 1)
        assert lab.pick("mq2") == "mq1"

    def test_sessions_that_outlive_the_knowledge_of_their_endpoint_are_not_miscounted(self):
        lab = Lab("mq1", "mq2").attach("mq1").saw("mq1", "forced_close").discover("mq2").discover("mq1", "mq2")
        assert lab.view("mq1").sessions == 1
        lab.pool.detached("mq1")
        lab.pool.detached("mq1")
        assert lab.view("mq1").sessions == 0

    def test_a_dead_endpoint_that_drains_is_called_down(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close").discover(endpoint("mq1", intent="drain"), "mq2")
        assert lab.states()["mq1"] == "down"


class TestTiers:
    ENDPOINTS = (
        endpoint("near", zone="a"),
        endpoint("near2", zone="a"),
        endpoint("far", zone="b"),
        endpoint("reserve", zone="a", priority=1),
    )

    def test_the_own_zone_of_the_first_tier_goes_first(self):
        assert Lab(*self.ENDPOINTS, zone="a").picks() == {"near", "near2"}

    def test_without_a_zone_of_our_own_the_whole_tier_is_used(self):
        assert Lab(*self.ENDPOINTS).picks() == {"near", "near2", "far"}

    def test_a_zone_nobody_is_in_is_no_zone(self):
        assert Lab(*self.ENDPOINTS, zone="c").picks() == {"near", "near2", "far"}

    def test_the_tier_goes_on_in_other_zones_before_the_next_tier(self):
        lab = Lab(*self.ENDPOINTS, zone="a").saw("near", "forced_close").saw("near2", "forced_close")
        assert lab.picks() == {"far"}
        assert lab.saw("far", "forced_close").picks() == {"reserve"}

    def test_an_up_endpoint_of_a_later_tier_goes_before_a_suspect_of_the_first(self):
        lab = Lab(endpoint("first"), endpoint("second", priority=1)).saw("first", "lost")
        assert lab.picks() == {"second"}
        assert lab.saw("second", "lost").picks() == {"first"}

    def test_what_was_tried_is_tried_again_only_when_nothing_else_is_left(self):
        lab = Lab("mq1", "mq2", "mq3")
        assert lab.picks("mq1") == {"mq2", "mq3"}
        assert lab.saw("mq3", "lost").picks("mq1", "mq2") == {"mq3"}
        assert lab.picks("mq1", "mq2", "mq3") == {"mq1", "mq2"}
        assert lab.saw("mq2", "lost").picks("mq1", "mq2") == {"mq3"}

    def test_whatever_the_others_are_what_was_tried_waits_for_what_was_not(self):
        names = ("mq1", "mq2", "mq3")
        sets = [frozenset(tried) for count in range(4) for tried in combinations(names, count)]
        for kinds, avoid in product(product(FATES, repeat=3), sets):
            fates = dict(zip(names, kinds, strict=True))
            lab, on_trial = fated(fates)
            states = lab.states()
            offered = {name for name in names if fates[name] != "drain"}
            usable = {name for name in offered - on_trial if states[name] in ("up", "suspect")}
            choice = offered if lab.pool.panicking() else usable
            picked = lab.pick(*avoid)
            assert (picked is None) == (not choice), (fates, avoid)
            assert picked not in avoid or choice <= avoid, (fates, avoid)


class TestLoad:
    def offers(self, *endpoints, **policy):
        recorder = Recorder()
        pool = Pool(PoolPolicy(**policy), HealthPolicy(), recorder, Random(1), lambda report: None)
        pool.apply(Snapshot(endpoints), 0.0)
        return pool, recorder

    def test_the_balancer_sees_sessions_attachments_times_and_the_client(self):
        pool, recorder = self.offers(endpoint("mq1"), endpoint("mq2", weight=50))
        pool.attached("mq1")
        pool.attaching("mq1")
        pool.observe("mq2", "connected", 0.0, 0.25)
        pool.observe("mq2", "handshaken", 0.0, 0.5)
        context = PickContext("v", "u", "n")
        pool.pick(0.0, context)
        assert recorder.offers == [([Candidate("mq1", 100, 2, None), Candidate("mq2", 50, 0, 0.75)], context, 0.0)]

    def test_a_returning_endpoint_ramps_up_and_others_do_not(self):
        pool, recorder = self.offers(endpoint("mq1"), endpoint("mq2"), slow_start_s=30)
        pool.observe("mq1", "forced_close", 0.0)
        pool.observe("mq1", "handshaken", 100.0)
        for now in (100.0, 115.0, 130.0):
            pool.pick(now, PickContext())
        assert [[each.weight for each in offer] for offer, _, _ in recorder.offers] == [
            [10, 100],
            [50, 100],
            [100, 100],
        ]

    def test_an_endpoint_that_discovery_adds_later_ramps_up_too(self):
        pool, recorder = self.offers(endpoint("mq1"))
        pool.apply(Snapshot((endpoint("mq1"), endpoint("mq2"))), 50.0)
        pool.pick(50.0, PickContext())
        assert [each.weight for each in recorder.offers[0][0]] == [100, 10]

    def test_without_slow_start_the_weight_is_full_at_once(self):
        pool, recorder = self.offers(endpoint("mq1"), slow_start_s=0)
        pool.observe("mq1", "forced_close", 0.0)
        pool.observe("mq1", "handshaken", 1.0)
        pool.pick(1.0, PickContext())
        assert recorder.offers[0][0][0].weight == 100

    def test_a_weight_of_nothing_is_still_above_zero(self):
        pool, recorder = self.offers(endpoint("mq1", weight=0))
        pool.pick(0.0, PickContext())
        assert recorder.offers[0][0][0].weight > 0

    def test_what_is_told_of_unknown_endpoints_is_ignored(self):
        lab = Lab("mq1").saw("mq9", "lost", "connected")
        lab.pool.detached("mq9")
        lab.pool.attach_ended("mq9")
        assert lab.states() == {"mq1": "up"}


class TestPanic:
    def test_health_is_ignored_while_too_few_are_well(self):
        lab = Lab("mq1", "mq2", "mq3", panic_threshold_percent=50)
        lab.saw("mq1", "forced_close")
        assert lab.picks() == {"mq2", "mq3"}
        lab.saw("mq2", "forced_close")
        assert lab.picks() == {"mq1", "mq2", "mq3"}

    def test_is_reported_once_when_it_begins_and_once_when_it_ends(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close").saw("mq2", "forced_close")
        lab.picks()
        assert lab.events("pool_panic") == [{"active": True, "well": 0, "known": 2}]
        lab.saw("mq1", "handshaken").picks()
        assert lab.events("pool_panic")[1:] == [{"active": False, "well": 1, "known": 2}]

    def test_never_reaches_draining_endpoints(self):
        lab = Lab(endpoint("mq1", intent="drain"), "mq2", "mq3")
        assert lab.saw("mq2", "forced_close").saw("mq3", "forced_close").picks() == {"mq2", "mq3"}

    def test_counts_only_endpoints_that_may_get_sessions(self):
        lab = Lab(*(endpoint(f"mq{n}", intent="drain") for n in range(9)), "mq9", panic_threshold_percent=50)
        assert not lab.pool.panicking()

    def test_goes_on_with_what_was_not_tried_yet(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close").saw("mq2", "forced_close")
        assert lab.picks("mq1") == {"mq2"}
        assert lab.picks("mq1", "mq2") == {"mq1", "mq2"}

    def test_does_not_feign_health(self):
        lab = Lab("mq1").saw("mq1", "forced_close")
        assert lab.pick() == "mq1"
        assert lab.pool.usable(lab.now) == 0

    def test_can_be_switched_off(self):
        lab = Lab("mq1", panic_threshold_percent=0).saw("mq1", "forced_close")
        assert lab.pick() is None


class TestUsable:
    def test_is_only_what_a_probe_or_a_session_has_reached(self):
        lab = Lab("mq1", "mq2", "mq3")
        assert (lab.pool.usable(lab.now), lab.picks()) == (0, {"mq1", "mq2", "mq3"})
        assert lab.view("mq1").cause == "no probe or session has reached it yet"
        lab.saw("mq1", "connected").saw("mq2", "handshaken").saw("mq3", "connect_failed")
        assert lab.pool.usable(lab.now) == 2
        assert [lab.view(name).cause for name in ("mq1", "mq2")] == ["", ""]
        assert lab.run(0).pool.usable(lab.now) == 3

    def test_is_nothing_while_all_are_dead_from_the_start(self):
        lab = Lab("mq1", "mq2")
        while set(lab.states().values()) != {"down"}:
            assert lab.run(0.1, dead={"mq1", "mq2"}).pool.usable(lab.now) == 0

    def test_is_looked_for_at_once_when_the_process_starts_and_a_little_later_afterwards(self):
        lab = Lab("mq1", "mq2")
        assert [probe.endpoint.name for probe in lab.pool.probes_due(0.0)] == ["mq1", "mq2"]
        lab.discover("mq1", "mq2", *(f"mq{n}" for n in range(3, 20)))
        assert 0 < lab.pool.next_probe_at(0.0) < lab.health_policy.down_interval_s

    def test_starts_anew_with_another_address(self):
        lab = Lab("mq1").run(0).discover(endpoint("mq1", port=5673))
        assert lab.pool.usable(lab.now) == 0
        assert lab.run(1).pool.usable(lab.now) == 1


class TestEjection:
    def test_does_not_follow_a_success(self):
        lab = Lab("mq1", "mq2", health={"fall": 1, "eject_max_percent": 100}).saw("mq1", "forced_close")
        lab.saw("mq1", "handshake_failed", "handshaken")
        assert lab.states()["mq1"] == "up"

    def fail(self, lab, *names):
        for name in names:
            lab.saw(name, "failover_failed", "failover_failed", "failover_failed")
        return lab

    def test_takes_an_endpoint_out_for_a_while(self):
        lab = self.fail(Lab("mq1", "mq2", "mq3"), "mq1")
        assert lab.states()["mq1"] == "ejected"
        assert lab.picks() == {"mq2", "mq3"}
        assert lab.view("mq1").ejections == 1
        lab.now = 5.0
        assert lab.states()["mq1"] == "up"

    def test_takes_no_more_than_the_permitted_share(self):
        lab = self.fail(Lab(*(f"mq{n}" for n in range(4)), health={"eject_max_percent": 50}), "mq0", "mq1", "mq2")
        assert list(lab.states().values()) == ["ejected", "ejected", "suspect", "up"]

    def test_never_takes_the_last_one(self):
        lab = self.fail(Lab("mq1", health={"eject_max_percent": 100}), "mq1")
        assert lab.states() == {"mq1": "suspect"}

    def test_never_takes_the_last_well_one(self):
        lab = Lab("mq1", "mq2", health={"eject_max_percent": 100}).saw("mq2", "forced_close")
        assert self.fail(lab, "mq1").states()["mq1"] == "suspect"

    def test_ends_when_no_other_is_left(self):
        lab = self.fail(Lab("mq1", "mq2"), "mq1").saw("mq2", "forced_close")
        assert lab.states() == {"mq1": "up", "mq2": "down"}

    def test_ends_for_the_oldest_when_discovery_leaves_too_few(self):
        lab = self.fail(Lab(*(f"mq{n}" for n in range(4))), "mq0")
        lab.now = 1.0
        self.fail(lab, "mq1").discover("mq0", "mq1", "mq2")
        assert lab.states() == {"mq0": "up", "mq1": "ejected", "mq2": "up"}


def test_everything_is_probed_at_once_when_a_session_has_doubts():
    lab = Lab("mq1", "mq2").run(30)
    assert lab.pool.next_probe_at(lab.now) > lab.now
    lab.pool.look_around(lab.now)
    assert {probe.endpoint.name for probe in lab.pool.probes_due(lab.now)} == {"mq1", "mq2"}
    lab.pool.look_around(lab.now)
    assert lab.pool.probes_due(lab.now) == []  # one at a time for each


class TestTellingTheDriver:
    def test_a_death_that_a_probe_confirms_is_told_once(self):
        lab = Lab("mq1", "mq2").attach("mq1").saw("mq1", "lost").run(60, dead={"mq1"})
        assert lab.downs == [("mq1", "refused")]

    def test_each_death_is_told(self):
        lab = Lab("mq1", "mq2", health=LOGIN).run(60, dead={"mq1"}).run(60).run(60, dead={"mq1"})
        assert lab.downs == [("mq1", "refused")] * 2

    def test_what_one_session_saw_is_not_told_the_others(self):
        lab = Lab("mq1", "mq2", health=LOGIN).attach("mq1", 2).saw("mq1", "forced_close").run(60)
        assert lab.downs == []
        assert lab.states()["mq1"] == "up"

    def test_a_silent_endpoint_is_told_when_it_does_not_answer_a_handshake_either(self):
        lab = Lab("mq1", "mq2", health=LOGIN).saw("mq1", "heartbeat_missed")
        while not lab.downs:
            lab.now = lab.pool.next_probe_at(lab.now)
            for probe in lab.pool.probes_due(lab.now):
                hung = probe.endpoint.name == "mq1" and probe.kind == "handshake"
                lab.pool.probed(probe, not hung, lab.now, "no answer")
        assert lab.downs == [("mq1", "no answer")]

    def test_the_driver_may_pick_while_it_is_told(self):
        lab = Lab("mq1", "mq2")
        found = []
        lab.pool.on_down(lambda name, cause: found.append(lab.pick(name)))
        lab.saw("mq1", "lost").run(1, dead={"mq1"})
        assert found == ["mq2"]

    def test_states_are_reported_as_they_change(self):
        lab = Lab("mq1", "mq2").saw("mq1", "lost").run(1, dead={"mq1"}).saw("mq1", "handshaken")
        assert [(facts["was"], facts["state"]) for facts in lab.events("endpoint_state")] == [
            ("up", "suspect"),
            ("suspect", "down"),
            ("down", "up"),
        ]


class TestDegraded:
    def test_is_not_so_at_the_start(self):
        assert not Lab("mq1", "mq2").pool.degraded(0.0)

    @pytest.mark.parametrize("outcome", ["lost", "forced_close"])
    def test_is_so_while_an_endpoint_is_not_up(self, outcome):
        lab = Lab("mq1", "mq2").saw("mq1", outcome)
        assert lab.pool.degraded(lab.now)

    def test_goes_on_for_a_while_after_its_return(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close", "handshaken")
        assert lab.pool.degraded(29.0)
        assert not lab.pool.degraded(30.0)

    def test_is_over_a_while_after_the_return_though_no_session_has_tried_it(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close").run(5)
        back_s = lab.now - lab.view("mq1").since_s
        assert lab.view("mq1").cause == "back, and on probation until a session has tried it"
        assert lab.pool.degraded(back_s + 29.9)
        assert not lab.pool.degraded(back_s + 30.0)

    def test_is_so_while_one_drains(self):
        assert Lab(endpoint("mq1", intent="drain"), "mq2").pool.degraded(0.0)


class TestProbes:
    def test_each_endpoint_has_one_under_way_at_most(self):
        lab = Lab("mq1", "mq2")
        lab.now = 2.0
        assert len(lab.pool.probes_due(lab.now)) == 2
        lab.saw("mq1", "forced_close")
        lab.now = 60.0
        assert lab.pool.probes_due(lab.now) == []
        assert lab.pool.next_probe_at(lab.now) is None

    def test_the_same_result_counts_once(self):
        lab = Lab("mq1", "mq2")
        lab.now = 2.0
        probe = lab.pool.probes_due(lab.now)[0]
        lab.pool.probed(probe, True, lab.now)
        lab.pool.probed(probe, True, lab.now)
        assert lab.view(probe.endpoint.name).probes_ok == 1

    def test_results_are_counted_but_for_those_that_say_nothing(self):
        lab = Lab("mq1", health=LOGIN).run(25)
        view = lab.view("mq1")
        assert (view.probes_ok, view.probes_failed) == (3, 0)
        lab.now = 60.0
        lab.pool.probed(lab.pool.probes_due(lab.now)[0], None, lab.now, "403")
        assert (lab.view("mq1").probes_ok, lab.view("mq1").probes_failed) == (3, 0)

    def test_whoever_makes_them_is_woken_when_one_becomes_due_earlier(self):
        lab = Lab("mq1", "mq2").run(5)
        woken = []
        lab.pool.on_due(lambda: woken.append(lab.pool.next_probe_at(lab.now)))
        lab.saw("mq1", "confirmed", "connected", "handshaken")
        assert woken == []
        lab.saw("mq1", "lost")
        assert woken == [lab.now]

    def test_on_probation_one_session_at_a_time_is_let_through(self):
        lab = Lab("mq1", "mq2").saw("mq1", "forced_close").run(5)
        assert lab.states()["mq1"] == "suspect"
        assert [lab.pick("mq2") for _ in range(2)] == ["mq1", "mq2"]
        assert lab.saw("mq1", "handshaken").states()["mq1"] == "up"

    def test_nothing_is_due_without_endpoints(self):
        lab = Lab()
        assert lab.pool.next_probe_at(0.0) is None
        assert lab.pool.probes_due(0.0) == []
        assert lab.pick() is None
        assert not lab.pool.panicking()


@pytest.mark.parametrize("policy", [{"panic_threshold_percent": 101}, {"slow_start_s": -1}])
def test_nonsense_is_refused_naming_the_key(policy):
    with pytest.raises(ConfigError, match=next(iter(policy))):
        PoolPolicy(**policy)
