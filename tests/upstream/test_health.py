"""The health machine of one endpoint, transition by transition."""

from __future__ import annotations

from random import Random

import pytest

from proxy.errors import ConfigError
from proxy.upstream.health import Health, HealthPolicy

LOGIN = {"user": "sidehop", "password": "secret"}


class Patient:
    """A health machine with a clock that the test moves. No jitter: due times are exact."""

    def __init__(self, **policy) -> None:
        self.now = 0.0
        self.policy = HealthPolicy(**{"jitter_percent": 0, **policy})
        self.health = Health(self.policy, Random(1), 0.0, returned=False)

    def after(self, seconds):
        self.now += seconds
        self.health.refresh(self.now)
        return self

    def saw(self, *outcomes):
        for outcome in outcomes:
            self.health.observe(outcome, self.now)
        return self

    def probe(self, *results):
        """Make the probes that are due next, one after the other."""
        for ok in results:
            self.after(max(0.0, self.health.next_probe_at_s - self.now))
            self.health.probed(self.health.probe_kind, self.health.turn, ok, self.now, "refused")
        return self

    def ejected(self):
        self.saw("failover_failed", "failover_failed", "failover_failed")
        assert self.health.ejectable
        self.health.eject(self.now)
        return self

    @property
    def state(self):
        return self.health.state

    @property
    def on_probation(self):
        return self.state == "suspect" and not self.health.reserve

    @property
    def next_probe(self):
        return self.health.probe_kind, self.health.next_probe_at_s - self.now


class TestGettingWorse:
    @pytest.mark.parametrize("outcome", ["connect_failed", "handshake_failed", "lost", "failover_failed"])
    def test_one_soft_failure_makes_it_suspect(self, outcome):
        assert Patient().saw(outcome).state == "suspect"

    @pytest.mark.parametrize("outcome", ["heartbeat_missed", "forced_close"])
    def test_one_hard_signal_puts_it_down(self, outcome):
        assert Patient().saw(outcome).state == "down"

    @pytest.mark.parametrize("outcome", ["connect_failed", "handshake_failed", "lost"])
    def test_three_soft_failures_in_a_row_put_it_down(self, outcome):
        patient = Patient().saw(outcome, outcome)
        assert patient.state == "suspect"
        assert patient.saw(outcome).state == "down"

    @pytest.mark.parametrize("success", ["handshaken", "confirmed"])
    def test_a_success_in_between_starts_the_count_again(self, success):
        patient = Patient().saw("connect_failed", "connect_failed", success, "connect_failed", "connect_failed")
        assert patient.state == "suspect"

    def test_a_loss_and_then_a_refused_connection_put_it_down_at_once(self):
        assert Patient().saw("lost", "connect_failed").state == "down"

    def test_a_loss_and_then_a_refused_probe_put_it_down_at_once(self):
        patient = Patient().saw("lost").probe(False)
        assert (patient.state, patient.health.dead, patient.health.cause) == ("down", True, "refused")

    def test_failing_probes_alone_make_it_suspect_and_then_put_it_down(self):
        patient = Patient()
        assert [patient.probe(False).state for _ in range(3)] == ["suspect", "suspect", "down"]
        assert patient.health.dead

    def test_what_sessions_saw_is_not_a_confirmed_death_until_a_probe_fails_too(self):
        patient = Patient().saw("heartbeat_missed")
        assert not patient.health.dead
        assert patient.probe(False).health.dead

    def test_a_suspect_is_probed_at_once(self):
        assert Patient().after(5).saw("lost").next_probe == ("connect", 0)

    def test_a_probe_from_before_says_nothing_about_now(self):
        patient = Patient()
        turn = patient.health.turn
        patient.saw("heartbeat_missed")
        due_s = patient.health.next_probe_at_s
        for _ in range(5):
            patient.health.probed("handshake", turn, True, patient.now, "")
        assert (patient.state, patient.health.next_probe_at_s) == ("down", due_s)


class TestSuspicion:
    def test_ends_when_rise_probes_pass(self):
        patient = Patient().saw("lost").probe(True)
        assert patient.state == "suspect"
        assert patient.probe(True).state == "up"

    def test_ends_with_a_sessions_handshake(self):
        assert Patient().saw("connect_failed", "handshaken").state == "up"

    def test_needs_no_slow_start_afterwards(self):
        assert Patient().saw("lost").probe(True, True).health.returned_at_s is None

    def test_of_silence_needs_an_answer(self):
        assert Patient().saw("handshake_failed").next_probe[0] == "greeting"
        assert Patient(**LOGIN).saw("handshake_failed").next_probe[0] == "handshake"

    @pytest.mark.parametrize("login", [{}, LOGIN])
    def test_of_silence_ends_with_one_answer(self, login):
        assert Patient(**login).saw("handshake_failed").probe(True).state == "up"

    def test_of_silence_is_not_cleared_by_a_refused_login_but_by_a_greeting_then(self):
        patient = Patient(**LOGIN).saw("handshake_failed").probe(None)
        assert (patient.state, patient.next_probe[0]) == ("suspect", "greeting")
        assert patient.probe(True).state == "up"


