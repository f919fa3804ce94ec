"""A peer that the shell does not read, because the other one is slow, is not taken for silent."""

from __future__ import annotations

from tests.support.engine import After, FromBroker, Reported, running
from tests.support.engine_frames import HEARTBEAT


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
