"""The connection as a whole: how it is lost, closed, kept alive and bounded."""

from __future__ import annotations

import pytest

from proxy.amqp import methods as m
from proxy.amqp.wire import parse_table, text_of
from proxy.session.commands import CloseClient, Dial, ReadClient
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
    Handshaken,
    Reported,
    Sees,
    ShutDown,
    Story,
    ToBroker,
    ToClient,
    confirming,
    consuming,
    running,
    with_channel,
)
from tests.support.engine_frames import (
    BROKER_START,
    BROKER_TUNE,
    HEARTBEAT,
    ack,
    bare,
    consume,
    declare,
    deliver,
    frames_of,
    get_ok,
    on,
    publish,
)

CLOSE, CLOSE_OK = on(0, m.ConnectionClose(200, b"bye")), on(0, m.ConnectionCloseOk())
OURS = on(0, m.ConnectionClose(200, b"client closed the connection"))


def forced(reason: bytes) -> bytes:
    return on(0, m.ConnectionClose(320, b"CONNECTION_FORCED - " + reason))


BLOCKED, UNBLOCKED = on(0, m.ConnectionBlocked(b"low on memory")), on(0, m.ConnectionUnblocked())


@pytest.mark.parametrize(
    "reason",
    [
        b"broker forced connection closure with reason 'shutdown'",
        b"Node was put into maintenance mode",
        b"vhost 'v' is down",
        b"Closed via management plugin",
    ],
)
def test_a_forced_close_is_answered_and_recovered_from(reason):
    story = with_channel() >> FromBroker(forced(reason)) << Reported("failover_started") << ToBroker(CLOSE_OK)
    (story << Dial(2, frozenset({"rabbit1:5672"}), True) >> Handshaken() << ToBroker(REOPENED)).done()


def test_a_broker_that_dies_of_an_internal_error_is_replaced():
    story = with_channel() >> FromBroker(on(0, m.ConnectionClose(541, b"INTERNAL_ERROR"))) << ToBroker(CLOSE_OK)
    (story << Dial(2, frozenset({"rabbit1:5672"}), True)).done()


# What RabbitMQ says of a quorum queue without a leader; and of a channel that died, as for a stream that can't be read.
@pytest.mark.parametrize("reason", [b"INTERNAL_ERROR - Cannot get a message from queue 'q': noproc", b"INTERNAL_ERROR"])
def test_internal_errors_are_asked_away_while_the_cluster_comes_to_rest(reason):
    refused, asked = on(0, m.ConnectionClose(541, reason)), on(1, m.BasicGet(0, b"q", no_ack=False))
    story = with_channel() >> FromClient(asked) << ToBroker(asked)
    for _ in range(3):
        story = (story >> FromBroker(refused)).forget() >> Handshaken() << ToBroker(REOPENED, asked)
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget()
    (story >> FromBroker(get_ok(1, 1)) << ToClient(get_ok(1, 1))).done()


def test_internal_errors_without_an_end_are_told():
    refused = on(0, m.ConnectionClose(541, b"INTERNAL_ERROR", 60, 70))
    story = with_channel(heartbeat_s=60.0)
    for _ in range(8):
        story = (story >> FromBroker(refused)).forget() >> Handshaken() << ToBroker(REOPENED)
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget() >> After(7.5)
    (story >> FromBroker(refused) << ToBroker(CLOSE_OK) << ToClient(refused)).done()