class TestTheWayBack:
    def test_goes_through_a_handshake_when_there_is_a_login(self):
        patient = Patient(**LOGIN).saw("forced_close").probe(True, True)
        assert patient.state == "down"
        assert patient.next_probe == ("handshake", 0)
        assert patient.probe(True).state == "up"
        assert patient.health.returned_at_s == patient.now

    def test_starts_again_when_the_handshake_fails(self):
        patient = Patient(**LOGIN).saw("heartbeat_missed").probe(True, True, False)
        assert (patient.state, patient.next_probe[0]) == ("down", "connect")
        assert patient.health.dead

    def test_without_a_login_ends_in_probation(self):
        assert Patient().saw("forced_close").probe(True, True).on_probation

    def test_without_a_login_and_after_silence_needs_a_greeting_before_probation(self):
        patient = Patient().saw("heartbeat_missed").probe(True, True)
        assert (patient.state, patient.next_probe) == ("down", ("greeting", 0))
        assert patient.probe(True).on_probation

    def test_with_a_login_that_is_refused_is_as_without_one(self):
        patient = Patient(**LOGIN).saw("forced_close").probe(True, True, None)
        assert (patient.state, patient.next_probe[0]) == ("down", "greeting")
        assert patient.probe(True).on_probation

    def test_tries_the_login_again_after_the_next_outage(self):
        patient = Patient(**LOGIN).saw("forced_close").probe(True, True, None, True).saw("handshaken", "forced_close")
        assert patient.probe(True, True).next_probe[0] == "handshake"

    def test_is_cut_short_by_a_sessions_handshake(self):
        patient = Patient().saw("heartbeat_missed").after(3).saw("handshaken")
        assert (patient.state, patient.health.returned_at_s) == ("up", 3)

    def test_is_probed_ever_less_often_up_to_the_cap(self):
        patient = Patient().saw("forced_close")
        gaps_s = [patient.probe(False).next_probe[1] for _ in range(20)]
        assert gaps_s[0] == pytest.approx(1.2)
        assert gaps_s == pytest.approx(sorted(gaps_s))
        assert gaps_s[-1] == pytest.approx(5.0)

    def test_is_probed_often_again_once_it_answers(self):
        patient = Patient(rise=3).saw("forced_close").probe(*[False] * 20, True)
        assert patient.next_probe == ("connect", 1.0)

    def test_starts_again_when_a_session_fails_on_it_meanwhile(self):
        patient = Patient(**LOGIN).saw("forced_close").probe(True).saw("connect_failed").probe(True)
        assert patient.next_probe[0] == "connect"

    def test_of_a_silent_one_is_not_hurried_by_bare_connections_that_pass(self):
        patient = Patient(**LOGIN).saw("heartbeat_missed")
        for _ in range(20):
            patient.probe(True, True, False)
        assert patient.next_probe == ("connect", 5.0)
        assert patient.probe(True).next_probe == ("connect", 5.0)


class TestProbation:
    @pytest.fixture
    def patient(self):
        return Patient().saw("forced_close").probe(True, True)

    def test_lets_one_session_at_a_time_try(self, patient):
        assert patient.health.preferred(patient.now)
        patient.health.picked(patient.now)
        assert not patient.health.preferred(patient.now)

    def test_ends_well_with_that_sessions_handshake(self, patient):
        patient.health.picked(patient.now)
        patient.saw("connected")
        assert patient.on_probation
        assert patient.saw("handshaken").state == "up"

    @pytest.mark.parametrize("failure", ["connect_failed", "handshake_failed", "lost", "heartbeat_missed"])
    def test_ends_badly_with_the_first_failure(self, patient, failure):
        assert patient.saw(failure).state == "down"

    def test_ends_badly_with_a_failed_probe(self, patient):
        assert patient.probe(False).state == "down"

    def test_lets_the_next_session_try_when_the_first_vanished_without_a_word(self, patient):
        patient.health.picked(patient.now)
        assert patient.after(15).health.preferred(patient.now)

    def test_lasts_until_a_session_comes_however_many_probes_pass(self, patient):
        for _ in range(100):
            assert patient.next_probe[0] == "connect"
            assert patient.probe(True).on_probation
        assert patient.saw("handshaken").state == "up"
        assert patient.health.returned_at_s == patient.now


