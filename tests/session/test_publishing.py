"""What a publisher is promised: everything unsettled is published again, and confirms count in its own numbers."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.commands import CloseClient, LookAround
from proxy.session.journal import Phase
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    ClientGone,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Reported,
    Sees,
    ToBroker,
    ToClient,
    confirming,
    with_channel,
)
from tests.support.engine_frames import (
    ack,
    consume,
    consume_ok,
    content,
    frames_of,
    nack,
    on,
    publish,
    returned,
)

A, B, C, D = (publish(1, body) for body in (b"a", b"b", b"c", b"d"))
CLOSED = on(1, m.ChannelClose(200, b"set up again"))
CLOSE_OK = on(1, m.ChannelCloseOk())
CHANNEL_CLOSE = on(1, m.ChannelClose(200, b"bye"))


def test_a_publish_and_its_confirm_pass_as_they_are():
    (confirming() >> FromClient(A) << ToBroker(A) >> FromBroker(ack(1, 1)) << ToClient(ack(1, 1))).done()


def test_what_was_not_confirmed_is_published_again_in_order():
    (
        (confirming() >> FromClient(A, B, C)).forget()
        >> FailOver()
        << ToBroker(REOPENED, HIDDEN_CONFIRMS, A, B, C)
        << Sees("three replays", lambda s: s.journal.counters.replayed_publishes == 3)
    ).done()


def test_confirms_after_a_failover_count_as_the_client_counts():
    story = (confirming() >> FromClient(A, B, C)).forget()
    story = (story >> FromBroker(ack(1, 2)) << ToClient(ack(1, 2)) >> FailOver()).forget()
    story = (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget() >> FromClient(D) << ToBroker(D)
    (
        story
        >> FromBroker(ack(1, 1))
        << ToClient(ack(1, 1))
        >> FromBroker(ack(1, 2))
        << ToClient(ack(1, 3))
        >> FromBroker(ack(1, 3))
        << ToClient(ack(1, 4))
    ).done()


def test_a_multiple_confirm_after_a_failover_covers_the_gaps():
    story = (confirming() >> FromClient(A, B, C)).forget()
    story = (story >> FromBroker(ack(1, 2)) << ToClient(ack(1, 2)) >> FailOver()).forget()
    (
        story >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 2, multiple=True)) << ToClient(ack(1, 3, multiple=True))
    ).done()


def test_numbers_stay_right_over_three_failovers():
    story = confirming()
    for body, survivor in ((b"a", 1), (b"b", 2), (b"c", 3)):
        story = (story >> FromClient(publish(1, body))).forget()
        story = (story >> FailOver()).forget()
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget()
        story = story >> FromBroker(ack(1, 1)) << ToClient(ack(1, survivor))
    session = story.done()
    assert session.journal.load.unsettled_bytes == 0


def test_a_plain_publisher_never_sees_that_it_is_confirmed():
    (
        with_channel()
        >> FromClient(A)
        << ToBroker(HIDDEN_CONFIRMS, A)
        >> FromClient(B)
        << ToBroker(B)
        >> FromBroker(ack(1, 2, multiple=True))
        << Sees("nothing kept", lambda s: s.journal.load.unsettled_bytes == 0)
    ).done()


def test_a_plain_publishers_messages_survive_the_broker():
    (
        (with_channel() >> FromClient(A, B)).forget()
        >> FromBroker(ack(1, 1))
        >> FailOver()
        << ToBroker(REOPENED, HIDDEN_CONFIRMS, B)
    ).done()


def test_nobody_is_covered_who_asked_not_to_be():
    (
        with_channel(publish_guarantee="as_sent") >> FromClient(A) << ToBroker(A) >> FailOver() << ToBroker(REOPENED)
    ).done()


def test_a_publisher_that_asks_for_confirms_later_counts_from_one():
    story = (with_channel() >> FromClient(A, B)).forget()
    story = story >> FromClient(on(1, m.ConfirmSelect(False))) << ToBroker(on(1, m.ConfirmSelect(False)))
    story = story >> FromBroker(on(1, m.ConfirmSelectOk())) << ToClient(on(1, m.ConfirmSelectOk()))
    (
        story
        >> FromClient(C)
        << ToBroker(C)
        >> FromBroker(ack(1, 2, multiple=True))
        >> FromBroker(ack(1, 3))
        << ToClient(ack(1, 1))
    ).done()


def test_half_a_publish_is_sent_again_whole():
    head, rest = A[:-20], A[-20:]
    story = (confirming() >> FromClient(head)).forget()
    (story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, frames_of(A)[0]) >> FromClient(rest)
     << ToBroker(*frames_of(A)[1:])).done()  # fmt: skip


def test_a_publish_that_ends_while_no_broker_is_there_is_sent_whole():
    method, *rest = frames_of(A)
    story = (confirming() >> FromClient(method)).forget()
    story = (story >> BrokerLost()).forget() >> FromClient(*rest)
    (story >> Handshaken() << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_the_rest_of_a_publish_whose_beginning_died_goes_nowhere():
    method, *rest = frames_of(A)
    story = (with_channel(publish_guarantee="as_sent") >> FromClient(method)).forget()
    (story >> FailOver() << ToBroker(REOPENED) >> FromClient(*rest) >> FromClient(B) << ToBroker(B)).done()


def test_the_rest_of_a_lost_publish_goes_nowhere_even_while_no_broker_is_there():
    method, *rest = frames_of(A)
    story = (with_channel(publish_guarantee="as_sent") >> FromClient(method)).forget()
    story = (story >> BrokerLost()).forget() >> FromClient(*rest, B)
    (story >> Handshaken() << ToBroker(REOPENED, B)).done()


def test_what_is_sent_meanwhile_follows_the_replay_in_order():
    story = (confirming() >> FromClient(A)).forget() >> BrokerLost()
    story = story.forget() >> FromClient(B) >> FromClient(consume(1), C)
    (
        story
        >> Handshaken()
        << ToBroker(REOPENED, HIDDEN_CONFIRMS, A, B, consume(1), C)
        >> FromBroker(on(1, m.ChannelOpenOk()), consume_ok(1), ack(1, 3, multiple=True))
        << ToClient(consume_ok(1), ack(1, 3, multiple=True))
    ).done()


def test_two_channels_keep_their_own_numbers():
    story = with_channel(1, 2)
    for number in (1, 2):
        story = (story >> FromClient(on(number, m.ConfirmSelect(True)))).forget()
    story = (story >> FromClient(publish(1, b"a"), publish(2, b"b"), publish(1, b"c"))).forget()
    story = story >> FromBroker(ack(1, 1)) << ToClient(ack(1, 1)) >> FailOver()
    story = story << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1, b"c"))
    story = story << ToBroker(on(2, m.ChannelOpen(), m.ConfirmSelect(True)), publish(2, b"b"))
    story = (story >> FromBroker(on(1, m.ChannelOpenOk()), on(2, m.ChannelOpenOk()))).forget()
    (story >> FromBroker(ack(1, 1), ack(2, 1)) << ToClient(ack(1, 2), ack(2, 1))).done()


def recovered(**given):
    """The client's publish A was sent again to a second broker, whose answer is due."""
    story = ((confirming(**given) >> FromClient(A)).forget() >> FailOver()).forget()
    return (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget()


def test_a_poisoned_channel_is_opened_anew_and_the_client_sees_the_ack_only():
    (
        recovered()
        >> FromBroker(nack(1, 1))
        << Reported("channel_restarted", {"channel": 1, "attempt": 1})
        << ToBroker(CLOSED)
        >> FromBroker(CLOSE_OK)
        >> After(0.1)
        << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
        >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1))
        << ToClient(ack(1, 1))
    ).done()