def test_internal_errors_every_now_and_then_are_told_in_the_end():
    refused = on(0, m.ConnectionClose(541, b"INTERNAL_ERROR", 60, 70))
    story = with_channel(heartbeat_s=60.0)
    for _ in range(10):
        story = (story >> FromBroker(refused)).forget() >> Handshaken() << ToBroker(REOPENED)
        story = (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget() >> After(50.0)
    (story >> FromBroker(refused) << ToBroker(CLOSE_OK) << ToClient(refused)).done()


def test_an_operator_who_insists_is_obeyed():
    story = (with_channel() >> FromBroker(forced(b"go"))).forget() >> Handshaken() << ToBroker(REOPENED)
    (story >> FromBroker(forced(b"go")) << ToBroker(CLOSE_OK) << ToClient(forced(b"go"))).done()


def test_an_operator_may_close_again_after_a_minute():
    story = (with_channel(heartbeat_s=60.0) >> FromBroker(forced(b"go"))).forget() >> Handshaken() << ToBroker(REOPENED)
    (
        story
        >> FromBroker(on(1, m.ChannelOpenOk()))
        >> After(60.0)
        >> FromBroker(forced(b"go"))
        << ToBroker(CLOSE_OK)
        << Dial(3, frozenset({"rabbit2:5672"}), True)
    ).done()


@pytest.mark.parametrize("reason", [b"vhost 'v' is deleted", b"user 'u' is deleted"])
def test_what_was_deleted_is_told(reason):
    story = with_channel() >> FromBroker(forced(reason))
    assert story.to_client == [forced(reason)]


def test_an_operators_close_passes_where_that_is_wanted():
    story = with_channel(forced_close="pass") >> FromBroker(forced(b"go"))
    assert story.to_client == [forced(b"go")]


def test_the_clients_own_fault_is_told_word_by_word():
    fault = on(0, m.ConnectionClose(530, b"NOT_ALLOWED - attempt to reuse consumer tag 'c'", 60, 20))
    story = with_channel() >> FromBroker(fault)
    assert story.to_client == [fault]


def test_attempts_are_paced_and_each_reason_is_told():
    story = (
        (with_channel() >> BrokerLost()).forget() >> DialFailed() << Reported("failover_attempt_failed", {"attempt": 1})
    )
    story = story >> After(0.1) << Dial(3, frozenset({"rabbit1:5672"}), True)
    story = story >> BrokerUp("rabbit2:5672")
    (story.forget() >> BrokerLost() >> After(1.0) << Dial(4, frozenset({"rabbit1:5672", "rabbit2:5672"}), True)).done()


def test_a_client_is_told_when_no_broker_is_left():
    story = (with_channel(failover_timeout_s=1.0) >> BrokerLost()).forget() >> DialFailed("no endpoint")
    while not story.to_client:
        story = story >> After(0.1)
        if story.commands:
            story = story.forget() >> DialFailed("no endpoint")
    text = b"CONNECTION_FORCED - no broker reachable for 1s (last: no endpoint)"
    (story << Reported("failover_given_up") << ToClient(on(0, m.ConnectionClose(320, text)))
     >> FromClient(CLOSE_OK) << CloseClient()).done()  # fmt: skip


def flapping(times: int, **policy: object) -> Story:
    """A broker takes the session and drops it at once, again and again."""
    story = with_channel(**policy)
    for _ in range(times):
        story = (story >> BrokerLost()).forget()
        story = (story >> After(2.0)).forget()
        if not story.session.attachment.searching:
            break
        story = (story >> Handshaken("rabbit1:5672")).forget()
    return story


def test_a_broker_that_drops_whom_it_takes_is_not_dialled_without_end():
    story = (flapping(4) >> BrokerLost()).forget()
    assert story.session.deadline() > story.now


def test_brokers_that_only_drop_whom_they_take_use_up_the_clients_patience():
    story = flapping(100, failover_timeout_s=20.0)
    assert story.session.ending.reason == "no_broker"


def test_a_client_that_is_not_read_is_still_written_to_so_that_its_death_shows():
    story = (confirming(parked_bytes_max=65536, beat_s=60, failover_timeout_s=100.0) >> BrokerLost()).forget()
    story = (story >> FromClient(publish(1, b"x" * 70000))).forget()
    (story >> After(2.5) << ToClient(HEARTBEAT)).forget()


def test_a_reason_is_reported_once_however_many_attempts_it_ends():
    story = (with_channel() >> BrokerLost()).forget()
    told = []
    for _ in range(20):
        story = story >> DialFailed("refused")
        told += [report.event for report in story.reports]
        story = (story.forget() >> After(2.0)).forget()
    assert told == ["failover_attempt_failed"]


def test_a_client_that_does_not_answer_our_close_is_hung_up_on():
    story = with_channel() >> ShutDown()
    story = story << ToClient(on(0, m.ConnectionClose(320, b"CONNECTION_FORCED - sidehop is shutting down")))
    (story.forget() >> After(5.0) << CloseClient()).done()


def test_a_client_that_closes_while_it_is_told_is_answered():
    (((with_channel() >> ShutDown()).forget()) >> FromClient(CLOSE) << ToClient(CLOSE_OK) << CloseClient()).done()


def test_refused_credentials_are_believed_when_a_second_broker_says_so():
    refused = on(0, m.ConnectionClose(403, b"ACCESS_REFUSED - Login was refused"))
    story = (with_channel() >> BrokerLost()).forget() >> BrokerUp("rabbit2:5672")
    story = (story.forget() >> FromBroker(BROKER_START, refused)).forget() >> After(0)
    story = (story.forget() >> BrokerUp("rabbit3:5672")).forget() >> FromBroker(BROKER_START, refused)
    assert story.to_client == [refused]


def test_a_connection_limit_is_waited_out():
    limit = on(0, m.ConnectionClose(530, b"NOT_ALLOWED - user connection limit (1) is reached"))
    story = (with_channel() >> BrokerLost()).forget()
    for _ in range(4):
        story = (story >> BrokerUp("rabbit2:5672")).forget() >> FromBroker(BROKER_START, BROKER_TUNE)
        story = (story.forget() >> FromBroker(limit)).forget() >> After(2.0)
        assert isinstance(story.commands[0], Dial)
        story.forget()


def test_closing_ends_at_the_broker_first():
    story = with_channel() >> FromClient(CLOSE) << ToBroker(OURS)
    story = story >> FromBroker(CLOSE_OK) << ToClient(CLOSE_OK) << CloseClient()
    story.forget().done()


def test_closing_does_not_wait_for_a_broker_that_hangs():
    story = (with_channel() >> FromClient(CLOSE)).forget() >> After(5.0) << ToClient(CLOSE_OK) << CloseClient()
    story.forget().done()


def test_closing_without_a_broker_ends_at_once_when_nothing_waits():
    story = (with_channel() >> BrokerLost()).forget() >> FromClient(CLOSE)
    (story << ToClient(CLOSE_OK) << CloseClient()).done()


def test_closing_without_a_broker_waits_for_what_was_accepted():
    story = (with_channel() >> FromClient(publish(1))).forget()
    story = (story >> BrokerLost()).forget() >> FromClient(CLOSE)
    story = story >> Handshaken() << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1))
    story = story >> FromBroker(on(1, m.ChannelOpenOk()), ack(1, 1)) << ToBroker(OURS)
    (story >> FromBroker(CLOSE_OK) << ToClient(CLOSE_OK) << CloseClient()).forget().done()


