"""Leaving a broker that is well: nothing is lost, nothing comes twice, and the client notices nothing."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.wire import pack_table, text_value
from proxy.session.commands import CloseClient, Dial
from proxy.session.description import describe
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    BrokerUp,
    ClientGone,
    DialFailed,
    FailOver,
    FromBroker,
    FromClient,
    FromOld,
    Handshaken,
    Leave,
    OldLost,
    Reported,
    Stay,
    ToBroker,
    ToClient,
    ToOld,
    confirming,
    consuming,
    running,
    with_channel,
)
from tests.support.engine_frames import (
    BROKER_START,
    BROKER_TUNE,
    ack,
    bare,
    consume,
    consume_ok,
    declare,
    deliver,
    frames_of,
    get_empty,
    nack,
    on,
    publish,
)

A, B = publish(1, b"a"), publish(1, b"b")
OPENED, CLOSED = on(1, m.ChannelOpenOk()), on(1, m.ChannelCloseOk())
CLOSE_OLD = on(1, m.ChannelClose(200, b"set up again"))
CANCEL = on(1, m.BasicCancel(b"c", False))
CANCELLED = bare(1, m.ident(60, 31), b"\x01c")
LEFT = on(0, m.ConnectionClose(200, b"moved to another broker"))
BYE = on(0, m.ConnectionCloseOk())
DIAL = Dial(2, frozenset({"rabbit1:5672"}), True)
STREAM_ARGUMENTS = pack_table({b"x-stream-offset": text_value("first")})
QOS = on(1, m.BasicQos(0, 10, False))
QOS_OK = bare(1, m.ident(60, 11))


def leaving(story):
    """The story's broker drains, and another one is attached beside it."""
    return (story >> Leave() >> After(5.0) << DIAL).forget() >> Handshaken()


def test_an_idle_session_just_changes_its_broker():
    story = leaving(running()) << ToOld(LEFT) << Reported("session_moved", {"left": "rabbit1:5672"})
    story = story >> FromOld(BYE)
    assert describe(story.done())["state"] == "attached"


def test_a_consumer_moves_when_the_client_has_settled_what_it_holds():
    story = (consuming() >> FromBroker(deliver(1, 1))).forget()
    story = leaving(story) << ToOld(CANCEL)
    story = story >> FromOld(deliver(1, 2), CANCELLED) << ToClient(deliver(1, 2))
    story = story >> FromClient(ack(1, 1)) << ToOld(ack(1, 1))
    story = story >> FromClient(ack(1, 2)) << ToOld(ack(1, 2), CLOSE_OLD)
    story = story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, consume(1))
    story = story >> FromBroker(OPENED, consume_ok(1), deliver(1, 1)) << ToClient(deliver(1, 3))
    (story >> FromClient(ack(1, 3)) << ToBroker(ack(1, 1))).done()


def test_a_publisher_moves_between_two_confirms():
    story = leaving((confirming() >> FromClient(A)).forget())
    story = story >> FromClient(B) >> FromOld(ack(1, 1)) << ToClient(ack(1, 1)) << ToOld(CLOSE_OLD)
    story = story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, HIDDEN_CONFIRMS, B)
    (story >> FromBroker(OPENED, ack(1, 1)) << ToClient(ack(1, 2))).done()


def test_a_client_that_works_on_what_it_holds_may_publish_meanwhile():
    story = leaving((consuming() >> FromBroker(deliver(1, 1))).forget()) << ToOld(CANCEL)
    story = story >> FromOld(CANCELLED) >> FromClient(A) << ToOld(HIDDEN_CONFIRMS, A)
    story = story >> FromClient(ack(1, 1)) << ToOld(ack(1, 1)) >> FromOld(ack(1, 1)) << ToOld(CLOSE_OLD)
    story = story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, HIDDEN_CONFIRMS, consume(1))
    story.done()


