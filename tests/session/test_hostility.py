"""What a hostile client or broker tried, and what becomes of it: the ends of the fuzzer's seeds as stories."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.frames import HEADER, HEARTBEAT, PROTOCOL_HEADER, frame
from proxy.session.commands import CloseClient, Dial
from proxy.session.journal import Phase
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    FailOver,
    FromBroker,
    FromClient,
    FromOld,
    Handshaken,
    Leave,
    Reported,
    Story,
    ToBroker,
    ToClient,
    ToOld,
    confirming,
    consuming,
    running,
    with_channel,
)
from tests.support.engine_frames import CLASS_BASIC, ack, deliver, frames_of, get_ok, nack, on, publish

FLOW, FLOW_OK = on(1, m.ChannelFlow(True)), on(1, m.ChannelFlowOk(True))
OPENED = on(1, m.ChannelOpenOk())
# The head of a frame, and not one byte of its payload.
HUGE = b"\x03\x00\x01\xff\xff\xff\xff"


def kept_bytes(session):
    return session.journal.inlet.kept_bytes


def told(story):
    """The reply code with which the client's connection ends."""
    [close] = [frame for frame in story.to_client if frame[1:3] == b"\0\0"]
    return m.decode(m.ConnectionClose, close[7:-1]).reply_code


def test_a_frame_whose_size_is_absurd_is_refused_however_it_is_cut():
    story = running() >> FromClient(HUGE)
    assert kept_bytes(story.session) == 7
    story = story >> FromClient(b"x")
    assert told(story) == 501
    assert kept_bytes(story.session) == 0


def test_nobody_has_to_log_in_to_be_refused_for_it():
    story = (Story() >> FromClient(PROTOCOL_HEADER)).forget()
    (story >> FromClient(HUGE) >> FromClient(b"x") << CloseClient()).done()


def test_a_broker_whose_frame_has_an_absurd_size_is_left_however_it_is_cut():
    story = with_channel() >> FromBroker(HUGE) >> FromBroker(b"x")
    story = story << Reported("failover_started", {"reason": "broker sent a frame of 4294967295 bytes"})
    assert isinstance(story.commands.pop(), Dial)
    story.done()


def test_a_flow_is_answered_where_no_publish_is_cut_by_it():
    method, *content = frames_of(publish(1, b"half"))
    story = confirming() >> FromClient(method) << ToBroker(method) >> FromBroker(FLOW)
    (story >> FromClient(*content) << ToBroker(*content, FLOW_OK)).done()


def test_a_flow_of_a_broker_that_is_gone_is_not_answered():
    method, *content = frames_of(publish(1, b"half"))
    story = (confirming() >> FromClient(method)).forget() >> FromBroker(FLOW)
    story = story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, method)
    (story >> FromClient(*content) << ToBroker(*content)).done()


def test_a_publish_under_way_cannot_be_confirmed():
    method, header, body = frames_of(publish(1, b"half"))
    story = (confirming() >> FromClient(method, header)).forget()
    story = story >> FromBroker(ack(1, 9, True)) << ToClient(ack(1, 9, True))
    story = story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, method, header)
    story = story >> FromClient(body) << ToBroker(body)
    story = story >> FromBroker(OPENED, ack(1, 1)) << ToClient(ack(1, 1))
    assert story.session.journal.load.unsettled_bytes == 0


@pytest.mark.parametrize("word", [ack(1, 2**63), ack(1, 2**64 - 1, True), nack(1, 3)])
def test_a_broker_that_confirms_what_was_not_published_is_left(word):
    story = ((confirming() >> FromClient(publish(1), publish(1))).forget() >> FromBroker(ack(1, 1))).forget()
    story = (story >> FailOver()).forget() >> FromBroker(OPENED, word)
    story = story << Reported("failover_started", {"reason": "broker confirmed what was not published"})
    assert isinstance(story.commands.pop(), Dial)
    story.done()


@pytest.mark.parametrize("far", [2**33, 2**63, 2**64 - 1])
def test_a_tag_of_the_far_future_leaves_numbers_for_the_next_broker(far):
    story = (consuming() >> FromBroker(deliver(1, far))).forget()
    assert story.session.attachment.searching
    story = (
        (consuming() >> FromClient(on(1, m.BasicGet(0, b"q", False)))).forget() >> FromBroker(get_ok(1, far))
    ).forget()
    assert story.session.attachment.searching
    assert story.session.journal.channels[1].window.top == 0


@pytest.mark.parametrize("size", [2**63, 2**64 - 2, 2**64 - 1])
def test_a_body_beyond_all_sizes_is_refused(size):
    header = frame(HEADER, 1, CLASS_BASIC.pack(60, 0, size, 0))
    publishes, *_ = frames_of(publish(1))
    story = (confirming() >> FromClient(publishes)).forget() >> FromClient(header)
    assert told(story) == 501
    delivers, *_ = frames_of(deliver(1, 1))
    assert (consuming() >> FromBroker(delivers, header)).session.attachment.searching