def test_closing_gives_up_on_confirms_after_a_while():
    story = (with_channel() >> FromClient(publish(1))).forget() >> FromClient(CLOSE)
    (story >> After(5.0) << ToBroker(OURS)).done()


def test_a_client_that_leaves_leaves_the_broker_politely():
    story = consuming() >> ClientGone() << ToBroker(OURS)
    (story >> FromBroker(CLOSE_OK) << CloseClient()).forget().done()


def test_a_client_that_leaves_without_a_broker_is_over():
    ((consuming() >> BrokerLost()).forget() >> ClientGone() << CloseClient()).done()


def test_an_alarm_is_told_to_those_who_understand():
    (running() >> FromBroker(BLOCKED) << ToClient(BLOCKED) >> FromBroker(UNBLOCKED) << ToClient(UNBLOCKED)).done()


def test_an_alarm_is_not_told_to_those_who_do_not():
    (running(capabilities=()) >> FromBroker(BLOCKED) >> FromBroker(UNBLOCKED)).done()


def test_an_alarm_ends_with_its_broker():
    ((running() >> FromBroker(BLOCKED)).forget() >> FailOver() << ToClient(UNBLOCKED)).done()


def test_a_new_secret_is_used_from_then_on():
    fresh = on(0, m.ConnectionUpdateSecret(b"fresh", b"expired"))
    answer = bare(0, m.CONNECTION_UPDATE_SECRET_OK)
    story = running() >> FromClient(fresh) << ToBroker(fresh) >> FromBroker(answer) << ToClient(answer)
    story = (story >> BrokerLost()).forget() >> BrokerUp()
    said = m.decode(m.ConnectionStartOk, story.to_broker[-1][7:-1])
    assert said.response == b"\0guest\0fresh"


