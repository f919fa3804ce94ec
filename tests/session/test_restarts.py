"""Single channels that are opened anew on a connection that is fine."""

from __future__ import annotations

from proxy.amqp import methods as m
from proxy.session.commands import ReadClient
from proxy.session.description import describe
from proxy.session.journal import Phase
from tests.support.engine import (
    HIDDEN_CONFIRMS,
    REOPENED,
    After,
    FailOver,
    FromBroker,
    FromClient,
    Handshaken,
    Reported,
    Sees,
    ToBroker,
    ToClient,
    confirming,
    consuming,
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
)

A = publish(1, b"a")
OPENED, CLOSED = on(1, m.ChannelOpenOk()), on(1, m.ChannelCloseOk())
CLOSE_UPSTREAM = on(1, m.ChannelClose(200, b"set up again"))


def restarting(**given):
    """Channel 1 was refused a publish soon after a failover; its close is on its way."""
    story = (((confirming(**given) >> FromClient(A)).forget() >> FailOver()).forget() >> FromBroker(OPENED)).forget()
    return (story >> FromBroker(nack(1, 1))).forget()


def test_a_channel_that_is_still_closing_asks_for_no_time_when_the_session_closes():
    story = restarting(failover_timeout_s=2.0, heartbeat_s=3600) >> After(1.5)
    story = (story >> FromClient(on(0, m.ConnectionClose(200, b"bye")))).forget()
    assert (story >> After(4.0)).forget().session.journal.phase is Phase.CLOSING
    assert (story >> After(2.0)).forget().session.journal.phase is Phase.ENDED


def test_nothing_of_a_channel_that_is_being_closed_is_believed():
    gone = on(1, m.ChannelClose(406, b"PRECONDITION_FAILED"))
    story = restarting() >> FromBroker(ack(1, 1), deliver(1, 1), gone) << ToBroker(CLOSED)
    (story >> FromBroker(CLOSED) >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_what_the_client_sends_meanwhile_follows():
    b = publish(1, b"b")
    story = restarting() >> FromClient(b) >> FromBroker(CLOSED)
    (story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A, b)).done()


def test_a_client_may_close_meanwhile():
    close = on(1, m.ChannelClose(200, b"bye"))
    story = restarting() >> FromClient(close) >> FromBroker(CLOSED)
    story = story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A, close)
    (story >> FromBroker(OPENED, CLOSED) << ToClient(CLOSED)).done()


def test_a_restart_that_waits_for_the_rest_of_a_publish_is_given_it_whatever_the_limit():
    big = publish(1, bytes(70_000))
    story = confirming(unsettled_bytes_max=65536)
    story = ((story >> FailOver()).forget() >> FromBroker(OPENED)).forget()
    method, *content = frames_of(publish(1, b"half"))
    story = (story >> FromClient(big, method)).forget()
    story = story >> FromBroker(nack(1, 1)) << ReadClient(True)
    (story >> FromClient(*content) << ToBroker(*content, CLOSE_UPSTREAM) << ReadClient(False)).done()


def test_a_second_failover_replaces_the_restart():
    (restarting() >> FailOver("rabbit3:5672") << ToBroker(REOPENED, HIDDEN_CONFIRMS, A) >> After(1.0)).done()


def test_the_wait_is_named():
    assert "channels [1] are set up again" in describe(restarting().session)["waiting"]


def test_restarts_are_paced():
    story = restarting() >> FromBroker(CLOSED) >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)
    story = (story >> FromBroker(OPENED, nack(1, 1))).forget() >> FromBroker(CLOSED) >> After(0.05)
    (story >> After(0.1) << ToBroker(REOPENED, HIDDEN_CONFIRMS, A)).done()


def test_a_broker_that_gives_a_got_tag_twice_is_left():
    story = (consuming() >> FromBroker(deliver(1, 1))).forget() >> FromClient(on(1, m.BasicGet(0, b"q", False)))
    story = story.forget() >> FromBroker(get_ok(1, 1))
    story << Sees("looking", lambda s: s.attachment.searching)


def test_the_answer_of_one_replay_is_not_taken_for_another():
    story = (consuming() >> FailOver()).forget() >> FromBroker(OPENED)
    story = (story >> FailOver("rabbit3:5672")).forget() >> FromBroker(OPENED, consume_ok(1))
    (story >> FromBroker(deliver(1, 1)) << ToClient(deliver(1, 1))).done()


