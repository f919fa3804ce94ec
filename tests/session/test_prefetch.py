"""What a client asked to hold at most is all that it holds, also while it holds deliveries of a broker that is gone."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.description import describe
from tests.session.test_streams import streamed
from tests.support.engine import (
    REOPENED,
    After,
    FailOver,
    FromBroker,
    FromClient,
    FromOld,
    Handshaken,
    Leave,
    Sees,
    ToBroker,
    ToClient,
    ToOld,
    with_channel,
)
from tests.support.engine_frames import (
    HEARTBEAT,
    ack,
    bare,
    consume,
    consume_ok,
    deliver,
    frames_of,
    get_ok,
    nack,
    on,
    publish,
    reject,
    returned,
)

QOS_OK = bare(1, m.ident(60, 11))
CANCEL, CANCEL_OK = on(1, m.BasicCancel(b"c", False)), on(1, m.BasicCancelOk(b"c"))


def qos(count: int, is_global: bool = False) -> bytes:
    return on(1, m.BasicQos(0, count, is_global))


def again(*tags: int, **given) -> bytes:
    return b"".join(deliver(1, tag, redelivered=True, **given) for tag in tags)


def consuming(prefetch: int, *, is_global: bool = False, tags: tuple[bytes, ...] = (b"c",), no_ack=(), **given):
    """A client whose channel 1 consumes with a prefetch."""
    story = with_channel(**given)
    if prefetch:
        story = (story >> FromClient(qos(prefetch, is_global))).forget()
        story = (story >> FromBroker(QOS_OK)).forget()
    for tag in tags:
        story = (story >> FromClient(consume(1, tag=tag, no_ack=tag in no_ack))).forget()
        story = (story >> FromBroker(consume_ok(1, tag))).forget()
    return story


def back(story, prefetch: int, tags: tuple[bytes, ...] = (b"c",)):
    """It lost its broker and has another one."""
    story = (story >> FailOver()).forget()
    answers = [on(1, m.ChannelOpenOk()), QOS_OK if prefetch else b"", *(consume_ok(1, tag) for tag in tags)]
    return (story >> FromBroker(*answers)).forget()


def holding(held: int, prefetch: int, **given):
    """A client that holds deliveries of a broker that is gone, and consumes from another one."""
    story = consuming(prefetch, **given)
    for tag in range(1, held + 1):
        story = (story >> FromBroker(deliver(1, tag, to=given.get("tags", (b"c",))[0]))).forget()
    return back(story, prefetch, given.get("tags", (b"c",)))


def kept(count: int) -> Sees:
    def fact(session) -> bool:
        arrears = session.journal.channels[1].arrears
        return (arrears.kept if arrears is not None else 0) == count

    return Sees(f"{count} are kept back", fact)


@pytest.mark.parametrize("is_global", [False, True])
def test_a_client_with_a_full_window_gets_more_as_it_settles(is_global):
    story = holding(2, 2, is_global=is_global) >> FromBroker(again(1, 2)) << kept(2)
    story = story >> FromClient(ack(1, 1)) << ToClient(again(3)) >> FromClient(ack(1, 3)) << ToBroker(ack(1, 1))
    story = story << ToClient(again(4)) >> FromClient(ack(1, 2)) >> FromClient(ack(1, 4)) << ToBroker(ack(1, 2))
    (story << Sees("nothing is owed", lambda s: s.journal.channels[1].arrears is None)).done()


def test_there_is_room_for_what_the_client_has_settled_before():
    story = holding(2, 3) >> FromBroker(again(1, 2)) << ToClient(again(3)) << kept(1)
    (story >> FromClient(ack(1, 2)) << ToClient(again(4))).done()


@pytest.mark.parametrize(
    "settle",
    [ack(1, 2, multiple=True), ack(1, 0, multiple=True), nack(1, 2, multiple=True),
     nack(1, 0, multiple=True, requeue=True)],
)  # fmt: skip
def test_one_word_on_all_that_is_held_makes_room_for_all(settle):
    (holding(2, 2) >> FromBroker(again(1, 2)) >> FromClient(settle) << ToClient(again(3, 4))).done()


@pytest.mark.parametrize("settle", [ack(1, 1), nack(1, 1), reject(1, 1), reject(1, 1, requeue=False)])
def test_every_way_to_settle_makes_room(settle):
    (holding(2, 2) >> FromBroker(again(1, 2)) >> FromClient(settle) << ToClient(again(3)) << kept(1)).done()


def test_settling_twice_makes_room_once():
    story = holding(2, 2) >> FromBroker(again(1, 2)) >> FromClient(ack(1, 1)) << ToClient(again(3))
    (story >> FromClient(ack(1, 1)) << kept(1)).done()


def test_an_ack_of_everything_is_not_for_what_was_not_shown():
    story = holding(2, 3) >> FromBroker(again(1, 2, 3)) << ToClient(again(3)) << kept(2)
    story = story >> FromClient(ack(1, 0, multiple=True)) << ToBroker(ack(1, 1, multiple=True))
    (story << ToClient(again(4, 5))).done()


def test_a_tag_that_nobody_was_told_is_the_brokers_to_judge():
    story = holding(2, 2) >> FromBroker(again(1, 2))
    (story >> FromClient(ack(1, 9)) << ToBroker(ack(1, 7)) << ToClient(again(3, 4))).done()


@pytest.mark.parametrize("prefetch", [0, 4])
def test_an_ack_of_everything_names_a_number_that_is_open(prefetch):
    story = holding(1, prefetch) >> FromBroker(again(1, 2, 3)) << ToClient(again(2, 3, 4))
    story = story >> FromClient(ack(1, 4)) << ToBroker(ack(1, 3))
    (story >> FromClient(ack(1, 0, multiple=True)) << ToBroker(ack(1, 2, multiple=True))).done()


def test_a_client_without_a_prefetch_gets_everything():
    (holding(2, 0) >> FromBroker(again(1, 2)) << ToClient(again(3, 4))).done()


def test_consumers_with_a_limit_each_are_not_kept_to_it():
    story = holding(1, 1, tags=(b"c", b"d"))
    (story >> FromBroker(again(1), again(2, to=b"d")) << ToClient(again(2), again(3, to=b"d"))).done()


def test_a_limit_for_the_channel_holds_for_all_its_consumers():
    story = holding(2, 2, is_global=True, tags=(b"c", b"d")) >> FromBroker(again(1), again(2, to=b"d")) << kept(2)
    story = story >> FromClient(ack(1, 1)) << ToClient(again(3))
    (story >> FromClient(ack(1, 2)) << ToClient(again(4, to=b"d"))).done()


def test_the_smaller_of_two_limits_counts():
    story = (consuming(3) >> FromClient(qos(2, True))).forget()
    story = (story >> FromBroker(QOS_OK)).forget()
    story = (story >> FromBroker(deliver(1, 1), deliver(1, 2))).forget()
    story = (story >> FailOver()).forget()
    story = (story >> FromBroker(on(1, m.ChannelOpenOk()), QOS_OK, consume_ok(1), QOS_OK)).forget()
    (story >> FromBroker(again(1)) << kept(1)).done()


def test_a_delivery_that_needs_no_ack_does_not_wait():
    story = holding(1, 1, tags=(b"c", b"n"), no_ack=(b"n",)) >> FromBroker(again(1)) << kept(1)
    (story >> FromBroker(deliver(1, 2, to=b"n")) << ToClient(again(2), deliver(1, 3, to=b"n"))).done()


def test_a_reply_by_direct_reply_to_does_not_wait():
    story = consuming(1)
    story = (story >> FromClient(consume(1, b"amq.rabbitmq.reply-to", tag=b"r", no_ack=True))).forget()
    story = (story >> FromBroker(consume_ok(1, b"r"), deliver(1, 1))).forget()
    story = (story >> FailOver()).forget()
    opened = FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1, b"r"), QOS_OK, consume_ok(1))
    story = (story >> opened).forget() >> FromBroker(again(1)) << kept(1)
    (story >> FromBroker(deliver(1, 2, to=b"r")) << ToClient(again(2), deliver(1, 3, to=b"r"))).done()


def test_a_message_that_was_asked_for_does_not_wait():
    get = on(1, m.BasicGet(0, b"q", False))
    story = holding(1, 1) >> FromBroker(again(1)) << kept(1) >> FromClient(get) << ToBroker(get)
    (story >> FromBroker(get_ok(1, 2)) << ToClient(again(2), get_ok(1, 3))).done()


def test_a_publish_that_comes_back_overtakes_what_waits():
    story = holding(1, 1, unroutable="pass") >> FromBroker(again(1))
    story = (story >> FromClient(publish(1, mandatory=True))).forget()
    (story >> FromBroker(returned(1)) << ToClient(returned(1)) << kept(1)).done()


def test_a_cancelled_consumer_gets_what_waits_first():
    story = holding(1, 1) >> FromBroker(again(1)) >> FromClient(CANCEL) << ToBroker(CANCEL)
    (story >> FromBroker(CANCEL_OK) << ToClient(again(2), CANCEL_OK)).done()


def test_a_consumer_that_the_broker_cancels_gets_what_waits_first():
    gone = on(1, m.BasicCancel(b"c", True))
    asks = on(2046, m.ChannelOpen(), m.QueueDeclare(0, b"q", True, False, False, False, False, b""))
    told = on(2046, m.ChannelOpenOk(), m.ChannelClose(404, b"NOT_FOUND - no queue 'q' in vhost '/'", 50, 10))
    story = holding(1, 1) >> FromBroker(again(1)) >> FromBroker(gone) << ToBroker(asks) >> FromBroker(told)
    (story << ToBroker(on(2046, m.ChannelCloseOk())) << ToClient(again(2), gone)).done()


def test_recover_drops_what_waits_since_it_comes_again():
    asked, done = bare(1, m.BASIC_RECOVER, b"\x01"), on(1, m.BasicRecoverOk())
    story = holding(1, 1) >> FromBroker(again(1)) >> FromClient(asked) << ToBroker(asked)
    story = story >> FromBroker(done) << ToClient(done)
    (story >> FromBroker(again(2)) << ToClient(again(3)) >> FromClient(ack(1, 3)) << ToBroker(ack(1, 2))).done()


def test_recover_async_drops_what_waits_since_it_comes_again():
    asked = bare(1, m.BASIC_RECOVER_ASYNC, b"\x01")
    story = holding(1, 1) >> FromBroker(again(1)) >> FromClient(asked) << ToBroker(asked)
    (story >> FromBroker(again(2)) << ToClient(again(3))).done()


def test_a_closed_channel_drops_what_waits():
    close, closed = on(1, m.ChannelClose(200, b"bye")), on(1, m.ChannelCloseOk())
    story = holding(1, 1) >> FromBroker(again(1)) >> FromClient(close) << ToBroker(close)
    story = story >> FromBroker(closed) << ToClient(closed)
    (story << Sees("nothing is kept", lambda s: s.journal.load.kept_bytes == 0)).done()


def test_a_second_loss_drops_what_waits_and_counts_what_was_shown():
    story = holding(2, 3) >> FromBroker(again(1, 2)) << ToClient(again(3)) << kept(1)
    story = story >> FailOver() << ToBroker(REOPENED, qos(3), consume(1))
    story = story << Sees("nothing is kept", lambda s: s.journal.load.kept_bytes == 0)
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), QOS_OK, consume_ok(1), again(1, 2)) << kept(2)
    # 1, 2 and 3 are stale; 4 was never shown, so that the next tags are 5 and 6.
    story = story >> FromClient(ack(1, 1)) << ToClient(again(5)) >> FromClient(ack(1, 3, multiple=True))
    (story << ToClient(again(6)) >> FromClient(ack(1, 6, multiple=True)) << ToBroker(ack(1, 2, multiple=True))).done()


def test_half_a_delivery_and_a_half_got_message_are_not_held_by_the_client():
    method, *_ = frames_of(deliver(1, 2))
    story = (consuming(2) >> FromBroker(deliver(1, 1), method)).forget()
    story = back(story, 2) >> FromBroker(again(1, 2)) << ToClient(again(3)) << kept(1)
    story.done()


def test_half_a_return_is_no_delivery():
    method, *_ = frames_of(returned(1))
    story = (consuming(1) >> FromBroker(deliver(1, 1))).forget()
    story = (story >> FromClient(publish(1))).forget()
    story = (story >> FromBroker(method)).forget()
    story = (story >> FailOver()).forget()
    answers = FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1), QOS_OK, consume_ok(1))
    ((story >> answers).forget() >> FromBroker(again(1)) << kept(1)).done()


def test_beyond_its_limit_of_memory_everything_is_shown():
    story = holding(2, 2, redelivery_hold_bytes_max=65536) >> FromBroker(again(1, body=bytes(60000))) << kept(1)
    story = story >> FromBroker(again(2, body=bytes(60000)))
    (story << ToClient(again(3, body=bytes(60000)), again(4, body=bytes(60000)))).done()


def test_a_delivery_too_large_to_keep_shows_what_waits_before_it():
    story = holding(2, 2, delivery_hold_bytes_max=4096) >> FromBroker(again(1)) << kept(1)
    large = {"body": bytes(9000), "piece_bytes": 3000}
    (story >> FromBroker(again(2, **large)) << ToClient(again(3), again(4, **large))).done()


def test_a_client_that_never_settles_is_not_kept_waiting_for_ever():
    story = holding(1, 1, redelivery_hold_timeout_s=8.0) >> FromBroker(again(1)) >> After(7) << kept(1)
    story = story << Sees("why it waits", lambda s: "settles what it holds" in describe(s)["waiting"])
    (story >> After(2) << ToClient(again(2)) >> FromBroker(deliver(1, 2)) << ToClient(deliver(1, 3))).done()


def test_each_channel_waits_for_its_own_time():
    def replay(number: int) -> bytes:
        return on(number, m.ChannelOpenOk()) + bare(number, m.ident(60, 11)) + consume_ok(number)

    story = with_channel(1, 2, redelivery_hold_timeout_s=8.0)
    for number in (1, 2):
        wanted = on(number, m.BasicQos(0, 1, False)) + consume(number) + on(number, m.ConfirmSelect(nowait=True))
        story = (story >> FromClient(wanted)).forget()
        answers = bare(number, m.ident(60, 11)), consume_ok(number), on(number, m.ConfirmSelectOk())
        story = (story >> FromBroker(*answers)).forget()
    story = ((story >> FromBroker(deliver(1, 1), deliver(2, 1))).forget() >> FailOver()).forget()
    story = story >> FromBroker(replay(1), replay(2)) >> After(4)
    # Channel 2 is opened anew alone, and its time begins anew.
    story = (story >> FromClient(publish(2))).forget() >> FromBroker(on(2, m.BasicNack(1, False, False)))
    story = (story.forget() >> FromBroker(on(2, m.ChannelCloseOk())) >> After(1)).forget()
    story = story >> FromBroker(replay(2), again(1), deliver(2, 1, redelivered=True)) >> After(2)
    story = story >> FromBroker(HEARTBEAT) >> After(2) << ToClient(again(2))
    story = story >> FromBroker(HEARTBEAT) >> After(4) << ToClient(deliver(2, 2, redelivered=True))
    story.done()


def test_it_can_be_turned_off():
    (holding(2, 2, redelivery_hold_timeout_s=0.0) >> FromBroker(again(1, 2)) << ToClient(again(3, 4))).done()


@pytest.mark.parametrize("change", [qos(0, True), consume(1, tag=b"d")])
def test_a_limit_that_is_lifted_shows_what_waits(change):
    story = holding(1, 1, is_global=change == qos(0, True)) >> FromBroker(again(1)) << kept(1)
    story = story >> FromClient(change) << ToBroker(change)
    answer = QOS_OK if change == qos(0, True) else consume_ok(1, b"d")
    (story >> FromBroker(answer) << ToClient(again(2), answer)).done()


def test_a_channel_that_moves_keeps_to_its_limit():
    story = holding(1, 1) >> FromBroker(again(1)) << kept(1)
    story = (story >> Leave() >> After(5.0)).forget() >> Handshaken("rabbit3:5672") << ToOld(CANCEL)
    story = story >> FromOld(CANCEL_OK) << kept(1)
    story = story >> FromClient(ack(1, 1)) << ToClient(again(2))
    closed = on(1, m.ChannelClose(200, b"set up again"))
    (story >> FromClient(ack(1, 2)) << ToOld(ack(1, 1), closed)).done()


def test_what_a_stream_sends_does_not_wait_since_it_never_comes_again():
    story = (consuming(2) >> FromBroker(streamed(1, 7), streamed(2, 8))).forget()
    (back(story, 2) >> FromBroker(streamed(1, 9)) << ToClient(streamed(3, 9))).done()


def test_a_stream_that_shows_itself_late_lets_go_of_what_waits():
    story = holding(1, 1, is_global=True, tags=(b"c", b"d")) >> FromBroker(again(1)) << kept(1)
    (story >> FromBroker(streamed(2, 7, to=b"d")) << ToClient(again(2), streamed(3, 7, to=b"d"))).done()


def test_nothing_waits_in_a_transaction_where_settling_may_be_undone():
    select = on(1, m.TxSelect())
    story = holding(1, 1) >> FromBroker(again(1)) >> FromClient(select) << ToClient(again(2)) << ToBroker(select)
    assert story.done().journal.channels[1].arrears is None