def test_a_new_secret_that_was_not_answered_is_told_again():
    fresh = on(0, m.ConnectionUpdateSecret(b"fresh", b"expired"))
    story = running() >> FromClient(fresh) << ToBroker(fresh)
    (story >> FailOver() << ToBroker(fresh)).done()


def test_a_new_secret_renews_amqplain_too():
    from proxy.amqp.wire import pack_table, text_value
    from proxy.session.credentials import Credentials

    response = pack_table({b"LOGIN": text_value("ann"), b"PASSWORD": text_value("old")})
    credentials = Credentials.of(m.ConnectionStartOk(b"", b"AMQPLAIN", response, b"en_US")).with_secret(b"new")
    assert text_of(parse_table(credentials.response), b"PASSWORD") == "new"


def test_an_answer_to_no_new_secret_is_the_brokers_fault():
    running() >> FromBroker(bare(0, m.CONNECTION_UPDATE_SECRET_OK)) << Reported("failover_started")


def test_a_silent_broker_is_left_after_two_intervals():
    story = running(heartbeat_s=2.0) >> After(4.0)
    assert story.to_broker[:2] == [HEARTBEAT, HEARTBEAT]
    story = story << Reported("failover_started", {"reason": "missed heartbeats"})
    (story.forget()).done()


def test_a_silent_client_is_hung_up_on():
    story = running(beat_s=4, heartbeat_s=60.0) >> After(8.0)
    (story << ToBroker(OURS)).done()


def test_client_heartbeats_go_on_while_no_broker_is_there():
    story = (running(beat_s=10) >> BrokerLost()).forget() >> After(6.0)
    (story << ToClient(HEARTBEAT)).done()


def test_reading_stops_at_the_limit_of_parked_bytes_and_goes_on_after():
    story = (confirming(parked_bytes_max=65536) >> BrokerLost()).forget()
    story = story >> FromClient(publish(1, bytes(70000))) << ReadClient(False)
    story = story >> Handshaken() << ToBroker(REOPENED, HIDDEN_CONFIRMS, publish(1, bytes(70000)))
    (story << ReadClient(True)).done()


def test_a_client_that_is_not_read_is_not_silent():
    story = (confirming(parked_bytes_max=65536, beat_s=4, failover_timeout_s=100.0) >> BrokerLost()).forget()
    story = story >> FromClient(publish(1, bytes(70000))) << ReadClient(False)
    (story >> After(20.0)).forget() << Sees("the client is kept", lambda s: s.ending.reason == "")


def test_reading_stops_at_the_limit_of_unsettled_bytes_and_goes_on_after():
    big = publish(1, bytes(40000))
    story = confirming(unsettled_bytes_max=65536) >> FromClient(big, big) << ToBroker(big, big) << ReadClient(False)
    story = story >> FromBroker(ack(1, 1)) << ToClient(ack(1, 1))
    (story >> FromBroker(ack(1, 2)) << ToClient(ack(1, 2)) << ReadClient(True)).done()


def test_one_publish_larger_than_the_limit_may_end():
    whole = publish(1, bytes(100_000), piece_bytes=30_000)
    *head, last = frames_of(whole)
    story = confirming(unsettled_bytes_max=65536) >> FromClient(*head) << ToBroker(*head)
    (story >> FromClient(last) << ToBroker(last) << ReadClient(False)).done()