def test_each_channel_moves_by_itself_and_new_ones_are_opened_there():
    story = (with_channel(1, 2) >> FromClient(consume(1))).forget()
    story = (story >> FromBroker(consume_ok(1), deliver(1, 1))).forget()
    story = leaving(story) << ToOld(CANCEL, on(2, m.ChannelClose(200, b"set up again")))
    story = story >> FromOld(CANCELLED, on(2, m.ChannelCloseOk())) << ToBroker(on(2, m.ChannelOpen()))
    story = story >> FromBroker(on(2, m.ChannelOpenOk()))
    story = story >> FromClient(on(3, m.ChannelOpen())) << ToBroker(on(3, m.ChannelOpen()))
    mixed = publish(2), ack(1, 1), publish(2, b"x")
    hidden = on(2, m.ConfirmSelect(nowait=True))
    story = story >> FromClient(*mixed) << ToOld(ack(1, 1), CLOSE_OLD) << ToBroker(hidden, mixed[0], mixed[2])
    assert "move" in describe(story.session)["waiting"] or "set up" in describe(story.session)["waiting"]
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, consume(1))).done()


def test_what_the_old_broker_says_of_a_channel_that_has_moved_is_nobodys_business():
    story = leaving(consuming()) << ToOld(CANCEL) >> FromOld(CANCELLED) << ToOld(CLOSE_OLD)
    story = (story >> FromOld(CLOSED)).forget()
    (story >> FromOld(deliver(1, 1)) >> FromOld(BYE)).done()


def test_a_client_that_holds_on_keeps_its_consumer_where_it_is():
    story = (consuming(move_timeout_s=10.0, heartbeat_s=3600) >> FromBroker(deliver(1, 1))).forget()
    story = leaving(story) << ToOld(CANCEL) >> FromOld(CANCELLED) >> After(10.0) << ToOld(consume(1))
    story = story >> FromOld(consume_ok(1), deliver(1, 2)) << ToClient(deliver(1, 2))
    story = story >> FromClient(ack(1, 0, True)) << ToOld(ack(1, 0, True))
    story = story >> After(40.0) << ToOld(CANCEL) >> FromOld(CANCELLED) << ToOld(CLOSE_OLD)
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, consume(1))).done()


def test_a_consumer_that_the_client_has_cancelled_meanwhile_does_not_come_back():
    story = (consuming(move_timeout_s=10.0, heartbeat_s=3600) >> FromBroker(deliver(1, 1))).forget()
    story = leaving(story) << ToOld(CANCEL) >> FromClient(CANCEL) << ToOld(CANCEL) >> After(10.0)
    (story >> FromOld(CANCELLED, CANCELLED) << ToClient(CANCELLED)).done()


def test_a_channel_that_the_client_closes_is_left_alone():
    closing = on(1, m.ChannelClose(200, b""))
    story = leaving((consuming(heartbeat_s=3600) >> FromClient(closing)).forget()) >> After(40.0)
    (story >> FromOld(CLOSED) << ToClient(CLOSED) << ToOld(LEFT)).done()


def test_confirms_that_do_not_come_keep_nobody_waiting_for_ever():
    story = leaving((confirming(move_timeout_s=10.0, heartbeat_s=3600) >> FromClient(A)).forget())
    story = story >> FromClient(B) >> After(10.0) << ToOld(B)
    (story >> FromOld(ack(1, 2, True)) << ToClient(ack(1, 2, True))).done()


def test_the_death_of_the_broker_that_is_left_is_a_failover_without_a_search():
    story = leaving((consuming() >> FromBroker(deliver(1, 1))).forget()) << ToOld(CANCEL)
    story = story >> OldLost() << Reported("failover_started") << ToBroker(REOPENED, consume(1))
    story = story >> FromBroker(OPENED, consume_ok(1)) << Reported("failover_done")
    (story >> FromClient(ack(1, 1))).done()


def test_the_death_of_the_new_broker_brings_channels_back_to_the_old_one():
    story = (with_channel(1, 2, heartbeat_s=3600) >> FromClient(consume(1))).forget()
    story = (story >> FromBroker(consume_ok(1), deliver(1, 1))).forget()
    story = (leaving(story).forget() >> FromOld(on(2, m.ChannelCloseOk()))).forget() >> FromBroker(
        on(2, m.ChannelOpenOk())
    )
    story = story >> BrokerLost() << ToOld(on(2, m.ChannelOpen()), consume(1))
    story = story >> FromOld(on(2, m.ChannelOpenOk()), CANCELLED, consume_ok(1))
    story = story << Reported("failover_done", {"endpoint": "rabbit1:5672"})
    story = story >> FromClient(ack(1, 1)) << ToOld(ack(1, 1))
    # It is still to be left.
    (story >> After(30.0) << Dial(3, frozenset({"rabbit1:5672"}), True)).done()


