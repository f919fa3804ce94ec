"""Every state in which something waits tells why, since when, and until when at the latest."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.description import describe
from tests.session.test_cancellations import CANCEL, HOME_DOWN, refused
from tests.session.test_moving import leaving
from tests.session.test_prefetch import again, holding
from tests.session.test_restarts import restarting
from tests.session.test_unrouted import astray
from tests.support.engine import (
    After,
    BrokerLost,
    ClientGone,
    FromBroker,
    FromClient,
    Handshaken,
    ShutDown,
    Story,
    confirming,
    consuming,
    with_channel,
)
from tests.support.engine_frames import ack, bare, deliver, on, publish

BIG = publish(1, bytes(70_000))


def transactional() -> Story:
    story = (with_channel() >> FromClient(on(1, m.TxSelect()))).forget() >> FromBroker(on(1, m.TxSelectOk()))
    return story.forget()


def short_of_memory(share_bytes: int = 0) -> Story:
    story = confirming() >> FromClient(BIG)
    story.session.press(share_bytes, story.now)
    return story


def full(*, client: bool) -> Story:
    story = consuming()
    story.session.pulse.unread(client, not client, story.now)
    return story


# How it comes about, what is said, the channels, whether since when is known, and the longest it can last.
STATES = {
    "the client's handshake": (Story, "turn it is in the handshake", (), True, 10),
    "no broker": (lambda: consuming() >> BrokerLost(), "for a broker: reset by peer", (), True, 60),
    "a replay": (
        lambda: (consuming() >> BrokerLost()).forget() >> Handshaken(),
        "not answered the replay",
        (1,),
        True,
        60,
    ),
    "an answer": (
        lambda: (with_channel() >> FromClient(on(1, m.BasicGet(0, b"q", False)))).forget(),
        "has not answered what was asked",
        (1,),
        False,
        None,
    ),
    "a confirm": (
        lambda: (confirming() >> FromClient(publish(1))).forget(),
        "has not confirmed what was published",
        (1,),
        True,
        None,
    ),
    "a commit": (
        lambda: (transactional() >> FromClient(publish(1), bare(1, m.TX_COMMIT))).forget(),
        "waits for its answer",
        (1,),
        False,
        None,
    ),
    "a restart": (restarting, "are set up again", (1,), False, 60),
    "a move": (
        lambda: leaving((consuming() >> FromBroker(deliver(1, 1))).forget()),
        "move when the client has settled",
        (1,),
        False,
        30,
    ),
    "a queue out of reach": (
        lambda: (consuming() >> FromBroker(CANCEL)).forget() >> refused(404, HOME_DOWN),
        "within reach: q",
        (),
        True,
        3600,
    ),
    "no queue": (astray, "no queue takes 1 publishes", (), True, 60),
    "an alarm": (
        lambda: consuming() >> FromBroker(on(0, m.ConnectionBlocked(b"memory"))),
        "has an alarm",
        (),
        True,
        None,
    ),
    "the prefetch": (lambda: holding(1, 1) >> FromBroker(again(1)), "settles what it holds", (1,), True, 300),
    "a close": (
        lambda: with_channel() >> FromClient(publish(1), on(1, m.ChannelClose(200, b""))),
        "end or change their mode",
        (1,),
        True,
        15,
    ),
    "a flush": (
        lambda: (with_channel() >> FromClient(publish(1))).forget() >> ClientGone(),
        "before the end",
        (),
        False,
        15,
    ),
    "the last word": (lambda: with_channel() >> ShutDown(), "the last close-ok", (), False, 5),
    "its own memory": (
        lambda: confirming(unsettled_bytes_max=65536) >> FromClient(BIG),
        "memory that a session may use",
        (),
        True,
        None,
    ),
    "everybody's memory": (short_of_memory, "listen.retained_bytes_max", (), True, None),
    "a slow broker": (lambda: full(client=True), "until its broker takes", (), True, None),
    "a slow client": (lambda: full(client=False), "until its client takes", (), True, None),
}


@pytest.mark.parametrize("state", STATES)
def test_no_wait_is_silent(state):
    begin, reason, channels, known, limit_s = STATES[state]
    session = begin().forget().session
    now = session.journal.now
    [wait] = [each for each in describe(session, now + 1)["waits"] if reason in each.reason]
    assert wait.channels == channels
    assert (wait.for_s is not None) is known
    assert wait.for_s is None or 1 <= wait.for_s <= 2
    assert (wait.at_most_s is not None) is (limit_s is not None)
    assert limit_s is None or 0 < wait.at_most_s < limit_s
    assert reason in describe(session)["waiting"]


def test_who_waits_for_nothing_says_nothing():
    assert describe(consuming().session)["waits"] == ()


def test_all_reasons_are_told_not_only_the_first():
    story = (holding(1, 1) >> FromBroker(again(1))).forget() >> FromBroker(on(0, m.ConnectionBlocked(b"memory")))
    told = [each.reason for each in describe(story.session)["waits"]]
    assert len(told) == 2
    assert "settles what it holds" in told[0]
    assert "alarm" in told[1]


def test_each_channel_that_waits_for_a_confirm_is_told_and_none_that_does_not():
    """Also one that published while the confirm of another was measured."""
    opened = (confirming() >> FromClient(on(2, m.ChannelOpen()), on(3, m.ChannelOpen()))).forget()
    ready = (opened >> FromBroker(on(2, m.ChannelOpenOk()), on(3, m.ChannelOpenOk()))).forget()
    story = (ready >> FromClient(publish(1))).forget() >> FromClient(publish(2), publish(3)[:-1])
    waits = describe(story.session, story.now)["waits"]
    assert [(each.channels, each.for_s is not None) for each in waits] == [((1,), True), ((2,), False)]
    story = story.forget() >> FromBroker(ack(1, 1))
    assert [each.channels for each in describe(story.session)["waits"]] == [(2,)]


def test_a_side_that_is_read_again_waits_no_more():
    story = full(client=True)
    story.session.pulse.unread(False, False, story.now)
    assert describe((story >> After(1)).session)["waits"] == ()