def test_a_poisoned_channel_is_not_closed_inside_a_content():
    method, *rest = frames_of(B)
    story = recovered() >> FromClient(method) << ToBroker(method)
    (
        story
        >> FromBroker(nack(1, 1))
        >> FromClient(*rest)
        << ToBroker(*rest, CLOSED)
        >> FromBroker(CLOSE_OK)
        >> After(0.1)
        << ToBroker(REOPENED, HIDDEN_CONFIRMS, A, B)
    ).done()


def test_a_channel_that_stays_poisoned_is_given_up_honestly():
    story = (recovered(failover_timeout_s=1.0) >> FromBroker(nack(1, 1))).forget() >> FromBroker(CLOSE_OK)
    story = (story >> After(0.5)).forget() >> FromBroker(on(1, m.ChannelOpenOk())) >> After(1.0)
    (story >> FromBroker(nack(1, 1)) << ToClient(nack(1, 1))).done()


def refused(**given):
    """A broker refuses the client's publish A, though all brokers are thought to be well."""
    return (confirming(**given) >> FromClient(A)).forget() >> FromBroker(nack(1, 1)) << LookAround()


def test_a_refusal_by_a_healthy_broker_is_the_clients_when_somebody_has_looked():
    story = refused() >> After(0.5) << ToClient(nack(1, 1)) >> FromClient(B) << ToBroker(B)
    # Others follow at once: a full queue refuses many.
    (story >> FromBroker(nack(1, 2)) << ToClient(nack(1, 2))).done()