def test_a_publish_that_never_ends_is_refused_at_the_limit():
    method, header, *bodies = frames_of(publish(1, bytes(400_000)))
    story = (confirming(publish_bytes_max=150_000, unsettled_bytes_max=65536) >> FromClient(method, header)).forget()
    story = (story >> FromClient(bodies[0])).forget() >> FromClient(bodies[1])
    assert told(story) == 506
    assert story.session.journal.load.unsettled_bytes == 0


def test_publishes_that_are_complete_are_no_publish_that_never_ends():
    story = confirming(publish_bytes_max=150_000) >> FromClient(*[publish(1, bytes(90_000))] * 3)
    assert story.forget().session.journal.phase is Phase.RUNNING


def test_a_channel_that_waits_to_be_set_up_again_takes_the_rest_of_one_publish_only():
    a = publish(1, b"a")
    story = (((confirming() >> FromClient(a)).forget() >> FailOver()).forget() >> FromBroker(OPENED)).forget()
    half, rest = frames_of(publish(1, b"half"))[:2], frames_of(publish(1, b"half"))[2:]
    story = (story >> FromClient(*half)).forget() >> FromBroker(nack(1, 1))
    close = on(1, m.ChannelClose(200, b"set up again"))
    (story >> FromClient(*rest, publish(1, b"next"), half[0]) << ToBroker(*rest, close)).done()
    assert story.session.journal.load.parked_bytes == len(publish(1, b"next") + half[0])


def test_a_channel_that_waits_for_the_rest_of_a_publish_lets_no_other_fill_the_memory():
    limits = {"unsettled_bytes_max": 65536, "publish_bytes_max": 70_000}
    story = (with_channel(1, 2, **limits) >> FailOver()).forget()
    story = (story >> FromBroker(OPENED, on(2, m.ChannelOpenOk())) >> FromClient(publish(1, b"a"))).forget()
    story = (story >> FromClient(frames_of(publish(1, b"half"))[0])).forget() >> FromBroker(nack(1, 1))
    for _ in range(3):
        story = (story >> FromClient(publish(2, bytes(60_000)))).forget()
    assert not story.reading
    assert (story >> FromBroker(ack(2, 3, True))).forget().reading


def test_a_loss_inside_a_large_delivery_says_nothing_else_on_that_channel():
    story = (with_channel(delivery_hold_bytes_max=4096) >> FromClient(on(1, m.TxSelect()))).forget()
    story = (story >> FromBroker(on(1, m.TxSelectOk()))).forget()
    story = (story >> FromClient(publish(1))).forget()
    delivery = frames_of(deliver(1, 1, bytes(9000), piece_bytes=6000))
    story = story >> FromBroker(*delivery[:3]) << ToClient(*delivery[:3])
    text = b"CONNECTION_FORCED - broker connection lost inside message body"
    (story >> BrokerLost() << ToClient(on(0, m.ConnectionClose(320, text)))).done()


def test_a_channel_that_cannot_be_opened_any_more_asks_for_no_ticks():
    bye, gone = on(0, m.ConnectionCloseOk()), on(0, m.ConnectionClose(200, b"client closed the connection"))
    story = (with_channel() >> Leave() >> After(5.0)).forget() >> Handshaken()
    story = story << ToOld(on(1, m.ChannelClose(200, b"set up again")))
    story = story >> FromClient(on(0, m.ConnectionClose(200, b"bye"))) << ToOld(gone) << ToBroker(gone)
    story = story >> FromBroker(bye) >> FromOld(on(1, m.ChannelCloseOk())) >> After(1.0) >> FromOld(bye)
    (story << ToClient(bye) << CloseClient()).done()


def test_a_refusal_that_is_not_believed_yet_waits_for_the_end_of_a_large_delivery():
    story = (confirming(delivery_hold_bytes_max=4096) >> FromClient(publish(1))).forget()
    story = (story >> FromBroker(nack(1, 1))).forget()
    delivery = frames_of(deliver(1, 1, bytes(9000), piece_bytes=6000))
    story = story >> FromBroker(*delivery[:3]) << ToClient(*delivery[:3])
    story = story >> After(3.0) >> FromBroker(*delivery[3:]) << ToClient(*delivery[3:])
    (story >> After(1.0) << ToClient(nack(1, 1))).done()


def test_a_heartbeat_inside_a_delivery_neither_repeats_nor_shows_half_of_it():
    method, header, one, other = frames_of(deliver(1, 1, b"abcd", piece_bytes=2))
    odd = frame(HEARTBEAT, 1, b"of a channel")
    story = consuming() >> FromBroker(method, header, one, odd, other) << ToClient(method, header, one, other)
    (story >> FromBroker(deliver(1, 2)) << ToClient(deliver(1, 2))).done()


def test_what_is_no_frame_inside_a_delivery_shows_nothing_of_it():
    method, header, one, _ = frames_of(deliver(1, 1, b"abcd", piece_bytes=2))
    story = consuming() >> FromBroker(method, header, one, frame(127, 1, b"?"))
    (story << Reported("failover_started") << Dial(2, frozenset({"rabbit1:5672"}), True)).done()