def test_the_death_of_the_new_broker_gives_back_what_was_about_to_leave():
    story = (with_channel(1, 2, heartbeat_s=3600) >> FromClient(consume(1), on(2, m.ConfirmSelect(False)))).forget()
    answers = consume_ok(1) + on(2, m.ConfirmSelectOk()) + deliver(1, 1)
    story = (story >> FromBroker(answers)).forget()
    story = (story >> FromClient(publish(2, b"a"))).forget()
    story = leaving(story) << ToOld(CANCEL) >> FromOld(CANCELLED)
    story = story >> FromClient(publish(2, b"b")) >> BrokerLost() << ToOld(consume(1), publish(2, b"b"))
    story.done()


def test_what_the_old_broker_had_ended_before_it_is_asked_for_anew_is_asked_for_once():
    """The home of its queue dies while its channel is about to leave, and the new broker dies too."""
    story = (consuming(heartbeat_s=3600) >> FromBroker(deliver(1, 1))).forget()
    story = leaving(story) << ToOld(CANCEL) >> BrokerLost() << ToOld(consume(1))
    (story >> FromOld(on(1, m.BasicCancel(b"c", True)), CANCELLED, consume_ok(1)) >> After(1.0)).done()


def test_a_cancel_that_the_old_broker_never_answered_is_not_asked_of_the_new_one():
    story = leaving((consuming() >> FromClient(QOS)).forget()) << ToOld(CANCEL)
    (story >> OldLost() << ToBroker(REOPENED, consume(1), QOS)).done()


def test_the_death_of_the_old_broker_before_there_is_a_new_one_is_an_ordinary_failover():
    story = (consuming() >> Leave() >> After(5.0) << DIAL) >> OldLost() << Reported("failover_started")
    story = (story >> BrokerUp("rabbit2:5672")).forget()
    story = (story >> FromBroker(BROKER_START, BROKER_TUNE)).forget()
    (story >> FromBroker(on(0, m.ConnectionOpenOk())) << ToBroker(REOPENED, consume(1))).done()


@pytest.mark.parametrize("gone", [DialFailed(), BrokerLost()])
def test_a_move_to_nowhere_is_tried_again_and_the_client_works_on(gone):
    story = confirming(heartbeat_s=3600) >> Leave() >> After(5.0) << DIAL
    if isinstance(gone, BrokerLost):
        story = (story >> BrokerUp("rabbit2:5672")).forget()
    story = story >> gone >> FromClient(A) << ToOld(A)
    (story >> After(30.0) << Dial(3, frozenset({"rabbit1:5672"}), True)).done()


def test_a_refusal_by_the_other_broker_is_not_told_to_the_client():
    story = (with_channel() >> Leave() >> After(5.0) << DIAL) >> BrokerUp("rabbit2:5672")
    story = story.forget() >> FromBroker(on(0, m.ConnectionClose(403, b"ACCESS_REFUSED", 0, 0)))
    (story << ToBroker(BYE) >> FromClient(A) << ToOld(HIDDEN_CONFIRMS, A)).done()


def test_a_broker_that_is_not_left_after_all_is_stayed_with():
    story = consuming(heartbeat_s=3600) >> Leave() >> Stay() >> After(60.0)
    story = story >> Leave() >> After(5.0) << DIAL >> Stay() >> After(60.0)
    (story >> FromOld(deliver(1, 1)) << ToClient(deliver(1, 1))).done()


@pytest.mark.parametrize(
    ("asked", "answers", "why"),
    [
        (declare(1), on(1, m.QueueDeclareOk(b"x", 0, 0)), "exclusive queue 'x'"),
        (
            declare(1, exclusive=False, auto_delete=True) + consume(1, b"x"),
            on(1, m.QueueDeclareOk(b"x", 0, 0)) + consume_ok(1),
            "auto-delete queue 'x'",
        ),
        (
            declare(1, exclusive=False),
            on(1, m.QueueDeclareOk(b"x", 0, 0)),
            "transient queue 'x'",
        ),
        (
            on(1, m.BasicConsume(0, b"q", b"c", False, False, True, False, b"")),
            consume_ok(1),
            "queue 'q' for itself",
        ),
        (
            consume(1) + on(1, m.TxSelect()),
            consume_ok(1) + on(1, m.TxSelectOk()) + deliver(1, 1),
            "receives in transactions",
        ),
        (consume(1, b"amq.rabbitmq.reply-to", no_ack=True), consume_ok(1), "reply address"),
        (
            on(1, m.BasicConsume(0, b"s", b"c", False, False, False, False, STREAM_ARGUMENTS)),
            consume_ok(1),
            "has got nothing yet of the stream 's'",
        ),
    ],
)
def test_a_session_stays_where_leaving_would_show(asked, answers, why):
    story = ((with_channel() >> FromClient(asked)).forget() >> FromBroker(answers)).forget()
    story = story >> Leave() >> After(5.0)
    story.done()
    stays = [report.facts["reason"] for report in story.reports if report.event == "session_stays"]
    assert len(stays) == 1
    assert why in stays[0]


