"""Commits that wait for queues, while other things happen to their channel, and words that wait inside a delivery."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from tests.session.test_cancellations import CANCEL, GONE
from tests.session.test_moving import leaving
from tests.session.test_unrouted import (
    COMMIT,
    COMMIT_OK,
    COURIER,
    OPEN_OK,
    sent,
    transacting,
    without_a_queue,
)
from tests.support.engine import (
    After,
    BrokerLost,
    ClientGone,
    FailOver,
    FromBroker,
    FromClient,
    Reported,
    Story,
    ToClient,
    consuming,
)
from tests.support.engine_frames import ack, consume, consume_ok, deliver, frames_of, on, publish, returned

TIMED_OUT = on(1, m.ChannelClose(406, b"PRECONDITION_FAILED - delivery acknowledgement timed out", 0, 0))
CLOSE_UPSTREAM = on(1, m.ChannelClose(200, b"set up again"))
CLOSE_CONNECTION = on(0, m.ConnectionClose(200, b"bye"))


def withheld(**given) -> Story:
    """A commit whose one publish no queue took; the courier has it."""
    story = transacting(b"m", **given).forget() >> FromBroker(returned(1, b"m"), COMMIT_OK)
    return (story >> After(0.1)).forget() >> FromBroker(OPEN_OK)


def test_a_channel_that_the_broker_has_closed_hears_of_its_commit_no_more():
    story = (withheld() >> FromBroker(TIMED_OUT)).forget()
    assert (story >> FromBroker(ack(COURIER, 1))).to_client == []


def test_nor_is_it_closed_a_second_time_when_the_commit_is_given_up():
    story = (withheld(failover_timeout_s=1.0) >> FromBroker(TIMED_OUT)).forget()
    story = story >> FromBroker(returned(COURIER, b"m"), ack(COURIER, 1))
    story = without_a_queue(story, b"m") << Reported("publishes_unroutable", {"count": 1})
    assert CLOSE_UPSTREAM not in story.to_broker


def test_what_follows_a_commit_waits_for_it_though_a_move_is_given_up_meanwhile():
    story = leaving((transacting(b"m").forget() >> FromClient(publish(1, b"n"), COMMIT)).forget())
    story = story >> BrokerLost()
    assert frames_of(publish(1, b"n"))[-1] not in story.to_broker + story.to_old
    assert story.session.journal.channels[1].parked


def test_a_client_that_closes_waits_for_what_it_has_committed():
    closing = on(0, m.ConnectionClose(200, b"client closed the connection"))
    story = withheld() >> FromClient(CLOSE_CONNECTION)
    assert closing not in story.to_broker
    story = story.forget() >> FromBroker(ack(COURIER, 1))
    assert closing in story.to_broker


@pytest.mark.parametrize("end", [FromClient(CLOSE_CONNECTION), ClientGone()])
def test_what_no_queue_takes_before_the_end_is_told_in_the_log(end):
    story = (withheld(heartbeat_s=600.0) >> end).forget() >> After(75.0)
    told = ("publishes_dropped", "publishes_unroutable")
    assert sum(report.facts["count"] for report in story.reports if report.event in told) == 1


def test_what_comes_back_before_a_consumer_s_late_answer_is_still_the_commit_s():
    story = consuming(troubled=True)
    story = (story >> FromClient(on(1, m.TxSelect()))).forget()
    story = ((story >> FromBroker(on(1, m.TxSelectOk()))).forget() >> FailOver()).forget()
    story = (story >> FromClient(publish(1, b"m"), COMMIT)).forget()
    opened = on(1, m.ChannelOpenOk(), m.TxSelectOk())
    story = story >> FromBroker(opened, returned(1, b"m"), COMMIT_OK, consume_ok(1))
    assert story.session.unrouted.count == 1
    assert not story.to_client


def test_what_came_back_counts_as_memory_before_the_commit_is_answered():
    load = (transacting(b"m").forget() >> FromBroker(returned(1, b"m"))).session.journal.load
    assert load.unsettled_bytes > 0


def publishing_inside(**given) -> tuple[Story, bytes]:
    story = consuming(troubled=True, delivery_hold_bytes_max=4096, **given)
    story = (story >> FromClient(on(1, m.ConfirmSelect(False)))).forget() >> FromBroker(on(1, m.ConfirmSelectOk()))
    story = sent(story.forget(), b"m") >> FromBroker(returned(1, b"m"), ack(1, 1))
    return (story >> After(0.1)).forget() >> FromBroker(OPEN_OK), ack(1, 1)


def committing_inside(**given) -> tuple[Story, bytes]:
    story = consuming(troubled=True, delivery_hold_bytes_max=4096, **given)
    story = (story >> FromClient(on(1, m.TxSelect()))).forget() >> FromBroker(on(1, m.TxSelectOk()))
    story = (story.forget() >> FromClient(publish(1, b"m"), COMMIT)).forget()
    story = story >> FromBroker(returned(1, b"m"), COMMIT_OK)
    return (story >> After(0.1)).forget() >> FromBroker(OPEN_OK), COMMIT_OK


@pytest.mark.parametrize("begin", [publishing_inside, committing_inside])
def test_nothing_is_said_inside_a_delivery_that_streams(begin):
    story, word = begin()
    pieces = frames_of(deliver(1, 1, bytes(30_000), piece_bytes=10_000))
    story = (story >> FromBroker(*pieces[:3])).forget() >> FromBroker(ack(COURIER, 1))
    assert story.to_client == []
    (story >> FromBroker(*pieces[3:]) << ToClient(*pieces[3:], word)).done()


def test_nor_that_a_consumer_is_over():
    story = (consuming(delivery_hold_bytes_max=4096) >> FromClient(consume(1, b"other", b"d"))).forget()
    story = (story >> FromBroker(consume_ok(1, b"d"))).forget()
    story = (story >> FromBroker(CANCEL)).forget()
    pieces = frames_of(deliver(1, 1, bytes(30_000), to=b"d", piece_bytes=10_000))
    story = (story >> FromBroker(*pieces[:3])).forget() >> GONE
    assert CANCEL not in story.to_client
    story = story.forget() >> FromBroker(*pieces[3:])
    assert story.to_client[-1] == CANCEL