class TestEjection:
    @pytest.mark.parametrize("between", [(), ("connected", "handshaken"), ("confirmed",)])
    def test_is_asked_for_after_three_failed_attachments_whatever_the_handshakes_say(self, between):
        patient = Patient().saw("failover_failed", *between, "failover_failed", *between)
        assert not patient.health.ejectable
        assert patient.saw("failover_failed").health.ejectable
        assert patient.state == "suspect"

    def test_is_not_asked_for_when_an_attachment_succeeded_in_between(self):
        patient = Patient().saw("failover_failed", "failover_failed")
        patient.health.attached()
        assert not patient.saw("failover_failed").health.ejectable

    def test_lasts_twice_as_long_each_time_up_to_the_cap(self):
        patient = Patient(eject_base_s=5, eject_max_s=30)
        spans_s = []
        for _ in range(4):
            patient.ejected()
            began_s = patient.now
            while patient.state == "ejected":
                patient.after(1)
            spans_s.append(patient.now - began_s)
        assert spans_s == [5, 10, 20, 30]
        assert patient.health.ejections == 4

    def test_is_short_again_after_a_long_time_without(self):
        patient = Patient(eject_base_s=5, eject_max_s=30)
        patient.ejected().after(5).ejected().after(10)
        assert patient.state == "up"
        patient.after(31).ejected()
        assert patient.after(4).state == "ejected"
        assert patient.after(1).state == "up"

    def test_varies_but_never_beyond_the_cap(self):
        over_at_9_s = 0
        for seed in range(50):
            health = Health(HealthPolicy(eject_base_s=10, eject_max_s=10), Random(seed), 0.0, returned=False)
            health.eject(0.0)
            health.refresh(7.99)
            assert health.state == "ejected"
            health.refresh(9.0)
            over_at_9_s += health.state == "up"
            health.refresh(10.0)
            assert health.state == "up"
        assert 3 < over_at_9_s < 25

    def test_ends_early_with_a_handshake_probe(self):
        patient = Patient(**LOGIN, eject_base_s=100).ejected()
        assert patient.next_probe == ("handshake", 10)
        assert patient.probe(True).state == "up"
        assert patient.health.returned_at_s == patient.now

    def test_does_not_end_with_a_bare_connection(self):
        patient = Patient(eject_base_s=100).ejected()
        assert patient.next_probe == ("connect", 10)
        assert patient.probe(True, True, True).state == "ejected"

    def test_does_not_end_with_a_sessions_handshake_which_was_never_the_trouble(self):
        assert Patient().ejected().saw("handshaken").state == "ejected"

    def test_turns_into_down_when_probes_fail(self):
        assert Patient(eject_base_s=100).ejected().probe(False, False, False).state == "down"


class TestSchedule:
    def test_the_first_look_comes_soon(self):
        assert 0 <= Patient().next_probe[1] <= 1

    def test_a_well_endpoint_is_probed_rarely(self):
        assert Patient().probe(True).next_probe == ("connect", 10)

    def test_intervals_vary_by_the_jitter_and_no_more(self):
        patient = Patient(jitter_percent=20)
        gaps_s = [patient.probe(True).next_probe[1] for _ in range(200)]
        assert 8 <= min(gaps_s) < 8.5
        assert 11.5 < max(gaps_s) <= 12


@pytest.mark.parametrize(
    ("policy", "complaint"),
    [
        ({"rise": 0}, "rise and health.fall"),
        ({"fall": 0}, "rise and health.fall"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"interval_s": 0}, "interval_s"),
        ({"down_interval_s": 0}, "down_interval_s"),
        ({"down_interval_s": 6}, "at most health.down_interval_max_s"),
        ({"jitter_percent": 51}, "jitter_percent"),
        ({"eject_base_s": 0}, "eject_base_s"),
        ({"eject_max_percent": 101}, "eject_max_percent"),
        ({"password": "x"}, "password needs health.user"),
        ({"vhost": "v" * 256}, "vhost"),
        ({"http_port": 70000}, "http_port"),
        ({"http_port": 15672}, "http_port needs health.user"),
        ({"http_path": "api"}, "http_path must start with /"),
        ({"http_path": "/api/health/checks/local-alarms"}, "an alarm is no reason to leave"),
        ({"http_path": "/a b"}, "http_path must not contain"),
    ],
)
def test_nonsense_is_refused_naming_the_key(policy, complaint):
    with pytest.raises(ConfigError, match=complaint):
        HealthPolicy(**policy)


def test_the_policy_does_not_show_its_password():
    assert "secret" not in repr(HealthPolicy(**LOGIN))