def test_a_transaction_moves_between_two_of_its_commits():
    select, commit = on(1, m.TxSelect()), bare(1, m.TX_COMMIT)
    story = (with_channel() >> FromClient(select)).forget() >> FromBroker(on(1, m.TxSelectOk()))
    story = (leaving((story.forget() >> FromClient(A, commit)).forget())) >> FromClient(B)
    story = story >> FromOld(bare(1, m.ident(90, 21))) << ToClient(bare(1, m.ident(90, 21))) << ToOld(B)
    story = story >> FromClient(commit) << ToOld(commit)
    story = story >> FromOld(bare(1, m.ident(90, 21))) << ToClient(bare(1, m.ident(90, 21))) << ToOld(CLOSE_OLD)
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, select)).done()


def test_a_request_is_answered_by_the_broker_that_was_asked():
    get = on(1, m.BasicGet(0, b"q", False))
    story = leaving((with_channel() >> FromClient(get)).forget())
    story = story >> FromOld(get_empty(1)) << ToClient(get_empty(1)) << ToOld(CLOSE_OLD)
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED)).done()


def test_half_a_publish_is_finished_where_it_began():
    method, *rest = frames_of(publish(1, b"ab", piece_bytes=1))
    story = leaving((confirming() >> FromClient(method)).forget())
    story = story >> FromClient(*rest) << ToOld(*rest) >> FromOld(ack(1, 1)) << ToClient(ack(1, 1)) << ToOld(CLOSE_OLD)
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, HIDDEN_CONFIRMS)).done()


def test_nothing_is_said_inside_a_publish_of_a_channel_that_leaves_or_stays():
    method, header, body = frames_of(publish(1, b"a"))
    story = consuming(move_timeout_s=10.0, heartbeat_s=3600, publish_guarantee="as_sent") >> FromBroker(deliver(1, 1))
    story = leaving((story.forget() >> FromClient(method)).forget()) >> FromClient(header) << ToOld(header)
    story = story >> FromClient(body) << ToOld(body, CANCEL) >> FromOld(CANCELLED)
    story = story >> FromClient(method) << ToOld(method) >> After(10.0)
    (story >> FromClient(header, body) << ToOld(header, body, consume(1))).done()


def test_a_consumer_that_begins_meanwhile_is_cancelled_there_and_comes_back_here():
    story = leaving((consuming() >> FromBroker(deliver(1, 1))).forget()) << ToOld(CANCEL)
    second = consume(1, tag=b"d")
    story = story >> FromClient(second) << ToOld(second)
    story = story >> FromOld(CANCELLED, consume_ok(1, b"d")) << ToClient(consume_ok(1, b"d"))
    story = story << ToOld(on(1, m.BasicCancel(b"d", False))) >> FromOld(bare(1, m.ident(60, 31), b"\x01d"))
    story = story >> FromClient(ack(1, 1)) << ToOld(ack(1, 1), CLOSE_OLD)
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, consume(1), second)).done()


def test_the_client_leaves_both_brokers_politely():
    close = on(0, m.ConnectionClose(200, b"bye"))
    closed = on(0, m.ConnectionClose(200, b"client closed the connection"))
    story = leaving((consuming() >> FromBroker(deliver(1, 1))).forget()) << ToOld(CANCEL)
    story = story >> FromClient(close) << ToOld(closed) << ToBroker(closed) >> FromOld(BYE)
    (story >> FromBroker(BYE) << ToClient(BYE) << CloseClient()).done()


