"""What a consumer is promised: its consumers return in order, tags only grow, stale acks reach nobody."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.commands import CloseClient
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Reported,
    Sees,
    ToBroker,
    ToClient,
    consuming,
    with_channel,
)
from tests.support.engine_frames import (
    ack,
    bare,
    consume,
    consume_ok,
    declare,
    deliver,
    frames_of,
    get_empty,
    get_ok,
    nack,
    on,
    publish,
    reject,
)

BACK = FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1))
RECOVER = bare(1, m.BASIC_RECOVER, b"\x01")


def qos(count: int, is_global: bool = False) -> bytes:
    return on(1, m.BasicQos(0, count, is_global))


QOS_OK = bare(1, m.ident(60, 11))


def moved(*tags: int, **given):
    """A consumer that holds these deliveries of a broker that is gone, and is back on another one."""
    story = consuming(**given)
    for tag in tags:
        story = (story >> FromBroker(deliver(1, tag))).forget()
    story = (story >> FailOver()).forget()
    return (story >> BACK).forget()


def test_a_delivery_passes_as_it_is():
    (
        consuming()
        >> FromBroker(deliver(1, 1))
        << ToClient(deliver(1, 1))
        >> FromClient(ack(1, 1))
        << ToBroker(ack(1, 1))
    ).done()


def test_a_delivery_is_shown_when_it_is_complete():
    *head, last = frames_of(deliver(1, 1, b"abc", piece_bytes=1))
    story = consuming()
    for piece in head:
        story = story >> FromBroker(piece)
    (story >> FromBroker(last) << ToClient(deliver(1, 1, b"abc", piece_bytes=1))).done()


def test_half_a_delivery_of_a_dead_broker_is_never_seen():
    method, *_ = frames_of(deliver(1, 1, b"abc"))
    story = (consuming() >> FromBroker(method)).forget()
    story = story >> FailOver() << ToBroker(REOPENED, consume(1)) >> BACK
    (
        story
        >> FromBroker(deliver(1, 1, b"abc", redelivered=True))
        << ToClient(deliver(1, 2, b"abc", redelivered=True))
    ).done()


def test_interleaved_deliveries_are_each_shown_whole():
    story = with_channel(1, 2)
    one, two = frames_of(deliver(1, 1, b"a")), frames_of(deliver(2, 1, b"b"))
    mixed = b"".join(frame for pair in zip(one, two, strict=True) for frame in pair)
    (story >> FromBroker(mixed) << ToClient(*one, *two)).done()


def test_a_heartbeat_between_the_frames_of_a_delivery_disturbs_nothing():
    from tests.support.engine_frames import HEARTBEAT

    one, two, three = frames_of(deliver(1, 1))
    (consuming() >> FromBroker(one, HEARTBEAT, two, three) << ToClient(one, two, three)).done()


def test_a_large_delivery_streams_and_its_loss_is_told():
    story = consuming(delivery_hold_bytes_max=4096)
    *head, _ = frames_of(deliver(1, 1, bytes(9000), piece_bytes=3000))
    story = story >> FromBroker(*head) << ToClient(*head)
    text = b"CONNECTION_FORCED - broker connection lost inside message body"
    (story >> BrokerLost() << ToClient(on(0, m.ConnectionClose(320, text)))).done()


def test_a_large_delivery_that_ends_is_an_ordinary_one():
    story = consuming(delivery_hold_bytes_max=4096)
    frames = frames_of(deliver(1, 1, bytes(9000), piece_bytes=3000))
    story = story >> FromBroker(*frames) << ToClient(*frames)
    (story >> FailOver() << ToBroker(REOPENED, consume(1))).done()


def test_qos_and_consumers_come_back_in_the_clients_order():
    story = with_channel()
    steps = [(qos(10), QOS_OK), (consume(1, b"q", b"a"), consume_ok(1, b"a")), (qos(20), QOS_OK),
             (consume(1, b"q", b"b"), consume_ok(1, b"b")), (qos(5, True), QOS_OK)]  # fmt: skip
    for asked, answered in steps:
        story = story >> FromClient(asked) << ToBroker(asked) >> FromBroker(answered) << ToClient(answered)
    (story >> FailOver() << ToBroker(REOPENED, *(asked for asked, _ in steps))).done()


def test_a_qos_that_is_set_again_and_again_is_remembered_once():
    story = with_channel()
    for count in range(50):
        story = (story >> FromClient(qos(count))).forget()
        story = (story >> FromBroker(QOS_OK)).forget()
    (story >> FailOver() << ToBroker(REOPENED, qos(49))).done()


def test_the_answers_of_a_replay_are_not_the_clients():
    (
        (consuming() >> FailOver()).forget()
        >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1))
        << Reported("failover_done", {"endpoint": "rabbit2:5672", "reason": "reset by peer"})
    ).done()


def test_a_cancelled_consumer_does_not_come_back():
    cancel, cancelled = on(1, m.BasicCancel(b"c", False)), on(1, m.BasicCancelOk(b"c"))
    story = consuming() >> FromClient(cancel) << ToBroker(cancel) >> FromBroker(cancelled) << ToClient(cancelled)
    (story >> FailOver() << ToBroker(REOPENED)).done()


def test_a_prefetch_waits_for_the_answer_to_a_consumer_that_it_is_not_for():
    """The queue answers the consumer and the channel the prefetch, so that their answers may change places."""
    late, more = publish(1), on(1, m.BasicGet(0, b"q", False))
    story = (with_channel() >> FromClient(qos(1))).forget() >> FromBroker(QOS_OK)
    story = story.forget() >> FromClient(consume(1, nowait=True), qos(9), late, more) << ToBroker(consume(1))
    story = story >> FromBroker(consume_ok(1)) << ToBroker(qos(9), HIDDEN_CONFIRMS, late, more)
    story = (story >> FromBroker(QOS_OK, get_empty(1), ack(1, 1))).forget()
    (story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, qos(1), consume(1), qos(9))).done()


def test_so_it_does_when_the_answer_is_lost():
    story = with_channel() >> FromClient(consume(1), qos(9)) << ToBroker(consume(1))
    story = story >> FailOver() << ToBroker(REOPENED, consume(1)) >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromBroker(consume_ok(1)) << ToClient(consume_ok(1)) << ToBroker(qos(9))).done()


def test_an_unnamed_consumer_keeps_the_name_it_got():
    story = with_channel() >> FromClient(consume(1, tag=b""))
    asked = m.decode(m.BasicConsume, story.to_broker.pop()[7:-1])
    assert asked.consumer_tag.startswith(b"amq.ctag-")
    answer = consume_ok(1, asked.consumer_tag)
    story = story >> FromBroker(answer) << ToClient(answer)
    (story >> FailOver() << ToBroker(REOPENED, consume(1, tag=asked.consumer_tag))).done()


def test_a_nowait_consumer_is_asked_for_aloud_and_comes_back():
    story = with_channel() >> FromClient(consume(1, nowait=True)) << ToBroker(consume(1)) >> FromBroker(consume_ok(1))
    (story >> FailOver() << ToBroker(REOPENED, consume(1)) >> BACK).done()


def test_a_reply_consumer_is_back_before_the_requests_that_need_it():
    replies = consume(1, b"amq.rabbitmq.reply-to", no_ack=True)
    story = with_channel() >> FromClient(replies) << ToBroker(replies) >> FromBroker(consume_ok(1))
    story = (story.forget() >> FromClient(publish(1, b"request"))).forget()
    (story >> FailOver() << ToBroker(REOPENED, replies, HIDDEN_CONFIRMS, publish(1, b"request"))).done()


def test_tags_go_on_where_the_client_stands():
    (
        moved(1, 2)
        >> FromBroker(deliver(1, 1))
        << ToClient(deliver(1, 3))
        >> FromClient(ack(1, 3))
        << ToBroker(ack(1, 1))
    ).done()


def test_tags_go_on_over_several_failovers():
    story = (moved(1, 2) >> FromBroker(deliver(1, 1))).forget()
    story = ((story >> FailOver()).forget() >> BACK).forget()
    (
        story >> FromBroker(deliver(1, 1)) << ToClient(deliver(1, 4)) >> FromClient(nack(1, 4)) << ToBroker(nack(1, 1))
    ).done()


@pytest.mark.parametrize(
    "stale",
    [ack(1, 1), ack(1, 2, multiple=True), ack(1, 0, multiple=True), nack(1, 2), nack(1, 2, multiple=True, requeue=True),
     reject(1, 1), reject(1, 2, requeue=False)],
)  # fmt: skip
def test_a_stale_answer_reaches_nobody(stale):
    (moved(1, 2) >> FromClient(stale) << Sees("counted", lambda s: s.journal.counters.stale_acks == 1)).done()


def test_a_multiple_ack_over_old_and_new_settles_the_new():
    story = (moved(1, 2) >> FromBroker(deliver(1, 1), deliver(1, 2))).forget()
    (story >> FromClient(ack(1, 3, multiple=True)) << ToBroker(ack(1, 1, multiple=True))).done()


def test_an_ack_of_everything_settles_what_is_new():
    story = (moved(1, 2) >> FromBroker(deliver(1, 1), deliver(1, 2))).forget()
    (story >> FromClient(ack(1, 0, multiple=True)) << ToBroker(ack(1, 2, multiple=True))).done()


def test_a_multiple_ack_that_settles_nothing_more_reaches_nobody():
    story = (moved(1, 2) >> FromBroker(deliver(1, 1))).forget() >> FromClient(ack(1, 3)) << ToBroker(ack(1, 1))
    (story >> FromClient(ack(1, 3, multiple=True))).done()


def test_an_ack_of_a_tag_that_was_never_given_is_the_brokers_to_judge():
    (moved(1, 2) >> FromClient(ack(1, 9)) << ToBroker(ack(1, 7))).done()


def test_single_acks_of_zero_are_the_brokers_to_judge():
    (moved(1) >> FromClient(ack(1, 0)) << ToBroker(ack(1, 0))).done()


def test_a_message_that_was_got_counts_among_the_deliveries():
    get = on(1, m.BasicGet(0, b"q", False))
    story = moved(1, 2) >> FromClient(get) << ToBroker(get)
    (story >> FromBroker(get_ok(1, 1)) << ToClient(get_ok(1, 3)) >> FromClient(ack(1, 3)) << ToBroker(ack(1, 1))).done()


def test_a_message_got_without_ack_leaves_nothing_open():
    get = on(1, m.BasicGet(0, b"q", True))
    story = (with_channel() >> FromClient(get)).forget() >> FromBroker(get_ok(1, 1)) << ToClient(get_ok(1, 1))
    story << Sees("nothing open", lambda s: s.journal.channels[1].window.open_count == 0)


def test_a_get_is_asked_again_when_its_answer_was_cut():
    get = on(1, m.BasicGet(0, b"q", False))
    story = (with_channel() >> FromClient(get)).forget() >> FromBroker(get_ok(1, 1)[:-4])
    story = story >> FailOver() << ToBroker(REOPENED, get) >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromBroker(get_empty(1)) << ToClient(get_empty(1))).done()


def test_a_get_whose_content_was_cut_between_frames_is_asked_again():
    get = on(1, m.BasicGet(0, b"q", False))
    head, *_ = frames_of(get_ok(1, 1))
    story = (with_channel() >> FromClient(get)).forget() >> FromBroker(head)
    story = story >> FailOver() << ToBroker(REOPENED, get) >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromBroker(get_ok(1, 1)) << ToClient(get_ok(1, 2))).done()


def test_no_ack_consumers_leave_nothing_open():
    story = consuming(no_ack=True) >> FromBroker(deliver(1, 1)) << ToClient(deliver(1, 1))
    story << Sees("nothing open", lambda s: s.journal.channels[1].window.open_count == 0)


def test_consumers_with_and_without_ack_share_a_channel():
    story = (consuming() >> FromClient(consume(1, tag=b"n", no_ack=True))).forget()
    story = (story >> FromBroker(consume_ok(1, b"n"))).forget()
    story = (story >> FromBroker(deliver(1, 1), deliver(1, 2, to=b"n"))).forget()
    story << Sees("one open", lambda s: list(s.journal.channels[1].window.open_numbers()) == [1])


def test_recover_makes_all_tags_old():
    done = on(1, m.BasicRecoverOk())
    story = (consuming() >> FromBroker(deliver(1, 1))).forget() >> FromClient(RECOVER) << ToBroker(RECOVER)
    (
        story
        >> FromBroker(done)
        << ToClient(done)
        << Sees("none", lambda s: s.journal.channels[1].window.open_count == 0)
    ).done()


def test_recover_async_makes_all_tags_old_at_once():
    asked = bare(1, m.BASIC_RECOVER_ASYNC, b"\x01")
    story = (consuming() >> FromBroker(deliver(1, 1))).forget() >> FromClient(asked) << ToBroker(asked)
    (story << Sees("none", lambda s: s.journal.channels[1].window.open_count == 0)).done()


def test_deliveries_that_come_before_the_replay_is_answered_are_kept():
    story = (consuming() >> FailOver()).forget()
    (story >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1), deliver(1, 1)) << ToClient(deliver(1, 1))).done()


def test_a_final_refusal_of_the_replay_is_told_after_three_times():
    from tests.support.engine import After

    refused = m.ChannelClose(403, b"ACCESS_REFUSED - no", 60, 20)
    story = (consuming() >> FailOver()).forget()
    for _ in range(3):
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()), on(1, refused))).forget() >> After(3.0)
        story.forget()
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), on(1, refused))
    (story << Reported("channel_given_up") << ToBroker(on(1, m.ChannelCloseOk())) << ToClient(on(1, refused))).done()


def test_a_broker_that_numbers_backwards_is_left():
    story = (consuming() >> FromBroker(deliver(1, 2))).forget() >> FromBroker(deliver(1, 1))
    story << Reported("failover_started", {"reason": "broker used a delivery tag out of order"})


def asking(*others: tuple[bytes, bool]):
    """A client that waits for replies by direct reply-to, beside its other consumers."""
    story = with_channel()
    for tag, queue, no_ack in ((b"r", b"amq.rabbitmq.reply-to", True), *((each, b"q", no) for each, no in others)):
        story = (story >> FromClient(consume(1, queue, tag=tag, no_ack=no_ack))).forget()
        story = (story >> FromBroker(consume_ok(1, tag))).forget()
    return story


def test_replies_by_direct_reply_to_have_no_number_of_their_own():
    # As RabbitMQ does it: each bears the number that the next delivery will have.
    first, second = deliver(1, 1, b"one", to=b"r"), deliver(1, 1, b"two", to=b"r")
    (asking() >> FromBroker(first, second) << ToClient(first, second)).done()


@pytest.mark.parametrize("no_ack", [False, True])
def test_replies_between_deliveries_leave_their_numbers_alone(no_ack):
    told = [deliver(1, 1, to=b"r"), deliver(1, 1), deliver(1, 2, to=b"r"), deliver(1, 2)]
    story = asking((b"c", no_ack)) >> FromBroker(*told) << ToClient(*told)
    if not no_ack:
        story = story >> FromClient(ack(1, 2)) << ToBroker(ack(1, 2))
    story = (story >> FromBroker(deliver(1, 2))) << Reported("failover_started")


def test_replies_after_a_failover_bear_the_number_that_comes_next():
    story = (asking((b"c", False)) >> FromBroker(deliver(1, 1))).forget()
    back = FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1, b"r"), consume_ok(1, b"c"))
    story = ((story >> FailOver()).forget() >> back).forget()
    story = story >> FromBroker(deliver(1, 1, to=b"r")) << ToClient(deliver(1, 2, to=b"r"))
    (
        story >> FromBroker(deliver(1, 1)) << ToClient(deliver(1, 2)) >> FromClient(ack(1, 2)) << ToBroker(ack(1, 1))
    ).done()


def test_a_client_may_close_while_its_consumers_return():
    close = on(1, m.ChannelClose(200, b"bye"))
    story = (consuming() >> BrokerLost()).forget() >> FromClient(close)
    story = story >> Handshaken() << ToBroker(REOPENED, consume(1), close) >> BACK
    (story >> FromBroker(on(1, m.ChannelCloseOk())) << ToClient(on(1, m.ChannelCloseOk()))).done()


def test_a_client_that_is_told_of_a_channels_end_opens_it_again():
    gone = on(1, m.ChannelClose(406, b"PRECONDITION_FAILED"))
    story = consuming() >> FromBroker(gone) << ToBroker(on(1, m.ChannelCloseOk())) << ToClient(gone)
    story = story >> FromClient(on(1, m.ChannelCloseOk()))
    (story >> FromClient(on(1, m.ChannelOpen())) << ToBroker(on(1, m.ChannelOpen()))).done()


def test_closes_that_cross_are_both_answered():
    gone, close = on(1, m.ChannelClose(406, b"PRECONDITION_FAILED")), on(1, m.ChannelClose(200, b"bye"))
    story = consuming() >> FromBroker(gone) << ToBroker(on(1, m.ChannelCloseOk())) << ToClient(gone)
    (story >> FromClient(close) << ToClient(on(1, m.ChannelCloseOk())) >> FromClient(on(1, m.ChannelCloseOk()))).done()


def test_the_end_of_a_session_is_heard_once():
    story = consuming() >> FromClient(on(0, m.ConnectionClose(200, b"bye")))
    story = story << ToBroker(on(0, m.ConnectionClose(200, b"client closed the connection")))
    (story >> BrokerLost() << ToClient(on(0, m.ConnectionCloseOk())) << CloseClient()).forget().done()


def test_a_publish_to_an_exchange_that_is_gone_is_not_repeated_for_long():
    gone = on(1, m.ChannelClose(404, b"NOT_FOUND - no exchange 'x' in vhost '/'", 60, 40))
    poison = publish(1, b"p", exchange=b"x")
    story = ((consuming() >> FromClient(publish(1), poison)).forget() >> FailOver()).forget()
    for taken in (ack(1, 1), b"", b""):  # a neighbour that is taken is no sign of health
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()), taken, gone)).forget() >> After(2.0)
        story = story << ToBroker(REOPENED, HIDDEN_CONFIRMS, poison, consume(1))
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), gone) << ToBroker(on(1, m.ChannelCloseOk())) << ToClient(gone)
    story.done()


def test_an_error_names_a_delivery_by_the_clients_number():
    story = (consuming() >> FromBroker(deliver(1, 1), deliver(1, 2), deliver(1, 3))).forget() >> FailOver()
    story = (story.forget() >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1)) >> FromClient(ack(1, 9))).forget()
    gone = m.ChannelClose(406, b"PRECONDITION_FAILED - unknown delivery tag 6", 60, 80)
    text = b"PRECONDITION_FAILED - unknown delivery tag 9"
    story = story >> FromBroker(on(1, gone)) << ToBroker(on(1, m.ChannelCloseOk()))
    (story << ToClient(on(1, gone._replace(reply_text=text)))).done()


def test_a_seat_that_somebody_else_has_is_waited_for():
    taken = m.ChannelClose(403, b"ACCESS_REFUSED - queue 'q' in vhost '/' in exclusive use", 60, 20)
    story = (consuming() >> FailOver()).forget()
    for _ in range(5):
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()), on(1, taken))).forget() >> After(5.0)
        assert story.to_client == []
        story.forget()
    (story >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1), deliver(1, 1)) << ToClient(deliver(1, 1))).done()


def test_the_same_tag_on_two_channels_names_two_consumers():
    story = with_channel(1, 2)
    for number in (1, 2):
        story = (story >> FromClient(consume(number, b"q", b"same"))).forget()
        story = (story >> FromBroker(consume_ok(number, b"same"))).forget()
    story = (story >> FailOver()).forget()
    back = b"".join(on(number, m.ChannelOpenOk()) + consume_ok(number, b"same") for number in (1, 2))
    story = (story >> FromBroker(back)).forget() >> FromBroker(deliver(1, 1, to=b"same"), deliver(2, 1, to=b"same"))
    (story << ToClient(deliver(1, 1, to=b"same"), deliver(2, 1, to=b"same"))).done()


def with_consumers(*tags: bytes):
    """Consumers, and a window that was asked for behind them."""
    story = with_channel(heartbeat_s=3600)
    for tag in tags:
        story = (story >> FromClient(consume(1, b"q", tag))).forget()
        story = (story >> FromBroker(consume_ok(1, tag))).forget()
    story = (story >> FromClient(qos(10))).forget()
    return (story >> FromBroker(QOS_OK)).forget()


def test_an_answer_of_a_queue_may_come_behind_what_was_asked_after_it() -> None:
    story = (with_consumers(b"a", b"b") >> FailOver()).forget()
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), QOS_OK, consume_ok(1, b"b"))
    assert story.session.attachment.since is not None
    story = (story >> FromBroker(consume_ok(1, b"a"))).forget()
    assert story.session.attachment.since is None


def test_answers_of_queues_belong_to_the_consumers_that_they_name() -> None:
    both = consume(1, b"q", b"a") + consume(1, b"q", b"b", no_ack=True)
    story = (with_channel() >> FromClient(both)).forget()
    story = story >> FromBroker(consume_ok(1, b"b")) << ToClient(consume_ok(1, b"b"))
    assert [entry.tag for entry in story.session.journal.channels[1].setup] == [b"b"]
    (story >> FromBroker(consume_ok(1, b"a")) << ToClient(consume_ok(1, b"a"))).done()


def test_an_answer_out_of_turn_of_anything_else_is_no_answer() -> None:
    story = (with_channel() >> FromClient(declare(1, b"q"), qos(10))).forget() >> FromBroker(QOS_OK)
    (story << Reported("failover_started", {"reason": "broker sent method 60.11 that nobody asked for"})).forget()