def test_a_channel_that_becomes_transactional_inside_a_large_delivery_is_answered_after_it():
    first, *rest = frames_of(deliver(1, 1, bytes(9000), piece_bytes=3000))
    covered = (consuming(delivery_hold_bytes_max=4096) >> FromClient(A)).forget() >> FromBroker(ack(1, 1))
    story = covered >> FromBroker(first, *rest[:3]) << ToClient(first, *rest[:3])
    select = on(1, m.TxSelect())
    story = story >> FromClient(select) >> FromBroker(*rest[3:])
    story = story << ToClient(*rest[3:], on(1, m.TxSelectOk())) << ToBroker(CLOSE_UPSTREAM)
    (story >> FromBroker(CLOSED) >> After(1.0) << ToBroker(REOPENED, select, consume(1))).done()


TEXT = b"INTERNAL_ERROR - the broker has not answered for 60s what sets the channel up again"
UNANSWERED = m.ChannelClose(541, TEXT, 0, 0)


def unanswered():
    """The broker, which is there, does not answer what sets channel 1 up again."""
    story = (consuming(heartbeat_s=600.0) >> FailOver()).forget() >> After(60.0) << ToBroker(CLOSE_UPSTREAM)
    return story << Reported("channel_restarted", {"channel": 1, "reason": "replay not answered"})


def test_a_replay_without_an_answer_ends_its_channel():
    story = unanswered() >> FromBroker(CLOSED) >> After(0.1) << ToClient(on(1, UNANSWERED))
    (story << Reported("channel_given_up", {"channel": 1, "reply_code": 541})).done()


def test_or_its_broker_if_that_does_not_even_close_it():
    story = (unanswered() >> After(60.0)).forget()
    assert story.session.journal.uplink is None
    story = story >> Handshaken("rabbit1:5672") << ToClient(on(1, UNANSWERED))
    story.done()


def test_nor_does_it_end_the_others_when_its_first_trouble_is_long_over():
    story = (consuming(heartbeat_s=600.0) >> FromClient(A)).forget()
    story.troubled = True
    story = (story >> FromBroker(nack(1, 1))).forget() >> FromBroker(CLOSED)
    story.troubled = False
    story = (story >> After(0.2)).forget() >> FromBroker(OPENED, ack(1, 1))
    story = story >> After(70.0) << ToBroker(CLOSE_UPSTREAM)
    (story << Reported("channel_restarted", {"channel": 1, "reason": "replay not answered"})).done()


def test_a_replay_in_time_has_no_end():
    story = (consuming(heartbeat_s=600.0) >> FailOver()).forget() >> After(59.0) >> FromBroker(OPENED, consume_ok(1))
    (story >> After(60.0)).done()


def test_what_is_behind_a_transaction_waits_for_the_end_of_a_large_delivery_however_long_confirms_take():
    first, *rest = frames_of(deliver(1, 1, bytes(9000), piece_bytes=3000))
    story = (consuming(delivery_hold_bytes_max=4096) >> FromClient(A)).forget()
    story = story >> FromBroker(first, *rest[:3]) << ToClient(first, *rest[:3])
    story = story >> FromClient(on(1, m.TxSelect()), publish(1, b"in it"), bare(1, m.TX_COMMIT))
    for _ in range(4):
        story = story >> After(9.0) >> FromBroker(HEARTBEAT)
    story = story >> FromBroker(*rest[3:]) << ToBroker(CLOSE_UPSTREAM)
    story.forget()


def test_an_open_transaction_on_a_channel_that_is_opened_anew_is_over_when_the_broker_has_closed_it():
    story = (with_channel() >> FromClient(on(1, m.TxSelect()))).forget() >> FromBroker(on(1, m.TxSelectOk()))
    story = (story.forget() >> FromClient(A)).forget()
    story.session.restart(story.session.journal.channels[1], "for this story", open_upstream=True)
    story = story >> After(0.0) << ToBroker(CLOSE_UPSTREAM) >> FromBroker(CLOSED) >> After(0.1)
    text = b"INTERNAL_ERROR - broker connection lost, uncommitted transaction rolled back"
    (story << ToClient(on(1, m.ChannelClose(541, text, 0, 0)))).done()
