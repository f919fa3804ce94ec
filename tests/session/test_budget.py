"""A session that may keep no more than its share of a process that is short of memory."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.amqp.frames import BODY, HEADER, frame
from proxy.session.commands import CloseClient, ReadClient
from proxy.session.description import describe
from tests.support.engine import BrokerLost, FromBroker, FromClient, Sees, Story, ToBroker, ToClient, confirming
from tests.support.engine_frames import CLASS_BASIC, ack, frames_of, on, publish


def pressed(story: Story, share_bytes: int | None) -> Story:
    story.session.press(share_bytes, story.now)
    story._take()
    return story


def keeping(size: int = 10_000, **policy) -> Story:
    """It keeps one publish, well below its own limit."""
    words = publish(1, bytes(size), mandatory=True)
    return confirming(**policy) >> FromClient(words) << ToBroker(words)


def test_more_than_the_share_waits_until_half_of_it_is_free():
    story = pressed(keeping(), 12_000)
    story = pressed(story, 9_000) << ReadClient(False) << Sees("why", lambda s: "retained" in describe(s)["waiting"])
    story = pressed(story, 11_000)
    (story >> FromBroker(ack(1, 1)) << ToClient(ack(1, 1)) << ReadClient(True)).done()


def test_what_waits_for_a_broker_counts_against_the_share():
    story = (keeping() >> BrokerLost()).forget() >> FromClient(publish(1, bytes(500)))
    story = pressed(story, 11_000) << Sees("nothing", lambda s: s.pulse.reading)
    (pressed(story, 400) << ReadClient(False)).done()


def test_a_client_of_which_nothing_is_kept_may_go_on_whatever_the_share():
    story = pressed(confirming(), 0)
    (pressed(story, None) << Sees("no wait", lambda s: not describe(s)["waiting"])).done()


def half(story: Story) -> Story:
    method = frames_of(publish(1, b"", mandatory=True))[0]
    half = method + frame(HEADER, 1, CLASS_BASIC.pack(60, 0, 20_000, 0)) + frame(BODY, 1, bytes(10_000))
    return story >> FromClient(half) << ToBroker(half)


def test_half_a_publish_may_end_unless_there_is_nothing_left_at_all():
    story = pressed(half(confirming()), 1000)
    story = pressed(story, 0) << ReadClient(False)
    (pressed(story, 1000) << ReadClient(True)).done()


def test_half_a_publish_that_has_to_go_is_the_end_of_its_client():
    story = half(confirming())
    story.session.overdraw("all is full", story.now)
    story._take()
    story.forget()
    assert story.session.journal.load.unsettled_bytes == 0
    (story >> FromClient(on(0, m.ConnectionCloseOk())) << CloseClient()).done()