def test_a_healthy_cluster_is_looked_at_again_later():
    story = (refused(heartbeat_s=60) >> After(0.5)).forget() >> After(10.0) >> FromClient(B) << ToBroker(B)
    (story >> FromBroker(nack(1, 2)) << LookAround()).done()


def test_what_is_confirmed_after_a_doubtful_refusal_is_told_after_it():
    story = refused() >> FromClient(B, C) << ToBroker(B, C) >> FromBroker(ack(1, 3, True))
    story = story >> After(0.5) << ToClient(nack(1, 1), ack(1, 3, True))
    assert story.done().journal.load.unsettled_bytes == 0


def test_a_refusal_by_a_cluster_whose_loss_becomes_known_is_published_again():
    story = refused() >> FromClient(B) << ToBroker(B) >> FromBroker(ack(1, 2))
    story.troubled = True
    story = story >> After(0.5) << ToClient(ack(1, 2)) << ToBroker(CLOSED)
    story = story >> FromBroker(on(1, m.ChannelCloseOk())) >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    (story >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1)) << ToClient(ack(1, 1))).done()


def test_a_broker_lost_while_its_refusal_is_doubted_keeps_what_it_has_confirmed():
    story = refused() >> FromClient(B) << ToBroker(B) >> FromBroker(ack(1, 2)) >> FailOver() << ToClient(ack(1, 2))
    (story << ToBroker(REOPENED, HIDDEN_CONFIRMS, A) >> After(0.5)).done()


