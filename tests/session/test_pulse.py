"""Whose silence means something: not that of a peer that is not read, nor for long that of a client that waits."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.restarts import Restarts
from tests.support.engine import (
    After,
    BrokerLost,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Reported,
    consuming,
    running,
    with_channel,
)
from tests.support.engine_frames import HEARTBEAT, ack, declare, get_empty, nack, on, publish


def reports_of_an_hour(story) -> list[str]:
    story = story >> After(3600)
    return [report.event for report in story.reports]


def test_a_broker_that_is_not_read_for_the_client_s_sake_is_not_missed() -> None:
    story = running(heartbeat_s=5)
    story.session.pulse.unread(False, True, story.now)
    assert reports_of_an_hour(story) == []

    story.session.pulse.unread(False, False, story.now)
    story = story >> After(9.9) >> FromBroker(HEARTBEAT) >> After(9.9)
    assert story.reports == []
    (story >> After(0.2) << Reported("failover_started", {"reason": "missed heartbeats"})).forget()


def test_a_client_that_is_not_read_for_the_broker_s_sake_is_not_missed() -> None:
    story = running(heartbeat_s=3600, beat_s=10)
    story.session.pulse.unread(True, False, story.now)
    assert reports_of_an_hour(story) == []

    story.session.pulse.unread(False, False, story.now)
    story = story >> After(19.9)
    assert story.session.ending.client_here
    assert not (story >> After(0.2)).forget().session.ending.client_here


def test_a_client_that_left_while_it_is_not_read_is_given_up_in_time() -> None:
    story = with_channel(heartbeat_s=3600, beat_s=0)
    pulse = story.session.pulse
    pulse.unread(True, False, story.now)
    assert story.session.deadline() <= story.now + 2.0  # nothing but a look shows it
    pulse.unread(True, False, story.now, left=True)
    assert not gone(story, 59.9)
    assert gone(story, 0.2)
    assert story.session.ending.reason == "client_gone"


def test_a_client_that_left_is_read_to_its_last_word_when_that_becomes_possible() -> None:
    story = with_channel(heartbeat_s=3600, beat_s=0)
    pulse = story.session.pulse
    pulse.unread(True, False, story.now, left=True)
    assert not gone(story, 30.0)
    pulse.unread(False, False, story.now)
    assert not gone(story, 3600.0)


def gone(story, wait_s: float) -> bool:
    return not (story >> After(wait_s)).forget().session.ending.client_here


@pytest.mark.parametrize("said", [on(1, m.BasicGet(0, b"q", False)), publish(1)])
def test_a_client_that_waits_for_an_answer_may_be_silent_for_as_long_as_that_may_take(said: bytes) -> None:
    story = (with_channel(heartbeat_s=3600, beat_s=10) >> FromClient(said)).forget()
    assert not gone(story, 79.9)
    assert gone(story, 0.2)


def test_but_not_beyond_its_answer() -> None:
    story = (with_channel(heartbeat_s=3600, beat_s=10) >> FromClient(on(1, m.BasicGet(0, b"q", False)))).forget()
    assert not gone(story, 30.0)
    story = (story >> FromBroker(get_empty(1))).forget()
    assert not gone(story >> FromClient(HEARTBEAT), 19.9)
    assert gone(story, 0.2)


def test_a_beat_of_a_session_at_rest_looks_at_nothing_else(monkeypatch) -> None:
    story = with_channel(heartbeat_s=5, beat_s=10)
    looked = []
    monkeypatch.setattr(Restarts, "due", lambda _: looked.append(story.now) or [])
    for _ in range(30):
        story = (story >> FromBroker(HEARTBEAT) >> FromClient(HEARTBEAT) >> After(2.0)).forget()
    assert story.session.quiet
    assert len(looked) < 3


def test_nor_is_an_answer_of_a_broker_that_is_not_read_missed() -> None:
    story = (with_channel(heartbeat_s=600.0) >> FailOver()).forget()
    story.session.pulse.unread(False, True, story.now)
    assert reports_of_an_hour(story) == []

    story.session.pulse.unread(False, False, story.now)
    story = story >> After(story.session.journal.policy.handshake_timeout_s - 0.1)
    assert story.reports == []
    (story >> After(0.2) << Reported("channel_restarted", {"reason": "replay not answered"})).forget()


def test_its_time_begins_when_it_is_read_again_though_nothing_else_is_under_way() -> None:
    story = (consuming(heartbeat_s=600.0) >> FromClient(publish(1))).forget()
    story.troubled = True
    story = (story >> FromBroker(nack(1, 1))).forget() >> FromBroker(on(1, m.ChannelCloseOk()))
    story.troubled = False
    story = (story >> After(0.2)).forget() >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1))
    assert story.session.quiet  # one replay is open
    story.session.pulse.unread(False, True, story.now)
    story = story >> After(100.0)
    assert story.reports == []
    story.session.pulse.unread(False, False, story.now)
    (story >> After(20.0) << Reported("channel_restarted", {"reason": "replay not answered"})).forget()


def test_a_broker_that_hangs_while_it_is_attached_is_missed_though_the_client_does_not_read() -> None:
    story = (with_channel(heartbeat_s=5.0) >> FromClient(declare(1))).forget()
    story = (story >> FromBroker(on(1, m.QueueDeclareOk(b"x", 0, 0)))).forget()
    story.session.pulse.unread(False, True, story.now)
    story = (story >> FailOver()).forget() >> After(11.0)
    assert [report.event for report in story.reports] == ["failover_attempt_failed"]
    story.forget()


def test_a_client_that_had_to_wait_for_a_broker_gets_its_time_from_then_on() -> None:
    story = (with_channel(heartbeat_s=3600, beat_s=10) >> BrokerLost()).forget()
    assert not gone(story, 19.9)
    story = (story >> Handshaken("rabbit2:5672")).forget() >> FromBroker(on(1, m.ChannelOpenOk()))
    assert not gone(story, 19.9)
    assert gone(story, 0.2)
