"""What goes wrong on a move, or comes at the same time: brokers that die, hang, block and refuse; clients that end."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.session.commands import Dial, HangUp
from proxy.session.description import describe
from tests.session.test_moving import (
    BYE,
    CANCEL,
    CANCELLED,
    CLOSE_OLD,
    CLOSED,
    DIAL,
    LEFT,
    OPENED,
    A,
    B,
    leaving,
)
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    BrokerLost,
    BrokerUp,
    ClientGone,
    FailOver,
    FromBroker,
    FromClient,
    FromOld,
    Handshaken,
    Leave,
    OldLost,
    Reported,
    Sees,
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
    BROKER_OPEN_OK,
    BROKER_START,
    BROKER_TUNE,
    HEARTBEAT,
    ack,
    bare,
    consume,
    consume_ok,
    declare,
    deliver,
    exchange,
    frames_of,
    nack,
    on,
    publish,
    returned,
)

CLIENT_CLOSES = on(0, m.ConnectionClose(200, b"bye"))
CLIENT_CLOSED = on(0, m.ConnectionClose(200, b"client closed the connection"))
BLOCKED, UNBLOCKED = bare(0, m.ident(10, 60), b"\x03low"), on(0, m.ConnectionUnblocked())
RENEWAL, RENEWED = on(0, m.ConnectionUpdateSecret(b"new", b"r")), bare(0, m.CONNECTION_UPDATE_SECRET_OK)
FLOW, FLOW_OK = on(1, m.ChannelFlow(True)), on(1, m.ChannelFlowOk(True))
AS_SENT = {"publish_guarantee": "as_sent", "heartbeat_s": 3600}
SHARED = declare(2, exclusive=False)


def holding(**given):
    """A client that works on a delivery, so that its channel cannot leave yet."""
    return (consuming(**{"heartbeat_s": 3600} | given) >> FromBroker(deliver(1, 1))).forget()


def split(**given):
    """A client whose channel 2 is at the new broker, while channel 1 is held at the old one by a delivery."""
    story = (with_channel(1, 2, **{"heartbeat_s": 3600} | given) >> FromClient(consume(1))).forget()
    story = (story >> FromBroker(consume_ok(1), deliver(1, 1))).forget()
    story = (leaving(story).forget() >> FromOld(CANCELLED, on(2, m.ChannelCloseOk()))).forget()
    return (story >> FromBroker(on(2, m.ChannelOpenOk()))).forget()


def between(**given):
    """The other broker is there, but a declaration under way keeps the session from using it."""
    story = confirming(**{"heartbeat_s": 3600} | given)
    story = (story >> FromClient(on(2, m.ChannelOpen()))).forget() >> FromBroker(on(2, m.ChannelOpenOk()))
    story = story.forget() >> Leave() >> After(5.0) << DIAL >> FromClient(SHARED) << ToOld(SHARED)
    return (story >> Handshaken()).forget()


# What was published without confirms.


def test_a_channel_without_confirms_is_closed_when_its_returns_have_come():
    story = leaving((with_channel(**AS_SENT) >> FromClient(A)).forget()) << ToOld(FLOW)
    story = story >> FromClient(B) >> FromOld(returned(1)) << ToClient(returned(1))
    story = story >> FromOld(FLOW_OK) << ToOld(CLOSE_OLD)
    (story >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED, B)).done()


def test_a_sign_that_the_old_broker_never_gave_does_not_show():
    story = leaving((with_channel(**AS_SENT) >> FromClient(A)).forget()) << ToOld(FLOW)
    story = story >> FromClient(B) >> OldLost() << ToBroker(REOPENED, FLOW, B)
    (story >> FromBroker(OPENED, FLOW_OK, returned(1)) << ToClient(returned(1))).done()


def test_a_sign_that_does_not_come_keeps_nobody_waiting_for_ever():
    story = leaving((with_channel(move_timeout_s=10.0, **AS_SENT) >> FromClient(A)).forget()) << ToOld(FLOW)
    story = story >> FromClient(B) >> After(10.0) << ToOld(B)
    story = story >> FromOld(FLOW_OK) >> After(40.0) << ToOld(FLOW)
    (story >> FromOld(FLOW_OK) << ToOld(CLOSE_OLD)).done()


# A client that ends meanwhile.


@pytest.mark.parametrize("end", [FromClient(CLIENT_CLOSES), ClientGone()], ids=["closes", "vanishes"])
def test_what_waits_for_the_move_is_published_before_the_client_leaves(end):
    story = leaving((with_channel(heartbeat_s=3600) >> FromClient(A)).forget()) >> FromClient(B)
    story = story >> end << ToOld(B) >> FromOld(ack(1, 1))
    (story >> FromOld(ack(1, 2)) << ToOld(CLIENT_CLOSED) << ToBroker(CLIENT_CLOSED)).done()


def test_what_waits_for_a_channel_between_two_brokers_is_published_before_the_client_leaves():
    story = leaving(confirming(heartbeat_s=3600)) << ToOld(CLOSE_OLD)
    story = story >> FromClient(A, CLIENT_CLOSES) >> FromOld(CLOSED) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    (story << ToOld(CLIENT_CLOSED) << ToBroker(CLIENT_CLOSED)).done()


def test_a_client_that_closes_its_channel_and_itself_is_served_in_that_order():
    closing = on(1, m.ChannelClose(200, b""))
    story = leaving((with_channel(heartbeat_s=3600) >> FromClient(A)).forget())
    story = story >> FromClient(closing, CLIENT_CLOSES) >> FromOld(ack(1, 1)) << ToOld(closing)
    (story << ToOld(CLIENT_CLOSED) << ToBroker(CLIENT_CLOSED)).done()


def test_a_consumer_does_not_come_back_behind_the_close_of_its_channel():
    closing = on(1, m.ChannelClose(200, b""))
    story = (split() >> FromClient(publish(2))).forget()
    story = story >> FromClient(closing, CLIENT_CLOSES) << ToOld(closing)
    story = story >> BrokerLost() << ToOld(on(2, m.ChannelOpen(), m.ConfirmSelect(nowait=True)), publish(2))
    (story >> FromOld(on(2, m.ChannelOpenOk()), ack(2, 1)) << ToOld(CLIENT_CLOSED)).done()


def test_a_client_that_is_gone_needs_no_clock_for_its_move():
    story = leaving(holding(move_timeout_s=2.0)) << ToOld(CANCEL)
    story = story >> ClientGone() << ToOld(CLIENT_CLOSED) << ToBroker(CLIENT_CLOSED)
    (story >> After(4.0)).done()


def test_a_client_that_waits_for_its_confirms_needs_no_clock_for_its_move():
    story = (split(move_timeout_s=2.0) >> FromClient(publish(2))).forget()
    story = story >> ClientGone() >> After(4.0)
    (story >> FromBroker(ack(2, 1)) << ToOld(CLIENT_CLOSED) << ToBroker(CLIENT_CLOSED)).done()


# A broker that does not do its part.


def test_a_broker_that_does_not_close_a_channel_is_left_all_the_same():
    story = leaving(confirming(move_timeout_s=10.0, heartbeat_s=3600)) << ToOld(CLOSE_OLD) >> FromClient(A)
    story = story >> After(10.0) << Reported("failover_started") << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    (story >> FromBroker(OPENED, ack(1, 1)) << ToClient(ack(1, 1))).done()


def test_a_channel_that_moves_a_second_time_has_its_whole_time_again():
    story = leaving(confirming(heartbeat_s=3600)) << ToOld(CLOSE_OLD) >> FromClient(A)
    story = story >> FromOld(CLOSED) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A) << ToOld(LEFT)
    story = story >> FromBroker(OPENED) >> FromBroker(ack(1, 1)) << ToClient(ack(1, 1)) >> FromOld(BYE)
    story = story >> After(120.0) >> Leave() >> After(5.0)
    story = story << Dial(3, frozenset({"rabbit2:5672"}), True) >> Handshaken("rabbit3:5672") << ToOld(CLOSE_OLD)
    (story >> After(0.0)).done()


def test_a_channel_that_is_set_up_again_needs_no_clock_for_its_move():
    story = confirming(heartbeat_s=3600, move_timeout_s=10.0)
    story.troubled = True
    story = leaving((story >> FromClient(A)).forget()) >> FromOld(nack(1, 1)) << ToOld(CLOSE_OLD)
    (story >> After(20.0)).done()


def test_a_declaration_that_is_never_answered_does_not_hold_the_other_broker_for_ever():
    story = between(handshake_timeout_s=10.0) >> After(10.0) >> FromClient(A) << ToOld(A)
    (story >> After(30.0) << Dial(3, frozenset({"rabbit1:5672"}), True)).done()


def test_a_channel_is_set_up_again_while_the_other_broker_waits():
    story = between()
    story.troubled = True
    story = story >> FromClient(A) << ToOld(A) >> FromOld(nack(1, 1)) << ToOld(CLOSE_OLD) >> FromOld(CLOSED)
    (story >> After(1.0) << ToOld(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_two_brokers_that_fall_silent_together_are_one_failover():
    needed = on(0, m.ConnectionClose(200, b"needed in another way"))
    story = between(heartbeat_s=5, handshake_timeout_s=60.0)
    story = (story >> FromOld(HEARTBEAT) >> After(9.9)).forget() >> After(0.2) << Reported("failover_started")
    (story << ToBroker(needed) << Dial(3, frozenset({"rabbit1:5672"}), True)).done()


def test_the_broker_that_is_left_is_hung_up_on_when_the_new_one_dies():
    story = leaving(running(heartbeat_s=3600)) << ToOld(LEFT) >> BrokerLost()
    story = (story.forget() >> BrokerUp("rabbit3:5672")).forget()
    session = (story >> FromBroker(BROKER_START, BROKER_TUNE)).forget().done()
    session.from_broker(3, BROKER_OPEN_OK, story.now)
    assert HangUp(1, True, []) in session.journal.commands


@pytest.mark.parametrize("refusal", [(403, b"ACCESS_REFUSED"), (530, b"NOT_ALLOWED - access refused")])
def test_a_refusal_by_the_other_broker_is_not_blamed_on_it(refusal):
    story = (with_channel() >> Leave() >> After(5.0) << DIAL >> BrokerUp("rabbit2:5672")).forget()
    story = story >> FromBroker(on(0, m.ConnectionClose(*refusal, 0, 0))) << ToBroker(BYE)
    story.done()
    assert [each.outcome for each in story.observed] == ["handshaken"]


# Words on channel 0.


def test_a_client_is_told_once_that_two_brokers_block_it_and_once_that_they_do_not():
    story = leaving(holding()) << ToOld(CANCEL)
    story = story >> FromOld(BLOCKED) << ToClient(BLOCKED) >> FromBroker(BLOCKED) >> FromOld(UNBLOCKED)
    (story >> FromBroker(UNBLOCKED) << ToClient(UNBLOCKED)).done()


def test_a_broker_that_is_lost_blocks_nobody():
    story = leaving(holding()) << ToOld(CANCEL) >> FromOld(BLOCKED) << ToClient(BLOCKED)
    (story >> OldLost() << ToBroker(REOPENED, consume(1)) << ToClient(UNBLOCKED)).done()


def test_a_client_that_is_blocked_by_the_broker_that_is_left_stays_so_when_it_falls_back_to_it():
    story = leaving(holding()) << ToOld(CANCEL) >> FromOld(BLOCKED) << ToClient(BLOCKED)
    story = story >> BrokerLost() << ToOld(consume(1))
    (story >> FromOld(UNBLOCKED) << ToClient(UNBLOCKED)).done()


def test_a_broker_that_blocks_and_does_not_say_goodbye_blocks_nobody():
    story = leaving(running(heartbeat_s=3600)) << ToOld(LEFT) >> FromOld(BLOCKED) << ToClient(BLOCKED)
    (story >> After(5.0) << ToClient(UNBLOCKED)).done()


@pytest.mark.parametrize("answers", [(FromOld, FromBroker), (FromBroker, FromOld)])
def test_a_renewed_token_is_for_both_brokers_and_answered_once(answers):
    story = leaving(holding()) << ToOld(CANCEL) >> FromClient(RENEWAL) << ToBroker(RENEWAL) << ToOld(RENEWAL)
    for answer in answers:
        story = story >> answer(RENEWED)
        if answer is FromBroker:
            story = story << ToClient(RENEWED)
    story.done()


@pytest.mark.parametrize("answers", [(FromOld, FromBroker), (FromBroker, FromOld)])
def test_a_token_renewed_before_the_other_broker_is_there_is_renewed_there_too(answers):
    story = holding() >> Leave() >> After(5.0) << DIAL >> FromClient(RENEWAL) << ToOld(RENEWAL)
    story = story >> Handshaken() << ToBroker(RENEWAL) << ToOld(CANCEL)
    for answer in answers:
        story = story >> answer(RENEWED)
        if answer is FromBroker:
            story = story << ToClient(RENEWED)
    story.done()


@pytest.mark.parametrize("answered_before", [True, False])
def test_a_renewal_is_answered_by_the_old_broker_if_the_new_one_dies(answered_before):
    story = split() >> FromClient(RENEWAL) << ToBroker(RENEWAL) << ToOld(RENEWAL)
    if answered_before:
        story = story >> FromOld(RENEWED)
    story = story >> BrokerLost() << ToOld(RENEWAL, on(2, m.ChannelOpen()), consume(1))
    story = story >> FromOld(RENEWED) << ToClient(RENEWED)
    if not answered_before:
        story = story >> FromOld(RENEWED)
    story.done()


# What is to be left, and for how long.


def test_a_move_declares_nothing_again():
    made, declared = exchange(1, auto_delete=True), bare(1, m.ident(40, 11))
    story = leaving(((with_channel() >> FromClient(made)).forget() >> FromBroker(declared)).forget())
    story = story << ToOld(CLOSE_OLD) >> FromOld(CLOSED) << ToOld(LEFT) << ToBroker(REOPENED)
    (story >> FromBroker(OPENED)).done()


def test_a_session_that_stays_says_so_again_when_its_broker_is_to_be_left_again():
    declared = on(1, m.QueueDeclareOk(b"x", 0, 0))
    story = ((with_channel(heartbeat_s=3600) >> FromClient(declare(1))).forget() >> FromBroker(declared)).forget()
    story = story >> Leave() >> After(5.0) << Reported("session_stays")
    (story >> Stay() >> After(60.0) >> Leave() >> After(5.0) << Reported("session_stays")).done()


def test_a_channel_that_could_not_be_set_up_again_does_not_keep_the_session():
    story = (consuming(heartbeat_s=3600) >> FailOver()).forget()
    for _ in range(6):
        story = story.forget() >> FromBroker(OPENED, on(1, m.ChannelClose(403, b"ACCESS_REFUSED", 60, 20)))
        story = story.forget() >> After(3.0)
    story = story.forget() >> FromClient(CLOSED) >> Leave() >> After(5.0)
    (story << Dial(3, frozenset({"rabbit2:5672"}), True)).done()


def test_a_move_that_ends_at_once_is_no_close_by_an_operator():
    story = leaving(holding()) << ToOld(CANCEL) >> FromClient(declare(1))
    story << ToBroker(REOPENED, consume(1), declare(1)) << Sees("why", lambda s: s.attachment.cause == "move_ended")
    story.done()


def test_a_broker_that_is_not_to_be_left_any_more_is_stayed_with_after_a_fallback():
    story = split() >> Stay() >> BrokerLost() << ToOld(on(2, m.ChannelOpen()), consume(1))
    (story >> FromOld(on(2, m.ChannelOpenOk()), consume_ok(1)) >> After(60.0)).done()


def test_nothing_waits_for_a_channel_that_has_ended_inside_a_publish():
    story = (with_channel(heartbeat_s=3600) >> FromClient(on(1, m.TxSelect()))).forget()
    story = (story >> FromBroker(on(1, m.TxSelectOk()))).forget() >> FromClient(on(1, m.BasicQos(0, 1, False)))
    story = leaving(story.forget()).forget() >> FromClient(frames_of(publish(1, b"a"))[0])
    story = (story.forget() >> OldLost()).forget() >> FromClient(on(1, m.ChannelCloseOk()))
    assert describe(story.done())["waiting"] == ""