def test_a_client_that_vanishes_leaves_no_broker_behind():
    closed = on(0, m.ConnectionClose(200, b"client closed the connection"))
    story = leaving((consuming() >> FromBroker(deliver(1, 1))).forget()) << ToOld(CANCEL)
    story = story >> ClientGone() << ToOld(closed) << ToBroker(closed)
    (story >> After(5.0) << CloseClient()).done()


def test_a_broker_that_does_not_say_goodbye_is_not_waited_for():
    story = leaving(running()) << ToOld(LEFT) >> After(5.0)
    assert len(story.done().journal.uplinks) == 1


def test_a_refusal_while_the_cluster_drains_is_published_again_at_the_new_broker():
    story = confirming()
    story.troubled = True
    story = leaving((story >> FromClient(A)).forget()) >> FromOld(nack(1, 1)) << ToOld(CLOSE_OLD)
    story = story >> FromOld(CLOSED) >> After(1.0) << ToOld(LEFT) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    (story >> FromBroker(OPENED, ack(1, 1)) << ToClient(ack(1, 1))).done()


def test_a_session_that_is_failing_over_does_not_move_as_well():
    story = (consuming(heartbeat_s=3600) >> FailOver()).forget() >> Leave() >> After(5.0)
    story = story >> FromOld(OPENED, consume_ok(1)) >> After(30.0)
    (story << Dial(3, frozenset({"rabbit2:5672"}), True)).done()


def test_an_exclusive_queue_declared_on_the_way_ends_the_move_at_once():
    story = leaving((consuming() >> FromBroker(deliver(1, 1))).forget()) << ToOld(CANCEL)
    story = story >> FromClient(declare(1)) << ToBroker(REOPENED, consume(1), declare(1))
    story = story >> FromBroker(OPENED, consume_ok(1), on(1, m.QueueDeclareOk(b"x", 0, 0)))
    (story << ToClient(on(1, m.QueueDeclareOk(b"x", 0, 0)))).done()


LOCKED = on(2047, m.ChannelOpenOk(), m.ChannelClose(405, b"RESOURCE_LOCKED"))


@pytest.mark.parametrize("answered_before", [True, False])
def test_an_exclusive_queue_declared_before_the_other_broker_is_there_prevents_the_move(answered_before):
    declared = on(1, m.QueueDeclareOk(b"x", 0, 0))
    story = consuming(heartbeat_s=3600) >> Leave() >> After(5.0) << DIAL >> FromClient(declare(1)) << ToOld(declare(1))
    if answered_before:
        story = (story >> FromOld(declared) << ToClient(declared) >> Handshaken()).forget() >> FromBroker(LOCKED)
    else:
        story = (story >> Handshaken() >> FromOld(declared) << ToClient(declared)).forget()
    assert len(story.forget().session.journal.uplinks) == 1
    assert "exclusive queue" in describe(story.session)["reasons"][0]


def test_a_consumer_that_comes_back_where_it_was_has_its_own_prefetch():
    story = (with_channel(move_timeout_s=10.0, heartbeat_s=3600) >> FromClient(QOS, consume(1))).forget()
    story = leaving((story >> FromBroker(QOS_OK, consume_ok(1), deliver(1, 1))).forget()) << ToOld(CANCEL)
    (story >> FromOld(CANCELLED) >> After(10.0) << ToOld(QOS, consume(1))).done()


def test_a_broker_lost_after_the_topology_was_declared_elsewhere_has_it_declared_again():
    declared = on(1, m.QueueDeclareOk(b"x", 0, 0))
    story = consuming() >> Leave() >> After(5.0) << DIAL >> FromClient(declare(1)) << ToOld(declare(1))
    story = (story >> Handshaken() >> OldLost()).forget() >> After(0.0)
    assert story.session.journal.candidate.generation == 3
    assert declared not in story.to_client


def test_a_large_delivery_is_not_torn_for_an_exclusive_queue():
    first, *rest = frames_of(deliver(1, 1, bytes(9000), piece_bytes=3000))
    story = (with_channel(1, 2, delivery_hold_bytes_max=4096) >> FromClient(consume(1))).forget()
    story = (story >> FromBroker(consume_ok(1), first, *rest[:3])).forget()
    story = leaving(story).forget() >> FromOld(on(2, m.ChannelCloseOk()))
    story = story.forget() >> FromClient(declare(2))
    assert len(story.forget().session.journal.uplinks) == 1
    (story >> FromOld(rest[3]) << ToClient(rest[3])).forget()