def test_an_ack_of_several_does_not_span_a_refusal_that_is_not_believed():
    story = refused() >> FromClient(B) << ToBroker(B) >> FromBroker(ack(1, 2, multiple=True))
    story.troubled = True
    story = story >> After(0.5) << ToClient(ack(1, 2)) << ToBroker(CLOSED)
    (story >> FromBroker(CLOSE_OK) >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_nor_when_its_broker_is_lost_meanwhile():
    story = refused() >> FromClient(B) << ToBroker(B) >> FromBroker(ack(1, 2, multiple=True))
    (story >> FailOver() << ToClient(ack(1, 2)) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_nor_while_its_channel_waits_for_the_end_of_a_publish():
    story = confirming()
    story.troubled = True
    method, *rest = frames_of(publish(1, b"c"))
    story = story >> FromClient(A, B, method) << ToBroker(A, B, method)
    story = story >> FromBroker(nack(1, 1), ack(1, 2, multiple=True)) << ToClient(ack(1, 2))
    story = story >> FromClient(*rest) << ToBroker(*rest, CLOSED) >> FromBroker(CLOSE_OK)
    (story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A, publish(1, b"c"))).done()


def test_a_channel_that_ends_while_a_refusal_is_doubted_ends():
    gone = on(1, m.ChannelClose(404, b"NOT_FOUND"))
    story = refused() >> FromBroker(gone) << ToBroker(on(1, m.ChannelCloseOk())) << ToClient(gone)
    (story >> After(0.5)).done()


def test_a_refusal_while_the_cluster_is_in_trouble_is_held():
    story = confirming()
    story.troubled = True
    (story >> FromClient(A) << ToBroker(A) >> FromBroker(nack(1, 1)) << ToBroker(CLOSED)).done()


def test_a_refusal_long_after_the_failover_is_the_clients():
    story = recovered(nack_hold_s=5.0, heartbeat_s=60.0) >> After(6.0)
    (story >> FromBroker(nack(1, 1)) << LookAround() >> After(0.5) << ToClient(nack(1, 1))).done()


def test_a_refusal_on_a_channel_that_the_client_closes_is_not_recovered_from():
    story = recovered() >> FromClient(CHANNEL_CLOSE) << ToBroker(CHANNEL_CLOSE)
    (story >> FromBroker(nack(1, 1), CLOSE_OK) << ToClient(nack(1, 1), CLOSE_OK)).done()


def test_a_returned_message_reaches_the_client_whole():
    head, *rest = frames_of(returned(1, b"m"))
    story = (confirming(unroutable="pass") >> FromClient(publish(1, b"m", mandatory=True))).forget()
    story = story >> FromBroker(head, *rest[:1])
    (story >> FromBroker(rest[1], ack(1, 1)) << ToClient(returned(1, b"m"), ack(1, 1))).done()


def test_half_a_return_is_never_seen():
    head, *_ = frames_of(returned(1, b"m"))
    story = (confirming() >> FromClient(A)).forget() >> FromBroker(head)
    (story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_closing_a_channel_waits_for_the_hidden_confirms():
    story = (with_channel() >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE)
    (story >> FromBroker(ack(1, 1)) << ToBroker(CHANNEL_CLOSE) >> FromBroker(CLOSE_OK) << ToClient(CLOSE_OK)).done()


def test_closing_a_channel_does_not_wait_for_ever_and_says_what_may_be_lost():
    story = (with_channel() >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE)
    story = story >> After(5.0) << ToBroker(CHANNEL_CLOSE)
    (story << Reported("publishes_dropped", {"cause": "unconfirmed", "count": 1})).done()


def test_closing_a_channel_waits_longer_while_a_broker_is_down():
    story = (with_channel(troubled=True, heartbeat_s=3600) >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE)
    story = (story >> After(59.0)).forget()
    (story >> FromBroker(ack(1, 1)) << ToBroker(CHANNEL_CLOSE)).done()


def test_closing_a_channel_waits_longer_when_a_broker_has_gone_down_meanwhile():
    story = (with_channel(heartbeat_s=3600) >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE) >> After(4.0)
    story.troubled = True
    story = story >> After(55.0)
    assert story.session.journal.channels[1].parked
    story = story >> After(1.0) << ToBroker(CHANNEL_CLOSE)
    (story << Reported("publishes_dropped", {"cause": "unconfirmed", "count": 1})).done()


def test_closing_the_connection_waits_longer_when_a_broker_has_gone_down_meanwhile():
    gone = ToBroker(on(0, m.ConnectionClose(200, b"client closed the connection")))
    story = (with_channel(heartbeat_s=3600) >> FromClient(A)).forget() >> FromClient(on(0, m.ConnectionClose(200, b"")))
    story = story >> After(4.0)
    story.troubled = True
    story = story >> After(55.0) >> After(1.0) << gone
    (story << Reported("publishes_dropped", {"cause": "unconfirmed", "count": 1})).done()


def test_the_longer_wait_does_not_end_with_the_trouble():
    """What it has kept from being confirmed is yet to come."""
    story = (with_channel(heartbeat_s=3600) >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE) >> After(4.0)
    story.troubled = True
    story = story >> After(20.0)
    story.troubled = False
    story = story >> After(20.0)
    (story >> FromBroker(ack(1, 1)) << ToBroker(CHANNEL_CLOSE)).done()


def test_a_close_that_waits_for_confirms_survives_the_broker():
    story = (with_channel() >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE)
    story = story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    story = story >> FromBroker(on(1, m.ChannelOpenOk()))
    (story >> FromBroker(ack(1, 1)) << ToBroker(CHANNEL_CLOSE)).done()


def test_a_close_that_has_waited_long_enough_drops_nothing_at_the_brokers_loss():
    story = with_channel(close_flush_timeout_s=1.0)
    story = ((story >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE) >> After(1.0)).forget()
    story = (story >> FailOver()) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    (story >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1)) << ToBroker(CHANNEL_CLOSE)).done()


def test_a_close_that_waits_does_not_spin_while_no_broker_is_there():
    story = (with_channel() >> FromClient(A)).forget() >> FromClient(CHANNEL_CLOSE)
    story = (story >> BrokerLost()).forget() >> After(7.0)
    (story >> Handshaken() << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_closing_the_connection_waits_for_the_hidden_confirms():
    close = on(0, m.ConnectionClose(200, b"bye"))
    story = (with_channel() >> FromClient(A)).forget() >> FromClient(close)
    (
        story
        >> FromBroker(ack(1, 1))
        << ToBroker(on(0, m.ConnectionClose(200, b"client closed the connection")))
        >> FromBroker(on(0, m.ConnectionCloseOk()))
        << ToClient(on(0, m.ConnectionCloseOk()))
        << CloseClient()
    )


def test_what_a_vanished_client_published_still_reaches_a_broker():
    story = (with_channel() >> FromClient(A)).forget()
    story = (story >> BrokerLost()).forget() >> ClientGone()
    (
        story
        >> Handshaken()
        << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
        >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1))
        << ToBroker(on(0, m.ConnectionClose(200, b"client closed the connection")))
    ).done()