def test_events_of_a_broker_that_is_gone_change_nothing():
    story = (with_channel() >> FailOver()).forget()
    for event in (
        lambda s: s.from_broker(1, deliver(1, 1), story.now),
        lambda s: s.broker_lost(1, "late", story.now),
        lambda s: s.broker_up(1, "late", story.now),
        lambda s: s.dial_failed(1, "rabbit1:5672", "late", story.now),
    ):
        event(story.session)
    story._take()
    story.done()


def test_a_bug_ends_one_session_with_541():
    story = with_channel()
    story.session.fail(story.now)
    story._take()
    assert m.decode(m.ConnectionClose, story.to_client[0][7:-1]).reply_code == 541


def test_what_an_operator_may_know():
    story = (consuming() >> FromBroker(deliver(1, 1))).forget()
    facts = describe(story.done())
    assert (facts["user"], facts["vhost"], facts["state"], facts["consumers"]) == ("guest", "/", "attached", 1)
    assert (facts["outstanding_deliveries"], facts["movable"]) == (1, True)


def test_no_wait_is_silent():
    story = (with_channel() >> BrokerLost("reset by peer")).forget()
    assert describe(story.session)["state"] == "failing_over"
    assert describe(story.session)["waiting"] == "for a broker: reset by peer"
    story = (story >> Handshaken()).forget()
    assert "replay of channels [1]" in describe(story.session)["waiting"]
    story = (story >> FromBroker(on(1, m.ChannelOpenOk()))).forget() >> FromBroker(BLOCKED)
    assert "alarm" in describe(story.session)["waiting"]
    closing = with_channel() >> FromClient(publish(1), on(1, m.ChannelClose(200, b"")))
    assert "channels [1] end" in describe(closing.session)["waiting"]
    full = confirming(unsettled_bytes_max=65536) >> FromClient(publish(1, bytes(70000)))
    assert "not confirmed" in describe(full.session)["waiting"]


def test_what_a_move_would_show_is_named():
    story = (consuming(delivery_hold_bytes_max=4096) >> FromClient(declare(1))).forget()
    story = (
        story >> FromBroker(on(1, m.QueueDeclareOk(b"x", 0, 0)), deliver(1, 1, bytes(9000), piece_bytes=5000)[:-5])
    ).forget()
    reasons = " ".join(describe(story.session)["reasons"])
    assert "large delivery" in reasons
    assert "exclusive queue 'x'" in reasons


def test_an_open_transaction_is_named_to_the_operator():
    story = (with_channel() >> FromClient(on(1, m.TxSelect()))).forget() >> FromBroker(on(1, m.TxSelectOk()))
    story = (story.forget() >> FromClient(publish(1))).forget()
    assert describe(story.session)["reasons"] == ("channel 1 has an open transaction",)


def test_deliveries_to_a_client_that_left_are_dropped():
    story = (consuming() >> FromClient(publish(1))).forget() >> ClientGone()
    (story >> FromBroker(deliver(1, 1)) >> FromBroker(ack(1, 1)) << ToBroker(OURS)).done()


def test_a_consumer_of_a_second_failover_in_a_row_comes_back():
    story = (consuming() >> FailOver()).forget()
    (story >> FailOver("rabbit3:5672") << ToBroker(REOPENED, consume(1))).done()


def test_failovers_are_counted_for_the_operator():
    story = (with_channel() >> FailOver("rabbit2:5672")).forget() >> FailOver("rabbit3:5672")
    assert story.forget().session.attachment.failovers == 2


def test_a_broker_that_refuses_connections_is_not_tried_again_before_the_others():
    story = (with_channel() >> BrokerLost()).forget() >> DialFailed("refused", "rabbit2:5672")
    (story >> After(0.0) << Dial(3, frozenset({"rabbit1:5672", "rabbit2:5672"}), True)).done()