def test_what_a_vanished_client_began_is_not_waited_for():
    method, *_ = frames_of(A)
    story = (with_channel() >> FromClient(method)).forget()
    (story >> ClientGone() << ToBroker(on(0, m.ConnectionClose(200, b"client closed the connection")))).done()


@pytest.mark.parametrize("size_bytes", [0, 1, 4096, 300_000])
def test_a_body_of_any_size_is_replayed_to_the_byte(size_bytes):
    whole = publish(1, bytes(size_bytes), piece_bytes=131064)
    story = (confirming() >> FromClient(whole)).forget()
    (story >> FailOver() << ToBroker(REOPENED, HIDDEN_CONFIRMS, whole)).done()


def test_content_frames_are_checked_in_order():
    story = with_channel() >> FromClient(content(1, b"x"))
    close = m.decode(m.ConnectionClose, story.to_client.pop()[7:-1])
    assert close.reply_code == 505


def test_the_time_of_a_confirm_is_told_to_whoever_balances():
    story = (confirming() >> FromClient(A)).forget() >> After(0.25) >> FromBroker(ack(1, 1))
    observed = [command for command in story.observed if command.outcome == "confirmed"]
    assert [round(command.took_s, 3) for command in observed] == [0.25]


def test_a_confirm_by_another_broker_is_not_timed():
    story = ((confirming() >> FromClient(A)).forget() >> FailOver()).forget() >> FromBroker(
        on(1, m.ChannelOpenOk()), ack(1, 1)
    )
    assert [command for command in story.observed if command.outcome == "confirmed"] == []


def test_brokers_that_keep_dying_do_not_keep_a_session_whose_client_has_left():
    story = with_channel(failover_timeout_s=10.0, close_flush_timeout_s=5.0) >> FromClient(publish(1))
    story = story.forget() >> ClientGone()
    left_at = story.now
    while story.session.journal.phase is Phase.FLUSHING and story.now < left_at + 60:
        story = (story.forget() >> BrokerLost()).forget() >> Handshaken()
        story = story.forget() >> After(2.0)
    assert story.now <= left_at + 10.0 + 5.0 + 2.0
    story << Reported("publishes_dropped")


SELECT = on(1, m.ConfirmSelect(False))
SELECTED = on(1, m.ConfirmSelectOk())


def test_what_was_published_before_the_client_asked_for_confirms_still_keeps_a_close_waiting():
    story = (with_channel() >> FromClient(A, SELECT, B)).forget() >> FromBroker(SELECTED) << ToClient(SELECTED)
    story = story >> FromClient(CHANNEL_CLOSE) >> FromBroker(ack(1, 1)) << ToBroker(CHANNEL_CLOSE)
    (story >> FromBroker(CLOSE_OK) << ToClient(CLOSE_OK)).done()


def test_and_survives_a_broker_that_refuses_it_and_dies():
    story = (with_channel() >> FromClient(A, SELECT)).forget() >> FromBroker(SELECTED) << ToClient(SELECTED)
    story.troubled = True
    story = story >> FromBroker(nack(1, 1)) << ToBroker(CLOSED) >> FromClient(CHANNEL_CLOSE) >> FromBroker(CLOSE_OK)
    story = story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A) >> FromBroker(on(1, m.ChannelOpenOk()))
    story = story >> FromBroker(ack(1, 1)) << ToBroker(CHANNEL_CLOSE)
    (story >> FromBroker(CLOSE_OK) << ToClient(CLOSE_OK)).done()


def test_and_is_counted_when_the_close_could_wait_no_longer():
    story = (with_channel(heartbeat_s=600.0) >> FromClient(A, SELECT)).forget() >> FromBroker(SELECTED)
    story = story << ToClient(SELECTED) >> FromClient(CHANNEL_CLOSE) >> After(60.0) << ToBroker(CHANNEL_CLOSE)
    (story << Reported("publishes_dropped", {"cause": "unconfirmed", "count": 1})).done()
